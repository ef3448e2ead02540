// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"net/netip"
	"slices"
)

// Owner returns the node that should answer for the address on layer 2: the
// claimant while it is eligible, else the proposed node while that is.
//
// An eligible claimant stays, whatever better node there is, with one
// exception: if it is draining or excluded it gives way to a proposed node that
// ranks better in this. A cordon, a node that isn't Ready and preferences move
// nothing.
//
// False means that neither node will do, and the controller has to propose;
// until a successor claims, a claimant goes on answering.
func Owner(a Address, nodes []Node) (string, bool) {
	s := servers(&a)
	return owner(&a, &s, func(name string) *Node { return find(nodes, name) })
}

func find(nodes []Node, name string) *Node {
	for i := range nodes {
		if nodes[i].Name == name {
			return &nodes[i]
		}
	}
	return nil
}

func owner(a *Address, s *serverSet, node func(name string) *Node) (string, bool) {
	eligible := func(name string) *Node {
		if name == "" {
			return nil
		}
		n := node(name)
		if n == nil || check(a, s, n) != "" {
			return nil
		}
		return n
	}
	claimant := eligible(a.Claim.Node)
	if claimant != nil && (a.Proposed == a.Claim.Node || claimant.leaving() == 0) {
		return claimant.Name, true
	}
	proposed := eligible(a.Proposed)
	switch {
	case claimant != nil && (proposed == nil || !claimant.givesWay(proposed)):
		return claimant.Name, true
	case proposed != nil:
		return proposed.Name, true
	}
	return "", false
}

// Proposal is a node that is to be proposed for an address.
type Proposal struct {
	Node string
	// Unforced says that the address has a living node, which only its
	// endpoints, its links or its rank speak against. They can come and go, so
	// that moves for such reasons must not follow each other too fast. That
	// somebody wants the address to move, or the node is gone, doesn't.
	Unforced bool
}

// Place returns what is to be proposed for the address. False means that the
// proposal on record stands, or that no node is eligible.
//
// There is something to propose where there is no eligible claimant, or one
// that has to give way, and what is proposed is not eligible or ranks worse
// than another node. counts is that of [Propose].
func Place(a Address, nodes []Node, counts map[string]int) (Proposal, bool) {
	s := servers(&a)
	claimant, against := look(&a, &s, nodes, a.Claim.Node)
	if claimant != nil && against == "" && claimant.leaving() == 0 {
		return Proposal{}, false
	}
	best := choose(&a, &s, nodes, counts)
	if best == nil || best.Name == a.Proposed || claimant != nil && against == "" && !claimant.givesWay(best) {
		return Proposal{}, false
	}
	p := Proposal{Node: best.Name, Unforced: claimant != nil && fickle(against)}
	proposed, unfit := look(&a, &s, nodes, a.Proposed)
	if proposed == nil {
		return p, true
	}
	if a.Claim.Node == "" {
		p.Unforced = unfit == "" || fickle(unfit)
	}
	if unfit != "" || claimant != nil && against == "" && !claimant.givesWay(proposed) {
		return p, true
	}
	// Nobody uses it yet, so a better node is worth a change; an equal one is not.
	return p, best.demerits()&^isCordoned < proposed.demerits()&^isCordoned
}

// look returns the node of that name, nil if there is none, and why it is not
// eligible.
func look(a *Address, s *serverSet, nodes []Node, name string) (*Node, Reason) {
	if n := find(nodes, name); n != nil && n.Alive {
		return n, check(a, s, n)
	}
	return nil, NodeNotAlive
}

// fickle tells whether a node that is not eligible for a reason may soon be
// again without anybody's doing.
func fickle(r Reason) bool {
	switch r {
	case NetworkUnavailable, NoLinkOnSubnet, FamilyNotAnswered, LinkDown, NoEndpoints, NoLocalEndpoint:
		return true
	}
	return false
}

