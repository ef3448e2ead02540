// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// tried returns the Services that are in line to be tried, and empties it.
func (w *world) tried() []string {
	w.t.Helper()
	for w.c.config.Len() > 0 {
		req, _ := w.c.config.Get()
		if _, err := w.c.reconcileConfig(w.ctx(), req); err != nil {
			w.t.Fatal(err)
		}
		w.c.config.Done(req)
	}
	var names []string
	for w.c.services.Len() > 0 {
		req, _ := w.c.services.Get()
		names = append(names, req.Name)
		w.c.services.Done(req)
		w.c.services.Forget(req)
	}
	slices.Sort(names)
	return names
}

// waitingWorld makes a world in which so many Services wait for an address of a
// pool that "first" and "second" have used up.
func waitingWorld(t *testing.T, n int) *world {
	w := newWorld(t, testPool("lan", "192.0.2.0/31"), testService("first"), testService("second"))
	w.reconcile("first", "second")
	for i := range n {
		name := fmt.Sprintf("wait-%03d", i)
		w.create(testService(name))
		w.look(name)
	}
	if got := w.c.ledger.countWaiting(); got != n {
		t.Fatalf("%d wait", got)
	}
	w.tried()
	return w
}

func TestWhoIsTriedAgain(t *testing.T) {
	t.Run("of those who wait for a freed address, the one who waits longest", func(t *testing.T) {
		w := waitingWorld(t, 100)
		if err := w.api.Delete(w.ctx(), w.service("second")); err != nil {
			t.Fatal(err)
		}
		w.look("second") // takes the finalizer off
		w.look("second")
		if got := w.tried(); !slices.Equal(got, []string{"wait-000"}) {
			t.Errorf("tried %v", got)
		}
		w.c.wake()
		if got := w.tried(); len(got) != 0 {
			t.Errorf("tried %v before the first had its turn", got)
		}
		// It gets the address, and that is all that there was.
		w.look("wait-000")
		w.shows("wait-000", "192.0.2.1")
		if got := w.tried(); len(got) != 0 {
			t.Errorf("tried %v", got)
		}
	})

	t.Run("those whom a new pool admits, and no others", func(t *testing.T) {
		w := waitingWorld(t, 10)
		other := testPool("other", "198.51.100.0/24")
		other.Spec.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"never": "there"}}
		w.create(other)
		w.editedPools()
		if got := w.tried(); len(got) != 0 {
			t.Errorf("tried %v for a pool that admits none", got)
		}
		w.create(testPool("more", "192.0.2.4/31"))
		w.editedPools()
		if got := w.tried(); len(got) != 10 {
			t.Errorf("tried %v", got)
		}
	})

	t.Run("those who wait longest first, for what a pool gains", func(t *testing.T) {
		w := waitingWorld(t, 50)
		w.create(testPool("more", "192.0.2.4/31"))
		w.editedPools()
		w.reconcile()
		w.shows("wait-000", "192.0.2.4")
		w.shows("wait-001", "192.0.2.5")
	})

	t.Run("who asks for the address of a foreign Service, when that goes", func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web", asking("192.0.2.5")), testService("theirs", func(svc *corev1.Service) {
			class := "example.com/other"
			svc.Spec.LoadBalancerClass = &class
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.5"}}
		}))
		w.reconcile("theirs", "web")
		w.refused("web", ipam.ForeignAddress)
		if err := w.api.Delete(w.ctx(), w.service("theirs")); err != nil {
			t.Fatal(err)
		}
		w.reconcile("theirs")
		w.shows("web", "192.0.2.5")
	})

	t.Run("nobody, after a change that is of no use", func(t *testing.T) {
		w := waitingWorld(t, 3)
		w.create(testService("asking", asking("192.0.2.0")), testService("six", func(svc *corev1.Service) {
			svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
		}))
		w.look("asking")
		w.look("six")
		w.tried()
		w.c.wake()
		if got := w.tried(); len(got) != 0 {
			t.Errorf("tried %v", got)
		}
	})

	t.Run("who asks by number, when others come to be on that address", func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("holder", sharing("k", 80)), testService("web", asking("192.0.2.0")))
		w.reconcile("holder", "web")
		w.refused("web", ipam.AddressInUse)
		w.create(testService("third", sharing("k", 443)))
		w.reconcile("third")
		if cond := condition(w.service("web"), v1alpha1.ServiceAllocated); cond.Reason != string(ipam.AddressInUse) || !strings.Contains(cond.Message, "default/third") {
			t.Errorf("condition %+v", cond)
		}
	})

	t.Run("whom an address is reserved for", func(t *testing.T) {
		w := waitingWorld(t, 5)
		ip := &v1alpha1.LoadBalancerIP{
			ObjectMeta: metav1.ObjectMeta{Name: "203.0.113.1"},
			Spec:       v1alpha1.LoadBalancerIPSpec{Address: "203.0.113.1", ReservedFor: &v1alpha1.Reservation{Namespace: "default", Name: "wait-003"}},
		}
		w.create(ip)
		before, _ := w.c.ledger.observe(ip)
		w.c.spread(before, ip)
		if got := w.tried(); !slices.Equal(got, []string{"wait-003"}) {
			t.Errorf("tried %v", got)
		}
	})

	t.Run("the next, when another took what one was tried for", func(t *testing.T) {
		w := waitingWorld(t, 2)
		if err := w.api.Delete(w.ctx(), w.service("second")); err != nil {
			t.Fatal(err)
		}
		w.look("second")
		w.look("second")
		if got := w.tried(); !slices.Equal(got, []string{"wait-000"}) {
			t.Fatalf("tried %v", got)
		}
		w.create(testService("quick"))
		w.look("quick")
		w.shows("quick", "192.0.2.1")
		w.look("wait-000")
		w.refused("wait-000", ipam.PoolExhausted)
		// Nothing says that there is nothing left, so it is looked for once more.
		if got := w.c.ledger.waiting.byName[types.NamespacedName{Namespace: "default", Name: "wait-000"}]; got == nil || got.woken {
			t.Errorf("waiter %+v", got)
		}
	})
}

