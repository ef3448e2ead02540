// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func testBGPAdvertisement(name string, spec v1alpha1.BGPAdvertisementSpec) *v1alpha1.BGPAdvertisement {
	return &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

// bgpConditions returns those of a stored BGPAdvertisement.
func (w *world) bgpConditions(name string) []metav1.Condition {
	w.t.Helper()
	ad := &v1alpha1.BGPAdvertisement{}
	if err := w.api.Get(w.ctx(), client.ObjectKey{Name: name}, ad); err != nil {
		w.t.Fatal(err)
	}
	return ad.Status.Conditions
}

func TestABGPAdvertisementSaysWhatItLacks(t *testing.T) {
	type spec = v1alpha1.BGPAdvertisementSpec
	const fine = "it selects pools, nodes and peers"
	for name, tt := range map[string]struct {
		spec            spec
		noPeer          bool
		status          metav1.ConditionStatus
		reason, message string
	}{
		"nothing":                     {spec{}, false, metav1.ConditionTrue, "Ready", fine},
		"nothing, by name and label":  {spec{Pools: []string{"lan"}, NodeSelector: labelled("zone", "1"), PeerSelector: labelled("rack", "1")}, false, metav1.ConditionTrue, "Ready", fine},
		"one of the names":            {spec{Pools: []string{"lan", "wan"}, Peers: []string{"gone", "p"}}, false, metav1.ConditionTrue, "Ready", fine + "; there is no pool wan; there is no BGPPeer gone"},
		"its pool":                    {spec{Pools: []string{"wan"}}, false, metav1.ConditionFalse, "NoPool", "select no pool"},
		"nodes with its label":        {spec{NodeSelector: labelled("zone", "2")}, false, metav1.ConditionFalse, "NoNode", "spec.nodeSelector selects no node"},
		"its peer":                    {spec{Peers: []string{"gone"}}, false, metav1.ConditionFalse, "NoPeer", "no node that it selects has a BGPPeer"},
		"a peer of its nodes":         {spec{Peers: []string{"elsewhere"}}, false, metav1.ConditionFalse, "NoPeer", "no node that it selects has a BGPPeer"},
		"any peer":                    {spec{}, true, metav1.ConditionFalse, "NoPeer", "there is no BGPPeer"},
		"a selector that can be read": {spec{PeerSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}}, false, metav1.ConditionFalse, "Invalid", "spec.peerSelector:"},
	} {
		t.Run(name, func(t *testing.T) {
			node := testNode("n1")
			node.Labels = map[string]string{"zone": "1"}
			objects := []client.Object{testPool("lan", "192.0.2.0/24"), node, testBGPAdvertisement("x", tt.spec)}
			if !tt.noPeer {
				peer := testPeer("p")
				peer.Labels = map[string]string{"rack": "1"}
				objects = append(objects, peer, testPeer("elsewhere", func(s *v1alpha1.BGPPeerSpec) { s.NodeSelector = labelled("zone", "9") }))
			}
			w := newWorld(t, objects...)
			for range 2 {
				if err := w.c.reconcileNodes(w.ctx()); err != nil {
					t.Fatal(err)
				}
			}
			conditions := w.bgpConditions("x")
			if len(conditions) != 1 {
				t.Fatalf("conditions %+v", conditions)
			}
			if c := conditions[0]; c.Type != v1alpha1.BGPAdvertisementReady || c.Status != tt.status || c.Reason != tt.reason || !strings.Contains(c.Message, tt.message) {
				t.Errorf("condition %+v", c)
			}
			if n := w.writes["patch *v1alpha1.BGPAdvertisement"]; n != 1 {
				t.Errorf("%d writes", n)
			}
		})
	}
}

func TestContradictionsAreToldAndTakenBack(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/24"), testNode("n1"), testPeer("p"),
		testBGPAdvertisement("a", v1alpha1.BGPAdvertisementSpec{LocalPref: new(int64(1))}),
		testBGPAdvertisement("b", v1alpha1.BGPAdvertisementSpec{LocalPref: new(int64(2))}),
		testBGPAdvertisement("c", v1alpha1.BGPAdvertisementSpec{}))
	says := func(name string, status metav1.ConditionStatus, message string) {
		t.Helper()
		if err := w.c.reconcileNodes(w.ctx()); err != nil {
			t.Fatal(err)
		}
		c := meta.FindStatusCondition(w.bgpConditions(name), v1alpha1.BGPAdvertisementContradicts)
		switch {
		case status == "" && c == nil:
		case c == nil || c.Status != status || !strings.Contains(c.Message, message):
			t.Errorf("%s: condition %+v", name, c)
		}
	}
	says("a", metav1.ConditionTrue, "BGPAdvertisement b sets another localPref for the same routes to the same peers: this one's counts")
	says("b", metav1.ConditionTrue, "BGPAdvertisement a sets another localPref for the same routes to the same peers: that one's counts")
	says("c", "", "")
	b := &v1alpha1.BGPAdvertisement{}
	if err := w.api.Get(w.ctx(), client.ObjectKey{Name: "b"}, b); err != nil {
		t.Fatal(err)
	}
	b.Spec.LocalPref = nil
	if err := w.api.Update(w.ctx(), b); err != nil {
		t.Fatal(err)
	}
	says("a", metav1.ConditionFalse, "no other")
	says("b", metav1.ConditionFalse, "no other")
}
