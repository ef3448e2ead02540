// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// look reconciles the Service once, whatever it asks to come back for.
func (w *world) look(name string) time.Duration {
	w.t.Helper()
	result, err := w.c.reconcileService(w.ctx(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: name}})
	if err != nil {
		w.t.Fatal(err)
	}
	return result.RequeueAfter
}

// overwrite has another client show an address, or nothing, in the Service.
func (w *world) overwrite(name, writer, addr string) {
	w.t.Helper()
	svc := w.service(name)
	svc.Status.LoadBalancer.Ingress = nil
	delete(w.writers, name)
	if addr != "" {
		w.writers[name] = writer
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr}}
	}
	if err := w.api.Status().Update(w.ctx(), svc); err != nil {
		w.t.Fatal(err)
	}
}

func TestAnotherWriterOfTheStatus(t *testing.T) {
	settled := func(t *testing.T) *world {
		w := newWorld(t, testPool("lan", "192.0.2.0/29"), testService("web"))
		w.reconcile("web")
		w.shows("web", "192.0.2.0")
		w.told()
		return w
	}
	allocated := func(w *world) metav1.Condition { return condition(w.service("web"), v1alpha1.ServiceAllocated) }

	t.Run("is corrected at once, and no more is made of a slip", func(t *testing.T) {
		w := settled(t)
		for range 2 {
			w.overwrite("web", "kubectl-edit", "198.51.100.1")
			w.look("web")
			w.shows("web", "192.0.2.0")
		}
		if cond := allocated(w); cond.Reason != ReasonAllocated {
			t.Errorf("condition %+v", cond)
		}
		if told := w.told(); len(told) != 0 {
			t.Errorf("events %q", told)
		}
	})

	t.Run("that goes on is named, answered less and less often, and forgotten when it ends", func(t *testing.T) {
		w := settled(t)
		patches := w.writes["patch *v1.Service"]
		// It writes whenever it is corrected, for ten minutes.
		end := w.now.Add(10 * time.Minute)
		for w.now.Before(end) {
			if got, _ := shown(w.service("web")); got[0].String() == "192.0.2.0" {
				w.overwrite("web", "rogue-lb", "198.51.100.1")
			}
			w.look("web")
			w.now = w.now.Add(500 * time.Millisecond)
		}
		// 2 slips, then after 1 s, 2 s, 4 s … 256 s.
		if n := w.writes["patch *v1.Service"] - patches; n < 8 || n > 12 {
			t.Errorf("%d writes in ten minutes", n)
		}
		cond := allocated(w)
		if cond.Status != metav1.ConditionTrue || cond.Reason != ReasonStatusContested || !strings.Contains(cond.Message, "rogue-lb keeps changing") {
			t.Errorf("condition %+v", cond)
		}
		if told := w.told(); len(told) != 1 || !strings.HasPrefix(told[0], "Warning StatusContested") {
			t.Errorf("events %q", told)
		}
		if addrs := w.addresses(); len(addrs) != 1 || addrs[0].Name != "192.0.2.0" {
			t.Errorf("addresses %v", addrs)
		}
		// It is quiet now.
		end = w.now.Add(20 * time.Minute)
		for wait := w.look("web"); w.now.Before(end); wait = w.look("web") {
			if wait == 0 {
				break
			}
			w.now = w.now.Add(wait)
		}
		w.shows("web", "192.0.2.0")
		if cond := allocated(w); cond.Reason != ReasonAllocated {
			t.Errorf("condition %+v at %s", cond, w.now)
		}
		if wait := w.look("web"); wait != 0 {
			t.Errorf("comes back after %s", wait)
		}
	})

	t.Run("that clears it can't be named, and is answered no more often", func(t *testing.T) {
		w := settled(t)
		for range 4 {
			w.overwrite("web", "rogue-lb", "")
			for wait := w.look("web"); wait > 0 && wait < contestRest/2; wait = w.look("web") {
				w.now = w.now.Add(wait)
			}
		}
		w.shows("web", "192.0.2.0")
		if cond := allocated(w); cond.Reason != ReasonStatusContested || !strings.Contains(cond.Message, "another client keeps changing") {
			t.Errorf("condition %+v", cond)
		}
	})

	t.Run("is seen by a controller that never wrote the Service itself", func(t *testing.T) {
		w := settled(t)
		w.c = w.controller()
		w.sync()
		if err := w.c.fill(w.ctx()); err != nil {
			t.Fatal(err)
		}
		w.look("web")
		for range 3 {
			w.overwrite("web", "rogue-lb", "198.51.100.1")
			w.look("web")
		}
		w.now = w.now.Add(time.Second)
		w.look("web")
		w.shows("web", "192.0.2.0")
		if cond := allocated(w); cond.Reason != ReasonStatusContested {
			t.Errorf("condition %+v", cond)
		}
	})

	t.Run("that is another replica of ours is no contest", func(t *testing.T) {
		w := settled(t)
		for range 5 {
			w.overwrite("web", fieldOwner, "192.0.2.1")
			w.look("web")
			w.shows("web", "192.0.2.0")
		}
		if cond := allocated(w); cond.Reason != ReasonAllocated {
			t.Errorf("condition %+v", cond)
		}
	})

	t.Run("does not make us hold or give away its address", func(t *testing.T) {
		w := newWorld(t, testPool("lan", "192.0.2.0/29"), testService("web", dual(corev1.IPFamilyPolicyPreferDualStack)), testService("other"))
		w.reconcile("web")
		w.shows("web", "192.0.2.0")
		w.overwrite("web", "rogue-lb", "2001:db8::1")
		w.reconcile("web")
		w.shows("web", "192.0.2.0")
		w.overwrite("web", "rogue-lb", "192.0.2.1")
		for range 2 {
			w.overwrite("web", "rogue-lb", "192.0.2.1")
			w.look("web")
		}
		w.overwrite("web", "rogue-lb", "192.0.2.1")
		w.look("web") // the contest is on: the address stands there
		w.reconcile("other")
		w.shows("other", "192.0.2.2")
	})
}

