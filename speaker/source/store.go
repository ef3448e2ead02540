// SPDX-License-Identifier: Apache-2.0

package source

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// store holds the cluster in the terms of plan. Its setters take the object as
// it was and as it is, either of which may be nil, and report whether a State
// could differ now. They only take note of what it is that changed: events come
// in bursts, and what they mean is worked out once for all of them.
type store struct {
	mu       sync.Mutex
	progress progress
	cluster  types.UID
	nodes    map[string]knownNode
	speakers map[string]*v1alpha1.Speaker
	pools    map[string]knownPool
	ads      map[string]*v1alpha1.L2Advertisement
	services map[types.NamespacedName]*keptService
	slices   map[types.NamespacedName][]*slice
	ips      map[netip.Addr]*ip
	peers    map[string]*v1alpha1.BGPPeer
	bgpAds   map[string]*v1alpha1.BGPAdvertisement
	profiles map[string]*v1alpha1.BFDProfile
	// passwords are of the Secrets that may be read.
	passwords map[string]kube.Password
	// users are the addresses that name a Service.
	users map[types.NamespacedName][]netip.Addr

	// dirty are the addresses that may not be as in view any longer.
	dirty                                   map[netip.Addr]struct{}
	nodesDirty, speakersDirty, scopingDirty bool
	// bgpSynced says that everything about BGP is known, which nothing else
	// waits for.
	bgpSynced, peeringDirty bool
	advertising             *kube.Advertising
	view                    State
}

type knownNode struct {
	plan   plan.Node
	labels labels.Set
	bgp    kube.NodeBGP
}

type knownPool struct {
	labels labels.Set
	ranges []netipx.IPRange
}

func newStore() *store {
	return &store{
		nodes:        map[string]knownNode{},
		speakers:     map[string]*v1alpha1.Speaker{},
		pools:        map[string]knownPool{},
		ads:          map[string]*v1alpha1.L2Advertisement{},
		services:     map[types.NamespacedName]*keptService{},
		slices:       map[types.NamespacedName][]*slice{},
		ips:          map[netip.Addr]*ip{},
		peers:        map[string]*v1alpha1.BGPPeer{},
		bgpAds:       map[string]*v1alpha1.BGPAdvertisement{},
		profiles:     map[string]*v1alpha1.BFDProfile{},
		passwords:    map[string]kube.Password{},
		users:        map[types.NamespacedName][]netip.Addr{},
		dirty:        map[netip.Addr]struct{}{},
		nodesDirty:   true,
		scopingDirty: true,
		advertising:  kube.NewAdvertising(kube.Objects{}),
		view:         State{Addresses: map[netip.Addr]Address{}},
	}
}

// progress is how much of what exists was set.
type progress uint8

const (
	// outlined: Nodes, Services, pools and advertisements.
	outlined progress = iota + 1
	// complete: everything.
	complete
)

// reach says how much of what exists was set.
func (s *store) reach(p progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress = p
}

func (s *store) setNode(old, obj *corev1.Node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if obj == nil {
		delete(s.nodes, old.Name)
		s.nodesDirty, s.scopingDirty, s.peeringDirty = true, true, true
		return s.progress >= outlined
	}
	n := knownNode{kube.Node(obj), obj.Labels, kube.ReadNodeBGP(obj.Annotations)}
	tell(&n.plan, s.speakers[obj.Name])
	was, ok := s.nodes[obj.Name]
	if !ok || !maps.Equal(was.labels, n.labels) {
		s.scopingDirty, s.peeringDirty = true, true
	} else if was.bgp != n.bgp {
		s.peeringDirty = true
	} else if was.plan.Equal(n.plan) {
		return false
	}
	s.nodes[obj.Name] = n
	s.nodesDirty = true
	return s.progress >= outlined
}

// tell adds to a node what its speaker told, nil for nothing.
//
// Where its interfaces lead it is believed. Whether they are up it is not: what
// it wrote may be old, and who listens to the node hears how it is. For the same
// reason no node is mute here; and all nodes have to rank each other alike,
// whoever has read which Speakers yet.
func tell(n *plan.Node, speaker *v1alpha1.Speaker) {
	n.Links, n.LinksKnown = nil, false
	if speaker != nil {
		kube.Tell(n, speaker)
	}
	n.Mute = false
	for i := range n.Links {
		n.Links[i].Up = true
	}
}

func (s *store) setSpeaker(old, obj *v1alpha1.Speaker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if obj == nil {
		delete(s.speakers, old.Name)
	} else {
		old = obj
		s.speakers[obj.Name] = obj
	}
	s.speakersDirty = true
	if was, ok := s.nodes[old.Name]; ok {
		n := was
		if tell(&n.plan, obj); !was.plan.Equal(n.plan) {
			s.nodes[old.Name] = n
			s.nodesDirty = true
		}
	}
	return s.progress >= outlined
}

