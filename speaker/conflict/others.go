// SPDX-License-Identifier: Apache-2.0

package conflict

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// maxOthers bounds how many stations are remembered, whatever a flood of frames
	// makes up.
	maxOthers = 64
	// rememberFor is how long a MAC that is seen no more is remembered, and
	// rememberProxyFor one that is known for a proxy: new addresses may be rare.
	rememberFor, rememberProxyFor = 10 * time.Minute, 24 * time.Hour
)

// others are the hosts outside the cluster that have answered for addresses.
type others map[station]*other

// station is a host in one family: with an address of each it is no proxy.
type station struct {
	mac link.MAC
	v4  bool
}

func stationOf(mac link.MAC, addr netip.Addr) station { return station{mac, addr.Is4()} }

type other struct {
	// addr is the first that it answered for.
	addr  netip.Addr
	proxy bool
	// gone says that addr was removed with a conflict on record.
	gone bool
	seen time.Time
}

// isProxy takes an answer, and reports whether it is from a proxy: a MAC that
// has answered for another address of the family, too. What it made of the first one before
// that was known is over.
func (m *Machine) isProxy(now time.Time, seen Sighting) bool {
	key := stationOf(seen.MAC, seen.Addr)
	o := m.others[key]
	if o == nil || o.forgotten(now) {
		if o == nil {
			m.others.makeRoom()
		}
		m.others[key] = &other{addr: seen.Addr, seen: now}
		return false
	}
	o.seen = now
	if !o.proxy && o.addr != seen.Addr {
		o.proxy = true
		if m.proxies.Take(now) {
			m.out.Proxies = append(m.out.Proxies, Proxy{Interface: seen.Interface, MAC: seen.MAC, Addrs: [2]netip.Addr{o.addr, seen.Addr}})
		}
		m.acquit(now, seen.MAC, o)
	}
	return o.proxy
}

func (o *other) forgotten(now time.Time) bool {
	if o.proxy {
		return now.Sub(o.seen) > rememberProxyFor
	}
	return now.Sub(o.seen) > rememberFor
}

// acquit ends the conflict that the first answer of a host made.
func (m *Machine) acquit(now time.Time, mac link.MAC, o *other) {
	s := m.addrs[o.addr]
	switch {
	case s != nil && s.conflict != nil && s.conflict.MAC == mac:
		m.end(now, s)
	case s == nil && o.gone:
		// It may have been given up for this.
		m.out.Reports = append(m.out.Reports, Report{Addr: o.addr})
	}
}

// makeRoom forgets a MAC if there are too many: rather one that is no proxy,
// and of them the one not seen for longest.
func (o others) makeRoom() {
	if len(o) < maxOthers {
		return
	}
	var oldest station
	var last *other
	for key, one := range o {
		if last == nil || last.proxy && !one.proxy || last.proxy == one.proxy && one.seen.Before(last.seen) {
			oldest, last = key, one
		}
	}
	delete(o, oldest)
}
