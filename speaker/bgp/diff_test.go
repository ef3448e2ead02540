// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// Whatever is set in whatever order, the differences lead from one to the next,
// and nothing is told twice.
func TestDifferencesLeadFromOneTableToTheNext(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() []Route {
		routes := make([]Route, r.IntN(12))
		for i := range routes {
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(8))})
			if r.IntN(2) == 0 {
				addr = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(r.IntN(8))})
			}
			routes[i] = Route{Prefix: netip.PrefixFrom(addr, addr.BitLen()-r.IntN(2)).Masked(), Prepend: uint8(r.IntN(3))}
		}
		if r.IntN(2) == 0 {
			slices.SortFunc(routes, byPrefix)
		}
		return routes
	}
	for _, s := range []Session{
		{Peer: Peer{Families: Families{true, true}}}, {Peer: Peer{Families: Families{IPv4: true}}}, {Peer: Peer{Families: Families{IPv6: true}}},
	} {
		var sent Table
		router := map[netip.Prefix]Route{}
		for range 20_000 {
			routes, marked := random(), r.IntN(4) == 0
			before := slices.Clone(routes)
			table := s.tableOf(routes, marked)
			announce, withdraw := Diff(sent, table)
			for _, route := range announce {
				if old, ok := router[route.Prefix]; ok && old.Equal(route) {
					t.Fatalf("%v is told again: from %v to %v", route, sent, table)
				}
				router[route.Prefix] = route
			}
			for _, p := range withdraw {
				if _, ok := router[p]; !ok {
					t.Fatalf("%v is withdrawn and not there: from %v to %v", p, sent, table)
				}
				delete(router, p)
			}
			want := map[netip.Prefix]Route{}
			for _, route := range routes {
				if marked {
					route = route.marked()
				}
				if s.Families.Of(route.Prefix) {
					want[route.Prefix] = route
				}
			}
			if len(router) != len(want) {
				t.Fatalf("the router has %v, want %v", router, want)
			}
			for p, route := range want {
				if !router[p].Equal(route) {
					t.Fatalf("the router has %v, want %v", router[p], route)
				}
			}
			if !slices.EqualFunc(before, routes, Route.Equal) {
				t.Fatal("what was set was changed")
			}
			sent = table
		}
	}
}
