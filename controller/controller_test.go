// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cloud-provider/service/helpers"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

func TestServiceGetsAnAddressInTwoWrites(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/29"), testNode("n1"), testService("web"))
	w.reconcile("web")
	w.shows("web", "192.0.2.0")
	svc := w.service("web")
	if !helpers.HasLBFinalizer(svc) {
		t.Error("no finalizer")
	}
	if mode := svc.Status.LoadBalancer.Ingress[0].IPMode; mode == nil || *mode != corev1.LoadBalancerIPModeVIP {
		t.Errorf("ipMode %v", mode)
	}
	ip := w.addresses()[0]
	if ip.Name != "192.0.2.0" || ip.Spec.Owner != "n1" || ip.Spec.Pool != "lan" || ip.Spec.Holder != "default/web" {
		t.Errorf("object %+v", ip)
	}
	w.reconcile("web")
	w.sync()
	w.reconcile("web")
	if len(w.writes) != 2 || w.writes["create *v1alpha1.LoadBalancerIP"] != 1 || w.writes["patch *v1.Service"] != 1 {
		t.Errorf("writes %v", w.writes)
	}
	if told := w.told(); len(told) != 1 || !strings.HasPrefix(told[0], "Normal Allocated") {
		t.Errorf("events %q", told)
	}
}

func TestNewAddressIsShownOnceItIsClaimed(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/29"), testNode("n1"), testService("web"))
	key := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: "web"}}
	result, err := w.c.reconcileService(w.ctx(), key)
	if err != nil || result.RequeueAfter != claimPatience {
		t.Fatalf("%+v, %v", result, err)
	}
	w.shows("web")
	claimed := w.addresses()[0]
	claimed.Status.L2 = &v1alpha1.L2Claim{Node: "n1", Term: 1}
	if err := w.api.Status().Update(w.ctx(), &claimed); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.reconcile("web")
	w.shows("web", "192.0.2.0")
	if cond := condition(w.service("web"), v1alpha1.ServiceAnnounced); cond.Status != metav1.ConditionTrue || w.writes["patch *v1.Service"] != 1 {
		t.Errorf("condition %+v, writes %v", cond, w.writes)
	}
}

func TestRefusedServiceIsServedWhenTheCauseGoes(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/32"), testService("first"), testService("second"))
	w.reconcile("first", "second")
	w.shows("first", "192.0.2.0")
	w.refused("second", ipam.PoolExhausted)
	writes := w.writes["patch *v1.Service"]
	w.reconcile("second")
	if w.writes["patch *v1.Service"] != writes {
		t.Error("a refusal that stands was written again")
	}
	if err := w.api.Delete(w.ctx(), w.service("first")); err != nil {
		t.Fatal(err)
	}
	w.reconcile("first")
	w.shows("second", "192.0.2.0")
}

func TestRequests(t *testing.T) {
	for name, tc := range map[string]struct {
		svc    func(*corev1.Service)
		reason ipam.Reason
		shows  string
	}{
		"an address of the pool":          {svc: asking("192.0.2.5"), shows: "192.0.2.5"},
		"an address outside every pool":   {svc: asking("198.51.100.1"), reason: ipam.AddressNotInPool},
		"an address that another holds":   {svc: asking("192.0.2.1"), reason: ipam.AddressInUse},
		"an address of the wrong family":  {svc: asking("2001:db8::1"), reason: ipam.FamilyNotRequested},
		"an address of a disabled pool":   {svc: asking("203.0.113.1"), reason: ipam.PoolDisabled},
		"not an address":                  {svc: asking("web"), reason: ipam.InvalidAddress},
		"a pool that does not assign":     {svc: func(svc *corev1.Service) { svc.Annotations = map[string]string{v1alpha1.AnnotationPool: "manual"} }, shows: "192.0.2.65"},
		"a pool that does not exist":      {svc: func(svc *corev1.Service) { svc.Annotations = map[string]string{v1alpha1.AnnotationPool: "none"} }, reason: ipam.PoolNotFound},
		"a pool that does not admit it":   {svc: asking("192.0.2.129"), reason: ipam.PoolNotAdmitted},
		"an address that is left out":     {svc: asking("192.0.2.7"), reason: ipam.AddressExcluded},
		"an address that shows elsewhere": {svc: asking("192.0.2.6"), reason: ipam.ForeignAddress},
	} {
		t.Run(name, func(t *testing.T) {
			no := false
			lan := testPool("lan", "192.0.2.1-192.0.2.63")
			lan.Spec.Exclude = []v1alpha1.AddressRange{"192.0.2.7"}
			off := testPool("off", "203.0.113.0/24")
			off.Spec.Disabled = true
			manual := testPool("manual", "192.0.2.65-192.0.2.126")
			manual.Spec.AutoAssign = &no
			picky := testPool("picky", "192.0.2.128/25")
			picky.Spec.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"never": "there"}}
			alien := testService("alien", func(svc *corev1.Service) {
				class := "example.com/lb"
				svc.Spec.LoadBalancerClass = &class
				svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.6"}}
			})
			w := newWorld(t, lan, off, manual, picky, alien, testService("holder"), testService("web", tc.svc))
			w.reconcile("alien", "holder", "web")
			w.shows("holder", "192.0.2.1")
			if tc.reason != "" {
				w.shows("web")
				w.refused("web", tc.reason)
				if helpers.HasLBFinalizer(w.service("web")) {
					t.Error("a finalizer without an address")
				}
				return
			}
			w.shows("web", tc.shows)
		})
	}
}

