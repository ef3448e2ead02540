// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// cluster is a world that works as the programs do: the controller proposes
// where there is no owner, and nodes record the claims of their plans.
type cluster struct {
	Snapshot
	seed uint64
}

func (c *cluster) String() string { return fmt.Sprintf("seed %d", c.seed) }

func newCluster(seed uint64) (*cluster, *rand.Rand) {
	r := rand.New(rand.NewPCG(seed, 0))
	c := &cluster{seed: seed}
	for i := range 2 + r.IntN(8) {
		c.Nodes = append(c.Nodes, randomNode(r, i))
	}
	scopes := []*Scope{nil, nil}
	for range r.IntN(4) {
		scopes = append(scopes, randomScope(r))
	}
	for i := range 30 {
		a := Address{Addr: addr(i), Scope: scopes[r.IntN(len(scopes))]}
		for j := range r.IntN(4) {
			s := Service{Namespace: "n", Name: fmt.Sprint("s", j), Local: r.IntN(3) == 0}
			for range r.IntN(5) {
				e := Endpoint{Ready: r.IntN(3) > 0, Serving: r.IntN(2) == 0, Terminating: r.IntN(2) == 0}
				if r.IntN(10) > 0 {
					e.Node = nodeName(r.IntN(10))
				}
				s.Endpoints = append(s.Endpoints, e)
			}
			a.Services = append(a.Services, s)
		}
		c.Addresses = append(c.Addresses, a)
	}
	return c, r
}

func randomScope(r *rand.Rand) *Scope {
	var ads []Advertisement
	for i := range r.IntN(4) {
		ad := Advertisement{Name: fmt.Sprint("ad-", i), Nodes: map[string]int{}}
		for j := range 10 {
			if r.IntN(3) > 0 {
				ad.Nodes[nodeName(j)] = 50 * r.IntN(3)
			}
		}
		patterns := []string{"eth0", "eth*", "eth1", "!eth0", "!eth1"}
		for range r.IntN(3) {
			ad.Interfaces = append(ad.Interfaces, patterns[r.IntN(len(patterns))])
		}
		ads = append(ads, ad)
	}
	return NewScope(ads...)
}

func nodeName(i int) string { return fmt.Sprint("node-", i) }

func addr(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 192<<24|2<<8|uint32(i))
	return netip.AddrFrom4(b)
}

func randomNode(r *rand.Rand, i int) Node {
	return Node{
		Name: nodeName(i), Alive: r.IntN(8) > 0, Ready: r.IntN(4) > 0, Draining: r.IntN(5) == 0,
		Excluded: r.IntN(5) == 0, Cordoned: r.IntN(5) == 0, NetworkUnavailable: r.IntN(10) == 0,
		LinksKnown: true,
		Links: []Link{
			{Name: "eth0", Up: r.IntN(8) > 0, ARP: r.IntN(8) > 0, Prefixes: []netip.Prefix{netip.PrefixFrom(addr(200), 16+r.IntN(14))}},
			{Name: "eth1", Up: r.IntN(4) > 0, ARP: true},
		},
	}
}

// propose does the controller's part.
func (c *cluster) propose() {
	counts := map[string]int{}
	for _, a := range c.Addresses {
		if n, ok := Owner(a, c.Nodes); ok {
			counts[n]++
		}
	}
	for i := range c.Addresses {
		a := &c.Addresses[i]
		if p, ok := Place(*a, c.Nodes, counts); ok {
			a.Proposed = p.Node
			counts[p.Node]++
		}
	}
}

// announcers returns who announces what.
func (c *cluster) announcers() map[netip.Addr][]string {
	who := map[netip.Addr][]string{}
	for _, n := range c.Nodes {
		for _, a := range Compute(c.Snapshot, n.Name).Announce {
			who[a.Addr] = append(who[a.Addr], n.Name)
		}
	}
	return who
}

// settle records claims until nobody has one to record.
func (c *cluster) settle(t *testing.T) {
	t.Helper()
	c.propose()
	for round := 0; ; round++ {
		changed := false
		for _, n := range c.Nodes {
			for _, ann := range Compute(c.Snapshot, n.Name).Announce {
				a := c.address(ann.Addr)
				if ann.Claimed {
					continue
				}
				if ann.Term != a.Claim.Term+1 {
					t.Fatalf("%v: node %s claims term %d after %d", c, n.Name, ann.Term, a.Claim.Term)
				}
				a.Claim = Claim{n.Name, ann.Term}
				changed = true
			}
		}
		if !changed {
			return
		}
		if round > 1 {
			t.Fatalf("%v: claims don't settle", c)
		}
	}
}

