// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"slices"
	"time"
)

const (
	// rankPause is what each rank leaves to those before it.
	rankPause = 200 * time.Millisecond
	// proposalTime is how long a new address is left to the node that it was
	// proposed to.
	proposalTime = time.Second
	// standIns is how many stand in for one at most.
	standIns = 3
	// holdTime is how long a claim waits to be on record while there is
	// nobody else to ask.
	holdTime = 400 * time.Millisecond
	// yieldTime is how long an address is left to a claimant that nobody here
	// hears, but of whose claim somebody tells; it doubles up to yieldMax.
	yieldTime = time.Second
	yieldMax  = 10 * time.Second
	// dampTime is how long an address is left to a node that was faster to
	// record its claim; it doubles up to dampMax.
	dampTime = 10 * time.Second
	dampMax  = 5 * time.Minute
	// planTime is the least time between two claims of this node for an address
	// whose owner works; it doubles up to planMax. Who proposes moves sees to it
	// that they are few, but for those that a person wants at once. This is for
	// nodes that see different proposals.
	planTime = time.Second
	planMax  = 10 * time.Second
)

// damping limits how often an address moves though nobody failed.
type damping struct {
	from  time.Time
	next  time.Time
	pause time.Duration
}

// extend forbids another claim for a time that is longer each time.
func (d *damping) extend(now time.Time, first, most time.Duration) {
	if now.Sub(d.next) > most {
		d.pause = 0
	}
	d.pause = min(max(2*d.pause, first), most)
	d.from, d.next = now, now.Add(d.pause)
}

// refresh asks the policy about an address.
func (m *Machine) refresh(e *address) {
	e.successor, e.before = false, e.before[:0]
	for _, name := range m.policy.Successors(e.addr) {
		if name == m.config.Node {
			e.successor = true
			break
		}
		e.before = append(e.before, m.node(name))
	}
	claimant := ""
	if e.best.by != nil {
		claimant = e.best.by.name
	}
	e.mine = m.policy.Owner(e.addr, claimant) == m.config.Node
	if e.holder == m.nobody || e.holder == m.self {
		return
	}
	for _, i := range e.on {
		// An owner that was never heard is judged as well.
		e.holder.makeLink(i)
	}
}

// place is how many living successors are better than this node.
func (e *address) place() int {
	n := 0
	for _, p := range e.before {
		if p != e.holder && p.living(e.on) {
			n++
		}
	}
	return n
}

// living tells whether a peer could take over addresses on the interfaces.
func (p *peer) living(on []*iface) bool {
	for _, l := range p.links {
		for _, i := range on {
			if l.on == i && l.living {
				return true
			}
		}
	}
	return false
}

// decide does what is due for an address.
func (m *Machine) decide(now time.Time, e *address) {
	standing := false
	m.heed(now, e)
	switch {
	case !e.known:
	case e.holder == m.self && e.best.by == m.self:
		m.outlive(now, e)
	case !m.able():
		e.held = claim{}
	case len(e.on) == 0:
		e.held = claim{}
		if e.mine && e.best.by == nil && e.floor < maxTerm {
			// The first owner has nowhere to answer: others shall know.
			m.setBest(now, e, claim{by: m.self, term: e.floor + 1, rank: 1, mute: true})
		}
	case e.mine && m.decidePlanned(now, e):
	case e.holder != m.nobody && e.holder != m.self && e.successor:
		standing = m.decideRescue(now, e)
	default:
		e.held = claim{}
	}
	if e.best.by == m.self {
		standing = false
	}
	if standing || e.standing {
		e.standing = standing
		m.change(e)
	}
}

// decidePlanned claims an address that this node should own though nobody
// failed, and tells whether it did.
func (m *Machine) decidePlanned(now time.Time, e *address) bool {
	if next := e.had().planned.next; now.Before(next) {
		m.later(e, next)
		return false
	}
	if slices.ContainsFunc(e.on, func(i *iface) bool { return i.silent }) {
		return false // decided on again when that ends
	}
	if e.best.by != nil {
		e.note().planned.extend(now, planTime, planMax)
	}
	m.claim(now, e, 0)
	return true
}