func TestLastRefusedIsNotForgotten(t *testing.T) {
	// What is freed between the decision and its being told is not missed.
	w := newWorld(t, testPool("lan", "192.0.2.0/32"), testService("first"), testService("web"))
	w.reconcile("first")
	want := w.c.words.read(w.service("web"))
	if d := w.c.decide(w.ctx(), w.service("web"), want, nil, nil); len(d.Refusals) != 1 {
		t.Fatalf("%+v", d)
	}
	if err := w.api.Delete(w.ctx(), w.service("first")); err != nil {
		t.Fatal(err)
	}
	w.look("first")
	w.look("first")
	if got := w.tried(); !slices.Equal(got, []string{"web"}) {
		t.Errorf("tried %v", got)
	}
}

func TestWhoLeftIsForgotten(t *testing.T) {
	w := newWaiting()
	for i := range 10000 {
		name := types.NamespacedName{Name: fmt.Sprint(i)}
		w.set(&waiter{name: name, request: ipam.Request{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}})
		w.drop(name)
	}
	if len(w.byName) != 0 || len(w.asking) != 0 || len(w.order) > 2*wakeAtOnce {
		t.Errorf("remembers %d names, %d addresses and %d places", len(w.byName), len(w.asking), len(w.order))
	}
}

// An edit that comes between the reading of a Service's pools and the decision
// is not missed either. What the config worker does with it takes the lock.
func TestAnEditDuringADecisionIsNotMissed(t *testing.T) {
	pool := testPool("lan", "192.0.2.0/28")
	pool.Spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"lb": "yes"}}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	w := newWorld(t, pool, ns, testService("web"))
	var later func()
	w.c.client = interceptor.NewClient(w.c.client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			err := c.Get(ctx, key, obj, opts...)
			if _, ok := obj.(*corev1.Namespace); !ok || later != nil {
				return err
			}
			ns.Labels = map[string]string{"lb": "yes"}
			if err := w.api.Update(ctx, ns); err != nil {
				t.Error(err)
			}
			later = func() { w.c.wakeNamespace("default") }
			if w.c.ledger.mu.TryLock() {
				w.c.ledger.mu.Unlock()
				later()
				later = func() {}
			}
			return err
		},
	})
	w.look("web")
	later()
	w.reconcile()
	w.shows("web", "192.0.2.0")
}

