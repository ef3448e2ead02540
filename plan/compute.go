// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"
)

// Plan is what one node does with the addresses of a snapshot. Every address
// is in exactly one of the two lists; both are in the order of addresses.
type Plan struct {
	Announce []Announcement
	Verdicts []Verdict
}

// Announcement is an address that the node answers for.
type Announcement struct {
	Addr netip.Addr
	// Interfaces to answer on, at least one, sorted.
	Interfaces []string
	// Term of the node's claim: the one on record if Claimed, else the one to
	// claim.
	Term int64
	// Claimed says that the claim on record is the node's own.
	Claimed bool
}

// Verdict is why a node does not announce an address.
type Verdict struct {
	Address netip.Addr
	Node    string
	Reason  Reason
	// Message is one sentence for people.
	Message string
	// Expected says that the others wait for this node: it has claimed the
	// address, or is proposed for one that nobody has claimed.
	Expected bool
}

// Compute returns what the node does. A node that isn't in the snapshot
// announces nothing: a speaker whose Node object is gone stays in its own
// snapshot as not Alive, with its links, so that it can hand over.
//
// The claimant answers until a claim of a higher term by another node is in
// the snapshot, also when it is no longer eligible, as long as its links let
// it: an address that nobody else answers for yet must not fall silent.
func Compute(s Snapshot, node string) Plan {
	nodes := make(map[string]*Node, len(s.Nodes))
	for i := range s.Nodes {
		nodes[s.Nodes[i].Name] = &s.Nodes[i]
	}
	lookup := func(name string) *Node { return nodes[name] }
	self := lookup(node)
	if self == nil {
		self = &Node{Name: node}
	}

	order := make([]*Address, len(s.Addresses))
	for i := range s.Addresses {
		order[i] = &s.Addresses[i]
	}
	slices.SortFunc(order, func(a, b *Address) int { return a.Addr.Compare(b.Addr) })

	p := Plan{Verdicts: make([]Verdict, 0, len(order))}
	for _, a := range order {
		reason, owner := announces(a, self, lookup)
		if reason != "" {
			p.Verdicts = append(p.Verdicts, Verdict{
				Address: a.Addr, Node: node, Reason: reason,
				Message:  explain(reason, a, self, owner),
				Expected: reason != NotBound && a.expects(node),
			})
			continue
		}
		ann := Announcement{Addr: a.Addr, Interfaces: Interfaces(a, self), Term: a.Claim.Term}
		if a.Claim.Node == node {
			ann.Claimed = true
		} else {
			ann.Term++
		}
		p.Announce = append(p.Announce, ann)
	}
	return p
}

// expects tells whether the others wait for the node to announce the address.
func (a *Address) expects(node string) bool {
	return a.Claim.Node == node || a.Claim.Node == "" && a.Proposed == node
}

// announces returns why the node does not announce the address, or ""; with
// OwnedByOther also who is the owner.
func announces(a *Address, self *Node, lookup func(string) *Node) (Reason, string) {
	if len(a.Services) == 0 {
		return NotBound, ""
	}
	s := servers(a)
	name, owned := owner(a, &s, lookup)
	if a.Claim.Node == self.Name || owned && name == self.Name {
		// A node whose own links are unknown can't name an interface.
		if len(Interfaces(a, self)) > 0 {
			return "", ""
		}
		r, _ := a.Scope.of(self.Name)
		return checkLinks(a.Addr, r, self.Links), ""
	}
	if r := check(a, &s, self); r != "" {
		return r, ""
	}
	switch {
	case owned:
		return OwnedByOther, name
	case a.Claim.Node != "":
		return OwnedByOther, a.Claim.Node
	}
	return NoOwner, ""
}

// Interfaces returns the names of the links on which the node can answer for the
// address now, if it is the owner, sorted.
//
// A claimant whose links advertisements no longer allow goes on where the
// address's network is, until it has a successor.
func Interfaces(a *Address, n *Node) []string {
	r, selected := a.Scope.of(n.Name)
	if selected {
		if names := carriers(a.Addr, r, n.Links); len(names) > 0 || a.Claim.Node != n.Name {
			return names
		}
	}
	if a.Claim.Node != n.Name {
		return nil
	}
	switch checkLinks(a.Addr, r, n.Links) {
	case "", NoLinkOnSubnet, NoInterfaceSelected:
		return carriers(a.Addr, reach{}, n.Links)
	}
	return nil
}

func carriers(addr netip.Addr, r reach, links []Link) []string {
	var names []string
	for i := range links {
		if l := &links[i]; l.Up && l.answers(addr) && r.allows(l, addr) {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
