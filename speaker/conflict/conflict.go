// SPDX-License-Identifier: Apache-2.0

// Package conflict finds out whether a host outside the cluster has an address of ours, before it is announced and while it is.
//
// It is pure: what was seen on the wire and the time go in, what to send and what to tell comes out. An address that no
// node has announced yet is probed first, as RFC 5227 has it but within half a second, and for IPv6 as RFC 4862 detects
// duplicates. While another host answers for it, it is not announced. An address that is announced is only watched: the
// claim of another host is told and, at most every ten seconds, answered with an announcement. It moves nothing.
//
// Not every answer from elsewhere is a conflict: the nodes of the cluster are none to each other, and a MAC that answers
// for two different addresses of a family is a proxy. So that a proxy is found at once, a first answer has the address of another
// node asked for, too, where one is known.
package conflict

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/internal/due"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// probes are sent probeSpacing apart, or up to probeJitter more.
	probes       = 3
	probeSpacing = 100 * time.Millisecond
	probeJitter  = 50 * time.Millisecond
	// probeTime is from the first probe to the verdict.
	probeTime = 450 * time.Millisecond
	// lateTime is how late a verdict may be: whoever was paused for longer has
	// heard nothing meanwhile, and probes again.
	lateTime = 150 * time.Millisecond
	// asksPerSecond and asksAtOnce bound what is sent however many addresses
	// are new. What finds no place in probeTime after an address's first probe
	// is not sent.
	asksPerSecond, asksAtOnce = 2000, 200
	// proxiesPerSecond and proxiesAtOnce bound how many proxies are told of:
	// whoever makes up MACs makes up as many as there is room for on the wire.
	proxiesPerSecond, proxiesAtOnce = 1, 5

	// proxyTime is how long an answer has the address of another node asked
	// for before it counts.
	proxyTime = 150 * time.Millisecond
	// againAfter, and up to againJitter more, is between two times that an
	// address in conflict is probed.
	againAfter, againJitter = time.Minute, 10 * time.Second

	// defendAfter is between two defences of an address (RFC 5227,
	// DEFEND_INTERVAL).
	defendAfter = 10 * time.Second
	// overAfter is when a conflict of a held address counts as over, if nothing
	// more is seen of it.
	overAfter = 5 * time.Minute
	// tellAfter is between two reports of one address while another host has it
	// and it is another MAC each time, tellAgainAfter if nothing changes: a
	// report is a write of the address and of its Services.
	tellAfter, tellAgainAfter = 5 * time.Minute, 10 * time.Minute
)

// Address is one that the node announces or is to.
type Address struct {
	Addr netip.Addr
	// Interfaces are those that it is, or is to be, announced on.
	Interfaces []string
	// First says that no node has ever announced it, so that it must be probed
	// before this one does. It is false for whoever takes over.
	First bool
	// Recorded says that a conflict is on record, which somebody has to end.
	Recorded bool
}

// Kind is what a frame says about an address.
type Kind uint8

// The kinds of frames.
const (
	// Answer is an ARP reply to somebody or a Neighbor Advertisement.
	Answer Kind = iota + 1
	// Claim is an ARP request from the address, or a gratuitous reply.
	Claim
	// Probe asks whether anybody has the address, from none: an ARP probe or a
	// Neighbor Solicitation of duplicate address detection.
	Probe
)

// Sighting is a frame from which it follows that a host has an address or is
// about to.
type Sighting struct {
	Interface string
	Addr      netip.Addr
	MAC       link.MAC
	Kind      Kind
}

// Conflict says that a host outside the cluster has an address.
type Conflict struct {
	Interface string
	MAC       link.MAC
	// At is when it was last seen to.
	At time.Time
	// Announced says that the node announced the address then, and goes on to.
	Announced bool
}

// Report is a change of what is known of an address.
type Report struct {
	Addr netip.Addr
	// Conflict is nil when it is over.
	Conflict *Conflict
}

