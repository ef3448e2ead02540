// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// defaultReuseAfter is how long an address rests whose pool is gone.
const defaultReuseAfter = 10 * time.Minute

// Reasons of a pool's conditions.
const (
	reasonPoolReady        = "Ready"            // every address and selector is usable
	reasonInvalidAddresses = "InvalidAddresses" // an entry of addresses or exclude can't be read
	reasonInvalidSelector  = "InvalidSelector"  // a selector can't be read, and selects nothing
	reasonOverlaps         = "SharesAddresses"  // some of its addresses are in other pools, too
	reasonNoOverlap        = "NoOverlap"        // none of its addresses is in another pool
	reasonExhausted        = "NoAddressLeft"    // a family that it has addresses of has none to give
	reasonAddressesLeft    = "AddressesLeft"    // every family that it has addresses of has some to give
	reasonNoConflict       = "NoConflict"       // no address is quarantined
	reasonQuarantined      = "Quarantined"      // addresses are quarantined, because hosts outside the cluster have them
	reasonQuarantineLimit  = "QuarantineLimit"  // three are, and no more will be before an hour has passed since the first
)

const maxNamedOverlappingPool = 5

// pool is a LoadBalancerIPPool as it is used.
type pool struct {
	ipam       ipam.Pool
	services   labels.Selector
	namespaces labels.Selector
	reuseAfter time.Duration
	// ready is the condition that says what of the spec can't be used.
	ready metav1.Condition
	// uid and generation of the spec that was read.
	uid        types.UID
	generation int64
}

// readPool translates a pool. What can't be used is left out and told; a
// selector that can't be read selects nothing.
func readPool(obj *v1alpha1.LoadBalancerIPPool) *pool {
	p := &pool{
		uid:        obj.UID,
		generation: obj.Generation,
		ipam: ipam.Pool{
			Name:          obj.Name,
			AutoAssign:    obj.Spec.AutoAssign == nil || *obj.Spec.AutoAssign,
			AvoidBuggyIPs: obj.Spec.AvoidBuggyIPs,
			Disabled:      obj.Spec.Disabled || obj.DeletionTimestamp != nil,
			Priority:      obj.Spec.Priority,
		},
		reuseAfter: defaultReuseAfter,
		ready:      metav1.Condition{Type: v1alpha1.PoolReady, Status: metav1.ConditionTrue, Reason: reasonPoolReady, Message: "all addresses and selectors are usable"},
	}
	if n := obj.Spec.MaxPerNamespace; n != nil {
		p.ipam.MaxPerNamespace = int(*n)
	}
	if d := obj.Spec.ReuseAfter; d != nil {
		p.reuseAfter = d.Duration
	}
	unusable := func(reason, format string, args ...any) {
		if p.ready.Status == metav1.ConditionTrue {
			p.ready.Status, p.ready.Reason, p.ready.Message = metav1.ConditionFalse, reason, brief(fmt.Sprintf(format, args...))
		}
	}
	for i, text := range obj.Spec.Addresses {
		r, err := ipam.ParseRange(string(text))
		if err != nil {
			unusable(reasonInvalidAddresses, "spec.addresses[%d]: %v; the other entries are used", i, err)
			continue
		}
		if what := ipam.Special(r.From()); what != "" && what == ipam.Special(r.To()) {
			unusable(reasonInvalidAddresses, "spec.addresses[%d]: %s is %s, which no Service can have; the other entries are used: take it out", i, r.From(), what)
		}
		p.ipam.Ranges = append(p.ipam.Ranges, r)
	}
	p.ipam.Exclude = ipam.SpecialRanges()
	for i, text := range obj.Spec.Exclude {
		r, err := ipam.ParseRange(string(text))
		if err != nil {
			// What was to be kept out must not be handed out by mistake.
			p.ipam.Disabled = true
			unusable(reasonInvalidAddresses, "spec.exclude[%d]: %v; until it is corrected the pool gives out nothing new", i, err)
			continue
		}
		p.ipam.Exclude = append(p.ipam.Exclude, r)
	}
	selector := func(field string, s *metav1.LabelSelector) labels.Selector {
		if s == nil {
			return labels.Everything()
		}
		sel, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			unusable(reasonInvalidSelector, "spec.%s: %v; until it is corrected it selects nothing", field, err)
			return labels.Nothing()
		}
		return sel
	}
	p.services = selector("serviceSelector", obj.Spec.ServiceSelector)
	p.namespaces = selector("namespaceSelector", obj.Spec.NamespaceSelector)
	return p
}

// admits reports whether both selectors match.
func (p *pool) admits(svc *corev1.Service, namespace labels.Set) bool {
	return p.services.Matches(labels.Set(svc.Labels)) && p.namespaces.Matches(namespace)
}

// spans reports whether the pool has an address, or would but for an
// exclusion.
func (p *pool) spans(addr netip.Addr) bool {
	return addr.IsValid() && slices.ContainsFunc(p.ipam.Ranges, func(r netipx.IPRange) bool { return r.Contains(addr) })
}

// pools are the pools as they are used now.
type pools struct {
	mu     sync.RWMutex
	byName map[string]*pool
}

func (p *pools) set(byName map[string]*pool) (before map[string]*pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, p.byName = p.byName, byName
	return before
}

func (p *pools) get(name string) *pool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byName[name]
}

func (p *pools) names() []string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Collect(maps.Keys(p.byName))
}

// admitting returns the names of the pools whose selectors both match.
func (p *pools) admitting(svc *corev1.Service, namespace labels.Set) []string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var names []string
	for name, pool := range p.byName {
		if pool.admits(svc, namespace) {
			names = append(names, name)
		}
	}
	return names
}

