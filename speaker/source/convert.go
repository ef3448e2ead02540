// SPDX-License-Identifier: Apache-2.0

package source

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// strip is a cache transform that keeps what the setters of the store read. In
// a large cluster that is a hundredth of the whole.
func strip(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Service:
		return keepService(o), nil
	case *discoveryv1.EndpointSlice:
		return keepSlice(o), nil
	case *v1alpha1.LoadBalancerIP:
		return keepIP(o), nil
	case *corev1.Node:
		n := &corev1.Node{ObjectMeta: labelled(o.ObjectMeta), Spec: corev1.NodeSpec{Unschedulable: o.Spec.Unschedulable}}
		n.Annotations = only(o.Annotations, v1alpha1.AnnotationDrain, v1alpha1.AnnotationBGPASN, v1alpha1.AnnotationBGPRouterID)
		n.DeletionTimestamp = o.DeletionTimestamp
		for _, t := range o.Spec.Taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: t.Key})
		}
		for _, c := range o.Status.Conditions {
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c.Type, Status: c.Status})
		}
		return n, nil
	case *v1alpha1.LoadBalancerIPPool:
		return &v1alpha1.LoadBalancerIPPool{
			ObjectMeta: labelled(o.ObjectMeta),
			Spec:       v1alpha1.LoadBalancerIPPoolSpec{Addresses: o.Spec.Addresses},
		}, nil
	case *v1alpha1.L2Advertisement:
		return &v1alpha1.L2Advertisement{ObjectMeta: identity(o.ObjectMeta), Spec: o.Spec}, nil
	case *v1alpha1.BGPPeer:
		return &v1alpha1.BGPPeer{ObjectMeta: labelled(o.ObjectMeta), Spec: o.Spec}, nil
	case *v1alpha1.BGPAdvertisement:
		return &v1alpha1.BGPAdvertisement{ObjectMeta: identity(o.ObjectMeta), Spec: o.Spec}, nil
	case *v1alpha1.BFDProfile:
		return &v1alpha1.BFDProfile{ObjectMeta: identity(o.ObjectMeta), Spec: o.Spec}, nil
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

func only(annotations map[string]string, keys ...string) map[string]string {
	var kept map[string]string
	for _, key := range keys {
		if v, ok := annotations[key]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[key] = v
		}
	}
	return kept
}
