// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// Reasons of the PoolMismatch condition.
const (
	reasonNotInPool = "NotInPool" // the pool is there and no longer has the address
	reasonPoolGone  = "PoolGone"  // the pool is there no longer
	reasonInPool    = "InPool"    // the pool has the address again
)

// reconcileAddress lets a resting address go when its time has come, proposes
// another owner for one that has none that is good, quarantines one that
// another host has, and says when its pool no longer has it.
func (c *Controller) reconcileAddress(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	addr, err := ipam.ParseObjectName(req.Name)
	if err != nil {
		return reconcile.Result{}, nil // CEL lets no such object in
	}
	obj := c.ledger.object(addr)
	switch {
	case obj == nil:
		return reconcile.Result{}, nil
	case len(obj.Spec.Services) > 0:
		wait, err := c.place(ctx, addr)
		if err != nil {
			return reconcile.Result{}, fmt.Errorf("propose an owner: %w", err)
		}
		again, err := c.quarantine(ctx, addr, obj)
		if err != nil {
			return reconcile.Result{}, fmt.Errorf("quarantine: %w", err)
		}
		if err := c.checkPool(ctx, addr, obj); err != nil {
			return reconcile.Result{}, err
		}
		return reconcile.Result{RequeueAfter: sooner(wait, again)}, nil
	case obj.Spec.ReservedFor != nil:
		return reconcile.Result{}, c.checkPool(ctx, addr, obj)
	}
	if left := c.restsUntil(obj).Sub(c.now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	w := &write{object: obj, done: make(chan struct{})}
	c.ledger.mu.Lock()
	if c.ledger.intended[addr] != nil || c.ledger.objects[addr] != obj {
		c.ledger.mu.Unlock()
		// Somebody writes it, and the event of that may have been the one that led here.
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	c.ledger.intendLocked(addr, w)
	c.ledger.mu.Unlock()
	_, err = c.remove(ctx, addr, w)
	return reconcile.Result{}, err
}

// restsUntil returns when an address that nobody holds may be forgotten.
func (c *Controller) restsUntil(obj *v1alpha1.LoadBalancerIP) time.Time {
	released := obj.CreationTimestamp
	if obj.Spec.Released != nil {
		released = obj.Spec.Released.At
	}
	until := released.Add(c.pools.reuseAfter(obj.Spec.Pool))
	if ends := quarantineEnds(obj); ends.After(until) {
		return ends
	}
	return until
}

// checkPool keeps the PoolMismatch condition. It is absent as long as the pool
// has always had the address.
func (c *Controller) checkPool(ctx context.Context, addr netip.Addr, obj *v1alpha1.LoadBalancerIP) error {
	cond := metav1.Condition{
		Type: v1alpha1.PoolMismatch, Status: metav1.ConditionFalse, Reason: reasonInPool,
		Message: fmt.Sprintf("pool %s has %s", obj.Spec.Pool, addr), ObservedGeneration: obj.Generation,
	}
	c.ledger.mu.Lock()
	in := obj.Spec.Pool == "" || slices.Contains(c.ledger.alloc.PoolsContaining(addr), obj.Spec.Pool)
	c.ledger.mu.Unlock()
	if !in {
		stays := "it stays with its Service and is announced until that is deleted or asks for another"
		if len(obj.Spec.Services) == 0 {
			stays = "it stays reserved until this LoadBalancerIP is deleted"
		}
		cond.Status, cond.Reason = metav1.ConditionTrue, reasonNotInPool
		cond.Message = fmt.Sprintf("pool %s no longer has %s; %s", obj.Spec.Pool, addr, stays)
		if c.pools.get(obj.Spec.Pool) == nil {
			cond.Reason = reasonPoolGone
			cond.Message = fmt.Sprintf("pool %s, which %s came from, is gone; %s", obj.Spec.Pool, addr, stays)
		}
	}
	before := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.PoolMismatch)
	if before == nil && in || before != nil && before.Status == cond.Status && before.Reason == cond.Reason && before.Message == cond.Message {
		return nil
	}
	updated := obj.DeepCopy()
	cond.LastTransitionTime = metav1.NewTime(c.now())
	meta.SetStatusCondition(&updated.Status.Conditions, cond)
	err := c.client.Status().Patch(ctx, updated, client.MergeFromWithOptions(obj, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // its event comes back here
	}
	if err != nil {
		return fmt.Errorf("patch status: %w", err)
	}
	c.ledger.observe(updated)
	return nil
}
