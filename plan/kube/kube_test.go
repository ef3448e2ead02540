// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

func TestNode(t *testing.T) {
	ready := []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	for name, tc := range map[string]struct {
		node corev1.Node
		want plan.Node
	}{
		"a node that says nothing is not ready": {want: plan.Node{}},
		"a ready node is alive":                 {corev1.Node{Status: corev1.NodeStatus{Conditions: ready}}, plan.Node{Ready: true, Alive: true}},
		"an unknown Ready is not ready":         {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}}, plan.Node{}},
		"a cordoned node is unschedulable":      {corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}, plan.Node{Cordoned: true}},
		"the label excludes whatever its value": {corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelNodeExcludeBalancers: "false"}}}, plan.Node{Excluded: true}},
		"a network that is not set up":          {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue}}}}, plan.Node{NetworkUnavailable: true}},
		"a node on its way out drains":          {corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}, plan.Node{Draining: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Node(&tc.node)
			if got.Ready != tc.want.Ready || got.Alive != tc.want.Alive || got.Cordoned != tc.want.Cordoned ||
				got.Excluded != tc.want.Excluded || got.NetworkUnavailable != tc.want.NetworkUnavailable || got.Draining != tc.want.Draining || got.LinksKnown {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestEndpoints(t *testing.T) {
	yes, no, n1 := true, false, "n1"
	es := &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{
		{NodeName: &n1, Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}},
		{NodeName: &n1},
		{NodeName: &n1, Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
		{Conditions: discoveryv1.EndpointConditions{Ready: &no}},
	}}
	want := []plan.Endpoint{
		{},
		{Node: "n1", Ready: true, Serving: true},
		{Node: "n1", Serving: true, Terminating: true},
	}
	if got := Endpoints(es); !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestLinks(t *testing.T) {
	if links, known := Links(&v1alpha1.Speaker{}); known {
		t.Errorf("a Speaker that tells nothing knows %+v", links)
	}
	links, known := Links(&v1alpha1.Speaker{Status: v1alpha1.SpeakerStatus{Interfaces: []v1alpha1.Interface{
		{Name: "eth0", MAC: "02:00:00:00:00:01", Up: true, Addresses: []v1alpha1.InterfaceAddress{"192.0.2.1/24", "garbage", "2001:db8::1/64"}},
		{Name: "eth1"},
	}}})
	want := []plan.Link{
		{Name: "eth0", Up: true, ARP: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		{Name: "eth1", ARP: true},
	}
	same := func(a, b plan.Link) bool {
		return a.Name == b.Name && a.Up == b.Up && a.ARP == b.ARP && slices.Equal(a.Prefixes, b.Prefixes)
	}
	if !known || !slices.EqualFunc(links, want, same) {
		t.Errorf("got %+v %v\nwant %+v", links, known, want)
	}
}
