// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cloud-provider/service/helpers"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
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

func TestAddressesSurviveARestart(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"))
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprint("svc", i))
		w.create(testService(names[i]))
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	w.reconcile(names...)
	before := map[string]string{}
	for _, name := range names {
		addrs, _ := shown(w.service(name))
		before[name] = fmt.Sprint(addrs)
	}
	w.writes = map[string]int{}
	w.c = w.controller()
	if err := w.c.fill(w.ctx()); err != nil {
		t.Fatal(err)
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	w.reconcile(names...)
	for _, name := range names {
		addrs, _ := shown(w.service(name))
		if after := fmt.Sprint(addrs); after != before[name] {
			t.Errorf("%s moved from %s to %s", name, before[name], after)
		}
	}
	if len(w.writes) != 0 {
		t.Errorf("a restart wrote %v", w.writes)
	}
}

func TestEverythingIsReadAtTheStart(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("a"), testService("b"), testService("c"))
	w.reconcile("a", "b", "c")
	pages := 0
	w.c = w.controller()
	w.c.live = interceptor.NewClient(w.api, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			pages++
			return listByTwo(ctx, c, list, opts)
		},
	})
	if err := w.c.fill(w.ctx()); err != nil {
		t.Fatal(err)
	}
	if pages != 4 {
		t.Errorf("read %d pages, want 2 of each kind", pages)
	}
	for _, name := range []string{"a", "b", "c"} {
		svc := types.NamespacedName{Namespace: "default", Name: name}
		if len(w.c.ledger.held(svc)) != 1 || w.c.ledger.services[svc] == nil {
			t.Errorf("%s is not known", name)
		}
	}
	if got := w.c.services.Len(); got != 3 {
		t.Errorf("%d Services are looked at, want 3", got)
	}
}

// listByTwo gives two objects a page.
func listByTwo(ctx context.Context, c client.Client, list client.ObjectList, opts []client.ListOption) error {
	var asked client.ListOptions
	asked.ApplyOptions(opts)
	if err := c.List(ctx, list); err != nil {
		return err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return err
	}
	if asked.Continue == "" && asked.Limit > 0 && len(items) > 2 {
		list.SetContinue("the rest")
		return meta.SetList(list, items[:2])
	}
	if asked.Continue != "" {
		items = items[2:]
	}
	return meta.SetList(list, items)
}

func TestDeletedWhileTheControllerWasDown(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web"), testService("gone"))
	w.reconcile("web", "gone")
	// Somebody took the finalizer off, so the Service went without us.
	w.edit("gone", func(svc *corev1.Service) { svc.Finalizers = nil })
	if err := w.api.Delete(w.ctx(), w.service("gone")); err != nil {
		t.Fatal(err)
	}
	w.c = w.controller()
	if err := w.c.fill(w.ctx()); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	for _, ip := range w.addresses() {
		if held := len(ip.Spec.Services) > 0; held != (ip.Name == "192.0.2.0") {
			t.Errorf("%s held: %v", ip.Name, held)
		}
	}
}

func TestDeletedObjectIsMadeAgain(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("first"), testService("web"))
	w.reconcile("first", "web")
	w.shows("web", "192.0.2.1")
	ip := w.addresses()[1]
	if err := w.api.Delete(w.ctx(), &ip); err != nil {
		t.Fatal(err)
	}
	w.c.ledger.forget(&ip)
	w.reconcile("web")
	w.shows("web", "192.0.2.1")
	if ips := w.addresses(); len(ips) != 2 || len(ips[1].Spec.Services) != 1 {
		t.Errorf("objects %v", ips)
	}
}

