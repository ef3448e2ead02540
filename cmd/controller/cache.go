// SPDX-License-Identifier: Apache-2.0

package main

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// cacheOptions leaves out of the caches what nobody reads.
func cacheOptions() cache.Options {
	return cache.Options{
		DefaultTransform: strip,
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Node{}:               {Transform: stripNode},
			&discoveryv1.EndpointSlice{}: {Transform: stripEndpoints},
			// It is written as a whole: an annotation that is left out would be lost.
			&v1alpha1.LoadBalancerIP{}: {Transform: cache.TransformStripManagedFields()},
		},
	}
}

// strip drops the history of an object, which can be larger than the rest.
func strip(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil {
		o.SetManagedFields(nil)
		delete(o.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	}
	return obj, nil
}

// stripNode drops what makes Nodes large: images and attached volumes.
func stripNode(obj any) (any, error) {
	if node, ok := obj.(*corev1.Node); ok {
		node.Status.Images, node.Status.VolumesAttached, node.Status.VolumesInUse = nil, nil, nil
	}
	return strip(obj)
}

// stripEndpoints keeps where endpoints are and in what condition.
func stripEndpoints(obj any) (any, error) {
	if es, ok := obj.(*discoveryv1.EndpointSlice); ok {
		es.Ports = nil
		for i, e := range es.Endpoints {
			es.Endpoints[i] = discoveryv1.Endpoint{NodeName: e.NodeName, Conditions: e.Conditions}
		}
	}
	return strip(obj)
}
