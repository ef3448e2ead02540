// SPDX-License-Identifier: Apache-2.0

package plan

import "net/netip"

// Reason is why a node does not announce an address. It has the form of a
// Kubernetes condition reason.
type Reason string

// Reasons why a node is not eligible, in the order in which they are looked for.
const (
	// NotBound: no Service holds the address.
	NotBound Reason = "NotBound"
	// NotAdvertised: advertisements select the address's pool, and none of
	// them a Service that holds it; or all of them are of the other kind, layer 2
	// or BGP.
	NotAdvertised Reason = "NotAdvertised"
	// NodeNotAlive: the node is gone.
	NodeNotAlive Reason = "NodeNotAlive"
	// NodeNotSelected: no advertisement that selects the address selects the
	// node.
	NodeNotSelected Reason = "NodeNotSelected"
	// NetworkUnavailable: the node's network isn't set up.
	NetworkUnavailable Reason = "NetworkUnavailable"
	// NoLinkOnSubnet: no interface of the node is on the address's network.
	NoLinkOnSubnet Reason = "NoLinkOnSubnet"
	// NoInterfaceSelected: the node has no interface that advertisements let
	// announce the address.
	NoInterfaceSelected Reason = "NoInterfaceSelected"
	// FamilyNotAnswered: interfaces fit, but ARP, or IPv6, is off on them.
	FamilyNotAnswered Reason = "FamilyNotAnswered"
	// LinkDown: the interfaces that fit are down.
	LinkDown Reason = "LinkDown"
	// NoEndpoints: no node at all has an endpoint that takes traffic.
	NoEndpoints Reason = "NoEndpoints"
	// NoLocalEndpoint: other nodes have endpoints that take traffic, this one
	// has none.
	NoLocalEndpoint Reason = "NoLocalEndpoint"
)

// Reasons why an eligible node does not announce.
const (
	// OwnedByOther: another node is the owner.
	OwnedByOther Reason = "OwnedByOther"
	// NoOwner: the controller has not proposed an eligible node.
	NoOwner Reason = "NoOwner"
)

// Eligible tells whether the node may own the address on layer 2, and if not
// why, with one sentence for people.
//
// For Services with externalTrafficPolicy Local only nodes with a ready
// endpoint are eligible; if no node has one, nodes with an endpoint that
// serves while it terminates. A node must be able to serve every Service of a
// shared address that has such endpoints; if no node can serve all of them, a
// node that can serve one is eligible. With externalTrafficPolicy Cluster every
// node can serve.
func Eligible(a Address, n Node) (bool, Reason, string) {
	s := servers(&a)
	r := check(&a, &s, &n)
	if r == "" {
		return true, "", ""
	}
	return false, r, explain(r, &a, &n, "")
}

// check returns why the node is not eligible, or "". It builds no text: it is
// asked for every node for each of thousands of addresses.
func check(a *Address, s *serverSet, n *Node) Reason {
	switch {
	case len(a.Services) == 0:
		return NotBound
	case a.Scope != nil && len(a.Scope.Advertisements) == 0:
		return NotAdvertised
	case !n.Alive:
		return NodeNotAlive
	case n.NetworkUnavailable:
		return NetworkUnavailable
	}
	r, selected := a.Scope.of(n.Name)
	if !selected {
		return NodeNotSelected
	}
	if n.LinksKnown {
		if r := checkLinks(a.Addr, r, n.Links); r != "" {
			return r
		}
	}
	return s.check(n.Name)
}

// checkLinks returns why no link can carry the address, or "". It tells the
// fault of the link that comes nearest to fitting.
func checkLinks(addr netip.Addr, r reach, links []Link) Reason {
	nearest := NoLinkOnSubnet
	if !r.onSubnet() {
		nearest = NoInterfaceSelected
	}
	for i := range links {
		l := &links[i]
		switch {
		case !r.allows(l, addr):
			if nearest == NoLinkOnSubnet && l.holds(addr) {
				nearest = NoInterfaceSelected
			}
		case !l.answers(addr):
			if nearest != LinkDown {
				nearest = FamilyNotAnswered
			}
		case !l.Up:
			nearest = LinkDown
		default:
			return ""
		}
	}
	return nearest
}

// serverSet is which nodes can serve an address's Services.
type serverSet struct {
	// every node can.
	every bool
	// served counts for each node the Services with endpoints there.
	served map[string]tally
	// need is how many of them a node has to serve.
	need int
}

// tally is how many Services a node serves, and the last of them: endpoints of
// one Service count once.
type tally struct{ services, last int }

func (s *serverSet) check(node string) Reason {
	switch {
	case s.every:
		return ""
	case len(s.served) == 0:
		return NoEndpoints
	case s.served[node].services < s.need:
		return NoLocalEndpoint
	}
	return ""
}

// servers applies the endpoint rules of Eligible. It allocates for Local
// Services only.
func servers(a *Address) serverSet {
	var s serverSet
	most := 0
	for i := range a.Services {
		svc := &a.Services[i]
		if !svc.Local {
			s.every = true
			continue
		}
		use, everywhere := takers(svc.Endpoints)
		switch {
		case use == nobody:
			continue
		case everywhere:
			s.every = true
			continue
		case s.served == nil:
			s.served = make(map[string]tally, len(svc.Endpoints))
		}
		s.need++
		for _, e := range svc.Endpoints {
			t := s.served[e.Node]
			if e.takes() != use || t.last == s.need {
				continue
			}
			t = tally{services: t.services + 1, last: s.need}
			s.served[e.Node] = t
			most = max(most, t.services)
		}
	}
	if s.need > 0 {
		s.every = false
		if most < s.need {
			s.need = 1
		}
	}
	return s
}

// take ranks what an endpoint is good for.
type take int

const (
	nobody take = iota
	terminating
	ready
)

func (e Endpoint) takes() take {
	switch {
	case e.Ready:
		return ready
	case e.Serving && e.Terminating:
		return terminating
	}
	return nobody
}

// takers returns the best use that any endpoint has, which is the one that
// counts, and whether such an endpoint is on no particular node.
func takers(endpoints []Endpoint) (use take, everywhere bool) {
	for _, e := range endpoints {
		switch t := e.takes(); {
		case t == nobody || t < use:
		case t > use:
			use, everywhere = t, e.Node == ""
		default:
			everywhere = everywhere || e.Node == ""
		}
	}
	return use, everywhere
}
