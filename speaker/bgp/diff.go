// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"net/netip"
	"slices"
)

// Table are routes in order of their prefixes, one for each. Nobody changes one:
// it may be the very slice that was set.
type Table []Route

func byPrefix(a, b Route) int { return a.Prefix.Compare(b.Prefix) }

// Diff returns what makes the routes that were sent those that are wanted.
func Diff(sent, want Table) (announce []Route, withdraw []netip.Prefix) {
	for len(sent) > 0 || len(want) > 0 {
		order := 0
		switch {
		case len(sent) == 0:
			order = 1
		case len(want) == 0:
			order = -1
		default:
			order = byPrefix(sent[0], want[0])
		}
		switch {
		case order > 0:
			announce, want = append(announce, want[0]), want[1:]
		case order < 0:
			withdraw, sent = append(withdraw, sent[0].Prefix), sent[1:]
		default:
			if !sent[0].Equal(want[0]) {
				announce = append(announce, want[0])
			}
			sent, want = sent[1:], want[1:]
		}
	}
	return announce, withdraw
}

// tableOf has the routes that the session can carry. Of two to one prefix the
// last counts. Routes that need no change are returned as they are: there may be
// many, and one more is what happens most.
func (s Session) tableOf(routes []Route, marked bool) Table {
	if marked || slices.ContainsFunc(routes, func(r Route) bool { return !s.carries(r.Prefix) }) {
		own := make([]Route, 0, len(routes))
		for _, r := range routes {
			if !s.carries(r.Prefix) {
				continue
			}
			if marked {
				r = r.marked()
			}
			own = append(own, r)
		}
		routes = own
	}
	for i := range len(routes) - 1 {
		if byPrefix(routes[i], routes[i+1]) >= 0 {
			return inOrder(routes)
		}
	}
	return routes
}

// carries tells whether routes to the prefix are of a family of the session, and
// have a next hop.
func (s Session) carries(p netip.Prefix) bool {
	return s.Families.Of(p) && !(p.Addr().Is6() && s.Neighbor.Is4() && !s.NextHop6.IsValid())
}

// inOrder makes a table of routes in any order.
func inOrder(routes []Route) Table {
	t := slices.Clone(routes)
	slices.SortStableFunc(t, byPrefix)
	last := 0
	for _, r := range t[1:] {
		if r.Prefix != t[last].Prefix {
			last++
		}
		t[last] = r
	}
	return t[:last+1]
}
