// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"fmt"
	"net/netip"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// The families of a server, as GoBGP numbers them there.
const (
	familyIPv4  = 0
	familyIPv6  = 1
	familyVPNv4 = 4
	familyVPNv6 = 5
	// familyTargets is that of route targets, which deleting a VRF looks at.
	familyTargets = 12
)

var (
	ipv4 = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	ipv6 = &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
)

func familyOf(p netip.Prefix) *api.Family {
	if p.Addr().Is4() {
		return ipv4
	}
	return ipv6
}

// path is a route in GoBGP's terms. An unspecified next hop stands for the own
// address of the session.
func path(s bgp.Session, r bgp.Route) (*api.Path, error) {
	var attributes list
	attributes.add(&api.OriginAttribute{Origin: 0}) // IGP
	if r.Prepend > 0 && !s.Internal() {
		asns := make([]uint32, r.Prepend)
		for i := range asns {
			asns[i] = s.LocalASN
		}
		attributes.add(&api.AsPathAttribute{Segments: []*api.AsSegment{{Type: api.AsSegment_AS_SEQUENCE, Numbers: asns}}})
	}
	if r.MED != nil {
		attributes.add(&api.MultiExitDiscAttribute{Med: *r.MED})
	}
	if r.LocalPref != nil && s.Internal() {
		attributes.add(&api.LocalPrefAttribute{LocalPref: *r.LocalPref})
	}
	if len(r.Communities) > 0 {
		attributes.add(&api.CommunitiesAttribute{Communities: r.Communities})
	}
	if len(r.Large) > 0 {
		large := make([]*api.LargeCommunity, len(r.Large))
		for i, l := range r.Large {
			large[i] = &api.LargeCommunity{GlobalAdmin: l[0], LocalData1: l[1], LocalData2: l[2]}
		}
		attributes.add(&api.LargeCommunitiesAttribute{Communities: large})
	}
	hop := s.NextHop6
	unspecified := netip.IPv6Unspecified()
	if r.Prefix.Addr().Is4() {
		hop, unspecified = s.NextHop4, netip.IPv4Unspecified()
	}
	if !hop.IsValid() {
		hop = unspecified
	}
	nlri, err := nlri(r.Prefix)
	if err != nil {
		return nil, err
	}
	if r.Prefix.Addr().Is4() {
		attributes.add(&api.NextHopAttribute{NextHop: hop.String()})
	} else {
		attributes.add(&api.MpReachNLRIAttribute{Family: ipv6, NextHops: []string{hop.String()}, Nlris: []*anypb.Any{nlri}})
	}
	if attributes.err != nil {
		return nil, fmt.Errorf("attributes of %s: %w", r.Prefix, attributes.err)
	}
	return &api.Path{Family: familyOf(r.Prefix), Nlri: nlri, Pattrs: attributes.items}, nil
}

// withdrawal names a path to delete. GoBGP wants a next hop here too.
func withdrawal(p netip.Prefix) (*api.Path, error) {
	return path(bgp.Session{}, bgp.Route{Prefix: p})
}

func nlri(p netip.Prefix) (*anypb.Any, error) {
	return anypb.New(&api.IPAddressPrefix{Prefix: p.Addr().String(), PrefixLen: uint32(p.Bits())})
}

// list are messages, until one can't be packed.
type list struct {
	items []*anypb.Any
	err   error
}

func (l *list) add(m proto.Message) {
	item, err := anypb.New(m)
	if err != nil {
		l.err = err
		return
	}
	l.items = append(l.items, item)
}
