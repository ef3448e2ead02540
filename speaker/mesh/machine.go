// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"slices"
	"time"
)

// What is done at a time must not take so long that it looks like a stall.
const (
	// refreshes is how many addresses the policy is asked about in one tick.
	refreshes = 500
	// outputs is how many answers one Output has at most, and how many claims.
	outputs = 1000
)

// Machine is the state of the mesh as one speaker sees it.
type Machine struct {
	config Config
	policy Policy
	codec  codec

	cluster   uint64
	started   time.Time // listening to the cluster
	synced    bool
	leaving   Leaving
	reachable bool

	ifaces     []*iface
	byIndex    map[int]*iface
	peers      map[string]*peer
	byHash     map[uint64]*peer
	order      []*peer // by name
	self       *peer
	nobody     *peer     // holds what nobody claims or should
	named      int       // peers that the API told of
	ousted     int       // nodes that the API server refuses
	together   time.Time // when they were last more than one
	addrs      map[netip.Addr]*address
	configured int // addresses that the API told of

	ticked    time.Time
	next      time.Time
	forgotten time.Time // when peers were last looked through
	stalls    uint64
	drops     Drops

	// What is to be said.
	helloDue  time.Time
	hurried   bool // one hello is due in between
	rotation  int
	saying    []*address
	replying  []*address
	replyMask uint16 // asked for
	complete  uint16 // said when replying is empty
	replied   time.Time
	releasing []word
	relays    []relayed
	// What is to be decided or put out.
	dirty    []*address
	changed  []*address
	announce []*address
	out      Output
}

// New returns a machine that knows no cluster, segment or address yet. Times
// that are given to its methods never go back.
func New(c Config, p Policy, now time.Time) *Machine {
	m := &Machine{
		config: c, policy: p, codec: newCodec(c),
		started: now, ticked: now, next: now, forgotten: now,
		byIndex: map[int]*iface{}, peers: map[string]*peer{}, byHash: map[uint64]*peer{},
		addrs:  map[netip.Addr]*address{},
		nobody: &peer{claims: map[netip.Addr]*address{}},
	}
	m.self = m.node(c.Node)
	m.self.known = true
	m.named = 1
	return m
}

// SetCluster tells which cluster this is. Without it every frame is dropped,
// and the node counts as just started.
func (m *Machine) SetCluster(now time.Time, id uint64) {
	m.wake(now)
	if id == m.cluster {
		return
	}
	m.cluster, m.started = id, now
	for _, i := range m.ifaces {
		m.restart(now, i)
	}
}

// SetSegments tells all interfaces that can carry addresses.
func (m *Machine) SetSegments(now time.Time, all []Segment) {
	m.wake(now)
	old := m.byIndex
	m.ifaces, m.byIndex = make([]*iface, 0, len(all)), make(map[int]*iface, len(all))
	for _, s := range all {
		i := old[s.Index]
		if i == nil {
			i = &iface{}
		}
		risen := s.Up && !i.Up
		i.Segment = s
		m.ifaces = append(m.ifaces, i)
		m.byIndex[s.Index] = i
		if risen {
			m.restart(now, i)
			m.helloDue = now
		}
	}
	for _, p := range m.order {
		p.links = slices.DeleteFunc(p.links, func(l *peerLink) bool { return m.byIndex[l.on.Index] != l.on })
	}
	for _, e := range m.all() {
		m.resolve(now, e)
	}
	m.reviewAll(now)
}

// resolve finds the interfaces on which an address can be answered now.
func (m *Machine) resolve(now time.Time, e *address) {
	on := make([]*iface, 0, len(e.names))
	for _, i := range m.ifaces {
		if i.Up && slices.Contains(e.names, i.Name) {
			on = append(on, i)
		}
	}
	if slices.Equal(on, e.on) {
		return
	}
	e.on = on
	m.change(e)
	m.reconsider(e)
	m.settleOwn(now, e)
}

