// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

const stranger = "02:00:00:00:00:99"

// tells has a speaker change the status of an address, and the Controller see
// it.
func (w *world) tells(name string, change func(*v1alpha1.LoadBalancerIPStatus)) {
	w.t.Helper()
	ip := w.address(name)
	change(&ip.Status)
	if err := w.api.Status().Update(w.ctx(), ip); err != nil {
		w.t.Fatal(err)
	}
	if before, news := w.c.ledger.observe(ip); news {
		w.c.spread(before, ip)
	}
	w.c.addresses.Add(request(name))
	w.work()
}

func (w *world) address(name string) *v1alpha1.LoadBalancerIP {
	w.t.Helper()
	ip := &v1alpha1.LoadBalancerIP{}
	if err := w.api.Get(w.ctx(), client.ObjectKey{Name: name}, ip); err != nil {
		w.t.Fatal(err)
	}
	return ip
}

// inConflict says that another host has the address.
func (w *world) inConflict(reason string) func(*v1alpha1.LoadBalancerIPStatus) {
	return func(s *v1alpha1.LoadBalancerIPStatus) {
		s.Conflict = &v1alpha1.Conflict{By: "n1", Interface: "eth0", MAC: stranger, At: metav1.NewTime(w.now)}
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.AddressConflict, Status: metav1.ConditionTrue, Reason: reason, Message: "seen"})
	}
}

func noConflict(s *v1alpha1.LoadBalancerIPStatus) {
	s.Conflict = nil
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.AddressConflict, Status: metav1.ConditionFalse, Reason: v1alpha1.ConflictOver, Message: "gone"})
}

func claimedBy(node string) func(*v1alpha1.LoadBalancerIPStatus) {
	return func(s *v1alpha1.LoadBalancerIPStatus) {
		s.L2 = &v1alpha1.L2Claim{Node: node, Term: 1, MAC: "02:00:00:00:00:01"}
	}
}

// conflicts is what the condition of a pool says.
func (w *world) conflicts(pool string) metav1.Condition {
	w.t.Helper()
	w.free(pool)
	p := &v1alpha1.LoadBalancerIPPool{}
	if err := w.api.Get(w.ctx(), client.ObjectKey{Name: pool}, p); err != nil {
		w.t.Fatal(err)
	}
	return *meta.FindStatusCondition(p.Status.Conditions, v1alpha1.PoolConflicts)
}

func TestAddressThatAnotherHostHasIsQuarantined(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/30"), testNode("n1"), testService("web"), testService("next"))
	if _, err := w.c.reconcileService(w.ctx(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(w.service("web"))}); err != nil {
		t.Fatal(err)
	}
	w.tells("192.0.2.0", w.inConflict(v1alpha1.ConflictProbeAnswered))
	w.shows("web", "192.0.2.1")
	ip := w.address("192.0.2.0")
	if q := ip.Spec.Quarantined; q == nil || q.MAC != stranger || !q.At.Time.Equal(w.now.Truncate(time.Second)) && q.At.After(w.now) || len(ip.Spec.Services) != 0 || ip.Spec.Released == nil {
		t.Errorf("spec %+v", ip.Spec)
	}
	if told := strings.Join(w.told(), "\n"); !strings.Contains(told, "Warning AddressConflict 192.0.2.0 is given up") || !strings.Contains(told, stranger) {
		t.Errorf("events %q", told)
	}
	if cond := w.conflicts("lan"); cond.Status != metav1.ConditionTrue || cond.Reason != reasonQuarantined || !strings.Contains(cond.Message, "192.0.2.0 ("+stranger+")") {
		t.Errorf("pool says %+v", cond)
	}
	w.reconcile("next")
	w.shows("next", "192.0.2.2")
	if got := w.free("lan"); got != "1" {
		t.Errorf("%s addresses are left, want 1", got)
	}

	// It outlives the rest of other addresses, and no longer than an hour.
	quarantined := ip.Spec.Quarantined.At.Time
	w.now = quarantined.Add(quarantineFor - time.Second)
	if result, err := w.c.reconcileAddress(w.ctx(), request("192.0.2.0")); err != nil || result.RequeueAfter != time.Second {
		t.Fatalf("%+v, %v", result, err)
	}
	w.now = quarantined.Add(quarantineFor)
	w.c.addresses.Add(request("192.0.2.0"))
	w.work()
	for _, ip := range w.addresses() {
		if ip.Name == "192.0.2.0" {
			t.Error("it is still there")
		}
	}
	if got := w.free("lan"); got != "2" {
		t.Errorf("%s addresses are left, want 2", got)
	}
	if cond := w.conflicts("lan"); cond.Status != metav1.ConditionFalse {
		t.Errorf("pool says %+v", cond)
	}
}

