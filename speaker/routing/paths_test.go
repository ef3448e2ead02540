// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-lb/fairlead/speaker/bfd"
	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// watched takes what BFD is to watch.
type watched []bfd.Config

func (w *watched) Set(configs []bfd.Config) error {
	*w = configs
	return nil
}

func TestPathsAreConfinedAsSessionsAre(t *testing.T) {
	for _, preserved := range []bool{false, true} {
		var got watched
		p := NewPaths(logr.Discard(), preserved)
		p.Connect(&got, func(bgp.Key, bgp.BFDState) {})
		near, far, local := netip.MustParseAddr("fe80::1%eth1"), netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("192.0.2.1")
		p.Set([]bgp.BFDSession{
			{Key: bgp.Key{Peer: "near", Neighbor: near}, Neighbor: near, Interface: "eth1", Profile: bgp.BFDProfile{Multiplier: 3}},
			{Key: bgp.Key{Peer: "far", Neighbor: far}, Neighbor: far, Local: local, Interface: "red", MultiHop: true, Profile: bgp.BFDProfile{MinimumTTL: 60}},
		})
		want := watched{
			{Key: bfd.Key{Remote: near.WithZone(""), Interface: "eth1"}, Timers: bfd.Timers{Multiplier: 3}},
			{Key: bfd.Key{Remote: far, Local: local, VRF: "red", Multihop: true}, MinimumTTL: 60},
		}
		if preserved {
			for i := range want {
				want[i].Adopt = adoptTime
			}
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("preserved %v (-want +got):\n%s", preserved, diff)
		}
	}
}

func TestStatesOfPaths(t *testing.T) {
	for _, tt := range []struct {
		name string
		seen []bfd.Status
		want []bgp.BFDState
	}{
		{"up and down", []bfd.Status{{State: bfd.Up}, {State: bfd.Down, RemoteState: bfd.Down, Downs: 1}}, []bgp.BFDState{bgp.BFDUp, bgp.BFDDown}},
		{"a router that turns BFD off", []bfd.Status{{State: bfd.Up}, {State: bfd.Down, RemoteState: bfd.AdminDown, Downs: 1}}, []bgp.BFDState{bgp.BFDUp, bgp.BFDAdminDown}},
		{"down for a moment that nobody saw", []bfd.Status{{State: bfd.Up}, {State: bfd.Up, Downs: 1}}, []bgp.BFDState{bgp.BFDUp, bgp.BFDDown, bgp.BFDUp}},
		{"of a path that is no more", []bfd.Status{{Key: bfd.Key{Remote: netip.MustParseAddr("192.0.2.253")}, State: bfd.Up}}, nil},
	} {
		for router, key := range map[string]bfd.Key{
			"192.0.2.254":  {Remote: netip.MustParseAddr("192.0.2.254")},
			"fe80::1%eth1": {Remote: netip.MustParseAddr("fe80::1"), Interface: "eth1"},
		} {
			var got []bgp.BFDState
			var w watched
			p := NewPaths(logr.Discard(), false)
			p.Connect(&w, func(_ bgp.Key, s bgp.BFDState) { got = append(got, s) })
			neighbor := netip.MustParseAddr(router)
			p.Set([]bgp.BFDSession{{Key: bgp.Key{Peer: "tor", Neighbor: neighbor}, Neighbor: neighbor, Interface: neighbor.Zone()}})
			for _, s := range tt.seen {
				if s.Key == (bfd.Key{}) {
					s.Key = key
				}
				p.State(s)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s, %s: %v, want %v", tt.name, router, got, tt.want)
			}
		}
	}
}
