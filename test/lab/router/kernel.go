// SPDX-License-Identifier: Apache-2.0

package router

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// Hop is one way on from a router, by its kernel.
type Hop struct {
	Via       netip.Addr
	Interface string
}

// KernelRoute is where the kernel of a namespace sends what goes to a prefix by its route for exactly that prefix: the hops
// in order, none if there is no route or it leads nowhere.
func KernelRoute(n *sandbox.Namespace, prefix netip.Prefix) ([]Hop, error) {
	family := netlink.FAMILY_V4
	if prefix.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	dst := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
	routes, err := n.Netlink().RouteListFiltered(family, &netlink.Route{Dst: dst}, netlink.RT_FILTER_DST)
	if err != nil {
		return nil, fmt.Errorf("route to %s in %s: %w", prefix, n.Name(), err)
	}
	links, err := n.Netlink().LinkList()
	if err != nil {
		return nil, fmt.Errorf("route to %s in %s: %w", prefix, n.Name(), err)
	}
	var hops []Hop
	add := func(link int, gateway net.IP, via netlink.Destination) {
		var hop Hop
		hop.Via, _ = netip.AddrFromSlice(gateway)
		if v, ok := via.(*netlink.Via); ok && v != nil {
			hop.Via, _ = netip.AddrFromSlice(v.Addr)
		}
		if i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == link }); i >= 0 {
			hop.Interface = links[i].Attrs().Name
		}
		hop.Via = hop.Via.Unmap()
		hops = append(hops, hop)
	}
	best := slices.MinFunc(append(routes, netlink.Route{Priority: math.MaxInt}), func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range routes {
		switch {
		case r.Priority != best.Priority:
		case r.Type != unix.RTN_UNICAST:
		case len(r.MultiPath) == 0:
			add(r.LinkIndex, r.Gw, r.Via)
		default:
			for _, m := range r.MultiPath {
				add(m.LinkIndex, m.Gw, m.Via)
			}
		}
	}
	slices.SortFunc(hops, func(a, b Hop) int {
		return cmp.Or(a.Via.Compare(b.Via), cmp.Compare(a.Interface, b.Interface))
	})
	return hops, nil
}