// Propose chooses a node for an address that has no owner. Of the eligible
// nodes it takes those of the best rank, of these those with the greatest
// weight, of these those with the fewest addresses, and of these the one with
// the highest rendezvous hash of node and address, so that equal nodes share
// addresses evenly and a node that comes or goes changes few choices.
//
// Ranks from best to worst: nothing against it, cordoned, excluded from
// external load balancers, draining, not Ready, without a speaker that has told
// of it; nodes with several of these rank by the worst. No rank shuts a node
// out: if only draining nodes are eligible, one of them is chosen.
//
// counts says how many addresses each node has or is proposed for. False means
// that no node is eligible. Only Local Services make it allocate.
func Propose(a Address, nodes []Node, counts map[string]int) (string, bool) {
	s := servers(&a)
	best := choose(&a, &s, nodes, counts)
	if best == nil {
		return "", false
	}
	return best.Name, true
}

// Successors returns the nodes that may own the address, best first, in the
// order of [Propose] without counts. Whoever finds the owner dead takes the
// first that lives.
func Successors(a Address, nodes []Node) []string {
	s := servers(&a)
	ranks := make([]rank, 0, len(nodes))
	for i := range nodes {
		if check(&a, &s, &nodes[i]) == "" {
			ranks = append(ranks, rankOf(&a, &nodes[i], nil))
		}
	}
	slices.SortFunc(ranks, rank.compare)
	names := make([]string, len(ranks))
	for i := range ranks {
		names[i] = ranks[i].node.Name
	}
	return names
}

func choose(a *Address, s *serverSet, nodes []Node, counts map[string]int) *Node {
	var best rank
	for i := range nodes {
		n := &nodes[i]
		if best.node != nil && n.demerits() > best.demerits || check(a, s, n) != "" {
			continue
		}
		if r := rankOf(a, n, counts); best.node == nil || r.compare(best) < 0 {
			best = r
		}
	}
	return best.node
}

// rank orders nodes for an address: the less the better.
type rank struct {
	node            *Node
	demerits        int
	weight, carries int
	hash            uint64
}

func rankOf(a *Address, n *Node, counts map[string]int) rank {
	return rank{n, n.demerits(), a.Scope.weight(n.Name), counts[n.Name], rendezvous(n.Name, a.Addr)}
}

func (r rank) compare(o rank) int {
	switch {
	case r.demerits != o.demerits:
		return cmp.Compare(r.demerits, o.demerits)
	case r.weight != o.weight:
		return cmp.Compare(o.weight, r.weight)
	case r.carries != o.carries:
		return cmp.Compare(r.carries, o.carries)
	case r.hash != o.hash:
		return cmp.Compare(o.hash, r.hash)
	}
	return cmp.Compare(r.node.Name, o.node.Name)
}

// Demerits of a node, a worse one outweighing all that are less.
const (
	isCordoned = 1 << iota
	isExcluded
	isDraining
	isNotReady
	isMute
)

func (n *Node) demerits() int {
	d := n.leaving()
	if n.Cordoned {
		d |= isCordoned
	}
	if !n.Ready {
		d |= isNotReady
	}
	if n.Mute {
		d |= isMute
	}
	return d
}

// leaving are the demerits for which a claimant gives way.
func (n *Node) leaving() int {
	d := 0
	if n.Excluded {
		d |= isExcluded
	}
	if n.Draining {
		d |= isDraining
	}
	return d
}

// givesWay tells whether a claimant is to be followed by another node while
// both live: if that is less on its way out, and not worse for another reason.
func (n *Node) givesWay(to *Node) bool {
	return to.leaving() < n.leaving() && to.demerits()&^isCordoned < n.demerits()&^isCordoned
}

// rendezvous is FNV-1a over the node and the address with MurmurHash3's
// finaliser: FNV alone leaves the order of names in the high bits. It is part
// of no stored format, but all programs of one version must agree on it.
func rendezvous(node string, addr netip.Addr) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(node) {
		h = (h ^ uint64(node[i])) * prime
	}
	for _, b := range addr.As16() {
		h = (h ^ uint64(b)) * prime
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