// Ask is a request to be sent.
type Ask struct {
	Interface string
	Addr      netip.Addr
	// Probe has it sent as from nobody (RFC 5227, RFC 4862).
	Probe bool
}

// Proxy is a MAC that answers for several addresses of a family.
type Proxy struct {
	Interface string
	MAC       link.MAC
	// Addrs are two of them.
	Addrs [2]netip.Addr
}

// Output is what is to be done.
type Output struct {
	Asks []Ask
	// Free are the addresses that may be announced from now on.
	Free []netip.Addr
	// Defend are the addresses to be announced once more.
	Defend  []netip.Addr
	Reports []Report
	// Proxies are those that were found, but of a flood only some.
	Proxies []Proxy
}

// Machine knows of every address of a node whether somebody else has it. It is
// not safe for concurrent use.
type Machine struct {
	rand    *rand.Rand
	cluster map[link.MAC]struct{}
	// nodes are addresses of other nodes, by interface.
	nodes   map[string][]netip.Addr
	addrs   map[netip.Addr]*state
	due     due.Queue[netip.Addr]
	pace    due.Pace
	proxies due.Pace     // told of
	waiting []netip.Addr // to be asked for when pace allows
	others  others
	// changed are the addresses that there may be something to tell of.
	changed map[netip.Addr]struct{}
	out     Output
}

type phase uint8

const (
	probing phase = iota + 1
	// doubtful: somebody answered, and whether that is a proxy is being asked.
	doubtful
	// taken: another host has it, and it isn't announced.
	taken
	// free: it may be announced.
	free
)

// state is what is known of an address.
type state struct {
	Address
	phase  phase
	queued bool
	// recorded says that what was last reported, or what was reported before
	// this speaker knew the address, is on record.
	recorded bool
	// sent counts the probes; verdict is when they will have been answered.
	sent    uint8
	verdict time.Time

	conflict *Conflict
	defended time.Time
	// told is what was last reported, and when; nil if nothing was.
	told *told
}

type told struct {
	Conflict
	at time.Time
}

// New returns a Machine that takes its jitter from r.
func New(r *rand.Rand) *Machine {
	return &Machine{
		rand: r, pace: due.NewPace(asksPerSecond, asksAtOnce), proxies: due.NewPace(proxiesPerSecond, proxiesAtOnce),
		addrs: map[netip.Addr]*state{}, changed: map[netip.Addr]struct{}{}, others: others{},
	}
}

// SetCluster tells the MACs that are no conflict: those of all nodes' interfaces,
// the own ones too. What they were taken for before is over.
func (m *Machine) SetCluster(now time.Time, macs map[link.MAC]struct{}) {
	m.cluster = macs
	for mac := range macs {
		for _, v4 := range []bool{true, false} {
			key := station{mac, v4}
			if o := m.others[key]; o != nil {
				m.acquit(now, mac, o)
				delete(m.others, key)
			}
		}
	}
	for _, s := range m.addrs {
		if s.conflict != nil {
			if _, ours := macs[s.conflict.MAC]; ours {
				m.end(now, s)
			}
		}
	}
}

// SetNodes tells addresses of other nodes that can be asked for on each
// interface: whoever answers for one with a MAC that is not the cluster's is a
// proxy.
func (m *Machine) SetNodes(nodes map[string][]netip.Addr) { m.nodes = nodes }

// Set takes an address, or what has changed of one. One that another node has
// announced meanwhile, so that it is not First any more, is free.
func (m *Machine) Set(now time.Time, a Address) {
	s := m.addrs[a.Addr]
	if s == nil {
		s = &state{Address: a, recorded: a.Recorded}
		m.addrs[a.Addr] = s
		if a.First {
			m.probe(now, s)
		} else {
			s.phase = free
			if a.Recorded {
				m.due.Set(a.Addr, now.Add(overAfter))
			}
		}
		return
	}
	elsewhere := !slices.Equal(s.Interfaces, a.Interfaces)
	s.Address = a
	switch {
	case s.phase == free:
	case !a.First:
		m.release(s)
	case elsewhere:
		m.probe(now, s)
	}
}

