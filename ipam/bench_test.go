// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"go4.org/netipx"
)

// uid returns a UID as the API server makes them, always the same for i.
func uid(i int) string {
	r := rand.New(rand.NewPCG(uint64(i), 1))
	a, b := r.Uint64(), r.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>48, b&0xffffffffffff)
}

func services(n int) []ServiceRef {
	refs := make([]ServiceRef, n)
	for i := range refs {
		refs[i] = ServiceRef{Namespace: fmt.Sprintf("team-%d", i%50), Name: fmt.Sprintf("service-%d", i), UID: uid(i)}
	}
	return refs
}

func onePool(edit func(*Pool), ranges ...string) *Allocator {
	p := Pool{Name: "pool", AutoAssign: true}
	for _, r := range ranges {
		p.Ranges = append(p.Ranges, mustRange(r))
	}
	if edit != nil {
		edit(&p)
	}
	a := New()
	a.SetPools([]Pool{p})
	return a
}

func mustRange(s string) netipx.IPRange {
	r, err := ParseRange(s)
	if err != nil {
		panic(err)
	}
	return r
}

// fill gives every Service an address, as the controller does.
func fill(b *testing.B, a *Allocator, f Family, refs []ServiceRef) {
	for i := range refs {
		req := Request{Service: refs[i], Families: []Family{f}, Pools: []string{"pool"}, Ports: []Port{{TCP, 80}}}
		c := a.Choose(req)
		if len(c.Picks) != 1 {
			b.Fatalf("Service %d got no address: %v", i, c.Refusals)
		}
		a.Put(Holding{Address: c.Picks[0].Address, Pool: c.Picks[0].Pool, Holders: []Holder{{Service: req.Service, Ports: req.Ports}}})
	}
}

func benchmarkFill(b *testing.B, f Family, n int, pool string) {
	refs := services(n)
	b.ReportAllocs()
	for b.Loop() {
		fill(b, onePool(nil, pool), f, refs)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/address")
}

func BenchmarkFillSlash16(b *testing.B) { benchmarkFill(b, IPv4, 20_000, "10.1.0.0/16") }

func BenchmarkFillIPv6Slash64(b *testing.B) { benchmarkFill(b, IPv6, 100_000, "2001:db8::/64") }

// BenchmarkMemoryPerAddress counts everything, down to the text of names and UIDs that nobody but the allocator keeps.
func BenchmarkMemoryPerAddress(b *testing.B) {
	const n = 100_000
	cases := []struct {
		name string
		addr func(i int) netip.Addr
	}{
		{"IPv4 in a row", func(i int) netip.Addr { return uint128{0, 10<<24 + uint64(i)}.addr(IPv4) }},
		{"IPv6 at random", func(i int) netip.Addr {
			r := rand.New(rand.NewPCG(uint64(i), 2))
			return uint128{r.Uint64(), r.Uint64()}.addr(IPv6)
		}},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			var used uint64
			for b.Loop() {
				before := heap()
				a := New()
				for i := range n {
					a.Put(Holding{Address: c.addr(i), Pool: "pool", Holders: []Holder{{
						Service: ServiceRef{Namespace: fmt.Sprintf("team-%d", i%50), Name: fmt.Sprintf("service-%d", i), UID: uid(i)},
						Ports:   []Port{{TCP, 80}},
					}}})
				}
				used = heap() - before
				runtime.KeepAlive(a)
			}
			if used >= 200*n {
				b.Errorf("%d bytes per address, the budget is 200", used/n)
			}
			b.ReportMetric(float64(used)/n, "B/address")
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkChoose asks for an address among 60,000 held ones.
func BenchmarkChoose(b *testing.B) {
	const n = 60_000
	refs := services(n)
	req := Request{Service: ServiceRef{Namespace: "team-1", Name: "new"}, Families: []Family{IPv4}, Pools: []string{"pool"}}
	ask := func(b *testing.B, a *Allocator, picks int) {
		b.Helper()
		b.ReportAllocs()
		for b.Loop() {
			if got := len(a.Choose(req).Picks); got != picks {
				b.Fatalf("%d picks, want %d", got, picks)
			}
		}
	}
	last := netip.MustParseAddr("10.0.0.0")
	for range n - 1 {
		last = last.Next()
	}
	whole := "10.0.0.0-" + last.String()

	b.Run("in a full pool", func(b *testing.B) {
		a := onePool(nil, whole)
		fill(b, a, IPv4, refs)
		ask(b, a, 0)
	})
	b.Run("in a nearly full pool", func(b *testing.B) {
		a := onePool(nil, whole)
		fill(b, a, IPv4, refs)
		a.Delete(last)
		ask(b, a, 1)
	})
	b.Run("in a full pool with a resting address", func(b *testing.B) {
		a := onePool(nil, whole)
		fill(b, a, IPv4, refs)
		a.Put(Holding{Address: last, Pool: "pool"})
		ask(b, a, 1)
	})
	b.Run("where buggy ones are avoided", func(b *testing.B) {
		a := onePool(func(p *Pool) { p.AvoidBuggyIPs = true }, "10.0.0.0/8")
		fill(b, a, IPv4, refs)
		ask(b, a, 1)
	})
	b.Run("where every other one is avoided", func(b *testing.B) {
		a := onePool(nil, "10.0.0.0/8")
		var avoid []netipx.IPRange
		for addr := netip.MustParseAddr("10.0.0.0"); len(avoid) < 10_000; addr = addr.Next().Next() {
			avoid = append(avoid, netipx.IPRangeFrom(addr, addr))
		}
		a.SetAvoid(avoid)
		fill(b, a, IPv4, refs)
		ask(b, a, 1)
	})
	b.Run("under a sharing key whose port is taken everywhere", func(b *testing.B) {
		a := onePool(nil, whole)
		for i, addr := 0, netip.MustParseAddr("10.0.0.0"); i < n; i, addr = i+1, addr.Next() {
			a.Put(Holding{Address: addr, Pool: "pool", SharingKey: "k", Holders: []Holder{{Service: refs[i], Ports: []Port{{TCP, 80}}}}})
		}
		a.Delete(last)
		req := req
		req.SharingKey, req.Ports = "k", []Port{{TCP, 80}}
		b.ReportAllocs()
		for b.Loop() {
			if c := a.Choose(req); len(c.Picks) != 1 || c.Picks[0].Shared {
				b.Fatalf("got %s, want a fresh address", c.text())
			}
		}
	})
	b.Run("in 100 overlapping full pools", func(b *testing.B) {
		a := onePool(nil, whole)
		fill(b, a, IPv4, refs)
		var pools []Pool
		req := req
		req.Pools = nil
		for i := range 100 {
			p := Pool{Name: fmt.Sprintf("pool-%d", i), AutoAssign: true, Priority: int32(i % 3)}
			p.Ranges = append(p.Ranges, mustRange(fmt.Sprintf("10.0.%d.0-%s", i, last)))
			pools, req.Pools = append(pools, p), append(req.Pools, p.Name)
		}
		a.SetPools(pools)
		b.ReportAllocs()
		for b.Loop() {
			if got := a.Choose(req); len(got.Picks) != 0 {
				b.Fatal("a full pool gave an address")
			}
		}
	})
}
