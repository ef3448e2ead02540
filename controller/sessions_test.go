// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func testPeer(name string, edits ...func(*v1alpha1.BGPPeerSpec)) *v1alpha1.BGPPeer {
	p := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BGPPeerSpec{PeerASN: "64513", PeerAddress: "192.0.2.254"}}
	for _, edit := range edits {
		edit(&p.Spec)
	}
	return p
}

// session is one that is established, for IPv4, or else one that is not because
// of the error.
func session(peer, lastError string, edits ...func(*v1alpha1.BGPSession)) v1alpha1.BGPSession {
	s := v1alpha1.BGPSession{Peer: peer, Neighbor: "192.0.2.254", State: v1alpha1.BGPEstablished, Families: []v1alpha1.BGPFamily{"ipv4"}}
	if lastError != "" {
		s.State, s.Families, s.LastError = v1alpha1.BGPActive, nil, lastError
	}
	for _, edit := range edits {
		edit(&s)
	}
	return s
}

func held(reason string) func(*v1alpha1.BGPSession) {
	return func(s *v1alpha1.BGPSession) { s.State, s.Reason, s.Neighbor = v1alpha1.BGPHeld, reason, "" }
}

// speaking is a Speaker that tells of sessions.
func speaking(name string, sessions ...v1alpha1.BGPSession) *v1alpha1.Speaker {
	s := testSpeaker(name)
	s.Status.BGP = sessions
	return s
}

func TestAPeerSaysHowItsSessionsAre(t *testing.T) {
	away := testNode("n2")
	away.Status.Conditions[0].Status = corev1.ConditionUnknown
	profile := &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "fast"}}
	selecting := func(key, value string) func(*v1alpha1.BGPPeerSpec) {
		return func(s *v1alpha1.BGPPeerSpec) { s.NodeSelector = labelled(key, value) }
	}
	bfd := func(s *v1alpha1.BGPPeerSpec) { s.BFDProfile = "fast" }
	for name, tt := range map[string]struct {
		peer                  *v1alpha1.BGPPeer
		others                []client.Object
		established, expected int32
		reason, message       string
	}{
		"all are established": {testPeer("p"), []client.Object{testNode("n1"), testNode("n2"), speaking("n1", session("p", "")), speaking("n2", session("q", "refused"), session("p", ""))}, 2, 2, "Established", "every session"},
		"a node has two":      {testPeer("p"), []client.Object{testNode("n1"), speaking("n1", session("p", ""), session("p", ""))}, 2, 2, "Established", "every session"},
		"one lacks a family": {testPeer("p"), []client.Object{testNode("n1"), speaking("n1", session("p", "", func(s *v1alpha1.BGPSession) {
			s.Reason, s.LastError = "NoNextHop", "no IPv6 routes to 192.0.2.254"
		}))}, 1, 1, "Established", "of node n1 a part is missing: no IPv6 routes to 192.0.2.254"},
		"one is not":                              {testPeer("p"), []client.Object{testNode("n1"), testNode("n2"), speaking("n1", session("p", "connection refused")), speaking("n2", session("p", ""))}, 1, 2, "NotEstablished", "1 of 2 sessions are established; that of node n1 with 192.0.2.254 is not: connection refused"},
		"one is held":                             {testPeer("p"), []client.Object{testNode("n1"), testNode("n2"), speaking("n1", session("p", "connection refused")), speaking("n2", session("p", "there is no Secret x", held("SecretNotFound")))}, 0, 2, "SecretNotFound", "that of node n2 is not: there is no Secret x"},
		"one is being begun":                      {testPeer("p"), []client.Object{testNode("n1"), speaking("n1", session("p", "x", func(s *v1alpha1.BGPSession) { s.LastError = "" }))}, 0, 1, "NotEstablished", "it is being begun"},
		"one was not told of":                     {testPeer("p"), []client.Object{testNode("n1"), speaking("n1")}, 0, 1, "NotEstablished", "its speaker has told of none yet"},
		"what a dead node told is old":            {testPeer("p"), []client.Object{testNode("n1"), away, speaking("n1", session("p", "")), speaking("n2", session("p", ""))}, 1, 2, "NotEstablished", "node n2 with 192.0.2.254 is not: the node is not Ready"},
		"a node without a speaker isn't expected": {testPeer("p"), []client.Object{testNode("n1"), testNode("n2"), speaking("n1", session("p", ""))}, 1, 1, "Established", ""},
		"no speaker at all":                       {testPeer("p"), []client.Object{testNode("n1")}, 0, 0, "NoSpeaker", "no speaker has told"},
		"no node":                                 {testPeer("p"), nil, 0, 0, "NoNode", "there is no node"},
		"no node that it selects":                 {testPeer("p", selecting("zone", "2")), []client.Object{testNode("n1"), speaking("n1", session("p", ""))}, 0, 0, "NoNode", "spec.nodeSelector selects no node"},
		"a selector that can't be read": {testPeer("p", func(s *v1alpha1.BGPPeerSpec) {
			s.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}
		}), []client.Object{testNode("n1")}, 0, 0, "InvalidSelector", "spec.nodeSelector:"},
		"a profile that isn't there": {testPeer("p", bfd), []client.Object{testNode("n1"), speaking("n1", session("p", ""))}, 1, 1, "NoBFDProfile", "without BFD"},
		"a profile that is there":    {testPeer("p", bfd), []client.Object{testNode("n1"), speaking("n1", session("p", "")), profile}, 1, 1, "Established", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, append(tt.others, tt.peer.DeepCopy())...)
			for range 2 {
				if err := w.c.reconcileNodes(w.ctx()); err != nil {
					t.Fatal(err)
				}
				w.now = w.now.Add(time.Hour)
			}
			p := &v1alpha1.BGPPeer{}
			if err := w.api.Get(w.ctx(), client.ObjectKey{Name: "p"}, p); err != nil {
				t.Fatal(err)
			}
			if s := p.Status.Sessions; s == nil || s.Established != tt.established || s.Expected != tt.expected {
				t.Errorf("sessions %+v", s)
			}
			status := metav1.ConditionFalse
			if tt.reason == "Established" {
				status = metav1.ConditionTrue
			}
			if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.BGPPeerReady); c == nil || c.Status != status || c.Reason != tt.reason || !strings.Contains(c.Message, tt.message) {
				t.Errorf("condition %+v", c)
			}
			if n := w.writes["patch *v1alpha1.BGPPeer"]; n != 1 {
				t.Errorf("%d writes", n)
			}
		})
	}
}