func (s *store) setPool(old, obj *v1alpha1.LoadBalancerIPPool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if obj == nil {
		delete(s.pools, old.Name)
	} else {
		p := knownPool{labels: obj.Labels}
		for _, r := range obj.Spec.Addresses {
			// What can't be read is told by the pool's condition.
			if r, err := ipam.ParseRange(string(r)); err == nil {
				p.ranges = append(p.ranges, r)
			}
		}
		if was, ok := s.pools[obj.Name]; ok && maps.Equal(was.labels, p.labels) && slices.Equal(was.ranges, p.ranges) {
			return false
		}
		s.pools[obj.Name] = p
	}
	s.scopingDirty = true
	return s.progress >= outlined
}

func (s *store) setAdvertisement(old, obj *v1alpha1.L2Advertisement) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if obj == nil {
		delete(s.ads, old.Name)
	} else {
		s.ads[obj.Name] = obj
	}
	s.scopingDirty = true
	return s.progress >= outlined
}

func (s *store) setService(old, obj *keptService) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if obj == nil {
		delete(s.services, old.key())
		return s.touch(old.key())
	}
	name := obj.key()
	was, ok := s.services[name]
	s.services[name] = obj
	if name == apiServer && s.cluster != obj.uid {
		s.cluster = obj.uid
		return s.progress >= outlined
	}
	if ok && was.local == obj.local && was.labels == obj.labels {
		return false
	}
	return s.touch(name)
}

// apiServer is the Service of the API server, which each cluster has one of.
var apiServer = types.NamespacedName{Namespace: "default", Name: "kubernetes"}

func (s *store) setSlice(old, obj *slice) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	if old != nil && (obj == nil || old.of() != obj.of()) {
		of := old.of()
		was := s.backed(of)
		s.slices[of] = slices.DeleteFunc(s.slices[of], func(o *slice) bool { return o.name == old.name })
		if len(s.slices[of]) == 0 {
			delete(s.slices, of)
		}
		changed = s.touchLocal(of) || s.backed(of) != was && s.touchOthers(of)
	}
	if obj == nil || obj.service == "" {
		return changed
	}
	of := obj.of()
	was := s.backed(of)
	changed = s.setSliceOf(of, obj) || changed
	return s.backed(of) != was && s.touchOthers(of) || changed
}

func (s *store) setSliceOf(of types.NamespacedName, obj *slice) bool {
	i := slices.IndexFunc(s.slices[of], func(o *slice) bool { return o.name == obj.name })
	if i < 0 {
		s.slices[of] = append(s.slices[of], obj)
		return s.touchLocal(of)
	}
	was := s.slices[of][i]
	s.slices[of][i] = obj
	if was.family == obj.family && slices.Equal(was.endpoints, obj.endpoints) {
		return false
	}
	return s.touchLocal(of)
}

func (s *store) setIP(old, obj *ip) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old == nil {
		old = obj
	}
	addr := old.addr
	if !addr.IsValid() {
		return false // the API server admits no such object
	}
	s.dirty[addr] = struct{}{}
	if p := s.ips[addr]; p != nil {
		for _, name := range p.services {
			s.users[name] = slices.DeleteFunc(s.users[name], func(a netip.Addr) bool { return a == addr })
			if len(s.users[name]) == 0 {
				delete(s.users, name)
			}
		}
		delete(s.ips, addr)
	}
	if obj == nil {
		return s.progress == complete
	}
	for _, name := range obj.services {
		if !slices.Contains(s.users[name], addr) {
			s.users[name] = append(s.users[name], addr)
		}
	}
	s.ips[addr] = obj
	return s.progress == complete
}

// touch has the addresses of a Service looked at again.
func (s *store) touch(name types.NamespacedName) bool {
	for _, addr := range s.users[name] {
		s.dirty[addr] = struct{}{}
	}
	return s.progress == complete && len(s.users[name]) > 0
}

// touchLocal is touch for a change of endpoints, which matter for Local only.
func (s *store) touchLocal(name types.NamespacedName) bool {
	svc := s.services[name]
	return svc != nil && svc.local && s.touch(name)
}

// touchOthers is touch for a change of whether there are endpoints that take
// traffic, which matters to BGP also for Services that are not Local.
func (s *store) touchOthers(name types.NamespacedName) bool {
	svc := s.services[name]
	return svc != nil && !svc.local && s.touch(name)
}

// backing is for which families a Service has endpoints that take traffic.
type backing struct{ ipv4, ipv6 bool }

func (b backing) has(addr netip.Addr) bool { return addr.Is4() && b.ipv4 || addr.Is6() && b.ipv6 }

// backed is worked out only where there is BGP.
func (s *store) backed(name types.NamespacedName) (b backing) {
	if !s.bgpSynced || len(s.peers) == 0 {
		return b
	}
	for _, sl := range s.slices[name] {
		if plan.Backed(sl.endpoints) {
			b.ipv4 = b.ipv4 || sl.family == discoveryv1.AddressTypeIPv4
			b.ipv6 = b.ipv6 || sl.family == discoveryv1.AddressTypeIPv6
		}
	}
	return b
}
