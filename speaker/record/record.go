// SPDX-License-Identifier: Apache-2.0

// Package record writes what a speaker has seen of addresses, on the wire, into the status of their LoadBalancerIPs.
package record

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/conflict"
	"github.com/fairlead-lb/fairlead/speaker/verify"
)

const (
	// conflictPace and verifiedPace are between two writes. A Service may wait
	// for what is told of a conflict, nobody for a verification.
	conflictPace = 20 * time.Millisecond
	verifiedPace = 50 * time.Millisecond
)

// Client reads from and writes to the API server itself: a cache may have
// nothing of what is written here.
type Client interface {
	client.Reader
	client.StatusClient
}

// Recorder writes what it is told until it is written, or until something newer
// of the same address is to be.
type Recorder struct {
	node      string
	conflicts *lane
	verified  *lane
}

// New returns a Recorder for what the speaker of a node sees. It does nothing
// before Run.
func New(log logr.Logger, reg prometheus.Registerer, c Client, node string) *Recorder {
	writes := promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "fairlead_sighting_writes_total",
		Help: "Writes to the API server of what was seen of addresses, by kind (conflict, verified) and result: recorded, needless (it was recorded, or is another node's to tell now), failed (is tried again).",
	}, []string{"kind", "result"})
	return &Recorder{
		node:      node,
		conflicts: newLane(log.WithValues("kind", "conflict"), c, writes.MustCurryWith(prometheus.Labels{"kind": "conflict"}), conflictPace),
		verified:  newLane(log.WithValues("kind", "verified"), c, writes.MustCurryWith(prometheus.Labels{"kind": "verified"}), verifiedPace),
	}
}

// Conflict records that another host has an address, or has it no longer. It
// doesn't wait.
func (r *Recorder) Conflict(report conflict.Report) {
	r.conflicts.put(report.Addr, func(ip *v1alpha1.LoadBalancerIP) { r.setConflict(ip, report) })
}

// Verified records what came out when an address was asked for. It doesn't
// wait.
func (r *Recorder) Verified(result verify.Result) {
	r.verified.put(result.Addr, func(ip *v1alpha1.LoadBalancerIP) { r.setVerified(ip, result) })
}

// Run writes until ctx is done, and returns nil then.
func (r *Recorder) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range []*lane{r.conflicts, r.verified} {
		g.Go(func() error {
			l.run(ctx)
			return nil
		})
	}
	return g.Wait()
}

// setConflict writes a report into the status of an address that the node has
// claimed or is proposed for. That of any other is another node's to tell.
func (r *Recorder) setConflict(ip *v1alpha1.LoadBalancerIP, report conflict.Report) {
	claims := ip.Status.L2 != nil && ip.Status.L2.Node == r.node
	if !claims && ip.Spec.Owner != r.node {
		return
	}
	c := report.Conflict
	if c == nil {
		if ip.Status.Conflict != nil || meta.IsStatusConditionTrue(ip.Status.Conditions, v1alpha1.AddressConflict) {
			ip.Status.Conflict = nil
			set(ip, v1alpha1.AddressConflict, false, v1alpha1.ConflictOver, fmt.Sprintf("no other host claims %s any more", report.Addr))
		}
		return
	}
	ip.Status.Conflict = &v1alpha1.Conflict{By: r.node, Interface: c.Interface, MAC: c.MAC.String(), At: at(c.At)}
	if c.Announced {
		set(ip, v1alpha1.AddressConflict, true, v1alpha1.ConflictClaimSeen,
			fmt.Sprintf("another host, %s, claims %s too, as %s saw on %s: it goes on being announced", c.MAC, report.Addr, r.node, c.Interface))
	} else {
		set(ip, v1alpha1.AddressConflict, true, v1alpha1.ConflictProbeAnswered,
			fmt.Sprintf("another host, %s, answers for %s, as %s saw on %s: it is not announced until that host is gone", c.MAC, report.Addr, r.node, c.Interface))
	}
}

// setVerified writes a result into the status of an address that another node
// has claimed, and with the MAC that answered if one did.
func (r *Recorder) setVerified(ip *v1alpha1.LoadBalancerIP, result verify.Result) {
	claim := ip.Status.L2
	if claim == nil || claim.Node == r.node || result.State == verify.Answered && claim.MAC != result.MAC.String() {
		return // it has been claimed anew since it was asked for
	}
	ip.Status.Verified = nil
	switch result.State {
	case verify.Answered:
		ip.Status.Verified = &v1alpha1.Verification{By: r.node, MAC: result.MAC.String(), At: at(result.At)}
		set(ip, v1alpha1.AddressVerified, true, v1alpha1.VerifiedAnswered, fmt.Sprintf("%s answered for %s", result.MAC, result.Addr))
	case verify.OtherMAC:
		set(ip, v1alpha1.AddressVerified, false, v1alpha1.VerifiedOtherMAC,
			fmt.Sprintf("%s asked for %s, which %s claims, and %s answered", r.node, result.Addr, claim.Node, result.MAC))
	default:
		set(ip, v1alpha1.AddressVerified, false, v1alpha1.VerifiedNoAnswer,
			fmt.Sprintf("%s asked for %s, which %s claims, and nobody answered", r.node, result.Addr, claim.Node))
	}
}

func set(ip *v1alpha1.LoadBalancerIP, kind string, is bool, reason, message string) {
	status := metav1.ConditionFalse
	if is {
		status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&ip.Status.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: ip.Generation,
	})
}

// at leaves out what the API doesn't keep.
func at(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// change makes an object say what was seen, or leaves it as it is.
type change func(*v1alpha1.LoadBalancerIP)
