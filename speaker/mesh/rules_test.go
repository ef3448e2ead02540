// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

func TestSuspicion(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.1")
	m, now := machine(Config{Node: "b", Boot: 3}, fixed{"b", "c"},
		Address{Addr: vip, Interfaces: []string{"eth0"}, Recorded: Claim{Node: "a", Term: 4}})
	a, c := newOther("a", nil), newOther("c", nil)
	for range 5 {
		now = now.Add(50 * time.Millisecond)
		for _, o := range []*other{a, c} {
			m.Receive(now, packet(now, o.hello(hello{state: Synced}, heard{node: hashName("b"), state: Synced})))
		}
		m.Tick(now)
	}
	m.Output()
	m.Suspect(now, vip)
	if out := m.Output(); len(out.Frames) != 1 || len(out.Record) != 0 {
		t.Fatalf("got %+v, want a word to the others and no claim", out)
	}
	say := func(o *other) {
		b := appendWord(o.begin(kindConfirm, 7), &word{addr: vip, term: 4, node: []byte("a")})
		m.Receive(now, packet(now, o.end(append(b, 1, 'b'))))
	}
	say(a)
	if got, _ := m.Claim(vip); got.Node != "a" {
		t.Fatalf("the suspect's own word was taken: %v", got)
	}
	say(c)
	if got, _ := m.Claim(vip); got.Node != "b" || got.Term != 5 {
		t.Fatalf("got %v, want term 5 by b", got)
	}
}

// Who is asked to look confirms what a peer suspects, once.
func TestConfirm(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.1")
	m, now := machine(Config{Node: "c", Boot: 3}, fixed{"b", "c"},
		Address{Addr: vip, Interfaces: []string{"eth0"}, Recorded: Claim{Node: "a", Term: 4}})
	m.Confirm(now, vip)
	if out := m.Output(); len(out.Frames) != 0 {
		t.Fatalf("confirmed what nobody suspects: %+v", out)
	}
	b := newOther("b", nil)
	suspect := func() []byte {
		f := appendWord(b.begin(kindSuspect, 7), &word{addr: vip, term: 4, node: []byte("a")})
		return b.end(append(f, 1, 'b'))
	}
	m.Receive(now, packet(now, suspect()))
	m.Receive(now, packet(now, suspect()))
	if diff := cmp.Diff([]netip.Addr{vip}, m.Output().Probe, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Fatalf("probes (-want +got):\n%s", diff)
	}
	m.Confirm(now, vip)
	out := m.Output()
	if len(out.Frames) != 1 {
		t.Fatalf("got %+v, want one frame", out)
	}
	h, body, _, _ := b.open(out.Frames[0].Payload)
	w, by, ok := decodeSuspicion(body)
	if !ok || h.kind != kindConfirm || w.addr != vip || w.term != 4 || string(by) != "b" {
		t.Errorf("got kind %d, %+v by %s", h.kind, w, by)
	}
}

