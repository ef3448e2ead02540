// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// waiting are the Services that lack an address that they want. What becomes
// free is offered to those that wait longest; nobody is tried again for what
// is of no use to it.
type waiting struct {
	byName map[types.NamespacedName]*waiter
	// order is that in which they began to wait; some in it no longer do.
	order []*waiter
	// asking are those that ask for an address by number.
	asking map[netip.Addr]map[types.NamespacedName]struct{}
}

// waiter is a Service that waits, and what it was told last.
type waiter struct {
	name types.NamespacedName
	// request has in Have what the Service keeps of families that lack
	// nothing. It is for no family if it can't be read.
	request  ipam.Request
	refusals []ipam.Refusal
	// partial says that one of two families would do.
	partial bool
	// alike is the same for all that get something whenever another does; it
	// is empty for a Service that is like no other.
	alike string
	// woken says that it is to be tried again, and has not been yet.
	woken bool
	left  bool
}

func newWaiting() waiting {
	return waiting{byName: map[types.NamespacedName]*waiter{}, asking: map[netip.Addr]map[types.NamespacedName]struct{}{}}
}

// set enters a Service, or what it was told now. It reports whether the
// Service was woken before.
func (w *waiting) set(next *waiter) (woken bool) {
	next.alike = alike(next)
	if known := w.byName[next.name]; known != nil {
		woken = known.woken
		w.unask(known)
		*known = *next // its place in the order stays
		next = known
	} else {
		w.byName[next.name] = next
		w.order = append(w.order, next)
	}
	for _, a := range next.request.Addresses {
		if w.asking[a] == nil {
			w.asking[a] = map[types.NamespacedName]struct{}{}
		}
		w.asking[a][next.name] = struct{}{}
	}
	return woken
}

// alike says in one text what decides whether a Service gets something. What
// is asked for by number or to share is decided for each by itself.
func alike(w *waiter) string {
	req := w.request
	if len(req.Addresses) > 0 || req.SharingKey != "" {
		return ""
	}
	pools := slices.Sorted(slices.Values(req.Pools))
	var have []ipam.Family
	for _, a := range req.Have {
		have = append(have, ipam.FamilyOf(a))
	}
	return fmt.Sprint(req.Service.Namespace, req.Families, have, w.partial, "\n", req.PoolNamed, "\n", strings.Join(pools, "\n"))
}

// drop takes a Service out. It reports whether it was woken before.
func (w *waiting) drop(name types.NamespacedName) (woken bool) {
	known := w.byName[name]
	if known == nil {
		return false
	}
	w.unask(known)
	known.left = true
	delete(w.byName, name)
	if len(w.order) > 2*len(w.byName)+wakeAtOnce {
		w.tidy()
	}
	return known.woken
}

// tidy takes out of the order who no longer waits.
func (w *waiting) tidy() {
	w.order = slices.DeleteFunc(w.order, func(known *waiter) bool { return known.left })
}

func (w *waiting) unask(known *waiter) {
	for _, a := range known.request.Addresses {
		delete(w.asking[a], known.name)
		if len(w.asking[a]) == 0 {
			delete(w.asking, a)
		}
	}
}

// wake returns those, at most so many, who would now get something if they were
// served in their order, and calls them woken. It leaves alloc as it was.
func (w *waiting) wake(alloc *ipam.Allocator, most int) []types.NamespacedName {
	trial := trial{alloc: alloc}
	defer trial.undo()
	w.tidy()
	var names []types.NamespacedName
	hopeless := map[string]struct{}{}
	for _, known := range w.order {
		if len(names) == most {
			break
		}
		if _, same := hopeless[known.alike]; same && known.alike != "" {
			continue
		}
		served := trial.serve(known)
		switch {
		case known.woken: // what it is about to get is nobody else's
		case served:
			known.woken = true
			names = append(names, known.name)
		default:
			hopeless[known.alike] = struct{}{}
		}
	}
	return names
}

// trial gives addresses to waiting Services and takes them back.
type trial struct {
	alloc *ipam.Allocator
	given []given
}

// given is an address that a trial gave, and how it was before.
type given struct {
	before ipam.Holding
	known  bool
}

// serve reports whether the Service gets something that it lacks.
func (t *trial) serve(w *waiter) bool {
	req := w.request
	if len(req.Families) == 0 {
		return false
	}
	choice := t.alloc.Choose(req)
	if len(choice.Picks) == 0 || len(choice.Refusals) > 0 && !w.partial {
		return false
	}
	for _, pick := range choice.Picks {
		h, known := t.alloc.Get(pick.Address)
		if !known {
			h = ipam.Holding{Address: pick.Address, Pool: pick.Pool}
		}
		t.given = append(t.given, given{h, known})
		if len(h.Holders) == 0 {
			h.SharingKey = req.SharingKey
		}
		h.Holders = append(slices.Clip(h.Holders), ipam.Holder{
			Service: req.Service, Ports: req.Ports, Backend: req.Backend, SharingNamespaces: req.SharingNamespaces,
		})
		t.alloc.Put(h)
	}
	return true
}

