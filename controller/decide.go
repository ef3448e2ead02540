// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// decision is what Allocate will do: either writes, or to wait for another
// worker's write.
type decision struct {
	Allocation
	writes []*write
	busy   <-chan struct{}
	// unseen says that nothing can be decided before the ledger has seen all
	// Services on an address that this one holds.
	unseen bool
}

// decide chooses under the ledger's lock and enters the choice as intended.
func (c *Controller) decide(ctx context.Context, svc *corev1.Service, want contract, visible, adopt []netip.Addr) decision {
	l := c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()

	// Under the lock, so that whoever is refused waits when the next edit of a
	// pool or of the namespace looks for those whom it concerns.
	want.request.Pools = c.pools.admitting(svc, c.namespaceLabels(ctx, svc.Namespace))
	name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	held := l.heldLocked(name)
	for _, addr := range held {
		if w := l.intended[addr]; w != nil {
			return decision{busy: w.done}
		}
		if !c.mayStayLocked(want.request, addr) && l.unseenLocked(addr, name) {
			return decision{unseen: true}
		}
	}
	for _, addr := range visible {
		// Another controller may have bound it to this Service, and then that
		// write for somebody else will fail.
		if w := l.intended[addr]; w != nil {
			return decision{busy: w.done}
		}
	}
	d := c.chooseLocked(want, held, visible, adopt)
	for _, addr := range d.Addresses {
		if w := l.intended[addr]; w != nil {
			return decision{busy: w.done}
		}
	}
	if want.request.SharingKey != "" && l.acceptLocked(name, want.holder(), d.Addresses) {
		c.wakeLocked()
	}
	c.waitLocked(&waiter{name: name, request: d.lacking, refusals: d.Refusals, partial: want.partial})
	for i, addr := range d.Addresses {
		if w := c.bindLocked(ctx, svc, want, addr, d.Pools[i]); w != nil {
			d.writes = append(d.writes, w)
		}
	}
	for _, w := range d.writes {
		l.intendLocked(netip.MustParseAddr(w.object.Spec.Address), w)
	}
	return d
}

// chooseLocked decides which address of each family the Service has from now
// on. What is held stays unless the Service itself asks for something else.
func (c *Controller) chooseLocked(want contract, held, visible, adopt []netip.Addr) decision {
	l, req := c.ledger, want.request
	d := decision{Allocation: Allocation{Contradictions: want.contradictions, lacking: want.request}}
	chosen := map[ipam.Family]ipam.Pick{}

	for _, family := range req.Families {
		keep, refusal := c.keepLocked(want, family, held, visible)
		if refusal != nil {
			d.Refusals = append(d.Refusals, *refusal)
		}
		if !keep.IsValid() {
			keep = c.adoptLocked(req, family, held, adopt)
		}
		if keep.IsValid() {
			chosen[family] = c.keptLocked(keep)
			req.Have = append(req.Have, keep)
			if refusal == nil {
				d.lacking.Have = append(d.lacking.Have, keep)
			}
		}
	}
	if want.invalid != nil {
		d.lacking.Families = nil
		d.Refusals = append(d.Refusals, *want.invalid)
	} else if len(req.Have) < len(req.Families) {
		choice := l.alloc.Choose(req)
		d.Refusals = append(d.Refusals, choice.Refusals...)
		for _, pick := range choice.Picks {
			chosen[ipam.FamilyOf(pick.Address)] = pick
		}
		// Where there is room for one of two that could each move, the other stays.
		for _, refusal := range choice.Refusals {
			if current := c.currentLocked(req, refusal.Family, held, visible); current.IsValid() {
				chosen[refusal.Family] = c.keptLocked(current)
			}
		}
	}
	for _, family := range want.request.Families {
		pick, ok := chosen[family]
		if !want.partial && len(d.Refusals) > 0 && !slices.Contains(visible, pick.Address) {
			// All or nothing, but what clients use already is not taken away.
			i := slices.IndexFunc(held, func(addr netip.Addr) bool {
				return ipam.FamilyOf(addr) == family && slices.Contains(visible, addr) && c.mayStayLocked(want.request, addr)
			})
			if ok = i >= 0; ok {
				pick = c.keptLocked(held[i])
			}
		}
		if ok {
			d.Addresses = append(d.Addresses, pick.Address)
			d.Pools = append(d.Pools, pick.Pool)
		}
	}
	for _, addr := range held {
		if !slices.Contains(d.Addresses, addr) {
			d.Surplus = append(d.Surplus, addr)
		}
	}
	// A family that is kept although another address was asked for is refused.
	d.Partial = want.partial && want.invalid == nil && len(d.Addresses) > 0 && !slices.ContainsFunc(d.Refusals, func(r ipam.Refusal) bool {
		return slices.ContainsFunc(d.Addresses, func(a netip.Addr) bool { return ipam.FamilyOf(a) == r.Family })
	})
	return d
}

