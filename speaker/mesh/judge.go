// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// youth is how long after its own start a speaker judges nobody.
	youth = 3 * time.Second
	// coldStart is how long somebody must have listened before an owner that
	// nobody has heard yet is given up.
	coldStart = time.Minute
	// standIn is how long others answer in the place of a node whose kernel
	// answers but whose speaker doesn't work.
	standIn = 10 * time.Second
	// linger is how long they go on when the speaker is back: it has its
	// claims to compare first.
	linger = settle
	// oustedGrace is the time for others to find that they are ousted too, or
	// for the last one of them that it isn't any more.
	oustedGrace = 3 * time.Second

	// askRetry is the pause after an ask while there is no reply, askPause
	// that after one with a reply, or once there were many without.
	askRetry = 30 * time.Millisecond
	askPause = 100 * time.Millisecond
	// askSeldomly is the pause once nobody has replied for askLong.
	askSeldomly = time.Second
	askLong     = 3 * time.Second
	// unanswered is how long asks may go without a reply.
	unanswered = 300 * time.Millisecond
	// replyTime is what a reply may take.
	replyTime = missed
)

// finding is what a node believes of another one on one interface.
type finding uint8

const (
	// unknown: it may not judge. Nothing happens.
	unknown finding = iota
	// alive: its speaker works.
	alive
	// absent: its kernel works, but not its speaker.
	absent
	// yielding: it wants others to take over.
	yielding
	// dead: it is silent, and so is its kernel.
	dead
)

type verdict struct {
	finding finding
	since   time.Time
	// standIn is when standing in for it began; kept until it is alive.
	standIn time.Time
	// back is when its speaker worked again.
	back time.Time
}

// claimable tells since when others may claim what the node has; zero if they
// may not.
func (v *verdict) claimable() time.Time {
	switch v.finding {
	case yielding, dead:
		return v.since
	case absent:
		if v.back.IsZero() {
			return v.standIn.Add(standIn)
		}
	}
	return time.Time{}
}

// asking is the state of asks for a node's own address.
type asking struct {
	from     time.Time // the first one of this silence
	last     time.Time
	answered time.Time
	n        int
}

// effective is a state, but that of an ousted node that is not the only one is
// synced: being told no by an API server that tells everybody no changes
// nothing.
func (m *Machine) effective(s State) State {
	if s == LeavingOusted && m.ousted > 1 {
		return Synced
	}
	return s
}

// able tells whether this node may take over addresses.
func (m *Machine) able() bool { return m.effective(m.state()) == Synced }

// judge finds out how all peers are.
func (m *Machine) judge(now time.Time) {
	m.ousted = 0
	if m.state() == LeavingOusted {
		m.ousted++
	}
	uptime := now.Sub(m.started)
	for _, p := range m.order {
		heard := false
		for _, l := range p.links {
			heard = heard || l.hears(now)
		}
		if heard {
			uptime = max(uptime, p.uptime)
			if p.state == LeavingOusted {
				m.ousted++
			}
		}
	}
	if m.ousted > 1 {
		m.together = now
	}
	changed := false
	for _, p := range m.order {
		for _, l := range p.links {
			living := now.Sub(l.heard()) < detection && m.effective(l.state()) == Synced
			hears := l.hears(now)
			changed = changed || living != l.living || hears != l.heardNow
			l.living, l.heardNow = living, hears
			was := l.verdict.finding
			m.examine(now, l, uptime)
			m.examineFamily(now, l)
			if l.verdict.finding != was {
				p.review = now
			}
		}
	}
	if changed {
		m.reviewFailing(now)
	}
}

// examine finds out how a peer is on an interface.
func (m *Machine) examine(now time.Time, l *peerLink, uptime time.Duration) {
	heard := l.heard()
	silence := now.Sub(heard)
	v := &l.verdict
	f := alive
	switch {
	case silence < detection:
		m.at(heard.Add(detection))
		switch m.effective(l.state()) {
		case Unsynced, LeavingRestart:
			f = absent
		case LeavingDrain:
			f = yielding
		case LeavingOusted:
			if since := latest(l.peer.stateSince, m.together).Add(oustedGrace); now.Before(since) {
				m.at(since)
			} else {
				f = yielding
			}
		default:
			f = m.examineLonely(now, l)
		}
		if silence >= missed {
			m.ask(now, l)
		} else {
			m.at(heard.Add(missed))
			if l.lonely.IsZero() {
				l.ask = asking{}
			}
		}
	default:
		f = m.examineKernel(now, l, uptime)
	}

	switch {
	case f == alive && v.finding == absent:
		// It is back, but answers for nothing before it has settled.
		if v.back.IsZero() || l.silent {
			v.back = now
		}
		if end := v.back.Add(linger); now.Before(end) {
			m.at(end)
			return
		}
	case f == absent && v.standIn.IsZero():
		v.standIn = now
	}
	v.back = time.Time{}
	if f == alive || f == yielding {
		v.standIn = time.Time{}
	}
	if f != v.finding {
		v.finding, v.since = f, now
	}
}

