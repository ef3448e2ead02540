// SPDX-License-Identifier: Apache-2.0

package plan

import "net/netip"

// Owner returns the node that should answer for the address on layer 2: the
// claimant while it is eligible, whatever its rank for new placements is, else
// the proposed node while that is eligible.
//
// False means that neither is and the controller has to propose; until a
// successor claims, a claimant goes on answering.
func Owner(a Address, nodes []Node) (string, bool) {
	s := servers(&a)
	return owner(&a, &s, func(name string) *Node {
		for i := range nodes {
			if nodes[i].Name == name {
				return &nodes[i]
			}
		}
		return nil
	})
}

func owner(a *Address, s *serverSet, node func(name string) *Node) (string, bool) {
	for _, name := range [...]string{a.Claim.Node, a.Proposed} {
		if name == "" {
			continue
		}
		if n := node(name); n != nil && check(a, s, n) == "" {
			return name, true
		}
	}
	return "", false
}

// Propose chooses a node for an address that has no owner. Of the eligible
// nodes it takes those of the best rank, of these those with the fewest
// addresses, and of these the one with the highest rendezvous hash of node and
// address, so that equal nodes share addresses evenly and a node that comes or
// goes changes few choices.
//
// Ranks from best to worst: nothing against it, cordoned, excluded from
// external load balancers, draining, not Ready; nodes with several of these
// rank by the worst. No rank shuts a node out: if only draining nodes are
// eligible, one of them is chosen.
//
// counts says how many addresses each node has or is proposed for. False means
// that no node is eligible. Only Local Services make it allocate.
func Propose(a Address, nodes []Node, counts map[string]int) (string, bool) {
	s := servers(&a)
	var best *Node
	var bestDemerits, bestCount int
	var bestHash uint64
	for i := range nodes {
		n := &nodes[i]
		demerits := n.demerits()
		if best != nil && demerits > bestDemerits || check(&a, &s, n) != "" {
			continue
		}
		count, hash := counts[n.Name], rendezvous(n.Name, a.Addr)
		switch {
		case best == nil, demerits < bestDemerits:
		case count != bestCount:
			if count > bestCount {
				continue
			}
		case hash != bestHash:
			if hash < bestHash {
				continue
			}
		case n.Name >= best.Name:
			continue
		}
		best, bestDemerits, bestCount, bestHash = n, demerits, count, hash
	}
	if best == nil {
		return "", false
	}
	return best.Name, true
}

// demerits orders nodes for new placements: less is better.
func (n *Node) demerits() int {
	d := 0
	if !n.Ready {
		d |= 8
	}
	if n.Draining {
		d |= 4
	}
	if n.Excluded {
		d |= 2
	}
	if n.Cordoned {
		d |= 1
	}
	return d
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
