// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func TestPlacement(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testNode("n2"))
	for i := range 8 {
		w.create(testService(fmt.Sprint("svc", i)))
		w.reconcile(fmt.Sprint("svc", i))
	}
	owners := map[string][]string{}
	for _, ip := range w.addresses() {
		owners[ip.Spec.Owner] = append(owners[ip.Spec.Owner], ip.Name)
	}
	if len(owners["n1"]) != 4 || len(owners["n2"]) != 4 {
		t.Fatalf("owners %v", owners)
	}
	if err := w.api.Delete(w.ctx(), testNode("n1")); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.writes = map[string]int{}
	for _, ip := range w.addresses() {
		if _, err := w.c.reconcileAddress(w.ctx(), request(ip.Name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, ip := range w.addresses() {
		if ip.Spec.Owner != "n2" {
			t.Errorf("%s is proposed for %q", ip.Name, ip.Spec.Owner)
		}
	}
	if w.writes["update *v1alpha1.LoadBalancerIP"] != 4 {
		t.Errorf("writes %v: only the lost node's addresses move", w.writes)
	}
}

// A Local Service's first endpoint may show up while its address is being
// written, and the events of both may be handled before the API server's answer.
func TestPlacementWaitsForAWriteInFlight(t *testing.T) {
	synctest.Test(t, placementWaitsForAWriteInFlight)
}

func placementWaitsForAWriteInFlight(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testService("web", func(svc *corev1.Service) {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}))
	w.reconcile("web")
	ip := w.addresses()[0]
	if ip.Spec.Owner != "" {
		t.Fatalf("%s is proposed without an endpoint", ip.Spec.Owner)
	}
	addr := netip.MustParseAddr(ip.Spec.Address)
	inFlight := &write{object: ip.DeepCopy(), done: make(chan struct{})}
	w.c.ledger.mu.Lock()
	w.c.ledger.intendLocked(addr, inFlight)
	w.c.ledger.mu.Unlock()
	node := "n1"
	w.create(&discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node}},
	})
	placed := make(chan error)
	go func() {
		_, err := w.c.reconcileAddress(w.ctx(), request(ip.Name))
		placed <- err
	}()
	synctest.Wait()
	w.c.ledger.settle(addr, inFlight, nil)
	if err := <-placed; err != nil {
		t.Fatal(err)
	}
	if owner := w.addresses()[0].Spec.Owner; owner != "n1" {
		t.Errorf("proposed is %q", owner)
	}
}

func TestPlacementFollowsThePolicy(t *testing.T) {
	node := "n2"
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testNode(node), testService("web"), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node}},
	})
	w.reconcile("web")
	if owner := w.addresses()[0].Spec.Owner; owner != "n1" {
		t.Fatalf("proposed is %q", owner)
	}
	w.edit("web", func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	w.reconcile("web")
	for w.c.addresses.Len() > 0 {
		req, _ := w.c.addresses.Get()
		if _, err := w.c.reconcileAddress(w.ctx(), req); err != nil {
			t.Fatal(err)
		}
		w.c.addresses.Done(req)
	}
	if owner := w.addresses()[0].Spec.Owner; owner != node {
		t.Errorf("proposed is %q", owner)
	}
}

// Who shares an address and becomes Local must leave it. Until that is written the address has a Local Service, whose
// endpoints are no reason to move the others.
func TestPlacementWaitsForWhoCantShareAnyLonger(t *testing.T) {
	sharing := func(port int32) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			svc.Annotations = map[string]string{v1alpha1.AnnotationSharingKey: "k"}
			svc.Spec.Ports[0].Port = port
		}
	}
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testNode("n2"),
		testService("stays", sharing(80)), testService("leaves", sharing(443)), endpointsOn("leaves", "n2"))
	w.reconcile("stays", "leaves")
	ip := w.addresses()[0].Name
	w.claim(ip, "n1", 1, true)
	w.edit("leaves", local)
	w.place()
	w.wantOwner(ip, "n1")
	w.reconcile("leaves")
	w.place()
	w.wantOwner(ip, "n1")
	if all := w.addresses(); len(all) != 2 || all[1].Spec.Owner != "n2" {
		t.Errorf("the one that left should be where its endpoints are: %+v", all)
	}
}