// settleOwn makes an own claim say whether it can be answered for.
func (m *Machine) settleOwn(now time.Time, e *address) {
	if c := e.best; c.by == m.self && m.synced {
		c.mute = len(e.on) == 0
		m.setBest(now, e, c)
		m.record(e)
	}
}

// SetPeers tells all speakers that the API knows.
func (m *Machine) SetPeers(now time.Time, all []Peer) {
	m.wake(now)
	for _, p := range m.order {
		p.known, p.endpoints = p == m.self, nil
	}
	m.named = 1
	for _, a := range all {
		p := m.node(a.Node)
		if !p.known {
			p.known = true
			m.named++
		}
		p.endpoints = a.Endpoints
	}
}

// SetAddresses tells what changed in the cluster's addresses. The first call
// tells all of them, and makes the speaker synced; SetSegments and SetPeers
// come before it, so that the node knows where it can answer.
func (m *Machine) SetAddresses(now time.Time, changed []Address, gone []netip.Addr) {
	m.wake(now)
	first := !m.synced
	m.synced = true
	for _, a := range changed {
		e := m.entry(a.Addr)
		if !e.known {
			e.known = true
			m.configured++
		}
		if e.proposed != a.Proposed {
			e.proposed, e.proposedAt = a.Proposed, now
		}
		e.names = a.Interfaces
		m.hold(e)
		m.reconsider(e)
		m.change(e)
		m.resolve(now, e)
		m.recordedAs(now, e, a.Recorded)
	}
	for _, addr := range gone {
		if e := m.addrs[addr]; e != nil && e.known {
			m.unknow(now, e)
		}
	}
	if first {
		m.sync(now)
	}
	m.at(now)
}

// sync makes own what is known to be from a former boot, and tells everyone.
func (m *Machine) sync(now time.Time) {
	for _, e := range m.sorted(m.self) {
		if e.best.by != m.self {
			continue
		}
		if e.known {
			m.settleOwn(now, e)
		} else {
			m.unknow(now, e)
		}
	}
	for _, i := range m.ifaces {
		m.silence(now, i, max(0, introduce-now.Sub(i.since)))
	}
	m.helloDue = now
}

// unknow takes an address out that the cluster doesn't have any more.
func (m *Machine) unknow(now time.Time, e *address) {
	if e.known {
		e.known = false
		m.configured--
	}
	e.names, e.on, e.proposed, e.recorded = nil, nil, "", claim{}
	e.standing, e.held = false, claim{}
	m.change(e)
	if e.best.by == m.self {
		m.release(e.addr, e.best.term)
		m.setBest(now, e, claim{})
	}
	if e.best.by == nil {
		m.drop(e)
	}
}

// recordedAs weighs the claim on record.
func (m *Machine) recordedAs(now time.Time, e *address, r Claim) {
	if r.Node == "" || !Credible(r.Term, e.floor) {
		e.recorded = claim{}
		return
	}
	if c := (claim{by: m.node(r.Node), term: r.Term}); c != e.recorded {
		e.recorded, e.recordedAt = c, now
	}
	e.floor = max(e.floor, r.Term)
	m.heed(now, e)
}

// Recorded tells the claim on record, as read or written.
func (m *Machine) Recorded(now time.Time, addr netip.Addr, c Claim) {
	m.wake(now)
	if e := m.addrs[addr]; e != nil && e.known {
		m.recordedAs(now, e, c)
	}
}

// SetRecorder tells whether claims can be recorded at the moment. At first
// they can't.
func (m *Machine) SetRecorder(now time.Time, reachable bool) {
	m.wake(now)
	if m.reachable && !reachable {
		m.reviewFailing(now)
	}
	m.reachable = reachable
}

// Reconsider tells that the policy may answer differently.
func (m *Machine) Reconsider(now time.Time) {
	m.wake(now)
	for _, e := range m.all() {
		m.reconsider(e)
	}
	m.at(now)
}

