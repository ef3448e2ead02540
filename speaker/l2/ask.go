// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// ask sends a question for an address, to all stations or to one.
func (p *port) ask(addr netip.Addr, to link.MAC, probe bool) error {
	var buf [maxSent]byte
	w := p.wires[FamilyOf(addr)]
	w.table.ask(addr, time.Now())
	frame := buf[:0]
	if addr.Is4() {
		asker := netip.IPv4Unspecified()
		if a, ok := askerIPv4(p.link, addr); ok && !probe {
			asker = a
		}
		if to == (link.MAC{}) {
			to = broadcast
		}
		frame = appendRequest(frame, to, p.mac, asker, addr)
	} else {
		asker := netip.IPv6Unspecified()
		if a, ok := askerIPv6(p.link); ok && !probe {
			asker = a
		}
		frame = appendSolicitation(frame, to, p.mac, asker, addr)
	}
	if err := w.conn.Send(frame); err != nil {
		return err
	}
	w.count.asks.Inc()
	return nil
}

// askerIPv4 returns the link's own address in the network of another, or else
// any of its own.
func askerIPv4(l link.Link, addr netip.Addr) (asker netip.Addr, ok bool) {
	for _, a := range l.Addrs {
		if !a.Is4() {
			continue
		}
		if !ok || slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) && p.Contains(a) }) {
			asker, ok = a, true
		}
	}
	return asker, ok
}

// askerIPv6 returns the link-local address of the link, which every neighbour
// can answer to, or else any of its own.
func askerIPv6(l link.Link) (asker netip.Addr, ok bool) {
	for _, a := range l.Addrs {
		if a.Is6() && (!ok || a.IsLinkLocalUnicast()) {
			asker, ok = a, true
		}
	}
	return asker, ok
}
