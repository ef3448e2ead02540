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
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

const (
	// quarantineFor is how long nobody is given an address that a host outside
	// the cluster had.
	quarantineFor = time.Hour
	// maxQuarantined is how many addresses of a pool may be quarantined at a
	// time, and so in an hour. A host that answers for many addresses, or one
	// that means harm, must not talk a whole pool away.
	maxQuarantined = 3
	// conflictInterval is between two looks at an address in conflict that was
	// not quarantined: its Service may have stopped asking for it by number, or
	// its pool may have room for another quarantine.
	conflictInterval = time.Minute
)

// conflictOf returns what the speakers say of another host that has the
// address, nil if they say nothing.
func conflictOf(obj *v1alpha1.LoadBalancerIP) *v1alpha1.Conflict {
	if !meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.AddressConflict) {
		return nil
	}
	return obj.Status.Conflict
}

// neverAnnounced reports whether an address in conflict was one before any node
// announced it: only then may its Service be given another.
func neverAnnounced(obj *v1alpha1.LoadBalancerIP) bool {
	cond := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.AddressConflict)
	return cond != nil && cond.Reason == v1alpha1.ConflictProbeAnswered && obj.Status.L2 == nil
}

// quarantine takes a bound address that another host has, and that no node has
// announced yet, away from the Services that did not ask for just this one. It
// returns after what time to look again, zero for not without a reason.
func (c *Controller) quarantine(ctx context.Context, addr netip.Addr, obj *v1alpha1.LoadBalancerIP) (time.Duration, error) {
	conflict := conflictOf(obj)
	if conflict == nil || !neverAnnounced(obj) || obj.Spec.Quarantined != nil || obj.Spec.ReservedFor != nil {
		return 0, nil
	}
	holders, wanted := c.holdersOf(ctx, addr, obj)
	if wanted {
		return conflictInterval, nil
	}
	l, now := c.ledger, c.now()
	w := &write{object: obj.DeepCopy(), done: make(chan struct{})}
	w.object.Spec.Quarantined = &v1alpha1.Quarantine{MAC: conflict.MAC, At: metav1.NewTime(now.Truncate(time.Second))}
	l.mu.Lock()
	switch {
	case l.intended[addr] != nil || l.objects[addr] != obj:
		l.mu.Unlock()
		// Somebody writes it, and the event of that may have been the one that led here.
		return time.Second, nil
	case len(l.quarantinedLocked(obj.Spec.Pool)) >= maxQuarantined:
		l.mu.Unlock()
		return conflictInterval, nil
	}
	l.intendLocked(addr, w)
	l.mu.Unlock()
	stored, err := c.store(ctx, w)
	if stored == nil || err != nil {
		return 0, err // whoever was faster is in the ledger now, and comes back here as an event
	}
	c.enqueueServices(stored)
	for _, svc := range holders {
		c.teller.tell(svc, corev1.EventTypeWarning, ReasonAddressConflict, fmt.Sprintf(
			"%s is given up and quarantined for an hour: another host, %s, answers for it; the Service gets another address if there is one", addr, conflict.MAC))
	}
	return 0, nil
}

// sooner returns the shorter of two waits, of which zero is for nothing.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// holdersOf returns the Services on an address, and whether one of them asks
// for it by number.
func (c *Controller) holdersOf(ctx context.Context, addr netip.Addr, obj *v1alpha1.LoadBalancerIP) (holders []*corev1.Service, wanted bool) {
	for _, b := range obj.Spec.Services {
		svc := &corev1.Service{}
		if err := c.client.Get(ctx, types.NamespacedName{Namespace: b.Namespace, Name: b.Name}, svc); err != nil {
			continue // its event will come
		}
		holders = append(holders, svc)
		wanted = wanted || slices.Contains(c.words.read(svc).request.Addresses, addr)
	}
	return holders, wanted
}

// quarantineEnds returns when a quarantined address may be forgotten: after an
// hour, or as soon as speakers found that the other host is none.
func quarantineEnds(obj *v1alpha1.LoadBalancerIP) time.Time {
	if obj.Spec.Quarantined == nil || conflictOf(obj) == nil {
		return time.Time{}
	}
	return obj.Spec.Quarantined.At.Add(quarantineFor)
}

// quarantinedLocked returns the addresses of a pool that are quarantined, the
// lowest first.
func (l *ledger) quarantinedLocked(pool string) []netip.Addr {
	var addrs []netip.Addr
	for addr := range l.quarantined {
		if l.effectiveLocked(addr).Spec.Pool == pool {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// quarantines says which addresses of a pool are quarantined, and because of
// which host.
func (l *ledger) quarantines(pool string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var texts []string
	for _, addr := range l.quarantinedLocked(pool) {
		texts = append(texts, fmt.Sprintf("%s (%s)", addr, l.effectiveLocked(addr).Spec.Quarantined.MAC))
	}
	return texts
}

func (l *ledger) countConflicts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, obj := range l.objects {
		if conflictOf(obj) != nil {
			n++
		}
	}
	return n
}

// conflictsCondition says what of a pool is quarantined.
func conflictsCondition(quarantined []string) metav1.Condition {
	cond := metav1.Condition{Type: v1alpha1.PoolConflicts, Status: metav1.ConditionFalse, Reason: reasonNoConflict, Message: "no address is quarantined"}
	if len(quarantined) == 0 {
		return cond
	}
	cond.Status, cond.Reason = metav1.ConditionTrue, reasonQuarantined
	cond.Message = "quarantined for an hour, because other hosts answer for them: " + strings.Join(quarantined, ", ")
	if len(quarantined) >= maxQuarantined {
		cond.Reason = reasonQuarantineLimit
		cond.Message += "; there will be no more, so a Service may be left with an address that another host has"
	}
	cond.Message += ": exclude what is not the pool's, or take these hosts off its addresses"
	return cond
}

// setConflict says that other hosts have addresses which the Service shows.
func (c *Controller) setConflict(svc *corev1.Service, addrs []netip.Addr) {
	cond := condition(svc, v1alpha1.ServiceAnnounced)
	var texts []string
	for _, addr := range addrs {
		obj := c.ledger.object(addr)
		if obj == nil {
			continue
		}
		conflict := conflictOf(obj)
		switch {
		case conflict == nil:
		case obj.Status.L2 == nil:
			texts = append(texts, fmt.Sprintf("%s is not announced, because another host, %s, answers for it: take that host off the address, or ask for another", addr, conflict.MAC))
		default:
			texts = append(texts, fmt.Sprintf("another host, %s, claims %s too: take that host off the address, or ask for another", conflict.MAC, addr))
		}
	}
	if len(texts) == 0 {
		return
	}
	cond.Reason, cond.Message = ReasonAddressConflict, strings.Join(texts, "; ")
	setCondition(svc, cond, cond.LastTransitionTime)
}

// tellConflict sends an event when another host has turned up on an address
// that the Service shows, or another one than before.
func (c *Controller) tellConflict(before, after *corev1.Service) {
	was, is := condition(before, v1alpha1.ServiceAnnounced), condition(after, v1alpha1.ServiceAnnounced)
	if is.Reason == ReasonAddressConflict && was.Message != is.Message {
		c.teller.tell(after, corev1.EventTypeWarning, is.Reason, is.Message)
	}
}