func TestDeletedObjectsAddressIsGivenToNobodyElse(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			w := newWorld(t, testPool("lan", "192.0.2.1-192.0.2.3"), testService("web"), testService("gone"),
				testService("http", sharing("k", 80)), testService("https", sharing("k", 443)))
			w.reconcile("web", "gone", "http", "https")
			w.create(testService("a-waits"), testService("b-waits", asking("192.0.2.1")), testService("c-waits", sharing("k", 443)))
			w.reconcile("a-waits", "b-waits", "c-waits")
			w.told()

			w.edit("gone", func(svc *corev1.Service) { svc.Finalizers = nil })
			if err := w.api.Delete(w.ctx(), w.service("gone")); err != nil {
				t.Fatal(err)
			}
			deleted := w.addresses()
			for _, ip := range deleted {
				if err := w.api.Delete(w.ctx(), &ip); err != nil {
					t.Fatal(err)
				}
			}
			if restart {
				w.c = w.controller()
				if err := w.c.fill(w.ctx()); err != nil {
					t.Fatal(err)
				}
			} else {
				for _, ip := range deleted {
					w.c.ledger.forget(&ip)
				}
			}
			// Whatever their order: those who wait may come first.
			w.reconcile("c-waits", "b-waits", "a-waits", "gone", "https", "web", "http")
			w.shows("web", "192.0.2.1")
			w.shows("http", "192.0.2.3")
			w.shows("https", "192.0.2.3")
			w.refused("b-waits", ipam.AddressInUse)
			first, _ := shown(w.service("a-waits"))
			second, _ := shown(w.service("c-waits"))
			if got := fmt.Sprint(append(first, second...)); got != "[192.0.2.2]" {
				t.Errorf("those who wait got %s, want what belonged to the Service that is gone", got)
			}
			if n := len(w.c.ledger.lost); n != 0 {
				t.Errorf("%d addresses are still lost", n)
			}
			var holders []string
			for _, ip := range w.addresses() {
				holders = append(holders, ip.Name+" "+ip.Spec.Pool+" "+ip.Spec.Holder)
			}
			if len(holders) != 3 || holders[0] != "192.0.2.1 lan default/web" || !strings.HasSuffix(holders[2], "+1") {
				t.Errorf("holders %q", holders)
			}
		})
	}
}

func TestStatusAloneGivesNoAddressOfANode(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for addr, adopted := range map[string]bool{"198.51.100.1": true, "192.0.2.200": false, "127.0.0.1": false} {
			node := testNode("n1")
			node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.200"}}
			w := newWorld(t, testPool("lan", "192.0.2.0/28"), node, testService("web"))
			w.edit("web", func(svc *corev1.Service) {
				svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr}}
				setCondition(svc, metav1.Condition{Type: v1alpha1.ServiceAnnounced, Status: metav1.ConditionTrue, Reason: ReasonAnnounced}, metav1.Now())
			})
			if restart {
				if err := w.c.fill(w.ctx()); err != nil {
					t.Fatal(err)
				}
			}
			w.reconcile("web")
			if adopted {
				w.shows("web", addr)
			} else {
				w.shows("web", "192.0.2.0")
			}
		}
	}
}

func TestBindingThatWasEnteredTwiceIsOne(t *testing.T) {
	for _, first := range []bool{false, true} {
		w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web"))
		w.reconcile("web")
		ip := w.addresses()[0]
		twin := ip.Spec.Services[0]
		twin.UID = "twin"
		if ip.Spec.SharingKey = "k"; first {
			ip.Spec.Services = append([]v1alpha1.ServiceBinding{twin}, ip.Spec.Services...)
		} else {
			ip.Spec.Services = append(ip.Spec.Services, twin)
		}
		if err := w.api.Update(w.ctx(), &ip); err != nil {
			t.Fatal(err)
		}
		w.sync()
		w.reconcile("web")
		w.shows("web", "192.0.2.0")
		if got := w.addresses()[0].Spec.Services; len(got) != 1 || got[0].UID != "uid-web" {
			t.Errorf("twin first %v: held by %v", first, got)
		}
	}
}

func TestRestoredServiceIsBoundAnew(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web"))
	w.reconcile("web")
	w.edit("web", func(svc *corev1.Service) { svc.Finalizers = nil })
	if err := w.api.Delete(w.ctx(), w.service("web")); err != nil {
		t.Fatal(err)
	}
	w.create(testService("web", func(svc *corev1.Service) { svc.UID = "restored" }))
	w.reconcile("web")
	w.shows("web", "192.0.2.0")
	if uid := w.addresses()[0].Spec.Services[0].UID; uid != "restored" {
		t.Errorf("bound to %s", uid)
	}
}

