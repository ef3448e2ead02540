// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Advertisement is an L2Advertisement with its selectors resolved to names.
type Advertisement struct {
	Name string
	// Nodes that it selects, each with the sum of the weights of the
	// preferences that it meets.
	Nodes map[string]int
	// Interfaces is empty for those on the address's network.
	Interfaces Patterns
}

// Patterns choose interfaces by name. In a pattern "*" stands for any
// characters and "?" for any one; one after "!" excludes. An interface that is
// written out may announce whatever its networks are. Those that a pattern only
// matches, and all if there are but exclusions, may if they are on the
// address's network: "*" must not mean the interfaces of Pods.
type Patterns []string

// Allow tells whether an interface may announce, which is on the address's
// network or not.
func (p Patterns) Allow(name string, onSubnet bool) bool {
	allowed, chosen := false, false
	for _, pattern := range p {
		pattern, excludes := strings.CutPrefix(pattern, "!")
		matches := matchName(pattern, name)
		if excludes && matches {
			return false
		}
		chosen = chosen || !excludes
		allowed = allowed || matches && !excludes && (onSubnet || pattern == name)
	}
	return allowed || !chosen && onSubnet
}

// Names tells whether the interface may announce because it is written out.
func (p Patterns) Names(name string) bool { return p.Allow(name, false) }

// onSubnet tells whether interfaces that are not written out may announce.
func (p Patterns) onSubnet() bool {
	chosen := false
	for _, pattern := range p {
		if strings.HasPrefix(pattern, "!") {
			continue
		}
		if strings.ContainsAny(pattern, wildcards) {
			return true
		}
		chosen = true
	}
	return !chosen
}

const wildcards = `*?[\`

// matchName takes a pattern that can't be read as one that matches nothing.
// Nearly all patterns are a name, or the beginning of one.
func matchName(pattern, name string) bool {
	switch wild := strings.IndexAny(pattern, wildcards); {
	case wild < 0:
		return pattern == name
	case wild == len(pattern)-1 && pattern[wild] == '*':
		return strings.HasPrefix(name, pattern[:wild])
	}
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

// Scope is where the advertisements that select an address, its pool and one of
// its Services, let it be announced: the union of them all. Nobody changes one.
type Scope struct {
	// Advertisements by name. With none, advertisements select the address's
	// pool and none of them its Services: it is announced nowhere.
	Advertisements []string
	// OnlyBGP says that BGPAdvertisements select the address's pool, and no
	// L2Advertisement: it is announced nowhere on layer 2.
	OnlyBGP bool
	nodes   map[string]reach
}

// reach is what a Scope allows a node.
type reach struct {
	weight     int
	interfaces []Patterns
}

// NewScope returns the union of advertisements: an address may be on a node
// where one that selects the node says so, and weights add up.
func NewScope(advertisements ...Advertisement) *Scope {
	s := &Scope{nodes: map[string]reach{}}
	for _, ad := range advertisements {
		s.Advertisements = append(s.Advertisements, ad.Name)
		for node, weight := range ad.Nodes {
			r := s.nodes[node]
			r.weight += weight
			if !slices.ContainsFunc(r.interfaces, func(p Patterns) bool { return slices.Equal(p, ad.Interfaces) }) {
				r.interfaces = append(slices.Clip(r.interfaces), ad.Interfaces)
			}
			s.nodes[node] = r
		}
	}
	slices.Sort(s.Advertisements)
	return s
}

// weight is how much the node is preferred.
func (s *Scope) weight(node string) int {
	r, _ := s.of(node)
	return r.weight
}

// of returns what a node may do; false if nothing. Without a scope that is to
// announce on the address's network.
func (s *Scope) of(node string) (reach, bool) {
	if s == nil {
		return reach{}, true
	}
	r, ok := s.nodes[node]
	return r, ok
}

// allows tells whether the address may be announced on the link, be it up or
// not.
func (r reach) allows(l *Link, addr netip.Addr) bool {
	if len(r.interfaces) == 0 {
		return l.holds(addr)
	}
	on := l.holds(addr)
	for _, p := range r.interfaces {
		if p.Allow(l.Name, on) {
			return true
		}
	}
	return false
}

// onSubnet tells whether being on the address's network is enough.
func (r reach) onSubnet() bool {
	return len(r.interfaces) == 0 || slices.ContainsFunc(r.interfaces, Patterns.onSubnet)
}