// A write that fails takes nothing from those who were refused because of it.
func TestAFailedWriteIsOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/32"), testService("first"), testService("web"))
		failed := false
		w.c.client = interceptor.NewClient(w.c.client.(client.WithWatch), interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
				if failed {
					return c.Create(ctx, obj, opts...)
				}
				failed = true
				w.look("web")
				return errors.New("no connection")
			},
		})
		name := types.NamespacedName{Namespace: "default", Name: "first"}
		if _, err := w.c.reconcileService(w.ctx(), reconcile.Request{NamespacedName: name}); err == nil {
			t.Fatal("no error")
		}
		w.refused("web", ipam.PoolExhausted)
		if err := w.api.Delete(w.ctx(), w.service("first")); err != nil {
			t.Fatal(err)
		}
		w.look("first")
		time.Sleep(wakeAgainAfter)
		synctest.Wait()
		w.reconcile()
		w.shows("web", "192.0.2.0")
	})
}

// Whoever is tried again gets something, whoever is not would have got
// nothing, and trying changes nothing by itself.
func TestTrialIsTrue(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		alloc, waiting := ipam.New(), newWaiting()
		pools := []ipam.Pool{
			{Name: "a", AutoAssign: true, MaxPerNamespace: r.IntN(4)},
			{Name: "b", AutoAssign: r.IntN(2) == 0, Priority: 1},
		}
		for i := range pools {
			for _, text := range []string{"192.0.2.0/29", "192.0.2.4-192.0.2.12", "2001:db8::/126"} {
				if rng, err := ipam.ParseRange(text); err == nil && r.IntN(2) == 0 {
					pools[i].Ranges = append(pools[i].Ranges, rng)
				}
			}
		}
		alloc.SetPools(pools)
		request := func(i int) ipam.Request {
			req := ipam.Request{
				Service:  ipam.ServiceRef{Namespace: []string{"n", "m"}[r.IntN(2)], Name: fmt.Sprint(i), UID: fmt.Sprint(i)},
				Families: [][]ipam.Family{{ipam.IPv4}, {ipam.IPv6}, {ipam.IPv4, ipam.IPv6}}[r.IntN(3)],
				Pools:    []string{"a", "b"},
				Ports:    []ipam.Port{{Protocol: ipam.TCP, Number: uint16(r.IntN(2))}},
			}
			switch r.IntN(4) {
			case 0:
				req.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(16))})}
			case 1:
				req.SharingKey = "k"
			case 2:
				req.PoolNamed = "b"
			}
			return req
		}
		for i := range r.IntN(20) {
			(&trial{alloc: alloc}).serve(&waiter{request: request(i), partial: true})
		}
		for i := range 12 {
			req := request(100 + i)
			w := &waiter{name: types.NamespacedName{Namespace: req.Service.Namespace, Name: req.Service.Name}, request: req, partial: r.IntN(2) == 0}
			waiting.set(w)
		}
		before := states(alloc)
		names := waiting.wake(alloc, 100)
		if after := states(alloc); !reflect.DeepEqual(before, after) {
			t.Fatalf("seed %d: a trial changed %v to %v", seed, before, after)
		}
		// Played for real and in order, the same ones are served.
		for _, w := range waiting.order {
			served := (&trial{alloc: alloc}).serve(w)
			if want := slices.Contains(names, w.name); served != want {
				t.Fatalf("seed %d: %s served %v, tried %v", seed, w.name, served, want)
			}
		}
	}
}

// states are all holdings and counts that there are.
func states(alloc *ipam.Allocator) map[string]any {
	all := map[string]any{}
	for i := range 16 {
		for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i))} {
			if h, ok := alloc.Get(addr); ok {
				all[addr.String()] = h
			}
		}
	}
	for _, pool := range []string{"a", "b"} {
		stats, _ := alloc.Stats(pool)
		all[pool] = fmt.Sprint(stats)
	}
	return all
}

func BenchmarkWake(b *testing.B) {
	alloc, waiting := ipam.New(), newWaiting()
	alloc.SetPools([]ipam.Pool{{Name: "lan", AutoAssign: true}})
	for i := range 5000 {
		name := fmt.Sprint(i)
		waiting.set(&waiter{
			name:    types.NamespacedName{Namespace: "n", Name: name},
			request: ipam.Request{Service: ipam.ServiceRef{Namespace: "n", Name: name}, Families: []ipam.Family{ipam.IPv4}, Pools: []string{"lan"}},
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		if names := waiting.wake(alloc, wakeAtOnce); len(names) != 0 {
			b.Fatal(names)
		}
	}
}
