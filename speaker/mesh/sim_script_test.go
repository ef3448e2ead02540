// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
)

// newSim makes a world from a seed.
func newSim(seed uint64, trace func(string, ...any)) *sim {
	rng := rand.New(rand.NewPCG(seed, 4))
	w := &sim{seed: seed, rng: rng, segments: 1, trace: trace, maxDelay: []int64{500_000, 2 * ms, 10 * ms}[rng.IntN(3)]}
	n := 2 + rng.IntN(4)
	switch {
	case seed%2000 == 0:
		n = 20 + rng.IntN(31)
	case seed%50 == 0:
		n = 6 + rng.IntN(10)
	}
	if w.chance(0.2) {
		w.segments = 2
	}
	if w.chance(0.3) {
		w.loss = []float64{0.01, 0.03, 0.05}[rng.IntN(3)]
	}
	if w.chance(0.3) {
		w.dup = 0.05
	}
	w.api.addresses = map[netip.Addr]*simAddress{}
	w.api.drained = make([]bool, n)
	w.cut, w.deaf = square(n), [2][][]bool{square(n), square(n)}
	for i := range n {
		w.nodes = append(w.nodes, &simNode{
			w: w, i: i, name: fmt.Sprintf("node-%02d", i), kernel: true, api: true, synced: -1,
			carrier: []bool{true, true}, group: make([]int, 2), file: w.chance(0.3), disturbed: -1 << 60,
		})
	}
	recorded := w.chance(0.5)
	for range 1 + rng.IntN(6) {
		a := w.newAddress()
		if recorded {
			a.record = Claim{Node: w.nodes[rng.IntN(n)].name, Term: w.between(1, 20)}
		}
	}
	w.check.init(w)
	return w
}

// square is a table of what each node does to each.
func square(n int) [][]bool {
	rows := make([][]bool, n)
	for i := range rows {
		rows[i] = make([]bool, n)
	}
	return rows
}

// newAddress has the controller give an address to a Service.
func (w *sim) newAddress() *simAddress {
	j := byte(len(w.api.addresses))
	a := &simAddress{segment: w.rng.IntN(w.segments)}
	w.propose(a)
	if w.chance(0.5) {
		a.addr = netip.AddrFrom4([4]byte{10, 0, byte(a.segment), j})
	} else {
		a.addr = netip.AddrFrom16([16]byte{0xfd, 15: j})
	}
	w.api.addresses[a.addr] = a
	return a
}

// propose has the controller choose a node that isn't drained.
func (w *sim) propose(a *simAddress) {
	for a.proposed = w.rng.IntN(len(w.nodes)); w.api.drained[a.proposed]; {
		a.proposed = w.rng.IntN(len(w.nodes))
	}
}

// play runs a schedule, and returns what it broke.
func (w *sim) play() string {
	for _, n := range w.nodes {
		w.after(w.between(0, 200*ms), n.begin)
	}
	start := 5 * s
	if w.chance(0.7) {
		// The speakers have been there for long: no patience of cold starts.
		start = 1 * s
		w.after(700*ms, func() {
			for _, n := range w.nodes {
				if n.m != nil {
					n.m.started = epoch.Add(-100e9)
				}
			}
		})
	}
	w.after(20*ms, w.check.look)
	w.run(start)
	w.check.begin()
	end := start + w.between(2*s, 8*s)
	calm := w.chance(0.15)
	for range 1 + w.rng.IntN(5) {
		at := w.between(start, end)
		if calm {
			w.after(at-w.now, w.restartSome)
		} else {
			w.after(at-w.now, w.trouble)
		}
	}
	w.run(end)
	w.heal()
	w.run(end + 17*s)
	w.check.still()
	w.run(end + 19*s)
	w.check.final()
	return w.check.failed
}

func (w *sim) any() *simNode { return w.nodes[w.rng.IntN(len(w.nodes))] }

// during makes trouble for a node for some time.
func (n *simNode) during(least, most int64, begin, end func()) {
	w := n.w
	n.troubles++
	n.disturb()
	begin()
	w.after(w.between(least, most), func() {
		n.troubles--
		n.disturb()
		end()
	})
}

func (n *simNode) disturb() {
	n.disturbed = n.w.now
	n.w.check.lastChange = n.w.now
}