// Whatever of an address in conflict is not this Service's alone to lose stays.
func TestAddressInConflictStays(t *testing.T) {
	for name, tc := range map[string]struct {
		svc    []func(*corev1.Service)
		before func(*v1alpha1.LoadBalancerIPStatus)
		reason string
		status metav1.ConditionStatus // of Announced
		says   string
	}{
		"asked for by number":            {svc: []func(*corev1.Service){asking("192.0.2.0")}, reason: v1alpha1.ConflictProbeAnswered, status: metav1.ConditionFalse, says: "192.0.2.0 is not announced"},
		"announced":                      {before: claimedBy("n1"), reason: v1alpha1.ConflictClaimSeen, status: metav1.ConditionTrue, says: "claims 192.0.2.0 too"},
		"announced, whatever was before": {before: claimedBy("n1"), reason: v1alpha1.ConflictProbeAnswered, status: metav1.ConditionTrue, says: "claims 192.0.2.0 too"},
		"announced, and not yet claimed": {reason: v1alpha1.ConflictClaimSeen, status: metav1.ConditionFalse, says: "192.0.2.0 is not announced"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, testPool("lan", "192.0.2.0/29"), testNode("n1"), testService("web", tc.svc...))
			w.reconcile("web")
			if tc.before != nil {
				w.tells("192.0.2.0", tc.before)
			}
			w.told()
			w.tells("192.0.2.0", w.inConflict(tc.reason))
			w.shows("web", "192.0.2.0")
			cond := condition(w.service("web"), v1alpha1.ServiceAnnounced)
			if cond.Status != tc.status || cond.Reason != ReasonAddressConflict || !strings.Contains(cond.Message, tc.says) || !strings.Contains(cond.Message, stranger) {
				t.Errorf("condition %+v", cond)
			}
			if told := w.told(); len(told) != 1 || !strings.HasPrefix(told[0], "Warning AddressConflict") || !strings.Contains(told[0], stranger) {
				t.Errorf("events %q", told)
			}
			if q := w.address("192.0.2.0").Spec.Quarantined; q != nil {
				t.Errorf("quarantined: %+v", q)
			}
			writes := w.writes["patch *v1.Service"]
			w.reconcile("web")
			if w.writes["patch *v1.Service"] != writes {
				t.Error("it is written again although nothing has changed")
			}
			w.tells("192.0.2.0", noConflict)
			if cond := condition(w.service("web"), v1alpha1.ServiceAnnounced); cond.Reason == ReasonAddressConflict {
				t.Errorf("condition %+v", cond)
			}
			if told := w.told(); len(told) != 0 {
				t.Errorf("events %q", told)
			}
		})
	}
}

func TestPoolQuarantinesThreeAddressesInAnHour(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testService("web"))
	w.reconcile("web")
	for i := range maxQuarantined {
		w.tells(fmt.Sprint("192.0.2.", i), w.inConflict(v1alpha1.ConflictProbeAnswered))
		w.shows("web", fmt.Sprint("192.0.2.", i+1))
	}
	w.told()
	w.tells("192.0.2.3", w.inConflict(v1alpha1.ConflictProbeAnswered))
	w.shows("web", "192.0.2.3")
	if cond := condition(w.service("web"), v1alpha1.ServiceAnnounced); cond.Reason != ReasonAddressConflict || cond.Status != metav1.ConditionFalse {
		t.Errorf("condition %+v", cond)
	}
	if cond := w.conflicts("lan"); cond.Reason != reasonQuarantineLimit {
		t.Errorf("pool says %+v", cond)
	}
	// Another pool has an hour of its own; this one goes on when it is over.
	w.now = w.address("192.0.2.0").Spec.Quarantined.At.Add(quarantineFor)
	w.c.addresses.Add(request("192.0.2.0"))
	w.work()
	w.c.addresses.Add(request("192.0.2.3"))
	w.work()
	w.shows("web", "192.0.2.0")
	if w.address("192.0.2.3").Spec.Quarantined == nil {
		t.Error("it is not quarantined")
	}
}

