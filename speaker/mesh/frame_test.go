// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

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