// restartSome ends a speaker, with or without a word, that is soon back.
func (w *sim) restartSome() {
	n := w.any()
	if !n.running() || n.troubles > 0 {
		return
	}
	n.w.check.lastChange = w.now
	stop := func() {
		w.log("%s: speaker ends", n.name)
		n.end()
		w.after(w.between(50*ms, 7*s), func() {
			w.log("%s: speaker starts", n.name)
			w.check.lastChange = w.now
			n.begin()
		})
	}
	if w.chance(0.5) {
		stop()
		return
	}
	n.m.Leave(w.time(), Restart)
	n.leaving = Restart
	n.flush()
	w.nextTick(n)
	life := n.life
	w.after(w.between(5*ms, 300*ms), func() {
		if n.life == life {
			stop()
		}
	})
}

func (w *sim) nextTick(n *simNode) { n.schedule(w.now) }

// trouble makes something happen.
func (w *sim) trouble() {
	n := w.any()
	seg := w.rng.IntN(w.segments)
	switch w.rng.IntN(16) {
	case 0:
		w.restartSome()
	case 1:
		w.crash(n)
	case 2:
		w.powerOff(n)
	case 3:
		if n.running() {
			w.log("%s: paused", n.name)
			n.during(150*ms, 8*s, func() { n.paused = true }, func() { w.log("%s: resumed", n.name); n.resume() })
		}
	case 4:
		w.log("%s: cable %d out", n.name, seg)
		n.during(100*ms, 6*s, func() { n.setCarrier(seg, false) }, func() { w.log("%s: cable %d in", n.name, seg); n.setCarrier(seg, true) })
	case 5:
		w.log("%s: port %d silent", n.name, seg)
		n.during(100*ms, 6*s, func() { n.group[seg] = -1 }, func() { w.log("%s: port %d works", n.name, seg); n.group[seg] = 0 })
	case 6, 7:
		w.partition(seg)
	case 8:
		w.cutSome(n)
	case 9:
		w.outage(n)
	case 10:
		w.drain(n)
	case 11:
		w.leave(n)
	case 12:
		w.log("%s: clock jumps", n.name)
		n.jump = 1 + w.rng.IntN(2) // those on their way
		n.disturb()
	case 13:
		w.log("new address")
		a := w.newAddress()
		w.check.add(a)
		w.check.lastChange = w.now
		w.changed(a.addr)
	case 14:
		w.misfit(n)
	case 15:
		w.deafen(n)
	}
}

// deafen has hellos between a node and others lost in one family, one way or
// both. That is no trouble: there is the other family.
func (w *sim) deafen(n *simNode) {
	deaf, out, in, p := w.deaf[w.rng.IntN(2)], w.chance(0.7), w.chance(0.5), w.rng.Float64()
	w.log("hellos of %s are lost in one family", n.name)
	for _, o := range w.nodes {
		if o == n || !w.chance(p) {
			continue
		}
		deaf[n.i][o.i], deaf[o.i][n.i] = out, in
	}
	w.after(w.between(200*ms, 6*s), func() {
		w.log("hellos of %s arrive in both families", n.name)
		for _, o := range w.nodes {
			deaf[n.i][o.i], deaf[o.i][n.i] = false, false
		}
	})
}

// crash ends a speaker whose kernel lives.
func (w *sim) crash(n *simNode) {
	if !n.speaker {
		return
	}
	w.log("%s: speaker crashes", n.name)
	n.during(300*ms, 14*s, n.end, func() {
		if n.kernel && !n.speaker {
			w.log("%s: speaker starts", n.name)
			n.begin()
		}
	})
}

// powerOff ends a node.
func (w *sim) powerOff(n *simNode) {
	if !n.kernel {
		return
	}
	w.log("%s: power off", n.name)
	n.during(s, 8*s, func() { n.end(); n.kernel = false }, func() {
		n.kernel = true
		w.log("%s: power on", n.name)
		n.begin()
	})
}

func (n *simNode) setCarrier(seg int, up bool) {
	n.carrier[seg] = up
	n.do(n.life, n.segments)
}

// partition parts the nodes of a segment into two sides, clients on both.
func (w *sim) partition(seg int) {
	w.log("partition of %d", seg)
	var side []*simNode
	for _, n := range w.nodes {
		if n.group[seg] == 0 {
			if w.chance(0.4) {
				n.group[seg] = 1
				side = append(side, n)
			}
			n.disturb()
			n.troubles++
		} else {
			n.troubles++
		}
	}
	w.after(w.between(100*ms, 6*s), func() {
		w.log("partition of %d heals", seg)
		for _, n := range side {
			if n.group[seg] == 1 {
				n.group[seg] = 0
			}
		}
		for _, n := range w.nodes {
			n.troubles--
			n.disturb()
		}
	})
}

