// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"net/netip"
	"slices"
)

// verdict is what Check and Choose make of one address.
type verdict struct {
	refusal *Refusal
	pool    string // where the address counts
	shared  bool   // others hold it
	mine    bool   // the Service holds it already
}

// check says whether the Service may hold addr. What will not change by itself is looked at first.
func (q *query) check(addr netip.Addr) verdict {
	if !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() {
		return verdict{refusal: q.refuseInvalid(addr)}
	}
	if !slices.Contains(q.req.Families, FamilyOf(addr)) {
		return verdict{refusal: q.refuseFamilyOf(addr)}
	}
	e := q.entry(addr)
	if e == nil {
		e = &entry{}
	}
	var others []Holder
	v := verdict{}
	e.holders(func(h Holder) bool {
		if h.Service.same(q.req.Service) {
			v.mine = true
		} else {
			others = append(others, h)
		}
		return true
	})
	v.shared = len(others) > 0
	if node, ok := q.nodes[addr]; ok && !v.mine {
		v.refusal = q.refuseNode(addr, node)
		return v
	}

	switch {
	case v.mine:
		v.pool = e.pool.Value()
	case q.keptForIt(addr, e):
		v.pool = q.poolOfReserved(addr, e)
	default:
		v.pool, v.refusal = q.poolFor(addr, e)
	}
	switch {
	case v.refusal != nil || v.mine && !v.shared:
		return v
	case !v.mine && e.foreign:
		v.refusal = refuseForeign(addr, q.foreignOwner(addr))
	case !v.mine && e.reserved() != nil && !e.reserved().admits(q.req.Service):
		v.refusal = refuseReserved(addr, *e.reserved())
	case v.shared && (q.req.SharingKey == "" || e.sharingKey() == ""):
		v.refusal = refuseInUse(addr, others)
	case v.shared && q.req.SharingKey != e.sharingKey():
		v.refusal = q.refuseKey(addr, others, e.sharingKey())
	}
	for _, other := range others {
		if v.refusal == nil {
			v.refusal = q.refuseHolder(addr, other)
		}
	}
	return v
}

// keptForIt says whether a reservation makes the pools of addr irrelevant.
func (q *query) keptForIt(addr netip.Addr, e *entry) bool {
	if e.reserved() == nil || !e.reserved().admits(q.req.Service) {
		return false
	}
	p := q.pools[q.req.PoolNamed]
	return q.req.PoolNamed == "" || p != nil && p.has(addr)
}

// poolFor finds the pool through which the Service may have addr, or says why there is none.
func (q *query) poolFor(addr netip.Addr, e *entry) (string, *Refusal) {
	candidates := q.having(q.enabled, addr)
	if len(candidates) == 0 {
		return "", q.refusePool(addr)
	}
	if e.state == Bound {
		// Whoever joins an address counts in the pool in which it counts already.
		own := q.pools[e.pool.Value()]
		switch {
		case own == nil:
			return cmp.Or(e.pool.Value(), candidates[0].Name), nil
		case q.onIt(addr) || q.room(own) >= 1:
			return own.Name, nil
		}
		return "", q.refuseQuota(FamilyOf(addr), addr, []*pool{own})
	}
	for _, p := range candidates {
		if q.room(p) >= 1 {
			return p.Name, nil
		}
	}
	return "", q.refuseQuota(FamilyOf(addr), addr, candidates)
}

// foreignOwner returns the first, by name, of the Services that show addr.
func (q *query) foreignOwner(addr netip.Addr) ServiceRef {
	var first ServiceRef
	for _, s := range q.foreign[addr] {
		if first == (ServiceRef{}) || compareServices(s, first) < 0 {
			first = s
		}
	}
	return first
}

func compareServices(a, b ServiceRef) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
}
