// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"testing"
)

func TestRefusalsSayWhatIsInTheWayAndWhatToDo(t *testing.T) {
	pool := autoPool("p", "10.0.0.1-10.0.0.2")
	x := Holder{Service: service("a/x"), Ports: []Port{{TCP, 80}, {UDP, 53}}}
	ask := func(s string) Request { return Request{Addresses: []netip.Addr{ip(s)}} }
	cases := []struct {
		scene
		reason  Reason
		pool    string
		message string
	}{
		{scene{name: "no pool"}, NoPool, "",
			"There is no pool: create a LoadBalancerIPPool with IPv4 addresses of your network."},
		{scene{name: "no pool for the number", req: ask("10.0.0.1")}, NoPool, "",
			"There is no pool: create a LoadBalancerIPPool that has 10.0.0.1."},
		{scene{name: "no selector matches", pools: []Pool{pool}, req: Request{Pools: []string{}}}, NoMatchingPool, "",
			"No pool admits Service a/web: change the serviceSelector or namespaceSelector of a pool, or the labels of the Service or its namespace."},
		{scene{name: "manual pools only", pools: []Pool{autoPool("m", "10.0.0.1", manual), autoPool("n", "10.0.0.2", manual)}}, NoAutoAssignPool, "m",
			`Pool "m" or "n" has autoAssign off: name it in the annotation fairlead.dev/pool of Service a/web, or ask for an address in fairlead.dev/addresses.`},
		{scene{name: "disabled pools only", pools: []Pool{autoPool("p", "10.0.0.1", disabled)}}, PoolDisabled, "p",
			`Pool "p" admits Service a/web, but is disabled and gives nothing new: enable it, or add a pool.`},
		{scene{name: "no address of the family", pools: []Pool{pool}, req: Request{Families: []Family{IPv6}}}, FamilyNotInPool, "p",
			`Pool "p" has no IPv6 addresses: add some, or take IPv6 out of the ipFamilies of Service a/web.`},
		{scene{name: "a full pool", pools: []Pool{pool}, holdings: []Holding{boundTo("10.0.0.1", "p", "a/x")}, avoid: "10.0.0.2"}, PoolExhausted, "p",
			`Pool "p" has no free IPv4 address: add addresses, or delete a Service that holds one.`},
		{scene{name: "many full pools", pools: []Pool{autoPool("a", "10.0.0.1"), autoPool("b", "10.0.0.1"), autoPool("c", "10.0.0.1"), autoPool("d", "10.0.0.1")},
			holdings: []Holding{boundTo("10.0.0.1", "a", "a/x")}}, PoolExhausted, "a",
			`Pool "a", "b" or 2 more has no free IPv4 address: add addresses, or delete a Service that holds one.`},
		{scene{name: "a full quota", pools: []Pool{autoPool("p", "10.0.0.0/24", quota(1))}, holdings: []Holding{boundTo("10.0.0.1", "p", "a/x")}}, QuotaExceeded, "p",
			`Namespace a holds as many addresses of pool "p" as it may: delete a Service there, or raise maxPerNamespace.`},
		{scene{name: "a full quota for the number", pools: []Pool{autoPool("p", "10.0.0.0/24", quota(1))}, holdings: []Holding{boundTo("10.0.0.1", "p", "a/x")}, req: ask("10.0.0.2")},
			QuotaExceeded, "p", `Namespace a holds as many addresses of pool "p" as it may: delete a Service there, or raise maxPerNamespace.`},

		{scene{name: "a named pool that is not there", pools: []Pool{pool}, req: Request{PoolNamed: "q"}}, PoolNotFound, "q",
			`Pool "q" does not exist: create it, or name another one.`},
		{scene{name: "a named pool that does not admit it", pools: []Pool{pool}, req: Request{PoolNamed: "p", Pools: []string{}}}, PoolNotAdmitted, "p",
			`Pool "p" does not admit Service a/web: change its serviceSelector or namespaceSelector, or name another pool.`},
		{scene{name: "a named pool that is disabled", pools: []Pool{autoPool("p", "10.0.0.1", disabled)}, req: Request{PoolNamed: "p"}}, PoolDisabled, "p",
			`Pool "p" is disabled and gives nothing new: enable it, or name another pool.`},
		{scene{name: "a number that the named pool lacks", pools: []Pool{pool, autoPool("q", "10.9.0.1")},
			req: Request{PoolNamed: "p", Addresses: []netip.Addr{ip("10.9.0.1")}}}, AddressNotInPool, "p",
			`Pool "p" does not have 10.9.0.1: ask for one of its addresses, name another pool, or add the address.`},

		{scene{name: "a number in no pool", pools: []Pool{pool}, req: ask("10.9.0.1")}, AddressNotInPool, "",
			"No pool has 10.9.0.1: ask for an address of a pool, or add this one to a pool."},
		{scene{name: "a number that a node has", pools: []Pool{pool}, node: "10.0.0.1", req: ask("10.0.0.1")}, NodeAddress, "",
			"10.0.0.1 is the address of node n1, which Service a/web would take off the network: ask for another address."},
		{scene{name: "a number that a node has is refused as that, whatever the pools", node: "10.9.0.1", req: Request{PoolNamed: "q", Addresses: []netip.Addr{ip("10.9.0.1")}}}, NodeAddress, "",
			"10.9.0.1 is the address of node n1, which Service a/web would take off the network: ask for another address."},
		{scene{name: "an excluded number", pools: []Pool{autoPool("p", "10.0.0.0/24", excluding("10.0.0.8/30"))}, req: ask("10.0.0.9")}, AddressExcluded, "p",
			`Pool "p" excludes 10.0.0.9: ask for another address, or take it out of exclude.`},
		{scene{name: "a number in a disabled pool", pools: []Pool{autoPool("p", "10.0.0.1", disabled)}, req: ask("10.0.0.1")}, PoolDisabled, "p",
			`10.0.0.1 is in pool "p", which is disabled and gives nothing new: enable it, or ask for an address of another pool.`},
		{scene{name: "a number in a pool that does not admit it", pools: []Pool{pool}, req: Request{Pools: []string{}, Addresses: []netip.Addr{ip("10.0.0.1")}}}, PoolNotAdmitted, "p",
			`10.0.0.1 is in pool "p", which does not admit Service a/web: ask for another address, or change serviceSelector or namespaceSelector there.`},
		{scene{name: "a number of the other family", pools: []Pool{autoPool("p", "10.0.0.1 fd00::/64")},
			req: Request{Addresses: []netip.Addr{ip("fd00::1")}}}, FamilyNotRequested, "",
			"fd00::1 is an IPv6 address and Service a/web has no IPv6 in its ipFamilies: ask for an address of its family, or add the family."},
		{scene{name: "two numbers of a family", pools: []Pool{pool}, req: Request{Addresses: []netip.Addr{ip("10.0.0.1"), ip("10.0.0.2")}}}, InvalidAddress, "",
			"Service a/web asks for 10.0.0.1 and 10.0.0.2: it can have one IPv4 address, so keep one of them."},
		{scene{name: "a number with a zone", pools: []Pool{pool}, req: Request{Families: []Family{IPv6}, Addresses: []netip.Addr{ip("fe80::1%eth0")}}}, InvalidAddress, "",
			"Service a/web asks for fe80::1%eth0, which has a zone: write fe80::1."},
		{scene{name: "a number in IPv6 clothing", pools: []Pool{pool}, req: Request{Families: []Family{IPv6}, Addresses: []netip.Addr{ip("::ffff:10.0.0.1")}}}, InvalidAddress, "",
			"Service a/web asks for ::ffff:10.0.0.1, which is an IPv4 address written as IPv6: write 10.0.0.1."},
		{scene{name: "no number at all", pools: []Pool{pool}, req: Request{Addresses: []netip.Addr{{}}}}, InvalidAddress, "",
			"Service a/web asks for the zero address: write an address such as 192.0.2.1 or 2001:db8::1."},

		{scene{name: "a foreign number", pools: []Pool{pool}, foreign: "10.0.0.1", req: ask("10.0.0.1")}, ForeignAddress, "",
			"10.0.0.1 is in the status of Service kube-system/traefik, where something else put it: ask for another address, or free it there."},
		{scene{name: "a number reserved for a namespace", pools: []Pool{pool}, holdings: []Holding{reservedTo("10.0.0.1", "p", "b", "")}, req: ask("10.0.0.1")}, AddressReserved, "",
			"10.0.0.1 is reserved for namespace b: ask for another address, or change reservedFor of LoadBalancerIP 10.0.0.1."},
		{scene{name: "a number reserved for a Service", pools: []Pool{autoPool("p", "fd00::/64")}, holdings: []Holding{reservedTo("fd00::1", "p", "a", "x")},
			req: Request{Families: []Family{IPv6}, Addresses: []netip.Addr{ip("fd00::1")}}}, AddressReserved, "",
			"fd00::1 is reserved for Service a/x: ask for another address, or change reservedFor of LoadBalancerIP fd00-0000-0000-0000-0000-0000-0000-0001."},
		{scene{name: "a held number", pools: []Pool{pool}, holdings: []Holding{boundTo("10.0.0.1", "p", "b/x")}, req: ask("10.0.0.1")}, AddressInUse, "",
			"10.0.0.1 is held by Service b/x: ask for another address, or give every Service on it the same annotation fairlead.dev/sharing-key."},
		{scene{name: "a number with several holders", pools: []Pool{pool}, holdings: []Holding{boundTo("10.0.0.1", "p", "b/x", "b/y")}, req: ask("10.0.0.1")}, AddressInUse, "",
			"10.0.0.1 is held by Services b/x and b/y: ask for another address, or give every Service on it the same annotation fairlead.dev/sharing-key."},
		{scene{name: "another sharing key", pools: []Pool{pool}, holdings: []Holding{sharedBy("10.0.0.1", "p", "k", x)},
			req: Request{Addresses: []netip.Addr{ip("10.0.0.1")}, SharingKey: "j"}}, SharingKeyMismatch, "",
			`10.0.0.1 is held by Service a/x under the sharing key "k" and Service a/web has "j": use the same key, or another address.`},
		{scene{name: "taken ports", pools: []Pool{pool}, holdings: []Holding{sharedBy("10.0.0.1", "p", "k", x)},
			req: Request{Addresses: []netip.Addr{ip("10.0.0.1")}, SharingKey: "k", Ports: []Port{{UDP, 53}, {TCP, 443}, {TCP, 80}}}}, PortClash, "",
			"Service a/x has UDP 53 and TCP 80 on 10.0.0.1: use other ports, or another address."},
		{scene{name: "another selector", pools: []Pool{pool}, holdings: []Holding{sharedBy("10.0.0.1", "p", "k", x)},
			req: Request{Addresses: []netip.Addr{ip("10.0.0.1")}, SharingKey: "k", Backend: "app=web"}}, BackendMismatch, "",
			"10.0.0.1 is held by Service a/x, whose traffic other nodes may have to answer: give both externalTrafficPolicy Cluster, or Local with the same selector."},
		{scene{name: "a namespace it does not name", pools: []Pool{pool}, holdings: []Holding{sharedBy("10.0.0.1", "p", "k", Holder{Service: service("b/x"), SharingNamespaces: []string{"a"}})},
			req: Request{Addresses: []netip.Addr{ip("10.0.0.1")}, SharingKey: "k"}}, SharingNotAgreed, "",
			"10.0.0.1 is held by Service b/x of another namespace: add b to the annotation fairlead.dev/sharing-namespaces of Service a/web."},
		{scene{name: "a namespace that does not name it", pools: []Pool{pool}, holdings: []Holding{sharedBy("10.0.0.1", "p", "k", Holder{Service: service("b/x")})},
			req: Request{Addresses: []netip.Addr{ip("10.0.0.1")}, SharingKey: "k", SharingNamespaces: []string{"b"}}}, SharingNotAgreed, "",
			"10.0.0.1 is held by Service b/x, which does not share with namespace a: add that to its annotation fairlead.dev/sharing-namespaces."},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			choice := c.allocator().Choose(c.request())
			if len(choice.Picks) > 0 || len(choice.Refusals) != 1 {
				t.Fatalf("got %s, want one refusal", choice.text())
			}
			r := choice.Refusals[0]
			if r.Reason != c.reason || r.Pool != c.pool || r.Message != c.message {
				t.Errorf("got  %s of pool %q: %s\nwant %s of pool %q: %s", r.Reason, r.Pool, r.Message, c.reason, c.pool, c.message)
			}
			if asked := c.req.Addresses; len(asked) == 1 && r.Address != asked[0] {
				t.Errorf("the refusal is about %s, want %s", r.Address, asked[0])
			}
		})
	}
}

