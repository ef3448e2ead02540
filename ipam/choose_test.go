// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func ranges(list string) (out []netipx.IPRange) {
	for r := range strings.FieldsSeq(list) {
		out = append(out, mustRange(r))
	}
	return out
}

// autoPool is an ordinary pool; edits make it a special one.
func autoPool(name, addresses string, edits ...func(*Pool)) Pool {
	p := Pool{Name: name, Ranges: ranges(addresses), AutoAssign: true}
	for _, edit := range edits {
		edit(&p)
	}
	return p
}

func manual(p *Pool)               { p.AutoAssign = false }
func disabled(p *Pool)             { p.Disabled = true }
func priority(n int32) func(*Pool) { return func(p *Pool) { p.Priority = n } }
func quota(n int) func(*Pool)      { return func(p *Pool) { p.MaxPerNamespace = n } }
func excluding(s string) func(*Pool) {
	return func(p *Pool) { p.Exclude = ranges(s) }
}

func service(s string) ServiceRef {
	namespace, name, _ := strings.Cut(s, "/")
	return ServiceRef{namespace, name, "uid of " + s}
}

func boundTo(addr, pool string, holders ...string) Holding {
	h := Holding{Address: ip(addr), Pool: pool}
	for _, s := range holders {
		h.Holders = append(h.Holders, Holder{Service: service(s)})
	}
	return h
}

func reservedTo(addr, pool, namespace, name string) Holding {
	return Holding{Address: ip(addr), Pool: pool, ReservedFor: &Reservation{namespace, name}}
}

// restingFrom is an address that a Service released at a second of the day.
func restingFrom(addr, pool, who string, second int) Holding {
	s := service(who)
	return Holding{Address: ip(addr), Pool: pool, Released: &Released{s.Namespace, s.Name, time.Unix(int64(second), 0)}}
}

func quarantined(h Holding) Holding {
	h.Quarantined = true
	return h
}

func sharedBy(addr, pool, key string, holders ...Holder) Holding {
	return Holding{Address: ip(addr), Pool: pool, SharingKey: key, Holders: holders}
}

func (c Choice) text() string {
	var parts []string
	for _, p := range c.Picks {
		s := p.Address.String() + " of " + p.Pool
		if p.Shared {
			s += " shared"
		}
		parts = append(parts, s)
	}
	for _, r := range c.Refusals {
		parts = append(parts, fmt.Sprint(r.Family, " ", r.Reason))
	}
	return strings.Join(parts, ", ")
}

// scene is a state of the cluster, a request of Service a/web in it, and the answer.
type scene struct {
	name     string
	pools    []Pool
	holdings []Holding
	foreign  string
	avoid    string
	node     string // the address of node n1
	req      Request
	want     string
}

func (s scene) allocator() *Allocator {
	a := New()
	a.SetPools(s.pools)
	a.SetAvoid(ranges(s.avoid))
	if s.node != "" {
		a.SetNodes(map[netip.Addr]string{ip(s.node): "n1"})
	}
	for _, h := range s.holdings {
		a.Put(h)
	}
	if s.foreign != "" {
		a.PutForeign(ip(s.foreign), service("kube-system/traefik"))
	}
	return a
}

// request completes a request with what most have in common.
func (s scene) request() Request {
	req := s.req
	req.Service = service("a/web")
	if req.Families == nil {
		req.Families = []Family{IPv4}
	}
	if req.Pools == nil {
		for _, p := range s.pools {
			req.Pools = append(req.Pools, p.Name)
		}
	}
	return req
}

func runScenes(t *testing.T, scenes []scene) {
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			if got := s.allocator().Choose(s.request()).text(); got != s.want {
				t.Errorf("got  %s\nwant %s", got, s.want)
			}
		})
	}
}

