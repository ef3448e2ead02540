// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// calm returns a world of speakers that have been there for long, with one
// address, and the node that owns it.
func calm(t *testing.T, seed uint64, nodes int) (*sim, *simAddress, *simNode) {
	t.Helper()
	w := newSim(seed, nil)
	w.loss, w.dup, w.segments, w.maxDelay = 0, 0, 1, ms
	w.nodes = w.nodes[:0]
	w.cut, w.deaf = square(nodes), [2][][]bool{square(nodes), square(nodes)}
	for i := range nodes {
		w.nodes = append(w.nodes, &simNode{
			w: w, i: i, name: string(rune('a' + i)), kernel: true, api: true, synced: -1,
			carrier: []bool{true, true}, group: make([]int, 2), disturbed: -1 << 60,
		})
	}
	w.api.drained = make([]bool, nodes)
	a := &simAddress{addr: netip.MustParseAddr("10.0.0.1")}
	w.api.addresses = map[netip.Addr]*simAddress{a.addr: a}
	w.check.init(w)
	for _, n := range w.nodes {
		w.after(w.between(0, 300*ms), n.begin)
	}
	w.run(s)
	for _, n := range w.nodes {
		n.m.started = epoch.Add(-100e9)
	}
	w.run(2*s + w.between(0, 100*ms))
	if got := w.who(a); !slices.Equal(got, []string{"a"}) {
		t.Fatalf("answered by %v at first", got)
	}
	return w, a, w.nodes[0]
}

// who are the nodes that answer, or in whose place others do.
func (w *sim) who(a *simAddress) []string {
	var out []string
	for _, n := range w.nodes {
		if mac, ok := n.answer(a); ok {
			out = append(out, w.nodes[mac[5]].name)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(out)))
}

// until lets things happen until the address is answered by one node only, as
// told, and returns how long that took.
func (w *sim) until(t *testing.T, a *simAddress, most int64, want func(string) bool) time.Duration {
	t.Helper()
	for began := w.now; w.now < began+most; {
		w.run(w.now + ms)
		if got := w.who(a); len(got) == 1 && want(got[0]) {
			return time.Duration(w.now - began)
		}
	}
	t.Fatalf("seed %d: answered by %v in the end", w.seed, w.who(a))
	return 0
}

func TestDeadOwnerIsReplaced(t *testing.T) {
	for _, tt := range []struct {
		name  string
		nodes int
		api   bool
		most  time.Duration
	}{
		{"two nodes", 2, true, 600 * time.Millisecond},
		{"two nodes, no API", 2, false, 600 * time.Millisecond},
		{"three nodes", 3, true, 400 * time.Millisecond},
		{"eight nodes, no API", 8, false, 400 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var took []time.Duration
			for seed := range uint64(40) {
				w, a, owner := calm(t, seed+1, tt.nodes)
				if !tt.api {
					w.api.down = true
					for _, n := range w.nodes {
						n.reach()
					}
				}
				owner.end()
				owner.kernel = false
				took = append(took, w.until(t, a, 3*s, func(n string) bool { return n != "a" }))
			}
			slices.Sort(took)
			t.Logf("median %v, longest %v", took[len(took)/2], took[len(took)-1])
			if took[len(took)-1] > tt.most {
				t.Errorf("took %v, want at most %v", took[len(took)-1], tt.most)
			}
		})
	}
}

// Somebody always answers with the MAC of the one owner while speakers are
// restarted one after the other.
func TestRollingRestart(t *testing.T) {
	for seed := range uint64(20) {
		w, a, _ := calm(t, seed+1, 4)
		for _, n := range w.nodes {
			n.m.Leave(w.time(), Restart)
			n.flush()
			n.schedule(w.now)
			w.run(w.now + 50*ms)
			n.end()
			gap := int64(0)
			for stop, start := w.now+15*s, w.now+3*s; w.now < stop; {
				if w.now >= start && !n.speaker {
					n.begin()
				}
				w.run(w.now + 10*ms)
				switch got := w.who(a); {
				case len(got) == 0:
					gap += 10 * ms
				case !slices.Equal(got, []string{"a"}):
					t.Fatalf("seed %d: answered by %v", seed+1, got)
				}
			}
			if gap > 300*ms {
				t.Errorf("seed %d: nobody answered for %v", seed+1, time.Duration(gap))
			}
		}
		if a.record.Term != 1 {
			t.Errorf("seed %d: term %d on record", seed+1, a.record.Term)
		}
	}
}

// A leaver answers until its successor does.
func TestDrain(t *testing.T) {
	for _, how := range []Leaving{Drain, Ousted} {
		w, a, owner := calm(t, 1, 3)
		owner.m.Leave(w.time(), how)
		owner.flush()
		owner.schedule(w.now)
		for end := w.now + 5*s; w.now < end; {
			w.run(w.now + ms)
			if len(w.who(a)) == 0 {
				t.Fatalf("leaving %d: nobody answers", how)
			}
		}
		if got := w.who(a); len(got) != 1 || got[0] == "a" || owner.m.Remaining() != 0 {
			t.Errorf("leaving %d: answered by %v in the end, %d remain", how, got, owner.m.Remaining())
		}
	}
}

