// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// dump is all that an Allocator knows, with the shape of its trees.
func (a *Allocator) dump() (lines []string) {
	for _, f := range families {
		x := a.index(f)
		depths(x.tree.root, 0, func(key uint128, depth int) {
			e := &x.tree.find(key).value
			line := fmt.Sprint(depth, " ", key.addr(f), " ", e.weighs, e.count, e.foreign, e.state, e.single)
			for _, o := range e.oldest {
				if o != nil {
					line += " " + o.key.addr(f).String()
				}
			}
			if e.state != 0 {
				h := e.holding(key.addr(f))
				line += fmt.Sprint(" ", h.Pool, h.Holders, h.SharingKey)
				if h.ReservedFor != nil {
					line += h.ReservedFor.String()
				}
				if h.Released != nil {
					line += fmt.Sprint(*h.Released)
				}
				line += fmt.Sprint(" ", h.Quarantined)
			}
			lines = append(lines, line)
		})
		lines = append(lines, fmt.Sprint(x.avoid))
	}
	trees := len(lines)
	for l, g := range a.groups {
		line := fmt.Sprint(l, g.ports, g.addrs.size)
		depths(g.addrs.root, 0, func(key uint128, depth int) { line += fmt.Sprint(" ", key.addr(l.family), depth) })
		lines = append(lines, line)
	}
	for k, n := range a.bound {
		lines = append(lines, fmt.Sprint(k.pool.Value(), "/", k.namespace.Value(), n))
	}
	slices.Sort(lines[trees:])
	return append(lines, fmt.Sprint(a.foreign))
}

func TestTheSameObjectsInAnyOrderMakeTheSameAllocator(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			h := newHistory(seed)
			for range 500 {
				h.step()
			}
			// A restart: the objects that are left, in the order of a map, between the pools and the avoided addresses.
			restored := New()
			var puts []func()
			for _, g := range h.m.holdings {
				puts = append(puts, func() { restored.Put(g) })
			}
			for addr, owners := range h.m.foreign {
				for _, s := range owners {
					puts = append(puts, func() { restored.PutForeign(addr, s) })
				}
			}
			puts = append(puts, func() { restored.SetPools(h.m.pools) }, func() { restored.SetAvoid(h.m.avoid) },
				func() { restored.SetNodes(h.m.nodes) })
			h.Shuffle(len(puts), func(i, j int) { puts[i], puts[j] = puts[j], puts[i] })
			for _, put := range puts {
				put()
			}
			if diff := gocmp.Diff(h.a.dump(), restored.dump()); diff != "" {
				t.Errorf("-lived through +restored\n%s", diff)
			}
			h.a = restored
			h.compare(t)

			// And nothing is left of what is taken away.
			for _, addr := range h.m.universe {
				h.a.Delete(addr)
				for uid := range h.m.foreign[addr] {
					h.a.DeleteForeign(addr, uid)
				}
			}
			h.a.SetAvoid(nil)
			h.a.SetNodes(nil)
			if diff := gocmp.Diff(New().dump(), h.a.dump()); diff != "" {
				t.Errorf("-new +emptied\n%s", diff)
			}
		})
	}
}

func TestStatsAreExact(t *testing.T) {
	pools := []Pool{
		autoPool("all", "0.0.0.0/0 ::/0"),
		autoPool("nice", "10.0.0.0/16", func(p *Pool) { p.AvoidBuggyIPs = true }),
		autoPool("small", "10.0.0.0/29 10.0.0.4-10.0.0.9 fd00::/126", excluding("10.0.0.0 fd00::")),
	}
	put := func(a *Allocator) {
		a.Put(boundTo("10.0.0.1", "small", "a/x"))
		a.Put(reservedTo("10.0.0.2", "small", "a", ""))
		a.Put(restingFrom("10.0.0.3", "small", "a/y", 1))
		a.PutForeign(ip("10.0.0.4"), service("b/x"))
		a.Put(boundTo("fd00::3", "small", "a/x"))
		a.Put(boundTo("10.0.255.255", "all", "a/z"))
	}
	for _, c := range []struct{ name, pool, avoid, v4, v6 string }{
		{"all there is", "all", "", "4294967296 3 4294967292",
			"340282366920938463463374607431768211456 1 340282366920938463463374607431768211455"},
		{"all there is, avoided", "all", "0.0.0.0/0 ::/0", "4294967296 3 0", "340282366920938463463374607431768211456 1 0"},
		{"without buggy ones", "nice", "", "65536 3 65021", "0 0 0"},
		{"without buggy and avoided ones", "nice", "10.0.0.0/24 10.0.3.7", "65536 3 64769", "0 0 0"},
		{"a union without what it excludes", "small", "10.0.0.5", "9 2 5", "3 1 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := New()
			a.SetPools(pools)
			a.SetAvoid(ranges(c.avoid))
			put(a)
			s, ok := a.Stats(c.pool)
			text := func(u Usage) string { return fmt.Sprint(u.Capacity, " ", u.Allocated, " ", u.Available) }
			if !ok || text(s.IPv4) != c.v4 || text(s.IPv6) != c.v6 {
				t.Errorf("got %s and %s, want %s and %s", text(s.IPv4), text(s.IPv6), c.v4, c.v6)
			}
		})
	}
	if _, ok := New().Stats("none"); ok {
		t.Error("a pool that is not there has stats")
	}
}

