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
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// endpointsByService is the cache's index of EndpointSlices.
const endpointsByService = "service"

func indexEndpointsByService(obj client.Object) []string {
	if name := obj.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
		return []string{name}
	}
	return nil
}

// serviceOf reads what placement of an address needs to know of a Service that
// holds it. Only for externalTrafficPolicy Local do the endpoints matter. A
// Service that the cache doesn't have yet asks for nothing.
func (c *Controller) serviceOf(ctx context.Context, name types.NamespacedName, addr netip.Addr) plan.Service {
	s := plan.Service{Namespace: name.Namespace, Name: name.Name}
	var svc corev1.Service
	if err := c.client.Get(ctx, name, &svc); err != nil {
		return s
	}
	s.Local = svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if !s.Local {
		return s
	}
	family := discoveryv1.AddressTypeIPv4
	if addr.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	var list discoveryv1.EndpointSliceList
	if err := c.client.List(ctx, &list, client.InNamespace(name.Namespace), client.MatchingFields{endpointsByService: name.Name}); err != nil {
		return s
	}
	for i := range list.Items {
		if list.Items[i].AddressType == family {
			s.Endpoints = append(s.Endpoints, kube.Endpoints(&list.Items[i])...)
		}
	}
	return s
}

// readNodes takes the nodes from the cache. It reports whether placement could
// differ from before.
func (c *Controller) readNodes(ctx context.Context) (bool, error) {
	var list corev1.NodeList
	if err := c.client.List(ctx, &list); err != nil {
		return false, err
	}
	var speakers v1alpha1.SpeakerList
	if err := c.client.List(ctx, &speakers); err != nil {
		return false, err
	}
	byNode := make(map[string]*v1alpha1.Speaker, len(speakers.Items))
	for i := range speakers.Items {
		byNode[speakers.Items[i].Name] = &speakers.Items[i]
	}
	nodes := make([]plan.Node, 0, len(list.Items))
	for i := range list.Items {
		node := kube.Node(&list.Items[i])
		if speaker := byNode[node.Name]; speaker != nil {
			kube.Tell(&node, speaker)
		}
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b plan.Node) int { return cmp.Compare(a.Name, b.Name) })
	before := c.nodes.Swap(&nodes)
	return before == nil || !slices.EqualFunc(*before, nodes, plan.Node.Equal), nil
}

// planAddress reads a bound object in the terms of plan.
func (c *Controller) planAddress(ctx context.Context, obj *v1alpha1.LoadBalancerIP, addr netip.Addr) plan.Address {
	a := plan.Address{Addr: addr, Proposed: obj.Spec.Owner}
	if claim := obj.Status.L2; claim != nil {
		a.Claim = plan.Claim{Node: claim.Node, Term: claim.Term}
	}
	for _, b := range obj.Spec.Services {
		a.Services = append(a.Services, c.serviceOf(ctx, types.NamespacedName{Namespace: b.Namespace, Name: b.Name}, addr))
	}
	return a
}

// unowned says why no node may announce the address, empty if one may.
func (c *Controller) unowned(ctx context.Context, addr netip.Addr) string {
	obj := c.ledger.object(addr)
	if obj == nil {
		return ""
	}
	_, why := plan.Unowned(c.planAddress(ctx, obj, addr), *c.nodes.Load())
	return why
}

// proposeLocked sets the owner of a bound object, unless the one it has is
// good. It reports whether it did.
func (c *Controller) proposeLocked(ctx context.Context, obj *v1alpha1.LoadBalancerIP, addr netip.Addr) bool {
	a, nodes := c.planAddress(ctx, obj, addr), *c.nodes.Load()
	if _, ok := plan.Owner(a, nodes); ok {
		return false
	}
	node, ok := plan.Propose(a, nodes, c.ledger.counts)
	if !ok || node == obj.Spec.Owner {
		return false
	}
	obj.Spec.Owner = node
	return true
}
