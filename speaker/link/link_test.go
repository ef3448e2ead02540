// SPDX-License-Identifier: Apache-2.0

package link

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestFromNetlink(t *testing.T) {
	mac := MAC{2, 0, 0, 0, 0, 1}
	attrs := func(index int, name string, flags uint32) netlink.LinkAttrs {
		return netlink.LinkAttrs{Index: index, Name: name, RawFlags: flags, EncapType: "ether", HardwareAddr: net.HardwareAddr(mac[:])}
	}
	enslaved := func(a netlink.LinkAttrs, master int) netlink.LinkAttrs {
		a.MasterIndex = master
		return a
	}
	addr := func(index int, s string) netlink.Addr {
		n, err := netlink.ParseIPNet(s)
		if err != nil {
			t.Fatal(err)
		}
		return netlink.Addr{IPNet: n, LinkIndex: index}
	}
	peer := func(a netlink.Addr, s string) netlink.Addr {
		a.Peer = addr(0, s).IPNet
		return a
	}
	prefixes := func(s ...string) (p []netip.Prefix) {
		for _, s := range s {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	hop := func(index int, gw string) *netlink.NexthopInfo {
		return &netlink.NexthopInfo{LinkIndex: index, Gw: net.ParseIP(gw)}
	}
	route := func(dst string, index int, gw string, hops ...*netlink.NexthopInfo) netlink.Route {
		r := netlink.Route{Type: unix.RTN_UNICAST, LinkIndex: index, Gw: net.ParseIP(gw), MultiPath: hops}
		if dst != "" {
			n, err := netlink.ParseIPNet(dst)
			if err != nil {
				t.Fatal(err)
			}
			r.Dst = n
		}
		return r
	}
	blackhole := route("0.0.0.0/0", 2, "192.0.2.1")
	blackhole.Type = unix.RTN_BLACKHOLE
	via := route("0.0.0.0/0", 2, "")
	via.Via = &netlink.Via{AddrFamily: netlink.FAMILY_V6, Addr: net.ParseIP("fe80::1")}
	ips := func(s ...string) (out []netip.Addr) {
		for _, s := range s {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	flagged := func(a netlink.Addr, flags int) netlink.Addr {
		a.Flags = flags
		return a
	}
	const up = unix.IFF_UP | unix.IFF_RUNNING

	for name, tt := range map[string]struct {
		links  []netlink.Link
		addrs  []netlink.Addr
		routes []netlink.Route
		want   []Link
	}{
		"an Ethernet interface has its networks, sorted": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}},
			addrs: []netlink.Addr{addr(2, "fd00::2/64"), addr(2, "192.0.2.2/24"), addr(3, "198.51.100.1/24"), addr(2, "192.0.2.2/24")},
			want:  []Link{{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, Prefixes: prefixes("192.0.2.2/24", "fd00::2/64"), Addrs: ips("192.0.2.2", "fd00::2")}},
		},
		"interfaces come in the order of their indices": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(3, "b", up)}, &netlink.Device{LinkAttrs: attrs(2, "a", up)}},
			want:  []Link{{Index: 2, Name: "a", MAC: mac, Up: true, ARP: true}, {Index: 3, Name: "b", MAC: mac, Up: true, ARP: true}},
		},
		"without a carrier it is down": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", unix.IFF_UP)}},
			want:  []Link{{Index: 2, Name: "eth0", MAC: mac, ARP: true}},
		},
		"taken down it is down": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", unix.IFF_RUNNING)}},
			want:  []Link{{Index: 2, Name: "eth0", MAC: mac, ARP: true}},
		},
		"a link-local address makes it do NDP": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}, &netlink.Device{LinkAttrs: attrs(3, "dummy0", up|unix.IFF_NOARP)}},
			addrs: []netlink.Addr{addr(2, "fe80::2/64"), addr(3, "fe80::3/64")},
			want: []Link{
				{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, NDP: true, Prefixes: prefixes("fe80::2/64"), Addrs: ips("fe80::2")},
				{Index: 3, Name: "dummy0", MAC: mac, Up: true, Prefixes: prefixes("fe80::3/64"), Addrs: ips("fe80::3")},
			},
		},
		"NOARP is no ARP": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "dummy0", up|unix.IFF_NOARP)}},
			want:  []Link{{Index: 2, Name: "dummy0", MAC: mac, Up: true}},
		},
		"a tunnel has no Ethernet address": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 2, Name: "tun0", RawFlags: up, EncapType: "none"}}},
			want:  []Link{{Index: 2, Name: "tun0", Up: true}},
		},
		"an IPIP tunnel's four bytes are no Ethernet address": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 2, Name: "tunl0", RawFlags: up, EncapType: "ipip", HardwareAddr: net.HardwareAddr{192, 0, 2, 1}}}},
			want:  []Link{{Index: 2, Name: "tunl0", Up: true}},
		},
		"a loopback carries nothing": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(1, "lo", up|unix.IFF_LOOPBACK)}},
			want:  []Link{},
		},
		"the bridge answers, not its port": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: enslaved(attrs(2, "eth0", up), 3)}, &netlink.Bridge{LinkAttrs: attrs(3, "br0", up)}},
			addrs: []netlink.Addr{addr(3, "192.0.2.2/24")},
			want:  []Link{{Index: 3, Name: "br0", MAC: mac, Up: true, ARP: true, Prefixes: prefixes("192.0.2.2/24"), Addrs: ips("192.0.2.2")}},
		},
		"a member of a VRF answers itself": {
			links: []netlink.Link{&netlink.Vrf{LinkAttrs: attrs(9, "red", up|unix.IFF_NOARP)}, &netlink.Device{LinkAttrs: enslaved(attrs(2, "eth0", up), 9)}},
			addrs: []netlink.Addr{addr(2, "192.0.2.2/24")},
			want:  []Link{{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, Prefixes: prefixes("192.0.2.2/24"), Addrs: ips("192.0.2.2")}, {Index: 9, Name: "red", MAC: mac, Up: true}},
		},
		"with a peer address the network is the peer's": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}},
			addrs: []netlink.Addr{peer(addr(2, "192.0.2.2/32"), "198.51.100.1/24")},
			want:  []Link{{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, Prefixes: prefixes("198.51.100.1/24"), Addrs: ips("192.0.2.2")}},
		},
		"an IPv4 address of 16 bytes is an IPv4 address": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}},
			addrs: []netlink.Addr{{LinkIndex: 2, IPNet: &net.IPNet{IP: net.ParseIP("192.0.2.2"), Mask: net.CIDRMask(24, 32)}}},
			want:  []Link{{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, Prefixes: prefixes("192.0.2.2/24"), Addrs: ips("192.0.2.2")}},
		},
		"so does one that is still tentative": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}},
			addrs: []netlink.Addr{flagged(addr(2, "fe80::2/64"), unix.IFA_F_TENTATIVE|unix.IFA_F_PERMANENT)},
			want:  []Link{{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, NDP: true, Prefixes: prefixes("fe80::2/64")}},
		},
		"it sends from no address that may be a duplicate": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}},
			addrs: []netlink.Addr{
				flagged(addr(2, "fe80::2/64"), unix.IFA_F_PERMANENT), flagged(addr(2, "fd00::2/64"), unix.IFA_F_TENTATIVE),
				flagged(addr(2, "fd00::3/64"), unix.IFA_F_DADFAILED|unix.IFA_F_TENTATIVE),
			},
			want: []Link{{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, NDP: true,
				Prefixes: prefixes("fd00::2/64", "fd00::3/64", "fe80::2/64"), Addrs: ips("fe80::2")}},
		},
		"default routes of both families have gateways": {
			links:  []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}, &netlink.Device{LinkAttrs: attrs(3, "eth1", up)}},
			routes: []netlink.Route{route("::/0", 3, "fe80::1"), route("", 2, "192.0.2.254"), route("0.0.0.0/0", 2, "192.0.2.1"), route("0.0.0.0/0", 2, "192.0.2.1")},
			want: []Link{
				{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, Gateways: ips("192.0.2.1", "192.0.2.254")},
				{Index: 3, Name: "eth1", MAC: mac, Up: true, ARP: true, Gateways: ips("fe80::1")},
			},
		},
		"each hop of a multipath route is a gateway of its interface": {
			links:  []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}, &netlink.Device{LinkAttrs: attrs(3, "eth1", up)}},
			routes: []netlink.Route{route("0.0.0.0/0", 0, "", hop(2, "192.0.2.1"), hop(3, "198.51.100.1"), hop(3, "198.51.100.2"))},
			want: []Link{
				{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, Gateways: ips("192.0.2.1")},
				{Index: 3, Name: "eth1", MAC: mac, Up: true, ARP: true, Gateways: ips("198.51.100.1", "198.51.100.2")},
			},
		},
		"the gateway may be of the other family": {
			links:  []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}},
			routes: []netlink.Route{via},
			want:   []Link{{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, Gateways: ips("fe80::1")}},
		},
		"other routes have no gateway that counts": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}},
			routes: []netlink.Route{
				route("0.0.0.0/0", 2, ""), route("0.0.0.0/1", 2, "192.0.2.1"), route("10.0.0.0/8", 2, "192.0.2.1"), route("::/0", 4, "fe80::1"),
				route("0.0.0.0/0", 2, "0.0.0.0"), blackhole,
			},
			want: []Link{{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true}},
		},
		"an address without a sound mask is on no network": {
			links: []netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0", up)}},
			addrs: []netlink.Addr{{LinkIndex: 2}, {LinkIndex: 2, IPNet: &net.IPNet{IP: net.ParseIP("192.0.2.2"), Mask: net.IPMask{255, 0, 255, 0}}}},
			want:  []Link{{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, Addrs: ips("192.0.2.2")}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := fromNetlink(tt.links, tt.addrs, tt.routes)
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnnounces(t *testing.T) {
	ether := func(prefixes ...string) (l Link) {
		l.ARP = true
		for _, p := range prefixes {
			l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p))
		}
		return l
	}
	leading := ether("192.0.2.1/32")
	leading.Gateways = []netip.Addr{netip.MustParseAddr("172.31.1.1")}
	tunnel := leading
	tunnel.ARP = false
	for name, tt := range map[string]struct {
		link Link
		want bool
	}{
		"on a network":                    {ether("192.0.2.1/24"), true},
		"on an IPv6 network":              {ether("2001:db8::1/64"), true},
		"with a gateway":                  {leading, true},
		"without ARP":                     {tunnel, false},
		"with an address of no network":   {ether("192.0.2.1/32"), false},
		"with a link-local address alone": {ether("fe80::1/64"), false},
		"without an address":              {ether(), false},
	} {
		if got := tt.link.Announces(); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestLinkLocal(t *testing.T) {
	l := Link{Addrs: []netip.Addr{
		netip.MustParseAddr("169.254.0.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2"),
	}}
	if got := l.LinkLocal(); got != l.Addrs[2] {
		t.Errorf("%v", got)
	}
	l.Addrs = l.Addrs[:2]
	if got := l.LinkLocal(); got.IsValid() {
		t.Errorf("%v is no link-local address", got)
	}
}
