// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Selection is which addresses an advertisement selects. What can't be read
// selects nothing.
type Selection struct {
	// Invalid says which selectors can't be read, nil for none.
	Invalid  []error
	pools    []string
	allPools bool
	byLabel  bool
	labelled labels.Selector
	services labels.Selector
}

func readSelection(pools []string, poolSelector, serviceSelector *metav1.LabelSelector) Selection {
	s := Selection{pools: pools, allPools: len(pools) == 0 && poolSelector == nil, byLabel: poolSelector != nil}
	s.labelled = s.read("poolSelector", poolSelector, labels.Nothing())
	s.services = s.read("serviceSelector", serviceSelector, labels.Everything())
	return s
}

// read returns a selector of the spec, or absent if there is none.
func (s *Selection) read(field string, selector *metav1.LabelSelector, absent labels.Selector) labels.Selector {
	if selector == nil {
		return absent
	}
	sel, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		s.Invalid = append(s.Invalid, fmt.Errorf("spec.%s: %w", field, err))
		return labels.Nothing()
	}
	return sel
}

// selectsOne tells whether one of the Services is selected, by their labels.
func (s *Selection) selectsOne(services []labels.Set) bool {
	return slices.ContainsFunc(services, func(set labels.Set) bool { return s.services.Matches(set) })
}

func (s *Selection) equal(o *Selection) bool {
	return slices.Equal(s.pools, o.pools) && s.allPools == o.allPools && s.byLabel == o.byLabel &&
		sameSelector(s.labelled, o.labelled) && sameSelector(s.services, o.services)
}

// sameSelector tells whether two select the same. The texts of one that selects
// everything and one that selects nothing are the same.
func sameSelector(a, b labels.Selector) bool {
	return a.String() == b.String() && a.Empty() == b.Empty()
}

// selected returns the names whose labels are selected.
func selected(selector labels.Selector, sets map[string]labels.Set) map[string]struct{} {
	names := map[string]struct{}{}
	for name, set := range sets {
		if selector.Matches(set) {
			names[name] = struct{}{}
		}
	}
	return names
}
