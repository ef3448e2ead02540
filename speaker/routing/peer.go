// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/plan/kube"
	"github.com/fairlead-lb/fairlead/speaker/bgp"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

// peer is a BGPPeer in the terms of the Announcer.
func (r *Routing) peer(p *kube.Peer) bgp.Peer {
	out := bgp.Peer{
		Name:    p.Name,
		Address: p.Address, Interface: p.Interface, DefaultGateway: p.DefaultGateway,
		Port: p.Port, Source: p.SourceAddress, BindInterface: p.BindInterface,
		LocalASN: p.LocalASN, PeerASN: p.PeerASN, RouterID: p.RouterID,
		HoldTime: p.HoldTime, KeepaliveTime: p.KeepaliveTime, ConnectTime: p.ConnectTime,
		MultiHop: p.MultiHop, TTLSecurityHops: p.TTLSecurityHops,
		Password: p.Password, Passive: p.Passive,
		Families:        bgp.Families{IPv4: p.IPv4, IPv6: p.IPv6},
		GracefulRestart: p.GracefulRestart, RestartTime: p.RestartTime, LongLivedTime: p.LongLivedStaleTime,
	}
	switch {
	case p.External:
		out.PeerType = bgp.External
	case p.Internal:
		out.PeerType = bgp.Internal
	}
	if !out.RouterID.IsValid() {
		out.RouterID = r.routerID
	}
	if b := p.BFD; b != nil {
		out.BFD = bgp.BFDProfile{
			Receive: b.ReceiveInterval, Transmit: b.TransmitInterval, Multiplier: b.DetectMultiplier,
			Passive: b.Passive, MinimumTTL: b.MinimumTTL,
		}
	}
	return out
}

// routerID returns the identifier of a node that is given none: an IPv4 address
// of its own, from where a default route is if it can be. A node that has none
// gets a number made of its name (RFC 6286): it only has to be another than those
// of its neighbours.
func routerID(node string, links []link.Link) netip.Addr {
	byRoute := slices.Clone(links)
	slices.SortStableFunc(byRoute, func(a, b link.Link) int { return min(len(b.Gateways), 1) - min(len(a.Gateways), 1) })
	for _, l := range byRoute {
		for _, a := range l.Addrs {
			if a.Is4() && a.IsGlobalUnicast() {
				return a
			}
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(node)) // a hash takes everything
	id := h.Sum32() | 1          // 0 is no identifier
	return netip.AddrFrom4([4]byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)})
}