func TestServicesSayHowBGPAnnouncesThem(t *testing.T) {
	backends := func(ready bool) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{NodeName: new("n1"), Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		}
	}
	// The pool is on no network of the nodes.
	w := newWorld(t, testPool("wan", "198.51.100.0/24"), testNode("n1"), testNode("n2"), speaking("n1"), speaking("n2"), testService("web"), backends(false))
	says := func(what string, status metav1.ConditionStatus, reason, message string) {
		t.Helper()
		if err := w.c.reconcileNodes(w.ctx()); err != nil {
			t.Fatal(err)
		}
		w.place()
		w.sync()
		w.reconcile("web")
		if c := condition(w.service("web"), v1alpha1.ServiceAnnounced); c.Status != status || c.Reason != reason || c.Message != message {
			t.Errorf("%s: condition %+v, want %s %s: %s", what, c, status, reason, message)
		}
	}
	update := func(objects ...client.Object) {
		t.Helper()
		for _, obj := range objects {
			stored := obj.DeepCopyObject().(client.Object)
			if err := w.api.Get(w.ctx(), client.ObjectKeyFromObject(obj), stored); err != nil {
				t.Fatal(err)
			}
			obj.SetResourceVersion(stored.GetResourceVersion())
			if err := w.api.Update(w.ctx(), obj); err != nil {
				t.Fatal(err)
			}
		}
	}
	const offLink = "no node has an interface on the network of 198.51.100.0"
	w.reconcile("web")
	says("layer 2 alone", metav1.ConditionFalse, ReasonNoEligibleNode, offLink)
	w.create(testPeer("p"))
	says("without endpoints", metav1.ConditionFalse, ReasonNoEligibleNode, offLink+"; no endpoint of default/web takes traffic")
	update(backends(true))
	says("without a session", metav1.ConditionFalse, ReasonNoSession, "no node that may announce 198.51.100.0 by BGP has a session with a peer that it goes to")
	update(speaking("n1", session("p", "", func(s *v1alpha1.BGPSession) { s.Families = []v1alpha1.BGPFamily{"ipv6"} })))
	says("with a session for IPv6", metav1.ConditionFalse, ReasonNoSession, "no node that may announce 198.51.100.0 by BGP has a session with a peer that it goes to")
	update(speaking("n1", session("q", "")))
	says("with a session of another peer", metav1.ConditionFalse, ReasonNoSession, "no node that may announce 198.51.100.0 by BGP has a session with a peer that it goes to")
	update(speaking("n2", session("p", "")))
	says("with a session", metav1.ConditionTrue, ReasonAnnounced, "198.51.100.0 announced by BGP")

	// Local counts the node's own endpoints.
	w.edit("web", func(svc *corev1.Service) {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	says("Local", metav1.ConditionFalse, ReasonNoSession, "no node that may announce 198.51.100.0 by BGP has a session with a peer that it goes to")
	w.edit("web", func(svc *corev1.Service) {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	})

	ad := &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: v1alpha1.BGPAdvertisementSpec{Peers: []string{"q"}}}
	w.create(ad)
	says("advertised to others", metav1.ConditionFalse, ReasonNoEligibleNode, "no node has a BGPPeer that is selected by BGPAdvertisement x")
	ad.Spec.Peers = []string{"p"}
	update(ad)
	says("advertised", metav1.ConditionTrue, ReasonAnnounced, "198.51.100.0 announced by BGP")

	// Only layer 2 is to announce it now.
	if err := w.api.Delete(w.ctx(), ad); err != nil {
		t.Fatal(err)
	}
	w.create(testAdvertisement("lan", v1alpha1.L2AdvertisementSpec{}))
	says("advertised on layer 2", metav1.ConditionFalse, ReasonNoEligibleNode, "no node selected by L2Advertisement lan has an interface on the network of 198.51.100.0")
}