func TestQuarantinedAddressIsGivenByNumber(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/29"), testNode("n1"), testService("web"), testService("stubborn", asking("192.0.2.0")))
	w.reconcile("web")
	w.tells("192.0.2.0", w.inConflict(v1alpha1.ConflictProbeAnswered))
	w.shows("web", "192.0.2.1")
	w.reconcile("stubborn")
	w.shows("stubborn", "192.0.2.0")
	ip := w.address("192.0.2.0")
	if ip.Spec.Quarantined != nil {
		t.Errorf("still quarantined: %+v", ip.Spec)
	}
	w.c.addresses.Add(request("192.0.2.0"))
	w.work()
	w.shows("stubborn", "192.0.2.0")

	// It is looked at again, for the Service may stop asking.
	w.edit("stubborn", func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = "" })
	w.reconcile("stubborn")
	w.shows("stubborn", "192.0.2.0")
	w.c.addresses.Add(request("192.0.2.0"))
	w.work()
	w.shows("stubborn", "192.0.2.2")
}

func TestQuarantineOfASharedAddress(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/29"), testNode("n1"), testService("a", sharing("k", 80)), testService("b", sharing("k", 81)))
	w.reconcile("a", "b")
	w.shows("b", "192.0.2.0")
	w.tells("192.0.2.0", w.inConflict(v1alpha1.ConflictProbeAnswered))
	w.shows("a", "192.0.2.1")
	w.shows("b", "192.0.2.1")
	if ip := w.address("192.0.2.0"); len(ip.Spec.Services) != 0 || ip.Spec.Quarantined == nil {
		t.Errorf("spec %+v", ip.Spec)
	}
}

func TestReservedAddressIsNotQuarantined(t *testing.T) {
	reserved := &v1alpha1.LoadBalancerIP{ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.5"},
		Spec: v1alpha1.LoadBalancerIPSpec{Address: "192.0.2.5", ReservedFor: &v1alpha1.Reservation{Namespace: "default"}}}
	w := newWorld(t, testPool("lan", "192.0.2.0/29"), testNode("n1"), reserved, testService("web"))
	w.reconcile("web")
	w.tells("192.0.2.5", w.inConflict(v1alpha1.ConflictProbeAnswered))
	w.shows("web", "192.0.2.5")
}

func TestServiceOnAQuarantinedAddressWaitsIfThereIsNoOther(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/32"), testNode("n1"), testService("web"))
	w.reconcile("web")
	w.tells("192.0.2.0", w.inConflict(v1alpha1.ConflictProbeAnswered))
	w.shows("web")
	w.refused("web", ipam.PoolExhausted)
	// A person who has taken the host off the address deletes the object.
	ip := w.address("192.0.2.0")
	if err := w.api.Delete(w.ctx(), ip); err != nil {
		t.Fatal(err)
	}
	w.c.addressEvents().DeleteFunc(ip)
	w.work()
	w.shows("web", "192.0.2.0")
}

func TestProxysConflictEndsTheQuarantine(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/29"), testNode("n1"), testService("web"))
	w.reconcile("web")
	w.tells("192.0.2.0", w.inConflict(v1alpha1.ConflictProbeAnswered))
	w.shows("web", "192.0.2.1")
	w.tells("192.0.2.0", noConflict)
	w.now = w.now.Add(defaultReuseAfter)
	w.c.addresses.Add(request("192.0.2.0"))
	w.work()
	if n := len(w.addresses()); n != 1 {
		t.Errorf("%d addresses, want the one that web has", n)
	}
}
