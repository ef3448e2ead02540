// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"net/netip"
)

// Family says which IP families a lab has.
type Family string

// The families of a lab. Dual prefers IPv4.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
	Dual Family = "Dual"
)

func (f Family) has4() bool { return f != IPv6 }
func (f Family) has6() bool { return f != IPv4 }

// Every lab uses the same addresses: labs are apart from each other and from the host.
//
//	            IPv4              IPv6
//	router      10.89.0.1         fd89::1          gateway of the LAN
//	control     10.89.0.2         fd89::2          API server, port 6443
//	client      10.89.0.3         fd89::3
//	nodeN       10.89.1.N         fd89::1:N
//	controllerN 10.89.2.N         fd89::2:N        the product's controllers
//	clientN     10.89.3.N         fd89::3:N        more clients, from 2
//	pools       10.89.16.0/20 ... fd89:0:0:0:1::/80 ...  PoolRange
//	routerN     10.89.4.N         fd89::4:N        more routers, from 2
//	eth1        10.91.G.N         fd91::G:N        nodeN and client on the second LAN, as above
//	            10.91.16.0/20 ... fd91:0:0:0:1::/80 ...  free there: SecondPoolRange
//	far         10.90.0.2         fd90::2          behind the router (10.90.0.1, fd90::1) and routerN (10.90.4.N, fd90::4:N)
//	            10.92.16.0/20 ... fd92:0:0:0:1::/80 ...  on no LAN: RoutedRange
//	Pods        10.244.N.0/24     fd44:0:0:N::/64  on nodeN
//	Services    10.96.0.0/16      fd96::/112
var (
	LAN4       = netip.MustParsePrefix("10.89.0.0/16")
	LAN6       = netip.MustParsePrefix("fd89::/64")
	Far4       = netip.MustParsePrefix("10.90.0.0/16")
	Far6       = netip.MustParsePrefix("fd90::/64")
	SecondLAN4 = netip.MustParsePrefix("10.91.0.0/16")
	SecondLAN6 = netip.MustParsePrefix("fd91::/64")
	Routed4    = netip.MustParsePrefix("10.92.0.0/16")
	Routed6    = netip.MustParsePrefix("fd92::/64")
	Pods4      = netip.MustParsePrefix("10.244.0.0/16")
	Pods6      = netip.MustParsePrefix("fd44::/48")
	Service4   = netip.MustParsePrefix("10.96.0.0/16")
	Service6   = netip.MustParsePrefix("fd96::/112")
)

// PoolRanges is how many ranges of the LAN the lab keeps free for pools in each family.
const PoolRanges = 15

// PoolRange is the i-th range (0 to PoolRanges-1) on the LAN that nothing in the lab uses: a /20 and a /80.
func PoolRange(i int) (v4, v6 netip.Prefix) { return poolRange(LAN4, LAN6, i) }

// SecondPoolRange is the i-th range (0 to PoolRanges-1) on the second LAN that nothing in the lab uses.
func SecondPoolRange(i int) (v4, v6 netip.Prefix) { return poolRange(SecondLAN4, SecondLAN6, i) }

// RoutedRange is the i-th range (0 to PoolRanges-1) that is on no LAN: only who hears of it by BGP has a way there.
func RoutedRange(i int) (v4, v6 netip.Prefix) { return poolRange(Routed4, Routed6, i) }

func poolRange(lan4, lan6 netip.Prefix, i int) (v4, v6 netip.Prefix) {
	if i < 0 || i >= PoolRanges {
		panic(fmt.Sprintf("cluster: there is no pool range %d", i))
	}
	a := lan4.Addr().As4()
	a[2] = byte(16 * (i + 1))
	b := lan6.Addr().As16()
	b[9] = byte(i + 1)
	return netip.PrefixFrom(netip.AddrFrom4(a), 20), netip.PrefixFrom(netip.AddrFrom16(b), 80)
}

const (
	clientGroup = 3
	routerGroup = 4
)

// lanAddrs are the addresses of a host: 10.89.group.number and fd89::group:number.
func lanAddrs(family Family, group, number byte) (v4, v6 netip.Addr) {
	return addrsOn(LAN4, LAN6, family, group, number)
}

// secondLANAddrs are those on the second LAN.
func secondLANAddrs(family Family, group, number byte) (v4, v6 netip.Addr) {
	return addrsOn(SecondLAN4, SecondLAN6, family, group, number)
}

// farAddrs are those on the far host's network.
func farAddrs(family Family, group, number byte) (v4, v6 netip.Addr) {
	return addrsOn(Far4, Far6, family, group, number)
}

func addrsOn(lan4, lan6 netip.Prefix, family Family, group, number byte) (v4, v6 netip.Addr) {
	if family.has4() {
		b := lan4.Addr().As4()
		b[2], b[3] = group, number
		v4 = netip.AddrFrom4(b)
	}
	if family.has6() {
		b := lan6.Addr().As16()
		b[13], b[15] = group, number
		v6 = netip.AddrFrom16(b)
	}
	return v4, v6
}

// lanMAC is locally administered and says whose it is, which makes captures readable.
func lanMAC(group, number byte) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0xfa, 0x1e, 0x00, group, number}
}

// podCIDRs are the ranges of a node's Pods.
func podCIDRs(family Family, node int) (v4, v6 netip.Prefix) {
	if family.has4() {
		v4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(node), 0}), 24)
	}
	if family.has6() {
		b := Pods6.Addr().As16()
		b[7] = byte(node)
		v6 = netip.PrefixFrom(netip.AddrFrom16(b), 64)
	}
	return v4, v6
}

// podAddrs are the addresses of the n-th Pod (from 1) of a node.
func podAddrs(family Family, node, n int) (v4, v6 netip.Addr) {
	p4, p6 := podCIDRs(family, node)
	if p4.IsValid() {
		b := p4.Addr().As4()
		b[3] = byte(n)
		v4 = netip.AddrFrom4(b)
	}
	if p6.IsValid() {
		b := p6.Addr().As16()
		b[15] = byte(n)
		v6 = netip.AddrFrom16(b)
	}
	return v4, v6
}

// firstAddr is the first usable address of a prefix, which the API server takes for the Service "kubernetes".
func firstAddr(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// perFamily keeps the values of the families a lab has, the preferred first.
func perFamily[T any](f Family, v4, v6 T) []T {
	switch f {
	case IPv4:
		return []T{v4}
	case IPv6:
		return []T{v6}
	default:
		return []T{v4, v6}
	}
}
