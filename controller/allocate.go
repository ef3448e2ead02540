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
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// Allocation is what a Service has after Allocate.
type Allocation struct {
	// Addresses are bound to the Service, in the order of its families.
	Addresses []netip.Addr
	// Pools are the pools that they came from, empty for none.
	Pools []string
	// Refusals say what the Service wants and does not get.
	Refusals []ipam.Refusal
	// Surplus are bound to the Service too, and have to be released once its
	// status no longer shows them.
	Surplus []netip.Addr
	// Partial says that the refusals leave the Service served, as its
	// ipFamilyPolicy allows.
	Partial bool
	// Contradictions say which parts of the request are not followed because
	// other parts say something else.
	Contradictions []string
	// Contested says, if it is not empty, who keeps overwriting what the
	// Service shows. Allocate leaves it to its caller.
	Contested string

	// lacking is the request as it stands with what the Service keeps.
	lacking ipam.Request
}

// maxDecisions bounds how often one reconcile decides again after it lost a
// race. Each time the ledger has learnt of the winner.
const maxDecisions = 16

// errContended is returned when others kept winning; the Service is tried
// again later.
var errContended = errors.New("other writers kept taking the chosen addresses")

// errBehind is returned when another controller has done what this one has yet
// to see: put a Service on the same address, or taken this one off it. The
// Service is tried again in a moment.
var errBehind = errors.New("the API server is ahead of what has been seen")

// Allocate binds to svc the addresses that it asks for and does not hold yet,
// and keeps those that it holds. It writes LoadBalancerIPs, never the Service,
// and never releases: a caller shows the addresses first. A refusal is an
// answer; an error means that the API server didn't say.
//
// adopt are addresses that the Service's status shows under our own condition
// although no object records them: somebody deleted the objects. They are
// bound again unless another Service has them.
func (c *Controller) Allocate(ctx context.Context, svc *corev1.Service, adopt []netip.Addr) (Allocation, error) {
	want := c.words.read(svc)
	visible, _ := shown(svc)
	for range maxDecisions {
		if c.ledger.heldByNamesake(svc) {
			// It may be the other that is the living one.
			if err := c.confirm(ctx, svc); err != nil {
				return Allocation{}, err
			}
		}
		d := c.decide(ctx, svc, want, visible, adopt)
		if d.unseen {
			return Allocation{}, errBehind
		}
		if d.busy != nil {
			select {
			case <-d.busy:
				continue
			case <-ctx.Done():
				return Allocation{}, ctx.Err()
			}
		}
		if slices.ContainsFunc(d.writes, func(w *write) bool { return w.rewords }) {
			// An old view of the Service must not undo what another controller
			// has written on a newer one: others may join by what it says. The
			// objects were read before, so if that one writes after this look,
			// these writes fail.
			if err := c.confirm(ctx, svc); err != nil {
				c.abandon(d.writes)
				return Allocation{}, err
			}
		}
		var errs []error
		lost := false
		for _, w := range d.writes {
			stored, err := c.store(ctx, w)
			errs = append(errs, err)
			lost = lost || stored == nil
		}
		if err := errors.Join(errs...); err != nil {
			return Allocation{}, err
		}
		if !lost {
			for _, w := range d.writes {
				c.ledger.boundByUs(svc, netip.MustParseAddr(w.object.Spec.Address), c.now())
			}
			return d.Allocation, nil
		}
	}
	return Allocation{}, errContended
}

// abandon drops intended writes.
func (c *Controller) abandon(writes []*write) {
	for _, w := range writes {
		c.ledger.settle(netip.MustParseAddr(w.object.Spec.Address), w, nil)
	}
	c.wakeRefused()
}

// learnShown asks the API server for what the Service shows as ours and is not
// bound to it here. Mostly somebody deleted the object; but another controller
// may have bound it, and shown it, before this one has seen the binding.
func (c *Controller) learnShown(ctx context.Context, svc *corev1.Service, addrs []netip.Addr) error {
	held := c.ledger.held(client.ObjectKeyFromObject(svc))
	for _, addr := range addrs {
		if slices.Contains(held, addr) {
			continue
		}
		obj := &v1alpha1.LoadBalancerIP{}
		switch err := c.live.Get(ctx, client.ObjectKey{Name: ipam.ObjectName(addr)}, obj); {
		case err == nil:
			if before, news := c.ledger.observe(obj); news {
				c.spread(before, obj)
			}
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("read LoadBalancerIP of %s: %w", addr, err)
		}
	}
	return nil
}

// store carries out an intended write and tells the ledger. It returns nil
// and no error when the API server refused because somebody was faster: the
// ledger then knows the object that won.
func (c *Controller) store(ctx context.Context, w *write) (*v1alpha1.LoadBalancerIP, error) {
	addr := netip.MustParseAddr(w.object.Spec.Address)
	obj := w.object.DeepCopy()
	var err error
	if w.create {
		err = c.client.Create(ctx, obj)
	} else {
		err = c.client.Update(ctx, obj)
	}
	switch {
	case err == nil:
		c.offer(addr, c.ledger.settle(addr, w, obj), obj)
		return obj, nil
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil, c.learn(ctx, addr, w)
	default:
		c.ledger.settle(addr, w, nil)
		c.wakeRefused()
		return nil, fmt.Errorf("write LoadBalancerIP %s: %w", obj.Name, err)
	}
}

