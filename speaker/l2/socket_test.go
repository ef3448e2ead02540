// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// eyes keeps sightings.
type eyes struct {
	mu   sync.Mutex
	seen []Sighting
}

func (e *eyes) sighted(s Sighting) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, s)
}

func (e *eyes) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for _, s := range e.seen {
		lines = append(lines, describeSighting(s))
	}
	e.seen = nil
	return lines
}

func (c *cable) responder(t *testing.T) (*Responder, *eyes, *prometheus.Registry) {
	t.Helper()
	e, reg := &eyes{}, prometheus.NewRegistry()
	r := New(logr.Discard(), reg, c, e.sighted)
	t.Cleanup(r.Close)
	return r, e, reg
}

func TestExchangeOnARealWire(t *testing.T) {
	c := newCable(t)
	r, e, reg := c.responder(t)
	set(t, r, []link.Link{c.link}, on("node", vip, vip2, vip6, vip62))
	var announced [2][]string
	for f, n := range map[Family]int{IPv4: 2 * rounds * 2, IPv6: rounds * 2} {
		for range n {
			announced[f] = append(announced[f], describe(c.receive(t, f)))
		}
	}
	wantLines(t, announced[IPv4][:4],
		"gratuitous request: 192.0.2.50 is 1", "gratuitous reply: 192.0.2.50 is 1",
		"gratuitous request: 192.0.2.51 is 1", "gratuitous reply: 192.0.2.51 is 1")
	wantLines(t, announced[IPv6][:2],
		"advertisement O to ff02::1 at all: 2001:db8::5:50 is 1", "advertisement O to ff02::1 at all: 2001:db8::5:51 is 1")

	for _, family := range []struct {
		Family
		said []said
		last []byte
		end  string
	}{
		{IPv4, framesARP, askFor(vip2), "reply to 192.0.2.2 at 2: 192.0.2.51 is 1"},
		{IPv6, framesNDP, solicitFor(vip62), "advertisement SO to fe80::2 at 2: 2001:db8::5:51 is 1"},
	} {
		var malformedFrames float64
		for _, tt := range family.said {
			// The answer to the last shows that the one before was handled.
			c.send(t, family.Family, tt.frame)
			c.send(t, family.Family, family.last)
			var got, want, sees []string
			for {
				line := describe(c.receive(t, family.Family))
				if line == family.end {
					break
				}
				got = append(got, line)
			}
			switch tt.answer {
			case "":
			case malformed:
				// The filter drops what has no place for its fields.
				malformedFrames++
			default:
				want = []string{tt.answer}
			}
			if tt.sees != "" {
				sees = []string{tt.sees}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", tt.name, got, want)
			}
			if got := e.take(); !slices.Equal(got, sees) {
				t.Errorf("%s: saw %v, want %v", tt.name, got, sees)
			}
		}
		got := counts(t, reg, family.Family)
		if got["malformed_total"] != malformedFrames || got["addresses"] != 2 || got["send_errors_total"] != 0 || got["dropped_total"] != 0 ||
			got["requests_too_late_total"] != 0 {
			t.Errorf("malformed %v, metrics: %v", malformedFrames, got)
		}
	}
	if age := time.Since(r.LastReceived("node")); age < 0 || age > 10*time.Second {
		t.Errorf("received %v ago", age)
	}
}

// tagged returns the frame with an 802.1Q tag.
func tagged(vid byte, b []byte) []byte {
	return append(append(append([]byte{}, b[:offEtherType]...), 0x81, 0, 0, vid), b[offEtherType:]...)
}

func TestFramesOfAnotherVLANAreNotSeen(t *testing.T) {
	c := newCable(t)
	r, _, _ := c.responder(t)
	set(t, r, []link.Link{c.link}, as("node", otherMAC, vip, vip2, vip6, vip62))
	c.send(t, IPv4, tagged(5, ask()))
	c.send(t, IPv4, tagged(0, askFor(vip2)))
	wantLines(t, []string{describe(c.receive(t, IPv4))}, "reply to 192.0.2.2 at 2: 192.0.2.51 is 3")
	c.send(t, IPv6, tagged(5, solicit()))
	c.send(t, IPv6, tagged(0, solicitFor(vip62)))
	wantLines(t, []string{describe(c.receive(t, IPv6))}, "advertisement SO to fe80::2 at 2: 2001:db8::5:51 is 3")
}

