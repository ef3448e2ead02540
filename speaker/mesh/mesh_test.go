// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// fixed is a policy under which everybody may own everything, in the order of
// names, and claimants stay.
type fixed []string

func (f fixed) Owner(_ netip.Addr, claimant string) string { return claimant }
func (f fixed) Successors(netip.Addr) []string             { return f }

// mine is as fixed, but the first one should own what nobody claims.
type mine []string

func (f mine) Owner(_ netip.Addr, claimant string) string {
	if claimant == "" {
		return f[0]
	}
	return claimant
}
func (f mine) Successors(netip.Addr) []string { return f }

// machine returns one that has been synced for long.
func machine(c Config, f Policy, addrs ...Address) (*Machine, time.Time) {
	now := epoch
	m := New(c, f, now)
	m.SetCluster(now, 7)
	m.SetSegments(now, []Segment{{Index: 1, Name: "eth0", MAC: link.MAC{2, 1}, Up: true}})
	m.SetAddresses(now, addrs, nil)
	for range 200 {
		now = now.Add(50 * time.Millisecond)
		m.Tick(now)
		m.Output()
	}
	return m, now
}

// other makes frames of another node.
type other struct{ codec }

func newOther(name string, key []byte) *other {
	c := Config{Node: name, Boot: 1}
	if key != nil {
		c.Keys = [][]byte{key}
	}
	return &other{newCodec(c)}
}

func (o *other) hello(h hello, heard ...heard) []byte {
	b := appendHello(o.begin(kindHello, 7), &h)
	b[len(b)-1] = byte(len(heard))
	for _, e := range heard {
		b = appendHeard(b, e)
	}
	return o.end(b)
}

func (o *other) claims(words ...word) []byte {
	b := append(o.begin(kindClaims, 7), 0, 0)
	for i := range words {
		b = appendWord(b, &words[i])
	}
	return o.end(b)
}

func packet(now time.Time, b []byte) Packet {
	return Packet{Interface: 1, From: netip.MustParseAddr("192.168.0.9"), TTL: 255, At: now, Payload: b}
}

