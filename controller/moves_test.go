// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// claim records that a node announces an address, and shows it to the
// Controller if told to.
func (w *world) claim(ip, node string, term int64, seen bool) {
	w.t.Helper()
	obj := &v1alpha1.LoadBalancerIP{}
	if err := w.api.Get(w.ctx(), client.ObjectKey{Name: ip}, obj); err != nil {
		w.t.Fatal(err)
	}
	obj.Status.L2 = &v1alpha1.L2Claim{Node: node, Term: term, Since: metav1.NewTime(w.now)}
	if err := w.api.Status().Update(w.ctx(), obj); err != nil {
		w.t.Fatal(err)
	}
	if seen {
		w.c.ledger.observe(obj)
	}
}

// editNode changes a stored Node and shows the Controller all.
func (w *world) editNode(name string, f func(*corev1.Node)) {
	w.t.Helper()
	node := &corev1.Node{}
	if err := w.api.Get(w.ctx(), client.ObjectKey{Name: name}, node); err != nil {
		w.t.Fatal(err)
	}
	f(node)
	status := node.Status
	if err := w.api.Update(w.ctx(), node); err != nil {
		w.t.Fatal(err)
	}
	node.Status = status
	if err := w.api.Status().Update(w.ctx(), node); err != nil {
		w.t.Fatal(err)
	}
	w.sync()
}

// place looks at every address once. It returns the longest time after which
// one is to be looked at again.
func (w *world) place() (wait time.Duration) {
	w.t.Helper()
	for _, ip := range w.addresses() {
		result, err := w.c.reconcileAddress(w.ctx(), request(ip.Name))
		if err != nil {
			w.t.Fatal(err)
		}
		wait = max(wait, result.RequeueAfter)
	}
	return wait
}

// proposed counts the addresses by the node that is proposed.
func (w *world) proposed() map[string]int {
	counts := map[string]int{}
	for _, ip := range w.addresses() {
		counts[ip.Spec.Owner]++
	}
	return counts
}

func (w *world) wantOwner(ip, node string) {
	w.t.Helper()
	for _, obj := range w.addresses() {
		if obj.Name == ip && obj.Spec.Owner != node {
			w.t.Errorf("after %v %s is proposed for %q, want %q", w.now.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), ip, obj.Spec.Owner, node)
		}
	}
}

func drain(node *corev1.Node) { node.Annotations = map[string]string{v1alpha1.AnnotationDrain: "true"} }

// endpointsOn is the only slice of a Service.
func endpointsOn(service string, nodes ...string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, n := range nodes {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}, NodeName: &n})
	}
	return slice
}

func local(svc *corev1.Service) {
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func TestADrainSpreadsTheAddresses(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/27"), testNode("n1"))
	for i := range 12 {
		w.create(testService(fmt.Sprint("svc", i)))
		w.reconcile(fmt.Sprint("svc", i))
	}
	for _, ip := range w.addresses() {
		w.claim(ip.Name, "n1", 1, true)
	}
	w.create(testNode("n2"), testNode("n3"), testNode("n4"))
	w.sync()
	w.place()
	if got := w.proposed(); got["n1"] != 12 {
		t.Fatalf("before the drain %v", got)
	}
	w.editNode("n1", drain)
	w.place()
	for _, n := range []string{"n2", "n3", "n4"} {
		if got := w.proposed(); got[n] != 4 {
			t.Errorf("proposed %v", got)
		}
	}
	// Their claims come one by one, and count no second time.
	for i, ip := range w.addresses() {
		w.claim(ip.Name, ip.Spec.Owner, 2, true)
		w.create(testService(fmt.Sprint("more", i)))
		w.reconcile(fmt.Sprint("more", i))
	}
	for _, n := range []string{"n2", "n3", "n4"} {
		if got := w.proposed(); got[n] != 8 {
			t.Errorf("with twelve more %v", got)
		}
	}
	w.editNode("n1", func(n *corev1.Node) { n.Annotations = nil })
	writes := w.writes["update *v1alpha1.LoadBalancerIP"]
	w.place()
	if got := w.writes["update *v1alpha1.LoadBalancerIP"]; got != writes {
		t.Error("addresses move back after the drain")
	}
}

func TestARescueIsNotUndone(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testService("web"))
	w.reconcile("web")
	ip := w.addresses()[0].Name
	w.claim(ip, "n1", 1, true)
	w.create(testNode("n2"))
	w.editNode("n1", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
	w.place()
	w.wantOwner(ip, "n1") // who hears it alone knows
	w.claim(ip, "n2", 2, true)
	w.place()
	w.editNode("n1", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionTrue })
	w.place()
	w.wantOwner(ip, "n1")
	if n := w.writes["update *v1alpha1.LoadBalancerIP"]; n != 0 {
		t.Errorf("%d writes", n)
	}
	// It counts for the node that has it.
	w.create(testService("next"))
	w.reconcile("next")
	if got := w.proposed(); got["n1"] != 2 {
		t.Errorf("the next is proposed for n2: %v", got)
	}
}

// A proposal is for the claim that was read.
func TestAProposalMeetsNoOtherClaim(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testService("web"))
	w.reconcile("web")
	ip := w.addresses()[0].Name
	w.claim(ip, "n1", 1, true)
	w.create(testNode("n2"), testNode("n3"))
	w.editNode("n1", drain)
	w.claim(ip, "n3", 2, false) // a rescue that the cache has not seen
	if _, err := w.c.place(w.ctx(), w.c.ledger.known()[0]); err != nil {
		t.Fatal(err)
	}
	w.place()
	w.wantOwner(ip, "n1")
}

