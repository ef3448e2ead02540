// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
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
// holds it, and its labels. Only for externalTrafficPolicy Local, and for BGP, do
// the endpoints matter. A Service that the cache doesn't have yet asks for nothing.
func (c *Controller) serviceOf(ctx context.Context, name types.NamespacedName, addr netip.Addr) (plan.Service, labels.Set) {
	s := plan.Service{Namespace: name.Namespace, Name: name.Name}
	var svc corev1.Service
	if err := c.client.Get(ctx, name, &svc); err != nil {
		return s, nil
	}
	s.Local = svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if !s.Local && len(c.terrain.Load().advertising.BGPPeers()) == 0 {
		return s, svc.Labels
	}
	family := discoveryv1.AddressTypeIPv4
	if addr.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	var list discoveryv1.EndpointSliceList
	if err := c.client.List(ctx, &list, client.InNamespace(name.Namespace), client.MatchingFields{endpointsByService: name.Name}); err != nil {
		return s, svc.Labels
	}
	for i := range list.Items {
		if list.Items[i].AddressType == family {
			s.Endpoints = append(s.Endpoints, kube.Endpoints(&list.Items[i])...)
		}
	}
	if !s.Local {
		s.Backed, s.Endpoints = plan.Backed(s.Endpoints), nil
	}
	return s, svc.Labels
}

// settleTime is how long placement waits for a cluster that starts, and for the
// speaker of a node to tell of it.
const settleTime = time.Minute

// terrain is what placement looks at beside the address. Nobody changes one.
type terrain struct {
	nodes       []plan.Node
	advertising *kube.Advertising
	// unsettled is until when nothing is placed; zero if the time is past.
	unsettled time.Time
}

// readTerrain takes nodes and advertisements from the cache. It reports whether
// placement could differ from before, and whether that of any address could.
func (c *Controller) readTerrain(ctx context.Context) (changed, rescoped bool, err error) {
	var list corev1.NodeList
	var speakers v1alpha1.SpeakerList
	var pools v1alpha1.LoadBalancerIPPoolList
	var ads v1alpha1.L2AdvertisementList
	var bgp v1alpha1.BGPAdvertisementList
	var peers v1alpha1.BGPPeerList
	for _, l := range []client.ObjectList{&list, &speakers, &pools, &ads, &bgp, &peers} {
		if err := c.client.List(ctx, l); err != nil {
			return false, false, err
		}
	}
	byNode := make(map[string]*v1alpha1.Speaker, len(speakers.Items))
	for i := range speakers.Items {
		byNode[speakers.Items[i].Name] = &speakers.Items[i]
	}
	now := &terrain{nodes: make([]plan.Node, 0, len(list.Items))}
	known, ready := 0, 0
	nodeLabels := make(map[string]labels.Set, len(list.Items))
	for i := range list.Items {
		node := kube.Node(&list.Items[i])
		nodeLabels[node.Name] = list.Items[i].Labels
		if speaker := byNode[node.Name]; speaker != nil {
			kube.Tell(&node, speaker)
			known++
			if node.Ready {
				ready++
			}
		} else if left := c.timeToTell(&list.Items[i]); left > 0 {
			node.Mute = false
			c.config.AddAfter(request(nodesChanged), left)
		}
		now.nodes = append(now.nodes, node)
	}
	slices.SortFunc(now.nodes, func(a, b plan.Node) int { return cmp.Compare(a.Name, b.Name) })
	poolLabels := make(map[string]labels.Set, len(pools.Items))
	for i := range pools.Items {
		poolLabels[pools.Items[i].Name] = pools.Items[i].Labels
	}
	now.advertising = kube.NewAdvertising(kube.Objects{
		L2: pointers(ads.Items), BGP: pointers(bgp.Items), Peers: pointers(peers.Items), Nodes: nodeLabels, Pools: poolLabels,
	})

	before := c.terrain.Load()
	switch {
	case before != nil:
		now.unsettled = before.unsettled
	case 2*ready < known:
		// The whole cluster starts: whoever is first up must not get all.
		now.unsettled = c.started.Add(settleTime)
	}
	if ready == known {
		now.unsettled = time.Time{}
	}
	rescoped = before == nil || !now.advertising.Equal(before.advertising)
	if !rescoped {
		now.advertising = before.advertising
	}
	changed = rescoped || now.unsettled != before.unsettled || !slices.EqualFunc(now.nodes, before.nodes, plan.Node.Equal)
	if changed {
		c.terrain.Store(now)
	}
	return changed, rescoped, nil
}

