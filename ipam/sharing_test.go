// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func TestSharingRules(t *testing.T) {
	http, https, dns := Port{TCP, 80}, Port{TCP, 443}, Port{UDP, 53}
	holder := func(edit func(*Holder)) Holder {
		h := Holder{Service: service("a/first"), Ports: []Port{http}}
		if edit != nil {
			edit(&h)
		}
		return h
	}
	first := holder(nil)
	abroad := holder(func(h *Holder) { h.Service = service("b/first") })
	agreeing := holder(func(h *Holder) { h.Service, h.SharingNamespaces = service("b/first"), []string{"a"} })
	local := holder(func(h *Holder) { h.Backend = "app=x" })
	cases := []struct {
		name    string
		key     string
		holders []Holder
		req     Request
		want    Reason
	}{
		{"the same key and other ports share", "k", []Holder{first}, Request{SharingKey: "k", Ports: []Port{https, dns}}, ""},
		{"the same number of another protocol shares", "k", []Holder{first}, Request{SharingKey: "k", Ports: []Port{{UDP, 80}, {SCTP, 80}}}, ""},
		{"any clashing port is a clash", "k", []Holder{first}, Request{SharingKey: "k", Ports: []Port{https, http}}, PortClash},
		{"a clash with the second holder counts too", "k", []Holder{first, {Service: service("a/second"), Ports: []Port{dns}}},
			Request{SharingKey: "k", Ports: []Port{dns}}, PortClash},
		{"another key does not share", "k", []Holder{first}, Request{SharingKey: "j", Ports: []Port{https}}, SharingKeyMismatch},
		{"no key does not share", "k", []Holder{first}, Request{Ports: []Port{https}}, AddressInUse},
		{"an address without key is not shared", "", []Holder{first}, Request{SharingKey: "k", Ports: []Port{https}}, AddressInUse},
		{"two without a key do not share", "", []Holder{first}, Request{Ports: []Port{https}}, AddressInUse},
		{"Local with the same selector shares", "k", []Holder{local}, Request{SharingKey: "k", Ports: []Port{https}, Backend: "app=x"}, ""},
		{"Local with another selector does not", "k", []Holder{local}, Request{SharingKey: "k", Ports: []Port{https}, Backend: "app=y"}, BackendMismatch},
		{"Local and Cluster do not", "k", []Holder{local}, Request{SharingKey: "k", Ports: []Port{https}}, BackendMismatch},
		{"namespaces that name each other share", "k", []Holder{agreeing}, Request{SharingKey: "k", Ports: []Port{https}, SharingNamespaces: []string{"c", "b"}}, ""},
		{"naming all namespaces names them", "k", []Holder{agreeing}, Request{SharingKey: "k", Ports: []Port{https}, SharingNamespaces: []string{"*"}}, ""},
		{"naming all namespaces is one side's word", "k", []Holder{abroad}, Request{SharingKey: "k", Ports: []Port{https}, SharingNamespaces: []string{"*"}}, SharingNotAgreed},
		{"naming by the newcomer alone is not enough", "k", []Holder{abroad}, Request{SharingKey: "k", SharingNamespaces: []string{"b"}}, SharingNotAgreed},
		{"naming by the holder alone is not enough", "k", []Holder{agreeing}, Request{SharingKey: "k"}, SharingNotAgreed},
		{"its own old ports do not clash", "k", []Holder{{Service: service("a/web"), Ports: []Port{http}}}, Request{SharingKey: "k", Ports: []Port{http}}, ""},
		{"alone on its address it may change its key", "k", []Holder{{Service: service("a/web")}}, Request{SharingKey: "j"}, ""},
		{"with others on its address it may not", "k", []Holder{{Service: service("a/web")}, first}, Request{SharingKey: "j", Ports: []Port{dns}}, SharingKeyMismatch},
		{"new ports may clash with the others", "k", []Holder{{Service: service("a/web")}, first}, Request{SharingKey: "k", Ports: []Port{http}}, PortClash},
		{"a restored Service with another UID is the same", "", []Holder{{Service: ServiceRef{"a", "web", "before"}}}, Request{}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			addr := ip("10.0.0.7")
			s := scene{pools: []Pool{autoPool("p", "10.0.0.0/24")}, holdings: []Holding{sharedBy("10.0.0.7", "p", c.key, c.holders...)}, req: c.req}
			var got Reason
			if r := s.allocator().Check(s.request(), addr); r != nil {
				got = r.Reason
			}
			if got != c.want {
				t.Errorf("Check: got %q, want %q", got, c.want)
			}
			asks := s.request()
			asks.Addresses = []netip.Addr{addr}
			if choice := s.allocator().Choose(asks); len(choice.Picks) > 0 != (c.want == "") {
				t.Errorf("asked for by number: %s, want reason %q", choice.text(), c.want)
			}
		})
	}
}

