// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go4.org/netipx"
)

// history drives an Allocator and the model with the same random events.
type history struct {
	*rand.Rand
	a *Allocator
	m *model
}

func newHistory(seed uint64) *history {
	m := &model{holdings: map[netip.Addr]Holding{}, foreign: map[netip.Addr]map[string]ServiceRef{}}
	for _, r := range []netipx.IPRange{mustRange("10.0.0.240-10.0.1.20"), mustRange("fd00::fff8-fd00::1:10")} {
		for addr := r.From(); r.Contains(addr); addr = addr.Next() {
			m.universe = append(m.universe, addr)
		}
	}
	return &history{rand.New(rand.NewPCG(seed, 0)), New(), m}
}

func pickOne[T any](h *history, from []T) T { return from[h.IntN(len(from))] }

// some returns each of the elements with a chance of one in n.
func some[T any](h *history, n int, from ...T) (list []T) {
	for _, t := range from {
		if h.IntN(n) == 0 {
			list = append(list, t)
		}
	}
	return list
}

func (h *history) chance(n int) bool { return h.IntN(n) == 0 }

func (h *history) addr() netip.Addr { return pickOne(h, h.m.universe) }

func (h *history) span() netipx.IPRange {
	for {
		i := h.IntN(len(h.m.universe))
		j := min(i+h.IntN(20), len(h.m.universe)-1)
		if from, to := h.m.universe[i], h.m.universe[j]; FamilyOf(from) == FamilyOf(to) {
			return netipx.IPRangeFrom(from, to)
		}
	}
}

func (h *history) spans(most int) (list []netipx.IPRange) {
	for range h.IntN(most + 1) {
		list = append(list, h.span())
	}
	return list
}

var (
	namespaces = []string{"a", "b", "c"}
	poolNames  = []string{"p1", "p2", "p3", "p4"}
	keys       = []string{"", "", "k1", "k2"}
)

func (h *history) service() ServiceRef {
	i := h.IntN(30)
	return ServiceRef{namespaces[i%3], fmt.Sprint("s", i), pickOne(h, []string{uid(i), fmt.Sprint("odd-", i)})}
}

func (h *history) holder() Holder {
	return Holder{
		Service: h.service(), Backend: pickOne(h, []string{"", "", "app=x"}), SharingNamespaces: some(h, 2, namespaces...),
		Ports: some(h, 3, Port{TCP, 80}, Port{UDP, 80}, Port{TCP, 443}, Port{SCTP, 9}),
	}
}

func (h *history) time() time.Time { return time.Unix(int64(1000+h.IntN(8)), 0).UTC() }

func (h *history) holding(addr netip.Addr) Holding {
	g := Holding{Address: addr, Pool: pickOne(h, append(poolNames, "")), SharingKey: pickOne(h, keys)}
	for range h.IntN(3) {
		g.Holders = append(g.Holders, h.holder())
	}
	if h.chance(3) {
		g.ReservedFor = &Reservation{Namespace: pickOne(h, namespaces)}
		if h.chance(2) {
			s := h.service()
			g.ReservedFor = &Reservation{s.Namespace, s.Name}
		}
	}
	if h.chance(2) {
		s := h.service()
		g.Released = &Released{s.Namespace, s.Name, h.time()}
	}
	g.Quarantined = h.chance(4)
	return g
}

func (h *history) request() Request {
	one := h.holder()
	req := Request{
		Service: one.Service, Ports: one.Ports, Backend: one.Backend, SharingNamespaces: one.SharingNamespaces,
		Families:   pickOne(h, [][]Family{{IPv4}, {IPv6}, {IPv4, IPv6}, {IPv6, IPv4}}),
		Pools:      append(some(h, 2, poolNames...), "p1"),
		SharingKey: pickOne(h, keys),
	}
	if h.chance(4) {
		req.PoolNamed = pickOne(h, poolNames)
	}
	if h.chance(4) {
		req.Addresses = []netip.Addr{h.addr()}
	}
	if h.chance(4) {
		req.Have = []netip.Addr{h.addr()}
	}
	return req
}

func (h *history) put(g Holding) {
	h.a.Put(g)
	if g.SharingKey == "" {
		for i, one := range g.Holders {
			g.Holders[i] = Holder{Service: one.Service}
		}
	}
	h.m.holdings[g.Address] = g
}