func TestStatusWriter(t *testing.T) {
	at := func(s int) *metav1.Time { return new(metav1.Unix(int64(s), 0)) }
	entry := func(manager string, when *metav1.Time, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Time: when, Subresource: "status", FieldsV1: metav1.NewFieldsV1(fields)}
	}
	const ingress = `{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`
	for name, tc := range map[string]struct {
		managers []metav1.ManagedFieldsEntry
		want     string
	}{
		"nobody":                                         {},
		"the one that owns it":                           {[]metav1.ManagedFieldsEntry{entry("a", at(2), `{"f:status":{"f:conditions":{}}}`), entry("b", at(1), ingress)}, "b"},
		"the later of two":                               {[]metav1.ManagedFieldsEntry{entry("a", at(2), ingress), entry("b", at(1), ingress)}, "a"},
		"the other of two in one second":                 {[]metav1.ManagedFieldsEntry{entry(fieldOwner, at(1), ingress), entry("b", at(1), ingress)}, "b"},
		"the other of two in one second, the first":      {[]metav1.ManagedFieldsEntry{entry("b", at(1), ingress), entry(fieldOwner, at(1), ingress)}, "b"},
		"one without a time":                             {[]metav1.ManagedFieldsEntry{entry("b", nil, ingress)}, "b"},
		"nobody, of what can't be read":                  {[]metav1.ManagedFieldsEntry{entry("b", at(1), `[`), {Manager: "c"}}, ""},
		"nobody, of a Service whose spec alone is owned": {[]metav1.ManagedFieldsEntry{entry("b", at(1), `{"f:spec":{"f:ports":{}}}`)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := statusWriter(tc.managers); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}
