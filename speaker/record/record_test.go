// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
	"github.com/fairlead-lb/fairlead/speaker/conflict"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/verify"
)

var (
	vip      = netip.MustParseAddr("192.0.2.10")
	owner    = link.MAC{2, 0, 0, 0, 0, 1}
	stranger = link.MAC{2, 0, 0, 0, 0, 0x99}
)

// world is a Recorder of node n1, and an API server with addresses.
type world struct {
	*Recorder
	t      *testing.T
	api    client.WithWatch
	writes int
	refuse func(try int) error
	tries  []time.Duration
}

// bubble runs a test with these addresses.
func bubble(t *testing.T, test func(t *testing.T, w *world), ips ...*v1alpha1.LoadBalancerIP) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		scheme := runtime.NewScheme()
		if err := v1alpha1.AddToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		b := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.LoadBalancerIP{})
		for _, ip := range ips {
			b = b.WithObjects(ip)
		}
		w := &world{t: t, api: b.Build(), refuse: func(int) error { return nil }}
		start := time.Now()
		c := interceptor.NewClient(w.api, interceptor.Funcs{
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
				w.tries = append(w.tries, time.Since(start))
				if err := w.refuse(len(w.tries)); err != nil {
					return err
				}
				w.writes++
				return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
			},
		})
		w.Recorder = New(testr.New(t), prometheus.NewRegistry(), c, "n1")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		test(t, w)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// ip is an address that is proposed for a node and claimed by another, if that
// is not empty.
func ip(addr netip.Addr, proposed, claimed string) *v1alpha1.LoadBalancerIP {
	ip := &v1alpha1.LoadBalancerIP{ObjectMeta: metav1.ObjectMeta{Name: ipam.ObjectName(addr)}, Spec: v1alpha1.LoadBalancerIPSpec{Address: addr.String(), Owner: proposed}}
	if claimed != "" {
		ip.Status.L2 = &v1alpha1.L2Claim{Node: claimed, Term: 1, MAC: owner.String(), Since: metav1.Unix(1, 0)}
	}
	meta.SetStatusCondition(&ip.Status.Conditions, metav1.Condition{Type: v1alpha1.PoolMismatch, Status: metav1.ConditionFalse, Reason: "InPool"})
	return ip
}

func (w *world) status(addr netip.Addr) v1alpha1.LoadBalancerIPStatus {
	w.t.Helper()
	ip := &v1alpha1.LoadBalancerIP{}
	if err := w.api.Get(w.t.Context(), client.ObjectKey{Name: ipam.ObjectName(addr)}, ip); err != nil {
		w.t.Fatal(err)
	}
	return ip.Status
}

// says fails unless a condition is so, and the other ones are still there.
func (w *world) says(kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
	w.t.Helper()
	s := w.status(vip)
	cond := meta.FindStatusCondition(s.Conditions, kind)
	if cond == nil || cond.Status != status || cond.Reason != reason || cond.Message == "" || cond.LastTransitionTime.IsZero() {
		w.t.Fatalf("condition %+v", cond)
	}
	if meta.FindStatusCondition(s.Conditions, v1alpha1.PoolMismatch) == nil || s.L2 != nil && s.L2.Term != 1 {
		w.t.Errorf("something was lost: %+v", s)
	}
	return *cond
}

// found is a report about the address of all tests.
func found(mac link.MAC, announced bool) conflict.Report {
	return conflict.Report{Addr: vip, Conflict: &conflict.Conflict{Interface: "eth0", MAC: mac, At: time.Now(), Announced: announced}}
}

func TestConflictIsRecordedAndEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		ip        *v1alpha1.LoadBalancerIP
		announced bool
		reason    string
	}{
		"before the address is announced": {ip(vip, "n1", ""), false, v1alpha1.ConflictProbeAnswered},
		"while it is":                     {ip(vip, "n2", "n1"), true, v1alpha1.ConflictClaimSeen},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.Conflict(found(stranger, tc.announced))
				synctest.Wait()
				first := w.says(v1alpha1.AddressConflict, metav1.ConditionTrue, tc.reason)
				want := &v1alpha1.Conflict{By: "n1", Interface: "eth0", MAC: stranger.String(), At: metav1.NewTime(time.Now().Truncate(time.Second))}
				if !InConflict(w.status(vip)) {
					t.Error("it isn't in conflict")
				}
				got := w.status(vip).Conflict
				if got == nil || !got.At.Equal(&want.At) {
					t.Fatalf("conflict %+v", got)
				}
				if got.At = want.At; cmp.Diff(want, got) != "" {
					t.Error(cmp.Diff(want, got))
				}
				time.Sleep(time.Minute)
				w.Conflict(found(link.MAC{2, 1}, tc.announced))
				synctest.Wait()
				if again := w.says(v1alpha1.AddressConflict, metav1.ConditionTrue, tc.reason); !again.LastTransitionTime.Equal(&first.LastTransitionTime) || again.Message == first.Message {
					t.Errorf("condition %+v, was %+v", again, first)
				}
				time.Sleep(time.Minute)
				w.Conflict(conflict.Report{Addr: vip})
				synctest.Wait()
				w.says(v1alpha1.AddressConflict, metav1.ConditionFalse, v1alpha1.ConflictOver)
				if s := w.status(vip); s.Conflict != nil || InConflict(s) {
					t.Errorf("conflict %+v", s.Conflict)
				}
				w.Conflict(conflict.Report{Addr: vip})
				time.Sleep(time.Minute)
				if w.writes != 3 {
					t.Errorf("%d writes, want 3", w.writes)
				}
			}, tc.ip)
		})
	}
}

