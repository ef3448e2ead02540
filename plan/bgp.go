// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"
)

// BGPPeer is a BGPPeer with its selector resolved to names.
type BGPPeer struct {
	Name string
	// Nodes that it selects.
	Nodes map[string]struct{}
	// NoIPv4 and NoIPv6 say that it is told no addresses of the family.
	NoIPv4, NoIPv6 bool
}

// takes tells whether the peer is told addresses of the family.
func (p *BGPPeer) takes(is6 bool) bool { return is6 && !p.NoIPv6 || !is6 && !p.NoIPv4 }

// BGPAdvertisement is a BGPAdvertisement with its selectors resolved to names.
// Nobody changes one.
type BGPAdvertisement struct {
	Name string
	// Nodes and Peers that it selects.
	Nodes, Peers map[string]struct{}

	// Communities and Large are sorted and have each once.
	Communities []uint32
	Large       [][3]uint32
	// LocalPref and MED are nil if they are not set.
	LocalPref, MED *uint32
	Prepend        uint8
	// Length4 and Length6 are those of the prefixes that stand for addresses.
	Length4, Length6 int
	// RequireEndpoints keeps back addresses that nobody would answer at.
	RequireEndpoints bool
}

// prefix is what the address is announced in.
func (ad *BGPAdvertisement) prefix(addr netip.Addr, whole bool) netip.Prefix {
	length := ad.Length4
	if addr.Is6() {
		length = ad.Length6
	}
	if whole || length == 0 {
		length = addr.BitLen()
	}
	p, err := addr.Prefix(length)
	if err != nil {
		panic("plan: " + err.Error()) // the API server admits no such length
	}
	return p
}

// BGPScope is where advertisements let an address be announced by BGP: the
// union of those that select its pool and one of its Services. Nobody changes
// one.
type BGPScope struct {
	// Advertisements by name. With none, and not Everywhere, it is announced
	// nowhere.
	Advertisements []string
	// Everywhere says that no advertisement selects the address's pool: it goes
	// to every peer of every node.
	Everywhere bool
	// OnlyL2 says that L2Advertisements select the address's pool, and no
	// BGPAdvertisement.
	OnlyL2 bool

	selected      map[string]struct{} // nodes
	nodes, nodes6 map[string]offers   // for IPv4 and IPv6
}

// of is what a node announces an address by.
func (s *BGPScope) of(node string, is6 bool) offers {
	if is6 {
		return s.nodes6[node]
	}
	return s.nodes[node]
}

// offers are what a node announces an address by.
type offers struct {
	all []offer
	// bare are those of them that require no endpoints.
	bare []offer
}

// offer is an advertisement with those of its peers that a node has.
type offer struct {
	ad    *BGPAdvertisement
	peers []string
}

// NewBGPScope returns the union of advertisements.
func NewBGPScope(peers []BGPPeer, advertisements ...*BGPAdvertisement) *BGPScope {
	s := &BGPScope{selected: map[string]struct{}{}, nodes: map[string]offers{}, nodes6: map[string]offers{}}
	for _, ad := range advertisements {
		s.Advertisements = append(s.Advertisements, ad.Name)
		for node := range ad.Nodes {
			s.selected[node] = struct{}{}
			s.offer(node, ad, peers)
		}
	}
	slices.Sort(s.Advertisements)
	return s
}

// NewBGPEverywhere returns the scope of addresses whose pool no advertisement
// selects.
func NewBGPEverywhere(peers []BGPPeer) *BGPScope {
	s := &BGPScope{Everywhere: true, nodes: map[string]offers{}, nodes6: map[string]offers{}}
	every := &BGPAdvertisement{Peers: map[string]struct{}{}, RequireEndpoints: true}
	nodes := map[string]struct{}{}
	for _, p := range peers {
		every.Peers[p.Name] = struct{}{}
		for node := range p.Nodes {
			nodes[node] = struct{}{}
		}
	}
	for node := range nodes {
		s.offer(node, every, peers)
	}
	return s
}

func (s *BGPScope) offer(node string, ad *BGPAdvertisement, peers []BGPPeer) {
	offerTo(s.nodes, false, node, ad, peers)
	offerTo(s.nodes6, true, node, ad, peers)
}

func offerTo(nodes map[string]offers, is6 bool, node string, ad *BGPAdvertisement, peers []BGPPeer) {
	o := offer{ad: ad}
	for i := range peers {
		p := &peers[i]
		_, told := ad.Peers[p.Name]
		if _, has := p.Nodes[node]; has && told && p.takes(is6) {
			o.peers = append(o.peers, p.Name)
		}
	}
	if o.peers == nil {
		return
	}
	slices.Sort(o.peers)
	by := nodes[node]
	by.all = append(by.all, o)
	if !ad.RequireEndpoints {
		by.bare = append(by.bare, o)
	}
	nodes[node] = by
}