func TestContradictoryRequestIsServedAndTold(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/29"), testService("web", asking("192.0.2.3"), func(svc *corev1.Service) {
		svc.Annotations = map[string]string{v1alpha1.AnnotationAddresses: "192.0.2.2"}
	}))
	w.reconcile("web")
	w.shows("web", "192.0.2.2")
	cond := condition(w.service("web"), v1alpha1.ServiceAllocated)
	if cond.Status != metav1.ConditionTrue || cond.Reason != ReasonContradictoryRequest || !strings.Contains(cond.Message, "spec.loadBalancerIP") {
		t.Errorf("condition %+v", cond)
	}
	if told := w.told(); len(told) != 1 || !strings.HasPrefix(told[0], "Warning ContradictoryRequest") {
		t.Errorf("events %q", told)
	}
	w.edit("web", asking(""))
	w.reconcile("web")
	w.shows("web", "192.0.2.2")
	if cond := condition(w.service("web"), v1alpha1.ServiceAllocated); cond.Reason != ReasonAllocated {
		t.Errorf("condition %+v", cond)
	}
}

func TestLaterRequestMovesTheService(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/29"), testService("web"))
	w.reconcile("web")
	w.shows("web", "192.0.2.0")
	w.edit("web", asking("192.0.2.5"))
	w.reconcile("web")
	w.shows("web", "192.0.2.5")
	for _, ip := range w.addresses() {
		if held := len(ip.Spec.Services) > 0; held != (ip.Name == "192.0.2.5") {
			t.Errorf("%s is held: %v", ip.Name, held)
		}
	}
}

func TestLaterRequestForAPoolMovesTheServiceOnce(t *testing.T) {
	fromOther := func(svc *corev1.Service) { svc.Annotations = map[string]string{v1alpha1.AnnotationPool: "other"} }
	t.Run("also if the pool has one address", func(t *testing.T) {
		w := newWorld(t, testNode("n1"), testPool("lan", "192.0.2.0/28"), testPool("other", "192.0.3.1"), testService("web"))
		w.reconcile("web")
		w.told()
		w.edit("web", fromOther)
		w.reconcile("web")
		w.shows("web", "192.0.3.1")
		if told := w.told(); len(told) != 1 {
			t.Errorf("told %q", told)
		}
	})
	t.Run("and takes no more addresses than it shows", func(t *testing.T) {
		w := newWorld(t, testNode("n1"), testPool("lan", "192.0.2.0/28"), testPool("other", "192.0.3.0/28"), testService("web"))
		w.reconcile("web")
		w.edit("web", fromOther)
		w.reconcile("web")
		w.shows("web", "192.0.3.0")
		if ips := w.addresses(); len(ips) != 2 {
			t.Errorf("there are %d addresses, want the one that it has and the one that rests", len(ips))
		}
	})
	for policy, shows := range map[corev1.IPFamilyPolicy][]string{
		corev1.IPFamilyPolicyPreferDualStack:  {"2001:db8:3::", "192.0.2.0"},
		corev1.IPFamilyPolicyRequireDualStack: {"2001:db8::", "192.0.2.0"},
	} {
		t.Run("and leaves what has no room there: "+string(policy), func(t *testing.T) {
			narrow := testPool("other", "192.0.3.0/28", "2001:db8:3::/64")
			narrow.Spec.MaxPerNamespace = ptr.To[int32](1)
			w := newWorld(t, testPool("lan", "192.0.2.0/28", "2001:db8::/64"), narrow, testService("web", dual(policy)))
			w.reconcile("web")
			w.shows("web", "2001:db8::", "192.0.2.0")
			w.edit("web", fromOther)
			w.reconcile("web")
			w.shows("web", shows...)
		})
	}
}

