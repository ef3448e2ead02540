// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"slices"
	"time"
	"unique"
)

// Choose answers a Request, in the order that the package documentation gives. It changes nothing: the caller Puts what
// it then creates.
func (a *Allocator) Choose(req Request) Choice {
	q := a.query(req)
	wanted := make([]Family, 0, len(families))
	for _, f := range req.Families {
		has := slices.ContainsFunc(req.Have, func(addr netip.Addr) bool { return FamilyOf(addr) == f })
		if !has && !slices.Contains(wanted, f) && slices.Contains(families[:], f) {
			wanted = append(wanted, f)
		}
	}

	// What does not depend on the other family comes first, so that the other family can follow it into its pool.
	var refused byFamily[*Refusal]
	open := make([]Family, 0, len(families))
	for _, f := range wanted {
		pick, refusal, settled := q.settle(f)
		switch {
		case refusal != nil:
			*refused.of(f) = refusal
		case settled:
			*q.picks.of(f) = pick
		default:
			open = append(open, f)
		}
	}
	if len(open) == 2 {
		q.choosePair(open[0], open[1])
	}
	for _, f := range open {
		if q.picks.of(f).Address.IsValid() {
			continue
		}
		if o, ok := q.best(f, q.home(f)); ok {
			*q.picks.of(f) = o.pick(f)
		} else if o, ok := q.best(f, q.auto); ok {
			*q.picks.of(f) = o.pick(f)
		} else {
			*refused.of(f) = q.refuseFamily(f)
		}
	}

	var c Choice
	for _, f := range wanted {
		if refusal := *refused.of(f); refusal != nil {
			c.Refusals = append(c.Refusals, *refusal)
		} else {
			c.Picks = append(c.Picks, *q.picks.of(f))
		}
	}
	for _, addr := range req.Addresses {
		told := slices.ContainsFunc(c.Refusals, func(r Refusal) bool { return r.Address == addr })
		if !slices.Contains(req.Families, FamilyOf(addr)) && !told {
			c.Refusals = append(c.Refusals, *q.check(addr).refusal)
		}
	}
	return c
}

// Check says whether the Service may hold addr, and nil is yes. For a Service that holds it already only the others on
// the address matter (a pool edit takes nothing away), so Check also tells whether it may stay after its ports, key or
// traffic policy changed. For one that does not, it is what Choose says of an address asked for by number.
func (a *Allocator) Check(req Request, addr netip.Addr) *Refusal {
	q := a.query(req)
	return q.check(addr).refusal
}

// query is a Request with what the allocator makes of it.
type query struct {
	*Allocator
	req      Request
	admitted []*pool        // those whose selectors admit the Service, and which it does not rule out by naming another
	enabled  []*pool        // those of them that give something new
	auto     []*pool        // those of them that give without being asked for by number
	picks    byFamily[Pick] // so far
}

func (a *Allocator) query(req Request) query {
	q := query{Allocator: a, req: req, admitted: make([]*pool, 0, len(req.Pools))}
	for _, name := range req.Pools {
		if p := a.pools[name]; p != nil && (req.PoolNamed == "" || req.PoolNamed == name) {
			q.admitted = append(q.admitted, p)
		}
	}
	slices.SortFunc(q.admitted, func(p, o *pool) int { return p.rank - o.rank })
	q.admitted = slices.Compact(q.admitted)
	q.enabled = where(q.admitted, func(p *pool) bool { return !p.Disabled })
	q.auto = where(q.enabled, func(p *pool) bool { return p.AutoAssign || req.PoolNamed != "" })
	return q
}