// keepLocked returns the held address of a family that the Service keeps, or
// the zero Addr if it is to get another. A refusal says that the Service asked
// for something else and can't have it.
func (c *Controller) keepLocked(want contract, family ipam.Family, held, visible []netip.Addr) (netip.Addr, *ipam.Refusal) {
	req := want.request
	current := c.currentLocked(req, family, held, visible)
	if want.invalid != nil || !current.IsValid() || c.meetsLocked(req, current) {
		return current, nil
	}
	move := req
	move.Have = slices.DeleteFunc(slices.Clone(held), func(a netip.Addr) bool { return ipam.FamilyOf(a) == family })
	for _, refusal := range c.ledger.alloc.Choose(move).Refusals {
		if refusal.Family == family {
			return current, &refusal
		}
	}
	return netip.Addr{}, nil
}

// currentLocked returns the address of a family that the Service has, the zero
// Addr for none that it may stay on. Of several it is the one that it asks for,
// bound by an earlier decision to move there; else the one that its status
// shows, which clients use; else the oldest, which comes first.
func (c *Controller) currentLocked(req ipam.Request, family ipam.Family, held, visible []netip.Addr) netip.Addr {
	var current netip.Addr
	best := -1
	for _, addr := range held {
		if ipam.FamilyOf(addr) != family || !c.mayStayLocked(req, addr) {
			continue
		}
		rank := 0
		if slices.Contains(visible, addr) {
			rank = 1
		}
		if c.meetsLocked(req, addr) {
			rank += 2
		}
		if rank > best {
			current, best = addr, rank
		}
	}
	return current
}

// meetsLocked reports whether an address that the Service holds is what it asks
// for.
func (c *Controller) meetsLocked(req ipam.Request, addr netip.Addr) bool {
	for _, asked := range req.Addresses {
		if ipam.FamilyOf(asked) == ipam.FamilyOf(addr) {
			return asked == addr
		}
	}
	return req.PoolNamed == "" || c.ledger.effectiveLocked(addr).Spec.Pool == req.PoolNamed ||
		slices.Contains(c.ledger.alloc.PoolsContaining(addr), req.PoolNamed)
}

// keptLocked is the choice to leave an address where it is.
func (c *Controller) keptLocked(addr netip.Addr) ipam.Pick {
	pick := ipam.Pick{Address: addr}
	if obj := c.ledger.effectiveLocked(addr); obj != nil {
		pick.Pool = obj.Spec.Pool
	}
	if pools := c.ledger.alloc.PoolsContaining(addr); pick.Pool == "" && len(pools) > 0 {
		pick.Pool = pools[0]
	}
	return pick
}

// mayStayLocked reports whether a Service may stay on an address that it holds:
// its ports, key and policy still go with those of the others there, and if it
// is quarantined the Service asks for just this one.
func (c *Controller) mayStayLocked(req ipam.Request, addr netip.Addr) bool {
	spec := &c.ledger.effectiveLocked(addr).Spec
	if spec.Quarantined != nil && !slices.Contains(req.Addresses, addr) {
		return false
	}
	return len(spec.Services) < 2 || c.ledger.alloc.Check(req, addr) == nil
}