func TestDualStack(t *testing.T) {
	t.Run("both families come in the order of the Service", func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/24", "2001:db8::/64"), testService("web", dual(corev1.IPFamilyPolicyRequireDualStack)))
		w.reconcile("web")
		w.shows("web", "2001:db8::", "192.0.2.0")
	})
	t.Run("RequireDualStack gets nothing from a pool of one family", func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/24"), testService("web", dual(corev1.IPFamilyPolicyRequireDualStack)))
		w.reconcile("web")
		w.shows("web")
		w.refused("web", ipam.FamilyNotInPool)
		if ips := w.addresses(); len(ips) != 0 {
			t.Errorf("holds %v", ips)
		}
	})
	t.Run("PreferDualStack gets one, and the second when it can be had", func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/24"), testService("web", dual(corev1.IPFamilyPolicyPreferDualStack)))
		w.reconcile("web")
		w.shows("web", "192.0.2.0")
		if cond := condition(w.service("web"), v1alpha1.ServiceAllocated); cond.Reason != ReasonPartlyAllocated || cond.Status != metav1.ConditionTrue {
			t.Errorf("condition %+v", cond)
		}
		w.create(testPool("six", "2001:db8::/64"))
		w.editedPools()
		w.reconcile()
		w.shows("web", "2001:db8::", "192.0.2.0")
	})
	t.Run("one that keeps both because it can't have what it asks for is refused", func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/24", "2001:db8::/64"), testService("web", dual(corev1.IPFamilyPolicyPreferDualStack)))
		w.reconcile("web")
		w.edit("web", asking("198.51.100.1"))
		w.reconcile("web")
		w.shows("web", "2001:db8::", "192.0.2.0")
		w.refused("web", ipam.AddressNotInPool)
	})
	t.Run("one that asks for its first by number gets the second when it can be had", func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/24"), testService("web", dual(corev1.IPFamilyPolicyPreferDualStack), asking("192.0.2.7")))
		w.reconcile("web")
		w.shows("web", "192.0.2.7")
		w.create(testPool("six", "2001:db8::/64"))
		w.editedPools()
		w.reconcile()
		w.shows("web", "2001:db8::", "192.0.2.7")
	})
}

func TestSharing(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/24"), testService("a", sharing("k", 80)), testService("b", sharing("k", 443)), testService("c", sharing("k", 80)))
	w.reconcile("a", "b", "c")
	w.shows("a", "192.0.2.0")
	w.shows("b", "192.0.2.0")
	w.shows("c", "192.0.2.1")

	t.Run("a Service that comes to clash gets another address, the earlier one stays", func(t *testing.T) {
		w.edit("b", func(svc *corev1.Service) { svc.Spec.Ports[0].Port = 80 })
		w.reconcile("b")
		w.shows("a", "192.0.2.0")
		if got, _ := shown(w.service("b")); len(got) != 1 || got[0] == netip.MustParseAddr("192.0.2.0") || got[0] == netip.MustParseAddr("192.0.2.1") {
			t.Errorf("b shows %v", got)
		}
	})
}

func TestEditOfOneSharerMovesNoOther(t *testing.T) {
	local := func(svc *corev1.Service) {
		svc.Spec.ExternalTrafficPolicy, svc.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"app": "x"}
	}
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("first", sharing("k", 80)), testService("second", sharing("k", 443)), testService("third", sharing("k", 53), local))
	w.reconcile("first", "second", "third")
	w.shows("second", "192.0.2.0")
	w.shows("third", "192.0.2.1")
	w.edit("first", local)
	// Others may be looked at before the edited one is, and while it moves.
	svc := w.service("first")
	w.c.ledger.describe(svc, w.c.words.holder(svc), nil)
	w.look("second")
	w.shows("second", "192.0.2.0")
	w.reconcile("first")
	w.shows("second", "192.0.2.0")
	w.shows("first", "192.0.2.1")
	w.reconcile("second", "third")
	w.shows("second", "192.0.2.0")
	w.shows("third", "192.0.2.1")
	// What the first agreed to counts where it is now.
	w.create(testService("fourth", sharing("k", 22)), testService("fifth", sharing("k", 23), local))
	w.reconcile("fourth", "fifth")
	w.shows("fourth", "192.0.2.0")
	w.shows("fifth", "192.0.2.1")
}

func TestForeignAddressIsLeftAlone(t *testing.T) {
	shows := []corev1.LoadBalancerIngress{{IP: "192.0.2.0"}}
	w := newWorld(t, testPool("lan", "192.0.2.0/31"), testService("alien", func(svc *corev1.Service) { svc.Status.LoadBalancer.Ingress = shows }), testService("web"))
	w.reconcile("alien", "web")
	w.shows("alien", "192.0.2.0")
	w.refused("alien", ipam.ForeignAddress)
	if helpers.HasLBFinalizer(w.service("alien")) {
		t.Error("our finalizer is on it")
	}
	w.shows("web", "192.0.2.1")
	t.Run("once it is cleared the Service is served and the address free", func(t *testing.T) {
		w.edit("alien", func(svc *corev1.Service) { svc.Status.LoadBalancer = corev1.LoadBalancerStatus{} })
		w.reconcile("alien")
		w.shows("alien", "192.0.2.0")
		if !helpers.HasLBFinalizer(w.service("alien")) {
			t.Error("no finalizer")
		}
	})
}

