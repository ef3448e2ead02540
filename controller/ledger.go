// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// ledger is the controller's memory of what is held. Reads from the cache lag
// behind writes; the ledger does not: it takes every write at once, and from
// the watch only what is newer than what it knows.
//
// A write in flight is in it already as intended, so that two workers can't
// choose the same address; the API server is asked only afterwards, without
// the lock.
type ledger struct {
	mu       sync.Mutex
	alloc    *ipam.Allocator
	objects  map[netip.Addr]*v1alpha1.LoadBalancerIP
	intended map[netip.Addr]*write
	// lost are the bound objects that somebody deleted. Their Services have the
	// addresses until each has been looked at, and makes the object again or
	// lets go.
	lost map[netip.Addr]*v1alpha1.LoadBalancerIP
	// deleted holds the UIDs of LoadBalancerIPs that we deleted and whose
	// deletion the watch has yet to tell.
	deleted  map[types.UID]struct{}
	services map[types.NamespacedName]*service
	waiting  waiting
	// holdings are the addresses bound to a namespace/name, whatever the UID.
	holdings map[types.NamespacedName]map[netip.Addr]struct{}
	// quarantined are the addresses whose objects say so.
	quarantined map[netip.Addr]struct{}
	// counts is the number of bound addresses that a node announces or is
	// about to, and bearers is which.
	counts  map[string]int
	bearers map[netip.Addr]bearer
	moves   map[netip.Addr]moves
}

// write is a spec on its way to the API server.
type write struct {
	// object is what is written; without services it is released.
	object *v1alpha1.LoadBalancerIP
	// create says that there is no object yet.
	create bool
	// rewords says that it changes the ports or the sharing key of a Service
	// that holds the address.
	rewords bool
	// gone is the UID of an object, empty for none, whose deletion was seen
	// meanwhile: it may have come between this write and its answer.
	gone types.UID
	// done is closed when the API server has answered.
	done chan struct{}
}

func newLedger() *ledger {
	return &ledger{
		alloc:    ipam.New(),
		objects:  map[netip.Addr]*v1alpha1.LoadBalancerIP{},
		intended: map[netip.Addr]*write{},
		lost:     map[netip.Addr]*v1alpha1.LoadBalancerIP{},
		deleted:  map[types.UID]struct{}{},
		services: map[types.NamespacedName]*service{},
		waiting:  newWaiting(),
		holdings: map[types.NamespacedName]map[netip.Addr]struct{}{},
		counts:   map[string]int{},
		bearers:  map[netip.Addr]bearer{},
		moves:    map[netip.Addr]moves{},

		quarantined: map[netip.Addr]struct{}{},
	}
}

// observe takes an object from the watch or from a live read. It reports
// whether the object is news, and what was known before.
func (l *ledger) observe(obj *v1alpha1.LoadBalancerIP) (before *v1alpha1.LoadBalancerIP, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.observeLocked(obj)
}

func (l *ledger) observeLocked(obj *v1alpha1.LoadBalancerIP) (before *v1alpha1.LoadBalancerIP, news bool) {
	addr, err := netip.ParseAddr(obj.Spec.Address)
	if err != nil {
		return nil, false
	}
	if _, gone := l.deleted[obj.UID]; gone {
		return nil, false
	}
	before = l.objects[addr]
	if before != nil && !newer(obj.ResourceVersion, before.ResourceVersion) {
		if obj.ResourceVersion == before.ResourceVersion {
			l.objects[addr] = obj // the cache's own, so that it is in memory once
		}
		return before, false
	}
	l.replaceLocked(addr, obj)
	return before, true
}

// forget takes a deletion from the watch. It returns the address, and the
// object that the ledger had believed in, nil for none.
func (l *ledger) forget(obj *v1alpha1.LoadBalancerIP) (addr netip.Addr, known *v1alpha1.LoadBalancerIP) {
	addr, err := netip.ParseAddr(obj.Spec.Address)
	if err != nil {
		return netip.Addr{}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.deleted, obj.UID)
	if w := l.intended[addr]; w != nil {
		w.gone = obj.UID
	}
	if known = l.objects[addr]; known == nil || known.UID != obj.UID {
		return addr, nil
	}
	l.replaceLocked(addr, nil)
	return addr, known
}

// replaceLocked sets the known object of addr, nil for none, and everything
// that is indexed by it.
func (l *ledger) replaceLocked(addr netip.Addr, obj *v1alpha1.LoadBalancerIP) {
	before := l.effectiveLocked(addr)
	l.setLocked(addr, obj)
	l.reindexLocked(addr, before)
}

// setLocked sets the known object of addr, nil if it was deleted.
func (l *ledger) setLocked(addr netip.Addr, obj *v1alpha1.LoadBalancerIP) {
	if obj != nil {
		l.objects[addr] = obj
		delete(l.lost, addr)
		return
	}
	l.loseLocked(addr, l.objects[addr])
	delete(l.objects, addr)
}

