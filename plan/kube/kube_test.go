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
		"a ready node is ready":                 {corev1.Node{Status: corev1.NodeStatus{Conditions: ready}}, plan.Node{Ready: true}},
		"an unknown Ready is not ready":         {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}}, plan.Node{}},
		"a cordoned node is unschedulable":      {corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}, plan.Node{Cordoned: true}},
		"the label excludes whatever its value": {corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelNodeExcludeBalancers: "false"}}}, plan.Node{Excluded: true}},
		"a network that is not set up":          {corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue}}}}, plan.Node{NetworkUnavailable: true}},
		"an annotation drains":                  {corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationDrain: "true"}}}, plan.Node{Draining: true}},
		"an annotation that says no does not":   {corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationDrain: "false"}}}, plan.Node{}},
		"our taint drains":                      {tainted(v1alpha1.AnnotationDrain), plan.Node{Draining: true}},
		"the cluster autoscaler's taint drains": {tainted("ToBeDeletedByClusterAutoscaler"), plan.Node{Draining: true}},
		"Karpenter's taint drains":              {tainted("karpenter.sh/disrupted"), plan.Node{Draining: true}},
		"a cordon's taint does not":             {tainted(corev1.TaintNodeUnschedulable), plan.Node{}},
		"a node that is off is not emptied":     {tainted(corev1.TaintNodeOutOfService), plan.Node{}},
		"a node on its way out drains":          {corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}, plan.Node{Draining: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Node(&tc.node)
			tc.want.Alive, tc.want.Mute = true, true
			if !got.Equal(tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func tainted(key string) corev1.Node {
	return corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: key, Effect: corev1.TaintEffectNoSchedule}}}}
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

func TestTell(t *testing.T) {
	n := Node(&corev1.Node{})
	if Tell(&n, &v1alpha1.Speaker{}); n.LinksKnown || !n.Mute {
		t.Errorf("a Speaker that tells nothing tells %+v", n)
	}
	Tell(&n, &v1alpha1.Speaker{Status: v1alpha1.SpeakerStatus{Interfaces: []v1alpha1.Interface{
		{Name: "eth0", MAC: "02:00:00:00:00:01", Up: true, IPv6: true, Addresses: []v1alpha1.InterfaceAddress{"192.0.2.1/24", "garbage", "2001:db8::1/64"}},
		{Name: "eth1"},
	}}})
	want := []plan.Link{
		{Name: "eth0", Up: true, ARP: true, NDP: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		{Name: "eth1", ARP: true},
	}
	if !n.LinksKnown || n.Mute || !slices.EqualFunc(n.Links, want, plan.Link.Equal) {
		t.Errorf("got %+v\nwant %+v", n, want)
	}
}