// Speakers that don't hear each other for a firewall must not take each other's
// addresses in turn: who hears nobody stands in until the kernel is silent, too.
func TestWhoHearsNobodyStandsIn(t *testing.T) {
	for _, reachable := range []bool{true, false} {
		vip, node := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.168.0.9")
		m, now := machine(Config{Node: "b", Boot: 3}, fixed{"a", "b"},
			Address{Addr: vip, Interfaces: []string{"eth0"}, Recorded: Claim{Node: "a", Term: 4}})
		m.SetRecorder(now, reachable)
		mac := link.MAC{2, 2}
		m.Receive(now, packet(now, newOther("a", nil).hello(hello{state: Synced, mac: mac})))
		var last Answer
		run := func(d time.Duration, alive bool) {
			for end := now.Add(d); now.Before(end); {
				now = now.Add(20 * time.Millisecond)
				m.Received(now, 1, now)
				m.Tick(now)
				out := m.Output()
				if len(out.Answers) > 0 {
					last = out.Answers[0]
				}
				if len(out.Asks) > 0 && alive {
					m.Answered(now, 1, node, mac)
				}
			}
		}
		run(time.Minute, true)
		if got, _ := m.Claim(vip); got.Node != "a" || last.As["eth0"] != mac {
			t.Errorf("while the kernel answers: %+v, answered %+v", got, last)
		}
		c := newOther("c", nil)
		for range 20 {
			m.Receive(now, packet(now, c.hello(hello{state: Synced, mac: link.MAC{2, 3}}, heard{node: hashName("b"), state: Synced})))
			run(100*time.Millisecond, true)
		}
		if got, _ := m.Claim(vip); got.Node != "a" {
			t.Errorf("when the first of the others is heard again: %+v", got)
		}
		run(2*time.Second, false)
		if got, _ := m.Claim(vip); got.Node != "b" || got.Term != 5 || len(last.Interfaces) != 1 {
			t.Errorf("once it doesn't: %+v, answered %+v", got, last)
		}
	}
}

func TestTheRecordOfOneWhoIsNotHeardIsOutlived(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.1")
	m, now := machine(Config{Node: "b", Boot: 3}, fixed{"b", "c"},
		Address{Addr: vip, Interfaces: []string{"eth0"}, Recorded: Claim{Node: "b", Term: 4}})
	m.SetRecorder(now, true)
	c := newOther("c", nil)
	var wrote []Record
	run := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); {
			now = now.Add(100 * time.Millisecond)
			m.Receive(now, packet(now, c.hello(hello{state: Synced}, heard{node: hashName("b"), state: Synced})))
			m.Tick(now)
			out := m.Output()
			wrote = append(wrote, out.Record...)
			if len(out.Answers) > 0 {
				t.Errorf("answers change: %+v", out.Answers)
			}
		}
	}
	run(time.Second)
	m.SetAddresses(now, []Address{{Addr: vip, Interfaces: []string{"eth0"}, Recorded: Claim{Node: "a", Term: 6}}}, nil)
	run(59 * time.Second)
	if got, _ := m.Claim(vip); got.Term != 4 || len(wrote) != 0 {
		t.Errorf("claimed %+v and recorded %+v too early", got, wrote)
	}
	run(2 * time.Second)
	want := Claim{Node: "b", Term: 7, Rank: 1}
	if got, _ := m.Claim(vip); got != want || len(wrote) != 1 || wrote[0].Claim != want {
		t.Errorf("claimed %+v and recorded %+v, want %+v", got, wrote, want)
	}
}

func TestUnicast(t *testing.T) {
	m, now := machine(Config{Node: "me", Boot: 3, Unicast: true}, fixed{"me"})
	a, b := netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("192.168.0.2")
	m.SetPeers(now, []Peer{{Node: "me", Endpoints: []Endpoint{{1, netip.MustParseAddr("192.168.0.3")}}},
		{Node: "x", Endpoints: []Endpoint{{2, b}, {1, a}}}, {Node: "y", Endpoints: []Endpoint{{1, b}}}})
	now = now.Add(interval)
	m.Tick(now)
	var to []netip.Addr
	for _, f := range m.Output().Frames {
		to = append(to, f.To)
	}
	if diff := cmp.Diff([]netip.Addr{a, b}, to, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("receivers (-want +got):\n%s", diff)
	}
}

