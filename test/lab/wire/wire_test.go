// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

func TestTheDarkTimeIsTheLongestRunOfLostProbes(t *testing.T) {
	start := time.Now()
	probes := func(pattern string) []sent { // one letter per 10 ms: who answered, or '-' for a lost one
		var list []sent
		for i, r := range pattern {
			s := sent{at: start.Add(time.Duration(i) * ProbeInterval), done: true}
			if r != '-' {
				s.answer = string(r)
			}
			list = append(list, s)
		}
		return list
	}
	for _, tt := range []struct {
		name, pattern string
		lost          int
		dark          time.Duration
		answers       map[string]int
	}{
		{"nothing sent", "", 0, 0, map[string]int{}},
		{"every probe answered", "aab", 0, 0, map[string]int{"a": 2, "b": 1}},
		{"one lost", "a-b", 1, 10 * time.Millisecond, map[string]int{"a": 1, "b": 1}},
		{"two runs, the second longer", "a-a---b", 4, 30 * time.Millisecond, map[string]int{"a": 2, "b": 1}},
		{"dark from the first probe on", "--a", 2, 20 * time.Millisecond, map[string]int{"a": 1}},
		{"dark to the last probe", "a---", 3, 20 * time.Millisecond, map[string]int{"a": 1}},
		{"dark throughout", "----", 4, 30 * time.Millisecond, map[string]int{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := Result{Sent: len(tt.pattern), Lost: tt.lost, Dark: tt.dark, Answers: tt.answers}
			if i := strings.IndexByte(tt.pattern, '-'); i >= 0 {
				want.First = start.Add(time.Duration(i) * ProbeInterval)
			}
			if diff := cmp.Diff(want, summarise(probes(tt.pattern))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// pair makes two namespaces with one wire between them, 192.0.2.1 and 192.0.2.2, fd00::1 and fd00::2.
func pair(t *testing.T) (a, b *sandbox.Namespace) {
	t.Helper()
	box, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	})
	var ends [2]*sandbox.Namespace
	for i := range ends {
		if ends[i], err = box.AddNamespace(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if err := ends[i].Sysctl("ipv6/conf/default/accept_dad", "0"); err != nil {
			t.Fatal(err)
		}
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ends[1].FD())}
	if err := ends[0].Netlink().LinkAdd(cable); err != nil {
		t.Fatal(err)
	}
	for i, n := range ends {
		link, err := n.Netlink().LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		for _, cidr := range []string{fmt.Sprintf("192.0.2.%d/24", i+1), fmt.Sprintf("fd00::%d/64", i+1)} {
			addr, err := netlink.ParseAddr(cidr)
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Netlink().AddrAdd(link, addr); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Netlink().LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range ends {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			link, err := n.Netlink().LinkByName("eth0")
			if err != nil {
				t.Fatal(err)
			}
			if link.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the wire has no carrier after 5 s")
			}
		}
	}
	return ends[0], ends[1]
}

func TestAskGetsTheMACOfWhoHasTheAddressAndCaptureSeesTheExchange(t *testing.T) {
	a, b := pair(t)
	link, err := b.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	capture, err := StartCapture(b, "eth0", EtherTypeARP)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"192.0.2.2", "fd00::2"} {
		macs, err := Ask(t.Context(), a, "eth0", netip.MustParseAddr(target), 200*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]net.HardwareAddr{link.Attrs().HardwareAddr}, macs); diff != "" {
			t.Errorf("%s: %s", target, diff)
		}
	}
	for _, target := range []string{"192.0.2.9", "fd00::9"} {
		macs, err := Ask(t.Context(), a, "eth0", netip.MustParseAddr(target), 100*time.Millisecond)
		if err != nil || len(macs) != 0 {
			t.Errorf("%s, which nobody has: %v, %v", target, macs, err)
		}
	}
	if err := capture.Close(); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, m := range capture.ARP() {
		if m.Gratuitous() {
			t.Errorf("taken for gratuitous: %s", m)
		}
		seen = append(seen, m.String())
	}
	all := strings.Join(seen, "\n")
	for _, want := range []string{"who has 192.0.2.2, asks 192.0.2.1", "192.0.2.2 is at " + link.Attrs().HardwareAddr.String() + ", told to 192.0.2.1"} {
		if !strings.Contains(all, want) {
			t.Errorf("capture lacks %q:\n%s", want, all)
		}
	}
}

func TestAProbeMeasuresHowLongAServerIsAway(t *testing.T) {
	a, b := pair(t)
	target := netip.MustParseAddrPort("192.0.2.2:7")
	serve := func() net.PacketConn {
		var conn net.PacketConn
		if err := b.Do(func() (err error) {
			conn, err = net.ListenPacket("udp4", ":7")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = conn.WriteTo([]byte("me\n"), from)
			}
		}()
		return conn
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	conn := serve()
	probe := StartProbe(a, "udp", target)
	if err := probe.AwaitAnswers(ctx, 5); err != nil {
		t.Fatal(err)
	}
	away := time.Now()
	conn.Close()
	time.Sleep(300 * time.Millisecond) // the outage that is measured
	conn = serve()
	defer conn.Close()
	back := time.Since(away)
	if err := probe.AwaitAnswers(ctx, 5); err != nil {
		t.Fatal(err)
	}
	r := probe.Stop()
	if r.Dark < 250*time.Millisecond || r.Dark > back+100*time.Millisecond {
		t.Errorf("away for %s, measured: %s", back, r)
	}
	if r.Answers["me"]+r.Lost != r.Sent || r.Answers["me"] < 10 {
		t.Errorf("counts do not add up: %s", r)
	}
}

func TestEachFlowOfDatagramsTellsWhatItLost(t *testing.T) {
	a, b := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	const flows = 3
	start := time.Now()
	d, err := StartDatagrams(ctx, a, netip.MustParseAddrPort("192.0.2.2:7"), flows)
	if err != nil {
		t.Fatal(err)
	}
	await := func() {
		t.Helper()
		if err := d.Await(ctx, 5); err != nil {
			t.Fatal(err)
		}
	}
	echo, err := StartEcho(b, 7)
	if err != nil {
		t.Fatal(err)
	}
	await()
	away := time.Now()
	if err := echo.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // the outage that is measured
	if echo, err = StartEcho(b, 7); err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	back := time.Now()
	await()
	end := time.Now()
	d.Stop()
	for i, r := range d.Between(away.Add(-ProbeInterval), end) {
		if r.Dark < 250*time.Millisecond || r.Dark > back.Sub(away)+100*time.Millisecond || r.Lost < 10 {
			t.Errorf("flow %d: away for %s, measured: %s", i, back.Sub(away), r)
		}
	}
	results := d.Between(start, end)
	if len(results) != flows {
		t.Errorf("%d flows", len(results))
	}
	for i, r := range results {
		if r.Sent-r.Lost < 10 {
			t.Errorf("flow %d: %s", i, r)
		}
	}
}
