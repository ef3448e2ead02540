// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// interval is the pause between hellos.
	interval = 100 * time.Millisecond
	// missed is when a hello is late enough to ask the wire.
	missed = 130 * time.Millisecond
	// detection is the silence after which a peer is not heard any more.
	detection = 300 * time.Millisecond

	// clockSetBack is the silence after which a signed boot may be an earlier
	// one. What was recorded of it must not keep a node alive that dies; who
	// comes back with a clock that was set back is stood in for meanwhile.
	clockSetBack = standIn / 2

	// maxStrangers is how many nodes frames alone can make known.
	maxStrangers = 1000
	// forget is when a stranger that claims nothing is forgotten.
	forget = 10 * time.Minute
)

// life is a boot of a peer.
type life struct {
	boot uint64
	top  uint64 // highest sequence seen
}

// peer is a node. The own node is one too, without links.
type peer struct {
	name string
	hash uint64
	// known says that the cluster, not just a frame, told of it.
	known bool
	seen  time.Time // last frame

	life
	left [8]life // those before, the next one to be overwritten first
	turn int

	// What its newest hello says, of whatever interface.
	hello      uint64 // sequence
	state      State
	stateSince time.Time
	uptime     time.Duration
	told       digest
	toldSince  time.Time // since when told differs from digest

	// claims are the addresses that are its by the best claim known, or by
	// proposal while there is no claim; digest covers the claims.
	claims map[netip.Addr]*address
	digest digest
	count  uint32
	// review is when its addresses are to be decided on again, zero: not by
	// itself.
	review time.Time

	asked     time.Time // when its claims were requested last
	askPause  time.Duration
	endpoints []Endpoint
	links     []*peerLink
}

// peerLink is what is known of a peer on an interface of the own node.
type peerLink struct {
	peer *peer
	on   *iface

	last time.Time // its newest hello arrived
	ipv4 time.Time // its newest hello by IPv4 arrived
	// via is when a peer that is heard last heard it, in the state viaState.
	via      time.Time
	viaState State
	// grace counts as having been heard: timers begin anew after a stall.
	grace time.Time

	seq    uint64 // highest sequence seen
	window uint64 // bit i: seq - i was seen
	mac    link.MAC
	ip4    netip.Addr
	ip6    netip.Addr
	silent bool // so its newest hello says
	// lonely is since when its hellos name nobody whom it hears.
	lonely time.Time

	// proof is when a frame came in after its hello should have.
	proof time.Time
	// deaf says that there was none yet.
	deaf bool

	ask     asking
	verdict verdict
	// living says that it is heard and could take over addresses.
	living bool
	// heardNow is what hears was at the last tick.
	heardNow bool
}

// node returns the peer of a name, and makes it if it is not there.
func (m *Machine) node(name string) *peer {
	p := m.peers[name]
	if p == nil {
		p = &peer{name: name, hash: hashName(name), seen: m.ticked, claims: map[netip.Addr]*address{}}
		m.peers[name] = p
		m.byHash[p.hash] = p
		i, _ := slices.BinarySearchFunc(m.order, p, byName)
		m.order = slices.Insert(m.order, i, p)
	}
	return p
}

// stranger returns the peer of a name in a frame, nil if there are too many.
func (m *Machine) stranger(name []byte) *peer {
	if p := m.peers[string(name)]; p != nil {
		return p
	}
	if len(m.order) >= maxStrangers+m.named {
		return nil
	}
	return m.node(string(name))
}

func byName(a, b *peer) int { return strings.Compare(a.name, b.name) }

// link returns what is known of a peer on an interface, nil if nothing is.
func (p *peer) link(i *iface) *peerLink {
	for _, l := range p.links {
		if l.on == i {
			return l
		}
	}
	return nil
}

func (p *peer) makeLink(i *iface) *peerLink {
	if l := p.link(i); l != nil {
		return l
	}
	l := &peerLink{peer: p, on: i}
	p.links = append(p.links, l)
	return l
}

// heard is when it was last heard by this node or one that this node hears.
func (l *peerLink) heard() time.Time {
	return latest(l.last, l.via, l.grace)
}

// hears tells whether its own hellos arrive.
func (l *peerLink) hears(now time.Time) bool {
	return !l.last.IsZero() && now.Sub(l.last) < detection
}

// state is the state that it was last heard in.
func (l *peerLink) state() State {
	if l.via.After(l.last) {
		return l.viaState
	}
	return l.peer.state
}