// loseLocked takes an object that somebody deleted, nil for none.
func (l *ledger) loseLocked(addr netip.Addr, was *v1alpha1.LoadBalancerIP) {
	if was != nil && len(was.Spec.Services) > 0 {
		l.lost[addr] = was
	}
}

// remember takes a Service whose status shows an address under our own
// condition, and of which no object is left.
func (l *ledger) remember(svc *corev1.Service, req ipam.Request, addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.objects[addr] != nil {
		return
	}
	spec := v1alpha1.LoadBalancerIPSpec{Address: addr.String(), SharingKey: req.SharingKey}
	if was := l.lost[addr]; was != nil {
		if req.SharingKey == "" || was.Spec.SharingKey != req.SharingKey {
			return
		}
		spec = was.Spec
	} else if !l.adoptableLocked(req, addr) {
		return
	}
	if pools := l.alloc.PoolsContaining(addr); len(pools) > 0 {
		spec.Pool = pools[0]
	}
	spec.Services = append(slices.Clip(spec.Services), bindingOf(svc, req))
	before := l.effectiveLocked(addr)
	l.lost[addr] = &v1alpha1.LoadBalancerIP{Spec: spec}
	l.reindexLocked(addr, before)
}

// adoptableLocked reports whether an address that only a Service's status tells
// of may be bound to it: nobody else has it, and its announcement would not
// take a node off the network.
func (l *ledger) adoptableLocked(req ipam.Request, addr netip.Addr) bool {
	if ipam.Special(addr) != "" {
		return false
	}
	refusal := l.alloc.Check(req, addr)
	h, known := l.alloc.Get(addr)
	return refusal == nil || refusal.Reason != ipam.NodeAddress && (!known || h.State() == ipam.Resting)
}

// letGoLocked takes a Service off an address whose object is lost. It reports
// whether it was on it.
func (l *ledger) letGoLocked(h holding) bool {
	was := l.lost[h.addr]
	if was == nil {
		return false
	}
	is := was.DeepCopy()
	is.Spec.Services = slices.DeleteFunc(is.Spec.Services, func(b v1alpha1.ServiceBinding) bool {
		return b.Namespace == h.name.Namespace && b.Name == h.name.Name && b.UID == h.uid
	})
	switch len(is.Spec.Services) {
	case len(was.Spec.Services):
		return false
	case 0:
		delete(l.lost, h.addr)
	default:
		l.lost[h.addr] = is
	}
	l.reindexLocked(h.addr, was)
	return true
}

// intendLocked takes a write on its way.
func (l *ledger) intendLocked(addr netip.Addr, w *write) {
	before := l.effectiveLocked(addr)
	l.intended[addr] = w
	l.reindexLocked(addr, before)
}

// settle takes the API server's answer to a write: the object as stored, or
// nil when the write failed and what was known before is still the best guess.
// It returns what was known.
func (l *ledger) settle(addr netip.Addr, w *write, stored *v1alpha1.LoadBalancerIP) (known *v1alpha1.LoadBalancerIP) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.effectiveLocked(addr)
	known = l.objects[addr]
	delete(l.intended, addr)
	switch {
	case stored == nil:
	case w.gone != "" && stored.UID == w.gone:
		l.loseLocked(addr, stored)
	case known == nil || newer(stored.ResourceVersion, known.ResourceVersion):
		l.setLocked(addr, stored)
	}
	l.reindexLocked(addr, before)
	close(w.done)
	return known
}

// settleDeleted takes the API server's word that the object is gone.
func (l *ledger) settleDeleted(addr netip.Addr, w *write, uid types.UID, byUs bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.effectiveLocked(addr)
	delete(l.intended, addr)
	if known := l.objects[addr]; known != nil && known.UID == uid {
		if byUs {
			delete(l.objects, addr)
			l.deleted[uid] = struct{}{}
		} else {
			l.setLocked(addr, nil)
		}
	}
	l.reindexLocked(addr, before)
	close(w.done)
}

// effectiveLocked returns the object as it will be once the write in flight
// has gone through, or as it is known, or as it was before it was lost.
func (l *ledger) effectiveLocked(addr netip.Addr) *v1alpha1.LoadBalancerIP {
	if w := l.intended[addr]; w != nil {
		return w.object
	}
	if obj := l.objects[addr]; obj != nil {
		return obj
	}
	return l.lost[addr]
}

func (l *ledger) reindexLocked(addr netip.Addr, before *v1alpha1.LoadBalancerIP) {
	after := l.effectiveLocked(addr)
	if before != nil {
		for _, b := range before.Spec.Services {
			name := types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
			delete(l.holdings[name], addr)
			if len(l.holdings[name]) == 0 {
				delete(l.holdings, name)
			}
		}
	}
	l.countLocked(addr, before, after)
	if delete(l.quarantined, addr); after == nil {
		delete(l.moves, addr)
		l.alloc.Delete(addr)
		return
	}
	if after.Spec.Quarantined != nil {
		l.quarantined[addr] = struct{}{}
	}
	for _, b := range after.Spec.Services {
		name := types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
		if l.holdings[name] == nil {
			l.holdings[name] = map[netip.Addr]struct{}{}
		}
		l.holdings[name][addr] = struct{}{}
	}
	l.alloc.Put(l.holdingLocked(addr, after))
}

