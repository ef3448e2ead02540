// SPDX-License-Identifier: Apache-2.0

package mesh

import "time"

const (
	// stallAfter is the pause between ticks after which the process was
	// stopped, or the machine too busy to know what goes on.
	stallAfter = 150 * time.Millisecond
	// settle is how long addresses are not answered at most while the claims
	// of peers are not known.
	settle = 300 * time.Millisecond
	// introduce is how long peers have to be heard first after a start.
	introduce = 150 * time.Millisecond
	// settlePause is how long after a heal another one makes nobody silent.
	settlePause = time.Second
	// evident is how long a frame that proves that the node is not deaf must
	// be ago: hellos would have come as well.
	evident = 100 * time.Millisecond
	// stale is the age at which a frame is not believed any more.
	stale = 300 * time.Millisecond
)

// iface is an interface of the own node.
type iface struct {
	Segment
	// since is when listening began, or began anew: start, link-up, stall.
	since time.Time
	// lastHello is when the newest hello of any peer came.
	lastHello time.Time
	// company is since when somebody was heard all the time.
	company time.Time
	// lastFrame is when the newest frame of any kind came.
	lastFrame time.Time

	// broad is until when hellos go out by both families.
	broad time.Time

	silent      bool
	healing     bool // silent because a peer was not heard for some time
	silentSince time.Time
	introduced  time.Time // silent at least until then
}

// received notes that a frame came in.
func (i *iface) received(at time.Time) { i.lastFrame = latest(i.lastFrame, at) }

// audible tells whether the silence of a peer means that the peer is silent:
// others are heard now, or, if nobody is, some frame came in when hellos
// should have.
func (m *Machine) audible(now time.Time, l *peerLink) bool {
	i := l.on
	if i.lastHello.After(i.since) && now.Sub(i.lastHello) < missed {
		return true
	}
	quiet := latest(i.since, i.lastHello, l.heard(), l.ask.answered).Add(missed)
	if i.lastFrame.After(quiet) && !l.proof.After(quiet) {
		l.proof = i.lastFrame
	}
	if !l.proof.After(quiet) {
		return false
	}
	if due := l.proof.Add(evident); now.Before(due) {
		m.at(due)
		return false
	}
	return true
}

// restart begins listening anew on an interface.
func (m *Machine) restart(now time.Time, i *iface) {
	i.since = now
	m.silence(now, i, introduce)
}

// silence has own addresses not answered on an interface until the claims of
// peers are known.
func (m *Machine) silence(now time.Time, i *iface, introduction time.Duration) {
	i.silent = true
	i.silentSince = now
	i.introduced = now.Add(introduction)
	m.at(now)
}

// healed is told when a peer is heard that wasn't before.
func (m *Machine) healed(now time.Time, p *peer, l *peerLink) {
	p.askPause = 0
	if p.answers() && p.told != p.digest && !l.on.silent && now.Sub(l.on.silentSince) > settlePause {
		m.silence(now, l.on, 0)
		l.on.healing = true
	}
	m.at(now)
}

// listen ends silences.
func (m *Machine) listen(now time.Time) {
	for _, i := range m.ifaces {
		if !i.silent {
			continue
		}
		end := i.silentSince.Add(settle)
		if now.Before(end) && !m.settled(now, i) {
			m.at(end)
			if now.Before(i.introduced) {
				m.at(i.introduced)
			}
			continue
		}
		i.silent = false
		m.helloDue = now // others may stand in for this node until they hear it
		if i.healing {
			i.healing = false
			m.out.Refresh = append(m.out.Refresh, i.Name)
		}
		m.reviewAll(now)
	}
}

// settled tells whether the claims of all peers that are heard on an interface
// are known, and somebody is heard.
func (m *Machine) settled(now time.Time, i *iface) bool {
	if now.Before(i.introduced) {
		return false
	}
	any := i.introduced.Equal(i.silentSince)
	for _, p := range m.order {
		l := p.link(i)
		if l == nil || !l.hears(now) || l.last.Before(i.since) {
			continue
		}
		if p.answers() && p.told != p.digest {
			return false
		}
		any = true
	}
	return any
}

// wake notices a stall. Every method that is told the time begins with it.
func (m *Machine) wake(now time.Time) {
	if now.Sub(m.ticked) <= stallAfter {
		return
	}
	for _, p := range m.order {
		for _, l := range p.links {
			// Who was heard when it began is given its time again. Nobody is
			// told of it: heard-sets name only whom the hellos came from.
			if m.ticked.Sub(l.heard()) < detection {
				l.grace = now
			}
			l.ask = asking{}
		}
	}
	for _, i := range m.ifaces {
		m.restart(now, i)
	}
	m.stalls++
	m.ticked = now
}
