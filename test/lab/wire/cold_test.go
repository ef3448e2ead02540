// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/arp"
)

// log writes answers as one letter per 20 ms: who answered, '-' for nobody, 'x' for both a and b.
func log(pattern string) (start time.Time, answers []Resolution) {
	start = time.Unix(1000, 0)
	for i, r := range pattern {
		at := start.Add(time.Duration(i) * ColdInterval)
		who := map[rune]string{'-': "", 'x': "ab"}
		names, ok := who[r]
		if !ok {
			names = string(r)
		}
		for _, name := range names {
			answers = append(answers, Resolution{At: at, Answer: true, MAC: MAC{byte(name)}})
		}
	}
	return start, answers
}

func TestTheLongestGapIsBetweenAnswersOfThoseThatWork(t *testing.T) {
	works := func(m MAC) bool { return m != MAC{'d'} } // d is dead
	for _, tt := range []struct {
		name, pattern string
		from          int // letters left out
		want          time.Duration
	}{
		{"always answered", "aaaaaa", 0, 20 * time.Millisecond},
		{"a gap", "aa---aa", 0, 80 * time.Millisecond},
		{"one that does not work fills no gap", "aadddbb", 0, 80 * time.Millisecond},
		{"from the cut on", "a-----aaa", 3, 60 * time.Millisecond},
		{"never answered", "-----", 0, 100 * time.Millisecond},
		{"not answered again", "aa---", 0, 80 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start, answers := log(tt.pattern)
			to := start.Add(time.Duration(len(tt.pattern)) * ColdInterval)
			if got := LongestGap(answers, start.Add(time.Duration(tt.from)*ColdInterval), to, works); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestTwoAnswerTogetherWhileBothGoOn(t *testing.T) {
	for _, tt := range []struct {
		name, pattern string
		want          time.Duration
	}{
		{"one alone", "aaaa", 0},
		{"one after the other", "aaabbb", 0},
		{"one after the other and back", "aa--bbb--aaa", 0},
		{"both to one question", "aaxbb", 0},
		{"both for a while", "aaxxxxbb", 60 * time.Millisecond},
		{"by turns", "aaabababbb", 60 * time.Millisecond},
		{"the second within the time of the first", "aaxxxaaa", 40 * time.Millisecond},
		{"twice, the second time longer", "axxa---axxxa", 40 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, answers := log(tt.pattern)
			if got := LongestTogether(answers, 50*time.Millisecond); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestAColdProbeLogsWhoAnswersInBothFamilies(t *testing.T) {
	a, b := pair(t)
	link, err := b.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	want := MACOf(link.Attrs().HardwareAddr)
	targets := []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fd00::2"), netip.MustParseAddr("192.0.2.9")}
	started := time.Now()
	p, err := StartColdProbe(a, "eth0", ColdInterval, targets...)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); len(p.Answers(targets[0])) < 5 || len(p.Answers(targets[1])) < 5; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s: %v, %v", p.Answers(targets[0]), p.Answers(targets[1]))
		}
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	for _, target := range targets[:2] {
		for _, r := range p.Answers(target) {
			if r.Addr != target || r.MAC != want || r.Relayed() || r.At.Before(started) || r.At.After(time.Now()) {
				t.Errorf("%s: %+v", target, r)
			}
		}
	}
	if got := p.Answers(targets[2]); got != nil {
		t.Errorf("nobody has %s: %v", targets[2], got)
	}
}

// backend answers as a lab backend does and returns what ends it and every connection to it.
func backend(t *testing.T, listen func(func() error) error) (end func()) {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	if err := listen(func() (err error) {
		if udp, err = net.ListenPacket("udp4", ":7"); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp4", ":7")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte("me\n"), from)
		}
	}()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "me") })}
	go func() { _ = server.Serve(tcp) }()
	return func() {
		_ = udp.Close()
		_ = server.Close()
	}
}

