// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// follower knows of a cluster what the differences between States say.
type follower struct {
	node  string
	table *plan.Table
	peers []kube.Peer
}

func (f *follower) take(st State) {
	changed := st.Changed
	if st.NodesChanged {
		changed = slices.Collect(maps.Keys(st.Addresses))
	}
	own := slices.IndexFunc(st.Nodes, func(n plan.Node) bool { return n.Name == f.node })
	for _, addr := range changed {
		var does plan.Announced
		if own >= 0 {
			a := st.Addresses[addr]
			does, _ = plan.BGP(&a.Address, &st.Nodes[own], st.Nodes)
		}
		f.table.Set(addr, does)
	}
	for _, addr := range st.Gone {
		f.table.Set(addr, plan.Announced{})
	}
	if st.PeeringChanged {
		f.peers = st.Peering.Of(f.node)
	}
}

// randomObject is of any kind that has a say in what is announced by BGP.
func randomObject(rnd *rand.Rand) client.Object {
	pick := func(prefix string) string { return fmt.Sprint(prefix, rnd.IntN(2)) }
	maybe := func(key, prefix string) *metav1.LabelSelector {
		switch rnd.IntN(4) {
		case 0, 1:
			return nil
		case 2:
			return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: "Nonsense"}}}
		}
		return &metav1.LabelSelector{MatchLabels: map[string]string{key: pick(prefix)}}
	}
	switch rnd.IntN(12) {
	case 0, 1, 2:
		return node(pick("n"), func(n *corev1.Node) {
			n.Labels = map[string]string{"zone": pick("z")}
			if rnd.IntN(3) == 0 {
				n.Labels[corev1.LabelNodeExcludeBalancers] = ""
			}
			if rnd.IntN(3) == 0 {
				n.Annotations = map[string]string{v1alpha1.AnnotationDrain: "true"}
			}
			for _, c := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeNetworkUnavailable} {
				is := corev1.ConditionFalse
				if rnd.IntN(2) == 0 {
					is = corev1.ConditionTrue
				}
				n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c, Status: is})
			}
		})
	case 3:
		svc := service(pick("s"), rnd.IntN(3) == 0)
		svc.Labels = map[string]string{"app": pick("a")}
		return svc
	case 4, 5:
		s := pick("s")
		var on []discoveryv1.Endpoint
		for range rnd.IntN(3) {
			e := readyOn(pick("n"))
			e.Conditions.Ready = new(rnd.IntN(2) == 0)
			on = append(on, e)
		}
		return endpointSlice(s+pick("-"), s, on...)
	case 6, 7:
		return lbip(pick("192.0.2."), heldBy(pick("s")))
	case 8:
		return pool("lan", map[string]string{"tier": pick("t")})
	case 9:
		p := bgpPeer(pick("p"), func(s *v1alpha1.BGPPeerSpec) { s.NodeSelector = maybe("zone", "z") })
		p.Labels = map[string]string{"rack": pick("r")}
		return p
	case 10:
		ad := &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: pick("ad")}}
		switch rnd.IntN(6) { // one difference at a time
		case 0:
			ad.Spec.PoolSelector = maybe("tier", "t")
		case 1, 2:
			ad.Spec.ServiceSelector = maybe("app", "a")
		case 3:
			ad.Spec.NodeSelector = maybe("zone", "z")
		case 4:
			ad.Spec.PeerSelector = maybe("rack", "r")
		case 5:
			ad.Spec.RequireEndpoints, ad.Spec.AggregationLength = new(rnd.IntN(2) == 0), new(24+rnd.Int32N(2)*8)
		}
		return ad
	}
	return speaker(pick("n"), func(s *v1alpha1.Speaker) {
		if rnd.IntN(3) > 0 {
			s.Status.Interfaces = []v1alpha1.Interface{{Name: "eth0"}}
		}
	})
}

// Whoever takes each difference knows the same as somebody who reads the whole
// cluster now; and of the nodes together somebody announces what one can.
func TestWhoFollowsDifferencesKnowsTheWhole(t *testing.T) {
	announced := 0
	for seed := range uint64(120) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := knowing(filled())
		objects := map[string]client.Object{}
		var all []*follower
		for i := range 2 {
			all = append(all, &follower{node: fmt.Sprint("n", i), table: plan.NewTable()})
		}
		for step := range 120 {
			obj := randomObject(rnd)
			key := fmt.Sprintf("%T %s", obj, obj.GetName())
			gone := rnd.IntN(3) == 0
			if _, is := objects[key]; gone && !is {
				continue
			}
			if gone {
				delete(objects, key)
			} else {
				objects[key] = obj
			}
			change(s, obj, gone)
			if rnd.IntN(3) > 0 {
				continue // changes come in bursts
			}
			st, _ := s.state()
			fresh, _ := knowing(filled(slices.Collect(maps.Values(objects))...)).state()
			for _, f := range all {
				f.take(st)
				whole := &follower{node: f.node, table: plan.NewTable()}
				whole.take(fresh)
				if got, want := f.table.Routes(), whole.table.Routes(); !equalRoutes(got, want) {
					t.Fatalf("seed %d, step %d: node %s announces\n%+v\nwant\n%+v", seed, step, f.node, got, want)
				}
				if !reflect.DeepEqual(f.peers, whole.peers) {
					t.Fatalf("seed %d, step %d: node %s has peers\n%+v\nwant\n%+v", seed, step, f.node, f.peers, whole.peers)
				}
			}
			announced += somebodyStays(t, st)
		}
	}
	if announced == 0 {
		t.Error("nothing was announced")
	}
}

func equalRoutes(a, b map[string]plan.Told) bool {
	same := func(a, b []plan.Route) bool { return slices.EqualFunc(a, b, plan.Route.Equal) }
	return maps.EqualFunc(a, b, func(x, y plan.Told) bool { return same(x.Stay, y.Stay) && same(x.Leave, y.Leave) })
}

// somebodyStays makes sure that each address that one node alone would announce
// is announced, and returns how many are.
func somebodyStays(t *testing.T, st State) (n int) {
	t.Helper()
	for _, a := range st.Addresses {
		able, stays := false, false
		for i := range st.Nodes {
			alone, _ := plan.BGP(&a.Address, &st.Nodes[i], st.Nodes[i:i+1])
			does, _ := plan.BGP(&a.Address, &st.Nodes[i], st.Nodes)
			able = able || !alone.None()
			stays = stays || !does.None() && !does.Leaving
		}
		if able != stays {
			t.Fatalf("%s could be announced: %v, is: %v, by %+v", a.Addr, able, stays, st.Nodes)
		}
		if stays {
			n++
		}
	}
	return n
}