func TestReleaseRestsAndReturns(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/24"), testService("web"))
	w.reconcile("web")
	w.edit("web", func(svc *corev1.Service) {
		svc.Spec.Type = corev1.ServiceTypeClusterIP
		svc.Status.LoadBalancer = corev1.LoadBalancerStatus{} // as the API server does
	})
	w.reconcile("web")
	svc := w.service("web")
	if helpers.HasLBFinalizer(svc) || len(svc.Status.Conditions) != 0 {
		t.Errorf("left behind: %v %v", svc.Finalizers, svc.Status.Conditions)
	}
	ip := w.addresses()[0]
	if len(ip.Spec.Services) != 0 || ip.Spec.Released == nil || ip.Spec.Released.Service.Name != "web" {
		t.Errorf("object %+v", ip.Spec)
	}
	w.create(testService("other"))
	w.reconcile("other")
	w.shows("other", "192.0.2.1")
	w.edit("web", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeLoadBalancer })
	w.reconcile("web")
	w.shows("web", "192.0.2.0")

	t.Run("and is forgotten after its time", func(t *testing.T) {
		if err := w.api.Delete(w.ctx(), w.service("other")); err != nil {
			t.Fatal(err)
		}
		w.reconcile("other")
		result, err := w.c.reconcileAddress(w.ctx(), request("192.0.2.1"))
		if err != nil || result.RequeueAfter != defaultReuseAfter {
			t.Fatalf("%v, %v", result, err)
		}
		w.now = w.now.Add(defaultReuseAfter)
		if _, err := w.c.reconcileAddress(w.ctx(), request("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		if ips := w.addresses(); len(ips) != 1 || ips[0].Name != "192.0.2.0" {
			t.Errorf("left: %v", ips)
		}
	})
}

func TestStrandedAddressStays(t *testing.T) {
	pool := testPool("lan", "192.0.2.0/28")
	w := newWorld(t, pool, testNode("n1"), testService("web"))
	w.reconcile("web")
	mismatch := func() metav1.ConditionStatus {
		if _, err := w.c.reconcileAddress(w.ctx(), request("192.0.2.0")); err != nil {
			t.Fatal(err)
		}
		for _, cond := range w.addresses()[0].Status.Conditions {
			if cond.Type == v1alpha1.PoolMismatch {
				return cond.Status
			}
		}
		return ""
	}
	if got := mismatch(); got != "" {
		t.Errorf("PoolMismatch is %q at first", got)
	}
	if err := w.api.Delete(w.ctx(), pool); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.reconcile("web")
	w.shows("web", "192.0.2.0")
	if got := mismatch(); got != metav1.ConditionTrue {
		t.Errorf("PoolMismatch is %q without the pool", got)
	}
	w.create(testPool("lan", "192.0.2.0/28"))
	w.sync()
	if got := mismatch(); got != metav1.ConditionFalse {
		t.Errorf("PoolMismatch is %q with the pool back", got)
	}
}

func TestPoolStatus(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/31", "2001:db8::5-2001:db8::1"), testPool("twin", "192.0.2.1"), testService("a"), testService("b"))
	w.reconcile("a", "b")
	if _, err := w.c.reconcilePoolStatus(w.ctx(), request("lan")); err != nil {
		t.Fatal(err)
	}
	got := &v1alpha1.LoadBalancerIPPool{}
	if err := w.api.Get(w.ctx(), client.ObjectKey{Name: "lan"}, got); err != nil {
		t.Fatal(err)
	}
	if got.Status.IPv6 != nil || *got.Status.IPv4 != (v1alpha1.AddressCount{Capacity: "2", Allocated: "2", Available: "0"}) {
		t.Errorf("counts %+v %+v", got.Status.IPv4, got.Status.IPv6)
	}
	want := map[string]metav1.ConditionStatus{v1alpha1.PoolReady: "False", v1alpha1.PoolOverlaps: "True", v1alpha1.PoolExhausted: "True", v1alpha1.PoolConflicts: "False"}
	for _, cond := range got.Status.Conditions {
		if cond.Status != want[cond.Type] {
			t.Errorf("condition %+v", cond)
		}
	}
	writes := w.writes["patch *v1alpha1.LoadBalancerIPPool"]
	if _, err := w.c.reconcilePoolStatus(w.ctx(), request("lan")); err != nil {
		t.Fatal(err)
	}
	if writes != 1 || w.writes["patch *v1alpha1.LoadBalancerIPPool"] != 1 {
		t.Errorf("writes %v", w.writes)
	}
}