func TestLongConnectionsThatAServerEndsAreBroken(t *testing.T) {
	a, b := pair(t)
	end := backend(t, b.Do)
	target := netip.MustParseAddrPort("192.0.2.2:7")
	await := func(f *Flows, what string, enough func(FlowResult) bool) {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			f.mu.Lock()
			r := f.result
			f.mu.Unlock()
			if enough(r) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("waiting for %s: %s", what, r)
			}
		}
	}
	exchanges := func(n int) func(FlowResult) bool { return func(r FlowResult) bool { return r.Exchanges >= n } }
	kept, err := StartFlows(t.Context(), a, target, 5)
	if err != nil {
		t.Fatal(err)
	}
	await(kept, "10 exchanges", exchanges(10))
	if r := kept.Stop(); r.Broken != 0 || r.Opened != 5 || r.Exchanges < 10 || r.Stalled > time.Second {
		t.Errorf("with a server that stays: %s", r)
	}
	broken, err := StartFlows(t.Context(), a, target, 5)
	if err != nil {
		t.Fatal(err)
	}
	await(broken, "5 exchanges", exchanges(5))
	end()
	await(broken, "the end of all", func(r FlowResult) bool { return r.Broken == 5 })
	if r := broken.Stop(); r.Broken != 5 {
		t.Errorf("with a server that ends: %s", r)
	}
	if _, err := StartFlows(t.Context(), a, target, 2); err == nil {
		t.Error("connections were opened to a server that is gone")
	}
}

func TestFreshClientsAskTheLANAnew(t *testing.T) {
	a, b := pair(t)
	end := backend(t, b.Do)
	defer end()
	capture, err := StartCapture(b, "eth0", EtherTypeARP)
	if err != nil {
		t.Fatal(err)
	}
	defer capture.Close()
	forgotten := make(chan struct{}, 1000)
	f := StartFresh(a, netip.MustParseAddrPort("192.0.2.2:7"), func() error {
		forgotten <- struct{}{}
		_, err := a.Run(t.Context(), "ip", "neigh", "flush", "dev", "eth0")
		return err
	})
	for range 5 {
		<-forgotten
	}
	r, err := f.Stop()
	if err != nil || r.Clients < 5 || r.Lost > 0 || r.Longest == 0 || r.Longest > time.Second {
		t.Errorf("%s, %v", r, err)
	}
	questions := 0
	for _, m := range capture.ARP() {
		if !m.Reply && m.TargetIP == netip.MustParseAddr("192.0.2.2") {
			questions++
		}
	}
	if questions < r.Clients {
		t.Errorf("%d fresh clients asked %d times", r.Clients, questions)
	}
}

func TestResolutionsAreToldFromAnnouncementsAndOtherFrames(t *testing.T) {
	me, you, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}, net.HardwareAddr{2, 0, 0, 0, 0, 3}
	at := time.Unix(1000, 0)
	a4, b4 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	a6, b6 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	frame := func(q question, err error) Frame {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return Frame{At: at, Data: q.frame}
	}
	broadcast := MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for _, tt := range []struct {
		name  string
		frame Frame
		want  Resolution
		ok    bool
	}{
		{"who has it, by ARP", frame(arpQuestion(me, a4, b4)), Resolution{At: at, Addr: b4, From: MAC(me), To: broadcast}, true},
		{"who has it, by neighbour discovery", frame(ndpQuestion(me, a6, b6)), Resolution{At: at, Addr: b6, From: MAC(me), To: MAC{0x33, 0x33, 0xff, 0, 0, 2}}, true},
		{"announced", frame(arpQuestion(me, a4, a4)), Resolution{}, false},
		{"an answer", reply(t, at, you, me, you, b4, a4), Resolution{At: at, Answer: true, Addr: b4, MAC: MAC(you), From: MAC(you), To: MAC(me)}, true},
		{"an answer by another", reply(t, at, other, me, you, b4, a4), Resolution{At: at, Answer: true, Addr: b4, MAC: MAC(you), From: MAC(other), To: MAC(me)}, true},
		{"cut short", Frame{Data: make([]byte, 13)}, Resolution{}, false},
		{"something else", Frame{Data: append(make([]byte, 12), 8, 0, 0x45)}, Resolution{}, false},
		{"IPv6 cut short", Frame{Data: append(make([]byte, 12), 0x86, 0xdd, 0x60)}, Resolution{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := ParseResolution(tt.frame)
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || ok != tt.ok {
				t.Errorf("%t: %s", ok, diff)
			}
			if tt.ok && got.Relayed() != (tt.name == "an answer by another") {
				t.Errorf("relayed: %t", got.Relayed())
			}
		})
	}
}

// reply is an ARP reply that says to whom it is sent that the MAC of has is at addr.
func reply(t *testing.T, at time.Time, from, to, has net.HardwareAddr, addr, asker netip.Addr) Frame {
	t.Helper()
	p, err := arp.NewPacket(arp.OperationReply, has, addr, to, asker)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	q, err := newQuestion(addr, from, to, EtherTypeARP, payload)
	if err != nil {
		t.Fatal(err)
	}
	return Frame{At: at, Data: q.frame}
}