// examineKernel finds out whether the kernel of a silent peer answers, and
// whether the silence of both means anything.
func (m *Machine) examineKernel(now time.Time, l *peerLink, uptime time.Duration) finding {
	a := &l.ask
	asked := m.ask(now, l)
	if grown := m.started.Add(youth); now.Before(grown) {
		m.at(grown)
		return unknown
	}
	if !a.answered.IsZero() && now.Sub(a.answered) < unanswered {
		m.at(a.answered.Add(unanswered))
		return absent
	}
	if !m.audible(now, l) {
		l.deaf = true
		return unknown
	}
	if l.deaf {
		// What wasn't answered was perhaps not heard: begin anew.
		l.deaf = false
		*a = asking{}
		asked = m.ask(now, l)
	}
	switch known := a.from.Add(replyTime); {
	case l.heard().IsZero() && uptime < coldStart:
		return unknown
	case !asked:
		return dead
	case a.n == 0:
		return unknown // of no interest
	case a.n == 1 || now.Before(known):
		m.at(latest(known, now.Add(time.Millisecond)))
		return unknown
	default:
		return dead
	}
}

// examineLonely looks at a peer that is heard but hears nobody: deaf, it can't
// answer for addresses. Its kernel will tell.
func (m *Machine) examineLonely(now time.Time, l *peerLink) finding {
	if l.lonely.IsZero() || !l.hears(now) || now.Sub(l.on.since) < youth {
		return alive
	}
	deaf := l.lonely.Add(detection)
	if now.Before(l.lonely.Add(missed)) {
		m.at(l.lonely.Add(missed))
		return alive
	}
	if !m.ask(now, l) {
		return alive
	}
	if sure := latest(deaf, l.ask.from.Add(unanswered)); l.ask.n == 0 || now.Before(sure) {
		m.at(latest(sure, now.Add(time.Millisecond)))
		return alive
	}
	if now.Sub(l.ask.answered) < unanswered {
		return alive
	}
	return dead
}

// ask asks the wire for a node, if this node has a use for the answer and it
// is time. It tells whether answers can be expected.
func (m *Machine) ask(now time.Time, l *peerLink) bool {
	if !l.on.Up || !m.able() || !m.interested(l) {
		l.ask = asking{} // what was asked long ago is no basis later
		return true
	}
	to := Ask{Interface: l.on.Index, Addr: l.wireAddr(), MAC: l.mac}
	if !to.Addr.IsValid() {
		return false
	}
	a := &l.ask
	if a.n == 0 {
		a.from = now
	}
	pause := askRetry
	switch since := now.Sub(a.from); {
	case a.answered.After(a.last):
		pause = askPause
	case l.verdict.finding == absent || since <= unanswered:
	case since <= askLong:
		pause = askPause
	default:
		pause = askSeldomly
	}
	if a.n > 0 && now.Sub(a.last) < pause {
		m.at(a.last.Add(pause))
		return true
	}
	a.n++
	a.last = now
	m.out.Asks = append(m.out.Asks, to)
	m.at(now.Add(pause))
	return true
}

// wireAddr is the address by which the wire can be asked for a node.
func (l *peerLink) wireAddr() netip.Addr {
	if l.ip4.IsValid() {
		return l.ip4
	}
	if l.ip6.IsValid() {
		return l.ip6
	}
	for _, e := range l.peer.endpoints {
		if e.Interface == l.on.Index {
			return e.Addr
		}
	}
	return netip.Addr{}
}

// interested tells whether this node may have to take over something of a peer
// on an interface.
func (m *Machine) interested(l *peerLink) bool {
	for _, e := range l.peer.claims {
		if !e.successor {
			continue
		}
		for _, on := range e.on {
			if on == l.on {
				return true
			}
		}
	}
	return false
}

// Answered tells of a reply to an ask, by who answered.
func (m *Machine) Answered(now time.Time, index int, addr netip.Addr, mac link.MAC) {
	m.wake(now)
	i := m.byIndex[index]
	if i == nil {
		return
	}
	i.received(now)
	for _, p := range m.order {
		l := p.link(i)
		if l == nil || l.ask.n == 0 || l.wireAddr() != addr {
			continue
		}
		if l.mac == (link.MAC{}) {
			l.mac = mac
		}
		// Another MAC is another host, or one that pretends.
		if l.mac == mac {
			l.ask.answered = now
			m.at(now)
		}
	}
}
