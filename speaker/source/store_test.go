// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

func node(name string, edits ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	for _, edit := range edits {
		edit(n)
	}
	return n
}

func condition(t corev1.NodeConditionType, s corev1.ConditionStatus) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: t, Status: s, LastHeartbeatTime: metav1.Now()})
	}
}

func service(name string, local bool) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	if local {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	return s
}

func endpointSlice(name, service string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	es := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints}
	if service != "" {
		es.Labels = map[string]string{discoveryv1.LabelServiceName: service, "other": "label"}
	}
	return es
}

func readyOn(node string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}, NodeName: &node}
}

func lbip(addr string, edits ...func(*v1alpha1.LoadBalancerIP)) *v1alpha1.LoadBalancerIP {
	p := &v1alpha1.LoadBalancerIP{ObjectMeta: metav1.ObjectMeta{Name: addr, ResourceVersion: "1"}}
	p.Spec.Address, p.Spec.Pool = addr, "lan"
	for _, edit := range edits {
		edit(p)
	}
	return p
}

func heldBy(names ...string) func(*v1alpha1.LoadBalancerIP) {
	return func(p *v1alpha1.LoadBalancerIP) {
		for _, n := range names {
			p.Spec.Services = append(p.Spec.Services, v1alpha1.ServiceBinding{ServiceName: v1alpha1.ServiceName{Namespace: "default", Name: n}, UID: "u"})
		}
	}
}

func claimed(node string, term int64) func(*v1alpha1.LoadBalancerIP) {
	return func(p *v1alpha1.LoadBalancerIP) {
		p.Status.L2 = &v1alpha1.L2Claim{Node: node, Term: term, Interface: "eth0"}
	}
}

// change sets or, with gone, removes an object in a store as the informers do.
func change(s *store, obj client.Object, gone bool) bool {
	stripped, err := strip(obj)
	if err != nil {
		panic(err)
	}
	var old any
	if gone {
		old, stripped = stripped, nil
	}
	switch obj.(type) {
	case *corev1.Node:
		return onObject(s.setNode)(old, stripped)
	case *corev1.Service:
		return onObject(s.setService)(old, stripped)
	case *discoveryv1.EndpointSlice:
		return onObject(s.setSlice)(old, stripped)
	case *v1alpha1.LoadBalancerIP:
		return onObject(s.setIP)(old, stripped)
	case *v1alpha1.LoadBalancerIPPool:
		return onObject(s.setPool)(old, stripped)
	case *v1alpha1.L2Advertisement:
		return onObject(s.setAdvertisement)(old, stripped)
	case *v1alpha1.Speaker:
		return onObject(s.setSpeaker)(old, stripped)
	case *v1alpha1.BGPPeer:
		return onObject(s.setPeer)(old, stripped)
	case *v1alpha1.BGPAdvertisement:
		return onObject(s.setBGPAdvertisement)(old, stripped)
	case *v1alpha1.BFDProfile:
		return onObject(s.setProfile)(old, stripped)
	}
	panic(fmt.Sprintf("%T", obj))
}

func filled(objects ...client.Object) *store {
	s := newStore()
	for _, o := range objects {
		change(s, o, false)
	}
	s.reach(complete)
	return s
}

// seen is what a State says, in an order that can be compared.
type seen struct {
	Nodes     []plan.Node
	Addresses []plan.Address
	Records   map[netip.Addr]Record
	Speakers  []string
	Peers     map[string][]kube.Peer // of each node
}

