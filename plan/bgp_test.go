// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func set(names ...string) map[string]struct{} {
	s := map[string]struct{}{}
	for _, n := range names {
		s[n] = struct{}{}
	}
	return s
}

// bgpNode is one on which nothing is wrong.
func bgpNode(name string, edits ...func(*Node)) Node {
	n := Node{Name: name, Alive: true, Ready: true, LinksKnown: true}
	for _, edit := range edits {
		edit(&n)
	}
	return n
}

var (
	noSpeaker = func(n *Node) { n.LinksKnown = false }
	gone      = func(n *Node) { n.Alive = false }
	onA, onB  = Endpoint{Node: "a", Ready: true, Serving: true}, Endpoint{Node: "b", Ready: true, Serving: true}
	endsOnA   = Endpoint{Node: "a", Serving: true, Terminating: true}
	twoPeers  = []BGPPeer{{Name: "p1", Nodes: set("a", "b")}, {Name: "p2", Nodes: set("a", "b")}, {Name: "p3", Nodes: set("b")}}
	localTo   = func(e ...Endpoint) Service {
		return Service{Namespace: "default", Name: "web", Local: true, Endpoints: e}
	}
	clusterWide = func(backed bool) Service { return Service{Namespace: "default", Name: "web", Backed: backed} }
)

// advertising is an advertisement for nodes a and b and peers p1 and p2.
func advertising(name string, edits ...func(*BGPAdvertisement)) *BGPAdvertisement {
	ad := &BGPAdvertisement{Name: name, Nodes: set("a", "b"), Peers: set("p1", "p2"), Length4: 32, Length6: 128, RequireEndpoints: true}
	for _, edit := range edits {
		edit(ad)
	}
	return ad
}

func bare(ad *BGPAdvertisement)       { ad.RequireEndpoints = false }
func aggregated(ad *BGPAdvertisement) { ad.Length4, ad.Length6 = 24, 64 }