func TestOnlyWhoMayTellDoes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		six := netip.MustParseAddr("2001:db8::10")
		w.Conflict(found(stranger, false))                                                         // another node's to announce
		w.Verified(verify.Result{Addr: six, State: verify.Answered, MAC: owner})                   // its own
		w.Verified(verify.Result{Addr: vip, State: verify.Answered, MAC: stranger})                // claimed anew meanwhile
		w.Conflict(conflict.Report{Addr: netip.MustParseAddr("192.0.2.11")})                       // gone
		w.Verified(verify.Result{Addr: netip.MustParseAddr("192.0.2.11"), State: verify.NoAnswer}) // gone
		time.Sleep(time.Minute)
		if w.writes != 0 {
			t.Errorf("%d writes", w.writes)
		}
	}, ip(vip, "n2", "n3"), ip(netip.MustParseAddr("2001:db8::10"), "", "n1"))
}

func TestVerificationIsRecorded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.Verified(verify.Result{Addr: vip, State: verify.Answered, MAC: owner, At: time.Now()})
		synctest.Wait()
		w.says(v1alpha1.AddressVerified, metav1.ConditionTrue, v1alpha1.VerifiedAnswered)
		if v := w.status(vip).Verified; v == nil || v.By != "n1" || v.MAC != owner.String() {
			t.Errorf("verified %+v", v)
		}
		want := verify.Result{Addr: vip, State: verify.Answered, MAC: owner, At: time.Now().Truncate(time.Second)}
		if got := Verification(vip, w.status(vip)); got.State != want.State || got.MAC != want.MAC || !got.At.Equal(want.At) {
			t.Errorf("read %+v, want %+v", got, want)
		}
		for state, reason := range map[verify.State]string{verify.NoAnswer: v1alpha1.VerifiedNoAnswer, verify.OtherMAC: v1alpha1.VerifiedOtherMAC} {
			w.Verified(verify.Result{Addr: vip, State: state, MAC: stranger, At: time.Now()})
			time.Sleep(time.Minute)
			w.says(v1alpha1.AddressVerified, metav1.ConditionFalse, reason)
			if v := w.status(vip).Verified; v != nil {
				t.Errorf("verified %+v", v)
			}
			// Which MAC it was then is in the message only.
			if got := Verification(vip, w.status(vip)); got.MAC != (link.MAC{}) || got.State != state && state == verify.NoAnswer {
				t.Errorf("read %+v", got)
			}
		}
	}, ip(vip, "n2", "n2"))
}

func TestWritesArePacedAndTheLastWordCounts(t *testing.T) {
	var ips []*v1alpha1.LoadBalancerIP
	for i := range 100 {
		ips = append(ips, ip(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), "n2", "n2"))
	}
	bubble(t, func(t *testing.T, w *world) {
		for round := range 10 {
			for i := range 100 {
				state := verify.NoAnswer
				if round == 9 {
					state = verify.Answered
				}
				w.Verified(verify.Result{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), State: state, MAC: owner, At: time.Now()})
			}
		}
		time.Sleep(99*verifiedPace - 1)
		if w.writes >= 100 {
			t.Errorf("%d writes in %v", w.writes, 99*verifiedPace)
		}
		time.Sleep(time.Minute)
		if w.writes < 100 || w.writes > 101 { // one may have been under way
			t.Errorf("%d writes for 100 addresses", w.writes)
		}
		w.says(v1alpha1.AddressVerified, metav1.ConditionTrue, v1alpha1.VerifiedAnswered)
	}, ips...)
}

func TestWritesAreTriedAgain(t *testing.T) {
	away := errors.New("connection refused")
	conflicted := apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("loadbalancerips").GroupResource(), "x", errors.New("modified"))
	for name, tc := range map[string]struct {
		err    error
		fails  int
		within time.Duration
		tries  int
	}{
		"rarely while the API server is away": {away, 8, time.Minute, 9},
		"soon when somebody was faster":       {conflicted, 3, 4 * conflictPace, 4},
		"never when it is another node's now": {apierrors.NewForbidden(v1alpha1.GroupVersion.WithResource("loadbalancerips").GroupResource(), "x", errors.New("not yours")), 100, time.Minute, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.refuse = func(try int) error {
					if try <= tc.fails {
						return fmt.Errorf("patch: %w", tc.err)
					}
					return nil
				}
				w.Conflict(found(stranger, false))
				time.Sleep(tc.within)
				synctest.Wait()
				if len(w.tries) != tc.tries {
					t.Errorf("tries after %v", w.tries)
				}
				if recorded := w.status(vip).Conflict != nil; recorded != (tc.fails < tc.tries) {
					t.Errorf("recorded: %v", recorded)
				}
			}, ip(vip, "n1", ""))
		})
	}
}