func TestRestoredServicesShareAgain(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web", sharing("k", 80)), testService("dns", sharing("k", 53)))
	w.reconcile("web", "dns")
	w.c = w.controller()
	for _, name := range []string{"web", "dns"} {
		w.edit(name, func(svc *corev1.Service) { svc.Finalizers = nil })
		restored := w.service(name)
		if err := w.api.Delete(w.ctx(), w.service(name)); err != nil {
			t.Fatal(err)
		}
		restored.UID, restored.ResourceVersion, restored.Status = types.UID("restored-"+name), "", corev1.ServiceStatus{}
		w.create(restored)
	}
	if err := w.c.fill(w.ctx()); err != nil {
		t.Fatal(err)
	}
	// Each has to be bound again while the other is still bound as it was.
	for _, name := range []string{"web", "dns"} {
		req := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: name}}
		if _, err := w.c.reconcileService(w.ctx(), req); err != nil {
			t.Fatal(err)
		}
		w.shows(name, "192.0.2.0")
	}
}

func TestEditWhileTheControllerWasDownMovesTheLaterOfTwoThatShare(t *testing.T) {
	for _, order := range [][]string{{"first", "second"}, {"second", "first"}} {
		w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("first", sharing("k", 80)), testService("second", sharing("k", 443)))
		w.reconcile("first", "second")
		w.shows("second", "192.0.2.0")
		w.edit("second", func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
		w.c = w.controller()
		w.sync()
		if err := w.c.fill(w.ctx()); err != nil {
			t.Fatal(err)
		}
		w.reconcile(order...)
		w.shows("first", "192.0.2.0")
		w.shows("second", "192.0.2.1")
	}
}

func TestAnotherControllersBindingIsBelieved(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("first"), testService("web"))
	w.reconcile("first", "web")
	w.shows("web", "192.0.2.1")
	// This one has seen the Service before any of the addresses.
	w.c, w.writes = w.controller(), map[string]int{}
	if _, err := w.c.readPools(w.ctx()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.readNodes(w.ctx()); err != nil {
		t.Fatal(err)
	}
	w.reconcile("web")
	w.shows("web", "192.0.2.1")
	if len(w.writes) != 0 {
		t.Errorf("writes %v", w.writes)
	}
}

func TestAnotherControllersBindingIsBelievedDuringAWrite(t *testing.T) {
	synctest.Test(t, anotherControllersBindingIsBelievedDuringAWrite)
}

func anotherControllersBindingIsBelievedDuringAWrite(t *testing.T) {
	w := newWorld(t, testService("web"), testService("waits"))
	w.reconcile("web", "waits")
	w.shows("web")
	w.create(testPool("lan", "192.0.2.0"))
	first := w.c
	w.c = w.controller()
	w.sync()
	w.reconcile("web")
	w.shows("web", "192.0.2.0")
	// The first believed the address to be free and is giving it to the other.
	w.c = first
	w.sync()
	bound := w.addresses()[0]
	late := &write{object: bound.DeepCopy(), done: make(chan struct{})}
	late.object.Spec.Services[0].ServiceName.Name, late.object.Spec.Services[0].UID = "waits", "uid-waits"
	addr := netip.MustParseAddr(bound.Spec.Address)
	w.c.ledger.mu.Lock()
	w.c.ledger.intendLocked(addr, late)
	w.c.ledger.mu.Unlock()
	done := make(chan error)
	go func() {
		_, err := w.c.reconcileService(w.ctx(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: "web"}})
		done <- err
	}()
	synctest.Wait()
	w.shows("web", "192.0.2.0")
	w.c.ledger.settle(addr, late, &bound)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.shows("web", "192.0.2.0")
}

