// SPDX-License-Identifier: Apache-2.0

// Package plan decides, as pure functions of a snapshot, which node announces which address, and says why another does not.
//
// The controller, every speaker and the command line ask the same functions,
// so that an explanation is the decision itself.
//
// An address has at most one owner on layer 2. The claim of the highest term
// decides while its node is eligible: owners are sticky, whatever better node
// there is now. Only a claimant that is draining or excluded gives way, to a
// proposed node that is not. Without such a claim the node that the controller
// proposed is the owner. Without either nobody is, and the controller proposes
// again.
//
//	claimant            proposed           owner      who answers
//	eligible            any                claimant   claimant
//	draining, excluded  eligible, is not   proposed   claimant, until the proposed node's claim is seen; proposed at once
//	not eligible        eligible           proposed   the same
//	not eligible        not                nobody     claimant, if there is one: somebody answering is better than nobody
//
// That a node is dead is for those to say who would hear it. They choose its
// successor among [Successors].
package plan

import (
	"net/netip"
	"slices"
)

// Snapshot is all that decisions are made from. The order of its parts never
// matters. Names of nodes and addresses are unique in it.
type Snapshot struct {
	Addresses []Address
	Nodes     []Node
}

// Address is one load-balancer address.
type Address struct {
	Addr netip.Addr
	// Services that hold the address. With none it is reserved or resting, and
	// nobody announces it.
	Services []Service
	// Scope is where advertisements let the address be announced; nil if none
	// selects its pool, and then it may be anywhere. Addresses share scopes.
	Scope *Scope
	// BGP is where they let it be announced by BGP; nil if there is no BGPPeer.
	BGP *BGPScope
	// Proposed is the node that the controller chose; empty if it didn't.
	Proposed string
	// Claim of the highest term that is known; zero if there is none.
	Claim Claim
}

// Claim is a node's word that it answers for an address.
type Claim struct {
	// Node that claims; empty in the zero Claim only.
	Node string
	// Term of the claim, at least 1; the highest wins.
	Term int64
}

// Service is what an address's Service asks of the node that announces it.
type Service struct {
	Namespace, Name string
	// Local is true for externalTrafficPolicy Local: traffic stays on the node
	// that it entered.
	Local bool
	// Endpoints matter for Local only. Equal ones may be given once.
	Endpoints []Endpoint
	// Backed says for all others that an endpoint takes traffic, on whichever
	// node. It matters for BGP only.
	Backed bool
}

// Endpoint is a backend of a Service, or several that are alike.
type Endpoint struct {
	// Node it runs on; empty counts for every node.
	Node string
	// Ready, Serving and Terminating are the conditions of the EndpointSlice
	// API, with its defaults applied by the caller.
	Ready, Serving, Terminating bool
}

// Node is a node that could announce.
type Node struct {
	Name string
	// Alive says that there is such a node. Whether its speaker works only
	// those know who would hear it.
	Alive bool
	// NetworkUnavailable is the Node condition of that name.
	NetworkUnavailable bool

	// Ready, Draining, Excluded and Cordoned rank new placements; Draining and
	// Excluded also make a claimant give way. Excluded is the label
	// node.kubernetes.io/exclude-from-external-load-balancers.
	Ready, Draining, Excluded, Cordoned bool
	// Mute says that no speaker has told of the node: it ranks last.
	Mute bool

	// Links are looked at if LinksKnown; else they count as fitting.
	Links      []Link
	LinksKnown bool
}

// Equal tells whether two nodes are in every respect the same.
func (n Node) Equal(o Node) bool {
	return n.Name == o.Name && n.Alive == o.Alive && n.NetworkUnavailable == o.NetworkUnavailable &&
		n.Ready == o.Ready && n.Draining == o.Draining && n.Excluded == o.Excluded && n.Cordoned == o.Cordoned &&
		n.Mute == o.Mute && n.LinksKnown == o.LinksKnown && slices.EqualFunc(n.Links, o.Links, Link.Equal)
}

// Link is a network interface of a node.
type Link struct {
	Name string
	// Up says that frames can be sent and received now.
	Up bool
	// ARP and NDP say that a responder for IPv4, and for IPv6, can answer on it.
	ARP, NDP bool
	// Prefixes are the networks that the link's own addresses are in.
	Prefixes []netip.Prefix
}

// Equal tells whether two links are in every respect the same.
func (l Link) Equal(o Link) bool {
	return l.Name == o.Name && l.Up == o.Up && l.ARP == o.ARP && l.NDP == o.NDP && slices.Equal(l.Prefixes, o.Prefixes)
}

// answers tells whether a responder on the link can answer for the family.
func (l *Link) answers(addr netip.Addr) bool {
	if addr.Is4() {
		return l.ARP
	}
	return l.NDP
}

// holds tells whether the address is on one of the link's networks.
func (l *Link) holds(addr netip.Addr) bool {
	for _, p := range l.Prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