// learn reads the object that made a write fail.
func (c *Controller) learn(ctx context.Context, addr netip.Addr, w *write) error {
	defer c.wakeRefused()
	current := &v1alpha1.LoadBalancerIP{}
	err := c.live.Get(ctx, client.ObjectKey{Name: w.object.Name}, current)
	switch {
	case err == nil:
		// The watch will tell nothing new.
		c.spread(c.ledger.settle(addr, w, current), current)
		return nil
	case apierrors.IsNotFound(err):
		// The watch will tell nothing new.
		c.ledger.settleDeleted(addr, w, w.object.UID, false)
		c.enqueueServices(w.object)
		c.offer(addr, w.object, nil)
		return nil
	default:
		c.ledger.settle(addr, w, nil)
		return fmt.Errorf("read LoadBalancerIP %s: %w", w.object.Name, err)
	}
}

// release takes a Service off an address. The caller has made sure that the
// Service is gone, or that its status no longer shows the address. A namesake
// that was bound since, with another UID, keeps it.
func (c *Controller) release(ctx context.Context, b holding) error {
	addr := b.addr
	for range maxDecisions {
		w, remove, busy := c.decideRelease(b)
		if busy != nil {
			select {
			case <-busy:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if w == nil {
			return nil
		}
		if !remove {
			stored, err := c.store(ctx, w)
			if stored != nil || err != nil {
				return err
			}
			continue
		}
		gone, err := c.remove(ctx, addr, w)
		if gone || err != nil {
			return err
		}
	}
	return errContended
}

func (c *Controller) decideRelease(h holding) (w *write, remove bool, busy <-chan struct{}) {
	l, name, addr := c.ledger, h.name, h.addr
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.intended[addr]; w != nil {
		return nil, false, w.done
	}
	known := l.objects[addr]
	if known == nil {
		if l.letGoLocked(h) {
			c.wakeLocked()
		}
		return nil, false, nil
	}
	i := slices.IndexFunc(known.Spec.Services, func(b v1alpha1.ServiceBinding) bool {
		return b.Namespace == name.Namespace && b.Name == name.Name && b.UID == h.uid
	})
	if i < 0 {
		return nil, false, nil
	}
	w = &write{object: known.DeepCopy(), done: make(chan struct{})}
	spec := &w.object.Spec
	spec.Services = slices.Delete(spec.Services, i, i+1)
	spec.Holder = holderLine(spec)
	if len(spec.Services) == 0 {
		spec.SharingKey = ""
		if spec.ReservedFor == nil {
			spec.Released = &v1alpha1.Release{Service: v1alpha1.ServiceName{Namespace: name.Namespace, Name: name.Name}, At: metav1.NewTime(c.now().Truncate(time.Second))}
			remove = c.pools.reuseAfter(spec.Pool) == 0 && spec.Quarantined == nil
		}
	}
	l.intendLocked(addr, w)
	return w, remove, nil
}

// remove deletes the object of an address that nobody holds. It reports false
// when the object has changed since, which the ledger then knows.
func (c *Controller) remove(ctx context.Context, addr netip.Addr, w *write) (bool, error) {
	err := c.client.Delete(ctx, &v1alpha1.LoadBalancerIP{ObjectMeta: metav1.ObjectMeta{Name: w.object.Name}},
		client.Preconditions{UID: &w.object.UID, ResourceVersion: &w.object.ResourceVersion})
	switch {
	case err == nil:
		c.ledger.settleDeleted(addr, w, w.object.UID, true)
		c.offer(addr, w.object, nil)
		return true, nil
	case apierrors.IsNotFound(err):
		c.ledger.settleDeleted(addr, w, w.object.UID, false)
		c.offer(addr, w.object, nil) // the watch will tell nothing new
		return true, nil
	case apierrors.IsConflict(err):
		return false, c.learn(ctx, addr, w)
	default:
		c.ledger.settle(addr, w, nil)
		return false, fmt.Errorf("delete LoadBalancerIP %s: %w", w.object.Name, err)
	}
}

// offer has Services tried again whom a change of an address is of use to.
// Before is nil if nothing was known of it, after if it is gone.
func (c *Controller) offer(addr netip.Addr, before, after *v1alpha1.LoadBalancerIP) {
	if c.ledger.countWaiting() == 0 || before == nil && after == nil {
		return
	}
	if before != nil && after != nil && equality.Semantic.DeepEqual(before.Spec, after.Spec) {
		return // a claim, or a condition
	}
	if after == nil || before != nil && freed(before, after) {
		c.wake()
	}
	var reserved *v1alpha1.Reservation
	if after != nil {
		reserved = after.Spec.ReservedFor
	}
	c.wakeAsking(addr, reserved)
}

// freed reports whether a change of an address may lift a refusal: a Service
// left it or changed its ports, or it is quarantined or reserved no longer, or
// reserved for another.
func freed(before, after *v1alpha1.LoadBalancerIP) bool {
	for _, b := range before.Spec.Services {
		if !slices.ContainsFunc(after.Spec.Services, func(a v1alpha1.ServiceBinding) bool {
			return a.ServiceName == b.ServiceName && slices.Equal(a.Ports, b.Ports)
		}) {
			return true
		}
	}
	return before.Spec.Quarantined != nil && after.Spec.Quarantined == nil || before.Spec.SharingKey != after.Spec.SharingKey || !equality.Semantic.DeepEqual(before.Spec.ReservedFor, after.Spec.ReservedFor)
}
