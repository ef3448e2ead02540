// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// Reasons of an L2Advertisement's condition.
const (
	reasonAdvertises            = "Ready"           // it selects a pool, a node and an interface
	reasonAdvertisesInvalid     = "InvalidSelector" // a selector can't be read, and selects nothing
	reasonAdvertisesNoPool      = "NoPool"          // there is no pool that it selects
	reasonAdvertisesNoNode      = "NoNode"          // there is no node that it selects
	reasonAdvertisesNoInterface = "NoInterface"     // no node that it selects has an interface that its patterns allow
)

func (c *Controller) advertisementEvents() toolscache.ResourceEventHandlerFuncs {
	return onEdit(func() { c.config.Add(request(nodesChanged)) }, func(b, a *v1alpha1.L2Advertisement) bool {
		return equality.Semantic.DeepEqual(b.Status, a.Status)
	})
}

// tellAdvertisements writes the conditions of L2Advertisements that changed.
func (c *Controller) tellAdvertisements(ctx context.Context) error {
	var list v1alpha1.L2AdvertisementList
	if err := c.client.List(ctx, &list); err != nil {
		return err
	}
	on, pools := c.terrain.Load(), c.pools.names()
	var failed []error
	for i := range list.Items {
		obj := &list.Items[i]
		ads := on.advertising.All()
		at := slices.IndexFunc(ads, func(ad kube.Advertisement) bool { return ad.Name == obj.Name })
		if at < 0 {
			continue // it is read in a moment, and then comes back
		}
		updated := obj.DeepCopy()
		cond := on.advertisement(&ads[at], obj, pools)
		cond.LastTransitionTime, cond.ObservedGeneration = metav1.NewTime(c.now()), obj.Generation
		meta.SetStatusCondition(&updated.Status.Conditions, cond)
		failed = append(failed, c.patchStatus(ctx, obj, updated, equality.Semantic.DeepEqual(obj.Status, updated.Status)))
	}
	return errors.Join(failed...)
}

// advertisement returns the condition of one. It counts nothing, so that nodes
// and pools that come and go write nothing.
func (t *terrain) advertisement(ad *kube.Advertisement, obj *v1alpha1.L2Advertisement, pools []string) metav1.Condition {
	cond := metav1.Condition{Type: v1alpha1.L2AdvertisementReady, Status: metav1.ConditionFalse}
	var missing []string
	for _, name := range obj.Spec.Pools {
		if !slices.Contains(pools, name) {
			missing = append(missing, name)
		}
	}
	nowhere := "; addresses that only it selects are given to no node"
	switch {
	case len(ad.Invalid) > 0:
		cond.Reason = reasonAdvertisesInvalid
		cond.Message = brief(errors.Join(ad.Invalid...).Error() + "; until it is corrected it selects nothing")
	case !slices.ContainsFunc(pools, func(name string) bool { return t.advertising.SelectsPool(&ad.Selection, name) }):
		cond.Reason, cond.Message = reasonAdvertisesNoPool, "spec.pools and spec.poolSelector select no pool that there is"
		if len(obj.Spec.Pools) == 0 && obj.Spec.PoolSelector == nil {
			cond.Message = "there is no pool"
		}
	case len(ad.Nodes) == 0:
		cond.Reason, cond.Message = reasonAdvertisesNoNode, "spec.nodeSelector selects no node that there is"+nowhere
		if obj.Spec.NodeSelector == nil {
			cond.Message = "there is no node"
		}
	case !t.hasInterface(ad):
		cond.Reason, cond.Message = reasonAdvertisesNoInterface, "no node that it selects has an interface that spec.interfaces allow"+nowhere
	default:
		cond.Status, cond.Reason, cond.Message = metav1.ConditionTrue, reasonAdvertises, "it selects pools, nodes and interfaces"
		if len(missing) > 0 {
			cond.Message = brief("it selects pools, nodes and interfaces; there is no pool " + strings.Join(missing, ", "))
		}
	}
	return cond
}

// hasInterface tells whether a node that an advertisement selects could announce
// something by it. One of which no speaker has told counts as if it could.
func (t *terrain) hasInterface(ad *kube.Advertisement) bool {
	for i := range t.nodes {
		n := &t.nodes[i]
		if _, selected := ad.Nodes[n.Name]; !selected {
			continue
		}
		if !n.LinksKnown {
			return true
		}
		for _, l := range n.Links {
			if ad.Interfaces.Allow(l.Name, len(l.Prefixes) > 0) {
				return true
			}
		}
	}
	return false
}
