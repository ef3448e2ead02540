// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/lab/router"
)

// RouterPlace says where a router is.
type RouterPlace string

// A router is the machine that is the LAN's gateway anyway, or a new one: beside it, on the LAN and on the far host's
// network, or behind it, on the far host's network alone.
const (
	Gateway RouterPlace = "gateway"
	Beside  RouterPlace = "beside"
	Behind  RouterPlace = "behind"
)

// RouterConfig says what router to add.
type RouterConfig struct {
	Kind  router.Kind
	Place RouterPlace
	BGP   router.Config // its ID may be left out
}

// Router is a machine that speaks BGP, with FRR or BIRD.
type Router struct {
	*Host       // by its link to the LAN, or to the far host's network if it is behind
	Far   *Host // by its link to the far host's network
	BGP   *router.Router
}

// AddRouter adds a router and returns when its BGP works. The gateway is "router", the others are "router2", "router3", ...
func (l *Lab) AddRouter(ctx context.Context, cfg RouterConfig) (*Router, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, id, err := l.placeRouter(cfg.Place)
	if err != nil {
		return nil, fmt.Errorf("adding a router: %w", err)
	}
	if !cfg.BGP.ID.IsValid() {
		cfg.BGP.ID = id
	}
	place := router.Place{
		Namespace: r.Namespace, Name: r.Name(), Dir: filepath.Join(l.Dir, "routers", r.Name()), Log: l.LogFile,
	}
	if r.BGP, err = router.Start(ctx, cfg.Kind, place, cfg.BGP); err != nil {
		return nil, err
	}
	return r, nil
}

// gatewayASN is that of Config.Gateway.
const gatewayASN = 64512

// openGateway has the gateway talk to every other AS on the LAN.
func (l *Lab) openGateway(ctx context.Context) error {
	cfg := router.Config{ASN: gatewayASN}
	for _, lan := range perFamily(l.cfg.Family, LAN4, LAN6) {
		cfg.Neighbors = append(cfg.Neighbors, router.Neighbor{Range: lan, Passive: true, BFD: &router.BFD{Passive: true}})
	}
	_, err := l.AddRouter(ctx, RouterConfig{Kind: l.cfg.Gateway, Place: Gateway, BGP: cfg})
	return err
}

// placeRouter makes the machine, if there is none yet, and says what its router ID is.
func (l *Lab) placeRouter(place RouterPlace) (*Router, netip.Addr, error) {
	isGateway := func(r *Router) bool { return r.Namespace == l.Router.Namespace }
	number := byte(len(slices.DeleteFunc(slices.Clone(l.routers), isGateway)) + 2)
	name := fmt.Sprintf("router%d", number)
	id, _ := lanAddrs(Dual, routerGroup, number)
	r := &Router{}
	var err error
	switch place {
	case Gateway:
		if slices.ContainsFunc(l.routers, isGateway) {
			return nil, id, errors.New("the gateway is one already")
		}
		id, _ = lanAddrs(Dual, 0, 1)
		r.Host, r.Far = l.Router, l.routerFar
	case Beside:
		if r.Host, err = l.addHost(name, routerGroup, number); err != nil {
			return nil, id, err
		}
		if r.Far, err = r.addFarLink(routerGroup, number); err != nil {
			return nil, id, err
		}
	case Behind:
		if r.Far, err = l.addBehind(name, number); err != nil {
			return nil, id, err
		}
		r.Host = r.Far
	default:
		return nil, id, fmt.Errorf("place %q: want %s, %s or %s", place, Gateway, Beside, Behind)
	}
	l.routers = append(l.routers, r)
	return r, id, nil
}

// addBehind makes a machine that is on the far host's network only; its way to all else is the gateway.
func (l *Lab) addBehind(name string, number byte) (*Host, error) {
	n, err := addNamespace(l.box, name)
	if err != nil {
		return nil, err
	}
	far, err := (&Host{Namespace: n, lab: l}).addFarLink(routerGroup, number)
	if err != nil {
		return nil, err
	}
	link, err := n.Netlink().LinkByName(FarInterface)
	if err != nil {
		return nil, err
	}
	for i, gateway := range perFamily(l.cfg.Family, l.routerFar.IPv4, l.routerFar.IPv6) {
		// Not by default: what it has no route for it must not send back to the gateway.
		if err := addRoute(n, perFamily(l.cfg.Family, LAN4, LAN6)[i], gateway, link); err != nil {
			return nil, err
		}
	}
	return far, nil
}

// SendFarBy has the far host send all by these routers, flow by flow, and no longer by the gateway.
func (l *Lab) SendFarBy(routers ...*Router) error {
	link, err := l.Far.Netlink().LinkByName(Interface)
	if err != nil {
		return fmt.Errorf("routes of far: %w", err)
	}
	anywhere := perFamily(l.cfg.Family, netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	for i, family := range perFamily(l.cfg.Family, "ipv4", "ipv6") {
		if err := l.Far.Sysctl(family+"/fib_multipath_hash_policy", "1"); err != nil {
			return err
		}
		route := &netlink.Route{Dst: ipNet(anywhere[i])}
		for _, r := range routers {
			via := perFamily(l.cfg.Family, r.Far.IPv4, r.Far.IPv6)[i]
			route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: via.AsSlice()})
		}
		if err := l.Far.Netlink().RouteReplace(route); err != nil {
			return fmt.Errorf("routes of far: %w", err)
		}
	}
	return nil
}

// Connect lays a cable of their own between two machines. Its ends have the name "p2p1", "p2p2", ... on both machines, and
// link-local addresses only; like the links to a LAN they can be cut and unplugged. A machine drops IPv4 that comes by such
// a link unless its own way back is there too, as reverse path filters have it: RouteBy.
func (l *Lab) Connect(a, b *Host) (endA, endB *Host, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cables++
	name := fmt.Sprintf("p2p%d", l.cables)
	if err := addBridge(l.lan, name); err != nil {
		return nil, nil, err
	}
	ends := make([]*Host, 2)
	for i, h := range []*Host{a, b} {
		mac := slices.Clone(h.MAC)
		mac[3] = byte(0x80 + l.cables)
		ends[i] = &Host{Namespace: h.Namespace, Interface: name, MAC: mac, IPv6: linkLocal(mac), port: h.Name() + "-" + name, lab: l}
		if err := ends[i].connect(name); err != nil {
			return nil, nil, err
		}
	}
	return ends[0], ends[1], nil
}

// linkLocal is the address that the kernel makes of a MAC (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// RouteBy has the host send what goes to a network by this link and a gateway, which may be of the other family.
func (h *Host) RouteBy(network netip.Prefix, gateway netip.Addr) error {
	link, err := h.Netlink().LinkByName(h.Interface)
	if err != nil {
		return fmt.Errorf("route of %s to %s: %w", h.Name(), network, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(network)}
	if network.Addr().Is4() && gateway.Is6() {
		route.Via = &netlink.Via{AddrFamily: netlink.FAMILY_V6, Addr: gateway.AsSlice()}
	} else {
		route.Gw = gateway.AsSlice()
	}
	if err := h.Netlink().RouteReplace(route); err != nil {
		return fmt.Errorf("route of %s to %s by %s: %w", h.Name(), network, gateway, err)
	}
	return nil
}