func TestFrames(t *testing.T) {
	in := hello{state: LeavingDrain, uptime: 77, mac: link.MAC{1, 2, 3, 4, 5, 6}, claims: 9, digest: digest{3: 5}}
	names := []heard{{node: hashName("a"), age: 3, state: Synced}, {node: hashName("b"), age: 75, state: Unsynced}}
	for _, key := range [][]byte{nil, []byte("secret")} {
		o := newOther("peer", key)
		h, body, why, ok := o.open(o.hello(in, names...))
		if !ok || h.kind != kindHello || string(h.node) != "peer" || h.seq != 1 || h.boot != 1 || h.cluster != 7 {
			t.Fatalf("got %+v, %v %v", h, why, ok)
		}
		got, ok := decodeHello(body)
		if !ok {
			t.Fatal("hello not understood")
		}
		var list []heard
		for b := got.heard; len(b) > 0; {
			var e heard
			e, b = nextHeard(b)
			list = append(list, e)
		}
		got.heard = nil
		if diff := cmp.Diff(in, got, cmp.AllowUnexported(hello{})); diff != "" {
			t.Errorf("hello (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(names, list, cmp.AllowUnexported(heard{})); diff != "" {
			t.Errorf("heard (-want +got):\n%s", diff)
		}
	}
}

func TestClaimWords(t *testing.T) {
	in := []word{
		{addr: netip.MustParseAddr("10.0.0.1"), term: 1},
		{addr: netip.MustParseAddr("fd00::1"), term: maxTerm, rank: 255, mute: true},
		{addr: netip.MustParseAddr("10.0.0.2"), term: 300, rank: 1, node: []byte("relayed")},
		{addr: netip.MustParseAddr("10.0.0.3"), term: 5, released: true},
	}
	o := newOther("peer", nil)
	_, body, _, _ := o.open(o.claims(in...))
	_, words, ok := decodeClaims(body)
	var out []word
	for len(words) > 0 && ok {
		var w word
		w, words, ok = nextWord(words)
		out = append(out, w)
	}
	if diff := cmp.Diff(in, out, cmp.AllowUnexported(word{}), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func TestDrops(t *testing.T) {
	good := func(o *other, now time.Time) Packet { return packet(now, o.hello(hello{state: Synced})) }
	for name, tt := range map[string]struct {
		packet func(o *other, now time.Time) Packet
		want   Drop
	}{
		"short":     {func(_ *other, now time.Time) Packet { return packet(now, []byte("FLM")) }, DropMalformed},
		"long":      {func(_ *other, now time.Time) Packet { return packet(now, make([]byte, 9000)) }, DropMalformed},
		"ttl":       {func(o *other, now time.Time) Packet { p := good(o, now); p.TTL = 254; return p }, DropTTL},
		"interface": {func(o *other, now time.Time) Packet { p := good(o, now); p.Interface = 2; return p }, DropInterface},
		"stale": {func(o *other, now time.Time) Packet {
			p := good(o, now)
			p.At = now.Add(-301 * time.Millisecond)
			return p
		}, DropStale},
		"version":   {func(o *other, now time.Time) Packet { p := good(o, now); p.Payload[3]++; return p }, DropVersion},
		"unsigned":  {func(_ *other, now time.Time) Packet { return good(newOther("peer", nil), now) }, DropSignature},
		"other key": {func(_ *other, now time.Time) Packet { return good(newOther("peer", []byte("x")), now) }, DropSignature},
		"changed":   {func(o *other, now time.Time) Packet { p := good(o, now); p.Payload[40]++; return p }, DropSignature},
		"own":       {func(_ *other, now time.Time) Packet { return good(newOther("me", []byte("key")), now) }, DropOwn},
		"cluster": {func(o *other, now time.Time) Packet {
			return packet(now, o.end(appendHello(o.begin(kindHello, 8), &hello{})))
		}, DropCluster},
		"cut short": {func(o *other, now time.Time) Packet { return packet(now, o.end(o.begin(kindHello, 7))) }, DropMalformed},
		"kind":      {func(o *other, now time.Time) Packet { return packet(now, o.end(o.begin(99, 7))) }, DropMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			m, now := machine(Config{Node: "me", Boot: 3, Keys: [][]byte{[]byte("key")}}, fixed{"me"})
			o := newOther("peer", []byte("key"))
			m.Receive(now, tt.packet(o, now))
			var want Drops
			want[tt.want] = 1
			if diff := cmp.Diff(want, m.Drops()); diff != "" {
				t.Errorf("drops (-want +got), %v expected:\n%s", tt.want, diff)
			}
		})
	}
}

// All nodes hear each other while a key is introduced, changed or given up, one
// node after the other.
func TestKeysCanBeChangedNodeByNode(t *testing.T) {
	key := func(keys ...string) (out [][]byte) {
		for _, k := range keys {
			out = append(out, []byte(k))
		}
		return out
	}
	for name, steps := range map[string][]Config{
		"introduced": {{}, {Keys: key("a"), AcceptUnsigned: true}, {Keys: key("a")}},
		"changed":    {{Keys: key("a")}, {Keys: key("a", "b")}, {Keys: key("b", "a")}, {Keys: key("b")}},
		"given up":   {{Keys: key("a")}, {Keys: key("a"), AcceptUnsigned: true}, {}},
	} {
		for i, before := range steps[:len(steps)-1] {
			for _, c := range [2][2]Config{{before, steps[i+1]}, {steps[i+1], before}} {
				c[0].Node, c[0].Boot, c[1].Node, c[1].Boot = "me", 3, "peer", 1
				m, now := machine(c[0], fixed{"me"})
				o := &other{newCodec(c[1])}
				m.Receive(now, packet(now, o.hello(hello{state: Synced})))
				if m.Drops() != (Drops{}) {
					t.Errorf("%s, step %d: %+v does not hear %+v: %v", name, i, c[0], c[1], m.Drops())
				}
			}
		}
	}
}

// Frames that were sent before are not taken again, neither those of a boot
// that the node has left.
func TestReplay(t *testing.T) {
	m, now := machine(Config{Node: "me", Boot: 3}, fixed{"me"})
	o := newOther("peer", nil)
	first := o.hello(hello{state: Synced})
	m.Receive(now, packet(now, first))
	m.Receive(now, packet(now, first))
	for range 100 {
		m.Receive(now, packet(now, o.hello(hello{state: Synced})))
	}
	m.Receive(now, packet(now, first))
	o.boot, o.seq = 2, 0
	m.Receive(now, packet(now, o.hello(hello{state: Synced})))
	m.Receive(now, packet(now, first))
	var want Drops
	want[DropDuplicate], want[DropReplay] = 1, 2
	if diff := cmp.Diff(want, m.Drops()); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
}

// A mute owner is replaced once a third node confirms it, not before.
// Whoever has recorded or made up a frame of a peer doesn't keep the peer away.
func TestAPeerThatGoesOnIsNotReplacedByOldFrames(t *testing.T) {
	key := []byte("0123456789abcdef")
	for name, tt := range map[string]struct {
		key    []byte
		boot   uint64
		seq    uint64
		silent time.Duration // of the peer, before the frame
	}{
		"of a life before this node's":         {key: key, boot: 4},
		"of such a life, in a silence":         {key: key, boot: 4, silent: time.Second},
		"of such a life, in a long silence":    {key: key, boot: 4, silent: 6 * time.Second},
		"of a life to come":                    {boot: 6},
		"of the greatest number":               {seq: 1<<64 - 2},
		"of the greatest number, in a silence": {seq: 1<<64 - 2, silent: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{Node: "me", Boot: 3}
			if tt.key != nil {
				config.Keys = [][]byte{tt.key}
			}
			m, now := machine(config, fixed{"me"})
			peer, old := newOther("peer", tt.key), newOther("peer", tt.key)
			peer.boot, old.boot, old.seq = 5, tt.boot, tt.seq
			if old.boot == 0 {
				old.boot = peer.boot
			}
			frame := old.hello(hello{state: LeavingDrain})
			speak := func() {
				now = now.Add(interval)
				m.Receive(now, packet(now, peer.hello(hello{state: Synced})))
			}
			for range 3 {
				speak()
			}
			now = now.Add(tt.silent)
			m.Receive(now, packet(now, frame))
			speak()
			speak()
			if got := m.Peers(now)[0]; !got.Heard || got.State != Synced || now.Sub(got.Last) > interval {
				t.Errorf("the peer is %+v at %v", got, now)
			}
			if tt.key == nil {
				return // anybody can make up another frame
			}
			m.Receive(now, packet(now, frame))
			if got := m.Peers(now)[0]; got.State != Synced {
				t.Errorf("the frame counts once more: %+v", got)
			}
		})
	}
}

func TestAnOldFrameDoesNotHideADeath(t *testing.T) {
	key := []byte("0123456789abcdef")
	m, now := machine(Config{Node: "me", Boot: 3, Keys: [][]byte{key}}, fixed{"me"})
	peer, old := newOther("peer", key), newOther("peer", key)
	peer.boot, old.boot = 5, 4
	m.Receive(now, packet(now, peer.hello(hello{state: Synced})))
	now = now.Add(time.Second)
	m.Receive(now, packet(now, old.hello(hello{state: Synced})))
	if got := m.Peers(now)[0]; got.Heard {
		t.Errorf("the peer is %+v", got)
	}
}

// One frame, or one hand in the record, must not leave an address without terms.
func TestNoTermIsTheLast(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	for name, strike := range map[string]func(m *Machine, now time.Time, term int64){
		"a claim": func(m *Machine, now time.Time, term int64) {
			m.Receive(now, packet(now, newOther("ghost", nil).claims(word{addr: addr, term: term})))
		},
		"a claim on record": func(m *Machine, now time.Time, term int64) {
			m.Recorded(now, addr, Claim{Node: "ghost", Term: term})
		},
	} {
		for _, term := range []int64{1 << 40, maxTerm, 1<<63 - 1} {
			m, now := machine(Config{Node: "me", Boot: 3}, fixed{"me"}, Address{
				Addr: addr, Interfaces: []string{"eth0"}, Recorded: Claim{Node: "me", Term: 7},
			})
			strike(m, now, term)
			for range 40 {
				now = now.Add(50 * time.Millisecond)
				m.Tick(now)
				m.Output()
			}
			if got, _ := m.Claim(addr); got != (Claim{Node: "me", Term: 7}) {
				t.Errorf("after %s of term %d: %+v", name, term, got)
			}
		}
	}
}

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

// What frames alone can make a machine remember is limited.
func TestBounds(t *testing.T) {
	m, now := machine(Config{Node: "me", Boot: 3}, fixed{"me"})
	for i := range 3 * maxStrangers {
		m.Receive(now, packet(now, newOther(fmt.Sprint("stranger-", i), nil).hello(hello{state: Synced})))
	}
	if n := len(m.order); n > maxStrangers+1 {
		t.Errorf("%d peers", n)
	}
	o := newOther("stranger-1", nil)
	for i := range maxAddresses/100 + 20 {
		var words []word
		for j := range 100 {
			words = append(words, word{addr: netip.AddrFrom4([4]byte{10, byte(j), byte(i >> 8), byte(i)}), term: 1})
		}
		m.Receive(now, packet(now, o.claims(words...)))
	}
	if n := len(m.addrs); n > maxAddresses {
		t.Errorf("%d addresses", n)
	}
	if m.Drops()[DropFull] == 0 {
		t.Error("nothing was dropped")
	}
}

// FuzzReceive gives a machine any frame.
func FuzzReceive(f *testing.F) {
	o := newOther("peer", nil)
	f.Add(o.hello(hello{state: Synced, claims: 1, digest: digest{1}}, heard{node: 1, age: 2, state: Synced}))
	f.Add(o.claims(word{addr: netip.MustParseAddr("10.0.0.1"), term: 3}))
	f.Fuzz(func(t *testing.T, b []byte) { receiveAny(t, b) })
}

// FuzzBody gives a machine any body in a proper frame.
func FuzzBody(f *testing.F) {
	addr := netip.MustParseAddr("10.0.0.1")
	for k, frame := range map[kind]func(*other) []byte{
		kindHello: func(o *other) []byte {
			return o.hello(hello{state: Synced, digest: digest{1}}, heard{node: 1, age: 2, state: Synced})
		},
		kindClaims: func(o *other) []byte {
			return o.claims(word{addr: addr, term: 3, released: true}, word{addr: netip.MustParseAddr("fd00::1"), term: 9, node: []byte("me")})
		},
		kindRequest: func(o *other) []byte { return append(o.begin(kindRequest, 7), 2, 'm', 'e', 255, 255) },
		kindSuspect: func(o *other) []byte {
			return append(appendWord(o.begin(kindSuspect, 7), &word{addr: addr, term: 1, node: []byte("x")}), 4, 'p', 'e', 'e', 'r')
		},
	} {
		o := newOther("peer", nil)
		f.Add(byte(k), frame(o)[headerSize+len(o.node):])
	}
	f.Fuzz(func(t *testing.T, k byte, body []byte) {
		o := newOther("peer", nil)
		receiveAny(t, append(o.begin(kind(k), 7), body...))
	})
}

// receiveAny has a machine receive a frame, and looks that it stays sound.
func receiveAny(t *testing.T, b []byte) {
	now := epoch.Add(time.Hour)
	m := New(Config{Node: "me", Boot: 3}, fixed{"me"}, epoch)
	m.SetCluster(epoch, 7)
	m.SetSegments(epoch, []Segment{{Index: 1, Name: "eth0", MAC: link.MAC{2, 1}, Up: true}})
	m.SetAddresses(epoch, []Address{{Addr: netip.MustParseAddr("10.0.0.1"), Interfaces: []string{"eth0"}, Proposed: "x"}}, nil)
	was := bytes.Clone(b)
	for range 3 {
		m.Receive(now, packet(now, b))
		now = now.Add(50 * time.Millisecond)
		m.Tick(now)
		for _, out := range m.Output().Frames {
			if len(out.Payload) > maxFrame {
				t.Errorf("a frame of %d bytes", len(out.Payload))
			}
		}
	}
	if !bytes.Equal(was, b) {
		t.Error("the payload was changed")
	}
	if len(m.addrs) > 1+maxFrame/7 || len(m.order) > 3+maxFrame/8 {
		t.Errorf("one frame made %d addresses and %d peers", len(m.addrs), len(m.order))
	}
	var digests digest
	for _, e := range m.addrs {
		if c := e.best; c.by == m.self {
			digests[bucketOf(e.addr)] ^= hashClaim(e.addr, c.term, c.rank, c.mute)
		}
	}
	if digests != m.self.digest {
		t.Error("the digest is not that of the claims")
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