func TestWhatIsAskedForByNumber(t *testing.T) {
	ask := func(s string) Request { return Request{Addresses: []netip.Addr{ip(s)}} }
	runScenes(t, []scene{
		{name: "an address of a manual pool is given", pools: []Pool{autoPool("m", "10.0.0.1", manual)}, req: ask("10.0.0.1"), want: "10.0.0.1 of m"},
		{name: "an avoided address is given", pools: []Pool{autoPool("p", "10.0.0.1")}, avoid: "10.0.0.1", req: ask("10.0.0.1"), want: "10.0.0.1 of p"},
		{name: "a buggy address is given", pools: []Pool{autoPool("p", "10.0.0.0/24", func(p *Pool) { p.AvoidBuggyIPs = true })}, req: ask("10.0.0.255"), want: "10.0.0.255 of p"},
		{name: "another's resting address is given", pools: []Pool{autoPool("p", "10.0.0.0/24")}, holdings: []Holding{restingFrom("10.0.0.1", "p", "b/x", 1)},
			req: ask("10.0.0.1"), want: "10.0.0.1 of p"},
		{name: "its own reservation is given in a disabled pool", pools: []Pool{autoPool("p", "10.0.0.0/24", disabled)},
			holdings: []Holding{reservedTo("10.0.0.1", "p", "a", "web")}, req: ask("10.0.0.1"), want: "10.0.0.1 of p"},
		{name: "the pool of the highest priority that has it counts it", pools: []Pool{autoPool("p", "10.0.0.0/24"), autoPool("q", "10.0.0.0/24", priority(1))},
			req: ask("10.0.0.1"), want: "10.0.0.1 of q"},
		{name: "a pool with room counts it where another is full", pools: []Pool{autoPool("p", "10.0.0.0/24"), autoPool("q", "10.0.0.0/24", priority(1), quota(1))},
			holdings: []Holding{boundTo("10.0.0.9", "q", "a/x")}, req: ask("10.0.0.1"), want: "10.0.0.1 of p"},
		{name: "a held address stays with its Service outside every pool", holdings: []Holding{boundTo("10.0.0.1", "gone", "a/web")},
			req: ask("10.0.0.1"), want: "10.0.0.1 of gone"},
		{name: "a held address stays with its Service when another shows it", pools: []Pool{autoPool("p", "10.0.0.1")}, foreign: "10.0.0.1",
			holdings: []Holding{boundTo("10.0.0.1", "p", "a/web")}, req: ask("10.0.0.1"), want: "10.0.0.1 of p"},
	})
}