// Remove forgets an address that is not the node's any more. A conflict of it
// that was told stays so, unless the other host turns out to be a proxy.
func (m *Machine) Remove(addr netip.Addr) {
	s := m.addrs[addr]
	if s == nil {
		return
	}
	if s.recorded && s.conflict != nil {
		if o := m.others[stationOf(s.conflict.MAC, addr)]; o != nil && o.addr == addr {
			o.gone = true
		}
	}
	delete(m.addrs, addr)
	delete(m.changed, addr)
	m.due.Remove(addr)
}

// MayAnnounce reports whether an address may be announced: it is, or was, or
// nobody answered for it.
func (m *Machine) MayAnnounce(addr netip.Addr) bool {
	s := m.addrs[addr]
	return s != nil && s.phase == free
}

// Sight takes what was seen on the wire.
func (m *Machine) Sight(now time.Time, seen Sighting) {
	if _, ours := m.cluster[seen.MAC]; ours || seen.MAC == (link.MAC{}) || seen.MAC[0]&1 != 0 {
		return
	}
	s := m.addrs[seen.Addr]
	if s == nil && !slices.Contains(m.nodes[seen.Interface], seen.Addr) {
		return // whoever has it, it is no concern of ours
	}
	if seen.Kind == Answer && m.isProxy(now, seen) || s == nil {
		return
	}
	found := &Conflict{Interface: seen.Interface, MAC: seen.MAC, At: now, Announced: s.phase == free}
	switch {
	case s.phase == free && seen.Kind == Probe:
		// It will be answered, as any request is, and the other host gives up.
	case s.phase == free:
		if s.conflict == nil {
			m.due.Set(seen.Addr, now.Add(overAfter))
			if seen.Kind == Answer {
				m.askForNode(now, seen)
			}
		}
		s.conflict = found
		m.change(seen.Addr)
		if s.defended.IsZero() || now.Sub(s.defended) >= defendAfter {
			s.defended = now
			m.out.Defend = append(m.out.Defend, seen.Addr)
		}
	case s.phase == taken:
		s.conflict = found
		m.change(seen.Addr)
	case seen.Kind == Answer && s.phase == probing && s.sent > 0 && m.askForNode(now, seen):
		s.conflict, s.phase = found, doubtful
		m.due.Set(seen.Addr, now.Add(proxyTime))
	case s.phase == doubtful && s.conflict.MAC == seen.MAC:
	default:
		m.take(now, s, found)
	}
}

// askForNode asks for the address of another node, of the family of the one that
// was seen: only that node should answer. It reports whether it knows one.
func (m *Machine) askForNode(now time.Time, seen Sighting) bool {
	var nodes []netip.Addr
	for _, node := range m.nodes[seen.Interface] {
		if node.Is4() == seen.Addr.Is4() {
			nodes = append(nodes, node)
		}
	}
	if len(nodes) == 0 {
		return false
	}
	if m.pace.Take(now) {
		m.out.Asks = append(m.out.Asks, Ask{Interface: seen.Interface, Addr: nodes[m.rand.IntN(len(nodes))]})
	}
	return true
}

// probe starts to probe an address.
func (m *Machine) probe(now time.Time, s *state) {
	s.phase, s.sent = probing, 0
	m.due.Remove(s.Addr)
	if len(s.Interfaces) > 0 {
		m.enqueue(now, s)
	}
}

func (m *Machine) enqueue(now time.Time, s *state) {
	if !s.queued {
		s.queued = true
		m.waiting = append(m.waiting, s.Addr)
	}
	m.send(now)
}