// take notes a sequence number, if it was not seen yet. Frames may overtake
// each other a little, and arrive by both families.
func (l *peerLink) take(seq uint64) (Drop, bool) {
	switch {
	case seq > l.seq:
		if d := seq - l.seq; d < 64 {
			l.window = l.window<<d | 1
		} else {
			l.window = 1
		}
		l.seq = seq
		return 0, true
	case l.seq-seq >= 64:
		return DropReplay, false
	case l.window>>(l.seq-seq)&1 == 1:
		return DropDuplicate, false
	default:
		l.window |= 1 << (l.seq - seq)
		return 0, true
	}
}

// restart takes a frame's boot, and tells whether the peer may be in it. A
// later boot counts at once, an earlier one when the present one is silent for
// some time, and none for frames that it was seen to send: neither old frames
// nor a forged one keep a peer away that goes on.
func (p *peer) restart(now time.Time, boot, seq uint64, silent time.Duration) bool {
	if p.boot == boot {
		return true
	}
	if boot < p.boot && now.Sub(p.seen) < silent {
		return false
	}
	next := life{boot: boot}
	slot := slices.IndexFunc(p.left[:], func(l life) bool { return l.boot == boot })
	if slot >= 0 {
		if next = p.left[slot]; seq <= next.top {
			return false
		}
	} else {
		slot = p.turn % len(p.left)
		p.turn++
	}
	p.left[slot] = p.life
	p.begin(next)
	return true
}

// begin has nothing taken of a life but what comes after its highest sequence.
func (p *peer) begin(l life) {
	p.life, p.hello = l, l.top
	for _, link := range p.links {
		link.seq, link.window = l.top, ^uint64(0)
	}
}

// takeHello takes a hello that arrived on an interface.
func (m *Machine) takeHello(now, at time.Time, p *peer, l *peerLink, seq uint64, h *hello) {
	wasHeard := l.hears(now)
	l.last = latest(l.last, at)
	if at.Sub(l.on.lastHello) >= detection {
		l.on.company = at
	}
	l.on.lastHello = latest(l.on.lastHello, at)
	l.mac = h.mac
	l.silent = h.silent
	if len(h.heard) > 0 {
		l.lonely = time.Time{}
	} else if l.lonely.IsZero() {
		l.lonely = at
	}
	if seq > p.hello {
		p.hello = seq
		if h.state != p.state || p.stateSince.IsZero() {
			p.state, p.stateSince = h.state, now
			m.at(now)
		}
		p.uptime = time.Duration(h.uptime) * time.Second
		p.told = h.digest
		p.compare(now)
	}
	named := false
	for b := h.heard; len(b) > 0; {
		var e heard
		e, b = nextHeard(b)
		o := m.byHash[e.node]
		if o == m.self {
			named = e.ipv4
		}
		if o == nil || o == m.self {
			continue
		}
		via := at.Add(-ageUnit * time.Millisecond * time.Duration(e.age))
		if ol := o.makeLink(l.on); via.After(ol.via) {
			ol.via, ol.viaState = via, e.state
		}
	}
	if !named {
		m.broaden(now, l.on)
	}
	if !wasHeard {
		m.healed(now, p, l)
	}
}

// compare notes since when the peer claims something else than is known.
func (p *peer) compare(now time.Time) {
	switch {
	case p.told == p.digest || !p.answers():
		p.toldSince, p.askPause = time.Time{}, 0
	case p.toldSince.IsZero():
		p.toldSince = now
	}
}

// answers tells whether the peer is in a state in which it answers for what it
// claims, and tells its claims.
func (p *peer) answers() bool { return p.state != Unsynced }

// differs is the set of buckets in which the peer claims something else than
// is known.
func (p *peer) differs() (mask uint16) {
	for i := range p.told {
		if p.told[i] != p.digest[i] {
			mask |= 1 << i
		}
	}
	return mask
}

// forgetPeers drops nodes of which nobody has told anything for long.
func (m *Machine) forgetPeers(now time.Time) {
	n := len(m.order)
	m.order = slices.DeleteFunc(m.order, func(p *peer) bool {
		if p.known || now.Sub(p.seen) < forget {
			return false
		}
		claims := m.sorted(p)
		if slices.ContainsFunc(claims, func(e *address) bool { return e.known }) {
			return false
		}
		for _, e := range claims {
			m.drop(e)
		}
		delete(m.peers, p.name)
		delete(m.byHash, p.hash)
		return true
	})
	if len(m.order) < n {
		m.Reconsider(now) // its successors may name them
	}
}

func latest(first time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if t.After(first) {
			first = t
		}
	}
	return first
}
