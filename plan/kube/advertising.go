// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

// Objects are what says how addresses are announced. Nodes and Pools are the
// labels of those that there are, by name.
type Objects struct {
	L2           []*v1alpha1.L2Advertisement
	BGP          []*v1alpha1.BGPAdvertisement
	Peers        []*v1alpha1.BGPPeer
	Nodes, Pools map[string]labels.Set
}

// Advertising is what the advertisements of a cluster say about its addresses.
type Advertising struct {
	ads   []Advertisement
	bgp   []BGPAdvertisement
	peers []plan.BGPPeer
	pools map[string]labels.Set

	mu sync.Mutex
	// scopes are shared by all addresses that the same advertisements select.
	scopes    map[string]*plan.Scope
	bgpScopes map[string]*plan.BGPScope
}

// Advertisement is an L2Advertisement as it is used.
type Advertisement struct {
	plan.Advertisement
	Selection
}

// NewAdvertising resolves advertisements with the labels of nodes, pools and
// peers.
func NewAdvertising(o Objects) *Advertising {
	a := &Advertising{pools: o.Pools, scopes: map[string]*plan.Scope{}, bgpScopes: map[string]*plan.BGPScope{}}
	for _, ad := range o.L2 {
		a.ads = append(a.ads, readAdvertisement(ad, o.Nodes))
	}
	slices.SortFunc(a.ads, func(a, b Advertisement) int { return cmp.Compare(a.Name, b.Name) })
	a.readBGP(o)
	return a
}

func readAdvertisement(obj *v1alpha1.L2Advertisement, nodes map[string]labels.Set) Advertisement {
	ad := Advertisement{
		Advertisement: plan.Advertisement{Name: obj.Name, Nodes: map[string]int{}},
		Selection:     readSelection(obj.Spec.Pools, obj.Spec.PoolSelector, obj.Spec.ServiceSelector),
	}
	for _, p := range obj.Spec.Interfaces {
		ad.Interfaces = append(ad.Interfaces, string(p))
	}
	nodeSelector := ad.read("nodeSelector", obj.Spec.NodeSelector, labels.Everything())
	var preferred []labels.Selector
	for i, p := range obj.Spec.NodePreferences {
		preferred = append(preferred, ad.read(fmt.Sprintf("nodePreferences[%d].nodeSelector", i), &p.NodeSelector, nil))
	}
	for name, set := range nodes {
		if !nodeSelector.Matches(set) {
			continue
		}
		weight := 0
		for i, s := range preferred {
			if s.Matches(set) {
				weight += int(obj.Spec.NodePreferences[i].Weight)
			}
		}
		ad.Nodes[name] = weight
	}
	return ad
}

// SelectsPool tells whether an advertisement says anything about a pool's
// addresses. A pool that is gone has no labels.
func (a *Advertising) SelectsPool(s *Selection, name string) bool {
	return s.allPools || slices.Contains(s.pools, name) || s.labelled.Matches(a.pools[name])
}

// Equal tells whether two say the same of every address.
func (a *Advertising) Equal(b *Advertising) bool {
	same := slices.EqualFunc(a.ads, b.ads, func(x, y Advertisement) bool {
		return x.Name == y.Name && maps.Equal(x.Nodes, y.Nodes) && slices.Equal(x.Interfaces, y.Interfaces) && x.equal(&y.Selection)
	})
	if !same || !a.equalBGP(b) {
		return false
	}
	// Labels of pools matter to selectors alone.
	return !slices.ContainsFunc(a.ads, func(ad Advertisement) bool { return ad.byLabel }) &&
		!slices.ContainsFunc(a.bgp, func(ad BGPAdvertisement) bool { return ad.byLabel }) ||
		maps.EqualFunc(a.pools, b.pools, func(x, y labels.Set) bool { return maps.Equal(x, y) })
}

// All returns the L2Advertisements, by name.
func (a *Advertising) All() []Advertisement { return a.ads }

// Names tells whether an advertisement that selects the node names the
// interface: it may carry addresses whatever its networks are.
func (a *Advertising) Names(node, iface string) bool {
	return slices.ContainsFunc(a.ads, func(ad Advertisement) bool {
		_, selected := ad.Nodes[node]
		return selected && ad.Interfaces.Names(iface)
	})
}

// Scope returns where an address of the pool may be announced that Services
// with these labels hold, on layer 2 and by BGP. An advertisement selects the
// address if it selects its pool and at least one of the Services. If none
// selects the pool, of either kind, the first is nil, and the second has every
// peer; without peers that is nil. It is safe for concurrent use.
func (a *Advertising) Scope(pool string, services []labels.Set) (*plan.Scope, *plan.BGPScope) {
	onL2, byBGP := false, false
	var key, bgpKey []byte
	var selecting []plan.Advertisement
	var bgpSelecting []*plan.BGPAdvertisement
	for i := range a.ads {
		if ad := &a.ads[i]; a.SelectsPool(&ad.Selection, pool) {
			onL2 = true
			if ad.selectsOne(services) {
				key = append(append(key, ad.Name...), '/')
				selecting = append(selecting, ad.Advertisement)
			}
		}
	}
	for i := range a.bgp {
		if ad := &a.bgp[i]; a.SelectsPool(&ad.Selection, pool) {
			byBGP = true
			if ad.selectsOne(services) {
				bgpKey = append(append(bgpKey, ad.Name...), '/')
				bgpSelecting = append(bgpSelecting, ad.BGPAdvertisement)
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var l2 *plan.Scope
	if onL2 || byBGP {
		if !onL2 {
			key = append(key, '*') // in no name
		}
		if l2 = a.scopes[string(key)]; l2 == nil {
			l2 = plan.NewScope(selecting...)
			l2.OnlyBGP = !onL2
			a.scopes[string(key)] = l2
		}
	}
	if len(a.peers) == 0 {
		return l2, nil
	}
	switch {
	case !byBGP && onL2:
		bgpKey = append(bgpKey, '*')
	case !byBGP:
		bgpKey = append(bgpKey, "**"...)
	}
	bgp := a.bgpScopes[string(bgpKey)]
	if bgp == nil {
		if !byBGP && !onL2 {
			bgp = plan.NewBGPEverywhere(a.peers)
		} else {
			bgp = plan.NewBGPScope(a.peers, bgpSelecting...)
			bgp.OnlyL2 = !byBGP
		}
		a.bgpScopes[string(bgpKey)] = bgp
	}
	return l2, bgp
}
