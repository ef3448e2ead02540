// SPDX-License-Identifier: Apache-2.0

// Package link follows the network interfaces of the machine that can carry addresses.
package link

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network interface.
type Link struct {
	Index int
	Name  string
	MAC   MAC
	// Up says that the interface is set up and has a carrier.
	Up bool
	// ARP says that the interface has Ethernet addresses and resolves them.
	ARP bool
	// NDP says the same for IPv6: the interface has a link-local address,
	// without which there is no neighbor discovery (RFC 4861).
	NDP bool
	// Addrs are its own addresses, sorted, without those that it may not send
	// from: duplicates, and those that may yet turn out to be.
	Addrs []netip.Addr
	// Prefixes are the networks of its addresses, with these addresses in
	// them, sorted.
	Prefixes []netip.Prefix
	// Gateways are the next hops of the default routes through it, sorted.
	Gateways []netip.Addr
}

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Equal tells whether two interfaces are in every respect the same.
func (l Link) Equal(o Link) bool {
	return l.Index == o.Index && l.Name == o.Name && l.MAC == o.MAC && l.Up == o.Up && l.ARP == o.ARP && l.NDP == o.NDP &&
		slices.Equal(l.Addrs, o.Addrs) && slices.Equal(l.Prefixes, o.Prefixes) && slices.Equal(l.Gateways, o.Gateways)
}

// Announces tells whether an address on one of its networks, or on those behind
// its gateways, can be announced on the interface.
//
// One that does no ARP announces nothing. kube-proxy's dummy in IPVS mode is
// such, with the address of every Service on it. One that has only addresses
// that are a network of their own, and leads to no gateway, can announce
// nothing either: some pod networks have such an interface for each Pod.
func (l Link) Announces() bool {
	onNetwork := slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool {
		return !p.IsSingleIP() && !(p.Addr().Is6() && p.Addr().IsLinkLocalUnicast())
	})
	return l.ARP && (onNetwork || len(l.Gateways) > 0)
}

// LinkLocal returns the IPv6 address by which routers know this machine on the
// interface, if they learn one by themselves. Of several it is always the same;
// it is not valid if there is none to send from.
func (l Link) LinkLocal() netip.Addr {
	for _, a := range l.Addrs {
		if a.Is6() && a.IsLinkLocalUnicast() {
			return a
		}
	}
	return netip.Addr{}
}

// fromNetlink returns the interfaces that can carry addresses, in the order of
// their indices.
//
// Loopbacks reach nobody. Ports of a bridge or bond hand their frames to it,
// so it is the one to answer on; a member of a VRF is an interface in its own
// right. What else has no use for us (bridges of the pod network, tunnels)
// needs no rule: no address is on its networks, or it does no ARP.
func fromNetlink(links []netlink.Link, addrs []netlink.Addr, routes []netlink.Route) []Link {
	gateways := map[int][]netip.Addr{}
	for i := range routes {
		addGateways(gateways, &routes[i])
	}
	kinds := make(map[int]string, len(links))
	for _, l := range links {
		kinds[l.Attrs().Index] = l.Type()
	}
	out := []Link{}
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_LOOPBACK != 0 || a.MasterIndex != 0 && kinds[a.MasterIndex] != "vrf" {
			continue
		}
		v := Link{
			Index: a.Index,
			Name:  a.Name,
			// The kernel sets RUNNING for the operational states up and
			// unknown; drivers without carrier detection stay unknown.
			Up: a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
		}
		if len(a.HardwareAddr) == len(v.MAC) && a.EncapType == "ether" {
			v.MAC = MAC(a.HardwareAddr)
			v.ARP = a.RawFlags&unix.IFF_NOARP == 0
		}
		for _, ip := range addrs {
			if ip.LinkIndex != a.Index {
				continue
			}
			if p, ok := network(ip); ok {
				v.Prefixes = append(v.Prefixes, p)
				v.NDP = v.NDP || v.ARP && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()
			}
			if own, ok := local(ip); ok && ip.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
				v.Addrs = append(v.Addrs, own)
			}
		}
		slices.SortFunc(v.Addrs, netip.Addr.Compare)
		v.Addrs = slices.Compact(v.Addrs)
		slices.SortFunc(v.Prefixes, netip.Prefix.Compare)
		v.Prefixes = slices.Compact(v.Prefixes)
		v.Gateways = gateways[a.Index]
		slices.SortFunc(v.Gateways, netip.Addr.Compare)
		v.Gateways = slices.Compact(v.Gateways)
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b Link) int { return a.Index - b.Index })
	return out
}

// network returns the network that an address puts its interface on. With a
// peer that is the peer's: the prefix length belongs to it (ip-address(8)).
func network(a netlink.Addr) (netip.Prefix, bool) {
	n := a.IPNet
	if a.Peer != nil {
		n = a.Peer
	}
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP)
	ones, size := n.Mask.Size()
	ip = ip.Unmap()
	if !ok || size != ip.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(ip, ones), true
}

// local returns the interface's own address.
func local(a netlink.Addr) (netip.Addr, bool) {
	if a.IPNet == nil {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	return ip.Unmap(), ok
}

// isDefault tells whether a route is a default route of whatever table: a VRF
// has its own, and so has a node with several uplinks.
func isDefault(r *netlink.Route) bool {
	if r.Type != unix.RTN_UNICAST {
		return false
	}
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

// addGateways adds the next hops of a default route to those of the
// interfaces. A hop of the other family (RFC 5549) counts as any.
func addGateways(gateways map[int][]netip.Addr, r *netlink.Route) {
	if !isDefault(r) {
		return
	}
	add := func(index int, ip net.IP, via netlink.Destination) {
		if v, ok := via.(*netlink.Via); ok && v != nil {
			ip = v.Addr
		}
		if addr, ok := netip.AddrFromSlice(ip); ok && !addr.Unmap().IsUnspecified() {
			gateways[index] = append(gateways[index], addr.Unmap())
		}
	}
	add(r.LinkIndex, r.Gw, r.Via)
	for _, hop := range r.MultiPath {
		add(hop.LinkIndex, hop.Gw, hop.Via)
	}
}

func (l Link) String() string {
	return fmt.Sprintf("%d: %s %v up=%v arp=%v ndp=%v %v via %v", l.Index, l.Name, l.MAC, l.Up, l.ARP, l.NDP, l.Prefixes, l.Gateways)
}
