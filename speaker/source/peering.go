// SPDX-License-Identifier: Apache-2.0

package source

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// completeBGP says that everything about BGP that exists was set.
func (s *store) completeBGP() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bgpSynced, s.peeringDirty, s.scopingDirty = true, true, true
}

// knowsBGP tells whether that was said.
func (s *store) knowsBGP() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bgpSynced
}

func (s *store) setPeer(old, obj *v1alpha1.BGPPeer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if obj == nil {
		delete(s.peers, old.Name)
		s.forgetBacked()
	} else {
		was := s.peers[obj.Name]
		s.peers[obj.Name] = obj
		if was != nil && maps.Equal(was.Labels, obj.Labels) && equality.Semantic.DeepEqual(was.Spec, obj.Spec) {
			return false // its status tells of all nodes' sessions, and is written often
		}
	}
	s.scopingDirty, s.peeringDirty = true, true
	return s.bgpSynced
}

// forgetBacked has addresses looked at again if the last peer is gone: without
// one no change of endpoints does, and one may be back before the next State.
func (s *store) forgetBacked() {
	if len(s.peers) > 0 {
		return
	}
	for addr := range s.ips {
		s.dirty[addr] = struct{}{}
	}
}

func (s *store) setBGPAdvertisement(old, obj *v1alpha1.BGPAdvertisement) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if obj == nil {
		delete(s.bgpAds, old.Name)
	} else {
		was := s.bgpAds[obj.Name]
		s.bgpAds[obj.Name] = obj
		if was != nil && equality.Semantic.DeepEqual(was.Spec, obj.Spec) {
			return false
		}
	}
	s.scopingDirty = true
	return s.bgpSynced
}

func (s *store) setProfile(old, obj *v1alpha1.BFDProfile) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if obj == nil {
		delete(s.profiles, old.Name)
	} else {
		s.profiles[obj.Name] = obj
	}
	s.peeringDirty = true
	return s.bgpSynced
}

// setPassword takes what a Secret has.
func (s *store) setPassword(name string, p kube.Password) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passwords[name] = p
	s.peeringDirty = true
	return s.bgpSynced
}

// nodeLabels returns the labels of all nodes.
func (s *store) nodeLabels() map[string]labels.Set {
	nodes := make(map[string]labels.Set, len(s.nodes))
	for name, n := range s.nodes {
		nodes[name] = n.labels
	}
	return nodes
}

// peering returns which sessions nodes have; nil as long as that isn't known.
func (s *store) peering() *kube.Peering {
	if !s.bgpSynced {
		return nil
	}
	o := kube.PeeringObjects{
		Peers:       slices.Collect(maps.Values(s.peers)),
		Profiles:    maps.Clone(s.profiles),
		Nodes:       s.nodeLabels(),
		Annotations: map[string]kube.NodeBGP{},
		Passwords:   maps.Clone(s.passwords),
	}
	for name, n := range s.nodes {
		if n.bgp != (kube.NodeBGP{}) {
			o.Annotations[name] = n.bgp
		}
	}
	return kube.NewPeering(o)
}
