// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Reason says why a peer has no session, or not all that it asks for.
type Reason string

const (
	// InvalidPeer has fields that contradict each other or can't be.
	InvalidPeer Reason = "InvalidPeer"
	// PasswordUnavailable is held down until there is a password.
	PasswordUnavailable Reason = "PasswordUnavailable"
	// NoNeighbor says that nobody was found to talk to, so far.
	NoNeighbor Reason = "NoNeighbor"
	// NoNextHop says that the routes of a family are left out, because this node
	// has no address of it there for traffic to come to.
	NoNextHop Reason = "NoNextHop"
	// DuplicateNeighbor says that another peer already names the router: it
	// keeps one session only with a node.
	DuplicateNeighbor Reason = "DuplicateNeighbor"
)

// Refusal tells of something that is asked for and isn't done.
type Refusal struct {
	Peer    string
	Reason  Reason
	Message string
}

func (p Peer) refuse(r Reason, format string, args ...any) Refusal {
	return Refusal{p.Name, r, fmt.Sprintf(format, args...)}
}

// Network is what is known of the node's network.
type Network struct {
	Links []link.Link
	// Routers are the link-local addresses, without zone, of those that were
	// heard on an interface.
	Routers map[string][]netip.Addr
}

// Resolve finds the neighbours of all peers, in the order of their names.
func Resolve(peers []Peer, n Network) (sessions []Session, refusals []Refusal) {
	peers = slices.Clone(peers)
	slices.SortStableFunc(peers, func(a, b Peer) int { return Key{Peer: a.Name}.compare(Key{Peer: b.Name}) })
	type place struct {
		neighbor netip.Addr
		bind     string
	}
	taken := map[place]string{}
	for _, p := range peers {
		found, refused := p.resolve(n)
		refusals = append(refusals, refused...)
		for _, s := range found {
			at := place{s.Neighbor, s.BindInterface}
			if other, ok := taken[at]; ok {
				refusals = append(refusals, p.refuse(DuplicateNeighbor, "peer %s already has a session with %s", other, s.Neighbor))
				continue
			}
			taken[at] = p.Name
			sessions = append(sessions, s)
		}
	}
	return sessions, refusals
}

func (p Peer) resolve(n Network) ([]Session, []Refusal) {
	if message := p.problem(); message != "" {
		return nil, []Refusal{{p.Name, InvalidPeer, message}}
	}
	if p.PasswordProblem != "" {
		return nil, []Refusal{{p.Name, PasswordUnavailable, p.PasswordProblem}}
	}
	if p.Port == 0 {
		p.Port = DefaultPort
	}
	neighbors, refusal := p.neighbors(n)
	if refusal != nil {
		return nil, []Refusal{*refusal}
	}
	var sessions []Session
	var refusals []Refusal
	for _, a := range neighbors {
		s := Session{Peer: p, Neighbor: a}
		if p.Interface != "" && !p.Passive {
			// The router takes the session from the address that it was told of.
			i := slices.IndexFunc(n.Links, func(l link.Link) bool { return l.Name == p.Interface })
			s.Source = n.Links[i].LinkLocal()
		}
		if p.DefaultGateway && slices.ContainsFunc(neighbors, func(o netip.Addr) bool { return o.Is4() != a.Is4() }) {
			// There are gateways of both families: each carries its own.
			s.Families.IPv4, s.Families.IPv6 = p.Families.IPv4 && a.Is4(), p.Families.IPv6 && a.Is6()
		}
		if a.Zone() != "" && p.Password != "" {
			refusals = append(refusals, p.refuse(InvalidPeer, "the kernel does not sign connections with link-local addresses: %s can't have a password", a))
			continue
		}
		if p.Source.IsValid() && p.Source.Is4() != a.Is4() {
			refusals = append(refusals, p.refuse(InvalidPeer, "sourceAddress %s and neighbour %s are of different families", p.Source, a))
			continue
		}
		refusals = append(refusals, s.findNextHops(n)...)
		sessions = append(sessions, s)
	}
	return sessions, refusals
}

