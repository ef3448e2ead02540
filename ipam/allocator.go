// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"unique"

	"go4.org/netipx"
)

// Allocator is an index of every address in use and of the pools they come from. The same objects, put in any order,
// make the same Allocator. It is not safe for concurrent use: the caller brings the lock.
type Allocator struct {
	pools   map[string]*pool
	ordered []*pool // highest priority first, then by name

	indexes byFamily[*index]
	groups  map[label]*group
	bound   map[quotaKey]int // how many addresses of a pool the Services of a namespace hold
	foreign map[netip.Addr]map[string]ServiceRef

	avoid []netipx.IPRange
	nodes map[netip.Addr]string
}

type quotaKey struct{ pool, namespace unique.Handle[string] }

// New returns an Allocator that knows no pool and no address.
func New() *Allocator {
	return &Allocator{
		indexes: byFamily[*index]{v4: newIndex(IPv4), v6: newIndex(IPv6)},
		groups:  map[label]*group{},
		bound:   map[quotaKey]int{},
		foreign: map[netip.Addr]map[string]ServiceRef{},
	}
}

// SetPools replaces all pools. What is held stays as it is, in whatever pool or in none.
func (a *Allocator) SetPools(pools []Pool) {
	a.pools = make(map[string]*pool, len(pools))
	a.ordered = make([]*pool, 0, len(pools))
	for _, p := range pools {
		a.pools[p.Name] = newPool(p)
	}
	for _, p := range a.pools {
		a.ordered = append(a.ordered, p)
	}
	slices.SortFunc(a.ordered, func(p, q *pool) int {
		return cmp.Or(cmp.Compare(q.Priority, p.Priority), cmp.Compare(p.Name, q.Name))
	})
	for i, p := range a.ordered {
		p.rank = i
	}
}

// SetAvoid replaces the addresses that are never chosen automatically, such as those of gateways and the first and last
// of a subnet. A Service may still ask for one by number, and a reservation for one holds.
func (a *Allocator) SetAvoid(avoid []netipx.IPRange) {
	a.avoid = slices.Clone(avoid)
	a.avoidAgain()
}

// SetNodes replaces the addresses of nodes, each with the name of its node. They are never chosen automatically, and a
// Service that asks for one, has one reserved or would share one is refused: it would take the node off the network.
// Whoever holds one keeps it.
func (a *Allocator) SetNodes(nodes map[netip.Addr]string) {
	a.nodes = maps.Clone(nodes)
	a.avoidAgain()
}

func (a *Allocator) avoidAgain() {
	avoid := slices.Clone(a.avoid)
	for addr := range a.nodes {
		avoid = append(avoid, netipx.IPRangeFrom(addr, addr))
	}
	spans := spansOf(avoid, nil)
	for _, f := range families {
		x, list := a.index(f), *spans.of(f)
		if !slices.Equal(x.avoid[anyAddress].spans, list) {
			x.setAvoid(list)
		}
	}
}

// Put sets the state of one address to what its object says, in or outside every pool. The zero Addr is ignored.
// Of a Holding without a SharingKey only the names of the holders are kept, for nobody can join them: Get returns it
// without their Ports, Backend and SharingNamespaces. The Allocator keeps a copy of h.
func (a *Allocator) Put(h Holding) {
	if !h.Address.IsValid() {
		return
	}
	a.change(h.Address, func(e *entry) { e.set(h) })
}

// Delete forgets the Holding of addr, if there is one: its object is gone.
func (a *Allocator) Delete(addr netip.Addr) {
	if e := a.entry(addr); e != nil && e.state != 0 {
		a.change(addr, (*entry).unset)
	}
}

// Get returns the Holding of addr, if there is one. It is a copy.
func (a *Allocator) Get(addr netip.Addr) (Holding, bool) {
	e := a.entry(addr)
	if e == nil || e.state == 0 {
		return Holding{}, false
	}
	return e.holding(addr.WithZone("")), true
}

