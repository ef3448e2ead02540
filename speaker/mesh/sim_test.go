// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	ms = int64(time.Millisecond)
	s  = int64(time.Second)
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// sim is a deterministic network of nodes with their speakers, an API server
// and a controller. Its time is in nanoseconds.
type sim struct {
	seed  uint64
	rng   *rand.Rand
	now   int64
	count uint64
	queue queue

	nodes    []*simNode
	segments int
	loss     float64
	maxDelay int64
	dup      float64
	// cut[a][b] says that frames of a don't reach b.
	cut [][]bool
	// deaf[v6][a][b] says that the hellos of a don't reach b by a family.
	deaf [2][][]bool
	api  simAPI

	check checker
	trace func(format string, args ...any)
}

// event is something that will happen; do says what.
type event struct {
	at    int64
	order uint64
	do    func()
	// A packet, if do is nil.
	to      *simNode
	life    uint64
	segment int
	from    int
	v6      bool
	payload []byte
}

type queue []*event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func (w *sim) push(e *event) {
	w.count++
	e.order = w.count
	heap.Push(&w.queue, e)
}

func (w *sim) after(d int64, do func()) { w.push(&event{at: w.now + d, do: do}) }

// between returns a random number of a range.
func (w *sim) between(a, b int64) int64 { return a + w.rng.Int64N(b-a+1) }

func (w *sim) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

func (w *sim) time() time.Time { return epoch.Add(time.Duration(w.now)) }

// run lets things happen until a time.
func (w *sim) run(until int64) {
	for len(w.queue) > 0 && w.queue[0].at <= until && w.check.failed == "" {
		e := heap.Pop(&w.queue).(*event)
		w.now = e.at
		if e.do != nil {
			e.do()
		} else if n := e.to; n.life == e.life && n.speaker {
			n.arrive(e)
		}
	}
	w.now = until
}

// simNode is a node: a kernel, and a speaker on it.
type simNode struct {
	w    *sim
	i    int
	name string

	kernel, speaker, paused bool
	carrier                 []bool
	group                   []int // of switches that are connected; -1: port dead
	life                    uint64
	inbox                   []func()

	m       *Machine
	tickAt  int64
	synced  int64 // since when; -1: not
	leaving Leaving
	file    bool // keeps its view over a restart
	view    simView
	answers map[netip.Addr]Answer
	silent  []string
	queued  map[netip.Addr]Claim // claims to record when the API is back
	api     bool
	jump    int  // packets whose kernel time is wrong
	unfit   bool // its interfaces have no prefix that holds the addresses

	disturbed int64 // last time that something was wrong with it
	troubles  int   // that last
}

func (n *simNode) mac(segment int) link.MAC { return link.MAC{2, 0, 0, byte(segment), 0, byte(n.i)} }

func wireAddr(segment, node int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 168, byte(segment), byte(node + 1)})
}

// wireAddr6 is the address that the same node has by IPv6.
func wireAddr6(segment, node int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(segment), 15: byte(node + 1)})
}

func ifaceName(segment int) string { return [...]string{"eth0", "eth1"}[segment] }

// running says that the speaker does something.
func (n *simNode) running() bool { return n.kernel && n.speaker && !n.paused }

// begin starts the process of the speaker.
func (n *simNode) begin() {
	w := n.w
	n.life++
	n.speaker, n.paused, n.leaving, n.synced = true, false, Stay, -1
	n.inbox = nil
	n.answers = map[netip.Addr]Answer{}
	n.queued = map[netip.Addr]Claim{}
	n.m = New(Config{Node: n.name, Boot: n.life<<8 | uint64(n.i)}, &n.view, w.time())
	n.tickAt = 1 << 62
	n.segments()
	if n.file && n.view.full {
		n.sync()
	} else {
		n.view = simView{w: w, self: n}
	}
	life := n.life
	w.after(w.between(20*ms, 300*ms), func() {
		if n.life == life {
			n.reach()
		}
	})
	for seg := range w.segments {
		n.noise(seg, life)
	}
	n.flush()
}

// end stops it.
func (n *simNode) end() {
	n.speaker, n.paused = false, false
	n.life++
	n.answers = nil
	n.synced = -1
}

// sync gives the machine its view for the first time.
func (n *simNode) sync() {
	n.m.SetCluster(n.w.time(), 7)
	var peers []Peer
	for _, o := range n.w.nodes {
		p := Peer{Node: o.name}
		for seg := range n.w.segments {
			p.Endpoints = append(p.Endpoints, Endpoint{Interface: seg + 1, Addr: wireAddr(seg, o.i)})
		}
		peers = append(peers, p)
	}
	n.m.SetPeers(n.w.time(), peers)
	n.m.SetAddresses(n.w.time(), n.view.addresses(), nil)
	n.synced = n.w.now
}

// segments tells the machine its interfaces.
func (n *simNode) segments() {
	var all []Segment
	for seg := range n.w.segments {
		all = append(all, Segment{Index: seg + 1, Name: ifaceName(seg), MAC: n.mac(seg), Up: n.carrier[seg]})
	}
	n.m.SetSegments(n.w.time(), all)
}