func (c *cluster) address(addr netip.Addr) *Address {
	for i := range c.Addresses {
		if c.Addresses[i].Addr == addr {
			return &c.Addresses[i]
		}
	}
	return nil
}

// claims returns the claimant of every address.
func (c *cluster) claims() map[netip.Addr]string {
	m := map[netip.Addr]string{}
	for _, a := range c.Addresses {
		m[a.Addr] = a.Claim.Node
	}
	return m
}

func forAll(t *testing.T, check func(t *testing.T, c *cluster, r *rand.Rand)) {
	for seed := range uint64(300) {
		c, r := newCluster(seed)
		check(t, c, r)
		if t.Failed() {
			return
		}
	}
}

func TestAllNodesAgreeOnOneOwner(t *testing.T) {
	forAll(t, func(t *testing.T, c *cluster, _ *rand.Rand) {
		c.propose()
		for addr, who := range c.announcers() {
			if owner, _ := Owner(*c.address(addr), c.Nodes); !slices.Equal(who, []string{owner}) {
				t.Errorf("%v: before claims %v is announced by %v, its owner is %q", c, addr, who, owner)
			}
		}
		c.settle(t)
		who := c.announcers()
		for _, a := range c.Addresses {
			eligible := 0
			for _, n := range c.Nodes {
				if ok, _, _ := Eligible(a, n); ok {
					eligible++
				}
			}
			if want := min(eligible, 1); len(who[a.Addr]) != want {
				t.Errorf("%v: %v has %d eligible nodes and is announced by %v", c, a.Addr, eligible, who[a.Addr])
			}
		}
	})
}

func TestEveryAddressIsAnnouncedOrHasAVerdict(t *testing.T) {
	forAll(t, func(t *testing.T, c *cluster, _ *rand.Rand) {
		c.settle(t)
		for _, n := range c.Nodes {
			p := Compute(c.Snapshot, n.Name)
			seen := map[netip.Addr]int{}
			for _, a := range p.Announce {
				seen[a.Addr]++
			}
			for _, v := range p.Verdicts {
				seen[v.Address]++
				if v.Node != n.Name || v.Reason == "" || v.Message == "" {
					t.Errorf("%v: verdict says too little: %+v", c, v)
				}
			}
			for _, a := range c.Addresses {
				if seen[a.Addr] != 1 {
					t.Errorf("%v: node %s says %d things about %v", c, n.Name, seen[a.Addr], a.Addr)
				}
			}
		}
	})
}

func TestOrderOfInputsDoesNotMatter(t *testing.T) {
	forAll(t, func(t *testing.T, c *cluster, r *rand.Rand) {
		c.settle(t)
		plans := map[string]Plan{}
		for _, n := range c.Nodes {
			plans[n.Name] = Compute(c.Snapshot, n.Name)
		}
		proposals := map[netip.Addr]string{}
		for _, a := range c.Addresses {
			proposals[a.Addr], _ = Propose(a, c.Nodes, nil)
		}
		shuffle(r, c.Nodes)
		shuffle(r, c.Addresses)
		for i := range c.Addresses {
			shuffle(r, c.Addresses[i].Services)
			for j := range c.Addresses[i].Services {
				shuffle(r, c.Addresses[i].Services[j].Endpoints)
			}
		}
		for _, a := range c.Addresses {
			if n, _ := Propose(a, c.Nodes, nil); n != proposals[a.Addr] {
				t.Errorf("%v: %v is proposed for %s, in another order for %s", c, a.Addr, proposals[a.Addr], n)
			}
		}
		for _, n := range c.Nodes {
			if got := Compute(c.Snapshot, n.Name); !reflect.DeepEqual(got, plans[n.Name]) {
				t.Errorf("%v: another order changes the plan of %s", c, n.Name)
			}
		}
	})
}

func shuffle[S ~[]E, E any](r *rand.Rand, s S) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