// PutForeign records that owner, a Service that is not ours, shows addr in its status. As long as anybody does, nobody
// new gets it. It says nothing about the Holding of addr. The zero Addr is ignored.
func (a *Allocator) PutForeign(addr netip.Addr, owner ServiceRef) {
	if !addr.IsValid() {
		return
	}
	addr = addr.WithZone("")
	owners := a.foreign[addr]
	if owners == nil {
		owners = map[string]ServiceRef{}
		a.foreign[addr] = owners
		a.change(addr, func(e *entry) { e.foreign = true })
	}
	owners[owner.UID] = owner
}

// DeleteForeign takes back what PutForeign recorded for the Service with this UID.
func (a *Allocator) DeleteForeign(addr netip.Addr, uid string) {
	addr = addr.WithZone("")
	owners := a.foreign[addr]
	if owners == nil {
		return
	}
	delete(owners, uid)
	if len(owners) == 0 {
		delete(a.foreign, addr)
		a.change(addr, func(e *entry) { e.foreign = false })
	}
}

// Stats counts the addresses of a pool, and reports false if there is no such pool.
func (a *Allocator) Stats(pool string) (Stats, bool) {
	p := a.pools[pool]
	if p == nil {
		return Stats{}, false
	}
	return Stats{IPv4: p.usage(a.indexes.v4), IPv6: p.usage(a.indexes.v6)}, true
}

// PoolsContaining returns the names of the pools that have addr, disabled ones too, highest priority first and then by
// name.
func (a *Allocator) PoolsContaining(addr netip.Addr) []string {
	return names(a.having(a.ordered, addr))
}

// Overlaps returns the names, sorted, of the other pools that have an address in common with this one.
func (a *Allocator) Overlaps(pool string) []string {
	p := a.pools[pool]
	if p == nil {
		return nil
	}
	var found []string
	for _, other := range a.ordered {
		if other != p && p.overlaps(other) {
			found = append(found, other.Name)
		}
	}
	slices.Sort(found)
	return found
}

func (a *Allocator) index(f Family) *index { return *a.indexes.of(f) }

// entry returns what there is for addr, or nil.
func (a *Allocator) entry(addr netip.Addr) *entry {
	if !addr.IsValid() {
		return nil
	}
	if n := a.index(FamilyOf(addr)).tree.find(numberOf(addr)); n != nil {
		return &n.value
	}
	return nil
}

// change edits the entry of addr, which is made if there is none and dropped if it then says nothing, and keeps
// everything that is derived from entries true.
func (a *Allocator) change(addr netip.Addr, edit func(*entry)) {
	f, key := FamilyOf(addr), numberOf(addr)
	x := a.index(f)
	empty := false
	x.tree.update(key, func(e *entry) {
		a.derive(f, key, e, -1)
		edit(e)
		a.derive(f, key, e, +1)
		x.weigh(key, e)
		empty = e.state == 0 && !e.foreign
	})
	if empty {
		x.tree.delete(key)
	}
}

// derive counts e in (by 1) or out (by -1) of the groups and quotas.
func (a *Allocator) derive(f Family, key uint128, e *entry, by int) {
	e.namespaces(func(namespace unique.Handle[string]) bool {
		k := quotaKey{e.pool, namespace}
		if a.bound[k] += by; a.bound[k] == 0 {
			delete(a.bound, k)
		}
		return true
	})
	l, ok := labelOf(e, f)
	if !ok {
		return
	}
	g := a.groups[l]
	if g == nil {
		g = &group{}
		a.groups[l] = g
	}
	if g.add(key, e, by); g.addrs.size == 0 {
		delete(a.groups, l)
	}
}

// having returns those of the pools that have addr.
func (a *Allocator) having(pools []*pool, addr netip.Addr) []*pool {
	if !addr.IsValid() {
		return nil
	}
	return where(pools, func(p *pool) bool { return p.has(addr) })
}

// where returns the pools that fit. If those are the first ones, or all, it makes no new slice.
func where(pools []*pool, fits func(*pool) bool) []*pool {
	n := 0
	for n < len(pools) && fits(pools[n]) {
		n++
	}
	found := pools[:n:n]
	for _, p := range pools[n:] {
		if fits(p) {
			found = append(found, p)
		}
	}
	return found
}

func names(pools []*pool) []string {
	var list []string
	for _, p := range pools {
		list = append(list, p.Name)
	}
	return list
}
