// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

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
