// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// These tests hold every condition against what the kernel really does.

// testbed is a node and a LAN, whose interfaces of the same name are joined by
// a cable.
type testbed struct {
	t         *testing.T
	node, lan *sandbox.Namespace
}

func newTestbed(t *testing.T, interfaces ...string) testbed {
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
	b := testbed{t: t}
	for name, ns := range map[string]**sandbox.Namespace{"node": &b.node, "lan": &b.lan} {
		if *ns, err = box.AddNamespace(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range interfaces {
		b.ip(b.node, fmt.Sprintf("link add %s type veth peer name %[1]s netns %s", i, b.lan.Path()), "link set "+i+" up")
		b.ip(b.lan, "link set "+i+" up")
	}
	return b
}

func (b testbed) ip(n *sandbox.Namespace, commands ...string) {
	b.t.Helper()
	for _, c := range commands {
		if out, err := n.Run(b.t.Context(), "ip", strings.Fields(c)...); err != nil {
			b.t.Fatalf("ip %s: %v %s", c, err, out)
		}
	}
}

func (b testbed) sysctl(n *sandbox.Namespace, key string, value int) {
	b.t.Helper()
	if err := n.Sysctl(key, fmt.Sprint(value)); err != nil {
		b.t.Fatal(err)
	}
}

// addIPVS makes kube-proxy's interface as it is: down, with the addresses of
// Services on it.
func (b testbed) addIPVS(addr string) {
	b.t.Helper()
	// A bridge stands in where the kernel has no dummy.
	b.ip(b.node, "link add "+ipvsInterface+" type bridge", "link set "+ipvsInterface+" arp off", fmt.Sprintf("addr add %s/%d dev %s", addr, netip.MustParseAddr(addr).BitLen(), ipvsInterface))
}

// found is what the package finds on the node if these interfaces carry
// addresses.
func (b testbed) found(kind string, carriers ...string) metav1.Condition {
	b.t.Helper()
	var n Node
	if err := b.node.Do(func() error {
		var links []link.Link
		ctx, cancel := context.WithCancel(b.t.Context())
		err := link.NewWatcher(logr.Discard(), func(l []link.Link) {
			links = l
			cancel()
		}).Run(ctx)
		if err != nil {
			return err
		}
		if carriers == nil {
			carriers = []string{}
		}
		n, err = reader{sys: os.DirFS("/proc/sys"), accepts: accepts}.read(links, carriers)
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	c := meta.FindStatusCondition(Check(n), kind)
	if c == nil {
		b.t.Fatalf("no condition %s", kind)
	}
	return *c
}

// listen opens a UDP socket, which sends and receives.
func (b testbed) listen(n *sandbox.Namespace, addr string) *net.UDPConn {
	b.t.Helper()
	var conn *net.UDPConn
	if err := n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

func (b testbed) send(from *net.UDPConn, to string) {
	b.t.Helper()
	if _, err := from.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(to)); err != nil {
		b.t.Fatal(err)
	}
}

// answers tells whether the node's kernel answers ARP or NDP for an address.
func (b testbed) answers(addr string) bool {
	b.t.Helper()
	macs, err := wire.Ask(b.t.Context(), b.lan, "eth0", netip.MustParseAddr(addr), 50*time.Millisecond)
	if err != nil {
		b.t.Fatal(err)
	}
	return len(macs) > 0
}

func TestWhichARPIgnoreIsStrictForReal(t *testing.T) {
	b := newTestbed(t, "eth0")
	b.ip(b.node, "addr add 192.0.2.1/24 dev eth0")
	b.ip(b.lan, "addr add 192.0.2.2/24 dev eth0")
	b.sysctl(b.node, "ipv4/conf/all/arp_announce", 2)
	if c := b.found(v1alpha1.SpeakerStrictARP); wrong(c) {
		t.Errorf("without IPVS: %+v", c)
	}
	b.addIPVS("192.0.2.77")
	for _, tt := range []struct{ all, own int }{{0, 0}, {1, 0}, {0, 1}, {0, 2}, {0, 3}, {1, 3}, {0, 4}, {1, 7}, {2, 8}} {
		b.sysctl(b.node, "ipv4/conf/all/arp_ignore", tt.all)
		b.sysctl(b.node, "ipv4/conf/eth0/arp_ignore", tt.own)
		answered := b.answers("192.0.2.77")
		c := b.found(v1alpha1.SpeakerStrictARP)
		if wrong(c) != answered || answered != (c.Reason == reasonKernelAnswers) {
			t.Errorf("arp_ignore %+v: the kernel answers %t, and the condition is %+v", tt, answered, c)
		}
		answered = b.answers("192.0.2.1")
		if c := b.found(v1alpha1.SpeakerARPIgnored); wrong(c) == answered {
			t.Errorf("arp_ignore %+v: the kernel answers for the node %t, and the condition is %+v", tt, answered, c)
		}
	}
}

// So an IPVS node needs no setting for IPv6.
func TestTheKernelAnswersNDPForNoOtherInterface(t *testing.T) {
	b := newTestbed(t, "eth0")
	for _, n := range []*sandbox.Namespace{b.node, b.lan} {
		b.sysctl(n, "ipv6/conf/eth0/accept_dad", 0)
	}
	b.ip(b.lan, "addr add 2001:db8::2/64 dev eth0 nodad")
	b.ip(b.node, "addr add 2001:db8::1/64 dev eth0 nodad")
	b.addIPVS("2001:db8::77")
	b.ip(b.node, "link set "+ipvsInterface+" up")
	if !b.answers("2001:db8::1") {
		t.Error("the node doesn't answer for its own address")
	}
	if b.answers("2001:db8::77") {
		t.Error("it answers for that of a Service")
	}
	if c := b.found(v1alpha1.SpeakerStrictARP); wrong(c) {
		t.Errorf("%+v", c)
	}
}

// A neighbor that knows the owner's MAC of an address believes the ARP request
// of another node that sends from that address.
func TestWhichARPAnnounceIsStrictForReal(t *testing.T) {
	const address, owner = "192.0.2.77", "02:00:00:00:00:99"
	for _, tt := range []struct{ all, own int }{{0, 0}, {0, 1}, {1, 0}, {0, 2}, {2, 0}} {
		b := newTestbed(t, "eth0")
		b.ip(b.node, "addr add 192.0.2.1/24 dev eth0")
		b.ip(b.lan, "addr add 192.0.2.2/24 dev eth0", fmt.Sprintf("neigh add %s lladdr %s dev eth0 nud stale", address, owner))
		b.sysctl(b.lan, "ipv4/neigh/eth0/locktime", 0)
		b.addIPVS(address)
		b.sysctl(b.node, "ipv4/conf/all/arp_ignore", 1)
		b.sysctl(b.node, "ipv4/conf/all/arp_announce", tt.all)
		b.sysctl(b.node, "ipv4/conf/eth0/arp_announce", tt.own)

		neighbor := b.listen(b.lan, "192.0.2.2:1000")
		b.send(b.listen(b.node, address+":1000"), "192.0.2.2:1000")
		if err := neighbor.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := neighbor.ReadFrom(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		cache, err := b.lan.Run(t.Context(), "ip", "neigh", "show", address)
		if err != nil {
			t.Fatal(err)
		}
		stolen := !strings.Contains(cache, owner)
		c := b.found(v1alpha1.SpeakerStrictARP)
		if wrong(c) != stolen || stolen != (c.Reason == reasonKernelAsks) {
			t.Errorf("arp_announce %+v: the neighbor has %q, and the condition is %+v", tt, cache, c)
		}
	}
}

// delivered tells whether the node gets a datagram that is sent to one of its
// addresses; if not it was the reverse path filter that dropped it.
func (b testbed) delivered(from, to string) bool {
	b.t.Helper()
	const counter = "IPReversePathFilter"
	dropped := func() string {
		out, err := b.node.Run(b.t.Context(), "cat", "/proc/thread-self/net/netstat")
		if err != nil {
			b.t.Fatal(err)
		}
		lines := strings.Split(out, "\n")
		for i, names := range lines {
			if at := slices.Index(strings.Fields(names), counter); at > 0 {
				return strings.Fields(lines[i+1])[at]
			}
		}
		b.t.Fatalf("no %s in %s", counter, out)
		return ""
	}
	before := dropped()
	node, sender := b.listen(b.node, to+":1000"), b.listen(b.lan, from+":1000")
	b.send(sender, to+":1000")
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if err := node.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			b.t.Fatal(err)
		}
		_, _, err := node.ReadFrom(make([]byte, 1))
		node.SetReadDeadline(time.Time{})
		switch {
		case err == nil:
			node.Close()
			sender.Close()
			return true
		case !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF):
			b.t.Fatal(err)
		case dropped() != before:
			node.Close()
			sender.Close()
			return false
		}
	}
	b.t.Fatal("the datagram was neither delivered nor dropped")
	return false
}

func TestWhenTheReversePathIsFilteredForReal(t *testing.T) {
	const client = "100.64.0.9" // behind the LAN, which routes
	for name, tt := range map[string]struct {
		node     []string // what is done to the node
		all, own int      // rp_filter
		from     string
		want     Clients // who is dropped
	}{
		"the way back is by another interface":     {[]string{"route add default via 198.51.100.2"}, 0, 1, client, Others},
		"all says so":                              {[]string{"route add default via 198.51.100.2"}, 1, 0, client, Others},
		"the better default route is elsewhere":    {[]string{"route add default via 198.51.100.2 metric 100", "route add default via 192.0.2.2 metric 200"}, 1, 1, client, Others},
		"the better default route is here":         {[]string{"route add default via 198.51.100.2 metric 200", "route add default via 192.0.2.2 metric 100"}, 1, 1, client, ""},
		"both are equally good":                    {[]string{"route add default nexthop via 192.0.2.2 nexthop via 198.51.100.2"}, 1, 1, client, ""},
		"the filter is loose":                      {[]string{"route add default via 198.51.100.2"}, 0, 2, client, ""},
		"loose wins over strict":                   {[]string{"route add default via 198.51.100.2"}, 2, 1, client, ""},
		"the filter is off":                        {[]string{"route add default via 198.51.100.2"}, 0, 0, client, ""},
		"a rule leads back":                        {[]string{"route add default via 198.51.100.2", "route add default via 192.0.2.2 table 7", "rule add to 100.64.0.0/10 table 7", "rule add to 203.0.113.0/24 table 7"}, 1, 1, client, ""},
		"a neighbor is let in":                     {[]string{"route add default via 198.51.100.2"}, 1, 1, "192.0.2.2", Others},
		"another interface is in the same network": {[]string{"addr add 192.0.2.99/24 dev eth0", "route del 192.0.2.0/24 dev eth1"}, 1, 1, "192.0.2.2", Neighbors},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestbed(t, "eth0", "eth1")
			b.ip(b.lan, "addr add 198.51.100.2/24 dev eth0", "addr add 192.0.2.2/24 dev eth1", "addr add "+client+"/32 dev lo")
			// The filter applies to ARP requests, too, but it is the speaker that
			// answers those.
			b.ip(b.node, "link set eth1 address 02:00:00:00:00:01")
			b.ip(b.lan, "neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth1 nud permanent")
			b.ip(b.node, "addr add 198.51.100.1/24 dev eth0", "addr add 192.0.2.1/24 dev eth1")
			b.ip(b.node, tt.node...)
			b.sysctl(b.node, "ipv4/conf/all/rp_filter", tt.all)
			b.sysctl(b.node, "ipv4/conf/eth1/rp_filter", tt.own)

			delivered := b.delivered(tt.from, "192.0.2.1")
			// A neighbor says nothing of clients beyond.
			if dropped := tt.want != "" && (tt.from == client) == (tt.want == Others); delivered == dropped {
				t.Errorf("delivered %t", delivered)
			}
			c := b.found(v1alpha1.SpeakerReversePathFiltered, "eth1")
			if wrong(c) != (tt.want != "") || !strings.Contains(c.Message, string(tt.want)) {
				t.Errorf("%+v", c)
			}
			if c := b.found(v1alpha1.SpeakerReversePathFiltered); wrong(c) {
				t.Errorf("without an address on the interface: %+v", c)
			}
		})
	}
}

func TestNoInterfaceForReal(t *testing.T) {
	b := newTestbed(t, "eth0")
	for _, tt := range []struct{ do, reason string }{
		{"addr add 192.0.2.1/32 dev eth0", reasonNoneFits},
		{"addr add 192.0.2.2/24 dev eth0", reasonInterfaceUp},
		{"link set eth0 arp off", reasonNoneFits},
		{"link set eth0 arp on", reasonInterfaceUp},
		{"link set eth0 down", reasonAllDown},
	} {
		b.ip(b.node, tt.do)
		if c := b.found(v1alpha1.SpeakerNoInterface); c.Reason != tt.reason {
			t.Errorf("after %q: %+v", tt.do, c)
		}
	}
}
