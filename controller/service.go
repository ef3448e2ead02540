// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// reconcileService makes what a Service holds and shows agree with what it
// asks for.
func (c *Controller) reconcileService(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	c.atWork.Add(1)
	defer c.atWork.Add(-1)
	svc := &corev1.Service{}
	if err := c.client.Get(ctx, req.NamespacedName, svc); apierrors.IsNotFound(err) {
		return reconcile.Result{}, c.releaseGone(ctx, req.NamespacedName)
	} else if err != nil {
		return reconcile.Result{}, err
	}
	held := c.ledger.held(req.NamespacedName)
	served := c.opts.Classes.Serves(svc) && svc.DeletionTimestamp == nil
	wasLocal := c.ledger.isLocal(req.NamespacedName)
	current, lifted := c.ledger.describe(svc, c.words.holder(svc), c.foreignAddresses(svc, held, served))
	if !current {
		return reconcile.Result{}, nil // the event of our own last write is on its way
	}
	if lifted {
		c.wake()
	}
	if c.ledger.isLocal(req.NamespacedName) != wasLocal {
		c.enqueueAddresses(held) // other nodes may announce them now
	}
	var result reconcile.Result
	var err error
	switch {
	case c.opts.Cloud:
	case !served:
		c.waitNoMore(req.NamespacedName)
		err = c.relinquish(ctx, svc, held)
	case len(held) == 0 && !allocatedByUs(svc) && len(svc.Status.LoadBalancer.Ingress) > 0:
		c.waitNoMore(req.NamespacedName)
		err = c.leaveAlone(ctx, svc)
	default:
		result.RequeueAfter, err = c.serve(ctx, svc)
	}
	if errors.Is(err, errBehind) {
		return reconcile.Result{RequeueAfter: behindPatience}, nil
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		// The Service has changed since the cache saw it, and the event that
		// says so comes back here.
		return reconcile.Result{}, nil
	}
	return result, err
}

// allocatedByUs reports whether the Service's own status says that its
// addresses are ours. One that asks for another address and can't have it is
// not Allocated, and keeps what it has.
func allocatedByUs(svc *corev1.Service) bool {
	reason := condition(svc, v1alpha1.ServiceAnnounced).Reason
	return reason != "" && reason != ReasonNotAllocated
}

// foreignAddresses returns the addresses that the Service shows and that are
// not ours to give: it holds none of them, and we never said that we gave one.
func (c *Controller) foreignAddresses(svc *corev1.Service, held []netip.Addr, served bool) []netip.Addr {
	addrs, _ := shown(svc)
	var given []netip.Addr
	if served && (len(held) > 0 || allocatedByUs(svc)) {
		given = c.ledger.onlyOurs(svc, addrs)
	}
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool { return slices.Contains(held, a) || slices.Contains(given, a) })
}

// behindPatience is the time in which another controller's doing comes to be
// seen here, too.
const behindPatience = 50 * time.Millisecond

// claimPatience is how long a new address may go unshown while its owner has
// not claimed it. Mostly it has within half a second, in which it made sure
// that no other host has the address, and then the address answers by the time
// it is seen, and one write tells both.
const claimPatience = 800 * time.Millisecond

// justBound is the time after this controller bound an address in which it
// needn't ask whether it still is.
const justBound = time.Second