func sorted(t *testing.T, s *store) seen {
	t.Helper()
	st, ok := s.state()
	if !ok {
		t.Fatal("the state is not complete")
	}
	v := seen{Nodes: st.Nodes, Records: map[netip.Addr]Record{}}
	for addr, a := range st.Addresses {
		for j := range a.Services {
			slices.SortFunc(a.Services[j].Endpoints, func(a, b plan.Endpoint) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
		v.Addresses, v.Records[addr] = append(v.Addresses, a.Address), a.Record
	}
	for _, s := range st.Speakers {
		v.Speakers = append(v.Speakers, s.Name)
	}
	if st.Peering != nil {
		v.Peers = map[string][]kube.Peer{}
		for _, n := range st.Nodes {
			v.Peers[n.Name] = st.Peering.Of(n.Name)
		}
	}
	slices.SortFunc(v.Addresses, func(a, b plan.Address) int { return a.Addr.Compare(b.Addr) })
	return v
}

func advertisement(name string, edits ...func(*v1alpha1.L2AdvertisementSpec)) *v1alpha1.L2Advertisement {
	ad := &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, edit := range edits {
		edit(&ad.Spec)
	}
	return ad
}

func pool(name string, labels map[string]string) *v1alpha1.LoadBalancerIPPool {
	return &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

var sameAddr = gocmp.Options{gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }), gocmp.Comparer(sameScope),
	gocmp.Comparer(func(a, b *plan.BGPScope) bool { return reflect.DeepEqual(a, b) })}

func sameScope(a, b *plan.Scope) bool { return reflect.DeepEqual(a, b) }

func TestNodes(t *testing.T) {
	now := metav1.Now()
	for name, tt := range map[string]struct {
		node *corev1.Node
		want plan.Node
	}{
		"a Ready node is Ready":                    {node("a"), plan.Node{Ready: true}},
		"a node that was never Ready is not":       {node("a", func(n *corev1.Node) { n.Status.Conditions = nil }), plan.Node{}},
		"a node that isn't Ready is not":           {node("a", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }), plan.Node{}},
		"a node that nobody knows of is not":       {node("a", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }), plan.Node{}},
		"a node without a network says so":         {node("a", condition(corev1.NodeNetworkUnavailable, corev1.ConditionTrue)), plan.Node{Ready: true, NetworkUnavailable: true}},
		"a node with a network has it":             {node("a", condition(corev1.NodeNetworkUnavailable, corev1.ConditionFalse)), plan.Node{Ready: true}},
		"a cordoned node is cordoned":              {node("a", func(n *corev1.Node) { n.Spec.Unschedulable = true }), plan.Node{Ready: true, Cordoned: true}},
		"an excluded node is excluded":             {node("a", func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""} }), plan.Node{Ready: true, Excluded: true}},
		"a node that is being deleted is draining": {node("a", func(n *corev1.Node) { n.DeletionTimestamp = &now }), plan.Node{Ready: true, Draining: true}},
		"an annotation drains a node":              {node("a", func(n *corev1.Node) { n.Annotations = map[string]string{v1alpha1.AnnotationDrain: "true"} }), plan.Node{Ready: true, Draining: true}},
		"a taint drains a node": {node("a", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: v1alpha1.AnnotationDrain, Effect: corev1.TaintEffectNoExecute}}
		}), plan.Node{Ready: true, Draining: true}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.want.Name, tt.want.Alive = "a", true
			if diff := gocmp.Diff([]plan.Node{tt.want}, sorted(t, filled(tt.node)).Nodes); diff != "" {
				t.Errorf("node (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	yes, no := true, false
	terminating := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}}
	ready := plan.Endpoint{Node: "a", Ready: true, Serving: true}
	ipv6 := endpointSlice("web-6", "web", readyOn("b"))
	ipv6.AddressType = discoveryv1.AddressTypeIPv6
	for name, tt := range map[string]struct {
		objects []client.Object
		want    plan.Address
		record  Record
	}{
		"a reserved address has no Services": {
			objects: []client.Object{lbip("192.0.2.1")},
			want:    plan.Address{},
		},
		"owner and claim are read": {
			objects: []client.Object{lbip("192.0.2.1", claimed("a", 3), func(p *v1alpha1.LoadBalancerIP) { p.Spec.Owner = "b" })},
			want:    plan.Address{Proposed: "b", Claim: plan.Claim{Node: "a", Term: 3}},
			record:  Record{Claim: &v1alpha1.L2Claim{Node: "a", Term: 3, Interface: "eth0"}},
		},
		"a Service that isn't there doesn't count": {
			objects: []client.Object{lbip("192.0.2.1", heldBy("gone", "web")), service("web", false)},
			want:    plan.Address{Services: []plan.Service{{Namespace: "default", Name: "web"}}},
		},
		"endpoints don't matter for Cluster": {
			objects: []client.Object{lbip("192.0.2.1", heldBy("web")), service("web", false), endpointSlice("web-1", "web", readyOn("a"))},
			want:    plan.Address{Services: []plan.Service{{Namespace: "default", Name: "web"}}},
		},
		"endpoints of several slices count for Local, equal ones once": {
			objects: []client.Object{
				lbip("192.0.2.1", heldBy("web")), service("web", true),
				endpointSlice("web-1", "web", readyOn("a"), terminating, readyOn("a")), endpointSlice("web-2", "web", readyOn("b")),
				endpointSlice("other-1", "other", readyOn("c")), endpointSlice("nobodys", "", readyOn("d")),
			},
			want: plan.Address{Services: []plan.Service{{Namespace: "default", Name: "web", Local: true, Endpoints: []plan.Endpoint{
				{Serving: true, Terminating: true}, ready, {Node: "b", Ready: true, Serving: true},
			}}}},
		},
		"an IPv4 address takes traffic to IPv4 endpoints": {
			objects: []client.Object{lbip("192.0.2.1", heldBy("web")), service("web", true), endpointSlice("web-4", "web", readyOn("a")), ipv6},
			want:    plan.Address{Services: []plan.Service{{Namespace: "default", Name: "web", Local: true, Endpoints: []plan.Endpoint{ready}}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := netip.MustParseAddr("192.0.2.1")
			st := sorted(t, filled(tt.objects...))
			tt.want.Addr = addr
			if diff := gocmp.Diff([]plan.Address{tt.want}, st.Addresses, sameAddr); diff != "" {
				t.Errorf("address (-want +got):\n%s", diff)
			}
			tt.record.Name, tt.record.ResourceVersion, tt.record.Status.L2 = "192.0.2.1", "1", tt.record.Claim
			if diff := gocmp.Diff(map[netip.Addr]Record{addr: tt.record}, st.Records, sameAddr); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		})
	}
}