// adoptLocked returns the address of a family that the Service's status shows
// under our condition and that nobody else has.
func (c *Controller) adoptLocked(req ipam.Request, family ipam.Family, held, adopt []netip.Addr) netip.Addr {
	for _, addr := range adopt {
		if ipam.FamilyOf(addr) != family || slices.Contains(held, addr) {
			continue // what it holds and does not keep, it gives up
		}
		if c.ledger.adoptableLocked(req, addr) {
			return addr
		}
	}
	return netip.Addr{}
}

// bindLocked returns the write that makes addr's object say that svc holds it,
// or nil if it says so.
func (c *Controller) bindLocked(ctx context.Context, svc *corev1.Service, want contract, addr netip.Addr, pool string) *write {
	binding := bindingOf(svc, want.request)
	w := &write{done: make(chan struct{})}
	if known := c.ledger.objects[addr]; known != nil {
		w.object = known.DeepCopy()
	} else {
		w.create = true
		w.object = &v1alpha1.LoadBalancerIP{
			ObjectMeta: metav1.ObjectMeta{Name: ipam.ObjectName(addr)},
			Spec:       v1alpha1.LoadBalancerIPSpec{Address: addr.String()},
		}
		if lost := c.ledger.lost[addr]; lost != nil {
			lost.Spec.DeepCopyInto(&w.object.Spec)
		}
	}
	spec := &w.object.Spec
	namesake := func(b v1alpha1.ServiceBinding) bool { return b.ServiceName == binding.ServiceName }
	before, i := len(spec.Services), slices.IndexFunc(spec.Services, namesake)
	if i >= 0 {
		// A person may have entered it twice: of one name one Service lives.
		spec.Services = append(spec.Services[:i+1], slices.DeleteFunc(spec.Services[i+1:], namesake)...)
	}
	same := !w.create && before == len(spec.Services)
	switch {
	case i < 0:
		if len(spec.Services) == 0 {
			spec.Pool = pool
		}
		spec.Services = append(spec.Services, binding)
	case same && spec.Quarantined == nil && spec.Services[i].UID == binding.UID && slices.Equal(spec.Services[i].Ports, binding.Ports) && (spec.SharingKey == want.request.SharingKey || len(spec.Services) > 1):
		return nil
	default:
		spec.Services[i], w.rewords = binding, true
	}
	if len(spec.Services) == 1 {
		spec.SharingKey = want.request.SharingKey
	}
	// Who gets a quarantined one asked for it: it is in use again.
	spec.Released, spec.Quarantined = nil, nil
	spec.Holder = holderLine(spec)
	if owner, _ := c.proposeLocked(ctx, w.object, addr); owner != "" {
		spec.Owner = owner
	}
	return w
}

// bindingOf says that svc holds an address.
func bindingOf(svc *corev1.Service, req ipam.Request) v1alpha1.ServiceBinding {
	binding := v1alpha1.ServiceBinding{
		ServiceName: v1alpha1.ServiceName{Namespace: svc.Namespace, Name: svc.Name},
		UID:         svc.UID,
	}
	for _, p := range req.Ports {
		binding.Ports = append(binding.Ports, v1alpha1.ServicePort{Protocol: corev1.Protocol(p.Protocol), Port: int32(p.Number)})
	}
	return binding
}

// holderLine says in one line who has the address.
func holderLine(spec *v1alpha1.LoadBalancerIPSpec) string {
	if len(spec.Services) == 0 {
		return ""
	}
	first := spec.Services[0].Namespace + "/" + spec.Services[0].Name
	if more := len(spec.Services) - 1; more > 0 {
		return fmt.Sprintf("%s +%d", first, more)
	}
	return first
}
