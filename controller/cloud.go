// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/ipam"
)

// LoadBalancer is the allocating part of a Controller in the words of a cloud
// provider, for a service controller that writes finalizers and status itself
// (k8s.io/cloud-provider/controllers/service). The Controller has to run, with
// [Options.Cloud] set.
func (c *Controller) LoadBalancer() cloudprovider.LoadBalancer { return loadBalancer{c} }

// RefusedError is the error of EnsureLoadBalancer when the Service gets no
// address.
type RefusedError struct{ Refusals []ipam.Refusal }

func (e *RefusedError) Error() string { return refusalText(e.Refusals) }

type loadBalancer struct{ c *Controller }

// GetLoadBalancer returns the addresses that are bound to the Service.
func (l loadBalancer) GetLoadBalancer(_ context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	held := l.holdings(svc)
	visible, _ := shown(svc)
	// While the Service moves it holds two of a family, and clients use the one
	// that it shows.
	slices.SortStableFunc(held, func(a, b holding) int {
		first := func(h holding) int {
			if slices.Contains(visible, h.addr) {
				return 0
			}
			return 1
		}
		return first(a) - first(b)
	})
	var a Allocation
	for _, family := range svc.Spec.IPFamilies {
		if i := slices.IndexFunc(held, func(h holding) bool { return ipam.FamilyOf(h.addr).String() == string(family) }); i >= 0 {
			a.Addresses = append(a.Addresses, held[i].addr)
		}
	}
	if len(a.Addresses) == 0 {
		return nil, false, nil
	}
	return statusOf(svc, a), true, nil
}

// GetLoadBalancerName returns the name of the Service: there is no other
// object that a person would know.
func (l loadBalancer) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return svc.Namespace + "/" + svc.Name
}

// EnsureLoadBalancer binds to the Service what it asks for. An address that it
// gives up stays bound until a call in which its status shows the new one.
// Without any address the error is a *[RefusedError]; the Service is not tried
// again by itself.
func (l loadBalancer) EnsureLoadBalancer(ctx context.Context, _ string, svc *corev1.Service, _ []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	if !l.c.opts.Classes.Serves(svc) {
		return nil, cloudprovider.ImplementedElsewhere
	}
	a, err := l.c.Allocate(ctx, svc, nil)
	switch {
	case err != nil:
		return nil, fmt.Errorf("allocate: %w", err)
	case len(a.Addresses) == 0:
		return nil, &RefusedError{Refusals: a.Refusals}
	}
	if sameShown(svc, a.Addresses) {
		if err := l.c.releaseAll(ctx, l.c.ledger.holdingsOf(client.ObjectKeyFromObject(svc), a.Surplus)); err != nil {
			return nil, err
		}
	}
	return statusOf(svc, a), nil
}

// UpdateLoadBalancer does nothing: which node announces an address follows
// from Nodes and EndpointSlices by itself.
func (l loadBalancer) UpdateLoadBalancer(_ context.Context, _ string, svc *corev1.Service, _ []*corev1.Node) error {
	if !l.c.opts.Classes.Serves(svc) {
		return cloudprovider.ImplementedElsewhere
	}
	return nil
}

// EnsureLoadBalancerDeleted releases what is bound to the Service, whatever
// its class and type are now.
func (l loadBalancer) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *corev1.Service) error {
	l.c.waitNoMore(client.ObjectKeyFromObject(svc))
	return l.c.releaseAll(ctx, l.holdings(svc))
}

// holdings are what is bound to this very Service, not to a namesake.
func (l loadBalancer) holdings(svc *corev1.Service) []holding {
	name := client.ObjectKeyFromObject(svc)
	var own []holding
	for _, h := range l.c.ledger.holdingsOf(name, l.c.ledger.held(name)) {
		if h.uid == svc.UID {
			own = append(own, h)
		}
	}
	return own
}

// statusOf returns what svc would show; it may share memory with what it does.
func statusOf(svc *corev1.Service, a Allocation) *corev1.LoadBalancerStatus {
	shows := &corev1.Service{Status: corev1.ServiceStatus{LoadBalancer: svc.Status.LoadBalancer}}
	setIngress(shows, a.Addresses)
	return &shows.Status.LoadBalancer
}
