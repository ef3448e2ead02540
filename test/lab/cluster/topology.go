// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// hostSysctls make a namespace behave as a Linux server does, and let its addresses work without the wait for duplicate
// address detection: nobody else can be on these wires.
var hostSysctls = []struct{ key, value string }{
	{"ipv4/ip_forward", "1"},
	{"ipv4/conf/all/rp_filter", "2"}, // loose, as systemd's defaults have it
	{"ipv4/conf/default/rp_filter", "2"},
	{"ipv6/conf/all/forwarding", "1"},
	{"ipv6/conf/default/accept_dad", "0"},
	{"ipv6/conf/default/dad_transmits", "0"},
	{"ipv6/conf/default/accept_ra", "0"},
	{"ipv6/conf/all/disable_ipv6", "0"},
	{"ipv6/conf/default/disable_ipv6", "0"},
}

// addNamespace makes a namespace that forwards and has no delays.
func addNamespace(box *sandbox.Sandbox, name string) (*sandbox.Namespace, error) {
	n, err := box.AddNamespace(name)
	if err != nil {
		return nil, err
	}
	for _, s := range hostSysctls {
		if err := n.Sysctl(s.key, s.value); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// The LANs' bridges live in a namespace of their own; it is no host and has no address.
const (
	bridgeName       = "lan"
	secondBridgeName = "lan2"
	farBridgeName    = "farlan"
)

func addLANs(box *sandbox.Sandbox, bridges ...string) (*sandbox.Namespace, error) {
	n, err := box.AddNamespace("lan")
	if err != nil {
		return nil, err
	}
	if err := n.Sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil {
		return nil, err
	}
	for _, name := range bridges {
		if err := addBridge(n, name); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func addBridge(n *sandbox.Namespace, name string) error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := n.Netlink().LinkAdd(bridge); err != nil {
		return fmt.Errorf("making the bridge %s: %w", name, err)
	}
	if err := n.Netlink().LinkSetUp(bridge); err != nil {
		return fmt.Errorf("making the bridge %s: %w", name, err)
	}
	return nil
}

// addHost makes a host and plugs it into the LAN. Its default route is the router, unless it is the router.
func (l *Lab) addHost(name string, group, number byte) (*Host, error) {
	n, err := addNamespace(l.box, name)
	if err != nil {
		return nil, err
	}
	h := &Host{Namespace: n, Interface: Interface, MAC: lanMAC(group, number), port: name, lab: l}
	h.IPv4, h.IPv6 = lanAddrs(l.cfg.Family, group, number)
	link, err := h.plugIn(bridgeName, LAN4, LAN6)
	if err != nil {
		return nil, err
	}
	router4, router6 := lanAddrs(l.cfg.Family, 0, 1)
	for _, gateway := range perFamily(l.cfg.Family, router4, router6) {
		if gateway == h.IPv4 || gateway == h.IPv6 {
			continue
		}
		if err := addRoute(n, netip.Prefix{}, gateway, link); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// addSecondLink plugs a host into the second LAN as well. Nothing is routed by it.
func (h *Host) addSecondLink(group, number byte) error {
	mac := lanMAC(group, number)
	mac[3] = 2
	h.Second = &Host{Namespace: h.Namespace, Interface: SecondInterface, MAC: mac, port: h.port + "-2", lab: h.lab}
	h.Second.IPv4, h.Second.IPv6 = secondLANAddrs(h.lab.cfg.Family, group, number)
	_, err := h.Second.plugIn(secondBridgeName, SecondLAN4, SecondLAN6)
	return err
}

// plugIn makes the host's link, as a port of a bridge, with its addresses.
func (h *Host) plugIn(bridge string, lan4, lan6 netip.Prefix) (netlink.Link, error) {
	if err := h.connect(bridge); err != nil {
		return nil, err
	}
	return setUp(h.Namespace, h.Interface, onPrefix(h.IPv4, lan4), onPrefix(h.IPv6, lan6))
}

// connect makes the host's link and brings up both its ends.
func (h *Host) connect(bridge string) error {
	lan := h.lab.lan.Netlink()
	master, err := lan.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("plugging in %s: %w", h.port, err)
	}
	// The host's end is made inside its namespace at once: the machine under the lab never sees a link.
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: h.port, MasterIndex: master.Attrs().Index},
		PeerName:  h.Interface, PeerHardwareAddr: h.MAC, PeerNamespace: netlink.NsFd(h.FD()),
	}
	if err := lan.LinkAdd(cable); err != nil {
		return fmt.Errorf("plugging in %s: %w", h.port, err)
	}
	if err := lan.LinkSetUp(cable); err != nil {
		return fmt.Errorf("plugging in %s: %w", h.port, err)
	}
	_, err = setUp(h.Namespace, h.Interface)
	return err
}

// addFar makes the far host, and its network behind the router.
func (l *Lab) addFar() (*Host, error) {
	var err error
	if l.routerFar, err = l.Router.addFarLink(0, 1); err != nil {
		return nil, err
	}
	n, err := addNamespace(l.box, "far")
	if err != nil {
		return nil, err
	}
	h := &Host{Namespace: n, Interface: Interface, MAC: lanMAC(0xff, 2), port: "far", lab: l}
	h.IPv4, h.IPv6 = farAddrs(l.cfg.Family, 0, 2)
	link, err := h.plugIn(farBridgeName, Far4, Far6)
	if err != nil {
		return nil, err
	}
	for _, a := range perFamily(l.cfg.Family, l.routerFar.IPv4, l.routerFar.IPv6) {
		if err := addRoute(n, netip.Prefix{}, a, link); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// addFarLink plugs a router into the far host's network.
func (h *Host) addFarLink(group, number byte) (*Host, error) {
	mac := lanMAC(group, number)
	mac[3] = 3
	far := &Host{Namespace: h.Namespace, Interface: FarInterface, MAC: mac, port: h.Name() + "-far", lab: h.lab}
	far.IPv4, far.IPv6 = farAddrs(h.lab.cfg.Family, group, number)
	_, err := far.plugIn(farBridgeName, Far4, Far6)
	return far, err
}

// routePods gives every node the routes to the other nodes' Pods.
func (l *Lab) routePods() error {
	for _, from := range l.Nodes {
		link, err := from.Netlink().LinkByName(Interface)
		if err != nil {
			return fmt.Errorf("routes of %s: %w", from.Name(), err)
		}
		for _, to := range l.Nodes {
			if from == to {
				continue
			}
			pods4, pods6 := podCIDRs(l.cfg.Family, to.number)
			for i, pods := range perFamily(l.cfg.Family, pods4, pods6) {
				if err := addRoute(from.Namespace, pods, perFamily(l.cfg.Family, to.IPv4, to.IPv6)[i], link); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Every Pod is routed to over a link of its own whose node end has these addresses, so no Pod range needs a gateway.
var (
	podGateway4 = netip.MustParseAddr("169.254.1.1")
	podGateway6 = netip.MustParseAddr("fe80::1")
)

// wirePod connects the namespace of a Pod to its node and routes its addresses there.
func wirePod(node *Node, n *sandbox.Namespace, link string, v4, v6 netip.Addr) error {
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: link},
		PeerName:  Interface, PeerNamespace: netlink.NsFd(n.FD()),
	}
	if err := node.Netlink().LinkAdd(cable); err != nil {
		return fmt.Errorf("link of Pod %s: %w", n.Name(), err)
	}
	var gateway4, gateway6 netip.Prefix
	if v4.IsValid() {
		gateway4 = netip.PrefixFrom(podGateway4, 32)
	}
	if v6.IsValid() {
		gateway6 = netip.PrefixFrom(podGateway6, 64)
	}
	nodeEnd, err := setUp(node.Namespace, link, gateway4, gateway6)
	if err != nil {
		return err
	}
	podEnd, err := setUp(n, Interface, onHost(v4), onHost(v6))
	if err != nil {
		return err
	}
	if v4.IsValid() {
		// The node must not take the gateway's link-local address for the source of what it sends to the Pod.
		toPod := &netlink.Route{LinkIndex: nodeEnd.Attrs().Index, Dst: ipNet(onHost(v4)), Src: node.IPv4.AsSlice(), Scope: netlink.SCOPE_LINK}
		if err := node.Netlink().RouteAdd(toPod); err != nil {
			return fmt.Errorf("route to Pod %s: %w", n.Name(), err)
		}
		toGateway := &netlink.Route{LinkIndex: podEnd.Attrs().Index, Dst: ipNet(gateway4), Scope: netlink.SCOPE_LINK}
		if err := n.Netlink().RouteAdd(toGateway); err != nil {
			return fmt.Errorf("route from Pod %s: %w", n.Name(), err)
		}
		if err := addRoute(n, netip.Prefix{}, podGateway4, podEnd); err != nil {
			return err
		}
	}
	if v6.IsValid() {
		toPod := &netlink.Route{LinkIndex: nodeEnd.Attrs().Index, Dst: ipNet(onHost(v6)), Src: node.IPv6.AsSlice()}
		if err := node.Netlink().RouteAdd(toPod); err != nil {
			return fmt.Errorf("route to Pod %s: %w", n.Name(), err)
		}
		if err := addRoute(n, netip.Prefix{}, podGateway6, podEnd); err != nil {
			return err
		}
	}
	return nil
}

// setUp gives a link its addresses (an invalid one is left out) and brings it up.
func setUp(n *sandbox.Namespace, name string, addrs ...netip.Prefix) (netlink.Link, error) {
	link, err := n.Netlink().LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("link %s of %s: %w", name, n.Name(), err)
	}
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().IsLinkLocalUnicast() {
			addr.Scope = int(netlink.SCOPE_LINK) // never the source of what goes elsewhere
		}
		if err := n.Netlink().AddrAdd(link, addr); err != nil {
			return nil, fmt.Errorf("address %s on %s of %s: %w", a, name, n.Name(), err)
		}
	}
	if err := n.Netlink().LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("link %s of %s: %w", name, n.Name(), err)
	}
	return link, nil
}

// addRoute adds a route by a gateway; an invalid destination is the default route.
func addRoute(n *sandbox.Namespace, dst netip.Prefix, gateway netip.Addr, link netlink.Link) error {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}
	if dst.IsValid() {
		route.Dst = ipNet(dst)
	} else if gateway.Is4() {
		route.Dst = ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	} else {
		route.Dst = ipNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	if err := n.Netlink().RouteAdd(route); err != nil {
		return fmt.Errorf("route to %s by %s in %s: %w", route.Dst, gateway, n.Name(), err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// onPrefix is an address with the length of the network it is on; invalid for an invalid address.
func onPrefix(a netip.Addr, network netip.Prefix) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, network.Bits())
}

func onHost(a netip.Addr) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, a.BitLen())
}
