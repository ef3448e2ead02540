// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"time"
)

const (
	// suspectPause is the least time between suspicions of one address.
	suspectPause = 10 * time.Second
	// confirmTime is how long a confirmation may take.
	confirmTime = 5 * time.Second
)

// suspicion is that the owner of an address is heard but doesn't answer.
type suspicion struct {
	of claim // the claim that is suspected
	by *peer
	at time.Time
}

// Suspect tells that the owner of an address, though heard, was asked for it
// in vain. Once a third node confirms, this node claims it.
func (m *Machine) Suspect(now time.Time, addr netip.Addr) {
	m.wake(now)
	e := m.addrs[addr]
	if e == nil || !e.known || e.best.by == nil || e.best.by == m.self || !m.able() || !e.successor {
		return
	}
	if s := e.had().suspicion; s.by != nil && now.Sub(s.at) < suspectPause {
		return
	}
	e.note().suspicion = suspicion{of: e.best, by: m.self, at: now}
	m.sendSuspicion(kindSuspect, e)
}

// Confirm tells that nobody answers for an address of Output.Probe.
func (m *Machine) Confirm(now time.Time, addr netip.Addr) {
	m.wake(now)
	e := m.addrs[addr]
	if e == nil || !e.suspected(now) || e.had().suspicion.by == m.self {
		return
	}
	m.sendSuspicion(kindConfirm, e)
}

// suspected tells whether there is a suspicion of the present claim.
func (e *address) suspected(now time.Time) bool {
	s := e.had().suspicion
	return s.by != nil && s.of.by == e.best.by && s.of.term == e.best.term && now.Sub(s.at) < confirmTime
}

func (m *Machine) sendSuspicion(k kind, e *address) {
	s := e.had().suspicion
	b := m.codec.begin(k, m.cluster)
	b = appendWord(b, &word{addr: e.addr, term: s.of.term, rank: s.of.rank, node: []byte(s.of.by.name)})
	m.send(append(append(b, byte(len(s.by.name))), s.by.name...))
}

// takeSuspicion takes a peer's suspicion, or its confirmation of one.
func (m *Machine) takeSuspicion(now time.Time, from *peer, k kind, w *word, by []byte) {
	e := m.addrs[w.addr]
	if e == nil || !e.known || e.best.by == nil || e.best.by == m.self ||
		e.best.by.name != string(w.node) || e.best.term != w.term || e.best.by == from {
		return
	}
	switch {
	case k == kindSuspect && string(by) == from.name:
		if s := e.had().suspicion; s.by == from && now.Sub(s.at) < suspectPause {
			return
		}
		e.note().suspicion = suspicion{of: e.best, by: from, at: now}
		if len(e.on) > 0 {
			m.out.Probe = append(m.out.Probe, e.addr)
		}
	case k == kindConfirm && string(by) == m.config.Node && e.suspected(now) && e.had().suspicion.by == m.self:
		if m.able() && e.successor && len(e.on) > 0 {
			m.claim(now, e, 0)
		}
	}
}