// settle finds the address of a family that follows from the Service itself: asked for, reserved, shared, or its last.
func (q *query) settle(f Family) (pick Pick, refusal *Refusal, ok bool) {
	var asked []netip.Addr
	for _, addr := range q.req.Addresses {
		if FamilyOf(addr) == f {
			asked = append(asked, addr)
		}
	}
	switch len(asked) {
	case 0:
		// Whoever asks for a number that no family of the Service can have does not expect just any other address.
		for _, addr := range q.req.Addresses {
			if !slices.Contains(q.req.Families, FamilyOf(addr)) {
				refusal = q.check(addr).refusal
				refusal.Family = f
				return Pick{}, refusal, false
			}
		}
	case 1:
		v := q.check(asked[0])
		return Pick{Address: asked[0], Pool: v.pool, Shared: v.shared}, v.refusal, true
	default:
		return Pick{}, q.refuseSecond(asked[0], asked[1]), false
	}
	if pick, ok = q.reserved(f); ok {
		return pick, nil, true
	}
	if pick, ok = q.shared(f); ok {
		return pick, nil, true
	}
	pick, ok = q.returned(f)
	return pick, nil, ok
}

// reserved finds the address that is kept for the Service, or for its namespace.
func (q *query) reserved(f Family) (pick Pick, ok bool) {
	everywhere := []span{{uint128{}, maxUint128}}
	if q.req.PoolNamed != "" {
		p := q.pools[q.req.PoolNamed]
		if p == nil {
			return Pick{}, false
		}
		everywhere = *p.spans.of(f)
	}
	s := q.req.Service
	for _, name := range []string{s.Name, ""} {
		g := q.groups[label{reservedFor, f, s.Namespace, name}]
		if g == nil {
			continue
		}
		for _, where := range everywhere {
			g.addrs.ascend(where.from, where.to, func(n *node[struct{}]) bool {
				addr := n.key.addr(f)
				if _, node := q.nodes[addr]; !node && !q.entry(addr).foreign {
					pick, ok = Pick{Address: addr, Pool: q.poolOfReserved(addr, q.entry(addr))}, true
				}
				return !ok
			})
			if ok {
				return pick, true
			}
		}
	}
	return Pick{}, false
}

// poolOfReserved says in which pool a reserved address counts: the named one, its own, or else the first that has it.
func (q *query) poolOfReserved(addr netip.Addr, e *entry) string {
	if q.req.PoolNamed != "" {
		return q.req.PoolNamed
	}
	if own := e.pool.Value(); own != "" {
		return own
	}
	if list := q.having(q.ordered, addr); len(list) > 0 {
		return list[0].Name
	}
	return ""
}

// shared finds the lowest address under the Service's sharing key which admits it.
func (q *query) shared(f Family) (pick Pick, ok bool) {
	if q.req.SharingKey == "" {
		return Pick{}, false
	}
	g := q.groups[label{sharingUnder, f, "", q.req.SharingKey}]
	if g == nil || g.takenEverywhere(q.req.Ports) {
		return Pick{}, false
	}
	g.addrs.ascend(uint128{}, maxUint128, func(n *node[struct{}]) bool {
		addr := n.key.addr(f)
		if v := q.check(addr); v.refusal == nil && !v.mine && !q.entry(addr).quarantined() {
			pick, ok = Pick{Address: addr, Pool: v.pool, Shared: v.shared}, true
		}
		return !ok
	})
	return pick, ok
}

// returned finds the resting address that the Service itself released last.
func (q *query) returned(f Family) (pick Pick, ok bool) {
	g := q.groups[label{releasedBy, f, q.req.Service.Namespace, q.req.Service.Name}]
	if g == nil {
		return Pick{}, false
	}
	var latest time.Time
	g.addrs.ascend(uint128{}, maxUint128, func(n *node[struct{}]) bool {
		addr := n.key.addr(f)
		e := q.entry(addr)
		if e.foreign || ok && !e.restsSince().After(latest) {
			return true
		}
		for _, p := range q.auto {
			if p.has(addr) && e.has(taken+weight(p.view)) && q.room(p) >= 1 {
				pick, ok, latest = Pick{Address: addr, Pool: p.Name}, true, e.restsSince()
				break
			}
		}
		return true
	})
	return pick, ok
}

// offer is an address that a pool can give now.
type offer struct {
	key     uint128
	pool    *pool
	resting *entry // nil if the address is fresh
}

func (o offer) pick(f Family) Pick { return Pick{Address: o.key.addr(f), Pool: o.pool.Name} }