func TestSharingInChoice(t *testing.T) {
	pool := autoPool("p", "10.0.0.0/24")
	http := []Port{{TCP, 80}}
	on := func(addr string, who string, ports ...Port) Holding {
		return sharedBy(addr, "p", "k", Holder{Service: service(who), Ports: ports})
	}
	runScenes(t, []scene{
		{name: "the lowest address of the key that admits it", pools: []Pool{pool}, req: Request{SharingKey: "k", Ports: http},
			holdings: []Holding{on("10.0.0.9", "a/z"), on("10.0.0.5", "a/y"), on("10.0.0.3", "a/x", http...)}, want: "10.0.0.5 of p shared"},
		{name: "a fresh one where all clash", pools: []Pool{pool}, req: Request{SharingKey: "k", Ports: http},
			holdings: []Holding{on("10.0.0.5", "a/y", http...), on("10.0.0.3", "a/x", http...)}, want: "10.0.0.0 of p"},
		{name: "sharing in a full pool", pools: []Pool{autoPool("p", "10.0.0.5")}, req: Request{SharingKey: "k", Ports: http},
			holdings: []Holding{on("10.0.0.5", "a/y")}, want: "10.0.0.5 of p shared"},
		{name: "not where no pool admits it", pools: []Pool{pool, autoPool("q", "10.9.0.0/24")}, req: Request{SharingKey: "k", Pools: []string{"q"}},
			holdings: []Holding{on("10.0.0.5", "a/y")}, want: "10.9.0.0 of q"},
		{name: "not in a disabled pool", pools: []Pool{autoPool("p", "10.0.0.0/24", disabled), autoPool("q", "10.9.0.0/24")}, req: Request{SharingKey: "k"},
			holdings: []Holding{on("10.0.0.5", "a/y")}, want: "10.9.0.0 of q"},
		{name: "not outside the named pool", pools: []Pool{pool, autoPool("q", "10.9.0.0/24")}, req: Request{SharingKey: "k", PoolNamed: "q"},
			holdings: []Holding{on("10.0.0.5", "a/y")}, want: "10.9.0.0 of q"},
		{name: "not on what is reserved for another", pools: []Pool{pool}, req: Request{SharingKey: "k"},
			holdings: []Holding{{Address: ip("10.0.0.5"), SharingKey: "k", Holders: []Holder{{Service: service("a/y")}}, ReservedFor: &Reservation{"a", "y"}}},
			want:     "10.0.0.0 of p"},
		{name: "in a manual pool, which the key names as well as a number does", pools: []Pool{autoPool("m", "10.0.0.5", manual)},
			req: Request{SharingKey: "k"}, holdings: []Holding{on("10.0.0.5", "a/y")}, want: "10.0.0.5 of p shared"},
		{name: "beyond a full quota, since it takes no address", pools: []Pool{autoPool("p", "10.0.0.0/24", quota(1))},
			req: Request{SharingKey: "k"}, holdings: []Holding{on("10.0.0.5", "a/y")}, want: "10.0.0.5 of p shared"},
		{name: "not beyond a full quota where the namespace is new on the address", pools: []Pool{autoPool("p", "10.0.0.0/24", quota(1)), autoPool("q", "10.9.0.0/24")},
			req: Request{SharingKey: "k", SharingNamespaces: []string{"b"}},
			holdings: []Holding{boundTo("10.0.0.1", "p", "a/x"),
				sharedBy("10.0.0.5", "p", "k", Holder{Service: service("b/y"), SharingNamespaces: []string{"a"}})},
			want: "10.9.0.0 of q"},
	})
}

// TestNoAddressIsGivenAgainstTheRules puts only what Choose picks, and looks at the result rather than at the reasons.
func TestNoAddressIsGivenAgainstTheRules(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			h := newHistory(seed)
			h.setPools()
			sharedOnce := false
			for range 400 {
				if h.chance(20) {
					h.setPools()
				}
				req := h.request()
				for addr, g := range h.m.holdings {
					g.Holders = slices.DeleteFunc(slices.Clone(g.Holders), func(o Holder) bool { return o.Service.same(req.Service) })
					if len(g.Holders) < len(h.m.holdings[addr].Holders) {
						if len(g.Holders) == 0 {
							g.Released = &Released{req.Service.Namespace, req.Service.Name, h.time()}
						}
						h.put(g)
					}
				}
				got := map[Family]bool{}
				for _, pick := range h.a.Choose(req).Picks {
					if f := FamilyOf(pick.Address); got[f] || !slices.Contains(req.Families, f) {
						t.Fatalf("a second or unwanted %s address %s", f, pick.Address)
					}
					got[FamilyOf(pick.Address)] = true
					g, exists := h.m.holdings[pick.Address]
					if exists && len(g.Holders) > 0 && g.SharingKey != req.SharingKey {
						t.Fatalf("%s of key %q given for key %q", pick.Address, g.SharingKey, req.SharingKey)
					}
					g.Address, g.Pool, g.SharingKey, g.Released = pick.Address, pick.Pool, req.SharingKey, nil
					g.Holders = append(slices.Clone(g.Holders), Holder{req.Service, req.Ports, req.Backend, req.SharingNamespaces})
					h.put(g)
				}
				for _, g := range h.m.holdings {
					for i, one := range g.Holders {
						for _, other := range g.Holders[:i] {
							sharedOnce = true
							agreed := one.Service.Namespace == other.Service.Namespace ||
								slices.Contains(one.SharingNamespaces, other.Service.Namespace) && slices.Contains(other.SharingNamespaces, one.Service.Namespace)
							clash := slices.ContainsFunc(one.Ports, func(p Port) bool { return slices.Contains(other.Ports, p) })
							if g.SharingKey == "" || !agreed || clash || one.Backend != other.Backend || one.Service.same(other.Service) {
								t.Fatalf("%s may not be shared by %+v and %+v", g.Address, one, other)
							}
						}
					}
				}
			}
			if !sharedOnce {
				t.Error("nothing was ever shared, so nothing was tested")
			}
		})
	}
}
