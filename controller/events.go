// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// watch feeds the queues from the caches until stop is called.
func (c *Controller) watch(ctx context.Context) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	handlers := map[client.Object]toolscache.ResourceEventHandlerFuncs{
		&corev1.Service{}:              c.serviceEvents(),
		&corev1.Namespace{}:            c.namespaceEvents(),
		&discoveryv1.EndpointSlice{}:   c.endpointEvents(),
		&corev1.Node{}:                 c.nodeEvents(),
		&v1alpha1.LoadBalancerIPPool{}: c.poolEvents(),
		&v1alpha1.LoadBalancerIP{}:     c.addressEvents(),
		&v1alpha1.Speaker{}:            c.speakerEvents(),
		&v1alpha1.L2Advertisement{}:    c.advertisementEvents(),
		&v1alpha1.BGPAdvertisement{}:   c.bgpAdvertisementEvents(),
		&v1alpha1.BGPPeer{}:            c.peerEvents(),
		&v1alpha1.BFDProfile{}:         on(func(*v1alpha1.BFDProfile) { c.config.Add(request(peersChanged)) }),
	}
	for obj, handler := range handlers {
		informer, err := c.cache.GetInformer(ctx, obj)
		if err != nil {
			stop()
			return nil, fmt.Errorf("watch %T: %w", obj, err)
		}
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			stop()
			return nil, fmt.Errorf("watch %T: %w", obj, err)
		}
		stops = append(stops, func() { _ = informer.RemoveEventHandler(registration) })
	}
	return stop, nil
}

// on calls f with the newest known state of an object for each of its events.
func on[T client.Object](f func(T)) toolscache.ResourceEventHandlerFuncs {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f(obj.(T)) },
		UpdateFunc: func(_, obj any) { f(obj.(T)) },
		DeleteFunc: func(obj any) { f(deleted[T](obj)) },
	}
}

// onEdit calls f when an object comes, goes, or has another spec or status. Somebody
// may have edited the status, which is ours.
func onEdit[T client.Object](f func(), sameStatus func(before, after T) bool) toolscache.ResourceEventHandlerFuncs {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { f() },
		UpdateFunc: func(before, after any) {
			b, a := before.(T), after.(T)
			if b.GetGeneration() != a.GetGeneration() || b.GetUID() != a.GetUID() || !sameStatus(b, a) {
				f()
			}
		},
		DeleteFunc: func(any) { f() },
	}
}

// deleted returns the object of a deletion, also of one that the watch missed.
func deleted[T client.Object](obj any) T {
	if missed, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = missed.Obj
	}
	return obj.(T)
}

func (c *Controller) serviceEvents() toolscache.ResourceEventHandlerFuncs {
	changed := func(svc *corev1.Service) {
		c.services.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(svc)})
	}
	handlers := on(changed)
	handlers.UpdateFunc = func(before, after any) {
		b, a := before.(*corev1.Service), after.(*corev1.Service)
		changed(a)
		if !maps.Equal(b.Labels, a.Labels) {
			// Other advertisements may select it now.
			c.enqueueAddresses(c.ledger.held(client.ObjectKeyFromObject(a)))
		}
	}
	return handlers
}

func (c *Controller) addressEvents() toolscache.ResourceEventHandlerFuncs {
	observe := func(ip *v1alpha1.LoadBalancerIP) {
		if before, news := c.ledger.observe(ip); news {
			c.spread(before, ip)
		}
		c.addresses.Add(request(ip.Name))
		c.countLater(ip.Spec.Pool)
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { observe(obj.(*v1alpha1.LoadBalancerIP)) },
		UpdateFunc: func(_, obj any) { observe(obj.(*v1alpha1.LoadBalancerIP)) },
		DeleteFunc: func(obj any) {
			ip := deleted[*v1alpha1.LoadBalancerIP](obj)
			if addr, known := c.ledger.forget(ip); known != nil {
				c.enqueueServices(known)
				c.offer(addr, known, nil)
			}
			c.countLater(ip.Spec.Pool)
		},
	}
}

// spread has everybody look at their addresses whom somebody else's change of
// one concerns. Before is nil if nothing was known of it.
func (c *Controller) spread(before, after *v1alpha1.LoadBalancerIP) {
	if before != nil {
		c.enqueueServices(before)
	}
	c.enqueueServices(after)
	if addr, err := netip.ParseAddr(after.Spec.Address); err == nil {
		c.offer(addr, before, after)
	}
}

