// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// service is what the ledger keeps of a Service beside its addresses.
type service struct {
	uid types.UID
	// written is the resourceVersion of our last write to it.
	written string
	// shown are the addresses that it showed when it was last as it should be,
	// if seen says that it ever was. Stands says that this was not found
	// overwritten since.
	shown        []netip.Addr
	seen, stands bool
	contest      contest
	// holder carries what sharing depends on; it is in the Service, not in the
	// LoadBalancerIP.
	holder ipam.Holder
	// accepted is the same as it was when the Service was last found to go
	// with the others on an address. After an edit by which it does no longer
	// it is the one to leave, and the others are not to see that edit.
	accepted map[netip.Addr]ipam.Holder
	foreign  []netip.Addr
	// bound says when this controller itself bound an address to it that it
	// does not show yet.
	bound map[netip.Addr]time.Time
}

// boundByUs takes note that this controller has bound an address.
func (l *ledger) boundByUs(svc *corev1.Service, addr netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]; s != nil && s.uid == svc.UID {
		if s.bound == nil {
			s.bound = map[netip.Addr]time.Time{}
		}
		s.bound[addr] = now
	}
}

// boundSince returns when this controller itself bound the address to the
// Service, the zero time if it did not.
func (l *ledger) boundSince(svc *corev1.Service, addr netip.Addr) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]; s != nil && s.uid == svc.UID {
		return s.bound[addr]
	}
	return time.Time{}
}

// unseenLocked reports whether a Service other than the one named is on the
// address that describe has not been told of. One of the same name and another
// UID has been seen: two restored Services would wait for each other for ever.
func (l *ledger) unseenLocked(addr netip.Addr, but types.NamespacedName) bool {
	return slices.ContainsFunc(l.effectiveLocked(addr).Spec.Services, func(b v1alpha1.ServiceBinding) bool {
		name := types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
		return name != but && l.services[name] == nil
	})
}

// describe takes a Service from the cache: what sharing depends on, and the
// addresses that it shows and does not hold. It is not current when our own
// last write to the Service is newer, and then nothing may be decided on it.
// Lifted says that another Service's refusal may no longer stand.
func (l *ledger) describe(svc *corev1.Service, holder ipam.Holder, foreign []netip.Addr) (current, lifted bool) {
	name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.services[name]
	if s != nil && s.uid != svc.UID {
		lifted = l.dropForeignLocked(s)
		s = nil
	}
	if s == nil {
		s = &service{uid: svc.UID, holder: holder}
		l.services[name] = s
		for addr := range l.holdings[name] {
			if l.effectiveLocked(addr).Spec.SharingKey != "" {
				lifted = l.acceptLocked(name, holder, []netip.Addr{addr}) || lifted
			}
		}
	}
	if s.written != "" && newer(s.written, svc.ResourceVersion) {
		return false, false
	}
	s.holder = holder
	if !slices.Equal(foreign, s.foreign) {
		lifted = l.dropForeignLocked(s) || lifted
		for _, a := range foreign {
			l.alloc.PutForeign(a, ref(svc))
		}
		s.foreign = foreign
	}
	return true, lifted
}

// acceptLocked takes note that a Service as it is now goes with the others on
// these addresses. It reports whether that is news of one: others who were
// refused may be able to join it.
func (l *ledger) acceptLocked(name types.NamespacedName, holder ipam.Holder, addrs []netip.Addr) (news bool) {
	s := l.services[name]
	if s == nil {
		return false
	}
	for addr := range s.accepted {
		if _, holds := l.holdings[name][addr]; !holds {
			delete(s.accepted, addr)
		}
	}
	for _, addr := range addrs {
		if was, ok := s.accepted[addr]; ok && was.Backend == holder.Backend && slices.Equal(was.SharingNamespaces, holder.SharingNamespaces) {
			continue
		}
		if s.accepted == nil {
			s.accepted = map[netip.Addr]ipam.Holder{}
		}
		s.accepted[addr] = holder
		if _, holds := l.holdings[name][addr]; holds {
			l.alloc.Put(l.holdingLocked(addr, l.effectiveLocked(addr)))
			news = true
		}
	}
	return news
}

// acceptPast accepts the Services on shared addresses as they must have been
// when they joined: naming each other's namespaces, and answered from the same
// nodes. One that was edited while no controller ran is then the one to leave;
// of two that differ in their nodes it is the later.
func (l *ledger) acceptPast() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr, obj := range l.objects {
		if len(obj.Spec.Services) < 2 {
			continue
		}
		var namespaces []string
		for _, b := range obj.Spec.Services {
			namespaces = append(namespaces, b.Namespace)
		}
		var first *service
		for _, b := range obj.Spec.Services {
			s := l.services[types.NamespacedName{Namespace: b.Namespace, Name: b.Name}]
			if s == nil {
				continue // it went meanwhile, and is released
			}
			if first == nil {
				first = s
			}
			if s.accepted == nil {
				s.accepted = map[netip.Addr]ipam.Holder{}
			}
			s.accepted[addr] = ipam.Holder{
				Backend:           first.holder.Backend,
				SharingNamespaces: slices.Concat(s.holder.SharingNamespaces, namespaces),
			}
		}
		l.alloc.Put(l.holdingLocked(addr, obj))
	}
}

func (l *ledger) dropForeignLocked(s *service) (lifted bool) {
	lifted = len(s.foreign) > 0
	for _, a := range s.foreign {
		l.alloc.DeleteForeign(a, string(s.uid))
	}
	s.foreign = nil
	return lifted
}

// forgetService drops what describe took. Lifted says that another Service's
// refusal may no longer stand.
func (l *ledger) forgetService(name types.NamespacedName) (lifted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.services[name]; s != nil {
		lifted = l.dropForeignLocked(s)
		delete(l.services, name)
	}
	return lifted
}

// wrote takes the resourceVersion of our own write to a Service.
func (l *ledger) wrote(svc *corev1.Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]; s != nil && s.uid == svc.UID {
		s.written, s.bound = svc.ResourceVersion, nil
	}
}

// stands takes note that a Service is as we want it.
func (l *ledger) stands(svc *corev1.Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]; s != nil && s.uid == svc.UID {
		s.shown, _ = shown(svc)
		s.seen, s.stands = true, true
	}
}

// isLocal reports whether a Service's endpoints decide who may announce it.
func (l *ledger) isLocal(name types.NamespacedName) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.services[name]
	return s != nil && s.holder.Backend != ""
}