// A node's own frames and what the filter drops don't wake the program up.
func TestTheFiltersPassNothingElse(t *testing.T) {
	c := newCable(t)
	for _, tt := range []struct {
		Family
		own    []byte
		others [][]byte
		want   [][]byte
	}{
		{IPv4, gratuitous(0, selfMAC, vip), [][]byte{ask(put(offEtherType, 8, 0)), ask(put(offOperation, 0, 3)), ask()[:20], ask(putMAC(0, otherMAC))},
			[][]byte{ask(), gratuitous(1, otherMAC, vip)}},
		{IPv6, appendUnsolicited(nil, vip6, selfMAC), [][]byte{solicit(put(offNextHeader, 17)), solicit(put(offICMPType, 133)), solicit()[:40], solicit(putMAC(0, otherMAC))},
			[][]byte{solicit(), advertise(allNodes, false, []ndp.Option{lla(ndp.Target, otherMAC)})}},
	} {
		conn, err := c.Listen(c.link, tt.Family)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.Send(tt.own); err != nil {
			t.Fatal(err)
		}
		for _, b := range tt.others {
			c.send(t, tt.Family, b)
		}
		for _, want := range tt.want {
			c.send(t, tt.Family, want)
			b := make([]byte, maxReceived)
			for {
				n, at, err := conn.Receive(b)
				if err != nil {
					t.Fatal(err)
				}
				if age := time.Since(at); age < 0 || age > 10*time.Second {
					t.Errorf("received %v ago", age)
				}
				// The asker's kernel detects duplicates of its own address.
				if m, ok := parse(tt.Family, b[:n], selfMAC); ok && m.target.IsLinkLocalUnicast() {
					continue
				}
				if got, want := describe(b[:n]), describe(want); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				break
			}
		}
	}
}

func TestCloseEndsReceive(t *testing.T) {
	c := newCable(t)
	conn, err := c.Listen(c.link, IPv4)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan error)
	receive := func() {
		_, _, err := conn.Receive(make([]byte, maxReceived))
		received <- err
	}
	go receive()
	c.send(t, IPv4, ask())
	if err := <-received; err != nil {
		t.Fatal(err)
	}
	go receive()
	runtime.Gosched()
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := <-received; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a wait ended with %v", err)
	}
	go receive()
	if err := <-received; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive returned %v", err)
	}
	if err := conn.Send(ask()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send returned %v", err)
	}
	if n := conn.Dropped(); n != 0 {
		t.Errorf("%d were dropped", n)
	}
	if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close returned %v", err)
	}
}

func TestIgnoringAllocatesNothing(t *testing.T) {
	c := newCable(t)
	for f, frame := range map[Family][]byte{IPv4: askFor(other), IPv6: solicitFor(other6)} {
		conn, err := c.Listen(c.link, f)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		w, _ := aWire(f, nil, append(manyAddrs(10_000), manyAddrs6(10_000)...)...)
		raw, err := c.askers[f].SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		send := func(fd uintptr) bool {
			_, failed = unix.Write(int(fd), frame)
			return true
		}
		buf, out := make([]byte, maxReceived), make([]byte, 0, maxSent)
		if n := testing.AllocsPerRun(1000, func() {
			if err := raw.Write(send); err != nil || failed != nil {
				t.Fatal(err, failed)
			}
			n, at, err := conn.Receive(buf)
			if err != nil {
				t.Fatal(err)
			}
			w.handle(buf[:n], at, out)
		}); n != 0 {
			t.Errorf("%v: %v allocations per ignored request", f, n)
		}
	}
}

func TestAnsweringAllocatesNothing(t *testing.T) {
	for f, frame := range map[Family][]byte{IPv4: ask(), IPv6: solicit()} {
		w, conn := aWire(f, nil, vip, vip6)
		out := make([]byte, 0, maxSent)
		if n := testing.AllocsPerRun(1000, func() { w.handle(frame, time.Now(), out) }); n != 0 || len(conn.sent) == 0 {
			t.Errorf("%v: %v allocations per answer", f, n)
		}
	}
}

func TestARealInterfaceThatFlapsIsAnnouncedAgainAndStaysInItsGroups(t *testing.T) {
	c := newCable(t)
	r, _, _ := c.responder(t)
	set(t, r, []link.Link{c.link}, on("node", vip, vip6))
	for range 2 * rounds {
		c.receive(t, IPv4)
	}
	until(t, "the group is joined", func() bool { return c.isMember(t, vip6) })
	l := must(c.node.h.LinkByName("node"))
	if err := errors.Join(c.node.h.LinkSetDown(l), c.node.h.LinkSetUp(l)); err != nil {
		t.Fatal(err)
	}
	// The asker's end lost its carrier too, and says so once.
	var got []byte
	for got == nil {
		b := make([]byte, 200)
		if err := c.askers[IPv4].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, _, err := c.askers[IPv4].ReadFrom(b); err == nil {
			got = b[:n]
		} else if !strings.Contains(err.Error(), "network is down") {
			t.Fatal(err)
		}
	}
	if line := describe(got); line != "gratuitous request: 192.0.2.50 is 1" && line != "gratuitous reply: 192.0.2.50 is 1" {
		t.Errorf("got %q", line)
	}
	c.asker.untilUp(t)
	c.send(t, IPv4, ask())
	for {
		if b := c.receive(t, IPv4); !isGroup(link.MAC(b)) {
			wantLines(t, []string{describe(b)}, "reply to 192.0.2.2 at 2: 192.0.2.50 is 1")
			break
		}
	}
	if !c.isMember(t, vip6) {
		t.Error("the group was left")
	}
}