// noise is what hosts send to everyone on a segment.
func (n *simNode) noise(segment int, life uint64) {
	n.w.after(n.w.between(20*ms, 200*ms), func() {
		if n.life != life {
			return
		}
		if n.kernel && !n.paused && n.carrier[segment] && n.group[segment] >= 0 {
			n.m.Received(n.w.time(), segment+1, n.w.time())
			n.flush()
		}
		n.noise(segment, life)
	})
}

// do runs something in the speaker, when it isn't paused.
func (n *simNode) do(life uint64, f func()) {
	switch {
	case n.life != life || !n.kernel || !n.speaker:
	case n.paused:
		if len(n.inbox) < 200 {
			n.inbox = append(n.inbox, f)
		}
	default:
		f()
		n.flush()
	}
}

// arrive takes a frame of another node.
func (n *simNode) arrive(e *event) {
	if !n.kernel || !n.carrier[e.segment] {
		return
	}
	at := n.w.time()
	if n.jump > 0 {
		n.jump--
		at = at.Add(time.Duration(n.w.between(-3600*s, 3600*s)))
	}
	p := Packet{Interface: e.segment + 1, From: wireAddr(e.segment, e.from), TTL: 255, At: at, Payload: e.payload}
	if e.v6 {
		p.From = wireAddr6(e.segment, e.from)
	}
	if n.paused {
		n.do(n.life, func() { n.m.Receive(n.w.time(), p) })
		return
	}
	n.m.Receive(n.w.time(), p)
	n.flush()
}

// resume ends a pause.
func (n *simNode) resume() {
	if !n.speaker || !n.paused {
		return
	}
	n.paused = false
	box := n.inbox
	n.inbox = nil
	for _, f := range box {
		f()
	}
	n.flush()
	n.tickAt = 1 << 62
	n.schedule(n.w.now)
}

// schedule has the machine's Tick called.
func (n *simNode) schedule(at int64) {
	at = max(at, n.w.now) + n.w.between(0, ms)
	if at >= n.tickAt {
		return
	}
	n.tickAt = at
	life := n.life
	n.w.push(&event{at: at, do: func() {
		if n.life != life || n.tickAt != at || !n.running() {
			return
		}
		n.tickAt = 1 << 62
		n.m.Tick(n.w.time())
		n.flush()
	}})
}

// connected tells whether a frame of a reaches b.
func (w *sim) connected(a, b *simNode, segment int) bool {
	return a.kernel && b.kernel && a.carrier[segment] && b.carrier[segment] && a.group[segment] >= 0 &&
		a.group[segment] == b.group[segment] && !w.cut[a.i][b.i]
}

// pass tells whether and when a frame arrives.
func (w *sim) pass(a, b *simNode, segment int) (int64, bool) {
	if !w.connected(a, b, segment) || w.chance(w.loss) {
		return 0, false
	}
	return w.between(50_000, w.maxDelay), true
}

// flush does what the machine wants.
func (n *simNode) flush() {
	w := n.w
	out := n.m.Output()
	for _, f := range out.Frames {
		seg := f.Interface - 1
		for _, to := range w.nodes {
			if to == n {
				continue
			}
			for range 2 {
				if d, ok := w.pass(n, to, seg); ok {
					for family, deaf := range w.deaf {
						if v6 := family == 1; !deaf[n.i][to.i] && !(v6 && f.Sparing) {
							w.push(&event{at: w.now + d, to: to, life: to.life, segment: seg, from: n.i, v6: v6, payload: f.Payload})
						}
					}
				}
				if !w.chance(w.dup) {
					break
				}
			}
		}
	}
	for _, a := range out.Asks {
		n.ask(a)
	}
	n.silent = out.Silent
	for _, a := range out.Answers {
		n.answers[a.Addr] = a
		if w.trace != nil { // spares a million conversions
			w.log("%s answers %v: %v as %v", n.name, a.Addr, a.Interfaces, a.As)
		}
	}
	for _, r := range out.Record {
		w.check.claimed(n, r)
		n.record(r.Addr, r.Claim)
	}
	n.schedule(n.m.Next().Sub(epoch).Nanoseconds())
}

// ask asks the wire for a node; its kernel answers.
func (n *simNode) ask(a Ask) {
	w, seg, life := n.w, a.Interface-1, n.life
	for _, to := range w.nodes {
		if wireAddr(seg, to.i) != a.Addr && wireAddr6(seg, to.i) != a.Addr {
			continue
		}
		there, ok := w.pass(n, to, seg)
		back, ok2 := w.pass(to, n, seg)
		if ok && ok2 {
			w.after(there+back, func() {
				n.do(life, func() { n.m.Answered(w.time(), a.Interface, a.Addr, to.mac(seg)) })
			})
		}
	}
}

func (w *sim) log(format string, args ...any) {
	if w.trace != nil {
		w.trace("%8.3f %s", float64(w.now)/1e9, fmt.Sprintf(format, args...))
	}
}