func (t *trial) undo() {
	for _, g := range slices.Backward(t.given) {
		if g.known {
			t.alloc.Put(g.before)
		} else {
			t.alloc.Delete(g.before.Address)
		}
	}
}

// concerns reports whether a pool that is or was may have to do with what the
// Service was told.
func (w *waiter) concerns(p *pool, admitted bool) bool {
	if admitted || slices.Contains(w.request.Pools, p.ipam.Name) || w.request.PoolNamed == p.ipam.Name {
		return true
	}
	return slices.ContainsFunc(w.refusals, func(r ipam.Refusal) bool { return r.Reason == ipam.NoPool || p.spans(r.Address) })
}

const (
	// wakeAtOnce is how many Services are tried at a time for what became
	// free; when one of them has been served, the next are.
	wakeAtOnce = 64
	// wakeAgainAfter is when the next are tried if one of them got nothing:
	// somebody else took what it was woken for.
	wakeAgainAfter = 100 * time.Millisecond
)

// waitLocked takes note of what the Service lacks, under the lock under which
// that was decided: what becomes free from now on is offered to it.
func (c *Controller) waitLocked(w *waiter) {
	if len(w.refusals) == 0 {
		if c.ledger.waiting.drop(w.name) {
			c.config.Add(request(somethingFree)) // there may be more
		}
	} else if c.ledger.waiting.set(w) {
		c.config.AddAfter(request(somethingFree), wakeAgainAfter)
	}
}

// waitNoMore takes note that the Service wants nothing.
func (c *Controller) waitNoMore(name types.NamespacedName) {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	c.waitLocked(&waiter{name: name})
}

// wake has Services tried again that lack an address, after something became
// free.
func (c *Controller) wake() {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	c.wakeLocked()
}

func (c *Controller) wakeLocked() {
	if len(c.ledger.waiting.byName) > 0 {
		c.config.Add(request(somethingFree))
	}
}

// wakeRefused has Services tried again that were refused because of a write
// that was not carried out, when whoever wanted it has had another turn.
func (c *Controller) wakeRefused() {
	if c.ledger.countWaiting() > 0 {
		c.config.AddAfter(request(somethingFree), wakeAgainAfter)
	}
}

// wakeLongest has those tried again who wait longest of those who would get
// something.
func (c *Controller) wakeLongest() {
	c.ledger.mu.Lock()
	names := c.ledger.waiting.wake(c.ledger.alloc, wakeAtOnce)
	c.ledger.mu.Unlock()
	c.tryAgain(names)
}

// wakeAsking has those tried again, or told again, who ask for an address by
// number, or whom it is reserved for.
func (c *Controller) wakeAsking(addr netip.Addr, reserved *v1alpha1.Reservation) {
	c.ledger.mu.Lock()
	var names []types.NamespacedName
	for name := range c.ledger.waiting.asking[addr] {
		names = append(names, name)
	}
	if reserved != nil {
		for name := range c.ledger.waiting.byName {
			if name.Namespace == reserved.Namespace && (reserved.Name == "" || reserved.Name == name.Name) {
				names = append(names, name)
			}
		}
	}
	c.ledger.mu.Unlock()
	c.tryAgain(names)
}

// wakeNamespace has those of a namespace tried again.
func (c *Controller) wakeNamespace(namespace string) {
	c.ledger.mu.Lock()
	var names []types.NamespacedName
	for _, w := range c.ledger.waiting.order {
		if !w.left && w.name.Namespace == namespace {
			names = append(names, w.name)
		}
	}
	c.ledger.mu.Unlock()
	c.tryAgain(names)
}

// wakeConcerned has those tried again whom edits of pools may concern.
func (c *Controller) wakeConcerned(ctx context.Context, edits []poolEdit) {
	if len(edits) == 0 {
		return
	}
	for _, w := range c.ledger.waiters() {
		var svc corev1.Service
		if err := c.client.Get(ctx, w.name, &svc); err != nil {
			continue // its event will tell
		}
		namespace := c.namespaceLabels(ctx, w.name.Namespace)
		if slices.ContainsFunc(edits, func(e poolEdit) bool {
			return e.before != nil && w.concerns(e.before, false) || e.after != nil && w.concerns(e.after, e.after.admits(&svc, namespace))
		}) {
			c.tryAgain([]types.NamespacedName{w.name})
		}
	}
}

func (c *Controller) tryAgain(names []types.NamespacedName) {
	for _, name := range names {
		c.services.Add(reconcile.Request{NamespacedName: name})
	}
}

// waiters returns a copy of every waiter, those that wait longest first.
func (l *ledger) waiters() []waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]waiter, 0, len(l.waiting.byName))
	for _, w := range l.waiting.order {
		if !w.left {
			all = append(all, *w)
		}
	}
	return all
}

func (l *ledger) countWaiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting.byName)
}