func (c *Controller) poolEvents() toolscache.ResourceEventHandlerFuncs {
	relabelled := func() { c.config.Add(request(nodesChanged)) } // advertisements select pools
	changed := func() {
		c.config.Add(request(poolsChanged))
		relabelled()
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() },
		UpdateFunc: func(before, after any) {
			b, a := before.(*v1alpha1.LoadBalancerIPPool), after.(*v1alpha1.LoadBalancerIPPool)
			switch {
			case b.Generation != a.Generation || b.UID != a.UID:
				changed()
			case !maps.Equal(b.Labels, a.Labels):
				relabelled()
			case !equality.Semantic.DeepEqual(b.Status, a.Status):
				c.countLater(a.Name) // somebody may have edited it
			}
		},
		DeleteFunc: func(any) { changed() },
	}
}

func (c *Controller) nodeEvents() toolscache.ResourceEventHandlerFuncs {
	changed := func() { c.config.Add(request(nodesChanged)) }
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() },
		UpdateFunc: func(before, after any) {
			b, a := before.(*corev1.Node), after.(*corev1.Node)
			if !kube.Node(b).Equal(kube.Node(a)) || !maps.Equal(b.Labels, a.Labels) || !slices.Equal(b.Status.Addresses, a.Status.Addresses) {
				changed()
			}
		},
		DeleteFunc: func(any) { changed() },
	}
}

func (c *Controller) namespaceEvents() toolscache.ResourceEventHandlerFuncs {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.wakeNamespace(obj.(*corev1.Namespace).Name) },
		UpdateFunc: func(before, after any) {
			if b, a := before.(*corev1.Namespace), after.(*corev1.Namespace); !maps.Equal(b.Labels, a.Labels) {
				c.wakeNamespace(a.Name)
			}
		},
	}
}

func (c *Controller) endpointEvents() toolscache.ResourceEventHandlerFuncs {
	// Whether a node may announce by BGP depends on whether there is an endpoint
	// at all.
	backing := func(slice *discoveryv1.EndpointSlice) {
		if len(c.terrain.Load().advertising.BGPPeers()) > 0 {
			c.enqueueHolders(c.ledger.held(kube.ServiceOf(slice)), true)
		}
	}
	handlers := on(func(slice *discoveryv1.EndpointSlice) {
		c.endpointsChanged(slice)
		backing(slice)
	})
	handlers.UpdateFunc = func(before, after any) {
		b, a := before.(*discoveryv1.EndpointSlice), after.(*discoveryv1.EndpointSlice)
		c.endpointsChanged(a)
		if plan.Backed(kube.Endpoints(b)) != plan.Backed(kube.Endpoints(a)) {
			backing(a)
		}
	}
	return handlers
}

// endpointsChanged has the addresses of a Service placed again, which only
// externalTrafficPolicy Local can make a difference to.
func (c *Controller) endpointsChanged(slice *discoveryv1.EndpointSlice) {
	name := kube.ServiceOf(slice)
	if c.ledger.isLocal(name) {
		held := c.ledger.held(name)
		c.enqueueAddresses(held)
		c.enqueueHolders(held, false)
	}
}

func (c *Controller) enqueueServices(ip *v1alpha1.LoadBalancerIP) {
	for _, b := range ip.Spec.Services {
		c.services.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: b.Namespace, Name: b.Name}})
	}
}

func (c *Controller) enqueueAddresses(addrs []netip.Addr) {
	for _, addr := range addrs {
		c.addresses.Add(request(ipam.ObjectName(addr)))
	}
}

// enqueueHolders has the Services looked at again that say why no node has
// claimed their address, or all, which may have to say that advertisements no
// longer select it.
func (c *Controller) enqueueHolders(addrs []netip.Addr, all bool) {
	for _, addr := range addrs {
		if obj := c.ledger.object(addr); obj != nil && (all || obj.Status.L2 == nil) {
			c.enqueueServices(obj)
		}
	}
}

func (c *Controller) countLater(pool string) {
	if pool != "" {
		c.poolStatus.AddAfter(request(pool), poolStatusDelay)
	}
}