// A switch that snoops learns of a membership by a report (RFC 3810).
func TestAMembershipIsReported(t *testing.T) {
	c := newCable(t)
	r, _, _ := c.responder(t)
	set(t, r, []link.Link{c.link}, as("node", otherMAC, vip6))
	group := solicitedNode(vip6).AsSlice()
	until(t, "a report is seen", func() bool {
		if err := c.askers[IPv6].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1500)
		n, _, err := c.askers[IPv6].ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		const hopByHop, report, offType, offRecords = 0, 143, 62, 70
		return n > offRecords && b[offNextHeader] == hopByHop && b[offType] == report && bytes.Contains(b[offRecords:n], group)
	})
}

// isMember tells whether the node's interface is in the group of an address.
func (c *cable) isMember(t *testing.T, addr netip.Addr) bool {
	t.Helper()
	return strings.Contains(c.groups(t), netipHex(solicitedNode(addr)))
}

// groups returns the kernel's list of multicast groups.
func (c *cable) groups(t *testing.T) string {
	t.Helper()
	var b []byte
	var err error
	c.node.within(func() { b, err = os.ReadFile("/proc/thread-self/net/igmp6") })
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func netipHex(a netip.Addr) string { return strings.ReplaceAll(a.StringExpanded(), ":", "") }

func TestThousandsOfGroupsAreJoinedAndLeft(t *testing.T) {
	c := newCable(t)
	r, _, _ := c.responder(t)
	addrs := manyAddrs6(0x10000 + 5000)[0x10000:] // the kernel's own address is in a group like the first
	start := time.Now()
	set(t, r, []link.Link{c.link}, as("node", otherMAC, addrs...))
	t.Logf("Set of %d took %v", len(addrs), time.Since(start))
	member := func(n int) func() bool {
		return func() bool { return strings.Count(c.groups(t), "ff0200000000000000000001ff01") == n }
	}
	until(t, "all groups are joined", member(len(addrs)))
	t.Logf("%d groups were joined after %v", len(addrs), time.Since(start))
	set(t, r, []link.Link{c.link}, as("node", otherMAC, addrs[:10]...))
	until(t, "all but ten groups are left", member(10))
	r.Close()
	if !member(0)() {
		t.Error("groups are left after Close")
	}
}

func TestAVanishedInterfaceCanBeClosed(t *testing.T) {
	c := newCable(t)
	r, _, _ := c.responder(t)
	set(t, r, []link.Link{c.link}, on("node", vip, vip6))
	if err := c.node.h.LinkDel(must(c.node.h.LinkByName("node"))); err != nil {
		t.Fatal(err)
	}
	failed := r.Set(nil, on("node", vip))
	if failed[Place{"node", IPv4}] == nil {
		t.Error("an interface that is gone was not reported")
	}
	failed = r.Set([]link.Link{c.link}, on("node", vip))
	if failed[Place{"node", IPv4}] == nil {
		t.Error("a socket was opened on an interface that is gone")
	}
}

// Addresses are answered with the MAC of the interface that has the network. A
// macvlan sees the frames of the groups that it is in, and no others.
func TestBridgesAndMacvlans(t *testing.T) {
	for name, build := range map[string]func(c *cable, lower netlink.Link, a netlink.LinkAttrs) error{
		"a bridge": func(c *cable, lower netlink.Link, a netlink.LinkAttrs) error {
			bridge := &netlink.Bridge{LinkAttrs: a}
			return errors.Join(c.node.h.LinkAdd(bridge), c.node.h.LinkSetMaster(lower, bridge))
		},
		"a macvlan": func(c *cable, lower netlink.Link, a netlink.LinkAttrs) error {
			a.ParentIndex = lower.Attrs().Index
			return c.node.h.LinkAdd(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCable(t)
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.HardwareAddr = "upper", net.HardwareAddr{2, 0, 0, 0, 0, 7}
			if err := build(c, must(c.node.h.LinkByName("node")), attrs); err != nil {
				t.Fatal(err)
			}
			l := must(c.node.h.LinkByName("upper"))
			if err := c.node.h.LinkSetUp(l); err != nil {
				t.Fatal(err)
			}
			end{ns: c.node.ns, h: c.node.h, index: l.Attrs().Index}.untilUp(t)
			upper := link.Link{Index: l.Attrs().Index, Name: "upper", MAC: link.MAC{2, 0, 0, 0, 0, 7}, Up: true, ARP: true, NDP: true}
			r, _, _ := c.responder(t)
			set(t, r, []link.Link{upper}, as("upper", otherMAC, vip, vip6))
			c.send(t, IPv4, ask())
			wantLines(t, []string{describe(c.receive(t, IPv4))}, "reply to 192.0.2.2 at 2: 192.0.2.50 is 3")
			until(t, "the group is joined", func() bool { return c.isMember(t, vip6) })
			c.send(t, IPv6, solicit())
			wantLines(t, []string{describe(c.receive(t, IPv6))}, "advertisement SO to fe80::2 at 2: 2001:db8::5:50 is 3")

			mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
			if err := c.node.h.LinkSetHardwareAddr(l, mac); err != nil {
				t.Fatal(err)
			}
			upper.MAC = link.MAC(mac)
			set(t, r, []link.Link{upper}, on("upper", vip6))
			wantLines(t, []string{describe(c.receive(t, IPv6))}, "advertisement O to ff02::1 at all: 2001:db8::5:50 is 9")
		})
	}
}
