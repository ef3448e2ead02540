// SPDX-License-Identifier: Apache-2.0

// Package kube reads Kubernetes objects in the terms of package plan, the same way for the controller and for speakers.
package kube

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

// drainTaints say that a node is about to go: ours, and those by which the
// cluster autoscaler and Karpenter empty a node that they remove.
var drainTaints = []string{v1alpha1.AnnotationDrain, "ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"}

// Node returns a node of which no speaker has told.
//
// It is draining if a person or a program said so; a cordon is no drain, and
// neither is node.kubernetes.io/out-of-service, which says that the node is off
// already.
func Node(node *corev1.Node) plan.Node {
	n := plan.Node{
		Name:     node.Name,
		Alive:    true,
		Mute:     true,
		Cordoned: node.Spec.Unschedulable,
		Draining: node.DeletionTimestamp != nil || node.Annotations[v1alpha1.AnnotationDrain] == "true" ||
			slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return slices.Contains(drainTaints, t.Key) }),
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
	return n
}

// Tell adds to a node what its speaker tells of it.
func Tell(n *plan.Node, speaker *v1alpha1.Speaker) {
	n.Links, n.LinksKnown = links(speaker)
	n.Mute = !n.LinksKnown
}

// links returns the links that a speaker tells of; false if it tells of none
// yet. What it leaves out can announce nothing.
func links(speaker *v1alpha1.Speaker) ([]plan.Link, bool) {
	var links []plan.Link
	for _, i := range speaker.Status.Interfaces {
		l := plan.Link{Name: i.Name, Up: i.Up, ARP: true, NDP: i.IPv6}
		for _, a := range i.Addresses {
			if p, err := netip.ParsePrefix(string(a)); err == nil {
				l.Prefixes = append(l.Prefixes, p)
			}
		}
		links = append(links, l)
	}
	return links, len(links) > 0
}

// ServiceOf returns the Service that a slice belongs to; its name is empty for
// a slice of none.
func ServiceOf(es *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: es.Namespace, Name: es.Labels[discoveryv1.LabelServiceName]}
}

// Endpoints returns the endpoints of a slice, those that are alike once, in an
// order of their own. The defaults of the EndpointSlice API are applied: an
// unknown Ready is true, an unknown Serving is as Ready, and an unknown
// Terminating is false.
func Endpoints(es *discoveryv1.EndpointSlice) []plan.Endpoint {
	out := make([]plan.Endpoint, 0, len(es.Endpoints))
	for _, e := range es.Endpoints {
		ready := value(e.Conditions.Ready, true)
		out = append(out, plan.Endpoint{
			Node:        value(e.NodeName, ""),
			Ready:       ready,
			Serving:     value(e.Conditions.Serving, ready),
			Terminating: value(e.Conditions.Terminating, false),
		})
	}
	slices.SortFunc(out, compareEndpoints)
	return slices.Clip(slices.Compact(out))
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