// decideRescue claims or stands in for an address whose holder doesn't work,
// and tells whether to stand in.
func (m *Machine) decideRescue(now time.Time, e *address) (standing bool) {
	since, absentSince := m.findings(now, e)
	place := e.place()
	standing = !absentSince.IsZero()
	if standing && !e.standing {
		// Better ones do, but some of them may have no interface for it: the
		// next ones follow. All of them answer alike.
		due := absentSince.Add(time.Duration(place) * rankPause)
		standing = place < standIns && !now.Before(due)
		if place < standIns && now.Before(due) {
			m.later(e, due)
		}
	}
	if since.IsZero() {
		e.held = claim{}
		return standing
	}
	due := since.Add(time.Duration(place) * rankPause)
	if now.Before(due) {
		m.later(e, due)
		return standing
	}
	for _, i := range e.on {
		if i.silent {
			m.later(e, i.silentSince.Add(settle))
			return standing
		}
	}
	if !e.holder.present(now, e) {
		alone := m.alone(now, e)
		if alone && !absentSince.IsZero() {
			// It may be the mesh that doesn't work, and standing in serves as
			// long as that kernel lives.
			return standing
		}
		alone = alone && m.reachable
		if until := e.patience(alone); now.Before(until) {
			m.later(e, until)
			return standing
		}
		if alone {
			return m.holdClaim(now, e, place) && standing
		}
	}
	m.claim(now, e, place)
	return false
}

// patience is until when the address is left to a holder that is not heard:
// it claimed while it wasn't, and may live.
func (e *address) patience(alone bool) (until time.Time) {
	heard, had := e.holder.heardFor(e), e.had()
	if had.yielded.from.After(heard) {
		until = had.yielded.next
	}
	if alone && had.left.from.After(heard) {
		until = latest(until, had.left.next)
	}
	return until
}

// findings combines what is found of the holder on all interfaces that carry
// the address: it is dead where it is dead on all, and counts as alive where
// it is alive on any. It returns since when the address may be claimed, and
// since when the holder is absent; zero if not.
func (m *Machine) findings(now time.Time, e *address) (claimable, absentSince time.Time) {
	if e.best.mute {
		return e.muteFrom, time.Time{}
	}
	if e.best.by == nil {
		return m.findingsProposed(now, e)
	}
	return m.findingsHeld(e)
}

// findingsProposed is findings for an address that nobody has claimed yet. The
// proposed node may work without knowing of it.
func (m *Machine) findingsProposed(now time.Time, e *address) (claimable, absentSince time.Time) {
	claimable, absentSince = m.findingsHeld(e)
	if late := e.proposedAt.Add(proposalTime); claimable.IsZero() && e.holder.present(now, e) {
		if now.Before(late) {
			m.later(e, late)
		} else {
			claimable = late
		}
	}
	return claimable, absentSince
}

func (m *Machine) findingsHeld(e *address) (claimable, absentSince time.Time) {
	all := true
	for _, i := range e.on {
		l := e.holder.link(i)
		if l == nil {
			return time.Time{}, time.Time{}
		}
		v := &l.verdict
		if v.finding == alive || v.finding == unknown {
			return time.Time{}, time.Time{}
		}
		if v.finding == absent {
			absentSince = latest(absentSince, v.since)
		}
		t := v.claimable()
		if v.finding == absent && !t.IsZero() {
			// Those that are heard again come one after the other.
			t = latest(t, i.company.Add(standIn))
		}
		all = all && !t.IsZero()
		claimable = latest(claimable, t)
	}
	if !all {
		claimable = time.Time{}
	}
	return claimable, absentSince
}

// alone tells whether there is no third node that could know whether the
// holder lives.
func (m *Machine) alone(now time.Time, e *address) bool {
	if len(e.on) == 0 {
		return false
	}
	for _, p := range m.order {
		if p == e.holder {
			continue
		}
		for _, i := range e.on {
			if l := p.link(i); l != nil && l.hears(now) {
				return false
			}
		}
	}
	return true
}

// holdClaim keeps a claim until it is on record: of two nodes that can't hear
// each other the API server chooses one. It tells whether it is kept.
func (m *Machine) holdClaim(now time.Time, e *address, place int) bool {
	if e.held.by == nil {
		e.held = m.nextClaim(e, place)
		e.heldSince = now
		m.out.Record = append(m.out.Record, Record{Addr: e.addr, Claim: e.held.export(), Held: true})
	}
	if end := e.heldSince.Add(holdTime); now.Before(end) {
		m.later(e, end)
		return true
	}
	m.claim(now, e, place)
	return false
}

func (m *Machine) nextClaim(e *address, place int) claim {
	return claim{by: m.self, term: max(e.best.term, e.recorded.term, e.floor) + 1, rank: uint8(1 + min(place, 254))}
}

