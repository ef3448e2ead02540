// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Tick does what is due.
func (m *Machine) Tick(now time.Time) {
	m.wake(now)
	m.ticked = now
	m.next = now.Add(interval)
	m.judge(now)
	m.listen(now)
	m.refreshSome(now)
	m.review(now)
	m.speak(now)
	if now.Sub(m.forgotten) > time.Minute {
		m.forgotten = now
		m.forgetPeers(now)
	}
}

// at has Tick called at a time, if it isn't before.
func (m *Machine) at(t time.Time) {
	if t.Before(m.next) {
		m.next = t
	}
}

// Next is when Tick is to be called.
func (m *Machine) Next() time.Time { return m.next }

// refreshSome asks the policy about addresses for which it may have changed.
func (m *Machine) refreshSome(now time.Time) {
	n := min(len(m.dirty), refreshes)
	some := m.dirty[:n]
	m.dirty = m.dirty[n:]
	for _, e := range some {
		e.dirty = false
		if e.known {
			m.refresh(e)
			m.decide(now, e)
		}
	}
	if len(m.dirty) > 0 {
		m.at(now.Add(time.Millisecond))
	}
}

// Output returns what is to be done, once. Of many addresses it returns some,
// says that there are more, and has Tick called at once.
func (m *Machine) Output() Output {
	slices.SortStableFunc(m.changed, compareAddress) // one may be gone and back
	n := min(len(m.changed), outputs)
	for _, e := range m.changed[:n] {
		e.changed = false
		m.putOut(e)
	}
	if m.changed = m.changed[n:]; len(m.changed) == 0 {
		m.changed = nil // it may have been all
	}
	out := m.out
	m.out = Output{}
	if len(out.Record) > outputs {
		out.Record, m.out.Record = out.Record[:outputs], out.Record[outputs:]
	}
	if out.More = len(m.changed)+len(m.out.Record) > 0; out.More {
		m.at(m.ticked)
	}
	for _, e := range m.announce {
		e.announcing = false
		out.Announce = append(out.Announce, e.addr)
	}
	for _, i := range m.ifaces {
		if i.silent {
			out.Silent = append(out.Silent, i.Name)
		}
	}
	m.announce = nil
	return out
}

// putOut tells how an address is answered, if that changed.
func (m *Machine) putOut(e *address) {
	var on []string
	var as map[string]link.MAC
	answer := Answer{Addr: e.addr}
	switch {
	case !e.known:
	case e.best.by == m.self && m.synced:
		on = e.carriers()
	case e.standing:
		as = make(map[string]link.MAC, len(e.on))
		for _, i := range e.on {
			if l := e.holder.link(i); l != nil && l.verdict.finding == absent && l.mac != (link.MAC{}) {
				as[i.Name] = l.mac
			}
		}
		answer.For = e.holder.name
	}
	if slices.Equal(on, e.given) && maps.Equal(as, e.givenAs) {
		return
	}
	e.given, e.givenAs = on, as
	answer.Interfaces, answer.As = on, as
	m.out.Answers = append(m.out.Answers, answer)
}

// carriers are the names of the interfaces that carry the address now.
func (e *address) carriers() []string {
	if len(e.on) == len(e.names) {
		return e.names
	}
	var on []string
	for _, i := range e.on {
		on = append(on, i.Name)
	}
	return on
}

// Claim is the best claim known for an address; false without one.
func (m *Machine) Claim(addr netip.Addr) (Claim, bool) {
	e := m.addrs[addr]
	if e == nil || e.best.by == nil && e.held.by == nil {
		return Claim{}, false
	}
	if e.held.by != nil {
		return e.held.export(), true
	}
	return e.best.export(), true
}

// Remaining is the number of addresses that this node claims: a leaver goes
// when it is 0.
func (m *Machine) Remaining() int { return int(m.self.count) }

// Drops are the frames that were not taken so far.
func (m *Machine) Drops() Drops { return m.drops }

// Stalls is how often the process was found to have been stopped.
func (m *Machine) Stalls() uint64 { return m.stalls }

// Peers returns what is known of each peer on each interface, by name.
func (m *Machine) Peers(now time.Time) []PeerStatus {
	var out []PeerStatus
	for _, p := range m.order {
		for _, l := range p.links {
			out = append(out, PeerStatus{
				Node: p.name, Interface: l.on.Index, State: l.state(),
				Heard:         l.hears(now),
				HeardByOthers: !l.via.IsZero() && now.Sub(l.via) < detection,
				Last:          l.last,
				Claims:        int(p.count),
			})
		}
	}
	return out
}
