// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

func peer(name string, set labels.Set, spec v1alpha1.BGPPeerSpec) *v1alpha1.BGPPeer {
	return &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: set}, Spec: spec}
}

func bgpAdvertisement(name string, spec v1alpha1.BGPAdvertisementSpec) *v1alpha1.BGPAdvertisement {
	return &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

// told says what a node tells whom of an address.
func told(bgp *plan.BGPScope, node string) []string {
	a := plan.Address{Addr: netip.MustParseAddr("192.0.2.1"), BGP: bgp, Services: []plan.Service{{Name: "web", Backed: true}}}
	n := plan.Node{Name: node, Alive: true}
	does, reason := plan.BGP(&a, &n, []plan.Node{n})
	table := plan.NewTable()
	table.Set(a.Addr, does)
	var all []string
	for name, routes := range table.Routes() {
		for _, r := range routes.Stay {
			all = append(all, fmt.Sprint(name, " ", r.Prefix))
		}
	}
	if reason != "" {
		all = append(all, string(reason))
	}
	slices.Sort(all)
	return all
}

func TestBothKindsOfAdvertisementSelectPools(t *testing.T) {
	type l2 = v1alpha1.L2AdvertisementSpec
	type bgp = v1alpha1.BGPAdvertisementSpec
	lan, wan := []string{"lan"}, []string{"wan"}
	for name, tt := range map[string]struct {
		l2    []l2
		bgp   []bgp
		onL2  bool
		byBGP []string
	}{
		"without advertisements an address is everywhere":        {onL2: true, byBGP: []string{"p1 192.0.2.1/32", "p2 192.0.2.1/32"}},
		"advertisements of other pools say nothing of it":        {l2: []l2{{Pools: wan}}, bgp: []bgp{{Pools: wan}}, onL2: true, byBGP: []string{"p1 192.0.2.1/32", "p2 192.0.2.1/32"}},
		"with one of layer 2 it is there alone":                  {l2: []l2{{Pools: lan}}, onL2: true, byBGP: []string{"NotAdvertised"}},
		"with one of BGP it is there alone":                      {bgp: []bgp{{Pools: lan}}, byBGP: []string{"p1 192.0.2.1/32", "p2 192.0.2.1/32"}},
		"with both it is in both":                                {l2: []l2{{}}, bgp: []bgp{{}}, onL2: true, byBGP: []string{"p1 192.0.2.1/32", "p2 192.0.2.1/32"}},
		"peers by name":                                          {bgp: []bgp{{Peers: []string{"p2", "gone"}}}, byBGP: []string{"p2 192.0.2.1/32"}},
		"peers by label":                                         {bgp: []bgp{{PeerSelector: matching("rack", "1")}}, byBGP: []string{"p1 192.0.2.1/32"}},
		"peers by name or by label":                              {bgp: []bgp{{Peers: []string{"p2"}, PeerSelector: matching("rack", "1")}}, byBGP: []string{"p1 192.0.2.1/32", "p2 192.0.2.1/32"}},
		"a name of no peer selects none":                         {bgp: []bgp{{Peers: []string{"gone"}}}, byBGP: []string{"NoPeerSelected"}},
		"a peer selector that can't be read selects none":        {bgp: []bgp{{PeerSelector: unreadable}}, byBGP: []string{"NoPeerSelected"}},
		"another node's peer is not this one's":                  {bgp: []bgp{{Peers: []string{"p3"}}}, byBGP: []string{"NoPeerSelected"}},
		"other nodes":                                            {bgp: []bgp{{NodeSelector: matching("zone", "2")}}, byBGP: []string{"NodeNotSelected"}},
		"other Services":                                         {bgp: []bgp{{ServiceSelector: matching("app", "db")}}, byBGP: []string{"NotAdvertised"}},
		"other Services of layer 2 leave BGP to BGP":             {l2: []l2{{ServiceSelector: matching("app", "db")}}, bgp: []bgp{{Peers: []string{"p1"}}}, onL2: false, byBGP: []string{"p1 192.0.2.1/32"}},
		"several unite, each with its length":                    {bgp: []bgp{{Peers: []string{"p1"}, AggregationLength: new(int32(24))}, {}}, byBGP: []string{"p1 192.0.2.0/24", "p1 192.0.2.1/32", "p2 192.0.2.1/32"}},
		"a selector that can't be read selects no pool, as ever": {bgp: []bgp{{PoolSelector: unreadable}}, onL2: true, byBGP: []string{"p1 192.0.2.1/32", "p2 192.0.2.1/32"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := Objects{
				Nodes: map[string]labels.Set{"a": {"zone": "1"}, "b": {"zone": "2"}},
				Pools: map[string]labels.Set{"lan": nil, "wan": nil},
				Peers: []*v1alpha1.BGPPeer{
					peer("p2", nil, v1alpha1.BGPPeerSpec{}), peer("p1", labels.Set{"rack": "1"}, v1alpha1.BGPPeerSpec{}),
					peer("p3", nil, v1alpha1.BGPPeerSpec{NodeSelector: matching("zone", "2")}), peer("p4", nil, v1alpha1.BGPPeerSpec{NodeSelector: unreadable}),
				},
			}
			for i, s := range tt.l2 {
				o.L2 = append(o.L2, advertisement(fmt.Sprint(i), s))
			}
			for i, s := range tt.bgp {
				o.BGP = append(o.BGP, bgpAdvertisement(fmt.Sprint(i), s))
			}
			a := NewAdvertising(o)
			scope, bgpScope := a.Scope("lan", []labels.Set{{"app": "web"}})
			link := plan.Link{Name: "eth0", Up: true, ARP: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")}}
			onL2, _, _ := plan.Eligible(plan.Address{Addr: netip.MustParseAddr("192.0.2.1"), Scope: scope, Services: []plan.Service{{}}},
				plan.Node{Name: "a", Alive: true, LinksKnown: true, Links: []plan.Link{link}})
			if onL2 != tt.onL2 {
				t.Errorf("on layer 2: %v, by %+v", onL2, scope)
			}
			if got := told(bgpScope, "a"); !slices.Equal(got, tt.byBGP) {
				t.Errorf("by BGP: %v, want %v", got, tt.byBGP)
			}
			if againL2, againBGP := a.Scope("lan", []labels.Set{{"app": "web"}}); againL2 != scope || againBGP != bgpScope {
				t.Error("it is another for another address")
			}
			o.Peers = nil
			withoutL2, without := NewAdvertising(o).Scope("lan", []labels.Set{{"app": "web"}})
			if !reflect.DeepEqual(withoutL2, scope) || without != nil {
				t.Errorf("without peers: %+v and %+v", withoutL2, without)
			}
		})
	}
}

func TestCommunities(t *testing.T) {
	for text, want := range map[v1alpha1.Community]any{
		"65000:100":                   uint32(65000<<16 | 100),
		"0:0":                         uint32(0),
		"65535:65535":                 uint32(0xffffffff),
		"large:65000:1:2":             [3]uint32{65000, 1, 2},
		"large:4294967295:0:1":        [3]uint32{4294967295, 0, 1},
		"no-export":                   uint32(0xffffff01),
		"no-advertise":                uint32(0xffffff02),
		"no-export-subconfed":         uint32(0xffffff03),
		"no-peer":                     uint32(0xffffff04),
		"graceful-shutdown":           uint32(0xffff0000),
		"accept-own":                  uint32(0xffff0001),
		"no-llgr":                     uint32(0xffff0007),
		"blackhole":                   uint32(0xffff029a),
		"65536:0":                     nil,
		"1:2:3":                       nil,
		"large:1:2":                   nil,
		"large:1:2:4294967296":        nil,
		"large:no-export":             nil,
		"No-Export":                   nil,
		"":                            nil,
		"65000:-1":                    nil,
		"large:65000:1:2:3":           nil,
		"99999999999999999999999999:": nil,
	} {
		standard, large, err := parseCommunity(text)
		var got any = standard
		if large != nil {
			got = *large
		}
		if err != nil {
			got = nil
		}
		if got != want {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestABGPAdvertisementIsReadAsItIs(t *testing.T) {
	a := NewAdvertising(Objects{BGP: []*v1alpha1.BGPAdvertisement{
		bgpAdvertisement("all", v1alpha1.BGPAdvertisementSpec{
			Communities: []v1alpha1.Community{"65000:2", "no-export", "large:2:1:1", "65000:1", "65535:65281", "large:1:9:9"},
			LocalPref:   new(int64(4294967295)), MED: new(int64(0)), ASPathPrepend: 3,
			AggregationLength: new(int32(24)), AggregationLengthV6: new(int32(64)), RequireEndpoints: new(false),
		}),
		bgpAdvertisement("none", v1alpha1.BGPAdvertisementSpec{}),
		bgpAdvertisement("wrong", v1alpha1.BGPAdvertisementSpec{
			PoolSelector: unreadable, ServiceSelector: unreadable, NodeSelector: unreadable, PeerSelector: unreadable, Communities: []v1alpha1.Community{"x", "1:1"},
		}),
	}})
	all := *a.AllBGP()[0].BGPAdvertisement
	want := plan.BGPAdvertisement{
		Name: "all", Nodes: map[string]struct{}{}, Peers: map[string]struct{}{},
		Communities: []uint32{65000<<16 | 1, 65000<<16 | 2, 0xffffff01}, Large: [][3]uint32{{1, 9, 9}, {2, 1, 1}},
		LocalPref: new(uint32(4294967295)), MED: new(uint32), Prepend: 3, Length4: 24, Length6: 64,
	}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("got %+v, want %+v", all, want)
	}
	none := *a.AllBGP()[1].BGPAdvertisement
	want = plan.BGPAdvertisement{Name: "none", Nodes: map[string]struct{}{}, Peers: map[string]struct{}{}, Length4: 32, Length6: 128, RequireEndpoints: true}
	if !reflect.DeepEqual(none, want) {
		t.Errorf("got %+v, want %+v", none, want)
	}
	fields := []string{"spec.poolSelector:", "spec.serviceSelector:", "spec.nodeSelector:", "spec.peerSelector:", "spec.communities:"}
	wrong := a.AllBGP()[2]
	if len(wrong.Invalid) != len(fields) || len(wrong.Communities) != 1 {
		t.Fatalf("got %v, %v", wrong.Invalid, wrong.Communities)
	}
	for i, err := range wrong.Invalid {
		if !strings.HasPrefix(err.Error(), fields[i]) {
			t.Errorf("got %q, want %s", err, fields[i])
		}
	}
}

func TestContradictions(t *testing.T) {
	type spec = v1alpha1.BGPAdvertisementSpec
	low, high := new(int64(50)), new(int64(200))
	for name, tt := range map[string]struct {
		a, b spec
		want []string
	}{
		"nothing":                             {spec{}, spec{}, nil},
		"only one says something":             {spec{LocalPref: low, MED: low, ASPathPrepend: 1}, spec{}, nil},
		"the same":                            {spec{LocalPref: low}, spec{LocalPref: new(int64(50))}, nil},
		"communities never":                   {spec{Communities: []v1alpha1.Community{"1:1"}}, spec{Communities: []v1alpha1.Community{"1:2"}}, nil},
		"all three":                           {spec{LocalPref: low, MED: low, ASPathPrepend: 1}, spec{LocalPref: high, MED: high, ASPathPrepend: 2}, []string{"localPref", "med", "asPathPrepend"}},
		"different lengths are other routes":  {spec{LocalPref: low}, spec{LocalPref: high, AggregationLength: new(int32(24)), AggregationLengthV6: new(int32(64))}, nil},
		"but not if one family has the same":  {spec{LocalPref: low}, spec{LocalPref: high, AggregationLength: new(int32(24))}, []string{"localPref"}},
		"other pools":                         {spec{LocalPref: low, Pools: []string{"lan"}}, spec{LocalPref: high, Pools: []string{"wan"}}, nil},
		"other peers":                         {spec{LocalPref: low, Peers: []string{"p1"}}, spec{LocalPref: high, Peers: []string{"p2"}}, nil},
		"other nodes":                         {spec{LocalPref: low, NodeSelector: matching("zone", "1")}, spec{LocalPref: high, NodeSelector: matching("zone", "2")}, nil},
		"other Services":                      {spec{LocalPref: low, ServiceSelector: matching("app", "web")}, spec{LocalPref: high, ServiceSelector: matching("app", "db")}, nil},
		"the same Services":                   {spec{LocalPref: low, ServiceSelector: matching("app", "web")}, spec{LocalPref: high, ServiceSelector: matching("app", "web")}, []string{"localPref"}},
		"some Services are among all":         {spec{LocalPref: low, ServiceSelector: matching("app", "web")}, spec{LocalPref: high}, []string{"localPref"}},
		"a selector that can't be read is no": {spec{LocalPref: low, ServiceSelector: unreadable}, spec{LocalPref: high, PoolSelector: unreadable}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := NewAdvertising(Objects{
				BGP:   []*v1alpha1.BGPAdvertisement{bgpAdvertisement("b", tt.b), bgpAdvertisement("a", tt.a)},
				Nodes: map[string]labels.Set{"a": {"zone": "1"}, "b": {"zone": "2"}}, Pools: map[string]labels.Set{"lan": nil, "wan": nil},
				Peers: []*v1alpha1.BGPPeer{peer("p1", nil, v1alpha1.BGPPeerSpec{}), peer("p2", nil, v1alpha1.BGPPeerSpec{})},
			})
			for i := range a.AllBGP() {
				var got []string
				for _, c := range a.Contradictions(&a.AllBGP()[i]) {
					if got = append(got, c.Field); c.Chosen != "a" || !slices.Equal(c.Ignored, []string{"b"}) {
						t.Errorf("%+v", c)
					}
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("%s: %v, want %v", a.AllBGP()[i].Name, got, tt.want)
				}
			}
		})
	}
}