// send sends as many of the probes that wait as may be sent now.
func (m *Machine) send(now time.Time) {
	for len(m.waiting) > 0 {
		addr := m.waiting[0]
		s := m.addrs[addr]
		if s == nil || !s.queued {
			m.waiting = m.waiting[1:]
			continue
		}
		if s.phase == probing && !m.pace.Take(now) {
			return
		}
		s.queued = false
		m.waiting = m.waiting[1:]
		if s.phase != probing {
			continue
		}
		for _, iface := range s.Interfaces {
			m.out.Asks = append(m.out.Asks, Ask{Interface: iface, Addr: addr, Probe: true})
		}
		if s.sent++; s.sent == 1 {
			s.verdict = now.Add(probeTime)
		}
		next := s.verdict
		if s.sent < probes {
			next = now.Add(probeSpacing + time.Duration(m.rand.Int64N(int64(probeJitter))))
		}
		m.due.Set(addr, earlier(next, s.verdict))
	}
	m.waiting = nil // let go of the array that a burst has grown
}

// take takes note that another host has an address that isn't announced yet.
func (m *Machine) take(now time.Time, s *state, found *Conflict) {
	s.phase, s.conflict = taken, found
	m.due.Set(s.Addr, now.Add(againAfter+time.Duration(m.rand.Int64N(int64(againJitter)))))
	m.change(s.Addr)
}

// release takes note that an address may be announced.
func (m *Machine) release(s *state) {
	s.phase, s.conflict = free, nil
	m.due.Remove(s.Addr)
	m.change(s.Addr)
	m.out.Free = append(m.out.Free, s.Addr)
}

// end takes note that what was taken for a conflict of an address was none.
func (m *Machine) end(now time.Time, s *state) {
	s.conflict = nil
	m.change(s.Addr)
	if s.phase == free {
		m.due.Remove(s.Addr)
	} else {
		m.probe(now, s)
	}
}

func (m *Machine) change(addr netip.Addr) { m.changed[addr] = struct{}{} }

// Tick does what is due.
func (m *Machine) Tick(now time.Time) {
	m.send(now)
	for {
		addr, ok := m.due.Pop(now)
		if !ok {
			return
		}
		switch s := m.addrs[addr]; s.phase {
		case probing:
			switch late := now.Sub(s.verdict); {
			case late > lateTime:
				m.probe(now, s)
				continue
			case late >= 0:
				m.release(s)
				continue
			}
			// The verdict doesn't wait for a place in the queue.
			m.due.Set(addr, s.verdict)
			m.enqueue(now, s)
		case doubtful:
			m.take(now, s, s.conflict)
		case taken:
			m.probe(now, s)
		case free:
			if s.conflict != nil && now.Sub(s.conflict.At) < overAfter {
				m.due.Set(addr, s.conflict.At.Add(overAfter))
				continue
			}
			s.conflict = nil
			m.change(addr)
		}
	}
}

// Next returns when Tick has something to do, the zero time for never.
func (m *Machine) Next() time.Time {
	next := m.due.Next()
	if len(m.waiting) > 0 {
		next = earlier(next, m.pace.Next())
	}
	return next
}

// earlier returns the earlier of two times, of which the zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Output returns what is to be done, once.
func (m *Machine) Output(now time.Time) Output {
	for addr := range m.changed {
		delete(m.changed, addr)
		if s := m.addrs[addr]; s != nil {
			m.tell(now, s)
		}
	}
	slices.SortFunc(m.out.Reports, func(a, b Report) int { return a.Addr.Compare(b.Addr) })
	out := m.out
	m.out = Output{}
	return out
}

// tell reports what is news of an address.
func (m *Machine) tell(now time.Time, s *state) {
	switch c := s.conflict; {
	case c == nil || s.phase == doubtful:
		// While it is probed again it is not known whether it is over.
		if s.recorded && s.phase == free {
			s.recorded, s.told = false, nil
			m.out.Reports = append(m.out.Reports, Report{Addr: s.Addr})
		}
	case s.told == nil, s.told.Announced != c.Announced,
		s.told.MAC != c.MAC && now.Sub(s.told.at) >= tellAfter, now.Sub(s.told.at) >= tellAgainAfter:
		copied := *c
		s.recorded, s.told = true, &told{copied, now}
		m.out.Reports = append(m.out.Reports, Report{Addr: s.Addr, Conflict: &copied})
	}
}
