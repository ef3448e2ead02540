// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

func matching(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

var unreadable = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}

func advertisement(name string, spec v1alpha1.L2AdvertisementSpec) *v1alpha1.L2Advertisement {
	return &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

func TestScope(t *testing.T) {
	type spec = v1alpha1.L2AdvertisementSpec
	nodes := map[string]labels.Set{"a": {"zone": "1"}, "b": {"zone": "2"}}
	pools := map[string]labels.Set{"lan": {"tier": "1"}, "wan": {"tier": "2"}}
	web, db := labels.Set{"app": "web"}, labels.Set{"app": "db"}
	everywhere := map[string]int{"a": 0, "b": 0}
	ad := func(name string, nodes map[string]int) plan.Advertisement {
		return plan.Advertisement{Name: name, Nodes: nodes}
	}
	nowhere := plan.NewScope()
	for name, tt := range map[string]struct {
		specs    []spec
		pool     string
		services []labels.Set
		want     *plan.Scope
	}{
		"no advertisement, no scope":                    {pool: "lan"},
		"one that says nothing is for every pool":       {specs: []spec{{}}, pool: "lan", want: plan.NewScope(ad("0", everywhere))},
		"and for an address of no pool":                 {specs: []spec{{}}, pool: "", want: plan.NewScope(ad("0", everywhere))},
		"a pool by name":                                {specs: []spec{{Pools: []string{"lan"}}}, pool: "lan", want: plan.NewScope(ad("0", everywhere))},
		"another pool is not selected":                  {specs: []spec{{Pools: []string{"wan"}}}, pool: "lan"},
		"a pool that is gone has its name":              {specs: []spec{{Pools: []string{"old"}}}, pool: "old", want: plan.NewScope(ad("0", everywhere))},
		"and no labels":                                 {specs: []spec{{PoolSelector: matching("tier", "1")}}, pool: "old"},
		"a pool by label":                               {specs: []spec{{PoolSelector: matching("tier", "1")}}, pool: "lan", want: plan.NewScope(ad("0", everywhere))},
		"by name or by label":                           {specs: []spec{{Pools: []string{"wan"}, PoolSelector: matching("tier", "1")}}, pool: "lan", want: plan.NewScope(ad("0", everywhere))},
		"a selector that can't be read selects no pool": {specs: []spec{{PoolSelector: unreadable}}, pool: "lan"},
		"nodes by label":                                {specs: []spec{{NodeSelector: matching("zone", "1")}}, pool: "lan", want: plan.NewScope(ad("0", map[string]int{"a": 0}))},
		"a selector that can't be read selects no node": {specs: []spec{{NodeSelector: unreadable}}, pool: "lan", want: plan.NewScope(ad("0", map[string]int{}))},
		"preferences add up": {
			specs: []spec{{NodePreferences: []v1alpha1.NodePreference{{Weight: 10, NodeSelector: *matching("zone", "1")}, {Weight: 5}, {Weight: 90, NodeSelector: *unreadable}}}},
			pool:  "lan", want: plan.NewScope(ad("0", map[string]int{"a": 15, "b": 5})),
		},
		"the Service must match, too":                        {specs: []spec{{ServiceSelector: matching("app", "web")}}, pool: "lan", want: plan.NewScope(ad("0", everywhere))},
		"one that matches no Service announces none":         {specs: []spec{{ServiceSelector: matching("app", "db")}}, pool: "lan", want: nowhere},
		"and leaves other pools alone":                       {specs: []spec{{Pools: []string{"wan"}, ServiceSelector: matching("app", "db")}}, pool: "lan"},
		"one of two that match is enough":                    {specs: []spec{{ServiceSelector: matching("app", "db")}, {ServiceSelector: matching("app", "web")}}, pool: "lan", want: plan.NewScope(ad("1", everywhere))},
		"one Service of a shared address is enough":          {specs: []spec{{ServiceSelector: matching("app", "web")}}, pool: "lan", services: []labels.Set{db, web}, want: plan.NewScope(ad("0", everywhere))},
		"a Service selector that can't be read selects none": {specs: []spec{{ServiceSelector: unreadable}}, pool: "lan", want: nowhere},
		"several are a union": {
			specs: []spec{{NodeSelector: matching("zone", "1")}, {NodeSelector: matching("zone", "2"), Interfaces: []v1alpha1.InterfacePattern{"eth1"}}},
			pool:  "lan", want: plan.NewScope(ad("0", map[string]int{"a": 0}), plan.Advertisement{Name: "1", Nodes: map[string]int{"b": 0}, Interfaces: plan.Patterns{"eth1"}}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ads []*v1alpha1.L2Advertisement
			for i, s := range tt.specs {
				ads = append(ads, advertisement(fmt.Sprint(i), s))
			}
			if tt.services == nil {
				tt.services = []labels.Set{web}
			}
			a := NewAdvertising(Objects{L2: ads, Nodes: nodes, Pools: pools})
			got, bgp := a.Scope(tt.pool, tt.services)
			if bgp != nil {
				t.Errorf("without peers by BGP: %+v", bgp)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if again, _ := a.Scope(tt.pool, tt.services); again != got {
				t.Error("it is another for another address")
			}
		})
	}
}

func TestWhatCanNotBeReadIsSaid(t *testing.T) {
	a := NewAdvertising(Objects{L2: []*v1alpha1.L2Advertisement{advertisement("x", v1alpha1.L2AdvertisementSpec{
		PoolSelector: unreadable, ServiceSelector: unreadable, NodeSelector: unreadable,
		NodePreferences: []v1alpha1.NodePreference{{Weight: 1}, {Weight: 1, NodeSelector: *unreadable}},
	})}})
	want := []string{"spec.poolSelector:", "spec.serviceSelector:", "spec.nodeSelector:", "spec.nodePreferences[1].nodeSelector:"}
	invalid := a.All()[0].Invalid
	if len(invalid) != len(want) {
		t.Fatalf("got %v", invalid)
	}
	for i, err := range invalid {
		if !strings.HasPrefix(err.Error(), want[i]) {
			t.Errorf("got %q, want %s", err, want[i])
		}
	}
}

// A node's heartbeat must not have every address decided anew, and an edit must.
func TestEqualAdvertisingSaysTheSame(t *testing.T) {
	one := func(r *rand.Rand) labels.Set { return labels.Set{"l": fmt.Sprint(r.IntN(2))} }
	maybe := func(r *rand.Rand) *metav1.LabelSelector {
		switch r.IntN(5) {
		case 0, 1:
			return nil
		case 2:
			return &metav1.LabelSelector{}
		case 3:
			return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "l", Operator: "Nonsense"}}}
		}
		return matching("l", fmt.Sprint(r.IntN(2)))
	}
	random := func(r *rand.Rand) *Advertising {
		nodes, pools := map[string]labels.Set{}, map[string]labels.Set{}
		for i := range 1 + r.IntN(2) {
			nodes[fmt.Sprint("n", i)], pools[fmt.Sprint("p", i)] = one(r), one(r)
		}
		var ads []*v1alpha1.L2Advertisement
		for i := range r.IntN(2) {
			ads = append(ads, advertisement(fmt.Sprint(i), v1alpha1.L2AdvertisementSpec{PoolSelector: maybe(r), ServiceSelector: maybe(r), NodeSelector: maybe(r)}))
		}
		o := Objects{L2: ads, Nodes: nodes, Pools: pools}
		for i := range r.IntN(2) {
			o.Peers = append(o.Peers, peer(fmt.Sprint(i), one(r), v1alpha1.BGPPeerSpec{
				NodeSelector: maybe(r), Families: [][]v1alpha1.BGPFamily{nil, {"ipv4"}, {"ipv4", "ipv6"}}[r.IntN(3)],
			}))
		}
		for i := range r.IntN(2) {
			pref := r.Int64N(2)
			o.BGP = append(o.BGP, bgpAdvertisement(fmt.Sprint(i), v1alpha1.BGPAdvertisementSpec{
				PoolSelector: maybe(r), ServiceSelector: maybe(r), NodeSelector: maybe(r), PeerSelector: maybe(r), LocalPref: &pref,
			}))
		}
		return NewAdvertising(o)
	}
	says := func(a *Advertising) (all []any) {
		for _, pool := range []string{"p0", "p1", ""} {
			for l := range 3 {
				l2, bgp := a.Scope(pool, []labels.Set{{"l": fmt.Sprint(l)}})
				all = append(all, l2, bgp)
			}
		}
		return all
	}
	equal := 0
	r := rand.New(rand.NewPCG(1, 1))
	for range 30000 {
		a, b := random(r), random(r)
		if !a.Equal(b) {
			continue
		}
		equal++
		if !reflect.DeepEqual(says(a), says(b)) {
			t.Fatalf("equal are %+v and %+v", a.All(), b.All())
		}
	}
	if equal == 0 {
		t.Error("nothing was equal")
	}
}