// neighbors are those of the peer, sorted.
func (p Peer) neighbors(n Network) ([]netip.Addr, *Refusal) {
	var out []netip.Addr
	switch {
	case p.Address.IsValid():
		return []netip.Addr{p.Address}, nil
	case p.Interface != "":
		i := slices.IndexFunc(n.Links, func(l link.Link) bool { return l.Name == p.Interface })
		if i < 0 {
			r := p.refuse(NoNeighbor, "this node has no interface %s", p.Interface)
			return nil, &r
		}
		for _, a := range n.Routers[p.Interface] {
			out = append(out, a.WithZone(p.Interface))
		}
		if len(out) == 0 {
			r := p.refuse(NoNeighbor, "no router has advertised itself on %s yet", p.Interface)
			return nil, &r
		}
	default:
		for _, l := range n.Links {
			for _, a := range l.Gateways {
				if a.Is6() && a.IsLinkLocalUnicast() {
					a = a.WithZone(l.Name)
				}
				if a.Is4() && p.Families.IPv4 || a.Is6() && p.Families.IPv6 {
					out = append(out, a)
				}
			}
		}
		if len(out) == 0 {
			r := p.refuse(NoNeighbor, "this node has no default route by a gateway for %s", p.Families)
			return nil, &r
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// findNextHops sets those that the own address of the session can't be.
//
// An IPv6 address can't be the next hop of IPv4 routes unless the router knows
// RFC 8950, so an IPv4 address of the link is, where there is one. On an
// unnumbered link there is none.
//
// The families stay what they are, or the session would begin anew whenever an
// address comes or goes.
func (s *Session) findNextHops(n Network) []Refusal {
	s.OnLink = s.Neighbor.Zone() != "" || slices.ContainsFunc(n.Links, s.onLink)
	own := s.link(n)
	switch {
	case s.Neighbor.Is4() && s.Families.IPv6:
		s.NextHop6 = own.first(func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() })
		if !s.NextHop6.IsValid() {
			return []Refusal{s.refuse(NoNextHop, "no IPv6 routes to %s: this node has no IPv6 address on the way to it", s.Neighbor)}
		}
	case s.Neighbor.Is6() && s.Families.IPv4 && s.Neighbor.Zone() == "":
		s.NextHop4 = own.first(netip.Addr.Is4)
	}
	return nil
}

type addresses []netip.Addr

func (a addresses) first(ok func(netip.Addr) bool) netip.Addr {
	if i := slices.IndexFunc(a, ok); i >= 0 {
		return a[i]
	}
	return netip.Addr{}
}

// link returns the own addresses of the interface that the session goes over:
// the one with its own address, or on the neighbour's network, or with a
// default route.
func (s *Session) link(n Network) addresses {
	for _, is := range []func(link.Link) bool{
		func(l link.Link) bool { return s.Source.IsValid() && slices.Contains(l.Addrs, s.Source) },
		s.onLink,
		func(l link.Link) bool { return len(l.Gateways) > 0 },
	} {
		if i := slices.IndexFunc(n.Links, is); i >= 0 {
			return n.Links[i].Addrs
		}
	}
	return nil
}

func (s *Session) onLink(l link.Link) bool {
	return slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(s.Neighbor) })
}

// problem says what is wrong with the peer by itself, or nothing.
func (p Peer) problem() string {
	identified := 0
	for _, set := range []bool{p.Address.IsValid(), p.Interface != "", p.DefaultGateway} {
		if set {
			identified++
		}
	}
	seconds := func(d time.Duration, low, high int64) bool {
		return d%time.Second == 0 && d >= time.Duration(low)*time.Second && d <= time.Duration(high)*time.Second
	}
	switch {
	case identified != 1:
		return "one of peerAddress, interface and autoDiscover must say who the neighbour is"
	case p.Address.IsValid() && (p.Address.IsMulticast() || p.Address.IsUnspecified() || p.Address.Is4In6()):
		return fmt.Sprintf("peerAddress %s is not the address of a router", p.Address)
	case p.Address.Is6() && p.Address.IsLinkLocalUnicast() && p.Address.Zone() == "":
		return fmt.Sprintf("peerAddress %s is link-local: name its interface, as in %s%%eth0", p.Address, p.Address)
	case p.LocalASN == 0 || reservedASN(p.LocalASN):
		return fmt.Sprintf("localASN %d is not an ASN to use", p.LocalASN)
	case p.PeerType == Numbered && (p.PeerASN == 0 || reservedASN(p.PeerASN)):
		return fmt.Sprintf("peerASN %d is not an ASN to use", p.PeerASN)
	case !p.RouterID.Is4() || p.RouterID.IsUnspecified():
		return "routerID must be an IPv4 address other than 0.0.0.0"
	case !seconds(p.HoldTime, 3, 65535):
		return fmt.Sprintf("holdTime %s must be whole seconds, from 3 s on", p.HoldTime)
	case 3*p.KeepaliveTime > p.HoldTime || !seconds(p.KeepaliveTime, 1, 21845):
		return fmt.Sprintf("keepaliveTime %s must be whole seconds and at most a third of holdTime %s", p.KeepaliveTime, p.HoldTime)
	case !seconds(p.ConnectTime, 1, 65535):
		return fmt.Sprintf("connectTime %s must be whole seconds, from 1 s on", p.ConnectTime)
	case p.MultiHop != 0 && p.Internal():
		return "ebgpMultiHop is for external peers: an internal one may be any number of hops away"
	case p.MultiHop != 0 && p.TTLSecurityHops != 0:
		return "ebgpMultiHop and ttlSecurityHops contradict each other"
	case p.MultiHop != 0 && p.Interface != "":
		return "ebgpMultiHop contradicts interface: the neighbour is on the link"
	case p.TTLSecurityHops == 255:
		return "ttlSecurityHops must be less than 255"
	case p.Source.IsValid() && (p.Source.IsMulticast() || p.Source.IsUnspecified()):
		return fmt.Sprintf("sourceAddress %s is not the address of a node", p.Source)
	case p.Source.IsValid() && p.Interface != "":
		return "sourceAddress contradicts interface: the link-local address of the interface is used"
	case p.Password != "" && (p.Interface != "" || p.Address.Zone() != ""):
		return "the kernel does not sign connections with link-local addresses: such a peer can't have a password"
	case len(p.Password) > 80:
		return "the password is longer than 80 bytes"
	case p.Families == Families{}:
		return "families must name at least one"
	case p.GracefulRestart && !seconds(p.RestartTime, 1, 4095):
		return fmt.Sprintf("the restart time %s must be whole seconds, from 1 s to 4095 s", p.RestartTime)
	case p.LongLivedTime != 0 && (!p.GracefulRestart || !seconds(p.LongLivedTime, 1, 1<<24-1)):
		return "long-lived graceful restart needs graceful restart, and whole seconds"
	}
	return ""
}

// reservedASN is the one that stands for others in the protocol (RFC 6793).
func reservedASN(n uint32) bool { return n == 23456 }