// cutSome cuts links of a node to others, one way or both.
func (w *sim) cutSome(n *simNode) {
	out, in, p := w.chance(0.7), w.chance(0.5), w.rng.Float64()
	var undo []func()
	for _, o := range w.nodes {
		if o == n || !w.chance(p) {
			continue
		}
		o.troubles++
		o.disturb()
		undo = append(undo, func() { o.troubles--; o.disturb() })
		if out && !w.cut[n.i][o.i] {
			w.cut[n.i][o.i] = true
			undo = append(undo, func() { w.cut[n.i][o.i] = false })
			w.log("%s -> %s cut", n.name, o.name)
		}
		if in && !w.cut[o.i][n.i] {
			w.cut[o.i][n.i] = true
			undo = append(undo, func() { w.cut[o.i][n.i] = false })
			w.log("%s -> %s cut", o.name, n.name)
		}
	}
	n.during(200*ms, 6*s, func() {}, func() {
		w.log("links of %s work", n.name)
		for _, u := range undo {
			u()
		}
	})
}

// outage takes the API from one or all.
func (w *sim) outage(n *simNode) {
	if w.chance(0.5) {
		w.log("%s: no API", n.name)
		n.api = false
		w.after(w.between(s, 8*s), func() { n.api = true; w.log("%s: API", n.name); n.reach() })
		w.after(100*ms, n.reach)
		return
	}
	w.log("no API")
	w.api.down = true
	for _, n := range w.nodes {
		w.after(w.between(50*ms, 300*ms), n.reach)
	}
	w.after(w.between(s, 8*s), w.apiBack)
}

func (w *sim) apiBack() {
	w.log("API is back")
	w.api.down = false
	for _, n := range w.nodes {
		w.after(w.between(20*ms, 500*ms), n.reach)
	}
}

// drain has a node drained by annotation; the controller proposes others.
func (w *sim) drain(n *simNode) {
	left := 0
	for _, d := range w.api.drained {
		left += 1 - int(bit(d))
	}
	if w.api.drained[n.i] || left == 1 {
		return
	}
	w.log("%s: drained", n.name)
	w.api.drained[n.i] = true
	n.troubles++
	n.disturb()
	for _, a := range w.api.sorted() {
		if a.record.Node == n.name || a.proposed == n.i {
			w.propose(a)
		}
	}
	for _, o := range w.nodes {
		w.after(w.between(2*ms, 50*ms), o.reach)
	}
}

// leave has a speaker hand over, whether it is drained or ousted.
func (w *sim) leave(n *simNode) {
	if !n.running() || n.synced < 0 {
		return
	}
	how := Drain
	if w.chance(0.4) {
		how = Ousted
	}
	w.log("%s: leaves (%d)", n.name, how)
	life := n.life
	n.during(3*s, 6*s, func() {
		n.leaving = how
		n.m.Leave(w.time(), how)
		n.flush()
		w.nextTick(n)
	}, func() {
		if n.life == life && n.running() {
			w.log("%s: stays", n.name)
			n.leaving = Stay
			n.m.Leave(w.time(), Stay)
			n.flush()
			w.nextTick(n)
		}
	})
}

// misfit takes the prefix from a node's interfaces, which stay up.
func (w *sim) misfit(n *simNode) {
	set := func(unfit bool) func() {
		return func() {
			w.log("%s: unfit %v", n.name, unfit)
			n.unfit = unfit
			n.do(n.life, func() {
				if n.synced >= 0 {
					n.m.SetAddresses(w.time(), n.view.addresses(), nil)
				}
			})
		}
	}
	n.during(200*ms, 5*s, set(true), set(false))
}

// heal ends all troubles but for nodes that are gone for good.
func (w *sim) heal() {
	w.log("all heals")
	w.loss = 0
	for i, n := range w.nodes {
		clear(w.cut[i])
		clear(w.deaf[0][i])
		clear(w.deaf[1][i])
		n.api = true
		n.unfit = false
		n.disturb()
		for seg := range w.segments {
			n.group[seg] = 0
			n.setCarrier(seg, true)
		}
		n.resume()
		if n.speaker && n.leaving != Stay && n.running() {
			n.leaving = Stay
			n.m.Leave(w.time(), Stay)
			n.flush()
		}
		if n.running() && n.synced >= 0 {
			n.m.SetAddresses(w.time(), n.view.addresses(), nil)
		}
	}
	w.apiBack()
}
