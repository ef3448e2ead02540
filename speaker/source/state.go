// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// State is the cluster at one time, and how it differs from the State before.
// The caller only reads it, and until its next call of [Source.State].
type State struct {
	// Saved says that it is what a file had: the API server was not reached yet.
	Saved bool

	// Partial says that addresses and what speakers tell are still being read:
	// it is time to meet others. The first State that isn't has all that there
	// is as new.
	Partial bool

	// Cluster is the UID of the Service default/kubernetes: no two clusters
	// have the same. It is empty while there is none.
	Cluster types.UID

	// Nodes with what their speakers tell of their links, all of which count as
	// up. NodesChanged says that decisions about any address may differ now.
	// A slice that was returned never changes.
	Nodes        []plan.Node
	NodesChanged bool

	// Addresses that there are. Changed are those that are new or not as they
	// were; Gone are no more. Each has every address at most once.
	Addresses     map[netip.Addr]Address
	Changed, Gone []netip.Addr

	// Ranges are those of all pools, and Advertising is what advertisements say.
	// ScopesChanged says that either is not as it was.
	Ranges        []netipx.IPRange
	Advertising   *kube.Advertising
	ScopesChanged bool

	// Peering is which sessions nodes have. It is nil until everything about BGP
	// is known: nothing is to be announced by BGP before. PeeringChanged says that
	// it may not be as it was.
	Peering        *kube.Peering
	PeeringChanged bool

	// Speakers of all nodes, the own one too, by name.
	Speakers        []*v1alpha1.Speaker
	SpeakersChanged bool
}

// Address is a LoadBalancerIP.
type Address struct {
	plan.Address
	Record Record
}

// Record is the LoadBalancerIP of an address as the API server has it.
type Record struct {
	Name string
	// ResourceVersion is that of the object which Claim and the address were
	// read from: a write that carries it fails if they are out of date.
	ResourceVersion string
	// Claim on record, or nil.
	Claim *v1alpha1.L2Claim
	// Status without what is the controller's, and without messages.
	Status v1alpha1.LoadBalancerIPStatus
}

// state brings the view up to date. It costs as much as there are changes.
func (s *store) state() (State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.progress < outlined {
		return State{}, false
	}
	v := &s.view
	v.Cluster, v.Partial = s.cluster, s.progress < complete
	if v.NodesChanged = s.nodesDirty; s.nodesDirty {
		v.Nodes = make([]plan.Node, 0, len(s.nodes))
		for _, n := range s.nodes {
			v.Nodes = append(v.Nodes, n.plan)
		}
		slices.SortFunc(v.Nodes, func(a, b plan.Node) int { return cmp.Compare(a.Name, b.Name) })
	}
	if v.SpeakersChanged = s.speakersDirty; s.speakersDirty {
		v.Speakers = slices.SortedFunc(maps.Values(s.speakers), func(a, b *v1alpha1.Speaker) int { return cmp.Compare(a.Name, b.Name) })
	}
	if v.ScopesChanged = s.scopingDirty; s.scopingDirty {
		s.advertise()
		v.Ranges, v.Advertising = nil, s.advertising
		for _, name := range slices.Sorted(maps.Keys(s.pools)) {
			v.Ranges = append(v.Ranges, s.pools[name].ranges...)
		}
	}
	if v.Partial {
		s.nodesDirty, s.scopingDirty = true, true // they are told again
		return *v, true
	}
	if v.PeeringChanged = s.bgpSynced && s.peeringDirty; v.PeeringChanged {
		v.Peering, s.peeringDirty = s.peering(), false
	}
	v.Changed, v.Gone = nil, nil
	for addr := range s.dirty {
		if p := s.ips[addr]; p != nil {
			v.Addresses[addr] = s.address(addr, p)
			v.Changed = append(v.Changed, addr)
		} else if _, was := v.Addresses[addr]; was {
			delete(v.Addresses, addr)
			v.Gone = append(v.Gone, addr)
		}
	}
	if len(s.dirty) > 0 {
		s.dirty = map[netip.Addr]struct{}{} // it may have been all
	}
	s.nodesDirty, s.speakersDirty, s.scopingDirty = false, false, false
	return *v, true
}

// advertise resolves the advertisements anew. If they say something else than
// before, it may be about any address.
func (s *store) advertise() {
	pools := make(map[string]labels.Set, len(s.pools))
	for name, p := range s.pools {
		pools[name] = p.labels
	}
	o := kube.Objects{L2: slices.Collect(maps.Values(s.ads)), Nodes: s.nodeLabels(), Pools: pools}
	if s.bgpSynced {
		o.BGP, o.Peers = slices.Collect(maps.Values(s.bgpAds)), slices.Collect(maps.Values(s.peers))
	}
	now := kube.NewAdvertising(o)
	if now.Equal(s.advertising) {
		return
	}
	s.advertising = now
	for addr := range s.ips {
		s.dirty[addr] = struct{}{}
	}
}

// address returns an address with the Services that hold it. They are found by
// name: a Service that was restored from a backup has another UID and the same
// users. One that isn't there asks for nothing; if it only wasn't seen yet, it
// will be.
func (s *store) address(addr netip.Addr, p *ip) Address {
	family := discoveryv1.AddressTypeIPv4
	if addr.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	a := Address{Address: plan.Address{Addr: addr, Proposed: p.proposed}, Record: p.record()}
	if c := p.status.L2; c != nil {
		a.Claim = plan.Claim{Node: c.Node, Term: c.Term}
	}
	holders := make([]labels.Set, 0, len(p.services))
	for _, name := range p.services {
		is, ok := s.services[name]
		if !ok {
			continue
		}
		svc := plan.Service{Namespace: name.Namespace, Name: name.Name, Local: is.local}
		if is.local {
			for _, sl := range s.slices[name] {
				if sl.family == family {
					svc.Endpoints = append(svc.Endpoints, sl.endpoints...)
				}
			}
		} else {
			svc.Backed = s.backed(name).has(addr)
		}
		a.Services = append(a.Services, svc)
		holders = append(holders, is.labels.set())
	}
	a.Scope, a.BGP = s.advertising.Scope(p.pool, holders)
	return a
}
