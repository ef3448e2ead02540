// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

// Advertising is what the L2Advertisements of a cluster say about its addresses.
type Advertising struct {
	ads   []Advertisement
	pools map[string]labels.Set

	mu sync.Mutex
	// scopes are shared by all addresses that the same advertisements select.
	scopes map[string]*plan.Scope
}

// Advertisement is an L2Advertisement as it is used: what can't be read selects
// nothing.
type Advertisement struct {
	plan.Advertisement
	// Invalid says which selectors can't be read, nil for none.
	Invalid  []error
	pools    []string
	allPools bool
	labelled labels.Selector
	services labels.Selector
	spec     v1alpha1.L2AdvertisementSpec
}

// NewAdvertising resolves advertisements with the labels of nodes and pools.
func NewAdvertising(ads []*v1alpha1.L2Advertisement, nodes, pools map[string]labels.Set) *Advertising {
	a := &Advertising{pools: pools, scopes: map[string]*plan.Scope{}}
	for _, ad := range ads {
		a.ads = append(a.ads, readAdvertisement(ad, nodes))
	}
	slices.SortFunc(a.ads, func(a, b Advertisement) int { return cmp.Compare(a.Name, b.Name) })
	return a
}

func readAdvertisement(obj *v1alpha1.L2Advertisement, nodes map[string]labels.Set) Advertisement {
	ad := Advertisement{
		Advertisement: plan.Advertisement{Name: obj.Name, Nodes: map[string]int{}},
		pools:         obj.Spec.Pools,
		allPools:      len(obj.Spec.Pools) == 0 && obj.Spec.PoolSelector == nil,
		spec:          obj.Spec,
	}
	for _, p := range obj.Spec.Interfaces {
		ad.Interfaces = append(ad.Interfaces, string(p))
	}
	selector := func(field string, s *metav1.LabelSelector, absent labels.Selector) labels.Selector {
		if s == nil {
			return absent
		}
		sel, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			ad.Invalid = append(ad.Invalid, fmt.Errorf("spec.%s: %w", field, err))
			return labels.Nothing()
		}
		return sel
	}
	ad.labelled = selector("poolSelector", obj.Spec.PoolSelector, labels.Nothing())
	ad.services = selector("serviceSelector", obj.Spec.ServiceSelector, labels.Everything())
	selected := selector("nodeSelector", obj.Spec.NodeSelector, labels.Everything())
	var preferred []labels.Selector
	for i, p := range obj.Spec.NodePreferences {
		preferred = append(preferred, selector(fmt.Sprintf("nodePreferences[%d].nodeSelector", i), &p.NodeSelector, nil))
	}
	for name, set := range nodes {
		if !selected.Matches(set) {
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
func (a *Advertising) SelectsPool(ad *Advertisement, name string) bool {
	return ad.allPools || slices.Contains(ad.pools, name) || ad.labelled.Matches(a.pools[name])
}

// Equal tells whether two say the same of every address.
func (a *Advertising) Equal(b *Advertising) bool {
	same := slices.EqualFunc(a.ads, b.ads, func(x, y Advertisement) bool {
		return x.Name == y.Name && maps.Equal(x.Nodes, y.Nodes) && slices.Equal(x.Interfaces, y.Interfaces) &&
			slices.Equal(x.pools, y.pools) && x.allPools == y.allPools &&
			x.labelled.String() == y.labelled.String() && x.services.String() == y.services.String()
	})
	if !same {
		return false
	}
	// Labels of pools matter to selectors alone.
	return !slices.ContainsFunc(a.ads, func(ad Advertisement) bool { return ad.spec.PoolSelector != nil }) ||
		maps.EqualFunc(a.pools, b.pools, func(x, y labels.Set) bool { return maps.Equal(x, y) })
}

// All returns the advertisements, by name.
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
// with these labels hold; nil if no advertisement selects the pool. An
// advertisement selects the address if it selects its pool and at least one of
// the Services. It is safe for concurrent use.
func (a *Advertising) Scope(pool string, services []labels.Set) *plan.Scope {
	advertised := false
	var key []byte
	var selecting []plan.Advertisement
	for i := range a.ads {
		ad := &a.ads[i]
		if !a.SelectsPool(ad, pool) {
			continue
		}
		advertised = true
		if slices.ContainsFunc(services, func(s labels.Set) bool { return ad.services.Matches(s) }) {
			key = append(key, ad.Name...)
			key = append(key, '/')
			selecting = append(selecting, ad.Advertisement)
		}
	}
	if !advertised {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.scopes[string(key)]
	if s == nil {
		s = plan.NewScope(selecting...)
		a.scopes[string(key)] = s
	}
	return s
}