func TestRemovingANodeMovesOnlyItsAddresses(t *testing.T) {
	forAll(t, func(t *testing.T, c *cluster, r *rand.Rand) {
		c.settle(t)
		before := c.claims()
		i := r.IntN(len(c.Nodes))
		gone := c.Nodes[i].Name
		c.Nodes = slices.Delete(c.Nodes, i, i+1)
		c.settle(t)
		for addr, node := range c.claims() {
			if node == before[addr] || before[addr] == gone || before[addr] == "" {
				continue
			}
			t.Errorf("%v: %v moved from %s to %s when %s was removed", c, addr, before[addr], node, gone)
		}
	})
}

func TestAddingANodeMovesNoneThatStays(t *testing.T) {
	forAll(t, func(t *testing.T, c *cluster, r *rand.Rand) {
		c.settle(t)
		before := c.claims()
		c.Nodes = append(c.Nodes, randomNode(r, len(c.Nodes)))
		c.settle(t)
		for addr, node := range c.claims() {
			if was := find(c.Nodes, before[addr]); was != nil && was.leaving() > 0 {
				continue // it waited for a better one
			}
			if before[addr] != "" && node != before[addr] {
				t.Errorf("%v: %v moved from %s to %s", c, addr, before[addr], node)
			}
		}
	})
}

// The claimant's plan announces the address until its successor's claim is in
// the snapshot: there is never a time without an announcer.
func TestAnAddressIsNeverSilentInAHandover(t *testing.T) {
	forAll(t, func(t *testing.T, c *cluster, r *rand.Rand) {
		c.settle(t)
		owned := c.announcers()
		i := r.IntN(len(c.Nodes))
		c.Nodes[i].Alive = false
		for _, step := range []func(){func() {}, c.propose, func() { c.settle(t) }} {
			step()
			who := c.announcers()
			for addr := range owned {
				if len(who[addr]) == 0 {
					t.Errorf("%v: nobody announces %v", c, addr)
				}
			}
		}
	})
}

// A drain moves what can be moved, and nothing else moves; there is never a
// time without an announcer.
func TestADrainMovesWhatCanBeMoved(t *testing.T) {
	forAll(t, func(t *testing.T, c *cluster, r *rand.Rand) {
		c.settle(t)
		before := c.claims()
		owned := c.announcers()
		n := &c.Nodes[r.IntN(len(c.Nodes))]
		n.Draining = true
		for _, step := range []func(){func() {}, c.propose, func() { c.settle(t) }} {
			step()
			who := c.announcers()
			for addr := range owned {
				if len(who[addr]) == 0 {
					t.Errorf("%v: nobody announces %v", c, addr)
				}
			}
		}
		for i := range c.Addresses {
			a := &c.Addresses[i]
			if was := before[a.Addr]; was != n.Name && a.Claim.Node != was {
				t.Errorf("%v: %v moved from %q to %s", c, a.Addr, was, a.Claim.Node)
			}
			if a.Claim.Node != n.Name {
				continue
			}
			for _, other := range c.Nodes {
				if ok, _, _ := Eligible(*a, other); ok && n.givesWay(&other) {
					t.Errorf("%v: %v stays on %s although %s is better", c, a.Addr, n.Name, other.Name)
				}
			}
		}
		settled := c.claims()
		for range 3 {
			c.settle(t)
		}
		if !maps.Equal(settled, c.claims()) {
			t.Errorf("%v: addresses go on moving", c)
		}
	})
}

// What a node that dies leaves goes to its successors in the order that the
// controller would choose, and only to nodes that can announce it.
func TestSuccessorsAreWhoMayOwn(t *testing.T) {
	forAll(t, func(t *testing.T, c *cluster, _ *rand.Rand) {
		c.settle(t)
		for _, a := range c.Addresses {
			order := Successors(a, c.Nodes)
			first, _ := Propose(a, c.Nodes, nil)
			if len(order) > 0 != (first != "") || len(order) > 0 && order[0] != first {
				t.Errorf("%v: first of %v for %v, proposed %q", c, order, a.Addr, first)
			}
			for _, n := range c.Nodes {
				ok, _, _ := Eligible(a, n)
				if slices.Contains(order, n.Name) != ok {
					t.Errorf("%v: %s eligible for %v is %v, successors %v", c, n.Name, a.Addr, ok, order)
				}
				if ok && len(Interfaces(&a, &n)) == 0 {
					t.Errorf("%v: %s is eligible for %v and has no interface for it", c, n.Name, a.Addr)
				}
			}
		}
	})
}

