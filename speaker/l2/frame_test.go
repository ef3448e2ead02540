// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

var (
	selfMAC  = link.MAC{2, 0, 0, 0, 0, 1}
	askerMAC = link.MAC{2, 0, 0, 0, 0, 2}
	otherMAC = link.MAC{2, 0, 0, 0, 0, 3}
	everyone = link.MAC(ethernet.Broadcast)

	asker = netip.MustParseAddr("192.0.2.2")
	vip   = netip.MustParseAddr("192.0.2.50")
	vip2  = netip.MustParseAddr("192.0.2.51")
	other = netip.MustParseAddr("192.0.2.99")
	zero  = netip.IPv4Unspecified()
)

// ask returns the frame of an ordinary request for vip, edited.
func ask(edits ...func(b []byte)) []byte {
	return askFor(vip, edits...)
}

func askFor(target netip.Addr, edits ...func(b []byte)) []byte {
	b := frame(arp.OperationRequest, askerMAC, asker, link.MAC{}, target, ethernet.Broadcast)
	for _, edit := range edits {
		edit(b)
	}
	return b
}

func put(off int, bytes ...byte) func([]byte) { return func(b []byte) { copy(b[off:], bytes) } }

func putMAC(off int, m link.MAC) func([]byte)  { return put(off, m[:]...) }
func putIP(off int, a netip.Addr) func([]byte) { return put(off, a.AsSlice()...) }

// frames is what is asked of a port that owns vip and vip2, and whether it
// answers: on a fake wire and on a real one.
var frames = []struct {
	name  string
	frame []byte
	want  outcome
	to    netip.Addr // to whom it answers, if not asker
}{
	{name: "a request for an owned address is answered", frame: ask(), want: answer},
	{name: "a request to our own MAC is answered", frame: ask(putMAC(0, selfMAC)), want: answer},
	{name: "a probe is answered, to defend the address", frame: ask(putIP(offSenderIP, zero)), want: answer, to: zero},
	{name: "a frame without padding is answered", frame: ask()[:arpFrameLen], want: answer},
	{name: "a target MAC in the request does not matter", frame: ask(putMAC(32, otherMAC)), want: answer},
	{name: "a request for another address is ignored", frame: askFor(other)},
	{name: "a request to another station is ignored", frame: ask(putMAC(0, otherMAC))},
	{name: "our own request is ignored", frame: ask(putMAC(offSenderMAC, selfMAC))},
	{name: "our own announcement is ignored", frame: gratuitous(selfMAC, vip)[0]},
	{name: "another node's announcement is ignored", frame: gratuitous(otherMAC, vip)[0]},
	{name: "a reply is ignored", frame: gratuitous(otherMAC, vip)[1]},
	{name: "an unknown operation is ignored", frame: ask(put(offOperation, 0, 9))},
	{name: "a truncated packet is malformed", frame: ask()[:arpFrameLen-1], want: malformed},
	{name: "a packet that isn't for Ethernet is malformed", frame: ask(put(offHWType, 0, 6)), want: malformed},
	{name: "a packet that isn't for IPv4 is malformed", frame: ask(put(offProtoType, 0x86, 0xdd)), want: malformed},
	{name: "a wrong length of MACs is malformed", frame: ask(put(offHWLen, 8)), want: malformed},
	{name: "a wrong length of addresses is malformed", frame: ask(put(offProtoLen, 16)), want: malformed},
	{name: "a request from everybody is malformed", frame: ask(putMAC(offSenderMAC, everyone)), want: malformed},
	{name: "a request from a group is malformed", frame: ask(putMAC(offSenderMAC, link.MAC{1, 0, 0x5e, 0, 0, 1})), want: malformed},
	{name: "a request from nobody is malformed", frame: ask(putMAC(offSenderMAC, link.MAC{})), want: malformed},
}

func ownedAddrs(addrs ...netip.Addr) owned {
	o := owned{}
	for _, a := range addrs {
		o[a] = struct{}{}
	}
	return o
}

func TestDecide(t *testing.T) {
	for _, tt := range frames {
		t.Run(tt.name, func(t *testing.T) {
			got, what := decide(tt.frame, selfMAC, ownedAddrs(vip, vip2))
			var want request
			if tt.want == answer {
				want = request{senderMAC: askerMAC, senderIP: asker, targetIP: vip}
				if tt.to.IsValid() {
					want.senderIP = tt.to
				}
			}
			if what != tt.want || got != want {
				t.Errorf("got %v %v, want %v %v", what, got, tt.want, want)
			}
		})
	}
}