func TestBGP(t *testing.T) {
	everywhere, plain := NewBGPEverywhere(twoPeers), NewBGPScope(twoPeers, advertising("x"))
	ofFamilies := NewBGPEverywhere([]BGPPeer{{Name: "p1", Nodes: set("a"), NoIPv6: true}, {Name: "p2", Nodes: set("a", "b"), NoIPv4: true}})
	a, b := bgpNode("a"), bgpNode("b")
	for name, tt := range map[string]struct {
		scope    *BGPScope
		services []Service
		node     Node
		others   []Node
		peers    string
		reason   Reason
		leaving  bool
		message  string
	}{
		"an address goes to every peer of the node":                        {everywhere, []Service{clusterWide(true)}, a, nil, "p1 p2", "", false, "node a announces"},
		"and of another node":                                              {everywhere, []Service{clusterWide(true)}, b, nil, "p1 p2 p3", "", false, ""},
		"an advertisement says to which":                                   {plain, []Service{clusterWide(true)}, b, nil, "p1 p2", "", false, ""},
		"nobody holds it":                                                  {everywhere, nil, a, nil, "", NotBound, false, "no Service holds"},
		"the node is gone":                                                 {everywhere, []Service{clusterWide(true)}, bgpNode("a", gone), nil, "", NodeNotAlive, false, "no node a"},
		"there is no peer":                                                 {nil, []Service{clusterWide(true)}, a, nil, "", NoPeer, false, "no BGPPeer selects node a"},
		"no peer selects the node":                                         {NewBGPEverywhere([]BGPPeer{{Name: "p3", Nodes: set("b")}}), []Service{clusterWide(true)}, a, nil, "", NoPeer, false, "no BGPPeer selects node a"},
		"no advertisement selects its Services":                            {NewBGPScope(twoPeers), []Service{clusterWide(true)}, a, nil, "", NotAdvertised, false, "none of them a Service"},
		"only layer 2 advertises it":                                       {&BGPScope{OnlyL2: true}, []Service{clusterWide(true)}, a, nil, "", NotAdvertised, false, "only L2Advertisements"},
		"the advertisements select other nodes":                            {NewBGPScope(twoPeers, advertising("x", func(ad *BGPAdvertisement) { ad.Nodes = set("b") })), []Service{clusterWide(true)}, a, nil, "", NodeNotSelected, false, "not selected by BGPAdvertisement x"},
		"the advertisements select other peers":                            {NewBGPScope(twoPeers, advertising("x", func(ad *BGPAdvertisement) { ad.Peers = set("p3") }), advertising("y", func(ad *BGPAdvertisement) { ad.Peers = nil })), []Service{clusterWide(true)}, a, nil, "", NoPeerSelected, false, "BGPAdvertisements x, y"},
		"no endpoint anywhere":                                             {everywhere, []Service{clusterWide(false)}, a, nil, "", NoEndpoints, false, "no endpoint of default/web takes traffic"},
		"one of two Services has endpoints":                                {everywhere, []Service{clusterWide(false), clusterWide(true)}, a, nil, "p1 p2", "", false, ""},
		"none is required":                                                 {NewBGPScope(twoPeers, advertising("x", bare)), []Service{clusterWide(false)}, a, nil, "p1 p2", "", false, ""},
		"one of two advertisements requires none":                          {NewBGPScope(twoPeers, advertising("x"), advertising("y", bare, func(ad *BGPAdvertisement) { ad.Peers = set("p2") })), []Service{clusterWide(false)}, a, nil, "p2", "", false, ""},
		"Local and an endpoint here":                                       {everywhere, []Service{localTo(onA)}, a, nil, "p1 p2", "", false, ""},
		"Local and an endpoint elsewhere":                                  {everywhere, []Service{localTo(onB)}, a, nil, "", NoLocalEndpoint, false, "node a has no ready endpoint of default/web"},
		"Local and an endpoint of no node":                                 {everywhere, []Service{localTo(Endpoint{Ready: true})}, a, nil, "p1 p2", "", false, ""},
		"Local and only an endpoint that ends":                             {everywhere, []Service{localTo(endsOnA)}, a, nil, "p1 p2", "", false, ""},
		"Local and an endpoint that ends where another is":                 {everywhere, []Service{localTo(endsOnA, onB)}, a, nil, "", NoLocalEndpoint, false, ""},
		"Local and none at all":                                            {everywhere, []Service{localTo()}, a, nil, "", NoEndpoints, false, ""},
		"Local, none at all, and none is required":                         {NewBGPScope(twoPeers, advertising("x", bare)), []Service{localTo()}, a, nil, "p1 p2", "", false, ""},
		"Local and none is required, but there is one":                     {NewBGPScope(twoPeers, advertising("x", bare)), []Service{localTo(onB)}, a, nil, "", NoLocalEndpoint, false, ""},
		"Local is not aggregated":                                          {NewBGPScope(twoPeers, advertising("x", aggregated)), []Service{localTo(onA)}, a, nil, "p1 p2", NotAggregated, false, "by itself"},
		"nor an address that a Local one shares":                           {NewBGPScope(twoPeers, advertising("x", aggregated)), []Service{localTo(onA), clusterWide(true)}, a, nil, "p1 p2", NotAggregated, false, ""},
		"a node that is drained leaves":                                    {everywhere, []Service{clusterWide(true)}, bgpNode("a", draining), []Node{b}, "p1 p2", NodeDraining, true, "other nodes announce 192.0.2.1"},
		"an excluded one leaves":                                           {everywhere, []Service{clusterWide(true)}, bgpNode("a", excluded), []Node{b}, "p1 p2", NodeExcluded, true, "excluded"},
		"one without a network leaves at once":                             {everywhere, []Service{clusterWide(true)}, bgpNode("a", noNetwork), []Node{b}, "", NetworkUnavailable, false, "NetworkUnavailable"},
		"it stays if it is the only one":                                   {everywhere, []Service{clusterWide(true)}, bgpNode("a", draining, excluded, noNetwork), nil, "p1 p2", "", false, ""},
		"it stays if the others leave, too":                                {everywhere, []Service{clusterWide(true)}, bgpNode("a", excluded), []Node{bgpNode("b", excluded)}, "p1 p2", "", false, ""},
		"an excluded one stays rather than one that is drained":            {everywhere, []Service{clusterWide(true)}, bgpNode("a", excluded), []Node{bgpNode("b", draining)}, "p1 p2", "", false, ""},
		"it stays if the others are not Ready":                             {everywhere, []Service{clusterWide(true)}, bgpNode("a", draining), []Node{bgpNode("b", notReady)}, "p1 p2", "", false, ""},
		"it stays if the others have no speaker":                           {everywhere, []Service{clusterWide(true)}, bgpNode("a", draining), []Node{bgpNode("b", noSpeaker)}, "p1 p2", "", false, ""},
		"it stays if the others have no peer":                              {everywhere, []Service{clusterWide(true)}, bgpNode("a", draining), []Node{bgpNode("c")}, "p1 p2", "", false, ""},
		"it stays if the peers of others are of the other family":          {ofFamilies, []Service{clusterWide(true)}, bgpNode("a", draining), []Node{b}, "p1", "", false, ""},
		"a peer of the other family":                                       {ofFamilies, []Service{clusterWide(true)}, b, nil, "", NoPeerOfFamily, false, "no peer of node b that 192.0.2.1 goes to"},
		"a node without a network stays rather than one that is not Ready": {everywhere, []Service{clusterWide(true)}, bgpNode("a", noNetwork), []Node{bgpNode("b", notReady)}, "p1 p2", "", false, ""},
		"it stays if the others have no endpoint":                          {everywhere, []Service{localTo(onA)}, bgpNode("a", draining), []Node{b}, "p1 p2", "", false, ""},
		"a node that is only not Ready goes on":                            {everywhere, []Service{clusterWide(true)}, bgpNode("a", notReady), []Node{b}, "p1 p2", "", false, ""},
		"a cordoned node goes on":                                          {everywhere, []Service{clusterWide(true)}, bgpNode("a", func(n *Node) { n.Cordoned = true }), []Node{b}, "p1 p2", "", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			addr := Address{Addr: netip.MustParseAddr("192.0.2.1"), BGP: tt.scope, Services: tt.services}
			got, reason := BGP(&addr, &tt.node, append(tt.others, tt.node))
			if peers := strings.Join(got.Peers(), " "); peers != tt.peers || got.None() != (tt.peers == "") || got.Leaving != tt.leaving || reason != tt.reason {
				t.Errorf("told %q, leaving %v, because %q", peers, got.Leaving, reason)
			}
			if text := ExplainBGP(reason, &addr, &tt.node); !strings.Contains(text, tt.message) {
				t.Errorf("explained by %q", text)
			}
		})
	}
}