// reuseAfter returns how long an address of the pool rests.
func (p *pools) reuseAfter(name string) time.Duration {
	if pool := p.get(name); pool != nil {
		return pool.reuseAfter
	}
	return defaultReuseAfter
}

// poolEdit is a pool before and after an edit, nil if there was or is none.
type poolEdit struct {
	name          string
	before, after *pool
}

// readPools takes the pools from the cache into the ledger. It returns those
// whose spec is not what it was.
func (c *Controller) readPools(ctx context.Context) ([]poolEdit, error) {
	var list v1alpha1.LoadBalancerIPPoolList
	if err := c.client.List(ctx, &list); err != nil {
		return nil, err
	}
	byName := make(map[string]*pool, len(list.Items))
	all := make([]ipam.Pool, 0, len(list.Items))
	for i := range list.Items {
		p := readPool(&list.Items[i])
		byName[p.ipam.Name] = p
		all = append(all, p.ipam)
	}
	before := c.pools.set(byName)
	c.ledger.mu.Lock()
	c.ledger.alloc.SetPools(all)
	c.ledger.mu.Unlock()

	var edits []poolEdit
	for name, was := range before {
		if is := byName[name]; is == nil || is.uid != was.uid || is.generation != was.generation {
			edits = append(edits, poolEdit{name, was, is})
		}
	}
	for name, is := range byName {
		if before[name] == nil {
			edits = append(edits, poolEdit{name, nil, is})
		}
	}
	return edits, nil
}

// reconcilePools takes an edit of any pool: all pools at once, because they
// may overlap.
func (c *Controller) reconcilePools(ctx context.Context) error {
	edits, err := c.readPools(ctx)
	if err != nil {
		return err
	}
	for _, name := range c.pools.names() {
		c.poolStatus.Add(request(name))
	}
	for _, e := range edits {
		c.enqueueAddresses(c.ledger.known(e.name))
	}
	c.wakeConcerned(ctx, edits)
	return nil
}

// reconcilePoolStatus writes a pool's counts and conditions if they changed.
func (c *Controller) reconcilePoolStatus(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	obj := &v1alpha1.LoadBalancerIPPool{}
	if err := c.client.Get(ctx, req.NamespacedName, obj); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	p := c.pools.get(obj.Name)
	if p == nil || p.generation != obj.Generation {
		return reconcile.Result{}, nil // it is read in a moment, and then comes back
	}
	c.ledger.mu.Lock()
	stats, ok := c.ledger.alloc.Stats(obj.Name)
	overlaps := c.ledger.alloc.Overlaps(obj.Name)
	c.ledger.mu.Unlock()
	if !ok {
		return reconcile.Result{}, nil
	}
	updated := obj.DeepCopy()
	setPoolStatus(updated, p.ready, stats, overlaps, c.ledger.quarantines(obj.Name), metav1.NewTime(c.now()))
	if equality.Semantic.DeepEqual(obj.Status, updated.Status) {
		return reconcile.Result{}, nil
	}
	err := c.client.Status().Patch(ctx, updated, client.MergeFromWithOptions(obj, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil // its event comes back here
	}
	return reconcile.Result{}, err
}

func setPoolStatus(obj *v1alpha1.LoadBalancerIPPool, ready metav1.Condition, stats ipam.Stats, overlaps, quarantined []string, now metav1.Time) {
	obj.Status.IPv4, obj.Status.IPv6 = addressCount(stats.IPv4), addressCount(stats.IPv6)

	overlap := metav1.Condition{Type: v1alpha1.PoolOverlaps, Status: metav1.ConditionFalse, Reason: reasonNoOverlap, Message: "no other pool has an address of this one"}
	if n := len(overlaps); n > 0 {
		overlap.Status, overlap.Reason = metav1.ConditionTrue, reasonOverlaps
		more := ""
		if n > maxNamedOverlappingPool {
			overlaps, more = overlaps[:maxNamedOverlappingPool], fmt.Sprintf(" and %d more", n-maxNamedOverlappingPool)
		}
		overlap.Message = "some addresses are in " + strings.Join(overlaps, ", ") + more + " too; each is given once, by whichever pool is asked first"
	}

	exhausted := metav1.Condition{Type: v1alpha1.PoolExhausted, Status: metav1.ConditionFalse, Reason: reasonAddressesLeft, Message: "there are addresses left"}
	var empty []string
	for _, family := range []struct {
		name  string
		usage ipam.Usage
	}{{"IPv4", stats.IPv4}, {"IPv6", stats.IPv6}} {
		if family.usage.Capacity.Sign() > 0 && family.usage.Available.Sign() == 0 {
			empty = append(empty, family.name)
		}
	}
	if len(empty) > 0 {
		exhausted.Status, exhausted.Reason = metav1.ConditionTrue, reasonExhausted
		exhausted.Message = "no " + strings.Join(empty, " and no ") + " address is left: add some to spec.addresses or delete Services that need none"
	}

	for _, cond := range []metav1.Condition{ready, overlap, exhausted, conflictsCondition(quarantined)} {
		cond.LastTransitionTime, cond.ObservedGeneration = now, obj.Generation
		meta.SetStatusCondition(&obj.Status.Conditions, cond)
	}
}

// addressCount is nil for a family that the pool has no address of.
func addressCount(u ipam.Usage) *v1alpha1.AddressCount {
	if u.Capacity == nil || u.Capacity.Cmp(new(big.Int)) == 0 {
		return nil
	}
	return &v1alpha1.AddressCount{Capacity: u.Capacity.String(), Allocated: u.Allocated.String(), Available: u.Available.String()}
}