// When the API server refuses everybody, nothing changes; a node that dies
// then is replaced nevertheless.
func TestAllOusted(t *testing.T) {
	w, a, owner := calm(t, 1, 3)
	for _, n := range w.nodes {
		n.m.Leave(w.time(), Ousted)
		n.flush()
		n.schedule(w.now)
		w.run(w.now + 500*ms)
	}
	w.run(w.now + 10*s)
	if got := w.who(a); !slices.Equal(got, []string{"a"}) {
		t.Fatalf("answered by %v", got)
	}
	owner.end()
	owner.kernel = false
	w.until(t, a, s, func(n string) bool { return n != "a" })
}

// When the API server takes all again, they find out one after the other. Who
// is last isn't the one that is refused.
func TestOustedNodesComeBackOneByOne(t *testing.T) {
	for _, nodes := range []int{2, 3} {
		w, a, _ := calm(t, 1, nodes)
		leave := func(how Leaving, pause int64) {
			for _, n := range slices.Backward(w.nodes) { // the owner is the first
				n.m.Leave(w.time(), how)
				n.flush()
				n.schedule(w.now)
				w.run(w.now + pause)
			}
		}
		leave(Ousted, 500*ms)
		w.run(w.now + 10*s)
		leave(Stay, s)
		w.run(w.now + 5*s)
		if got := w.who(a); !slices.Equal(got, []string{"a"}) || a.record.Term != 1 {
			t.Errorf("%d nodes: answered by %v, term %d", nodes, got, a.record.Term)
		}
	}
}

// A node that hears nothing claims nothing, however long it takes.
func TestDeafNodeClaimsNothing(t *testing.T) {
	for seed := range uint64(40) {
		w, a, _ := calm(t, seed+1, 3)
		w.nodes[1].group[0] = -1
		w.run(w.now + 5*s)
		w.nodes[1].group[0] = 0
		w.run(w.now + 5*s)
		if got := w.who(a); !slices.Equal(got, []string{"a"}) || a.record.Term != 1 {
			t.Errorf("seed %d: answered by %v, term %d", seed+1, got, a.record.Term)
		}
	}
}

// An owner that is paused is stood in for; when it goes on nothing has moved.
func TestPausedOwner(t *testing.T) {
	w, a, owner := calm(t, 1, 3)
	owner.paused = true
	took := w.until(t, a, 3*s, func(n string) bool { return n == "a" })
	if took > 500*time.Millisecond {
		t.Errorf("nobody answered for %v", took)
	}
	w.run(w.now + 5*s)
	owner.resume()
	for end := w.now + 3*s; w.now < end; {
		w.run(w.now + ms)
		if got := w.who(a); !slices.Equal(got, []string{"a"}) {
			t.Fatalf("answered by %v", got)
		}
	}
	if a.record.Term != 1 {
		t.Errorf("term %d on record", a.record.Term)
	}
}

// An owner that sends but receives nothing can't answer, and is replaced.
func TestDeafOwner(t *testing.T) {
	w, a, owner := calm(t, 1, 3)
	for _, n := range w.nodes[1:] {
		w.cut[n.i][owner.i] = true
	}
	for end := w.now + 2*s; w.now < end; {
		w.run(w.now + ms)
	}
	for _, n := range w.nodes[1:] {
		if best, _ := n.m.Claim(a.addr); best.Node == "a" {
			t.Errorf("%s still takes the deaf node for the owner", n.name)
		}
	}
}

// An owner that loses the network of an address, but not its interface, hands
// the address over at once.
func TestMuteOwner(t *testing.T) {
	w, a, owner := calm(t, 1, 3)
	owner.unfit = true
	owner.m.SetAddresses(w.time(), owner.view.addresses(), nil)
	owner.flush()
	took := w.until(t, a, s, func(n string) bool { return n != "a" })
	if took > 50*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

// A speaker that restarts without the API server learns from its peers what it
// claimed in its former life.
func TestFormerLife(t *testing.T) {
	w, a, owner := calm(t, 1, 3)
	w.api.down = true
	for _, n := range w.nodes {
		n.reach()
		n.file = true
	}
	owner.end()
	owner.kernel = false
	w.until(t, a, 2*s, func(n string) bool { return n != "a" })
	next := w.byName(w.who(a)[0])
	w.run(w.now + s)
	next.end()
	w.run(w.now + 2*s)
	next.begin()
	w.run(w.now + 2*s)
	if got := w.who(a); !slices.Equal(got, []string{next.name}) {
		t.Errorf("answered by %v, want %s", got, next.name)
	}
	if best, _ := next.m.Claim(a.addr); best.Node != next.name || best.Term != 2 {
		t.Errorf("it claims %v, want term 2", best)
	}
}

// An address that goes is answered by nobody, and nothing remains of it; when
// it comes back it is claimed anew.
func TestAddressGone(t *testing.T) {
	w, a, _ := calm(t, 1, 3)
	delete(w.api.addresses, a.addr)
	w.changed(a.addr)
	w.run(w.now + s)
	for _, n := range w.nodes {
		if _, ok := n.answer(a); ok || n.m.addrs[a.addr] != nil {
			t.Errorf("%s answers %v and knows %+v", n.name, ok, n.m.addrs[a.addr])
		}
	}
	again := &simAddress{addr: a.addr, proposed: 1}
	w.api.addresses[a.addr] = again
	w.check.add(again)
	w.changed(a.addr)
	w.until(t, again, s, func(n string) bool { return n == "b" })
}