// serve gives the Service its addresses and shows them. It returns after what
// time to come back, zero for not without a reason.
func (c *Controller) serve(ctx context.Context, svc *corev1.Service) (time.Duration, error) {
	name := client.ObjectKeyFromObject(svc)
	contest, err := c.follow(ctx, svc)
	if err != nil {
		return 0, fmt.Errorf("find out who overwrote the status: %w", err)
	}
	var adopt []netip.Addr
	if allocatedByUs(svc) {
		visible, _ := shown(svc)
		if err := c.learnShown(ctx, svc, visible); err != nil {
			return 0, err
		}
		adopt = c.ledger.onlyOurs(svc, visible)
	}
	a, err := c.Allocate(ctx, svc, adopt)
	if err != nil {
		return 0, fmt.Errorf("allocate: %w", err)
	}
	if contest.on() {
		a.Contested = contest.text()
	}
	if !sameShown(svc, a.Addresses) {
		if left := contest.last.Add(contest.pause()).Sub(c.now()); left > 0 {
			return left, nil
		}
		for _, addr := range a.Addresses {
			if left := c.ledger.boundSince(svc, addr).Add(claimPatience).Sub(c.now()); left > 0 && c.awaitsClaim(addr) {
				return left, nil
			}
		}
		if len(a.Surplus) > 0 {
			// Two controllers may each have bound an address before either
			// saw the other's; the API server knows which one is shown.
			if err := c.confirm(ctx, svc); err != nil {
				return 0, err
			}
		}
		if err := c.verify(ctx, svc, a.Addresses); err != nil {
			return 0, err
		}
	}
	updated := svc.DeepCopy()
	setStatus(updated, a, len(a.Surplus) > 0 || len(adopt) > 0, func(a netip.Addr) announcing { return c.announcing(ctx, a) }, metav1.NewTime(c.now()))
	c.setConflict(updated, a.Addresses)
	surplus := c.ledger.holdingsOf(name, a.Surplus)
	if len(surplus) > 0 && equality.Semantic.DeepEqual(svc, updated) {
		// Another controller may have bound it and be about to show it, and
		// svc may be out of date. A write finds out either.
		setGivingUp(updated, a.Surplus, metav1.NewTime(c.now()))
	}
	if err := c.patchService(ctx, svc, updated); err != nil {
		return 0, err
	}
	c.ledger.stands(updated)
	c.tell(svc, updated)
	c.tellConflict(svc, updated)
	if err := c.releaseAll(ctx, surplus); err != nil || !contest.on() {
		return 0, err
	}
	return contest.overAt().Sub(c.now()), nil
}

// leaveAlone says that the Service shows an address that is not ours.
func (c *Controller) leaveAlone(ctx context.Context, svc *corev1.Service) error {
	addrs, _ := shown(svc)
	what := "a hostname"
	if len(addrs) > 0 {
		what = addrs[0].String()
	}
	a := Allocation{Refusals: []ipam.Refusal{{
		Reason:  ipam.ForeignAddress,
		Message: fmt.Sprintf("status.loadBalancer shows %s, which another load balancer gave it: give the Service that one's loadBalancerClass, or clear its status.loadBalancer to get an address here", what),
	}}}
	updated := svc.DeepCopy()
	setCondition(updated, allocatedCondition(a), metav1.NewTime(c.now()))
	if err := c.patchService(ctx, svc, updated); err != nil {
		return err
	}
	c.tell(svc, updated)
	return nil
}

// relinquish takes what is ours off a Service that is not, or no longer,
// served, and then releases it.
func (c *Controller) relinquish(ctx context.Context, svc *corev1.Service, held []netip.Addr) error {
	if len(held) == 0 && condition(svc, v1alpha1.ServiceAllocated).Type == "" {
		return nil
	}
	holdings := c.ledger.holdingsOf(client.ObjectKeyFromObject(svc), held)
	updated := svc.DeepCopy()
	clearStatus(updated, held, len(held) > 0 || allocatedByUs(svc))
	if equality.Semantic.DeepEqual(svc, updated) {
		if err := c.confirm(ctx, svc); err != nil {
			return err
		}
	} else if err := c.patchService(ctx, svc, updated); err != nil {
		return err
	}
	return c.releaseAll(ctx, holdings)
}