// After a stall nobody is judged by what was not heard in it, and own
// addresses are not answered for a moment.
func TestStall(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.1")
	m, now := machine(Config{Node: "me", Boot: 3}, fixed{"me"},
		Address{Addr: vip, Interfaces: []string{"eth0"}, Recorded: Claim{Node: "me", Term: 4}},
		Address{Addr: vip.Next(), Interfaces: []string{"eth0"}, Recorded: Claim{Node: "peer", Term: 4}})
	hear(m, []*other{newOther("peer", nil)}, &now, time.Second)
	now = now.Add(2 * time.Second)
	m.Received(now, 1, now)
	m.Tick(now)
	out := m.Output()
	if !slices.Equal(out.Silent, []string{"eth0"}) || len(out.Answers) != 0 || len(out.Record) != 0 {
		t.Errorf("got %+v, want silence", out)
	}
	if m.Stalls() != 1 {
		t.Errorf("%d stalls", m.Stalls())
	}
	got := m.Peers(now)
	if len(got) != 1 || got[0].Node != "peer" || got[0].Heard || got[0].State != Synced || got[0].Claims != 1 {
		t.Errorf("peers: %+v", got)
	}
}

// What is to be done about many addresses comes in parts, and at once.
func TestManyAnswersComeInParts(t *testing.T) {
	const many = 2*outputs + 1
	var list []Address
	for i := range many {
		list = append(list, Address{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Interfaces: []string{"eth0"}, Proposed: "me"})
	}
	now := epoch
	m := New(Config{Node: "me", Boot: 3}, mine{"me"}, now)
	m.SetCluster(now, 7)
	m.SetSegments(now, []Segment{{Index: 1, Name: "eth0", MAC: link.MAC{2, 1}, Up: true}})
	m.SetRecorder(now, true)
	m.SetAddresses(now, list, nil)
	answered, recorded := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for began := (time.Time{}); len(answered) < many || len(recorded) < many; {
		if now.Sub(epoch) > time.Minute {
			t.Fatalf("%d answers and %d claims of %d", len(answered), len(recorded), many)
		}
		m.Tick(now)
		out := m.Output()
		if len(out.Answers) > outputs || len(out.Record) > outputs {
			t.Fatalf("%d answers and %d claims at a time", len(out.Answers), len(out.Record))
		}
		for _, a := range out.Answers {
			answered[a.Addr] = len(a.Interfaces) > 0
		}
		for _, r := range out.Record {
			recorded[r.Addr] = true
		}
		if began.IsZero() && len(out.Answers) > 0 {
			began = now
		}
		more := !began.IsZero() && (len(answered) < many || len(recorded) < many)
		if !began.IsZero() && out.More != more {
			t.Fatalf("More is %t after %d answers and %d claims of %d", out.More, len(answered), len(recorded), many)
		}
		if more && m.Next().After(now) {
			t.Fatalf("the rest has to wait for %s", m.Next().Sub(now))
		}
		now = m.Next()
	}
	for addr, answers := range answered {
		if !answers {
			t.Errorf("%s is not answered", addr)
		}
	}
}

// Another claimant is told and announced against once a tick, however often it
// speaks.
func TestALowerClaimIsAnnouncedAgainstOnce(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.1")
	m, now := machine(Config{Node: "me", Boot: 3}, fixed{"me"},
		Address{Addr: vip, Interfaces: []string{"eth0"}, Recorded: Claim{Node: "me", Term: 4}})
	o := newOther("peer", nil)
	for range 2 {
		for range 100 {
			m.Receive(now, packet(now, o.claims(word{addr: vip, term: 3}, word{addr: vip, term: 2})))
		}
		if got := m.Output().Announce; !slices.Equal(got, []netip.Addr{vip}) {
			t.Errorf("announced %v", got)
		}
	}
}

// One address whose terms are used up must not make a frame that nobody takes:
// other claims are in it, too.
func TestTermsEnd(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.1")
	m, now := machine(Config{Node: "me", Boot: 3}, mine{"me"}, Address{Addr: vip, Proposed: "me"})
	m.addrs[vip].floor = maxTerm - 1 // frames alone take it there in small steps only
	o := newOther("peer", nil)
	for _, released := range []bool{false, true} {
		m.Receive(now, packet(now, o.hello(hello{state: Synced})))
		m.Receive(now, packet(now, o.claims(word{addr: vip, term: maxTerm, released: released})))
		now = now.Add(interval)
		m.Tick(now)
		for _, f := range m.Output().Frames {
			h, body, why, ok := o.open(f.Payload)
			if !ok {
				t.Fatal(why)
			}
			if _, _, ok := decodeClaims(body); h.kind == kindClaims && !ok {
				t.Error("a frame that others take for malformed")
			}
		}
	}
	if c, ok := m.Claim(vip); ok {
		t.Errorf("claimed: %+v", c)
	}
}

