// SPDX-License-Identifier: Apache-2.0

package source

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// strip is a cache transform that keeps what the setters of the store read. In
// a large cluster that is a hundredth of the whole.
func strip(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Service:
		return &corev1.Service{
			ObjectMeta: labelled(o.ObjectMeta),
			Spec:       corev1.ServiceSpec{ExternalTrafficPolicy: o.Spec.ExternalTrafficPolicy},
		}, nil
	case *discoveryv1.EndpointSlice:
		es := &discoveryv1.EndpointSlice{ObjectMeta: identity(o.ObjectMeta), AddressType: o.AddressType}
		es.Labels = keep(o.Labels, discoveryv1.LabelServiceName)
		for _, e := range kube.Endpoints(o) {
			es.Endpoints = append(es.Endpoints, discoveryv1.Endpoint{
				NodeName:   optional(e.Node),
				Conditions: discoveryv1.EndpointConditions{Ready: &e.Ready, Serving: &e.Serving, Terminating: &e.Terminating},
			})
		}
		return es, nil
	case *corev1.Node:
		n := &corev1.Node{ObjectMeta: labelled(o.ObjectMeta), Spec: corev1.NodeSpec{Unschedulable: o.Spec.Unschedulable}}
		n.Annotations = keep(o.Annotations, v1alpha1.AnnotationDrain)
		n.DeletionTimestamp = o.DeletionTimestamp
		for _, t := range o.Spec.Taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: t.Key})
		}
		for _, c := range o.Status.Conditions {
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c.Type, Status: c.Status})
		}
		return n, nil
	case *v1alpha1.LoadBalancerIP:
		p := &v1alpha1.LoadBalancerIP{
			ObjectMeta: identity(o.ObjectMeta),
			Spec:       v1alpha1.LoadBalancerIPSpec{Address: o.Spec.Address, Pool: o.Spec.Pool, Owner: o.Spec.Owner},
			Status: v1alpha1.LoadBalancerIPStatus{
				L2: o.Status.L2, Verified: o.Status.Verified, Conflict: o.Status.Conflict,
			},
		}
		for _, c := range o.Status.Conditions {
			switch c.Type {
			case v1alpha1.AddressConflict, v1alpha1.AddressVerified:
				c.Message = ""
				p.Status.Conditions = append(p.Status.Conditions, c)
			}
		}
		for _, b := range o.Spec.Services {
			p.Spec.Services = append(p.Spec.Services, v1alpha1.ServiceBinding{ServiceName: b.ServiceName})
		}
		return p, nil
	case *v1alpha1.LoadBalancerIPPool:
		return &v1alpha1.LoadBalancerIPPool{
			ObjectMeta: labelled(o.ObjectMeta),
			Spec:       v1alpha1.LoadBalancerIPPoolSpec{Addresses: o.Spec.Addresses},
		}, nil
	case *v1alpha1.L2Advertisement:
		return &v1alpha1.L2Advertisement{ObjectMeta: identity(o.ObjectMeta), Spec: o.Spec}, nil
	case *v1alpha1.Speaker:
		return &v1alpha1.Speaker{ObjectMeta: identity(o.ObjectMeta), Spec: o.Spec, Status: o.Status}, nil
	}
	return obj, nil
}

func identity(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion}
}

func labelled(m metav1.ObjectMeta) metav1.ObjectMeta {
	is := identity(m)
	is.Labels = m.Labels
	return is
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