// countLocked keeps counts.
func (l *ledger) countLocked(addr netip.Addr, before, after *v1alpha1.LoadBalancerIP) {
	was := l.bearers[addr]
	is := bearerOf(before, after, was)
	if is == was {
		return
	}
	if l.counts[was.node]--; l.counts[was.node] <= 0 {
		delete(l.counts, was.node)
	}
	if is == (bearer{}) {
		delete(l.bearers, addr)
		return
	}
	l.bearers[addr] = is
	l.counts[is.node]++
}

// holdingLocked translates an object for the allocator.
func (l *ledger) holdingLocked(addr netip.Addr, obj *v1alpha1.LoadBalancerIP) ipam.Holding {
	h := ipam.Holding{Address: addr, Pool: obj.Spec.Pool, SharingKey: obj.Spec.SharingKey, Quarantined: obj.Spec.Quarantined != nil}
	for _, b := range obj.Spec.Services {
		holder := ipam.Holder{
			Service: ipam.ServiceRef{Namespace: b.Namespace, Name: b.Name, UID: string(b.UID)},
			// Until the Service itself has been seen nobody may join it.
			Backend: "unknown " + string(b.UID),
		}
		// One with another UID is the same Service, restored from a backup.
		if s := l.services[types.NamespacedName{Namespace: b.Namespace, Name: b.Name}]; s != nil {
			is, accepted := s.accepted[addr]
			if !accepted {
				is = s.holder
			}
			holder.Backend, holder.SharingNamespaces = is.Backend, is.SharingNamespaces
		}
		for _, p := range b.Ports {
			holder.Ports = append(holder.Ports, ipam.Port{Protocol: ipam.Protocol(p.Protocol), Number: uint16(p.Port)})
		}
		h.Holders = append(h.Holders, holder)
	}
	if r := obj.Spec.ReservedFor; r != nil {
		h.ReservedFor = &ipam.Reservation{Namespace: r.Namespace, Name: r.Name}
	}
	if r := obj.Spec.Released; r != nil {
		h.Released = &ipam.Released{Namespace: r.Service.Namespace, Name: r.Service.Name, At: r.At.Time}
	}
	return h
}

// heldLocked returns the addresses bound to a Service name, whatever the UID:
// one name has one living Service, so a binding with another UID is a dead
// Service's, for the living one to take over. The oldest comes first.
func (l *ledger) heldLocked(name types.NamespacedName) []netip.Addr {
	held := slices.Collect(maps.Keys(l.holdings[name]))
	slices.SortFunc(held, func(a, b netip.Addr) int {
		return cmp.Or(l.effectiveLocked(a).CreationTimestamp.Compare(l.effectiveLocked(b).CreationTimestamp.Time), a.Compare(b))
	})
	return held
}

// holding is an address that is bound to a Service.
type holding struct {
	name types.NamespacedName
	addr netip.Addr
	uid  types.UID
}

// holdingsOf returns what is bound to a Service name among addrs, with the UIDs
// that it is bound to.
func (l *ledger) holdingsOf(name types.NamespacedName, addrs []netip.Addr) []holding {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []holding
	for _, addr := range addrs {
		obj := l.effectiveLocked(addr)
		if obj == nil {
			continue
		}
		for _, b := range obj.Spec.Services {
			if b.Namespace == name.Namespace && b.Name == name.Name {
				out = append(out, holding{name, addr, b.UID})
			}
		}
	}
	return out
}

// heldByNamesake reports whether an address is bound to a Service of the same
// name and another UID.
func (l *ledger) heldByNamesake(svc *corev1.Service) bool {
	name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	return slices.ContainsFunc(l.holdingsOf(name, l.held(name)), func(h holding) bool { return h.uid != svc.UID })
}

func (l *ledger) held(name types.NamespacedName) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heldLocked(name)
}

// object returns what is known of addr, nil if nothing. It must not be changed.
func (l *ledger) object(addr netip.Addr) *v1alpha1.LoadBalancerIP {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.objects[addr]
}

// known returns every address that has an object, of these pools if any are
// named.
func (l *ledger) known(pools ...string) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	var addrs []netip.Addr
	for addr, obj := range l.objects {
		if len(pools) == 0 || slices.Contains(pools, obj.Spec.Pool) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// newer compares resourceVersions. KEP-5504 promises that they can be, and
// before it every API server on etcd kept the promise. One that can't be
// compared counts as news: to believe the last word is never wrong for long.
func newer(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || c > 0
}
