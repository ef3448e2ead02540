// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

// announcing is what is known of the announcing of an address.
type announcing struct {
	// claimed says that a node answers on layer 2, byBGP that a node that
	// announces it has a session.
	claimed, byBGP bool
	// unowned is why no node may own it on layer 2, with a sentence; empty if
	// one may.
	unowned plan.Reason
	why     string
	// bgpReason and bgpWhy are why it is not announced by BGP; empty where it is
	// not to be.
	bgpReason, bgpWhy string
	// onlyBGP says that it is not to be announced on layer 2.
	onlyBGP bool
}

// announcing returns what is known of the announcing of an address.
func (c *Controller) announcing(ctx context.Context, addr netip.Addr) (how announcing) {
	obj := c.ledger.object(addr)
	if obj == nil {
		return how
	}
	on := c.terrain.Load()
	a := c.planAddress(ctx, on, obj, addr)
	how.claimed = obj.Status.L2 != nil
	how.unowned, how.why = plan.Unowned(a, on.nodes)
	if a.BGP == nil || a.BGP.OnlyL2 {
		return how
	}
	how.onlyBGP = a.Scope != nil && a.Scope.OnlyBGP
	if how.byBGP = c.sessions.Load().carry(&a, on.nodes); how.byBGP {
		return how
	}
	reason, text := plan.Unannounced(&a, on.nodes)
	if reason == "" {
		how.bgpReason, how.bgpWhy = ReasonNoSession, "no node that may announce "+addr.String()+" by BGP has a session with a peer that it goes to"
	} else {
		how.bgpReason, how.bgpWhy = ReasonNoEligibleNode, text
	}
	return how
}

// way says how an address is announced.
func (a announcing) way() string {
	switch {
	case a.claimed && a.byBGP:
		return "on layer 2 and by BGP"
	case a.byBGP:
		return "by BGP"
	}
	return "on layer 2"
}

// missing says why nobody announces an address that no node may own on layer 2.
func (a announcing) missing() (reason, text string) {
	switch {
	case a.bgpReason == "":
		return ReasonNoEligibleNode, a.why
	case a.onlyBGP || a.bgpReason == ReasonNoSession:
		return a.bgpReason, a.bgpWhy
	}
	return ReasonNoEligibleNode, a.why + "; " + a.bgpWhy
}

// announcedCondition names no node: an address that moves writes no Service.
func announcedCondition(addrs []netip.Addr, how func(netip.Addr) announcing) metav1.Condition {
	cond := metav1.Condition{Type: v1alpha1.ServiceAnnounced, Status: metav1.ConditionFalse}
	if len(addrs) == 0 {
		cond.Reason, cond.Message = ReasonNotAllocated, "there is no address to announce"
		return cond
	}
	var waiting, why, stranded, texts, ways []string
	for _, addr := range addrs {
		texts = append(texts, addr.String())
		a := how(addr)
		if a.claimed || a.byBGP {
			ways = append(ways, a.way())
			if a.unowned.Selection() && !a.byBGP {
				stranded = append(stranded, a.why)
			}
			continue
		}
		waiting = append(waiting, addr.String())
		if a.unowned != "" {
			reason, text := a.missing()
			if cond.Reason == "" {
				cond.Reason = reason
			}
			why = append(why, text)
		}
	}
	if len(why) > 0 {
		cond.Message = strings.Join(why, "; ")
		return cond
	}
	if len(waiting) > 0 {
		cond.Reason, cond.Message = ReasonAwaitingClaim, "no node has claimed "+strings.Join(waiting, " and ")+" yet"
		return cond
	}
	cond.Status, cond.Reason = metav1.ConditionTrue, ReasonAnnounced
	if len(slices.Compact(slices.Clone(ways))) == 1 {
		cond.Message = strings.Join(texts, " and ") + " announced " + ways[0]
	} else {
		for i := range texts {
			texts[i] += " announced " + ways[i]
		}
		cond.Message = strings.Join(texts, " and ")
	}
	if len(stranded) > 0 {
		cond.Reason = ReasonNotSelected
		cond.Message += " where it was, although " + strings.Join(stranded, "; ")
	}
	return cond
}