// Endpoints that come and go don't take the address along each time.
func TestMovesThatNobodyAskedForAreDamped(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testNode("n2"), testService("web", local), endpointsOn("web", "n1"))
	w.reconcile("web")
	ip := w.addresses()[0].Name
	term := int64(1)
	w.claim(ip, "n1", term, true)
	ends := []string{"n1", "n2"}
	flap := func(want time.Duration) {
		t.Helper()
		slices.Reverse(ends)
		slice := &discoveryv1.EndpointSlice{}
		if err := w.api.Get(w.ctx(), client.ObjectKey{Namespace: "default", Name: "web-1"}, slice); err != nil {
			t.Fatal(err)
		}
		slice.Endpoints = endpointsOn("web", ends[0]).Endpoints
		if err := w.api.Update(w.ctx(), slice); err != nil {
			t.Fatal(err)
		}
		if wait := w.place(); wait != want {
			t.Fatalf("term %d waits %v, want %v", term, wait, want)
		}
		if want > 0 {
			w.wantOwner(ip, ends[1])
			w.now = w.now.Add(want - time.Millisecond)
			if wait := w.place(); wait != time.Millisecond {
				t.Fatalf("term %d waits %v more", term, wait)
			}
			w.now = w.now.Add(time.Millisecond)
			w.place()
		}
		w.wantOwner(ip, ends[0])
		term++
		w.claim(ip, ends[0], term, true)
	}
	for _, want := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
		flap(want * time.Second)
	}
	w.now = w.now.Add(restTime + time.Second)
	flap(0)
	flap(minMovePause)
	// What somebody wants is done at once, and so is what must be.
	w.edit("web", func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = "" })
	w.editNode(ends[0], drain)
	w.place()
	w.wantOwner(ip, ends[1])
	w.claim(ip, ends[1], term+1, true)
	w.editNode(ends[0], func(n *corev1.Node) { n.Annotations = nil })
	if err := w.api.Delete(w.ctx(), testNode(ends[1])); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.place()
	w.wantOwner(ip, ends[0])
}

func testSpeaker(name string) *v1alpha1.Speaker {
	return &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.SpeakerStatus{
		Interfaces: []v1alpha1.Interface{{Name: "eth0", Up: true, IPv6: true, Addresses: []v1alpha1.InterfaceAddress{"192.0.2.1/24"}}},
	}}
}

func notReady(node *corev1.Node) *corev1.Node {
	node.Status.Conditions[0].Status = corev1.ConditionUnknown
	return node
}

// start makes a new leader of what is stored.
func (w *world) start() {
	w.t.Helper()
	w.c = w.controller()
	if err := w.c.fill(w.ctx()); err != nil {
		w.t.Fatal(err)
	}
}

// After a power cut one node is up first, and what it gets it keeps.
func TestPlacementWaitsForAClusterThatStarts(t *testing.T) {
	objects := []client.Object{testPool("lan", "192.0.2.0/24"), testNode("n1"), testSpeaker("n1")}
	for _, n := range []string{"n2", "n3"} {
		objects = append(objects, notReady(testNode(n)), testSpeaker(n))
	}
	for i := range 6 {
		objects = append(objects, testService(fmt.Sprint("svc", i)))
	}
	none := map[string]int{"": 6}
	begin := func(t *testing.T) *world {
		w := newWorld(t, objects...)
		w.start()
		for i := range 6 {
			w.reconcile(fmt.Sprint("svc", i))
		}
		if wait, got := w.place(), w.proposed(); wait <= 0 || wait > settleTime || fmt.Sprint(got) != fmt.Sprint(none) {
			t.Fatalf("proposed %v, waits %v", got, wait)
		}
		return w
	}
	t.Run("until all are there", func(t *testing.T) {
		w := begin(t)
		ready := func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionTrue }
		w.editNode("n2", ready)
		if w.place(); w.proposed()[""] != 6 {
			t.Errorf("with two of three %v", w.proposed())
		}
		w.editNode("n3", ready)
		w.place()
		if got := w.proposed(); got["n1"] != 2 || got["n2"] != 2 || got["n3"] != 2 {
			t.Errorf("with all %v", got)
		}
	})
	t.Run("or a minute", func(t *testing.T) {
		w := begin(t)
		w.now = w.now.Add(settleTime)
		if wait, got := w.place(), w.proposed(); wait != 0 || got["n1"] != 6 {
			t.Errorf("proposed %v, waits %v", got, wait)
		}
	})
	t.Run("not if only some are missing", func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/24"), testNode("n1"), testSpeaker("n1"), testNode("n2"), testSpeaker("n2"), notReady(testNode("n3")), testSpeaker("n3"), testService("web"))
		w.start()
		w.reconcile("web")
		if got := w.proposed(); got[""] != 0 || got["n3"] != 0 {
			t.Errorf("proposed %v", got)
		}
	})
}

func TestANodeWithoutASpeakerComesLast(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/24"), testNode("n1"), testNode("n2"), testSpeaker("n2"))
	w.start()
	give := func(from, to int) map[string]int {
		for i := from; i < to; i++ {
			w.create(testService(fmt.Sprint("svc", i)))
			w.reconcile(fmt.Sprint("svc", i))
		}
		return w.proposed()
	}
	// All have the same image to pull at first.
	if got := give(0, 4); got["n1"] != 2 {
		t.Errorf("at first %v", got)
	}
	w.now = w.now.Add(settleTime)
	w.sync()
	if got := give(4, 8); got["n1"] != 2 || got["n2"] != 6 {
		t.Errorf("later %v", got)
	}
}