// randomBGP returns a cluster in which much can be wrong.
func randomBGP(r *rand.Rand) ([]Address, []Node, []BGPPeer) {
	names := []string{"a", "b", "c"}
	some := func() map[string]struct{} {
		s := map[string]struct{}{}
		for _, n := range names {
			if r.IntN(3) > 0 {
				s[n] = struct{}{}
			}
		}
		return s
	}
	var nodes []Node
	for _, n := range names {
		nodes = append(nodes, Node{Name: n, Alive: r.IntN(9) > 0, LinksKnown: r.IntN(9) > 0, Ready: r.IntN(5) > 0,
			Draining: r.IntN(4) == 0, Excluded: r.IntN(4) == 0, NetworkUnavailable: r.IntN(6) == 0})
	}
	peers := []BGPPeer{{Name: "p1", Nodes: some(), NoIPv6: r.IntN(3) == 0}, {Name: "p2", Nodes: some(), NoIPv4: r.IntN(3) == 0}}
	var ads []*BGPAdvertisement
	for i := range 4 {
		ad := advertising(fmt.Sprint(i), func(ad *BGPAdvertisement) {
			ad.Nodes, ad.RequireEndpoints = some(), r.IntN(3) > 0
			ad.Length4 = []int{32, 30, 28}[r.IntN(3)]
			ad.Communities = []uint32{uint32(r.IntN(3))}
			ad.Prepend = uint8(r.IntN(3))
			if r.IntN(2) == 0 {
				ad.LocalPref = new(uint32(r.IntN(2)))
			}
		})
		ads = append(ads, ad)
	}
	everywhere := NewBGPEverywhere(peers)
	var all []Address
	for i := range 12 {
		a := Address{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), BGP: everywhere}
		if i%3 == 0 {
			a.Addr = netip.AddrFrom16([16]byte{0x20, 1, 13: 1, 15: byte(i)})
		}
		if r.IntN(4) > 0 {
			var of []*BGPAdvertisement
			for _, ad := range ads {
				if r.IntN(2) == 0 {
					of = append(of, ad)
				}
			}
			a.BGP = NewBGPScope(peers, of...)
		}
		for range r.IntN(3) {
			s := Service{Local: r.IntN(2) == 0, Backed: r.IntN(3) > 0}
			for _, n := range names {
				if r.IntN(2) == 0 {
					s.Endpoints = append(s.Endpoints, Endpoint{Node: n, Ready: r.IntN(2) == 0, Serving: true, Terminating: r.IntN(2) == 0})
				}
			}
			a.Services = append(a.Services, s)
		}
		all = append(all, a)
	}
	return all, nodes, peers
}

