// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// What a neighbour's kernel makes of the answers.
func TestALinuxNeighbour(t *testing.T) {
	c := newCable(t)
	r, _, _ := c.responder(t)
	asker := must(c.asker.h.LinkByName("asker"))
	for _, a := range []string{"192.0.2.2/24", "2001:db8::2/64"} {
		addr := must(netlink.ParseAddr(a))
		addr.Flags = unix.IFA_F_NODAD
		if err := c.asker.h.AddrAdd(asker, addr); err != nil {
			t.Fatal(err)
		}
	}
	learned := func(addr netip.Addr) string {
		for _, n := range must(c.asker.h.NeighList(c.asker.index, netlink.FAMILY_ALL)) {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == addr && n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE) != 0 {
				return station(n.HardwareAddr)
			}
		}
		return ""
	}
	talk := func(addr netip.Addr) {
		var conn net.Conn
		var err error
		c.asker.within(func() { conn, err = net.Dial("udp", netip.AddrPortFrom(addr, 9).String()) })
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	both := []netip.Addr{vip, vip6}
	set(t, r, []link.Link{c.link}, as("node", otherMAC, both...))
	for _, a := range both {
		talk(a)
		until(t, a.String()+" is known at the owner's MAC", func() bool { return learned(a) == "3" })
	}
	set(t, r, []link.Link{c.link}, on("node", both...))
	for _, a := range both {
		until(t, a.String()+" has moved to this node", func() bool { return learned(a) == "1" })
	}

	// A neighbour that takes the address for itself finds it taken.
	duplicate := &netlink.Addr{IPNet: &net.IPNet{IP: vip62.AsSlice(), Mask: net.CIDRMask(64, 128)}}
	set(t, r, []link.Link{c.link}, on("node", vip6, vip62))
	if err := c.asker.h.AddrAdd(asker, duplicate); err != nil {
		t.Fatal(err)
	}
	until(t, "the kernel sees that the address is taken", func() bool {
		return slices.ContainsFunc(must(c.asker.h.AddrList(asker, netlink.FAMILY_V6)), func(a netlink.Addr) bool {
			return a.IP.Equal(duplicate.IP) && a.Flags&unix.IFA_F_DADFAILED != 0
		})
	})
}

// A kernel answers what is asked, whatever the form of the question.
func TestAskingALinuxNeighbour(t *testing.T) {
	c := newCable(t)
	r, e, _ := c.responder(t)
	asker := must(c.asker.h.LinkByName("asker"))
	here, here6 := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	for _, a := range []string{"192.0.2.2/24", "2001:db8::2/64"} {
		addr := must(netlink.ParseAddr(a))
		addr.Flags = unix.IFA_F_NODAD
		if err := c.asker.h.AddrAdd(asker, addr); err != nil {
			t.Fatal(err)
		}
	}
	set(t, r, []link.Link{c.link}, nil)
	for _, addr := range []netip.Addr{here, here6} {
		for name, ask := range map[string]func() error{
			"everybody":                  func() error { return r.Ask("node", addr, link.MAC{}, false) },
			"one station":                func() error { return r.Ask("node", addr, askerMAC, false) },
			"everybody, nobody's":        func() error { return r.Ask("node", addr, link.MAC{}, true) },
			"one station, and nobody's ": func() error { return r.Ask("node", addr, askerMAC, true) },
		} {
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			until(t, "an answer about "+addr.String()+", asking "+name, func() bool {
				return slices.Contains(e.take(), addr.String()+" is 2, says a reply")
			})
		}
	}
}
