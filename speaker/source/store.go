// SPDX-License-Identifier: Apache-2.0

package source

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// store holds the cluster in the terms of plan. Its setters take the object as
// it was and as it is, either of which may be nil, and report whether a
// snapshot could differ now; only the addresses concerned are made anew.
type store struct {
	mu       sync.Mutex
	synced   bool
	nodes    map[string]plan.Node
	services map[types.NamespacedName]bool // with externalTrafficPolicy Local
	slices   map[types.NamespacedName]map[string]slice
	ips      map[string]*ip
	// users are the LoadBalancerIPs that name a Service.
	users map[types.NamespacedName]map[*ip]struct{}
}

// slice is an EndpointSlice of a Service.
type slice struct {
	family    discoveryv1.AddressType
	endpoints []plan.Endpoint
}

// ip is a LoadBalancerIP.
type ip struct {
	record   Record
	services []types.NamespacedName
	address  plan.Address
	// stale says that address.Services must be read anew.
	stale bool
}

func newStore() *store {
	return &store{
		nodes:    map[string]plan.Node{},
		services: map[types.NamespacedName]bool{},
		slices:   map[types.NamespacedName]map[string]slice{},
		ips:      map[string]*ip{},
		users:    map[types.NamespacedName]map[*ip]struct{}{},
	}
}

// complete says that everything that exists was set.
func (s *store) complete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = true
}

func (s *store) state() (State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.synced {
		return State{}, false
	}
	st := State{
		Snapshot: plan.Snapshot{
			Addresses: make([]plan.Address, 0, len(s.ips)),
			Nodes:     slices.AppendSeq(make([]plan.Node, 0, len(s.nodes)), maps.Values(s.nodes)),
		},
		Records: make(map[netip.Addr]Record, len(s.ips)),
	}
	for _, p := range s.ips {
		if p.stale {
			p.address.Services = s.servicesOf(p)
			p.stale = false
		}
		st.Snapshot.Addresses = append(st.Snapshot.Addresses, p.address)
		st.Records[p.address.Addr] = p.record
	}
	return st, true
}

// servicesOf returns the Services that hold the address. They are found by
// name: a Service that was restored from a backup has another UID and the same
// users. One that isn't there asks for nothing; if it only wasn't seen yet, it
// will be.
func (s *store) servicesOf(p *ip) []plan.Service {
	family := discoveryv1.AddressTypeIPv4
	if p.address.Addr.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	var out []plan.Service
	for _, name := range p.services {
		local, ok := s.services[name]
		if !ok {
			continue
		}
		svc := plan.Service{Namespace: name.Namespace, Name: name.Name, Local: local}
		if local {
			for _, sl := range s.slices[name] {
				if sl.family == family {
					svc.Endpoints = append(svc.Endpoints, sl.endpoints...)
				}
			}
		}
		out = append(out, svc)
	}
	return out
}

func (s *store) setNode(old, node *corev1.Node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if node == nil {
		delete(s.nodes, old.Name)
		return s.synced
	}
	n := kube.Node(node)
	if was, ok := s.nodes[n.Name]; ok && reflect.DeepEqual(was, n) {
		return false
	}
	s.nodes[n.Name] = n
	return s.synced
}

func (s *store) setService(old, svc *corev1.Service) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if svc == nil {
		name := types.NamespacedName{Namespace: old.Namespace, Name: old.Name}
		delete(s.services, name)
		return s.touch(name)
	}
	name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	local := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if was, ok := s.services[name]; ok && was == local {
		return false
	}
	s.services[name] = local
	return s.touch(name)
}

func (s *store) setSlice(old, es *discoveryv1.EndpointSlice) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	if old != nil && (es == nil || kube.ServiceOf(old) != kube.ServiceOf(es)) {
		name := kube.ServiceOf(old)
		if delete(s.slices[name], old.Name); len(s.slices[name]) == 0 {
			delete(s.slices, name)
		}
		changed = s.touchLocal(name)
	}
	if es == nil || kube.ServiceOf(es).Name == "" {
		return changed
	}
	name := kube.ServiceOf(es)
	sl := slice{family: es.AddressType, endpoints: kube.Endpoints(es)}
	if was, ok := s.slices[name][es.Name]; ok && was.family == sl.family && slices.Equal(was.endpoints, sl.endpoints) {
		return changed
	}
	if s.slices[name] == nil {
		s.slices[name] = map[string]slice{}
	}
	s.slices[name][es.Name] = sl
	return s.touchLocal(name) || changed
}

func (s *store) setIP(old, obj *v1alpha1.LoadBalancerIP) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old == nil {
		old = obj
	}
	if p := s.ips[old.Name]; p != nil {
		for _, name := range p.services {
			if delete(s.users[name], p); len(s.users[name]) == 0 {
				delete(s.users, name)
			}
		}
		delete(s.ips, old.Name)
	}
	if obj == nil {
		return s.synced
	}
	addr, err := netip.ParseAddr(obj.Spec.Address)
	if err != nil {
		// The API server admits no such object.
		return s.synced
	}
	p := &ip{
		record:  Record{Name: obj.Name, ResourceVersion: obj.ResourceVersion, Claim: obj.Status.L2},
		address: plan.Address{Addr: addr, Proposed: obj.Spec.Owner},
		stale:   true,
	}
	if c := obj.Status.L2; c != nil {
		p.address.Claim = plan.Claim{Node: c.Node, Term: c.Term}
	}
	for _, b := range obj.Spec.Services {
		name := types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
		p.services = append(p.services, name)
		if s.users[name] == nil {
			s.users[name] = map[*ip]struct{}{}
		}
		s.users[name][p] = struct{}{}
	}
	s.ips[obj.Name] = p
	return s.synced
}

// touch makes the addresses of a Service anew.
func (s *store) touch(name types.NamespacedName) bool {
	for p := range s.users[name] {
		p.stale = true
	}
	return s.synced && len(s.users[name]) > 0
}

// touchLocal is touch for a change of endpoints, which matter for Local only.
func (s *store) touchLocal(name types.NamespacedName) bool {
	return s.services[name] && s.touch(name)
}