// offer returns the lowest fresh address of p, or else the one that rested longest.
func (q *query) offer(p *pool, f Family) (offer, bool) {
	x := q.index(f)
	for _, s := range *p.spans.of(f) {
		if key, ok := x.firstFresh(s, p.view); ok {
			return offer{key: key, pool: p}, true
		}
	}
	var oldest *node[entry]
	for _, s := range *p.spans.of(f) {
		oldest = older(oldest, x.longestResting(s, p.view))
	}
	if oldest == nil {
		return offer{}, false
	}
	return offer{key: oldest.key, pool: p, resting: &oldest.value}, true
}

// best returns the best offer of a family from pools in their order: of the first priority that has one, the first
// fresh address, or else the one that rested longest.
func (q *query) best(f Family, pools []*pool) (best offer, ok bool) {
	for i, p := range pools {
		if ok && p.Priority != pools[i-1].Priority {
			break
		}
		if q.room(p) < 1 {
			continue
		}
		o, found := q.offer(p, f)
		switch {
		case !found:
		case o.resting == nil:
			return o, true
		case !ok, restsLonger(o, best):
			best, ok = o, true
		}
	}
	return best, ok
}

func restsLonger(o, than offer) bool {
	c := o.resting.restsSince().Compare(than.resting.restsSince())
	return c < 0 || c == 0 && o.key.less(than.key)
}

// choosePair picks an address of each family from one pool, if there is a pool that can give both: of the first
// priority that has one, the pool that needs the fewest resting addresses, then the one whose need has rested longer.
func (q *query) choosePair(f, g Family) {
	var best [2]offer
	found := false
	for i, p := range q.auto {
		if found && p.Priority != q.auto[i-1].Priority {
			break
		}
		if q.room(p) < 2 {
			continue
		}
		first, ok := q.offer(p, f)
		if !ok {
			continue
		}
		second, ok := q.offer(p, g)
		if !ok {
			continue
		}
		if pair := [2]offer{first, second}; !found || fresher(pair, best) {
			best, found = pair, true
		}
	}
	if found {
		*q.picks.of(f), *q.picks.of(g) = best[0].pick(f), best[1].pick(g)
	}
}

// fresher says whether a pair takes fewer resting addresses than another, or as many that were released before.
func fresher(pair, than [2]offer) bool {
	n, since := restingIn(pair)
	m, thanSince := restingIn(than)
	return n < m || n == m && since.Before(thanSince)
}

// restingIn counts the resting addresses of a pair and says when the last of them was released.
func restingIn(pair [2]offer) (n int, since time.Time) {
	for _, o := range pair {
		if o.resting == nil {
			continue
		}
		if t := o.resting.restsSince(); n == 0 || t.After(since) {
			since = t
		}
		n++
	}
	return n, since
}

// home returns the pool of the Service's address of another family, if that may give one of this.
func (q *query) home(f Family) []*pool {
	var name string
	for _, have := range q.req.Have {
		if e := q.entry(have); FamilyOf(have) != f && e != nil && e.state != 0 {
			name = e.pool.Value()
		}
	}
	for _, other := range families {
		if pick := q.picks.of(other); other != f && pick.Address.IsValid() {
			name = pick.Pool
		}
	}
	i := slices.IndexFunc(q.auto, func(p *pool) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return q.auto[i : i+1]
}

// room says how many more addresses of p the namespace may have; two is as good as any number.
func (q *query) room(p *pool) int {
	if p.MaxPerNamespace <= 0 {
		return 2
	}
	n := p.MaxPerNamespace - q.bound[quotaKey{unique.Make(p.Name), unique.Make(q.req.Service.Namespace)}]
	for _, f := range families {
		if pick := q.picks.of(f); pick.Address.IsValid() && pick.Pool == p.Name && !q.onIt(pick.Address) {
			n--
		}
	}
	return n
}

// onIt says whether the namespace has a Service on addr already, so that one more takes nothing from its quota.
func (q *query) onIt(addr netip.Addr) (found bool) {
	e := q.entry(addr)
	if e == nil {
		return false
	}
	e.namespaces(func(namespace unique.Handle[string]) bool {
		found = namespace == unique.Make(q.req.Service.Namespace)
		return !found
	})
	return found
}
