// SPDX-License-Identifier: Apache-2.0

package record

import (
	"net"
	"net/netip"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/verify"
)

// InConflict reports whether a status has a conflict, which somebody has to end.
func InConflict(s v1alpha1.LoadBalancerIPStatus) bool {
	return s.Conflict != nil || meta.IsStatusConditionTrue(s.Conditions, v1alpha1.AddressConflict)
}

// Verification returns what a status says of an address when it was last asked
// for; with State zero if it says nothing that can be relied on.
func Verification(addr netip.Addr, s v1alpha1.LoadBalancerIPStatus) verify.Result {
	r := verify.Result{Addr: addr}
	cond := meta.FindStatusCondition(s.Conditions, v1alpha1.AddressVerified)
	switch {
	case cond == nil:
	case cond.Status == metav1.ConditionTrue && s.Verified != nil:
		if mac, err := net.ParseMAC(s.Verified.MAC); err == nil && len(mac) == len(r.MAC) {
			r.State, r.MAC, r.At = verify.Answered, link.MAC(mac), s.Verified.At.Time
		}
	case cond.Status == metav1.ConditionFalse && cond.Reason == v1alpha1.VerifiedNoAnswer:
		r.State, r.At = verify.NoAnswer, cond.LastTransitionTime.Time
	}
	return r
}
