// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// maxAddresses is how many addresses of which only frames speak are kept.
	maxAddresses = 65536
	// maxReleases is how many releases wait to be sent.
	maxReleases = 20000
	// relayAfter is how long a third node leaves it to the better claimant to
	// speak for itself.
	relayAfter = 150 * time.Millisecond
	// lacking is the age at which a claim that its claimant's complete answer
	// doesn't name counts as not held by it.
	lacking = 500 * time.Millisecond
)

// claim is a Claim with its node resolved.
type claim struct {
	by   *peer // nil in the zero claim
	term int64
	rank uint8
	mute bool
}

// beats tells whether c wins against o.
func (c claim) beats(o claim) bool {
	switch {
	case c.by == nil || o.by == nil:
		return o.by == nil && c.by != nil
	case c.term != o.term:
		return c.term > o.term
	case c.by == o.by && c.rank == o.rank:
		return false
	case c.rank != o.rank:
		return c.rank < o.rank
	default:
		return c.by.name < o.by.name
	}
}

func (c claim) export() Claim {
	if c.by == nil {
		return Claim{}
	}
	return Claim{Node: c.by.name, Term: c.term, Rank: c.rank}
}

// address is what is known of an address.
type address struct {
	addr netip.Addr
	// known says that the cluster, not just a frame, told of it.
	known    bool
	names    []string // interfaces to answer on
	on       []*iface // those of them that are up
	recorded claim
	// recordedAt is when that was first told.
	recordedAt time.Time
	proposed   string
	// proposedAt is when the proposal was told.
	proposedAt time.Time

	// best is the highest claim known; floor the highest term ever known.
	best     claim
	floor    int64
	bestFrom time.Time // when the claimant itself said it last
	muteFrom time.Time
	holder   *peer // whose claims it is among

	// What the policy says, as of its turn.
	successor bool
	before    []*peer // better successors than this node
	mine      bool    // this node should be the owner

	held      claim // waits to be on record
	heldSince time.Time
	standing  bool  // answer in the holder's place
	past      *past // nil for most

	dirty, saying, replying, changed bool
	relaying, announcing             bool
	// What Output has said last.
	given   []string
	givenAs map[string]link.MAC
}

// past is what has happened to an address, as it does to few.
type past struct {
	planned   damping // claims though nobody failed
	yielded   damping // claims against one whom only others hear
	left      damping // claims against one who was faster to record
	suspicion suspicion
}

// had returns what has happened to the address.
func (e *address) had() past {
	if e.past == nil {
		return past{}
	}
	return *e.past
}

// note returns it to be added to.
func (e *address) note() *past {
	if e.past == nil {
		e.past = &past{}
	}
	return e.past
}

// entry returns the address, made if it isn't there.
func (m *Machine) entry(addr netip.Addr) *address {
	e := m.addrs[addr]
	if e == nil {
		e = &address{addr: addr}
		m.addrs[addr] = e
		m.hold(e)
	}
	return e
}

// hold puts an address among the claims of the peer that it is to be
// attributed to.
func (m *Machine) hold(e *address) {
	p := e.best.by
	if p == nil {
		p = m.nobody
		if e.proposed != "" {
			p = m.node(e.proposed)
		}
	}
	if p == e.holder {
		return
	}
	if e.holder != nil {
		delete(e.holder.claims, e.addr)
	}
	e.holder = p
	p.claims[e.addr] = e
}

// sorted returns the addresses that are held by a peer.
func (m *Machine) sorted(p *peer) []*address { return inOrder(p.claims) }

// all returns all addresses.
func (m *Machine) all() []*address { return inOrder(m.addrs) }

// inOrder returns addresses in their order: equal inputs shall give equal
// outputs.
func inOrder(set map[netip.Addr]*address) []*address {
	out := make([]*address, 0, len(set))
	for _, e := range set {
		out = append(out, e)
	}
	slices.SortFunc(out, compareAddress)
	return out
}

func compareAddress(a, b *address) int { return a.addr.Compare(b.addr) }

// count adds or removes a claim from the digest of its claimant.
func (c claim) count(e *address, n int) {
	if c.by != nil {
		c.by.digest[bucketOf(e.addr)] ^= hashClaim(e.addr, c.term, c.rank, c.mute)
		c.by.count += uint32(n)
	}
}

// setBest makes a claim the best one. All that follows from who owns an
// address begins here.
func (m *Machine) setBest(now time.Time, e *address, c claim) {
	old := e.best
	if c == old {
		return
	}
	old.count(e, -1)
	c.count(e, 1)
	e.best = c
	e.floor = max(e.floor, c.term)
	switch {
	case !c.mute:
		e.muteFrom = time.Time{}
	case !old.mute || old.by != c.by:
		e.muteFrom = now
	}
	for _, p := range [...]*peer{old.by, c.by} {
		if p != nil && p != m.self {
			p.compare(now)
		}
	}
	if c.by == m.self {
		m.say(e)
	}
	if old.by != c.by {
		e.standing, e.mine = false, false
		e.held = claim{}
		m.hold(e)
		m.change(e)
	}
	m.reconsider(e)
	m.at(now)
}

