// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

// nodeOf returns a node with unknown links. As long as speakers don't hear each
// other, a node whose kubelet reports it Ready counts as alive.
func nodeOf(node *corev1.Node) plan.Node {
	n := plan.Node{
		Name:     node.Name,
		Cordoned: node.Spec.Unschedulable,
		Draining: node.DeletionTimestamp != nil,
	}
	_, n.Excluded = node.Labels[corev1.LabelNodeExcludeBalancers]
	for _, c := range node.Status.Conditions {
		switch c.Type {
		case corev1.NodeReady:
			n.Ready = c.Status == corev1.ConditionTrue
		case corev1.NodeNetworkUnavailable:
			n.NetworkUnavailable = c.Status == corev1.ConditionTrue
		}
	}
	n.Alive = n.Ready
	return n
}

// serviceOf returns the Service that a slice belongs to; its name is empty for
// a slice of none.
func serviceOf(es *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: es.Namespace, Name: es.Labels[discoveryv1.LabelServiceName]}
}

// endpointsOf returns the endpoints of a slice, those that are alike once, in
// an order of their own.
func endpointsOf(es *discoveryv1.EndpointSlice) []plan.Endpoint {
	out := make([]plan.Endpoint, 0, len(es.Endpoints))
	for _, e := range es.Endpoints {
		out = append(out, endpointOf(e))
	}
	slices.SortFunc(out, compareEndpoints)
	return slices.Clip(slices.Compact(out))
}

// endpointOf applies the defaults of the EndpointSlice API: an unknown Ready is
// true, an unknown Serving is as Ready, and an unknown Terminating is false.
func endpointOf(e discoveryv1.Endpoint) plan.Endpoint {
	ready := value(e.Conditions.Ready, true)
	return plan.Endpoint{
		Node:        value(e.NodeName, ""),
		Ready:       ready,
		Serving:     value(e.Conditions.Serving, ready),
		Terminating: value(e.Conditions.Terminating, false),
	}
}

func compareEndpoints(a, b plan.Endpoint) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), compareBools(a.Ready, b.Ready),
		compareBools(a.Serving, b.Serving), compareBools(a.Terminating, b.Terminating))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func value[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// strip is a cache transform that keeps what the setters of the store read. In
// a large cluster that is a hundredth of the whole.
func strip(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Service:
		return &corev1.Service{
			ObjectMeta: identity(o.ObjectMeta),
			Spec:       corev1.ServiceSpec{ExternalTrafficPolicy: o.Spec.ExternalTrafficPolicy},
		}, nil
	case *discoveryv1.EndpointSlice:
		es := &discoveryv1.EndpointSlice{ObjectMeta: identity(o.ObjectMeta), AddressType: o.AddressType}
		es.Labels = keep(o.Labels, discoveryv1.LabelServiceName)
		for _, e := range endpointsOf(o) {
			es.Endpoints = append(es.Endpoints, discoveryv1.Endpoint{
				NodeName:   optional(e.Node),
				Conditions: discoveryv1.EndpointConditions{Ready: &e.Ready, Serving: &e.Serving, Terminating: &e.Terminating},
			})
		}
		return es, nil
	case *corev1.Node:
		n := &corev1.Node{ObjectMeta: identity(o.ObjectMeta), Spec: corev1.NodeSpec{Unschedulable: o.Spec.Unschedulable}}
		n.Labels = keep(o.Labels, corev1.LabelNodeExcludeBalancers)
		n.DeletionTimestamp = o.DeletionTimestamp
		for _, c := range o.Status.Conditions {
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c.Type, Status: c.Status})
		}
		return n, nil
	case *v1alpha1.LoadBalancerIP:
		p := &v1alpha1.LoadBalancerIP{
			ObjectMeta: identity(o.ObjectMeta),
			Spec:       v1alpha1.LoadBalancerIPSpec{Address: o.Spec.Address, Owner: o.Spec.Owner},
			Status:     v1alpha1.LoadBalancerIPStatus{L2: o.Status.L2},
		}
		for _, b := range o.Spec.Services {
			p.Spec.Services = append(p.Spec.Services, v1alpha1.ServiceBinding{ServiceName: b.ServiceName})
		}
		return p, nil
	}
	return obj, nil
}

func identity(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion}
}

func keep(labels map[string]string, key string) map[string]string {
	if v, ok := labels[key]; ok {
		return map[string]string{key: v}
	}
	return nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