func TestProposeSharesAddressesEvenly(t *testing.T) {
	var nodes []Node
	for i := range 10 {
		nodes = append(nodes, Node{Name: nodeName(i), Alive: true, Ready: true})
	}
	byHash, byCount := map[string]int{}, map[string]int{}
	for i := range 1000 {
		a := Address{Addr: addr(i), Services: []Service{{}}}
		n, _ := Propose(a, nodes, nil)
		byHash[n]++
		n, _ = Propose(a, nodes, byCount)
		byCount[n]++
	}
	for _, n := range nodes {
		if h := byHash[n.Name]; h < 60 || h > 140 {
			t.Errorf("the hash alone gives %s %d of 1000 addresses: %v", n.Name, h, slices.Sorted(maps.Values(byHash)))
		}
		if byCount[n.Name] != 100 {
			t.Errorf("counts give %s %d of 1000 addresses", n.Name, byCount[n.Name])
		}
	}
}

func TestProposeAllocatesNothingForClusterServices(t *testing.T) {
	nodes := benchNodes()
	a := Address{Addr: addr(1), Services: []Service{{}}}
	if n := testing.AllocsPerRun(100, func() { Propose(a, nodes, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func benchNodes() []Node {
	var nodes []Node
	for i := range 100 {
		nodes = append(nodes, Node{Name: nodeName(i), Alive: true, Ready: true})
	}
	return nodes
}

func BenchmarkPropose100Nodes(b *testing.B) {
	nodes := benchNodes()
	a := Address{Addr: addr(1), Services: []Service{{}}}
	b.ReportAllocs()
	for b.Loop() {
		Propose(a, nodes, nil)
	}
}

// benchScoped returns an address that three advertisements select, on known links.
func benchScoped() (Address, []Node) {
	nodes := benchNodes()
	var ads []Advertisement
	for i := range 3 {
		ad := Advertisement{Name: fmt.Sprint(i), Nodes: map[string]int{}, Interfaces: Patterns{"eth*", "!eth9"}}
		for j := range nodes {
			ad.Nodes[nodes[j].Name] = 10 * (j % 3)
		}
		ads = append(ads, ad)
	}
	for i := range nodes {
		nodes[i].LinksKnown = true
		nodes[i].Links = []Link{{Name: "bond0", Up: true, ARP: true}, {Name: "eth0", Up: true, ARP: true, Prefixes: []netip.Prefix{netip.PrefixFrom(addr(0), 16)}}}
	}
	return Address{Addr: addr(1), Services: []Service{{}}, Claim: Claim{nodeName(70), 1}, Proposed: nodeName(3), Scope: NewScope(ads...)}, nodes
}

func BenchmarkOwner100Nodes(b *testing.B) {
	a, nodes := benchScoped()
	b.ReportAllocs()
	for b.Loop() {
		Owner(a, nodes)
	}
}

func BenchmarkSuccessors100Nodes(b *testing.B) {
	a, nodes := benchScoped()
	b.ReportAllocs()
	for b.Loop() {
		Successors(a, nodes)
	}
}

func BenchmarkPlace100Nodes(b *testing.B) {
	a, nodes := benchScoped()
	a.Claim = Claim{}
	a.Proposed = ""
	b.ReportAllocs()
	for b.Loop() {
		Place(a, nodes, nil)
	}
}

func BenchmarkCompute5000Addresses100Nodes(b *testing.B) {
	s := Snapshot{Nodes: benchNodes()}
	s.Nodes[0].LinksKnown = true
	s.Nodes[0].Links = []Link{{Name: "eth0", Up: true, ARP: true, Prefixes: []netip.Prefix{netip.PrefixFrom(addr(0), 16)}}}
	for i := range 5000 {
		n := nodeName(i % 100)
		s.Addresses = append(s.Addresses, Address{Addr: addr(i), Services: []Service{{}}, Proposed: n, Claim: Claim{n, 1}})
	}
	b.ReportAllocs()
	for b.Loop() {
		Compute(s, nodeName(0))
	}
}