func TestOrderOfChoice(t *testing.T) {
	small := autoPool("small", "10.0.0.1-10.0.0.3")
	runScenes(t, []scene{
		{name: "the lowest fresh address comes first", pools: []Pool{small},
			holdings: []Holding{boundTo("10.0.0.1", "small", "b/x")}, want: "10.0.0.2 of small"},
		{name: "a range that is written last but lies lower comes first", pools: []Pool{autoPool("p", "10.0.9.0/24 10.0.3.0/24")},
			want: "10.0.3.0 of p"},
		{name: "foreign and avoided addresses are passed over", pools: []Pool{small}, foreign: "10.0.0.1", avoid: "10.0.0.2",
			want: "10.0.0.3 of small"},
		{name: "buggy addresses are passed over", pools: []Pool{autoPool("p", "10.0.0.254-10.0.1.9", func(p *Pool) { p.AvoidBuggyIPs = true })},
			holdings: []Holding{boundTo("10.0.0.254", "p", "b/x")}, want: "10.0.1.1 of p"},
		{name: "a /0 of each family gives its first", pools: []Pool{autoPool("all", "0.0.0.0/0 ::/0")}, avoid: "0.0.0.0 ::",
			req: Request{Families: []Family{IPv6, IPv4}}, want: "::1 of all, 0.0.0.1 of all"},
		{name: "the last address of all can be given", pools: []Pool{autoPool("end", "255.255.255.255 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")},
			req: Request{Families: []Family{IPv4, IPv6}}, want: "255.255.255.255 of end, ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff of end"},
		{name: "after the last address of all there is none", pools: []Pool{autoPool("end", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127")},
			holdings: []Holding{boundTo("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "end", "b/x")},
			avoid:    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
			req:      Request{Families: []Family{IPv6}}, want: "IPv6 PoolExhausted"},

		{name: "the higher priority comes first", pools: []Pool{small, autoPool("vip", "10.9.0.0/24", priority(1))}, want: "10.9.0.0 of vip"},
		{name: "equal priorities go by name", pools: []Pool{small, autoPool("a", "10.9.0.0/24")}, want: "10.9.0.0 of a"},
		{name: "the next priority serves when the first is full", pools: []Pool{small, autoPool("vip", "10.9.0.1", priority(1))},
			holdings: []Holding{boundTo("10.9.0.1", "vip", "b/x")}, want: "10.0.0.1 of small"},
		{name: "a manual pool gives nothing unless it is named", pools: []Pool{autoPool("m", "10.9.0.1", manual, priority(1)), small},
			want: "10.0.0.1 of small"},
		{name: "a manual pool gives when it is named", pools: []Pool{autoPool("m", "10.9.0.1", manual), small},
			req: Request{PoolNamed: "m"}, want: "10.9.0.1 of m"},
		{name: "only the named pool gives", pools: []Pool{autoPool("one", "10.9.0.1", priority(-1)), small},
			req: Request{PoolNamed: "one"}, want: "10.9.0.1 of one"},

		{name: "its own resting address comes back", pools: []Pool{small},
			holdings: []Holding{restingFrom("10.0.0.3", "small", "a/web", 5)}, want: "10.0.0.3 of small"},
		{name: "of its own resting addresses the last one comes back", pools: []Pool{small},
			holdings: []Holding{restingFrom("10.0.0.2", "small", "a/web", 5), restingFrom("10.0.0.3", "small", "a/web", 6)},
			want:     "10.0.0.3 of small"},
		{name: "its own resting address stays where no pool admits it", pools: []Pool{small, autoPool("old", "10.9.0.1")},
			holdings: []Holding{restingFrom("10.9.0.1", "old", "a/web", 5)}, req: Request{Pools: []string{"small"}}, want: "10.0.0.1 of small"},
		{name: "its own resting address is not taken from a manual pool", pools: []Pool{small, autoPool("m", "10.9.0.1", manual)},
			holdings: []Holding{restingFrom("10.9.0.1", "m", "a/web", 5)}, want: "10.0.0.1 of small"},
		{name: "fresh comes before another's resting address", pools: []Pool{small},
			holdings: []Holding{restingFrom("10.0.0.1", "small", "b/x", 5)}, want: "10.0.0.2 of small"},
		{name: "when nothing is fresh the longest resting goes", pools: []Pool{small}, holdings: []Holding{
			restingFrom("10.0.0.1", "small", "b/x", 7), restingFrom("10.0.0.2", "small", "b/y", 5), restingFrom("10.0.0.3", "small", "b/z", 5)},
			want: "10.0.0.2 of small"},
		{name: "fresh of an equal priority comes before resting", pools: []Pool{autoPool("a", "10.9.0.1"), small},
			holdings: []Holding{restingFrom("10.9.0.1", "a", "b/x", 1)}, want: "10.0.0.1 of small"},
		{name: "the longest resting is found across an equal priority", pools: []Pool{autoPool("a", "10.9.0.1"), autoPool("b", "10.8.0.1")},
			holdings: []Holding{restingFrom("10.9.0.1", "a", "b/x", 9), restingFrom("10.8.0.1", "b", "b/x", 8)}, want: "10.8.0.1 of b"},
		{name: "resting of a higher priority comes before fresh of a lower", pools: []Pool{autoPool("vip", "10.9.0.1", priority(1)), small},
			holdings: []Holding{restingFrom("10.9.0.1", "vip", "b/x", 1)}, want: "10.9.0.1 of vip"},
		{name: "a resting address that somebody else shows does not go", pools: []Pool{autoPool("p", "10.0.0.1")}, foreign: "10.0.0.1",
			holdings: []Holding{restingFrom("10.0.0.1", "p", "a/web", 1)}, want: "IPv4 PoolExhausted"},

		{name: "an address reserved by name comes before all", pools: []Pool{small}, holdings: []Holding{
			reservedTo("10.0.0.2", "small", "a", ""), reservedTo("10.0.0.3", "small", "a", "web"), restingFrom("10.0.0.1", "small", "a/web", 1)},
			want: "10.0.0.3 of small"},
		{name: "then one reserved for the namespace, the lowest", pools: []Pool{small}, holdings: []Holding{
			reservedTo("10.0.0.3", "small", "a", ""), reservedTo("10.0.0.2", "small", "a", ""), restingFrom("10.0.0.1", "small", "a/web", 1)},
			want: "10.0.0.2 of small"},
		{name: "a reservation needs no pool", holdings: []Holding{reservedTo("10.0.0.2", "", "a", "web")}, want: "10.0.0.2 of "},
		{name: "a reservation overrides selectors, disabling and quota", pools: []Pool{autoPool("p", "10.0.0.0/24", disabled, quota(1))},
			holdings: []Holding{boundTo("10.0.0.1", "p", "a/x"), reservedTo("10.0.0.2", "p", "a", "web")},
			req:      Request{Pools: []string{"none"}}, want: "10.0.0.2 of p"},
		{name: "a reservation outside the pool it names is passed over", pools: []Pool{small, autoPool("q", "10.9.0.0/24")},
			holdings: []Holding{reservedTo("10.0.0.2", "small", "a", "web")}, req: Request{PoolNamed: "q"}, want: "10.9.0.0 of q"},
		{name: "what is reserved for another is left alone", pools: []Pool{small},
			holdings: []Holding{reservedTo("10.0.0.1", "small", "a", "other"), reservedTo("10.0.0.2", "small", "b", "")}, want: "10.0.0.3 of small"},
		{name: "a reserved address that is bound is not given twice", pools: []Pool{small},
			holdings: []Holding{{Address: ip("10.0.0.3"), ReservedFor: &Reservation{"a", ""}, Holders: []Holder{{Service: service("a/x")}}}},
			want:     "10.0.0.1 of small"},

		{name: "a node's address is passed over", pools: []Pool{small}, node: "10.0.0.1", want: "10.0.0.2 of small"},
		{name: "a node's address is not given to whom it is reserved for", pools: []Pool{small}, node: "10.0.0.3",
			holdings: []Holding{reservedTo("10.0.0.3", "small", "a", "web")}, want: "10.0.0.1 of small"},
		{name: "a node's address does not come back", pools: []Pool{small}, node: "10.0.0.3",
			holdings: []Holding{restingFrom("10.0.0.3", "small", "a/web", 5)}, want: "10.0.0.1 of small"},
		{name: "a node's address is not joined", pools: []Pool{small}, node: "10.0.0.3", req: Request{SharingKey: "k"},
			holdings: []Holding{sharedBy("10.0.0.3", "small", "k", Holder{Service: service("a/x")})}, want: "10.0.0.1 of small"},
		{name: "a node's address is not given by number", pools: []Pool{small}, node: "10.0.0.3",
			req: Request{Addresses: []netip.Addr{ip("10.0.0.3")}}, want: "IPv4 NodeAddress"},
		{name: "a gateway's address is given by number", pools: []Pool{small}, avoid: "10.0.0.3",
			req: Request{Addresses: []netip.Addr{ip("10.0.0.3")}}, want: "10.0.0.3 of small"},
		{name: "a gateway's address is given to whom it is reserved for", pools: []Pool{small}, avoid: "10.0.0.3",
			holdings: []Holding{reservedTo("10.0.0.3", "small", "a", "web")}, want: "10.0.0.3 of small"},

		{name: "a quarantined address is passed over", pools: []Pool{small},
			holdings: []Holding{quarantined(restingFrom("10.0.0.1", "small", "b/x", 5))}, want: "10.0.0.2 of small"},
		{name: "a quarantined address does not come back", pools: []Pool{small},
			holdings: []Holding{quarantined(restingFrom("10.0.0.3", "small", "a/web", 5))}, want: "10.0.0.1 of small"},
		{name: "a quarantined address is not given when nothing else is left", pools: []Pool{autoPool("p", "10.0.0.1")},
			holdings: []Holding{quarantined(restingFrom("10.0.0.1", "p", "b/x", 5))}, want: "IPv4 PoolExhausted"},
		{name: "a quarantined address is not joined", pools: []Pool{small}, req: Request{SharingKey: "k"},
			holdings: []Holding{quarantined(sharedBy("10.0.0.3", "small", "k", Holder{Service: service("a/x")}))}, want: "10.0.0.1 of small"},
		{name: "a quarantined address is given by number", pools: []Pool{small}, req: Request{Addresses: []netip.Addr{ip("10.0.0.3")}},
			holdings: []Holding{quarantined(restingFrom("10.0.0.3", "small", "b/x", 5))}, want: "10.0.0.3 of small"},
		{name: "a quarantined address is given to whom it is reserved for", pools: []Pool{small},
			holdings: []Holding{quarantined(reservedTo("10.0.0.3", "small", "a", "web"))}, want: "10.0.0.3 of small"},

		{name: "a full quota leads to the next pool", pools: []Pool{autoPool("a", "10.9.0.0/24", quota(1)), small},
			holdings: []Holding{boundTo("10.9.0.7", "a", "a/x")}, want: "10.0.0.1 of small"},
		{name: "another namespace's addresses do not count", pools: []Pool{autoPool("a", "10.9.0.0/24", quota(1))},
			holdings: []Holding{boundTo("10.9.0.7", "a", "b/x")}, want: "10.9.0.0 of a"},

		{name: "what it has is not chosen again", pools: []Pool{small}, holdings: []Holding{boundTo("10.0.0.2", "small", "a/web")},
			req: Request{Have: []netip.Addr{ip("10.0.0.2")}}, want: ""},
		{name: "two addresses of a family are one too many", pools: []Pool{small},
			req: Request{Addresses: []netip.Addr{ip("10.0.0.1"), ip("10.0.0.2")}}, want: "IPv4 InvalidAddress"},
		{name: "who asks for another family alone gets nothing else", pools: []Pool{small},
			req: Request{Addresses: []netip.Addr{ip("fd00::1")}}, want: "IPv4 FamilyNotRequested"},
		{name: "an address of another family is refused beside the wanted one", pools: []Pool{small},
			req: Request{Addresses: []netip.Addr{ip("10.0.0.2"), ip("fd00::1")}}, want: "10.0.0.2 of small, IPv6 FamilyNotRequested"},
	})
}

func TestWhoHoldsTheAddressOfANewNodeKeepsIt(t *testing.T) {
	small := autoPool("small", "10.0.0.1-10.0.0.3")
	s := scene{pools: []Pool{small}, node: "10.0.0.1", holdings: []Holding{
		sharedBy("10.0.0.1", "small", "k", Holder{Service: service("a/web")}, Holder{Service: service("a/x")})}, req: Request{SharingKey: "k"}}
	a := s.allocator()
	if r := a.Check(s.request(), ip("10.0.0.1")); r != nil {
		t.Errorf("refused to its holder: %s", r.Message)
	}
	if stats, _ := a.Stats("small"); stats.IPv4.Allocated.Int64() != 1 || stats.IPv4.Available.Int64() != 2 {
		t.Errorf("allocated %v, available %v", stats.IPv4.Allocated, stats.IPv4.Available)
	}
	a.Delete(ip("10.0.0.1"))
	if stats, _ := a.Stats("small"); stats.IPv4.Available.Int64() != 2 {
		t.Errorf("%v available while a node has one of three", stats.IPv4.Available)
	}
	a.SetNodes(nil)
	if got := a.Choose(s.request()).text(); got != "10.0.0.1 of small" {
		t.Errorf("got %s once the node is gone", got)
	}
}

func TestDualStack(t *testing.T) {
	both := []Family{IPv4, IPv6}
	four, six := autoPool("four", "10.4.0.0/24", priority(5)), autoPool("six", "fd06::/64", priority(5))
	dual := autoPool("dual", "10.0.0.1-10.0.0.2 fd00::1-fd00::2")
	full4 := []Holding{boundTo("10.0.0.1", "dual", "b/x"), boundTo("10.0.0.2", "dual", "b/y")}
	runScenes(t, []scene{
		{name: "one pool for both, in the order of the families", pools: []Pool{dual}, req: Request{Families: []Family{IPv6, IPv4}},
			want: "fd00::1 of dual, 10.0.0.1 of dual"},
		{name: "one pool for both even where others have a higher priority", pools: []Pool{four, dual, six}, req: Request{Families: both},
			want: "10.0.0.1 of dual, fd00::1 of dual"},
		{name: "two pools where none has both", pools: []Pool{four, six}, req: Request{Families: both}, want: "10.4.0.0 of four, fd06:: of six"},
		{name: "two pools where the one for both is full in one family", pools: []Pool{four, dual, six}, holdings: full4,
			req: Request{Families: both}, want: "10.4.0.0 of four, fd06:: of six"},
		{name: "one family is chosen and the other refused", pools: []Pool{dual}, holdings: full4, req: Request{Families: both},
			want: "fd00::1 of dual, IPv4 PoolExhausted"},
		{name: "a pool with both fresh comes before one that takes a resting address", pools: []Pool{dual, autoPool("e", "10.5.0.1 fd05::1")},
			holdings: []Holding{restingFrom("10.0.0.1", "dual", "b/x", 1), restingFrom("10.0.0.2", "dual", "b/x", 1)},
			req:      Request{Families: both}, want: "10.5.0.1 of e, fd05::1 of e"},
		{name: "resting addresses make a pair too", pools: []Pool{dual, four},
			holdings: []Holding{restingFrom("10.0.0.1", "dual", "b/x", 2), restingFrom("10.0.0.2", "dual", "b/x", 1)},
			req:      Request{Families: both}, want: "10.0.0.2 of dual, fd00::1 of dual"},
		{name: "of two pairs with a resting address the longer resting one", pools: []Pool{autoPool("d", "10.5.0.1 fd05::1"), autoPool("e", "10.6.0.1 fd06::1")},
			holdings: []Holding{restingFrom("10.5.0.1", "d", "b/x", 2), restingFrom("10.6.0.1", "e", "b/x", 1)},
			req:      Request{Families: both}, want: "10.6.0.1 of e, fd06::1 of e"},
		{name: "the second family follows what the Service has", pools: []Pool{six, dual}, holdings: []Holding{boundTo("10.0.0.1", "dual", "a/web")},
			req: Request{Families: both, Have: []netip.Addr{ip("10.0.0.1")}}, want: "fd00::1 of dual"},
		{name: "the second family goes elsewhere where that pool has none", pools: []Pool{four, six}, holdings: []Holding{boundTo("10.4.0.1", "four", "a/web")},
			req: Request{Families: both, Have: []netip.Addr{ip("10.4.0.1")}}, want: "fd06:: of six"},
		{name: "the second family follows an address asked for by number", pools: []Pool{six, dual},
			req: Request{Families: both, Addresses: []netip.Addr{ip("10.0.0.2")}}, want: "10.0.0.2 of dual, fd00::1 of dual"},
		{name: "the first family follows a reservation of the second", pools: []Pool{four, dual}, holdings: []Holding{reservedTo("fd00::2", "dual", "a", "web")},
			req: Request{Families: both}, want: "10.0.0.1 of dual, fd00::2 of dual"},
		{name: "both by number, from two pools", pools: []Pool{four, six},
			req: Request{Families: both, Addresses: []netip.Addr{ip("fd06::9"), ip("10.4.0.9")}}, want: "10.4.0.9 of four, fd06::9 of six"},
		{name: "a refused number does not stop the other family", pools: []Pool{dual},
			req: Request{Families: both, Addresses: []netip.Addr{ip("10.99.0.9")}}, want: "fd00::1 of dual, IPv4 AddressNotInPool"},
		{name: "a quota of one is room for one family", pools: []Pool{autoPool("q", "10.0.0.0/24 fd00::/64", quota(1))},
			req: Request{Families: both}, want: "10.0.0.0 of q, IPv6 QuotaExceeded"},
		{name: "a quota counts both families", pools: []Pool{autoPool("q", "10.0.0.0/24 fd00::/64", quota(2))},
			req: Request{Families: both}, want: "10.0.0.0 of q, fd00:: of q"},
		{name: "both can be shared", pools: []Pool{dual}, holdings: []Holding{
			sharedBy("10.0.0.2", "dual", "k", Holder{Service: service("a/x")}), sharedBy("fd00::2", "dual", "k", Holder{Service: service("a/x")})},
			req: Request{Families: both, SharingKey: "k"}, want: "10.0.0.2 of dual shared, fd00::2 of dual shared"},
	})
}
