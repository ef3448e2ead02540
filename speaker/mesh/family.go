// SPDX-License-Identifier: Apache-2.0

package mesh

import "time"

const (
	// broadly is how long hellos go out by both families when one might not do.
	broadly = time.Second
	// broadEvery is how many hellos there are to one that goes out by both
	// families in any case: nodes that IPv4 doesn't reach find each other.
	broadEvery = 10
	// sought is how long a peer that isn't heard by IPv4 is looked for by IPv6.
	sought = 10 * time.Second
)

// broaden has hellos go out by both families, one at once if they didn't. The
// others keep their time: many nodes may broaden together.
func (m *Machine) broaden(now time.Time, i *iface) {
	if !now.Before(i.broad) {
		m.hurried = true
		m.at(now)
	}
	i.broad = now.Add(broadly)
}

// examineFamily broadens when a peer is not heard by IPv4 that was heard: it
// may be IPv4 alone that fails, and then the peer notices as little as this
// node tells it.
func (m *Machine) examineFamily(now time.Time, l *peerLink) {
	switch late := l.ipv4.Add(missed); {
	case l.last.IsZero() || now.Sub(l.last) >= sought:
	case now.Before(late):
		m.at(late)
	default:
		m.broaden(now, l.on)
	}
}

// sparing tells whether a hello by IPv4 alone is enough.
func (m *Machine) sparing(now time.Time, i *iface) bool {
	return m.rotation%broadEvery != 0 && !now.Before(i.broad)
}