// claim takes an address over.
func (m *Machine) claim(now time.Time, e *address, place int) {
	c := m.nextClaim(e, place)
	if c.term > maxTerm {
		return
	}
	e.standing = false
	m.setBest(now, e, c)
	m.record(e)
}

// record has an own claim recorded.
func (m *Machine) record(e *address) {
	if !e.best.mute && (e.recorded.by != m.self || e.recorded.term < e.best.term) {
		m.out.Record = append(m.out.Record, Record{Addr: e.addr, Claim: e.best.export()})
	}
}

// heed makes the claim on record the best one if it is higher, unless it is of
// a node that nobody here hears, while the present holder works: then the
// network is parted, each part has its owner, and when it heals the higher
// claim will be heard. Only who hears nobody at all leaves it to the record.
func (m *Machine) heed(now time.Time, e *address) {
	c := e.recorded
	if !c.beats(e.best) {
		return
	}
	if m.elsewhere(now, e, c.by) {
		if !m.alone(now, e) || e.spoken(now) {
			return
		}
		// It lives, and this node can't hear it.
		e.note().left.extend(now, dampTime, dampMax)
		if e.best.by == m.self {
			// Who hears this node, but not that claim, shall not wait for it.
			m.release(e.addr, e.best.term)
		}
	}
	if c.by == m.self {
		c.mute = m.synced && len(e.on) == 0
	} else if c.by == e.best.by && c.term == e.best.term {
		c.mute = e.best.mute
	}
	m.setBest(now, e, c)
}

// outlive claims an own address anew that has been on record as that of a node
// that nobody here hears, for so long that it may not live: the record is to
// say who answers. If it does live, in another part, nothing changes in either.
func (m *Machine) outlive(now time.Time, e *address) {
	if !e.recorded.beats(e.best) || e.recorded.by == m.self || !m.able() || !m.reachable {
		return
	}
	due := latest(e.recordedAt, e.recorded.by.heardFor(e)).Add(coldStart)
	if due = latest(due, e.had().planned.next); now.Before(due) {
		m.later(e, due)
		return
	}
	e.note().planned.extend(now, coldStart, dampMax)
	m.claim(now, e, 0)
}

// elsewhere tells whether a claimant is not heard where the address is
// answered, while the present holder is. One that has just claimed it counts as
// heard, though its next hello is yet to come.
func (m *Machine) elsewhere(now time.Time, e *address, claimant *peer) bool {
	holder := e.best.by
	return holder != nil && holder != claimant && claimant != m.self && !claimant.present(now, e) &&
		(holder == m.self || holder.present(now, e) || e.spoken(now))
}

// spoken tells whether the holder has just claimed the address by its own word.
func (e *address) spoken(now time.Time) bool { return now.Sub(e.bestFrom) < detection }

// heardFor is when a node was last heard where an address is answered.
func (p *peer) heardFor(e *address) (t time.Time) {
	for _, l := range p.links {
		if len(e.on) == 0 || slices.Contains(e.on, l.on) {
			t = latest(t, l.heard())
		}
	}
	return t
}

// present tells whether a node is heard where an address is answered.
func (p *peer) present(now time.Time, e *address) bool {
	return now.Sub(p.heardFor(e)) < detection
}

// later has the addresses of the holder decided on again.
func (m *Machine) later(e *address, t time.Time) {
	if r := e.holder.review; r.IsZero() || t.Before(r) {
		e.holder.review = t
	}
	m.at(t)
}

// reviewAll has the addresses of all others decided on at the next tick.
func (m *Machine) reviewAll(now time.Time) {
	for _, p := range m.order {
		p.review = now
	}
	m.nobody.review = now
	m.at(now)
}

// reviewFailing does so for those that may need a rescuer.
func (m *Machine) reviewFailing(now time.Time) {
	for _, p := range m.order {
		for _, l := range p.links {
			if l.verdict.finding != alive {
				p.review = now
			}
		}
	}
	m.at(now)
}

// review decides on the addresses of all holders for which it is time.
func (m *Machine) review(now time.Time) {
	m.reviewHolder(now, m.nobody)
	for _, p := range m.order {
		m.reviewHolder(now, p)
	}
}

func (m *Machine) reviewHolder(now time.Time, p *peer) {
	if p.review.IsZero() || now.Before(p.review) {
		return
	}
	p.review = time.Time{}
	for _, e := range m.sorted(p) {
		m.decide(now, e)
	}
}