// What makes no difference must wake nobody up.
func TestOnlyWhatMattersIsAChange(t *testing.T) {
	s := filled(node("a"), service("web", true), service("idle", true), service("cluster", false),
		endpointSlice("web-1", "web", readyOn("a")), lbip("192.0.2.1", heldBy("web", "cluster")))
	for _, tt := range []struct {
		name string
		obj  client.Object
		gone bool
		want bool
	}{
		{"a node's heartbeat", node("a", condition(corev1.NodeDiskPressure, corev1.ConditionFalse)), false, false},
		{"a node's cordon", node("a", func(n *corev1.Node) { n.Spec.Unschedulable = true }), false, true},
		{"another node", node("b"), false, true},
		{"a node's end", node("b"), true, true},
		{"a Service without an address", service("more", true), false, false},
		{"the same Service", service("web", true), false, false},
		{"another policy", service("cluster", true), false, true},
		{"and back", service("cluster", false), false, true},
		{"endpoints without an address", endpointSlice("idle-1", "idle", readyOn("a")), false, false},
		{"endpoints of a Cluster Service", endpointSlice("cluster-1", "cluster", readyOn("a")), false, false},
		{"the same endpoints", endpointSlice("web-1", "web", readyOn("a"), readyOn("a")), false, false},
		{"other endpoints", endpointSlice("web-1", "web", readyOn("b")), false, true},
		{"an empty slice's end", endpointSlice("cluster-1", "cluster"), true, false},
		{"the last slice's end", endpointSlice("web-1", "web", readyOn("b")), true, true},
		{"a Service's end", service("web", true), true, true},
		{"a claim", lbip("192.0.2.1", heldBy("web"), claimed("a", 1)), false, true},
		{"an address's end", lbip("192.0.2.1", heldBy("web")), true, true},
		{"a Service that lost its address", service("cluster", true), false, false},
	} {
		if got := change(s, tt.obj, tt.gone); got != tt.want {
			t.Errorf("%s: changed is %v", tt.name, got)
		}
	}
}

func TestASliceMayGoToAnotherService(t *testing.T) {
	s := filled(service("a", true), service("b", true), lbip("192.0.2.1", heldBy("a")), lbip("192.0.2.2", heldBy("b")))
	before, after := keepSlice(endpointSlice("x", "a", readyOn("n"))), keepSlice(endpointSlice("x", "b", readyOn("n")))
	if !s.setSlice(nil, before) || !s.setSlice(before, after) {
		t.Error("not seen as a change")
	}
	st := sorted(t, s)
	if n := len(st.Addresses[0].Services[0].Endpoints); n != 0 {
		t.Errorf("the one it left has %d endpoints", n)
	}
	if n := len(st.Addresses[1].Services[0].Endpoints); n != 1 {
		t.Errorf("the one it went to has %d endpoints", n)
	}
}

func TestTheStateIsNotShownBeforeItIsComplete(t *testing.T) {
	s := newStore()
	if change(s, node("a"), false) {
		t.Error("a change is told")
	}
	if _, ok := s.state(); ok {
		t.Error("there is a state")
	}
}