// Hellos go out by IPv4 alone while all peers name this node as heard by it,
// with one by both families now and then; and at once by both when one doesn't.
func TestHellosGoOutByBothFamiliesWhereOneMightNotDo(t *testing.T) {
	m, now := machine(Config{Node: "me", Boot: 3}, fixed{"me"})
	o := newOther("peer", nil)
	names := heard{node: hashName("me"), age: 1, state: Synced, ipv4: true}
	// during has hellos of the peer arrive for some time, and counts the own
	// ones, and those of them by both families.
	during := func(d time.Duration, arrive func(p Packet)) (all, broad int) {
		for end, next := now.Add(d), now; now.Before(end); now = now.Add(10 * time.Millisecond) {
			if !now.Before(next) {
				next = now.Add(interval)
				arrive(packet(now, o.hello(hello{state: Synced}, names)))
			}
			m.Tick(now)
			for _, f := range m.Output().Frames {
				if all++; !f.Sparing {
					broad++
				}
			}
		}
		return all, broad
	}
	hear := func(p Packet) { m.Receive(now, p) }
	during(2*time.Second, hear)
	if all, broad := during(10*time.Second, hear); broad < all/broadEvery || broad > all/broadEvery+1 {
		t.Errorf("%d of %d hellos by both families while all is well", broad, all)
	}
	if all, broad := during(missed+50*time.Millisecond, func(Packet) {}); broad < 1 || all < 2 {
		t.Errorf("%d of %d hellos by both families when the peer is silent", broad, all)
	}
	during(5*time.Second, hear)
	by6 := func(p Packet) {
		p.From = netip.MustParseAddr("fe80::9")
		m.Receive(now, p)
	}
	during(missed+50*time.Millisecond, by6)
	if all, broad := during(20*time.Second, by6); broad != all {
		t.Errorf("%d of %d hellos by both families while the peer is heard by IPv6 alone", broad, all)
	}
	during(5*time.Second, hear)
	names.ipv4 = false
	during(20*time.Millisecond, func(Packet) {})
	if all, broad := during(20*time.Millisecond, hear); all != 1 || broad != 1 {
		t.Errorf("%d of %d hellos by both families at once when the peer doesn't hear IPv4", broad, all)
	}
}

// Who has claimed an address a moment ago is there, though it has yet to say
// hello: what is on record of a node that nobody hears doesn't take it away.
func TestAClaimIsAWordOfLife(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.1")
	for _, tt := range []struct {
		name string
		wait time.Duration
		want string
	}{
		{"just claimed", 10 * time.Millisecond, "c"},
		{"claimed, and not heard again", time.Second, "x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := Address{Addr: vip, Interfaces: []string{"eth0"}, Recorded: Claim{Node: "a", Term: 4}}
			m, now := machine(Config{Node: "b", Boot: 3}, fixed{"c", "d"}, addr)
			c := newOther("c", nil)
			m.Receive(now, packet(now, c.claims(word{addr: vip, term: 5, rank: 1})))
			now = now.Add(tt.wait)
			m.Receive(now, packet(now, newOther("d", nil).hello(hello{state: Synced})))
			addr.Recorded = Claim{Node: "x", Term: 6}
			m.SetAddresses(now, []Address{addr}, nil)
			m.Tick(now)
			if got, _ := m.Claim(vip); got.Node != tt.want {
				t.Errorf("held by %q, want %q", got.Node, tt.want)
			}
		})
	}
}