func TestAnAddressMayBeAnnouncedInBothWays(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/24"), testNode("n1"), speaking("n1", session("p", "")), testPeer("p"), testService("web"),
		&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{}},
		})
	w.reconcile("web")
	if err := w.c.reconcileNodes(w.ctx()); err != nil {
		t.Fatal(err)
	}
	ip := w.addresses()[0].Name
	says := func(reason, message string) {
		t.Helper()
		w.reconcile("web")
		if c := condition(w.service("web"), v1alpha1.ServiceAnnounced); c.Status != metav1.ConditionTrue || c.Reason != reason || c.Message != message {
			t.Errorf("condition %+v", c)
		}
	}
	says(ReasonAnnounced, ip+" announced by BGP")
	w.claim(ip, "n1", 1, true)
	says(ReasonAnnounced, ip+" announced on layer 2 and by BGP")

	// What is claimed stays, also where only BGP is to announce it.
	w.create(&v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "x"}})
	if err := w.c.reconcileNodes(w.ctx()); err != nil {
		t.Fatal(err)
	}
	says(ReasonAnnounced, ip+" announced on layer 2 and by BGP")
	speaker := &v1alpha1.Speaker{}
	if err := w.api.Get(w.ctx(), types.NamespacedName{Name: "n1"}, speaker); err != nil {
		t.Fatal(err)
	}
	speaker.Status.BGP = nil
	if err := w.api.Update(w.ctx(), speaker); err != nil {
		t.Fatal(err)
	}
	if err := w.c.reconcilePeers(w.ctx()); err != nil {
		t.Fatal(err)
	}
	if w.c.services.Len() == 0 {
		t.Error("nobody is told that a session is gone")
	}
	says(ReasonNotSelected, ip+" announced on layer 2 where it was, although only BGPAdvertisements select the pool of "+ip+", and no L2Advertisement")
}

// What is so when the controller starts is no event, only what changes then.
func TestSessionsThatComeAndGoAreEvents(t *testing.T) {
	w := newWorld(t, testPeer("p"), testNode("n1"), testNode("n2"), speaking("n1", session("p", "")), speaking("n2", session("p", "refused")))
	reconcile := func(want ...string) {
		t.Helper()
		if err := w.c.reconcileNodes(w.ctx()); err != nil {
			t.Fatal(err)
		}
		if got := w.told(); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	reconcile()
	for node, now := range map[string]v1alpha1.BGPSession{"n1": session("p", "hold timer expired"), "n2": session("p", "")} {
		s := &v1alpha1.Speaker{}
		if err := w.api.Get(w.ctx(), client.ObjectKey{Name: node}, s); err != nil {
			t.Fatal(err)
		}
		s.Status.BGP = []v1alpha1.BGPSession{now}
		if err := w.api.Update(w.ctx(), s); err != nil {
			t.Fatal(err)
		}
	}
	reconcile("Normal SessionEstablished the session of node n2 is established", "Warning SessionLost the session of node n1 is established no longer")
	reconcile()
}
