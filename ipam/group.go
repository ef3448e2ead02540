// SPDX-License-Identifier: Apache-2.0

package ipam

// label names the addresses of one family that have something in common.
type label struct {
	kind            labelKind
	family          Family
	namespace, name string
}

type labelKind uint8

const (
	reservedFor  labelKind = iota + 1 // Reserved for namespace/name, or with an empty name for the namespace
	releasedBy                        // Resting, last held by namespace/name
	sharingUnder                      // Bound, with name as the sharing key
)

// labelOf returns the label that e has in a family, if it has one. An address has one at most, as it is in one state.
func labelOf(e *entry, f Family) (label, bool) {
	switch e.state {
	case Reserved:
		r := e.more.reserved
		return label{reservedFor, f, r.Namespace, r.Name}, true
	case Resting:
		if e.more != nil && e.more.released != nil {
			return label{releasedBy, f, e.more.released.Namespace, e.more.released.Name}, true
		}
	case Bound:
		if key := e.sharingKey(); key != "" {
			return label{sharingUnder, f, "", key}, true
		}
	}
	return label{}, false
}

// group is the addresses that have one label, and how many of them each port is taken on.
type group struct {
	addrs tree[struct{}]
	ports map[Port]int
}

// add counts e in (by 1) or out (by -1).
func (g *group) add(key uint128, e *entry, by int) {
	if by > 0 {
		g.addrs.update(key, func(*struct{}) {})
	} else {
		g.addrs.delete(key)
	}
	if e.sharingKey() == "" {
		return
	}
	seen := map[Port]bool{}
	e.holders(func(h Holder) bool {
		for _, p := range h.Ports {
			if seen[p] {
				continue
			}
			seen[p] = true
			if g.ports == nil {
				g.ports = map[Port]int{}
			}
			if g.ports[p] += by; g.ports[p] == 0 {
				delete(g.ports, p)
			}
		}
		return true
	})
}

// takenEverywhere says whether one of the ports is taken on every address of the group.
func (g *group) takenEverywhere(ports []Port) bool {
	for _, p := range ports {
		if g.ports[p] == g.addrs.size {
			return true
		}
	}
	return false
}
