// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"
	"strings"
)

// explain says a reason in one sentence that a person can act on. The owner is
// used by OwnedByOther only.
func explain(r Reason, a *Address, n *Node, owner string) string {
	addr, node, links := a.Addr.String(), n.Name, n.Links
	switch r {
	case NotBound:
		return "no Service holds " + addr + "; it is reserved or resting"
	case NodeNotAlive:
		return "node " + node + " is gone or not Ready"
	case NetworkUnavailable:
		return "node " + node + " has condition NetworkUnavailable: its pod network is not set up"
	case NoLinkOnSubnet:
		return "no interface of node " + node + " has an address on the network of " + addr
	case FamilyNotAnswered:
		on := "interface " + onSubnet(a, links) + " of node " + node
		if a.Addr.Is6() {
			return on + " is on the network of " + addr + ", but this version answers ARP only: IPv6 addresses are allocated and not yet announced"
		}
		return on + " is on the network of " + addr + ", but it does not do ARP"
	case LinkDown:
		return "interface " + onSubnet(a, links) + " of node " + node + " is on the network of " + addr + ", but it is down"
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
// the address the reason is empty.
func Unowned(a Address, nodes []Node) (Reason, string) {
	s := servers(&a)
	nearest := NodeNotAlive
	for i := range nodes {
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
	case NodeNotAlive:
		return nearest, "no node is Ready"
	case NetworkUnavailable:
		return nearest, "no node that is Ready has its pod network set up"
	case NoLinkOnSubnet:
		return nearest, "no node has an interface on the network of " + addr
	case FamilyNotAnswered:
		if a.Addr.Is6() {
			return nearest, "this version answers ARP only: IPv6 addresses are allocated and not yet announced"
		}
		return nearest, "no interface on the network of " + addr + " does ARP"
	case LinkDown:
		return nearest, "every interface on the network of " + addr + " is down"
	case NoEndpoints:
		return nearest, explain(nearest, &a, &Node{}, "")
	case NoLocalEndpoint:
		return nearest, "externalTrafficPolicy is Local and no node that could announce " + addr + " has a ready endpoint of " + services(&a)
	}
	return NotBound, explain(NotBound, &a, &Node{}, "")
}

// nearness orders the reasons of check as it looks for them: whoever fails a
// later one comes nearer to being eligible.
var nearness = []Reason{NodeNotAlive, NetworkUnavailable, NoLinkOnSubnet, FamilyNotAnswered, LinkDown, NoEndpoints, NoLocalEndpoint, NotBound}

// onSubnet names the links on the address's network.
func onSubnet(a *Address, links []Link) string {
	var names []string
	for i := range links {
		if links[i].holds(a.Addr) {
			names = append(names, links[i].Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// services names the Local Services of the address.
func services(a *Address) string {
	var names []string
	for _, s := range a.Services {
		if s.Local {
			names = append(names, s.Namespace+"/"+s.Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