func TestFramesAreWhatRFC826Says(t *testing.T) {
	hex := func(s string) []byte {
		var b []byte
		if _, err := fmt.Sscanf(s, "%x", &b); err != nil {
			t.Fatal(err)
		}
		return append(b, make([]byte, 60-len(b))...)
	}
	const self, asks, all = "020000000001", "020000000002", "ffffffffffff"
	g := gratuitous(selfMAC, vip)
	for name, tt := range map[string]struct{ got, want []byte }{
		"the reply goes to the asker alone":  {request{askerMAC, asker, vip}.reply(selfMAC), hex(asks + self + "0806" + "0001080006040002" + self + "c0000232" + asks + "c0000202")},
		"the announcement is a request":      {g[0], hex(all + self + "0806" + "0001080006040001" + self + "c0000232" + "000000000000" + "c0000232")},
		"and a reply that everybody can see": {g[1], hex(all + self + "0806" + "0001080006040002" + self + "c0000232" + self + "c0000232")},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.got); diff != "" {
				t.Errorf("frame (-want +got):\n%s", diff)
			}
		})
	}
}

// An answered frame means to mdlayher/arp what it means to us, and nothing
// makes decide fail.
func FuzzDecide(f *testing.F) {
	for _, tt := range frames {
		f.Add(tt.frame)
	}
	f.Add([]byte{})
	addrs := ownedAddrs(vip, vip2)
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		r, what := decide(b, selfMAC, addrs)
		if !bytes.Equal(in, b) {
			t.Fatal("the frame was changed")
		}
		if what != answer {
			if r != (request{}) {
				t.Fatalf("outcome %v with %v", what, r)
			}
			return
		}
		var e ethernet.Frame
		if err := e.UnmarshalBinary(b); err != nil {
			t.Fatalf("answered a frame that can't be parsed: %v", err)
		}
		var p arp.Packet
		if err := p.UnmarshalBinary(e.Payload); err != nil {
			t.Fatalf("answered a packet that can't be parsed: %v", err)
		}
		if p.Operation != arp.OperationRequest || p.TargetIP != r.targetIP || p.SenderIP != r.senderIP ||
			!bytes.Equal(p.SenderHardwareAddr, r.senderMAC[:]) {
			t.Fatalf("decided %v on %+v", r, p)
		}
		if _, ok := addrs[r.targetIP]; !ok || r.senderIP == r.targetIP {
			t.Fatalf("answered %v", r)
		}
		if err := e.UnmarshalBinary(r.reply(selfMAC)); err != nil || !bytes.Equal(e.Destination, p.SenderHardwareAddr) {
			t.Fatalf("the reply is for %v: %v", e.Destination, err)
		}
	})
}

func manyAddrs(n int) owned {
	o := owned{}
	for i := range n {
		o[nthAddr(i)] = struct{}{}
	}
	return o
}

func nthAddr(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24+uint32(i))
	return netip.AddrFrom4(b)
}

func TestDecideAllocatesNothing(t *testing.T) {
	addrs := manyAddrs(10_000)
	for name, f := range map[string][]byte{
		"an owned address": askFor(nthAddr(7)), "another address": askFor(other), "a malformed frame": ask()[:20],
	} {
		if n := testing.AllocsPerRun(1000, func() { decide(f, selfMAC, addrs) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func benchmarkDecide(b *testing.B, target func(i int) netip.Addr, want outcome) {
	addrs := manyAddrs(10_000)
	var requests [1024][]byte
	for i := range requests {
		requests[i] = askFor(target(i))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, what := decide(requests[i%len(requests)], selfMAC, addrs); what != want {
			b.Fatal(what)
		}
	}
}

func BenchmarkDecideOwned(b *testing.B) {
	benchmarkDecide(b, func(i int) netip.Addr { return nthAddr(i * 9) }, answer)
}

func BenchmarkDecideIgnored(b *testing.B) {
	benchmarkDecide(b, func(i int) netip.Addr { return nthAddr(10_000 + i) }, ignore)
}

func BenchmarkReply(b *testing.B) {
	r := request{askerMAC, asker, vip}
	b.ReportAllocs()
	for b.Loop() {
		r.reply(selfMAC)
	}
}