func TestSurplusIsReleasedAfterAWriteOfTheService(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web"))
	w.reconcile("web")
	extra := w.addresses()[0].DeepCopy()
	extra.ObjectMeta = metav1.ObjectMeta{Name: "192.0.2.9"}
	extra.Spec.Address = "192.0.2.9"
	w.create(extra)
	w.sync()
	w.writes = map[string]int{}
	w.reconcile("web")
	w.shows("web", "192.0.2.0")
	for _, ip := range w.addresses() {
		if held := len(ip.Spec.Services) > 0; held != (ip.Name == "192.0.2.0") {
			t.Errorf("%s is held: %v", ip.Name, held)
		}
	}
	if w.writes["patch *v1.Service"] == 0 || w.writes["update *v1alpha1.LoadBalancerIP"] != 1 {
		t.Errorf("writes %v: a write of the Service finds out whether it changed", w.writes)
	}
	w.reconcile("web")
	if message := condition(w.service("web"), v1alpha1.ServiceAnnounced).Message; strings.Contains(message, "given up") {
		t.Errorf("it still says %q", message)
	}
}

// Two controllers that both believe they lead, with watches that lag: the API
// server keeps an address from having two holders, and both come to agree.
func TestTwoControllers(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t, testPool("lan", "192.0.2.0/29"))
			two := []*Controller{w.c, w.controller()}
			if err := two[1].fill(w.ctx()); err != nil {
				t.Fatal(err)
			}
			deletions := []map[string]v1alpha1.LoadBalancerIP{{}, {}}
			lagging := func(i int) {
				for _, ip := range w.addresses() {
					if rnd.IntN(2) == 0 {
						two[i].ledger.observe(&ip)
						deletions[i][ip.Name] = ip
					}
				}
			}
			alive := map[string]bool{}
			for step := range 200 {
				name := fmt.Sprint("svc", rnd.IntN(10))
				switch {
				case rnd.IntN(3) > 0:
				case alive[name]:
					if err := w.api.Delete(w.ctx(), w.service(name)); err != nil {
						t.Fatal(err)
					}
					alive[name] = false
				case apierrors.IsNotFound(w.api.Get(w.ctx(), types.NamespacedName{Namespace: "default", Name: name}, &corev1.Service{})):
					w.create(testService(name, func(svc *corev1.Service) { svc.UID = types.UID(fmt.Sprint(name, "-", step)) }))
					alive[name] = true
				}
				i := rnd.IntN(2)
				w.c = two[i]
				lagging(i)
				w.reconcile(name)
				w.checkHolders()
			}
			// The watches catch up, in turn, until nobody has anything to do.
			for range 6 {
				for i := range two {
					w.c = two[i]
					stored := map[string]bool{}
					for _, ip := range w.addresses() {
						stored[ip.Name] = true
						w.c.ledger.observe(&ip)
					}
					for name, ip := range deletions[i] {
						if !stored[name] {
							w.c.ledger.forget(&ip)
						}
					}
					for n := range 10 {
						w.reconcile(fmt.Sprint("svc", n))
					}
				}
			}
			w.checkSettled(8)
		})
	}
}

func TestPlacement(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testNode("n2"))
	for i := range 8 {
		w.create(testService(fmt.Sprint("svc", i)))
		w.reconcile(fmt.Sprint("svc", i))
	}
	owners := map[string][]string{}
	for _, ip := range w.addresses() {
		owners[ip.Spec.Owner] = append(owners[ip.Spec.Owner], ip.Name)
	}
	if len(owners["n1"]) != 4 || len(owners["n2"]) != 4 {
		t.Fatalf("owners %v", owners)
	}
	if err := w.api.Delete(w.ctx(), testNode("n1")); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.writes = map[string]int{}
	for _, ip := range w.addresses() {
		if _, err := w.c.reconcileAddress(w.ctx(), request(ip.Name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, ip := range w.addresses() {
		if ip.Spec.Owner != "n2" {
			t.Errorf("%s is proposed for %q", ip.Name, ip.Spec.Owner)
		}
	}
	if w.writes["update *v1alpha1.LoadBalancerIP"] != 4 {
		t.Errorf("writes %v: only the lost node's addresses move", w.writes)
	}
}

// A Local Service's first endpoint may show up while its address is being
// written, and the events of both may be handled before the API server's answer.
func TestPlacementWaitsForAWriteInFlight(t *testing.T) {
	synctest.Test(t, placementWaitsForAWriteInFlight)
}

func placementWaitsForAWriteInFlight(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testService("web", func(svc *corev1.Service) {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}))
	w.reconcile("web")
	ip := w.addresses()[0]
	if ip.Spec.Owner != "" {
		t.Fatalf("%s is proposed without an endpoint", ip.Spec.Owner)
	}
	addr := netip.MustParseAddr(ip.Spec.Address)
	inFlight := &write{object: ip.DeepCopy(), done: make(chan struct{})}
	w.c.ledger.mu.Lock()
	w.c.ledger.intendLocked(addr, inFlight)
	w.c.ledger.mu.Unlock()
	node := "n1"
	w.create(&discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node}},
	})
	placed := make(chan error)
	go func() {
		_, err := w.c.reconcileAddress(w.ctx(), request(ip.Name))
		placed <- err
	}()
	synctest.Wait()
	w.c.ledger.settle(addr, inFlight, nil)
	if err := <-placed; err != nil {
		t.Fatal(err)
	}
	if owner := w.addresses()[0].Spec.Owner; owner != "n1" {
		t.Errorf("proposed is %q", owner)
	}
}