// Announced is what a node announces of an address by BGP.
type Announced struct {
	offers []offer
	// Leaving says that the node is to give the address up to others that
	// announce it.
	Leaving bool
	// Whole says that no prefix may stand for the address.
	Whole bool
}

// None tells whether nothing is announced.
func (a Announced) None() bool { return len(a.offers) == 0 }

// Peers returns the names of those who are told, sorted.
func (a Announced) Peers() []string {
	var names []string
	for _, o := range a.offers {
		names = append(names, o.peers...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Reasons why a node does not announce an address by BGP, or not as it was
// asked to, beside those of layer 2.
const (
	// NoPeer: no BGPPeer selects the node.
	NoPeer Reason = "NoPeer"
	// NoPeerSelected: no advertisement that selects the address and the node
	// selects a peer that the node has.
	NoPeerSelected Reason = "NoPeerSelected"
	// NoPeerOfFamily: the peers of the node that there are for it are told no
	// addresses of its family.
	NoPeerOfFamily Reason = "NoPeerOfFamily"
	// NodeDraining: the node is being drained, and others announce the address.
	NodeDraining Reason = "NodeDraining"
	// NodeExcluded: the node is labelled
	// node.kubernetes.io/exclude-from-external-load-balancers, and others
	// announce the address.
	NodeExcluded Reason = "NodeExcluded"
	// NotAggregated: the address is announced, but by itself: with
	// externalTrafficPolicy Local a prefix would bring the node traffic of
	// addresses that it has no endpoint for.
	NotAggregated Reason = "NotAggregated"
)

// BGP returns what the node announces of the address by BGP, and why it is
// nothing, or not as it was asked to; [ExplainBGP] says that in a sentence.
//
// Every node that may announce does. With externalTrafficPolicy Local these are
// the nodes with endpoints, as for [Eligible]; with Cluster it is enough that
// there is one anywhere. Advertisements that require no endpoints announce also
// where there are none at all.
//
// A node that is draining, excluded, or has no pod network gives an address up
// if another node is better in this: there is always one that announces. What
// is NotReady alone goes on.
func BGP(a *Address, n *Node, nodes []Node) (Announced, Reason) {
	s := servers(a)
	backed := isBacked(a)
	out, reason := announcedBy(a, &s, backed, n)
	if reason != "" {
		return Announced{}, reason
	}
	if n.leaving() != 0 || n.NetworkUnavailable {
		better := slices.ContainsFunc(nodes, func(m Node) bool {
			if m.LinksKnown && m.standing() < n.standing() { // of one without links no speaker has told
				_, not := announcedBy(a, &s, backed, &m)
				return not == ""
			}
			return false
		})
		switch {
		case better && n.NetworkUnavailable:
			return Announced{}, NetworkUnavailable
		case better && n.Draining:
			out.Leaving = true
			return out, NodeDraining
		case better:
			out.Leaving = true
			return out, NodeExcluded
		}
	}
	if out.Whole && slices.ContainsFunc(out.offers, func(o offer) bool { return o.ad.prefix(a.Addr, false) != o.ad.prefix(a.Addr, true) }) {
		return out, NotAggregated
	}
	return out, ""
}

// announcedBy is BGP without a look at other nodes.
func announcedBy(a *Address, s *serverSet, backed bool, n *Node) (Announced, Reason) {
	if r := selectedBy(a, n); r != "" {
		return Announced{}, r
	}
	by := a.BGP.of(n.Name, a.Addr.Is6())
	out := Announced{offers: by.all}
	if !backed {
		if out.offers = by.bare; out.offers == nil {
			return Announced{}, NoEndpoints
		}
	} else if r := s.check(n.Name); r != "" {
		return Announced{}, r
	}
	out.Whole = slices.ContainsFunc(a.Services, func(s Service) bool { return s.Local })
	return out, ""
}

// selectedBy returns why the node has no peer for the address, or "".
func selectedBy(a *Address, n *Node) Reason {
	switch {
	case len(a.Services) == 0:
		return NotBound
	case !n.Alive:
		return NodeNotAlive
	case a.BGP == nil:
		return NoPeer
	case len(a.BGP.of(n.Name, a.Addr.Is6()).all) > 0:
		return ""
	case len(a.BGP.of(n.Name, a.Addr.Is4()).all) > 0:
		return NoPeerOfFamily
	case a.BGP.Everywhere:
		return NoPeer
	case len(a.BGP.Advertisements) == 0:
		return NotAdvertised
	}
	if _, selected := a.BGP.selected[n.Name]; !selected {
		return NodeNotSelected
	}
	return NoPeerSelected
}

// isBacked tells whether a Service of the address has an endpoint that takes
// traffic.
func isBacked(a *Address) bool {
	return slices.ContainsFunc(a.Services, func(s Service) bool {
		if !s.Local {
			return s.Backed
		}
		return Backed(s.Endpoints)
	})
}

// Backed tells whether one of the endpoints takes traffic.
func Backed(endpoints []Endpoint) bool {
	use, _ := takers(endpoints)
	return use != nobody
}

// Unannounced says why none of the nodes may announce the address by BGP: the
// reason of the node that comes nearest to it, and one sentence for people that
// names no node. With a node that may the reason is empty.
func Unannounced(a *Address, nodes []Node) (Reason, string) {
	s := servers(a)
	backed := isBacked(a)
	nearest := NodeNotAlive
	for i := range nodes {
		_, r := announcedBy(a, &s, backed, &nodes[i])
		if r == "" {
			return "", ""
		}
		if slices.Index(bgpNearness, r) > slices.Index(bgpNearness, nearest) {
			nearest = r
		}
	}
	switch nearest {
	case NodeNotAlive:
		return nearest, "there is no node"
	case NoPeer:
		return nearest, "no BGPPeer selects a node"
	case NodeNotSelected:
		return nearest, "no node with a BGPPeer is selected by " + bgpAdvertisements(a)
	case NoPeerSelected:
		return nearest, "no node has a BGPPeer that is selected by " + bgpAdvertisements(a)
	case NoPeerOfFamily:
		return nearest, "no BGPPeer that " + a.Addr.String() + " goes to has its family among spec.families"
	case NoLocalEndpoint:
		return nearest, "externalTrafficPolicy is Local and no node that could announce " + a.Addr.String() + " by BGP has a ready endpoint of " + services(a)
	}
	return nearest, ExplainBGP(nearest, a, &Node{})
}

// bgpNearness orders the reasons of announcedBy: whoever fails a later one comes
// nearer to announcing.
var bgpNearness = []Reason{NodeNotAlive, NoPeer, NodeNotSelected, NoPeerSelected, NoPeerOfFamily, NoEndpoints, NoLocalEndpoint, NotAdvertised, NotBound}

// standing ranks nodes that announce at the same time: the less the better. One
// that is not Ready may be dead, which is worse than to lack a pod network.
func (n *Node) standing() int {
	d := n.leaving()
	if n.NetworkUnavailable {
		d |= isNotReady
	}
	if !n.Ready {
		d |= isNotReady << 1
	}
	return d
}

// ExplainBGP says a reason of [BGP] in one sentence that a person can act on.
func ExplainBGP(r Reason, a *Address, n *Node) string {
	addr, node := a.Addr.String(), n.Name
	switch r {
	case "":
		return "node " + node + " announces " + addr + " by BGP"
	case NotAdvertised:
		if a.BGP.OnlyL2 {
			return "only L2Advertisements select the pool of " + addr + ", and no BGPAdvertisement"
		}
		return "BGPAdvertisements select the pool of " + addr + ", but none of them a Service that holds it"
	case NodeNotSelected:
		return "node " + node + " is not selected by " + bgpAdvertisements(a)
	case NoPeer:
		return "no BGPPeer selects node " + node
	case NoPeerSelected:
		return "no peer of node " + node + " is selected by " + bgpAdvertisements(a)
	case NoPeerOfFamily:
		return "no peer of node " + node + " that " + addr + " goes to has its family among spec.families"
	case NetworkUnavailable:
		return "node " + node + " has condition NetworkUnavailable, and other nodes announce " + addr
	case NodeDraining:
		return "node " + node + " is being drained, and other nodes announce " + addr
	case NodeExcluded:
		return "node " + node + " is excluded from external load balancers, and other nodes announce " + addr
	case NoEndpoints:
		return "no endpoint of " + allServices(a) + " takes traffic"
	case NotAggregated:
		return "externalTrafficPolicy is Local, so node " + node + " announces " + addr + " by itself and not by a shorter prefix"
	}
	return explain(r, a, n, "")
}

func bgpAdvertisements(a *Address) string { return named("BGPAdvertisement", a.BGP.Advertisements) }
