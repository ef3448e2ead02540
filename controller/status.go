// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cloud-provider/service/helpers"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// Reasons of a Service's conditions beside those of [ipam.Reason].
const (
	// ReasonAllocated: every address that the Service wants is bound to it.
	ReasonAllocated = "Allocated"
	// ReasonPartlyAllocated: one of two families is bound, as ipFamilyPolicy
	// PreferDualStack allows.
	ReasonPartlyAllocated = "PartlyAllocated"
	// ReasonContradictoryRequest: every address that the Service wants is
	// bound to it, and part of its request is not followed, because another
	// part says something else.
	ReasonContradictoryRequest = "ContradictoryRequest"
	// ReasonStatusContested: what the Service should show is bound to it, and
	// another client keeps writing something else into its status.
	ReasonStatusContested = "StatusContested"
	// ReasonAnnounced: every address was claimed by a node, or a node that
	// announces it by BGP has a session.
	ReasonAnnounced = "Announced"
	// ReasonNotSelected: a node announces every address, and advertisements no
	// longer let any do so.
	ReasonNotSelected = "NotSelected"
	// ReasonAwaitingClaim: no node has claimed the address.
	ReasonAwaitingClaim = "AwaitingClaim"
	// ReasonNoEligibleNode: no node has claimed the address, and none may.
	ReasonNoEligibleNode = "NoEligibleNode"
	// ReasonNoSession: nodes may announce the address by BGP alone, and none of
	// them has a session with a peer that it goes to.
	ReasonNoSession = "NoSession"
	// ReasonAddressConflict: a host outside the cluster has the address, too;
	// the message has its MAC.
	ReasonAddressConflict = "AddressConflict"
	// ReasonNotAllocated: there is nothing to announce.
	ReasonNotAllocated = "NotAllocated"
)

// setStatus makes svc show an allocation: finalizer, ingress and conditions.
// Only if it had an address of ours before is the finalizer taken off when it
// has none now: every load balancer uses the same.
func setStatus(svc *corev1.Service, a Allocation, had bool, how func(netip.Addr) announcing, now metav1.Time) {
	setIngress(svc, a.Addresses)
	if len(a.Addresses) > 0 {
		if !helpers.HasLBFinalizer(svc) {
			svc.Finalizers = append(svc.Finalizers, helpers.LoadBalancerCleanupFinalizer)
		}
	} else if had {
		dropFinalizer(svc)
	}
	setCondition(svc, allocatedCondition(a), now)
	setCondition(svc, announcedCondition(a.Addresses, how), now)
}

// clearStatus makes svc show nothing of ours. The addresses are those that it
// held; what else it shows is somebody's, and so is the finalizer unless it
// had an address of ours.
func clearStatus(svc *corev1.Service, held []netip.Addr, had bool) {
	svc.Status.LoadBalancer.Ingress = slices.DeleteFunc(slices.Clone(svc.Status.LoadBalancer.Ingress), func(in corev1.LoadBalancerIngress) bool {
		addr, err := netip.ParseAddr(in.IP)
		return err == nil && slices.Contains(held, addr.Unmap())
	})
	if had {
		dropFinalizer(svc)
	}
	meta.RemoveStatusCondition(&svc.Status.Conditions, v1alpha1.ServiceAllocated)
	meta.RemoveStatusCondition(&svc.Status.Conditions, v1alpha1.ServiceAnnounced)
}

func dropFinalizer(svc *corev1.Service) {
	svc.Finalizers = slices.DeleteFunc(slices.Clone(svc.Finalizers), func(f string) bool { return f == helpers.LoadBalancerCleanupFinalizer })
}

func setIngress(svc *corev1.Service, addrs []netip.Addr) {
	// VIP: kube-proxy may short-cut traffic from inside the cluster (KEP-1860).
	mode := corev1.LoadBalancerIPModeVIP
	ingress := make([]corev1.LoadBalancerIngress, 0, len(addrs))
	for _, a := range addrs {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
	}
	if want := (corev1.LoadBalancerStatus{Ingress: ingress}); !helpers.LoadBalancerStatusEqual(&svc.Status.LoadBalancer, &want) {
		svc.Status.LoadBalancer = want
	}
}

func setCondition(svc *corev1.Service, cond metav1.Condition, now metav1.Time) {
	cond.LastTransitionTime = now
	meta.SetStatusCondition(&svc.Status.Conditions, cond)
}

// condition returns a condition of the Service, or an empty one.
func condition(svc *corev1.Service, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(svc.Status.Conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{}
}

func allocatedCondition(a Allocation) metav1.Condition {
	cond := metav1.Condition{Type: v1alpha1.ServiceAllocated}
	switch {
	case len(a.Refusals) == 0 && len(a.Contradictions) > 0:
		cond.Status, cond.Reason, cond.Message = metav1.ConditionTrue, ReasonContradictoryRequest, describe(a)
	case len(a.Refusals) == 0:
		cond.Status, cond.Reason, cond.Message = metav1.ConditionTrue, ReasonAllocated, describe(a)
	case a.Partial:
		cond.Status, cond.Reason, cond.Message = metav1.ConditionTrue, ReasonPartlyAllocated, describe(a)+"; "+refusalText(a.Refusals)
	default:
		cond.Status, cond.Reason, cond.Message = metav1.ConditionFalse, string(a.Refusals[0].Reason), refusalText(a.Refusals)
		if len(a.Addresses) > 0 {
			cond.Message += "; until then it keeps " + describe(a)
		}
	}
	if a.Contested != "" {
		if cond.Status == metav1.ConditionTrue {
			cond.Reason = ReasonStatusContested
		}
		cond.Message += "; " + a.Contested
	}
	for _, text := range a.Contradictions {
		cond.Message += "; " + text
	}
	cond.Message = brief(cond.Message)
	return cond
}

// maxMessage is how many bytes an Event can say.
const maxMessage = 1024

// brief leaves out the middle of a text that is too long because it quotes what
// somebody wrote: what is wrong is said at the beginning, what to do at the end.
func brief(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	const gap = " ... "
	half := (maxMessage - len(gap)) / 2
	return strings.ToValidUTF8(text[:half], "") + gap + strings.ToValidUTF8(text[len(text)-half:], "")
}

// describe names the addresses and the pools they are from.
func describe(a Allocation) string {
	parts := make([]string, 0, len(a.Addresses))
	for i, addr := range a.Addresses {
		if a.Pools[i] == "" {
			parts = append(parts, addr.String()+", which is in no pool")
		} else {
			parts = append(parts, fmt.Sprintf("%s from pool %s", addr, a.Pools[i]))
		}
	}
	return strings.Join(parts, " and ")
}

func refusalText(refusals []ipam.Refusal) string {
	var texts []string
	for _, r := range refusals {
		if !slices.Contains(texts, r.Message) {
			texts = append(texts, r.Message)
		}
	}
	return strings.Join(texts, "; ")
}

// setGivingUp says that addresses which the Service holds and does not show
// are about to be released. It stands until the next reconcile.
func setGivingUp(svc *corev1.Service, addrs []netip.Addr, now metav1.Time) {
	cond := condition(svc, v1alpha1.ServiceAnnounced)
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	cond.Message += "; " + strings.Join(texts, " and ") + " is held and not needed, and given up"
	setCondition(svc, cond, now)
}
