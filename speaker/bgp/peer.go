// SPDX-License-Identifier: Apache-2.0

// Package bgp keeps BGP sessions with routers and announces routes on them, as desired peers and routes say.
package bgp

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// DefaultPort is the one that routers listen on.
const DefaultPort = 179

// Peer says with whom to have sessions, and how. One Peer can have several:
// with each gateway, or with each router that was heard on an interface.
type Peer struct {
	// Name identifies the peer.
	Name string

	// One of these three says who the neighbour is: its address, with a zone
	// if it is link-local; the interface on which it was heard; or the next
	// hop of a default route.
	Address        netip.Addr
	Interface      string
	DefaultGateway bool

	// Port is the router's; of a passive peer it is our own. 0 means 179.
	Port uint16
	// Source is the own address of the session. The kernel chooses if it is
	// not valid.
	Source netip.Addr
	// BindInterface is the VRF or interface that the session is confined to.
	BindInterface string

	LocalASN uint32
	// PeerASN is the one that the router must have, if PeerType is Numbered.
	PeerASN  uint32
	PeerType PeerType
	RouterID netip.Addr

	// The times are in whole seconds, as they are on the wire.
	HoldTime, KeepaliveTime, ConnectTime time.Duration

	// MultiHop is the TTL to send with to an external peer beyond the link; 0
	// says that it is on the link.
	MultiHop uint8
	// TTLSecurityHops is how far away the router may be at most (RFC 5082); 0
	// says not to check.
	TTLSecurityHops uint8

	// Password is for TCP-MD5 (RFC 2385).
	Password string
	// PasswordProblem says why there is none although one is wanted. The peer
	// is held down then: an empty password is another password.
	PasswordProblem string

	// Passive says to wait for the router to connect.
	Passive  bool
	Families Families

	// GracefulRestart asks the router to keep the routes for RestartTime while
	// this process restarts (RFC 4724), and then for LongLivedTime more if
	// nothing better is there (RFC 9494).
	GracefulRestart            bool
	RestartTime, LongLivedTime time.Duration

	// BFD is zero if the link is not watched.
	BFD BFDProfile
}

// PeerType says which ASN a router may have.
type PeerType uint8

const (
	// Numbered is the ASN that the peer names.
	Numbered PeerType = iota
	// External is any but our own.
	External
	// Internal is our own.
	Internal
)

// Families are those whose routes a session carries.
type Families struct{ IPv4, IPv6 bool }

// Of tells whether routes to the prefix are carried.
func (f Families) Of(p netip.Prefix) bool {
	return f.IPv4 && p.Addr().Is4() || f.IPv6 && p.Addr().Is6()
}

func (f Families) String() string {
	switch f {
	case Families{true, true}:
		return "IPv4 and IPv6"
	case Families{IPv4: true}:
		return "IPv4"
	case Families{IPv6: true}:
		return "IPv6"
	}
	return "none"
}

// Internal tells whether the router is in our own AS.
func (p Peer) Internal() bool {
	return p.PeerType == Internal || p.PeerType == Numbered && p.PeerASN == p.LocalASN
}

// BFDProfile says how the path to a router is watched.
type BFDProfile struct {
	Receive, Transmit time.Duration
	Multiplier        uint8
	Passive           bool
	MinimumTTL        uint8
}

// Route is one that is announced to a peer, with this node as the next hop.
type Route struct {
	Prefix netip.Prefix
	// Communities are those of RFC 1997, Large those of RFC 8092: sorted, and
	// each once.
	Communities []uint32
	Large       [][3]uint32
	// LocalPref and MED are nil if they are not set. LocalPref goes to internal
	// peers only.
	LocalPref, MED *uint32
	// Prepend is how many times more the own ASN is in the path. It goes to
	// external peers only: an internal one would take it for a loop.
	Prepend uint8
}

// Equal tells whether two routes are in every respect the same.
func (r Route) Equal(o Route) bool {
	return r.Prefix == o.Prefix && slices.Equal(r.Communities, o.Communities) && slices.Equal(r.Large, o.Large) &&
		equal(r.LocalPref, o.LocalPref) && equal(r.MED, o.MED) && r.Prepend == o.Prepend
}

func equal(a, b *uint32) bool { return a == b || a != nil && b != nil && *a == *b }

// GracefulShutdown is the community that asks routers to prefer any other route
// (RFC 8326).
const GracefulShutdown uint32 = 0xffff0000

// marked is the route as it is announced by a node that is about to leave.
func (r Route) marked() Route {
	i, found := slices.BinarySearch(r.Communities, GracefulShutdown)
	if !found {
		r.Communities = slices.Insert(slices.Clone(r.Communities), i, GracefulShutdown)
	}
	r.LocalPref = new(uint32)
	return r
}

// Session is what there is to know for a session with one neighbour of a Peer.
type Session struct {
	Peer
	Neighbor netip.Addr
	// OnLink says that no router is in between.
	OnLink bool
	// NextHop4 and NextHop6 are those to announce, if the own address of the
	// session can't be it.
	NextHop4, NextHop6 netip.Addr
}

// Key identifies a session.
type Key struct {
	Peer     string
	Neighbor netip.Addr
}

func (k Key) compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Peer, o.Peer), k.Neighbor.Compare(o.Neighbor))
}

// Key identifies the session.
func (s Session) Key() Key { return Key{s.Name, s.Neighbor} }