// What is needed to meet others is told before the many addresses are read, and
// told again with them.
func TestAnOutlineComesFirst(t *testing.T) {
	s := newStore()
	kubernetes := service("kubernetes", false)
	kubernetes.UID = "1234"
	change(s, node("a"), false)
	change(s, kubernetes, false)
	change(s, lbip("192.0.2.1"), false)
	s.reach(outlined)
	st, ok := s.state()
	if !ok || !st.Partial || st.Cluster != "1234" || len(st.Nodes) != 1 || len(st.Addresses)+len(st.Changed) != 0 {
		t.Fatalf("outlined: %v, %+v", ok, st)
	}
	if change(s, lbip("192.0.2.2"), false) {
		t.Error("an address is told before the last one was read")
	}
	s.reach(complete)
	st, ok = s.state()
	if !ok || st.Partial || !st.NodesChanged || !st.ScopesChanged || len(st.Addresses) != 2 || len(st.Changed) != 2 {
		t.Fatalf("complete: %v, %+v", ok, st)
	}
}

// Informers of different kinds are not in step: whatever order their events
// come in, the last of each object decides.
func TestAnyOrderOfEventsEndsInTheSameState(t *testing.T) {
	type event struct {
		obj  client.Object
		gone bool
	}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		pick := func(prefix string) string { return fmt.Sprint(prefix, rnd.IntN(4)) }
		// Each object has its own events, in order; the last stays.
		histories := map[string][]event{}
		for range 60 {
			var obj client.Object
			switch rnd.IntN(10) {
			case 0:
				obj = node(pick("n"), func(n *corev1.Node) {
					n.Annotations = map[string]string{v1alpha1.AnnotationBGPASN: pick("6451")}
					n.Spec.Unschedulable, n.Labels = rnd.IntN(2) == 0, map[string]string{"zone": pick("z")}
				})
			case 1:
				svc := service(pick("s"), rnd.IntN(2) == 0)
				svc.Labels = map[string]string{"app": pick("a")}
				obj = svc
			case 2:
				s := pick("s")
				obj = endpointSlice(s+pick("-"), s, readyOn(pick("n")), readyOn(pick("n")))
			case 3:
				obj = lbip(pick("192.0.2."), heldBy(pick("s")), claimed(pick("n"), rnd.Int64N(9)))
			case 4:
				obj = pool([]string{"lan", "wan"}[rnd.IntN(2)], map[string]string{"tier": pick("t")})
			case 5:
				obj = advertisement(pick("ad"), func(s *v1alpha1.L2AdvertisementSpec) {
					s.PoolSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": pick("t")}}
					s.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick("a")}}
					s.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"zone": pick("z")}}
				})
			case 6:
				p := bgpPeer(pick("p"), func(s *v1alpha1.BGPPeerSpec) {
					s.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"zone": pick("z")}}
					s.BFDProfile = pick("f")
				})
				p.Labels = map[string]string{"rack": pick("r")}
				obj = p
			case 7:
				obj = &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: pick("ad")}, Spec: v1alpha1.BGPAdvertisementSpec{
					PoolSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": pick("t")}},
					PeerSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"rack": pick("r")}},
				}}
			case 8:
				obj = &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: pick("f")}, Spec: v1alpha1.BFDProfileSpec{DetectMultiplier: rnd.Int32N(9)}}
			case 9:
				obj = speaker(pick("n"), func(s *v1alpha1.Speaker) { s.Status.Interfaces = []v1alpha1.Interface{{Name: pick("eth")}} })
			}
			key := fmt.Sprintf("%T %s", obj, obj.GetName())
			histories[key] = append(histories[key], event{obj, rnd.IntN(4) == 0})
		}
		run := func() seen {
			s := newStore()
			left := maps.Clone(histories)
			for len(left) > 0 {
				keys := slices.Sorted(maps.Keys(left))
				k := keys[rnd.IntN(len(keys))]
				change(s, left[k][0].obj, left[k][0].gone)
				if left[k] = left[k][1:]; len(left[k]) == 0 {
					delete(left, k)
				}
				if rnd.IntN(9) == 0 {
					s.completeBGP()
				}
				if rnd.IntN(5) == 0 {
					s.reach(complete)
					s.state() // what was read between is not kept
				}
			}
			s.reach(complete)
			s.completeBGP()
			return sorted(t, s)
		}
		if diff := gocmp.Diff(run(), run(), sameAddr); diff != "" {
			t.Fatalf("seed %d: two orders differ:\n%s", seed, diff)
		}
	}
}

