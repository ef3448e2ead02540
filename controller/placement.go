// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

// endpointsByService is the cache's index of EndpointSlices.
const endpointsByService = "service"

func indexEndpointsByService(obj client.Object) []string {
	if name := obj.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
		return []string{name}
	}
	return nil
}

// endpoints is a Service as placement sees it.
type endpoints = plan.Service

// endpointsOf reads what placement needs to know of a Service. Only for
// externalTrafficPolicy Local do the endpoints matter.
func (c *Controller) endpointsOf(ctx context.Context, svc *corev1.Service) endpoints {
	s := plan.Service{
		Namespace: svc.Namespace,
		Name:      svc.Name,
		Local:     svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	if !s.Local {
		return s
	}
	var slices discoveryv1.EndpointSliceList
	if err := c.client.List(ctx, &slices, client.InNamespace(svc.Namespace), client.MatchingFields{endpointsByService: svc.Name}); err != nil {
		// The cache fails only while it stops.
		return s
	}
	for i := range slices.Items {
		for _, e := range slices.Items[i].Endpoints {
			s.Endpoints = append(s.Endpoints, endpointOf(e))
		}
	}
	return s
}

// endpointOf applies the defaults of the EndpointSlice API to an endpoint.
func endpointOf(e discoveryv1.Endpoint) plan.Endpoint {
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	out := plan.Endpoint{Ready: ready, Serving: ready}
	if e.Conditions.Serving != nil {
		out.Serving = *e.Conditions.Serving
	}
	if e.Conditions.Terminating != nil {
		out.Terminating = *e.Conditions.Terminating
	}
	if e.NodeName != nil {
		out.Node = *e.NodeName
	}
	return out
}

// nodeOf is a Node as placement sees it. Its speaker counts as alive while the
// node is Ready.
func nodeOf(node *corev1.Node) plan.Node {
	n := plan.Node{Name: node.Name, Cordoned: node.Spec.Unschedulable, Draining: node.DeletionTimestamp != nil}
	for _, cond := range node.Status.Conditions {
		switch cond.Type {
		case corev1.NodeReady:
			n.Ready = cond.Status == corev1.ConditionTrue
		case corev1.NodeNetworkUnavailable:
			n.NetworkUnavailable = cond.Status == corev1.ConditionTrue
		}
	}
	_, n.Excluded = node.Labels[corev1.LabelNodeExcludeBalancers]
	n.Alive = n.Ready
	return n
}

// readNodes takes the nodes from the cache. It reports whether placement could
// differ from before.
func (c *Controller) readNodes(ctx context.Context) (bool, error) {
	var list corev1.NodeList
	if err := c.client.List(ctx, &list); err != nil {
		return false, err
	}
	nodes := make([]plan.Node, 0, len(list.Items))
	for i := range list.Items {
		nodes = append(nodes, nodeOf(&list.Items[i]))
	}
	slices.SortFunc(nodes, func(a, b plan.Node) int { return cmp.Compare(a.Name, b.Name) })
	before := c.nodes.Swap(&nodes)
	return before == nil || !slices.EqualFunc(*before, nodes, samePlacement), nil
}

func samePlacement(a, b plan.Node) bool {
	return a.Name == b.Name && a.Alive == b.Alive && a.Ready == b.Ready && a.Draining == b.Draining &&
		a.Excluded == b.Excluded && a.Cordoned == b.Cordoned && a.NetworkUnavailable == b.NetworkUnavailable
}

// proposeLocked sets the owner of an object that is being bound, unless it has
// one that is good. known is the Service that is being bound; the others on a
// shared address are read from the cache.
func (c *Controller) proposeLocked(ctx context.Context, obj *v1alpha1.LoadBalancerIP, addr netip.Addr, known endpoints) {
	a := planAddress(obj, addr, func(name types.NamespacedName) endpoints {
		if name.Namespace == known.Namespace && name.Name == known.Name {
			return known
		}
		return c.serviceEndpoints(ctx, name)
	})
	nodes := *c.nodes.Load()
	if _, ok := plan.Owner(a, nodes); ok {
		return
	}
	if node, ok := plan.Propose(a, nodes, c.ledger.counts); ok {
		obj.Spec.Owner = node
	}
}

// serviceEndpoints is endpointsOf for a Service that is read from the cache.
func (c *Controller) serviceEndpoints(ctx context.Context, name types.NamespacedName) endpoints {
	var svc corev1.Service
	if err := c.client.Get(ctx, name, &svc); err != nil {
		return endpoints{Namespace: name.Namespace, Name: name.Name}
	}
	return c.endpointsOf(ctx, &svc)
}

// planAddress is an address as placement sees it.
func planAddress(obj *v1alpha1.LoadBalancerIP, addr netip.Addr, service func(types.NamespacedName) endpoints) plan.Address {
	a := plan.Address{Addr: addr, Proposed: obj.Spec.Owner}
	if claim := obj.Status.L2; claim != nil {
		a.Claim = plan.Claim{Node: claim.Node, Term: claim.Term}
	}
	for _, b := range obj.Spec.Services {
		a.Services = append(a.Services, service(types.NamespacedName{Namespace: b.Namespace, Name: b.Name}))
	}
	return a
}