func TestPoolsAreComparedAddressByAddress(t *testing.T) {
	a := New()
	a.SetPools([]Pool{
		autoPool("a", "10.0.0.0/24 fd00::/64"),
		autoPool("b", "10.0.0.128/25", excluding("10.0.0.192/26"), priority(1)),
		autoPool("c", "10.0.0.200-10.0.0.255", disabled, priority(1)),
		autoPool("d", "fd00::ffff"),
	})
	for pool, want := range map[string][]string{"a": {"b", "c", "d"}, "b": {"a"}, "c": {"a"}, "d": {"a"}, "none": nil} {
		if got := a.Overlaps(pool); !slices.Equal(got, want) {
			t.Errorf("%s overlaps %v, want %v", pool, got, want)
		}
	}
	for addr, want := range map[string][]string{"10.0.0.1": {"a"}, "10.0.0.130": {"b", "a"}, "10.0.0.210": {"c", "a"}, "fd00::ffff": {"a", "d"}, "192.0.2.1": nil} {
		if got := a.PoolsContaining(ip(addr)); !slices.Equal(got, want) {
			t.Errorf("%s is in %v, want %v", addr, got, want)
		}
	}
}

func TestGetReturnsACopyOfWhatWasPut(t *testing.T) {
	whole := Holding{Address: ip("10.0.0.1"), Pool: "p", SharingKey: "k",
		Holders:     []Holder{{service("a/x"), []Port{{TCP, 80}}, "app=x", []string{"b"}}, {Service: service("b/y"), SharingNamespaces: []string{"a"}}},
		ReservedFor: &Reservation{"a", ""}, Released: &Released{Namespace: "a", Name: "z"}, Quarantined: true}
	put := func() Holding {
		h := whole
		h.Holders = cloneHolders(whole.Holders, true)
		r, l := *whole.ReservedFor, *whole.Released
		h.ReservedFor, h.Released = &r, &l
		return h
	}
	spoil := func(h Holding) {
		h.Holders[0].Ports[0], h.Holders[0].SharingNamespaces[0], h.Holders[1] = Port{UDP, 1}, "z", Holder{}
		h.ReservedFor.Name, h.Released.Name = "z", "y"
	}
	a, h := New(), put()
	a.Put(h)
	spoil(h)
	first, _ := a.Get(h.Address)
	spoil(first)
	got, ok := a.Get(h.Address)
	if diff := gocmp.Diff(whole, got, cmpopts.EquateComparable(netip.Addr{})); !ok || diff != "" {
		t.Errorf("-put +got\n%s", diff)
	}

	unshared := whole
	unshared.SharingKey = ""
	a.Put(unshared)
	got, _ = a.Get(h.Address)
	if one := got.Holders[0]; one.Service != service("a/x") || one.Ports != nil || one.Backend != "" || one.SharingNamespaces != nil {
		t.Errorf("without a sharing key got %+v, want the Service alone", one)
	}
}

func TestUIDsOfAnyFormComeBack(t *testing.T) {
	a := New()
	for _, uid := range []string{"", "x", "6b1e1d9a-0c5e-4a1e-9d0a-0123456789ab", "6B1E1D9A-0C5E-4A1E-9D0A-0123456789AB",
		"6b1e1d9a+0c5e-4a1e-9d0a-0123456789ab", "6b1e1d9a-0c5e-4a1e-9d0a-0123456789zz"} {
		h := Holding{Address: ip("10.0.0.1"), Holders: []Holder{{Service: ServiceRef{"a", "x", uid}}}}
		a.Put(h)
		if got, _ := a.Get(h.Address); got.Holders[0].Service.UID != uid {
			t.Errorf("UID %q comes back as %q", uid, got.Holders[0].Service.UID)
		}
	}
}

func TestTheZeroAddressIsNothing(t *testing.T) {
	a, none := New(), netip.Addr{}
	a.SetPools([]Pool{autoPool("all", "0.0.0.0/0 ::/0")})
	a.Put(Holding{Address: none, Pool: "all"})
	a.PutForeign(none, service("a/x"))
	a.DeleteForeign(none, "uid of a/x")
	a.Delete(none)
	if _, ok := a.Get(none); ok || a.PoolsContaining(none) != nil || a.indexes.v4.tree.size+a.indexes.v6.tree.size > 0 {
		t.Error("the zero address is kept")
	}
}

func TestQueriesChangeNothing(t *testing.T) {
	h := newHistory(7)
	for range 500 {
		h.step()
		before := h.a.dump()
		req := h.request()
		h.a.Choose(req)
		h.a.Check(req, h.addr())
		h.a.Stats("p1")
		if diff := gocmp.Diff(before, h.a.dump()); diff != "" {
			t.Fatalf("-before +after\n%s", diff)
		}
	}
}