// say has an own claim told to everyone.
func (m *Machine) say(e *address) {
	if !e.saying {
		e.saying = true
		m.saying = append(m.saying, e)
	}
}

// change has Output look at how the address is answered.
func (m *Machine) change(e *address) {
	if !e.changed {
		e.changed = true
		m.changed = append(m.changed, e)
	}
}

// reconsider has the policy asked about an address, and it decided on.
func (m *Machine) reconsider(e *address) {
	if e.known && !e.dirty {
		e.dirty = true
		m.dirty = append(m.dirty, e)
	}
}

// takeClaims takes the claims of a frame of p.
func (m *Machine) takeClaims(now time.Time, p *peer, in *iface, complete uint16, words []byte) {
	for len(words) > 0 {
		var w word
		w, words, _ = nextWord(words)
		by, relayed := p, len(w.node) > 0
		e := m.addrs[w.addr]
		floor := int64(0)
		if e != nil {
			floor = e.floor
		}
		if !Credible(w.term, floor) {
			m.drops[DropMalformed]++
			continue
		}
		if relayed {
			if by = m.stranger(w.node); by == nil {
				m.drops[DropFull]++
				continue
			}
		}
		if e == nil {
			if w.released {
				continue
			}
			if len(m.addrs) >= maxAddresses+m.configured {
				m.drops[DropFull]++
				continue
			}
			e = m.entry(w.addr)
		}
		c := claim{by: by, term: w.term, rank: w.rank, mute: w.mute}
		switch {
		case w.released && relayed:
			// Nobody takes back what another one claims.
		case w.released:
			m.takeRelease(now, e, c)
		case by == m.self:
			m.takeOwn(now, e, in, c)
		default:
			m.takeClaim(now, e, in, c, relayed)
		}
	}
	if complete != 0 {
		m.takeComplete(now, p, complete)
	}
}

// takeClaim weighs the claim of another node.
func (m *Machine) takeClaim(now time.Time, e *address, in *iface, c claim, relayed bool) {
	if !slices.Contains(e.on, in) && m.elsewhere(now, e, c.by) {
		return
	}
	switch {
	case c.beats(e.best), !relayed && c.by == e.best.by && c.term == e.best.term && c.rank == e.best.rank:
		if c.term > e.best.term && !c.by.present(now, e) {
			e.note().yielded.extend(now, yieldTime, yieldMax)
		}
		m.setBest(now, e, c)
		if !relayed {
			e.bestFrom = now
		}
	case relayed:
	case e.best.by == m.self:
		// It answered until now: caches must learn who does.
		m.say(e)
		if len(e.given) > 0 && !e.announcing {
			e.announcing = true
			m.announce = append(m.announce, e)
		}
	default:
		m.relay(now.Add(relayAfter), e, c.by)
	}
}

// takeOwn weighs what others say that this node claims: in a former boot it
// may have.
func (m *Machine) takeOwn(now time.Time, e *address, in *iface, c claim) {
	switch {
	case !m.synced:
		m.takeClaim(now, e, in, c, true)
	case !e.known:
		m.release(e.addr, c.term)
		if e.best.by == nil {
			m.drop(e)
		}
	case c.beats(e.best):
		c.mute = len(e.on) == 0
		m.setBest(now, e, c)
		m.record(e)
	case e.best.by == m.self:
		m.say(e)
	default:
		// It was left to one whom the others don't heed.
		m.release(e.addr, c.term)
	}
}

// release tells everyone that this node doesn't claim an address. If that are
// more than can be sent soon, those who need to know will come back to it.
func (m *Machine) release(addr netip.Addr, term int64) {
	if len(m.releasing) >= maxReleases {
		return
	}
	m.releasing = append(m.releasing, word{addr: addr, term: term, released: true})
}

// takeRelease takes back what a node claimed.
func (m *Machine) takeRelease(now time.Time, e *address, c claim) {
	if e.best.by != c.by || e.best.term > c.term {
		return
	}
	m.setBest(now, e, claim{})
	if !e.known {
		m.drop(e)
	}
}

// takeComplete looks for claims that a peer, having told all of some buckets,
// didn't name: it may not know of them.
func (m *Machine) takeComplete(now time.Time, p *peer, mask uint16) {
	mask &= p.differs()
	if mask == 0 {
		return
	}
	for _, e := range m.sorted(p) {
		if e.best.by == p && mask&(1<<bucketOf(e.addr)) != 0 && now.Sub(e.bestFrom) > lacking {
			m.relay(now, e, p)
		}
	}
}

// relayed is a claim that one who seems not to know it is to be told.
type relayed struct {
	entry *address
	to    *peer
	due   time.Time
}

// relay tells the best claim of an address, when it is due, for the sake of a
// peer, if that peer still seems not to know it.
func (m *Machine) relay(due time.Time, e *address, to *peer) {
	if !e.relaying && to != m.self {
		e.relaying = true
		m.relays = append(m.relays, relayed{e, to, due})
		m.at(due)
	}
}

// drop forgets an address of which the cluster doesn't know.
func (m *Machine) drop(e *address) {
	e.best.count(e, -1)
	e.best = claim{}
	delete(e.holder.claims, e.addr)
	if m.addrs[e.addr] == e {
		delete(m.addrs, e.addr)
	}
	m.change(e)
}
