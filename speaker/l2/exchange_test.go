// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// counts returns the metrics of a family, summed over the interfaces, by their
// short names.
func counts(t *testing.T, reg *prometheus.Registry, f Family) map[string]float64 {
	t.Helper()
	m := map[string]float64{}
	for _, family := range must(reg.Gather()) {
		for _, v := range family.GetMetric() {
			for _, l := range v.GetLabel() {
				if l.GetName() == "family" && l.GetValue() == f.String() {
					m[strings.TrimPrefix(family.GetName(), "fairlead_l2_")] += v.GetCounter().GetValue() + v.GetGauge().GetValue()
				}
			}
		}
	}
	return m
}

func TestExchangeOnAFakeWire(t *testing.T) {
	metered(t, func(t *testing.T, r *Responder, lan *fakeLAN, reg *prometheus.Registry) {
		set(t, r, all, on("eth0", vip, vip2, vip6, vip62))
		time.Sleep(10 * time.Second)
		lan.take()
		for f, list := range map[Family][]said{IPv4: framesARP, IPv6: framesNDP} {
			var malformedFrames, answers float64
			for _, tt := range list {
				lan.says("eth0", f, tt.frame)
				var got []string
				for _, s := range lan.takeFrames() {
					got = append(got, describe(s.frame))
				}
				var want, sees []string
				switch tt.answer {
				case "":
				case malformed:
					malformedFrames++
				default:
					answers++
					want = []string{tt.answer}
				}
				if tt.sees != "" {
					sees = []string{tt.sees + " on eth0"}
				}
				if diff := cmp.Diff(want, got) + cmp.Diff(sees, lan.takeSeen()); diff != "" {
					t.Errorf("%s (-want +got):\n%s", tt.name, diff)
				}
				if n := counts(t, reg, f)["malformed_total"]; n != malformedFrames {
					t.Errorf("%s: counted %v malformed, want %v", tt.name, n, malformedFrames)
				}
			}
			got := counts(t, reg, f)
			if got["received_total"] != float64(len(list)) || got["replies_sent_total"] != answers || got["addresses"] != 2 ||
				got["send_errors_total"] != 0 || got["requests_too_late_total"] != 0 || got["requests_received_total"] < answers {
				t.Errorf("metrics: %v", got)
			}
		}
	})
}

func TestFramesAreWhatTheRFCsSay(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return append(b, make([]byte, max(0, 60-len(b)))...)
	}
	const self, asks, all, none = "020000000001", "020000000002", "ffffffffffff", "000000000000"
	const v6, nodes, allMAC = "20010db8000000000000000000050050", "ff020000000000000000000000000001", "333300000001"
	m, _ := parse(IPv4, ask(), selfMAC)
	m6, _ := parse(IPv6, solicit(), selfMAC)
	for name, tt := range map[string]struct{ got, want []byte }{
		"an ARP reply goes to the asker alone":  {appendAnswer(nil, IPv4, m, selfMAC, selfMAC), unhex(asks + self + "0806" + "0001080006040002" + self + "c0000232" + asks + "c0000202")},
		"the MAC in it may be another's":        {appendAnswer(nil, IPv4, m, selfMAC, otherMAC), unhex(asks + self + "0806" + "0001080006040002" + "020000000003" + "c0000232" + asks + "c0000202")},
		"an ARP announcement is a request":      {gratuitous(0, selfMAC, vip), unhex(all + self + "0806" + "0001080006040001" + self + "c0000232" + none + "c0000232")},
		"and a reply that everybody can see":    {gratuitous(1, selfMAC, vip), unhex(all + self + "0806" + "0001080006040002" + self + "c0000232" + self + "c0000232")},
		"an ARP probe has no sender":            {appendRequest(nil, broadcast, selfMAC, zero, vip), unhex(all + self + "0806" + "0001080006040001" + self + "00000000" + none + "c0000232")},
		"an unsolicited advertisement":          {appendUnsolicited(nil, vip6, selfMAC), unhex(allMAC + self + "86dd" + "6000000000203aff" + v6 + nodes + "8800" + "f882" + "20000000" + v6 + "0201" + self)},
		"an advertisement for a stand-in":       {appendAnswer(nil, IPv6, m6, selfMAC, otherMAC)[78:], unhex("0201020000000003")[:8]},
		"a solicitation of duplicate detection": {appendSolicitation(nil, link.MAC{}, selfMAC, zero6, vip6)[:54], unhex("3333ff050050" + self + "86dd" + "6000000000183aff" + strings.Repeat("00", 16) + "ff0200000000000000000001ff050050")[:54]},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.got); diff != "" {
				t.Errorf("frame (-want +got):\n%s", diff)
			}
		})
	}
}

