// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func testAdvertisement(name string, spec v1alpha1.L2AdvertisementSpec) *v1alpha1.L2Advertisement {
	return &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

func labelled(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

func TestAnAdvertisementSaysWhatItLacks(t *testing.T) {
	pool := testPool("lan", "192.0.2.0/24")
	pool.Labels = map[string]string{"tier": "1"}
	type spec = v1alpha1.L2AdvertisementSpec
	for name, tt := range map[string]struct {
		spec    spec
		status  metav1.ConditionStatus
		reason  string
		message string
	}{
		"nothing":                           {spec{}, metav1.ConditionTrue, "Ready", "it selects pools, nodes and interfaces"},
		"nothing, by name and label":        {spec{Pools: []string{"lan"}, PoolSelector: labelled("tier", "1"), NodeSelector: labelled("zone", "1"), Interfaces: []v1alpha1.InterfacePattern{"eth*"}}, metav1.ConditionTrue, "Ready", "it selects pools, nodes and interfaces"},
		"one of the pools":                  {spec{Pools: []string{"lan", "wan"}}, metav1.ConditionTrue, "Ready", "there is no pool wan"},
		"its pool":                          {spec{Pools: []string{"wan"}}, metav1.ConditionFalse, "NoPool", "select no pool"},
		"pools with its label":              {spec{PoolSelector: labelled("tier", "2")}, metav1.ConditionFalse, "NoPool", "select no pool"},
		"nodes with its label":              {spec{NodeSelector: labelled("zone", "2")}, metav1.ConditionFalse, "NoNode", "spec.nodeSelector selects no node"},
		"its interface":                     {spec{Interfaces: []v1alpha1.InterfacePattern{"eth1"}}, metav1.ConditionFalse, "NoInterface", "no node that it selects has an interface that spec.interfaces allow"},
		"an interface that is not excluded": {spec{Interfaces: []v1alpha1.InterfacePattern{"!eth*"}}, metav1.ConditionFalse, "NoInterface", "no node that it selects has an interface that spec.interfaces allow"},
		"a selector that can be read":       {spec{ServiceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}}, metav1.ConditionFalse, "InvalidSelector", "spec.serviceSelector:"},
	} {
		t.Run(name, func(t *testing.T) {
			node := testNode("n1")
			node.Labels = map[string]string{"zone": "1"}
			w := newWorld(t, pool.DeepCopy(), node, testSpeaker("n1"), testAdvertisement("x", tt.spec))
			for range 2 {
				if err := w.c.reconcileNodes(w.ctx()); err != nil {
					t.Fatal(err)
				}
			}
			ad := &v1alpha1.L2Advertisement{}
			if err := w.api.Get(w.ctx(), client.ObjectKey{Name: "x"}, ad); err != nil {
				t.Fatal(err)
			}
			if len(ad.Status.Conditions) != 1 {
				t.Fatalf("conditions %+v", ad.Status.Conditions)
			}
			if c := ad.Status.Conditions[0]; c.Type != v1alpha1.L2AdvertisementReady || c.Status != tt.status || c.Reason != tt.reason || !strings.Contains(c.Message, tt.message) {
				t.Errorf("condition %+v", c)
			}
			if n := w.writes["patch *v1alpha1.L2Advertisement"]; n != 1 {
				t.Errorf("%d writes", n)
			}
		})
	}
}

func TestServicesSayWhatAdvertisementsKeepFromThem(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/24"), testNode("n1"), testSpeaker("n1"), testService("web"),
		testAdvertisement("x", v1alpha1.L2AdvertisementSpec{ServiceSelector: labelled("app", "web")}))
	announced := func(status metav1.ConditionStatus, reason, message string) {
		t.Helper()
		if err := w.c.reconcileNodes(w.ctx()); err != nil {
			t.Fatal(err)
		}
		w.place()
		w.sync()
		w.reconcile("web")
		if c := condition(w.service("web"), v1alpha1.ServiceAnnounced); c.Status != status || c.Reason != reason || !strings.Contains(c.Message, message) {
			t.Errorf("condition %+v, want %s %s: %s", c, status, reason, message)
		}
	}
	edit := func(spec v1alpha1.L2AdvertisementSpec) {
		t.Helper()
		ad := &v1alpha1.L2Advertisement{}
		if err := w.api.Get(w.ctx(), client.ObjectKey{Name: "x"}, ad); err != nil {
			t.Fatal(err)
		}
		ad.Spec = spec
		if err := w.api.Update(w.ctx(), ad); err != nil {
			t.Fatal(err)
		}
	}
	w.reconcile("web")
	ip := w.addresses()[0].Name
	announced(metav1.ConditionFalse, ReasonNoEligibleNode, "none of them a Service that holds it")
	w.wantOwner(ip, "")

	w.edit("web", func(svc *corev1.Service) { svc.Labels = map[string]string{"app": "web"} })
	announced(metav1.ConditionFalse, ReasonAwaitingClaim, "no node has claimed")
	w.wantOwner(ip, "n1")

	edit(v1alpha1.L2AdvertisementSpec{NodeSelector: labelled("zone", "2")})
	announced(metav1.ConditionFalse, ReasonNoEligibleNode, "is selected by L2Advertisement x")

	// What is announced stays, and says so.
	w.claim(ip, "n1", 1, true)
	announced(metav1.ConditionTrue, ReasonNotSelected, "announced on layer 2 where it was, although no node that could announce "+ip+" is selected by L2Advertisement x")
	w.wantOwner(ip, "n1")

	edit(v1alpha1.L2AdvertisementSpec{})
	announced(metav1.ConditionTrue, ReasonAnnounced, "announced on layer 2")

	// A node that fits is better than staying.
	other := testNode("n2")
	other.Labels = map[string]string{"zone": "2"}
	w.create(other, testSpeaker("n2"))
	edit(v1alpha1.L2AdvertisementSpec{NodeSelector: labelled("zone", "2")})
	announced(metav1.ConditionTrue, ReasonAnnounced, "announced on layer 2")
	w.wantOwner(ip, "n2")
}
