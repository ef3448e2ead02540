// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"
	"strings"
)

// explain says a reason in one sentence that a person can act on. The owner is
// used by OwnedByOther only.
func explain(r Reason, a *Address, n *Node, owner string) string {
	addr, node := a.Addr.String(), n.Name
	switch r {
	case NotBound:
		return "no Service holds " + addr + "; it is reserved or resting"
	case NotAdvertised:
		if a.Scope.OnlyBGP {
			return "only BGPAdvertisements select the pool of " + addr + ", and no L2Advertisement"
		}
		return "L2Advertisements select the pool of " + addr + ", but none of them a Service that holds it"
	case NodeNotAlive:
		return "there is no node " + node
	case NetworkUnavailable:
		return "node " + node + " has condition NetworkUnavailable: its pod network is not set up"
	case NodeNotSelected:
		return "node " + node + " is not selected by " + advertisements(a)
	case NoLinkOnSubnet:
		return "no interface of node " + node + " has an address on the network of " + addr
	case NoInterfaceSelected:
		return "no interface of node " + node + " may announce " + addr + " by " + advertisements(a)
	case FamilyNotAnswered:
		return "interface " + fitting(a, n) + " of node " + node + " could announce " + addr + ", but " + off(a.Addr) + " on it"
	case LinkDown:
		return "interface " + fitting(a, n) + " of node " + node + " could announce " + addr + ", but it is down"
	case NoEndpoints:
		return "externalTrafficPolicy is Local and no endpoint of " + services(a) + " is ready"
	case NoLocalEndpoint:
		return "externalTrafficPolicy is Local and node " + node + " has no ready endpoint of " + services(a)
	case OwnedByOther:
		switch a.Claim.Node {
		case owner:
			return "node " + owner + " announces " + addr
		case "":
			return "node " + owner + " is chosen for " + addr
		}
		return "node " + owner + " takes " + addr + " over from node " + a.Claim.Node
	case NoOwner:
		return "no eligible node has been chosen for " + addr + " yet"
	}
	panic("plan: no sentence for reason " + string(r))
}

// Unowned says why none of the nodes may own the address: the reason of the
// node that comes nearest to it, and one sentence for people that names no node,
// so that it stays the same while nodes come and go. With a node that may own
// the address the reason is empty. What no speaker has told of doesn't count if
// others have: it can't be counted on.
func Unowned(a Address, nodes []Node) (Reason, string) {
	s := servers(&a)
	told := slices.ContainsFunc(nodes, func(n Node) bool { return !n.Mute })
	nearest := NodeNotAlive
	for i := range nodes {
		if told && nodes[i].Mute {
			continue
		}
		r := check(&a, &s, &nodes[i])
		if r == "" {
			return "", ""
		}
		if slices.Index(nearness, r) > slices.Index(nearness, nearest) {
			nearest = r
		}
	}
	addr := a.Addr.String()
	switch nearest {
	case NotAdvertised:
		return nearest, explain(nearest, &a, &Node{}, "")
	case NodeNotAlive:
		return nearest, "there is no node"
	case NetworkUnavailable:
		return nearest, "no node has its pod network set up"
	case NodeNotSelected:
		return nearest, "no node that could announce " + addr + " is selected by " + advertisements(&a)
	case NoLinkOnSubnet:
		return nearest, "no node" + within(&a) + " has an interface on the network of " + addr
	case NoInterfaceSelected:
		return nearest, "no node" + within(&a) + " has an interface that may announce " + addr + " by " + advertisements(&a)
	case FamilyNotAnswered:
		return nearest, off(a.Addr) + " on every interface that could announce " + addr
	case LinkDown:
		return nearest, "every interface that could announce " + addr + " is down"
	case NoEndpoints:
		return nearest, explain(nearest, &a, &Node{}, "")
	case NoLocalEndpoint:
		return nearest, "externalTrafficPolicy is Local and no node that could announce " + addr + " has a ready endpoint of " + services(&a)
	}
	return NotBound, explain(NotBound, &a, &Node{}, "")
}

// Selection tells whether advertisements are what is in the way.
func (r Reason) Selection() bool {
	return r == NotAdvertised || r == NodeNotSelected || r == NoInterfaceSelected
}

// nearness orders the reasons of check as it looks for them: whoever fails a
// later one comes nearer to being eligible.
var nearness = []Reason{
	NodeNotAlive, NetworkUnavailable, NodeNotSelected, NoLinkOnSubnet, NoInterfaceSelected, FamilyNotAnswered, LinkDown,
	NoEndpoints, NoLocalEndpoint, NotAdvertised, NotBound,
}

// fitting names the links that could carry the address if they were in order.
func fitting(a *Address, n *Node) string {
	r, _ := a.Scope.of(n.Name)
	var names []string
	for i := range n.Links {
		if r.allows(&n.Links[i], a.Addr) {
			names = append(names, n.Links[i].Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// off says what a link lacks that has no responder for the address.
func off(addr netip.Addr) string {
	if addr.Is4() {
		return "ARP is off"
	}
	return "IPv6 is off"
}

// advertisements names those that select the address.
func advertisements(a *Address) string {
	return named("L2Advertisement", a.Scope.Advertisements)
}

func named(kind string, names []string) string {
	if len(names) > 1 {
		kind += "s"
	}
	return kind + " " + strings.Join(names, ", ")
}

// within limits a statement to the nodes that advertisements select.
func within(a *Address) string {
	if a.Scope == nil {
		return ""
	}
	return " selected by " + advertisements(a)
}

// services names the Local Services of the address.
func services(a *Address) string {
	return serviceNames(a, func(s Service) bool { return s.Local })
}

func allServices(a *Address) string { return serviceNames(a, func(Service) bool { return true }) }

func serviceNames(a *Address, of func(Service) bool) string {
	var names []string
	for _, s := range a.Services {
		if of(s) {
			names = append(names, s.Namespace+"/"+s.Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