// nothing is a connection that records the last frame sent.
type nothing struct{ sent []byte }

func (n *nothing) Receive([]byte) (int, time.Time, error) { return 0, time.Time{}, net.ErrClosed }
func (n *nothing) Send(b []byte) error                    { n.sent = append(n.sent[:0], b...); return nil }
func (n *nothing) Dropped() int                           { return 0 }
func (n *nothing) Close() error                           { return nil }

// aWire returns one that answers for the addresses, without its goroutines.
func aWire(f Family, sighted func(Sighting), addrs ...netip.Addr) (*wire, *nothing) {
	conn := &nothing{}
	p := &port{name: "eth0", mac: selfMAC, link: eth0, deadman: newDeadman(), sighted: sighted, start: time.Now()}
	w := &wire{port: p, family: f, mac: selfMAC, conn: conn, table: newTable(), count: newMetrics(prometheus.NewRegistry()).of(Place{"eth0", f})}
	for _, a := range addrs {
		w.own(a, answerAs{})
	}
	return w, conn
}

// Nothing that comes makes the parser fail, is changed by it, is answered for
// an address that is not owned, or to another than the sender.
func FuzzARP(f *testing.F) { fuzz(f, IPv4, framesARP, vip, vip2) }

func FuzzNDP(f *testing.F) { fuzz(f, IPv6, framesNDP, vip6, vip62) }

func fuzz(f *testing.F, family Family, seeds []said, addrs ...netip.Addr) {
	for _, tt := range seeds {
		f.Add(tt.frame)
	}
	f.Add([]byte{})
	w, conn := aWire(family, func(s Sighting) {
		if !slices.Contains(addrs, s.Addr) || s.MAC == selfMAC || !isStation(s.MAC) {
			panic(describeSighting(s))
		}
	}, addrs...)
	scratch := make([]byte, 0, maxSent)
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		conn.sent = nil
		w.handle(b, time.Now(), scratch)
		if !bytes.Equal(in, b) {
			t.Fatal("the frame was changed")
		}
		m, ok := parse(family, b, selfMAC)
		if !ok && m != (message{}) {
			t.Fatalf("malformed, and says %v", m)
		}
		owned := slices.Contains(addrs, m.target)
		switch {
		case conn.sent == nil && owned:
			t.Fatalf("no answer to %v", m)
		case conn.sent == nil:
			return
		case !owned:
			t.Fatalf("answered %v: %s", m, describe(conn.sent))
		}
		line := describe(conn.sent)
		if !strings.HasSuffix(line, m.target.String()+" is 1") {
			t.Fatalf("the answer to %v is: %s", m, line)
		}
		if !m.asker.IsUnspecified() && (link.MAC(conn.sent) != m.askerMAC || !strings.Contains(line, " "+m.asker.String()+" ")) {
			t.Fatalf("the answer to %v goes elsewhere: %s", m, line)
		}
		if family == IPv6 {
			n := int(binary.BigEndian.Uint16(b[offPayloadLen:]))
			if _, err := ndp.ParseMessage(b[offICMP : offICMP+n]); err != nil && !strings.Contains(err.Error(), "option") && !strings.Contains(err.Error(), "EOF") {
				t.Fatalf("answered what can't be parsed: %v", err)
			}
		}
	})
}

func manyAddrs(n int) (addrs []netip.Addr) {
	for i := range n {
		addrs = append(addrs, nthAddr(i))
	}
	return addrs
}

func manyAddrs6(n int) (addrs []netip.Addr) {
	for i := range n {
		addrs = append(addrs, nthAddr6(i))
	}
	return addrs
}

func nthAddr(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24+uint32(i))
	return netip.AddrFrom4(b)
}

// nthAddr6 returns addresses whose solicited-node groups differ.
func nthAddr6(i int) netip.Addr {
	b := [16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8}
	binary.BigEndian.PutUint32(b[12:], uint32(i+1))
	return netip.AddrFrom16(b)
}