// A speaker decides again about what it is told of, and about nothing else.
func TestAStateTellsWhatChanged(t *testing.T) {
	labelled := func(obj client.Object, labels map[string]string) client.Object {
		obj.SetLabels(labels)
		return obj
	}
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	s := filled(node("a"), service("web", true), service("more", false), lbip("192.0.2.1", heldBy("web")), lbip("192.0.2.2", heldBy("more")), speaker("a"))
	webOnly := advertisement("lan", func(s *v1alpha1.L2AdvertisementSpec) {
		s.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		s.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"zone": "1"}}
	})
	type edit struct {
		obj  client.Object
		gone bool
	}
	for _, tt := range []struct {
		name            string
		do              []edit
		changed, gone   []netip.Addr
		nodes, speakers bool
	}{
		{name: "the first is all", changed: []netip.Addr{one, two}, nodes: true, speakers: true},
		{name: "nothing"},
		{name: "endpoints", do: []edit{{obj: endpointSlice("x", "web", readyOn("a"))}}, changed: []netip.Addr{one}},
		{name: "two events of one address", do: []edit{{obj: lbip("192.0.2.2", claimed("a", 1))}, {obj: lbip("192.0.2.2", heldBy("more"), claimed("a", 2))}}, changed: []netip.Addr{two}},
		{name: "a cordon", do: []edit{{obj: node("a", func(n *corev1.Node) { n.Spec.Unschedulable = true })}}, nodes: true},
		{name: "labels that nothing selects by", do: []edit{{obj: labelled(node("a"), map[string]string{"zone": "1"})}}, nodes: true},
		{name: "the MAC of an interface", do: []edit{{obj: speaker("a", func(s *v1alpha1.Speaker) { s.Status.Interfaces = []v1alpha1.Interface{{Name: "eth0"}} })}}, nodes: true, speakers: true},
		{name: "a carrier", do: []edit{{obj: speaker("a", func(s *v1alpha1.Speaker) { s.Status.Interfaces = []v1alpha1.Interface{{Name: "eth0", Up: true}} })}}, speakers: true},
		{name: "an advertisement", do: []edit{{obj: webOnly}}, changed: []netip.Addr{one, two}},
		{name: "a Service's labels", do: []edit{{obj: labelled(service("web", true), map[string]string{"app": "web"})}}, changed: []netip.Addr{one}},
		{name: "a label that decides nothing", do: []edit{{obj: labelled(node("a"), map[string]string{"zone": "1", "rack": "2"})}}, nodes: true},
		{name: "a label that is selected by", do: []edit{{obj: labelled(node("a"), map[string]string{"zone": "2"})}}, changed: []netip.Addr{one, two}, nodes: true},
		{name: "an address that goes", do: []edit{{obj: lbip("192.0.2.2"), gone: true}}, gone: []netip.Addr{two}},
		{name: "one that comes and goes", do: []edit{{obj: lbip("192.0.2.3")}, {obj: lbip("192.0.2.3"), gone: true}}},
		{name: "one that goes and comes", do: []edit{{obj: lbip("192.0.2.1"), gone: true}, {obj: lbip("192.0.2.1", heldBy("web"))}}, changed: []netip.Addr{one}},
	} {
		for _, c := range tt.do {
			change(s, c.obj, c.gone)
		}
		st, _ := s.state()
		slices.SortFunc(st.Changed, netip.Addr.Compare)
		if !slices.Equal(st.Changed, tt.changed) || !slices.Equal(st.Gone, tt.gone) || st.NodesChanged != tt.nodes || st.SpeakersChanged != tt.speakers {
			t.Errorf("%s: changed %v, gone %v, nodes %v, speakers %v", tt.name, st.Changed, st.Gone, st.NodesChanged, st.SpeakersChanged)
		}
	}
}

func TestTheClusterHasAName(t *testing.T) {
	api := service("kubernetes", false)
	api.UID = "1234"
	s := filled()
	if !change(s, api, false) || change(s, api, false) {
		t.Error("it is told once")
	}
	if st, _ := s.state(); st.Cluster != "1234" {
		t.Errorf("it is %q", st.Cluster)
	}
}

func BenchmarkStateOf5000Addresses(b *testing.B) {
	s := newStore()
	for i := range 5000 {
		name := fmt.Sprint("svc-", i)
		change(s, service(name, true), false)
		change(s, endpointSlice(name+"-1", name, readyOn("a"), readyOn("b")), false)
		change(s, lbip(fmt.Sprintf("10.0.%d.%d", i/250, i%250), heldBy(name)), false)
	}
	s.reach(complete)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		change(s, endpointSlice("svc-7-1", "svc-7", readyOn(fmt.Sprint(i))), false)
		s.state()
	}
}