func TestPlacementFollowsThePolicy(t *testing.T) {
	node := "n2"
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testNode("n1"), testNode(node), testService("web"), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node}},
	})
	w.reconcile("web")
	if owner := w.addresses()[0].Spec.Owner; owner != "n1" {
		t.Fatalf("proposed is %q", owner)
	}
	w.edit("web", func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	w.reconcile("web")
	for w.c.addresses.Len() > 0 {
		req, _ := w.c.addresses.Get()
		if _, err := w.c.reconcileAddress(w.ctx(), req); err != nil {
			t.Fatal(err)
		}
		w.c.addresses.Done(req)
	}
	if owner := w.addresses()[0].Spec.Owner; owner != node {
		t.Errorf("proposed is %q", owner)
	}
}

// The events of a write and of a deletion after it may be handled before the
// API server's answer to the write.
func TestADeletionBeforeTheAnswerHeals(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web"))
	deleted := false
	w.c.client = interceptor.NewClient(w.c.client.(client.WithWatch), interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			obj.SetUID(types.UID(fmt.Sprint("uid ", deleted)))
			if err := c.Create(ctx, obj, opts...); err != nil || deleted {
				return err
			}
			deleted = true
			if err := w.api.Delete(ctx, obj); err != nil {
				return err
			}
			events := w.c.addressEvents()
			events.AddFunc(obj.DeepCopyObject())
			events.DeleteFunc(obj.DeepCopyObject())
			return nil
		},
	})
	w.reconcile("web")
	if !deleted || len(w.addresses()) != 1 {
		t.Errorf("%d addresses", len(w.addresses()))
	}
	w.shows("web", "192.0.2.0")
}

// Between the reading of all and the first event a deletion has no event.
func TestADeletionDuringTheStartHeals(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web"))
	w.reconcile("web")
	w.c = w.controller()
	if err := w.c.fill(w.ctx()); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	ip := w.addresses()[0]
	if err := w.api.Delete(w.ctx(), &ip); err != nil {
		t.Fatal(err)
	}
	if err := w.c.catchUp(w.ctx()); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	if len(w.addresses()) != 1 {
		t.Error("the address was not bound again")
	}
}

// Somebody may delete the object of an address while one of the Services on it
// changes. The others are bound again, too.
func TestADeletionFoundByAWriteHealsAll(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web", sharing("k", 80)), testService("dns", sharing("k", 53)))
	w.reconcile("web", "dns")
	ip := w.addresses()[0]
	if err := w.api.Delete(w.ctx(), &ip); err != nil {
		t.Fatal(err)
	}
	w.edit("web", func(svc *corev1.Service) { svc.Spec.Ports[0].Port = 8080 })
	w.reconcile("web")
	if ips := w.addresses(); len(ips) != 1 || len(ips[0].Spec.Services) != 2 {
		t.Errorf("bound is %+v", ips)
	}
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
	want := map[string]metav1.ConditionStatus{v1alpha1.PoolReady: "False", v1alpha1.PoolOverlaps: "True", v1alpha1.PoolExhausted: "True"}
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
