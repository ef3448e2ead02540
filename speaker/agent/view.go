// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

// view is the cluster as it was last seen, with the node's own links. It is
// the machine's Policy.
type view struct {
	node   string
	links  []link.Link
	linked bool // links were told

	state    source.State
	outlined bool // and so was an outline of the cluster
	synced   bool // and all of it

	// nodes are those of the cluster, the own one with its own links. If it
	// has no object it is among them all the same, as not alive, so that it
	// hands over what it has.
	nodes []plan.Node
	self  int // index of the own one
}

var _ mesh.Policy = &view{}

func newView(node string) view {
	return view{node: node, nodes: []plan.Node{{Name: node, LinksKnown: true}}}
}

// complete tells whether all is known that decisions need.
func (v *view) complete() bool { return v.linked && v.synced }

// Owner implements mesh.Policy. Whoever is in the cluster counts as alive: what
// is heard of them is the machine's.
func (v *view) Owner(addr netip.Addr, claimant string) string {
	a := v.state.Addresses[addr].Address
	a.Claim.Node = claimant
	node, _ := plan.Owner(a, v.nodes)
	return node
}

// Successors implements mesh.Policy.
func (v *view) Successors(addr netip.Addr) []string {
	return plan.Successors(v.state.Addresses[addr].Address, v.nodes)
}

// setLinks takes the node's interfaces, and reports whether that makes a
// difference: the interfaces of Pods come and go all the time.
func (v *view) setLinks(links []link.Link) bool {
	known := v.linked && slices.EqualFunc(v.ofUse(v.links), v.ofUse(links), link.Link.Equal)
	v.links, v.linked = links, true
	if !known {
		v.setNodes(v.nodes)
	}
	return !known
}

// ofUse returns the links that an address could be on, wherever pools are.
func (v *view) ofUse(links []link.Link) []link.Link {
	return slices.DeleteFunc(slices.Clone(links), func(l link.Link) bool {
		onNetwork := slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() })
		return !l.ARP || !onNetwork && !(v.outlined && v.state.Advertising.Names(v.node, l.Name))
	})
}

// setState takes the cluster.
func (v *view) setState(s source.State) {
	v.state, v.outlined, v.synced = s, true, !s.Partial
	switch {
	case s.NodesChanged:
		v.setNodes(s.Nodes)
	case s.ScopesChanged:
		v.setNodes(v.nodes) // other links may be of use
	}
}

func (v *view) setNodes(nodes []plan.Node) {
	own := plan.Node{Name: v.node}
	i := slices.IndexFunc(nodes, func(n plan.Node) bool { return n.Name == v.node })
	if i >= 0 {
		own = nodes[i]
	} else {
		i = len(nodes)
	}
	own.LinksKnown, own.Mute = true, false
	own.Links = make([]plan.Link, 0, len(v.links))
	for _, l := range v.links {
		own.Links = append(own.Links, plan.Link{Name: l.Name, Up: l.Up, ARP: l.ARP, NDP: l.NDP, Prefixes: l.Prefixes})
	}
	v.nodes, v.self = append(slices.Clone(nodes[:i]), own), i
	if i < len(nodes) {
		v.nodes = append(v.nodes, nodes[i+1:]...)
	}
}

// addresses returns addresses in the machine's terms, and those that no Service
// holds. claimant tells who has the best claim on one.
func (v *view) addresses(addrs []netip.Addr, claimant func(netip.Addr) string) (held []mesh.Address, released []netip.Addr) {
	held = make([]mesh.Address, 0, len(addrs))
	for _, addr := range addrs {
		a := v.state.Addresses[addr]
		if len(a.Services) == 0 {
			released = append(released, addr)
			continue
		}
		m := mesh.Address{Addr: addr, Proposed: a.Proposed, Recorded: mesh.Claim{Node: a.Claim.Node, Term: a.Claim.Term}}
		// A claimant answers as long as its links let it, whatever the
		// advertisements say now.
		a.Claim.Node = claimant(addr)
		m.Interfaces = plan.Interfaces(&a.Address, &v.nodes[v.self])
		held = append(held, m)
	}
	return held, released
}

// all returns the addresses that there are.
func (v *view) all() []netip.Addr {
	out := make([]netip.Addr, 0, len(v.state.Addresses))
	for addr := range v.state.Addresses {
		out = append(out, addr)
	}
	return out
}

// cluster returns the mesh's name for the cluster, 0 while it isn't known.
func (v *view) cluster() uint64 {
	if v.state.Cluster == "" {
		return 0
	}
	return mesh.ClusterID(string(v.state.Cluster))
}

// segments returns the interfaces on which to meet other speakers: those that
// can carry an address that there is, or that a pool has. Before the cluster is
// known that is where the default routes are.
func (v *view) segments() []link.Link {
	return slices.DeleteFunc(slices.Clone(v.links), func(l link.Link) bool {
		switch {
		case !l.ARP:
			return true
		case !v.outlined:
			return len(l.Gateways) == 0
		}
		return !v.state.Advertising.Names(v.node, l.Name) && !slices.ContainsFunc(l.Prefixes, v.inUse)
	})
}

// inUse tells whether an address on a network is one of a pool, or is in use
// though no pool has it any more.
func (v *view) inUse(p netip.Prefix) bool {
	if p.Addr().IsLinkLocalUnicast() {
		return false
	}
	of := netipx.RangeOfPrefix(p)
	if slices.ContainsFunc(v.state.Ranges, of.Overlaps) {
		return true
	}
	for addr := range v.state.Addresses {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// strays tells whether an address is on a link that is not among the segments.
func (v *view) strays(addr netip.Addr, segments []link.Link) bool {
	holds := func(l link.Link) bool {
		return l.ARP && slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	return slices.ContainsFunc(v.links, holds) && !slices.ContainsFunc(segments, holds)
}

// peers returns the speakers that the cluster knows, with their addresses on
// the networks of the segments.
func (v *view) peers(segments []link.Link) []mesh.Peer {
	var out []mesh.Peer
	for _, s := range v.state.Speakers {
		if s.Name == v.node {
			continue
		}
		p := mesh.Peer{Node: s.Name}
		for _, i := range s.Status.Interfaces {
			for _, a := range i.Addresses {
				prefix, err := netip.ParsePrefix(string(a))
				if err != nil {
					continue
				}
				for _, l := range segments {
					if slices.ContainsFunc(l.Prefixes, func(own netip.Prefix) bool {
						return own.Masked() == prefix.Masked() && !own.Addr().IsLinkLocalUnicast()
					}) {
						p.Endpoints = append(p.Endpoints, mesh.Endpoint{Interface: l.Index, Addr: prefix.Addr()})
					}
				}
			}
		}
		out = append(out, p)
	}
	return out
}
