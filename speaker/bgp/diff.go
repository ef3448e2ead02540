// SPDX-License-Identifier: Apache-2.0

package bgp

import "net/netip"

// Table are routes by their prefix.
type Table map[netip.Prefix]Route

// Diff returns what makes the routes that were sent those that are wanted.
func Diff(sent, want Table) (announce []Route, withdraw []netip.Prefix) {
	for p, r := range want {
		if old, ok := sent[p]; !ok || !old.Equal(r) {
			announce = append(announce, r)
		}
	}
	for p := range sent {
		if _, ok := want[p]; !ok {
			withdraw = append(withdraw, p)
		}
	}
	return announce, withdraw
}

// tableOf has the routes of the session's families. Of two to one prefix the
// last counts.
func (s Session) tableOf(routes []Route, marked bool) Table {
	t := make(Table, len(routes))
	for _, r := range routes {
		if !s.Families.Of(r.Prefix) {
			continue
		}
		if marked {
			r = r.marked()
		}
		t[r.Prefix] = r
	}
	return t
}
