// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func TestAnotherControllersBindingIsBelieved(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("first"), testService("web"))
	w.reconcile("first", "web")
	w.shows("web", "192.0.2.1")
	// This one has seen the Service before any of the addresses.
	w.c, w.writes = w.controller(), map[string]int{}
	if _, err := w.c.readPools(w.ctx()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.c.readTerrain(w.ctx()); err != nil {
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

func TestAnOldViewOfAServiceUndoesNothing(t *testing.T) {
	w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web", sharing("old", 80)))
	w.reconcile("web")
	for name, edit := range map[string]func(*corev1.Service){
		"key":   sharing("new", 80),
		"ports": sharing("new", 443),
	} {
		old := w.service("web")
		w.edit("web", edit)
		w.reconcile("web")
		want := w.address("192.0.2.0").Spec
		if _, err := w.c.Allocate(w.ctx(), old, nil); !apierrors.IsConflict(err) {
			t.Errorf("%s: %v, want a conflict", name, err)
		}
		if got := w.address("192.0.2.0").Spec; !equality.Semantic.DeepEqual(got, want) {
			t.Errorf("%s: now %+v, before %+v", name, got, want)
		}
		w.reconcile("web")
		w.shows("web", "192.0.2.0")
	}
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
