// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// Reasons of a BGPAdvertisement's conditions.
const (
	reasonBGPAdvertises        = "Ready"         // it selects a pool, a node and a peer
	reasonBGPAdvertisesInvalid = "Invalid"       // a selector can't be read, and selects nothing, or a community can't
	reasonBGPAdvertisesNoPool  = "NoPool"        // there is no pool that it selects
	reasonBGPAdvertisesNoNode  = "NoNode"        // there is no node that it selects
	reasonBGPAdvertisesNoPeer  = "NoPeer"        // no node that it selects has a peer that it selects
	reasonBGPContradiction     = "Contradiction" // another one says something else of the same routes
	reasonBGPAgreement         = "Agreement"     // another one did, and does no longer
)

func (c *Controller) bgpAdvertisementEvents() toolscache.ResourceEventHandlerFuncs {
	return onEdit(func() { c.config.Add(request(nodesChanged)) }, func(b, a *v1alpha1.BGPAdvertisement) bool {
		return equality.Semantic.DeepEqual(b.Status, a.Status)
	})
}

// tellBGPAdvertisements writes the conditions of BGPAdvertisements that changed.
func (c *Controller) tellBGPAdvertisements(ctx context.Context) error {
	var list v1alpha1.BGPAdvertisementList
	if err := c.client.List(ctx, &list); err != nil {
		return err
	}
	on, pools := c.terrain.Load(), c.pools.names()
	ads := on.advertising.AllBGP()
	var failed []error
	for i := range list.Items {
		obj := &list.Items[i]
		at := slices.IndexFunc(ads, func(ad kube.BGPAdvertisement) bool { return ad.Name == obj.Name })
		if at < 0 {
			continue // it is read in a moment, and then comes back
		}
		updated := obj.DeepCopy()
		set := func(cond metav1.Condition) {
			cond.LastTransitionTime, cond.ObservedGeneration = metav1.NewTime(c.now()), obj.Generation
			meta.SetStatusCondition(&updated.Status.Conditions, cond)
		}
		set(on.bgpAdvertisement(&ads[at], obj, pools))
		cond := on.contradiction(&ads[at])
		if cond.Status == metav1.ConditionTrue || meta.FindStatusCondition(obj.Status.Conditions, cond.Type) != nil {
			set(cond)
		}
		failed = append(failed, c.patchStatus(ctx, obj, updated, equality.Semantic.DeepEqual(obj.Status, updated.Status)))
	}
	return errors.Join(failed...)
}

// patchStatus writes the status of an object over the one that was read, unless
// they are the same. If somebody was faster, the event of that comes back here.
func (c *Controller) patchStatus(ctx context.Context, before, after client.Object, same bool) error {
	if same {
		return nil
	}
	err := c.client.Status().Patch(ctx, after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("patch status of %T %s: %w", before, before.GetName(), err)
	}
	return nil
}

// bgpAdvertisement returns whether one is of use. Like that of layer 2 it counts
// nothing.
func (t *terrain) bgpAdvertisement(ad *kube.BGPAdvertisement, obj *v1alpha1.BGPAdvertisement, pools []string) metav1.Condition {
	cond := metav1.Condition{Type: v1alpha1.BGPAdvertisementReady, Status: metav1.ConditionFalse}
	peers := t.advertising.BGPPeers()
	const nowhere = "; addresses that only it selects are announced to nobody by BGP"
	switch {
	case len(ad.Invalid) > 0:
		cond.Reason, cond.Message = reasonBGPAdvertisesInvalid, errors.Join(ad.Invalid...).Error()+"; until it is corrected that selects and says nothing"
	case !slices.ContainsFunc(pools, func(name string) bool { return t.advertising.SelectsPool(&ad.Selection, name) }):
		cond.Reason, cond.Message = reasonBGPAdvertisesNoPool, "spec.pools and spec.poolSelector select no pool that there is"
		if len(obj.Spec.Pools) == 0 && obj.Spec.PoolSelector == nil {
			cond.Message = "there is no pool"
		}
	case len(ad.Nodes) == 0:
		cond.Reason, cond.Message = reasonBGPAdvertisesNoNode, "spec.nodeSelector selects no node that there is"+nowhere
		if obj.Spec.NodeSelector == nil {
			cond.Message = "there is no node"
		}
	case len(peers) == 0:
		cond.Reason, cond.Message = reasonBGPAdvertisesNoPeer, "there is no BGPPeer"+nowhere
	case !t.advertising.HasPeer(ad):
		cond.Reason, cond.Message = reasonBGPAdvertisesNoPeer, "no node that it selects has a BGPPeer that spec.peers and spec.peerSelector select"+nowhere
	default:
		cond.Status, cond.Reason = metav1.ConditionTrue, reasonBGPAdvertises
		cond.Message = "it selects pools, nodes and peers" +
			absent("pool", obj.Spec.Pools, func(name string) bool { return slices.Contains(pools, name) }) +
			absent("BGPPeer", obj.Spec.Peers, func(name string) bool {
				return slices.ContainsFunc(peers, func(p plan.BGPPeer) bool { return p.Name == name })
			})
	}
	cond.Message = brief(cond.Message)
	return cond
}

// absent says which of the names there is nothing of.
func absent(kind string, names []string, there func(string) bool) string {
	missing := slices.DeleteFunc(slices.Clone(names), there)
	if len(missing) == 0 {
		return ""
	}
	return "; there is no " + kind + " " + strings.Join(missing, ", ")
}

// contradiction says what other advertisements say differently.
func (t *terrain) contradiction(ad *kube.BGPAdvertisement) metav1.Condition {
	cond := metav1.Condition{
		Type: v1alpha1.BGPAdvertisementContradicts, Status: metav1.ConditionFalse, Reason: reasonBGPAgreement,
		Message: "no other BGPAdvertisement says anything else of its routes",
	}
	var texts []string
	for _, d := range t.advertising.Contradictions(ad) {
		other, counts := d.Chosen, "that one's"
		if d.Chosen == ad.Name {
			other, counts = strings.Join(d.Ignored, ", "), "this one's"
		}
		texts = append(texts, fmt.Sprintf("BGPAdvertisement %s sets another %s for the same routes to the same peers: %s counts, because it is the first by name", other, d.Field, counts))
	}
	if texts != nil {
		cond.Status, cond.Reason, cond.Message = metav1.ConditionTrue, reasonBGPContradiction, brief(strings.Join(texts, "; "))
	}
	return cond
}