func (h *history) setPools() {
	h.m.pools = nil
	for _, name := range some(h, 2, poolNames...) {
		h.m.pools = append(h.m.pools, Pool{
			Name: name, Ranges: h.spans(4), Exclude: h.spans(2), AutoAssign: !h.chance(4), AvoidBuggyIPs: h.chance(2),
			Disabled: h.chance(6), Priority: int32(h.IntN(2)), MaxPerNamespace: h.IntN(5) / 2 * 3,
		})
	}
	h.a.SetPools(h.m.pools)
}

// setNodes has nodes on addresses that may be held, and on one outside of everything.
func (h *history) setNodes() {
	h.m.nodes = map[netip.Addr]string{netip.MustParseAddr("192.0.2.1"): "far"}
	for range h.IntN(8) {
		h.m.nodes[h.addr()] = "node"
	}
	h.a.SetNodes(h.m.nodes)
}

// step makes one event happen.
func (h *history) step() {
	addr := h.addr()
	switch n := h.IntN(100); {
	case n < 4:
		h.setPools()
	case n < 7:
		h.m.avoid = h.spans(3)
		h.a.SetAvoid(h.m.avoid)
	case n < 10:
		h.setNodes()
	case n < 25:
		h.put(h.holding(addr))
	case n < 40:
		h.a.Delete(addr)
		delete(h.m.holdings, addr)
	case n < 44:
		s := h.service()
		h.a.PutForeign(addr, s)
		if h.m.foreign[addr] == nil {
			h.m.foreign[addr] = map[string]ServiceRef{}
		}
		h.m.foreign[addr][s.UID] = s
	case n < 55:
		for id := range h.m.foreign[addr] {
			h.a.DeleteForeign(addr, id)
			delete(h.m.foreign[addr], id)
		}
	default:
		// The controller's part: what is chosen gets a holder, now and then all leave it again.
		req := h.request()
		for _, pick := range h.a.Choose(req).Picks {
			g := h.m.holdings[pick.Address]
			g.Address, g.Pool, g.SharingKey = pick.Address, pick.Pool, req.SharingKey
			g.Holders = append(slices.Clone(g.Holders), Holder{req.Service, req.Ports, req.Backend, req.SharingNamespaces})
			if h.chance(3) {
				g.Holders, g.Released = nil, &Released{req.Service.Namespace, req.Service.Name, h.time()}
			}
			h.put(g)
		}
	}
}

// compare fails where the Allocator and the model give different answers.
func (h *history) compare(t *testing.T) {
	t.Helper()
	same := func(what string, got, want any) {
		t.Helper()
		if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}),
			gocmp.Comparer(func(a, b *big.Int) bool { return a.Cmp(b) == 0 })); diff != "" {
			t.Fatalf("%s: -want +got\n%s", what, diff)
		}
	}
	req := h.request()
	picks, refused := h.m.choose(req)
	got := h.a.Choose(req)
	same(fmt.Sprintf("picks of %+v", req), got.Picks, picks)
	for i, r := range got.Refusals {
		if r.Message == "" {
			t.Fatalf("refusal %s has no message", r.Reason)
		}
		got.Refusals[i].Message, got.Refusals[i].Pool = "", ""
	}
	same(fmt.Sprintf("refusals of %+v", req), got.Refusals, refused)

	addr, reason := h.addr(), Reason("")
	if r := h.a.Check(req, addr); r != nil {
		reason = r.Reason
	}
	same(fmt.Sprintf("check of %s for %+v", addr, req), reason, h.m.check(req, addr, nil).reason)

	held, ok := h.a.Get(addr)
	want, wantOK := h.m.holdings[addr]
	same("get "+addr.String(), ok, wantOK)
	same("get "+addr.String(), held, want)

	same("pools of "+addr.String(), h.a.PoolsContaining(addr), modelNames(h.m.some(func(p Pool) bool { return h.m.has(p, addr) })))
	for _, p := range h.m.pools {
		stats, _ := h.a.Stats(p.Name)
		same("stats of "+p.Name, stats, Stats{h.m.usage(p, IPv4), h.m.usage(p, IPv6)})
		overlapping := modelNames(h.m.some(func(q Pool) bool {
			return q.Name != p.Name && slices.ContainsFunc(h.m.universe, func(a netip.Addr) bool { return h.m.has(p, a) && h.m.has(q, a) })
		}))
		slices.Sort(overlapping)
		same("overlaps of "+p.Name, h.a.Overlaps(p.Name), overlapping)
	}
}

func modelNames(pools []Pool) (list []string) {
	for _, p := range pools {
		list = append(list, p.Name)
	}
	return list
}

func TestAllocatorAnswersAsTheNaiveModelDoes(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			h := newHistory(seed)
			for range 600 {
				h.step()
				h.compare(t)
			}
		})
	}
}