// Leave tells peers that this node is about to leave, or takes that back.
func (m *Machine) Leave(now time.Time, how Leaving) {
	m.wake(now)
	if how != m.leaving {
		m.leaving = how
		m.helloDue = now
		m.reviewAll(now)
	}
}

// state is what this node says of itself.
func (m *Machine) state() State {
	switch {
	case m.leaving == Restart:
		return LeavingRestart
	case !m.synced:
		return Unsynced
	case m.leaving == Drain:
		return LeavingDrain
	case m.leaving == Ousted:
		return LeavingOusted
	default:
		return Synced
	}
}

// Received tells that some frame at all came in on an interface: the node is
// not deaf there.
func (m *Machine) Received(now time.Time, index int, at time.Time) {
	m.wake(now)
	if i := m.byIndex[index]; i != nil {
		i.received(earliest(at, now))
	}
}

// Receive takes a frame of a peer.
func (m *Machine) Receive(now time.Time, p Packet) {
	m.wake(now)
	if why, ok := m.receive(now, p); !ok {
		m.drops[why]++
	}
}

func (m *Machine) receive(now time.Time, p Packet) (Drop, bool) {
	i := m.byIndex[p.Interface]
	at := earliest(p.At, now)
	switch {
	case i == nil || !i.Up:
		return DropInterface, false
	case now.Sub(at) > stale:
		return DropStale, false
	}
	i.received(at)
	if p.TTL != 255 {
		return DropTTL, false
	}
	h, body, why, ok := m.codec.open(p.Payload)
	switch {
	case !ok:
		return why, false
	case m.cluster == 0 || h.cluster != m.cluster:
		return DropCluster, false
	case string(h.node) == m.config.Node:
		return DropOwn, false
	}
	from := m.stranger(h.node)
	if from == nil {
		return DropFull, false
	}
	silent := missed
	if !m.codec.lenient {
		silent = clockSetBack
	}
	if !from.restart(now, h.boot, h.seq, silent) {
		return DropReplay, false
	}
	if m.codec.lenient && h.seq < from.top && now.Sub(from.seen) >= missed {
		// The high one that it was silenced by may have been anybody's.
		from.begin(life{boot: h.boot, top: h.seq - 1})
	}
	l := from.makeLink(i)
	if p.From.Is4() {
		l.ip4 = p.From
	} else if p.From.IsValid() {
		l.ip6 = p.From
	}
	newest := h.seq > l.seq
	why, ok = l.take(h.seq)
	if h.kind == kindHello && h.seq == l.seq && p.From.Is4() {
		l.ipv4 = latest(l.ipv4, at) // whichever family was first
	}
	if !ok {
		return why, false
	}
	from.seen, from.top = now, max(from.top, h.seq)
	return m.dispatch(now, at, from, l, &h, body, newest)
}

// dispatch takes a frame that is what it says it is.
func (m *Machine) dispatch(now, at time.Time, from *peer, l *peerLink, h *header, body []byte, newest bool) (Drop, bool) {
	switch h.kind {
	case kindHello:
		v, ok := decodeHello(body)
		if !ok {
			return DropMalformed, false
		}
		if newest {
			m.takeHello(now, at, from, l, h.seq, &v)
		}
	case kindClaims:
		complete, words, ok := decodeClaims(body)
		if !ok {
			return DropMalformed, false
		}
		m.takeClaims(now, from, l.on, complete, words)
	case kindRequest:
		node, mask, ok := decodeRequest(body)
		if !ok {
			return DropMalformed, false
		}
		if string(node) == m.config.Node && m.synced {
			m.replyMask |= mask
			m.at(now)
		}
	case kindSuspect, kindConfirm:
		w, by, ok := decodeSuspicion(body)
		if !ok {
			return DropMalformed, false
		}
		m.takeSuspicion(now, from, h.kind, &w, by)
	default:
		return DropMalformed, false
	}
	return 0, true
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