func pointers[T any](items []T) []*T {
	all := make([]*T, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	return all
}

// timeToTell is how much is left of the time in which the speaker of a node
// should have told of it: the node may be new, or all that is installed.
func (c *Controller) timeToTell(node *corev1.Node) time.Duration {
	since := node.CreationTimestamp.Time
	if c.started.After(since) {
		since = c.started
	}
	return since.Add(settleTime).Sub(c.now())
}

// planAddress reads a bound object in the terms of plan.
func (c *Controller) planAddress(ctx context.Context, on *terrain, obj *v1alpha1.LoadBalancerIP, addr netip.Addr) plan.Address {
	a := plan.Address{Addr: addr, Proposed: obj.Spec.Owner}
	if claim := obj.Status.L2; claim != nil {
		a.Claim = plan.Claim{Node: claim.Node, Term: claim.Term}
	}
	holders := make([]labels.Set, 0, len(obj.Spec.Services))
	for _, b := range obj.Spec.Services {
		s, set := c.serviceOf(ctx, types.NamespacedName{Namespace: b.Namespace, Name: b.Name}, addr)
		a.Services, holders = append(a.Services, s), append(holders, set)
	}
	a.Scope, a.BGP = on.advertising.Scope(obj.Spec.Pool, holders)
	return a
}

// parting tells whether Services that share an address would answer from
// different nodes: one of them was edited, and will have to leave. Which nodes
// have endpoints for all of them means nothing then, least of all for the
// others, who stay.
func (c *Controller) parting(ctx context.Context, obj *v1alpha1.LoadBalancerIP) bool {
	var first *corev1.Service
	for _, b := range obj.Spec.Services {
		svc := &corev1.Service{}
		if err := c.client.Get(ctx, types.NamespacedName{Namespace: b.Namespace, Name: b.Name}, svc); err != nil {
			continue
		}
		if first != nil && backendOf(svc) != backendOf(first) {
			return true
		}
		first = svc
	}
	return false
}

// place proposes an owner where one is needed. It returns after what time to
// look again, zero for not without a reason.
//
// The proposal is written only on the object that was read, claim and all. The
// one who is proposed claims before the one who announces gives way.
func (c *Controller) place(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	for {
		before := c.ledger.object(addr)
		w, wait, busy := c.decidePlace(ctx, addr)
		switch {
		case busy != nil:
			// Its event may have come before its answer: this may be the last
			// look at what led here, such as a Local Service's first endpoint.
			select {
			case <-busy:
				continue
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		case w == nil:
			return wait, nil
		}
		// Whoever was faster is in the ledger now, and comes back here as an event.
		stored, err := c.store(ctx, w)
		if stored != nil && before != nil && before.Spec.Owner != "" {
			c.ledger.moved(addr, c.now())
		}
		return 0, err
	}
}

// decidePlace returns the write that proposes another owner, nil if there is
// none to propose, or what to wait for.
func (c *Controller) decidePlace(ctx context.Context, addr netip.Addr) (w *write, wait time.Duration, busy <-chan struct{}) {
	l := c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.intended[addr]; w != nil {
		return nil, 0, w.done
	}
	known := l.objects[addr]
	if known == nil {
		return nil, 0, nil
	}
	owner, wait := c.proposeLocked(ctx, known, addr)
	if owner == "" {
		return nil, wait, nil
	}
	w = &write{object: known.DeepCopy(), done: make(chan struct{})}
	w.object.Spec.Owner = owner
	l.intendLocked(addr, w)
	return w, 0, nil
}

// proposeLocked returns the owner that is to be proposed in a bound object,
// empty for none, or none before some time has passed.
func (c *Controller) proposeLocked(ctx context.Context, obj *v1alpha1.LoadBalancerIP, addr netip.Addr) (owner string, wait time.Duration) {
	on := c.terrain.Load()
	p, ok := plan.Place(c.planAddress(ctx, on, obj, addr), on.nodes, c.ledger.counts)
	if !ok {
		return "", 0
	}
	if wait = on.unsettled.Sub(c.now()); wait > 0 {
		return "", wait
	}
	if p.Unforced {
		// Whoever leaves is an event of the address's object.
		if c.parting(ctx, obj) {
			return "", 0
		}
		if wait = c.ledger.moves[addr].next().Sub(c.now()); wait > 0 {
			return "", wait
		}
	}
	return p.Node, 0
}
