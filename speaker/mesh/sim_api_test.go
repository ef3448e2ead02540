// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// simAPI is the API server with what the controller wrote.
type simAPI struct {
	down      bool
	addresses map[netip.Addr]*simAddress
	drained   []bool
}

type simAddress struct {
	addr     netip.Addr
	segment  int
	proposed int
	record   Claim
}

func (a *simAPI) sorted() []*simAddress {
	out := make([]*simAddress, 0, len(a.addresses))
	for _, e := range a.addresses {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *simAddress) int { return a.addr.Compare(b.addr) })
	return out
}

// simView is what a speaker knows of the API; it is its machine's policy.
type simView struct {
	w       *sim
	self    *simNode
	full    bool
	known   map[netip.Addr]simAddress
	drained []bool
}

func (v *simView) addresses() []Address {
	out := make([]Address, 0, len(v.known))
	for _, a := range v.known {
		out = append(out, v.address(a))
	}
	slices.SortFunc(out, func(a, b Address) int { return a.Addr.Compare(b.Addr) })
	return out
}

func (v *simView) address(a simAddress) Address {
	out := Address{Addr: a.addr, Recorded: a.record, Proposed: v.w.nodes[a.proposed].name}
	if !v.self.unfit {
		out.Interfaces = []string{ifaceName(a.segment)}
	}
	return out
}

func (v *simView) fits(node string) bool { return !v.drained[v.w.byName(node).i] }

func (w *sim) byName(name string) *simNode {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// Owner is plan.Owner with draining as the only thing that makes a node unfit.
func (v *simView) Owner(addr netip.Addr, claimant string) string {
	if claimant != "" && v.fits(claimant) {
		return claimant
	}
	if p := v.w.nodes[v.known[addr].proposed].name; v.fits(p) {
		return p
	}
	return ""
}

// Successors ranks nodes by a hash.
func (v *simView) Successors(addr netip.Addr) []string {
	type ranked struct {
		name string
		bad  uint64
		hash uint64
	}
	all := make([]ranked, len(v.w.nodes))
	for i, n := range v.w.nodes {
		all[i] = ranked{n.name, bit(v.drained[i]), hashClaim(addr, int64(i), 0, false)}
	}
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Or(cmp.Compare(a.bad, b.bad), cmp.Compare(a.hash, b.hash)) })
	out := make([]string, len(all))
	for i, r := range all {
		out[i] = r.name
	}
	return out
}

// reach has a speaker read all from the API, if it is there.
func (n *simNode) reach() {
	w := n.w
	if w.api.down || !n.api || !n.running() {
		if n.speaker && n.m != nil && !n.paused {
			n.m.SetRecorder(w.time(), false)
			n.flush()
		}
		return
	}
	old := n.view.known
	n.view.full = true
	n.view.known = map[netip.Addr]simAddress{}
	for _, a := range w.api.sorted() {
		n.view.known[a.addr] = *a
	}
	n.view.drained = slices.Clone(w.api.drained)
	n.m.SetRecorder(w.time(), true)
	if n.synced < 0 {
		n.sync()
	} else {
		var gone []netip.Addr
		for addr := range old {
			if _, ok := n.view.known[addr]; !ok {
				gone = append(gone, addr)
			}
		}
		slices.SortFunc(gone, netip.Addr.Compare)
		n.m.SetAddresses(w.time(), n.view.addresses(), gone)
		n.m.Reconsider(w.time())
	}
	for _, addr := range slices.SortedFunc(maps.Keys(n.queued), netip.Addr.Compare) {
		c := n.queued[addr]
		delete(n.queued, addr)
		n.record(addr, c)
	}
	n.flush()
}

// changed tells all speakers of a change in the API; a watch takes a moment.
func (w *sim) changed(addr netip.Addr) {
	for _, n := range w.nodes {
		life := n.life
		w.after(w.between(2*ms, 20*ms), func() {
			n.do(life, func() { n.watch(addr) })
		})
	}
}

// watch takes a change of an address from the API.
func (n *simNode) watch(addr netip.Addr) {
	w := n.w
	a := w.api.addresses[addr]
	if w.api.down || !n.api || n.synced < 0 {
		return
	}
	if a == nil {
		delete(n.view.known, addr)
		n.m.SetAddresses(w.time(), nil, []netip.Addr{addr})
		return
	}
	n.view.known[addr] = *a
	n.m.SetAddresses(w.time(), []Address{n.view.address(*a)}, nil)
}

// record writes a claim by compare and swap, now or when the API is there.
func (n *simNode) record(addr netip.Addr, c Claim) {
	w, life := n.w, n.life
	if w.api.down || !n.api {
		n.queued[addr] = c
		return
	}
	w.after(w.between(3*ms, 20*ms), func() {
		n.do(life, func() {
			if best, ok := n.m.Claim(addr); !ok || best.Node != n.name || best.Term != c.Term {
				return
			}
			if w.api.down || !n.api {
				n.queued[addr] = c
				return
			}
			a := w.api.addresses[addr]
			if a == nil {
				return
			}
			if a.record.Term < c.Term {
				w.log("%s recorded %v term %d", n.name, addr, c.Term)
				a.record = Claim{Node: n.name, Term: c.Term}
				w.changed(addr)
			}
			n.m.Recorded(w.time(), addr, a.record)
		})
	})
}
