// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// deaf is an observer that nobody asks.
type deaf struct{}

func (deaf) State(bgp.Info)            {}
func (deaf) Failed(string)             {}
func (deaf) Notified(bgp.Notification) {}
func (deaf) UpdateSent()               {}

// A session on an unnumbered link comes from the address that the router knows,
// also over an interface that went away and came back.
func TestConnectionsBetweenLinkLocalAddresses(t *testing.T) {
	t.Parallel()
	s, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	node, err := s.AddNamespace("node")
	if err != nil {
		t.Fatal(err)
	}
	router, err := s.AddNamespace("router")
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	if err := router.Do(func() (err error) {
		l, err = net.Listen("tcp6", "[::]:179")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })

	// add gives a machine an address that is usable at once.
	add := func(n *sandbox.Namespace, addr string) {
		t.Helper()
		eth0, err := n.Netlink().LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		a, err := netlink.ParseAddr(addr + "/64")
		if err != nil {
			t.Fatal(err)
		}
		a.Flags = unix.IFA_F_NODAD
		if err := errors.Join(n.Netlink().LinkSetUp(eth0), n.Netlink().AddrAdd(eth0, a)); err != nil {
			t.Fatal(err)
		}
	}
	own := netip.MustParseAddr("fe80::7")
	for range 2 {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(router.FD())}
		veth.Name = "eth0"
		if err := node.Netlink().LinkAdd(veth); err != nil {
			t.Fatal(err)
		}
		add(node, own.String())
		add(node, "fe80::8")
		add(router, "fe80::1")
		p := plain("tor", 65001)
		p.Source, p.Port = own, 179
		c := conn{observer: deaf{}, session: bgp.Session{Peer: p, Neighbor: netip.MustParseAddr("fe80::1%eth0")}}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		var nc net.Conn
		for ; nc == nil; time.Sleep(10 * time.Millisecond) { // until both sides are up
			if err := node.Do(func() (err error) {
				nc, err = c.connect(ctx)
				return err
			}); err != nil && ctx.Err() != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if got := nc.LocalAddr().(*net.TCPAddr).AddrPort().Addr().WithZone(""); got != own {
			t.Errorf("the connection is from %s", got)
		}
		if err := errors.Join(nc.Close(), node.Netlink().LinkDel(veth)); err != nil {
			t.Fatal(err)
		}
	}
}