// A fault of a node alone must never be the end of an address, and nobody gives
// up what no one else has.
func TestSomebodyAlwaysStays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	left := 0
	for range 4000 {
		addresses, nodes, _ := randomBGP(r)
		for i := range addresses {
			a := &addresses[i]
			able, stays, leaves := false, false, false
			for j := range nodes {
				s := servers(a)
				_, r := announcedBy(a, &s, isBacked(a), &nodes[j])
				does, _ := BGP(a, &nodes[j], nodes)
				able = able || r == ""
				stays = stays || !does.None() && !does.Leaving
				leaves = leaves || does.Leaving
			}
			if able != stays {
				t.Fatalf("%+v: somebody is able: %v, stays: %v, of %+v", a, able, stays, nodes)
			}
			if leaves {
				left++
			}
		}
	}
	if left == 0 {
		t.Error("nobody left anything")
	}
}

// Aggregates hold no address of a Local Service, and one that is announced is
// in a route to each of its peers.
func TestEveryAddressIsInItsRoutes(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 1000 {
		addresses, nodes, _ := randomBGP(r)
		self := &nodes[0]
		table := NewTable()
		for i := range addresses {
			does, _ := BGP(&addresses[i], self, nodes)
			table.Set(addresses[i].Addr, does)
		}
		routes := table.Routes()
		for i := range addresses {
			a := &addresses[i]
			does, _ := BGP(a, self, nodes)
			for _, peer := range does.Peers() {
				told := routes[peer]
				covers := func(r Route) bool { return r.Prefix.Contains(a.Addr) && (!does.Whole || r.Prefix.IsSingleIP()) }
				if !slices.ContainsFunc(told.Stay, covers) && !(does.Leaving && slices.ContainsFunc(told.Leave, covers)) {
					t.Fatalf("%s is in no route to %s: %+v", a.Addr, peer, told)
				}
			}
		}
		for peer, told := range routes {
			for _, r := range append(slices.Clone(told.Stay), told.Leave...) {
				if !slices.ContainsFunc(addresses, func(a Address) bool {
					does, _ := BGP(&a, self, nodes)
					return r.Prefix.Contains(a.Addr) && slices.Contains(does.Peers(), peer) && (!does.Whole || r.Prefix.IsSingleIP())
				}) {
					t.Fatalf("%s is for no address of %s", r.Prefix, peer)
				}
			}
		}
	}
}