// releaseGone releases what a Service held that the cache no longer has. The
// cache may be behind, and another controller ahead of it: the API server is
// asked before anything goes.
func (c *Controller) releaseGone(ctx context.Context, name types.NamespacedName) error {
	held := c.ledger.holdingsOf(name, c.ledger.held(name))
	c.waitNoMore(name)
	if len(held) > 0 {
		if err := c.live.Get(ctx, name, &corev1.Service{}); !apierrors.IsNotFound(err) {
			return err // if it is there, its event will come
		}
	}
	if c.ledger.forgetService(name) {
		c.wake()
	}
	return c.releaseAll(ctx, held)
}

func (c *Controller) releaseAll(ctx context.Context, holdings []holding) error {
	for _, h := range holdings {
		if err := c.release(ctx, h); err != nil {
			return fmt.Errorf("release %s: %w", h.addr, err)
		}
	}
	return nil
}

// confirm fails with a conflict unless the API server's Service is the one
// that was read from the cache.
func (c *Controller) confirm(ctx context.Context, svc *corev1.Service) error {
	current := &corev1.Service{}
	if err := c.live.Get(ctx, client.ObjectKeyFromObject(svc), current); err != nil {
		return err
	}
	if current.ResourceVersion != svc.ResourceVersion {
		return apierrors.NewConflict(corev1.Resource("services"), svc.Name, fmt.Errorf("read %s, now %s", svc.ResourceVersion, current.ResourceVersion))
	}
	return nil
}

// verify returns errBehind unless every address that the Service is to show and
// doesn't is bound to it in the API server. One that this controller has just
// bound is: nobody can have taken it away without this being seen by now.
func (c *Controller) verify(ctx context.Context, svc *corev1.Service, addrs []netip.Addr) error {
	visible, _ := shown(svc)
	for _, addr := range addrs {
		if slices.Contains(visible, addr) || c.now().Sub(c.ledger.boundSince(svc, addr)) < justBound {
			continue
		}
		obj := &v1alpha1.LoadBalancerIP{}
		err := c.live.Get(ctx, client.ObjectKey{Name: ipam.ObjectName(addr)}, obj)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("read LoadBalancerIP of %s: %w", addr, err)
		}
		if !slices.ContainsFunc(obj.Spec.Services, func(b v1alpha1.ServiceBinding) bool { return b.UID == svc.UID }) {
			return errBehind
		}
	}
	return nil
}

// patchService writes finalizer, ingress and conditions in one patch of the
// status, which goes through only if nobody wrote since svc was read.
func (c *Controller) patchService(ctx context.Context, svc, updated *corev1.Service) error {
	if equality.Semantic.DeepEqual(svc, updated) {
		return nil
	}
	written := updated.DeepCopy()
	patch := client.MergeFromWithOptions(svc, client.MergeFromWithOptimisticLock{})
	if err := c.client.Status().Patch(ctx, written, patch); err != nil {
		return fmt.Errorf("patch status: %w", err)
	}
	c.ledger.wrote(written)
	return nil
}

// tell sends an event when the allocation has changed, in the condition's own
// words.
func (c *Controller) tell(before, after *corev1.Service) {
	was, is := condition(before, v1alpha1.ServiceAllocated), condition(after, v1alpha1.ServiceAllocated)
	if was.Reason == is.Reason && was.Message == is.Message {
		return
	}
	kind := corev1.EventTypeWarning
	if is.Reason == ReasonAllocated || is.Reason == ReasonPartlyAllocated {
		kind = corev1.EventTypeNormal
	}
	c.teller.tell(after, kind, is.Reason, is.Message)
}

// awaitsClaim reports whether a node is proposed for the address that has not
// claimed it yet.
func (c *Controller) awaitsClaim(addr netip.Addr) bool {
	obj := c.ledger.object(addr)
	return obj != nil && obj.Status.L2 == nil && obj.Spec.Owner != ""
}

func sameShown(svc *corev1.Service, addrs []netip.Addr) bool {
	now, others := shown(svc)
	return !others && slices.Equal(now, addrs)
}
