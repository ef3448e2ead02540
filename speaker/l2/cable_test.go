// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// cable is a pair of real interfaces, each in a network namespace of its own:
// the node's end and the asker's.
type cable struct {
	node, asker end
	link        link.Link
	askers      [2]*packet.Conn // by family
}

var _ Sockets = &cable{}

// end is an interface in a namespace.
type end struct {
	ns    netns.NsHandle
	h     *netlink.Handle
	index int
}

func newEnd(t *testing.T) end {
	t.Helper()
	var e end
	var err error
	e.within(func() { e.ns, err = netns.New() })
	if err != nil {
		t.Fatalf("make a network namespace (as root): %v", err)
	}
	t.Cleanup(func() { e.ns.Close() })
	if e.h, err = netlink.NewHandleAt(e.ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.h.Close)
	return e
}

func newCable(t *testing.T) *cable {
	t.Helper()
	c := &cable{node: newEnd(t), asker: newEnd(t)}
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "asker", PeerHardwareAddr: askerMAC[:], PeerNamespace: netlink.NsFd(c.asker.ns)}
	veth.Name, veth.HardwareAddr = "node", selfMAC[:]
	if err := c.node.h.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]*end{"node": &c.node, "asker": &c.asker} {
		l := must(e.h.LinkByName(name))
		e.index = l.Attrs().Index
		if err := e.h.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	// The kernel drops what is sent before it has noticed the carrier.
	c.node.untilUp(t)
	c.asker.untilUp(t)
	c.link = link.Link{
		Index: c.node.index, Name: "node", MAC: selfMAC, Up: true, ARP: true, NDP: true,
		Addrs:    []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("fe80::1/64")},
	}
	for f, protocol := range map[Family]int{IPv4: unix.ETH_P_ARP, IPv6: unix.ETH_P_IPV6} {
		var err error
		c.asker.within(func() {
			ifi := &net.Interface{Index: c.asker.index, Name: "asker", HardwareAddr: askerMAC[:]}
			c.askers[f], err = packet.Listen(ifi, packet.Raw, protocol, nil)
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.askers[f].Close() })
	}
	return c
}

func (e end) untilUp(t *testing.T) {
	t.Helper()
	until(t, "the interface is up", func() bool {
		return must(e.h.LinkByIndex(e.index)).Attrs().OperState == netlink.OperUp
	})
}

// until waits for what the kernel does in its own time.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}

// within runs f in the namespace, or, before there is one, on a thread that
// comes back to its own.
func (e end) within(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old := must(netns.Get())
	defer old.Close()
	defer func() {
		if err := netns.Set(old); err != nil {
			panic(err) // the thread must not serve other tests
		}
	}()
	if e.ns != 0 {
		if err := netns.Set(e.ns); err != nil {
			panic(err)
		}
	}
	f()
}

func (c *cable) Listen(l link.Link, f Family) (conn Conn, err error) {
	c.node.within(func() { conn, err = Kernel{}.Listen(l, f) })
	return conn, err
}

func (c *cable) Group(l link.Link) (g Group, err error) {
	c.node.within(func() { g, err = Kernel{}.Group(l) })
	return g, err
}

func (c *cable) send(t *testing.T, f Family, b []byte) {
	t.Helper()
	if _, err := c.askers[f].WriteTo(b, &packet.Addr{HardwareAddr: b[:6]}); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next frame that the asker sees and that the kernels
// didn't send of their own accord.
func (c *cable) receive(t *testing.T, f Family) []byte {
	t.Helper()
	for {
		if err := c.askers[f].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1500)
		n, _, err := c.askers[f].ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := parse(f, b[:n], askerMAC); f == IPv4 || ok && (m.target.IsGlobalUnicast() || m.claimed.IsGlobalUnicast()) {
			return b[:n]
		}
	}
}
