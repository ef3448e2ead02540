// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// TestWorkIsPerObject counts what an event costs while many Services hold
// addresses: requests to the API server, and Services and addresses that are
// looked at because of it.
func TestWorkIsPerObject(t *testing.T) {
	const many = 100
	pool := testPool("lan", "192.0.2.0/24")
	other := testPool("other", "198.51.100.0/24")
	other.Spec.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"in": "other"}}
	w := newWorld(t, pool, other, testNode("n1"), testNode("n2"))
	// The watch of addresses, which the tests play by hand.
	versions := map[string]string{}
	watch := func() {
		t.Helper()
		events := w.c.addressEvents()
		for _, ip := range w.addresses() {
			if versions[ip.Name] != ip.ResourceVersion {
				versions[ip.Name] = ip.ResourceVersion
				events.UpdateFunc(nil, &ip)
			}
		}
	}
	drain := func(q queue) []string {
		var names []string
		for q.Len() > 0 {
			req, _ := q.Get()
			names = append(names, req.Name)
			q.Done(req)
			q.Forget(req)
		}
		slices.Sort(names)
		return names
	}
	for i := range many {
		name := fmt.Sprintf("svc-%03d", i)
		w.create(testService(name))
		w.reconcile(name)
	}
	watch()
	drain(w.c.services)
	drain(w.c.addresses)
	if got := w.c.ledger.known(); len(got) != many {
		t.Fatalf("%d addresses", len(got))
	}

	edit := func(name string, f func(*v1alpha1.LoadBalancerIPPool)) func() {
		return func() {
			var p v1alpha1.LoadBalancerIPPool
			if err := w.api.Get(w.ctx(), client.ObjectKey{Name: name}, &p); err != nil {
				t.Fatal(err)
			}
			f(&p)
			p.Generation++
			if err := w.api.Update(w.ctx(), &p); err != nil {
				t.Fatal(err)
			}
			w.editedPools()
		}
	}
	for _, tc := range []struct {
		name      string
		event     func()
		writes    map[string]int
		reads     int
		services  []string // looked at after the event has been dealt with
		addresses int
	}{
		{"a Service comes", func() {
			w.create(testService("new"))
			w.reconcile("new")
			// No node claims it here, so it is shown late, after one more look.
		}, map[string]int{"create *v1alpha1.LoadBalancerIP": 1, "patch *v1.Service": 1}, 1, nil, 1},
		{"a Service changes its ports", func() {
			w.edit("svc-007", func(svc *corev1.Service) { svc.Spec.Ports[0].Port = 8080 })
			w.reconcile("svc-007")
			// It is made sure that they are the last.
		}, map[string]int{"update *v1alpha1.LoadBalancerIP": 1}, 1, nil, 1},
		{"a Service is labelled", func() {
			w.edit("svc-007", func(svc *corev1.Service) { svc.Labels = map[string]string{"a": "b"} })
			w.reconcile("svc-007")
		}, nil, 0, nil, 0},
		{"a Service goes", func() {
			if err := w.api.Delete(w.ctx(), w.service("svc-009")); err != nil {
				t.Fatal(err)
			}
			w.reconcile("svc-009")
			w.reconcile("svc-009")
		}, map[string]int{"patch *v1.Service": 1, "update *v1alpha1.LoadBalancerIP": 1}, 0, nil, 1},
		{"a pool grows", edit("lan", func(p *v1alpha1.LoadBalancerIPPool) {
			p.Spec.Addresses = append(p.Spec.Addresses, "203.0.113.0/24")
		}), nil, 0, nil, many + 1},
		{"another pool's selector changes", edit("other", func(p *v1alpha1.LoadBalancerIPPool) {
			p.Spec.ServiceSelector.MatchLabels["in"] = "another"
		}), nil, 0, nil, 0},
		{"a pool is disabled", edit("lan", func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.Disabled = true }), nil, 0, nil, many + 1},
		{"a namespace is labelled", func() {
			w.c.namespaceEvents().UpdateFunc(&corev1.Namespace{}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"a": "b"}}})
		}, nil, 0, nil, 0},
		{"a node says that it is still there", func() {
			before, after := testNode("n1"), testNode("n1")
			after.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(w.now)
			w.c.nodeEvents().UpdateFunc(before, after)
			if w.c.config.Len() > 0 {
				t.Error("the nodes are looked at")
			}
		}, nil, 0, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clear(w.writes)
			w.reads = 0
			tc.event()
			// What it leads to in turn.
			watch()
			addresses := drain(w.c.addresses)
			for _, name := range addresses {
				if _, err := w.c.reconcileAddress(w.ctx(), request(name)); err != nil {
					t.Fatal(err)
				}
			}
			services := slices.DeleteFunc(drain(w.c.services), func(name string) bool { return name == "new" || name == "svc-007" || name == "svc-009" })
			if !maps.Equal(w.writes, tc.writes) || w.reads != tc.reads {
				t.Errorf("wrote %v and read %d times, want %v and %d", w.writes, w.reads, tc.writes, tc.reads)
			}
			if !slices.Equal(services, tc.services) {
				t.Errorf("looked at other Services %v", services)
			}
			if len(addresses) != tc.addresses {
				t.Errorf("looked at %d addresses, want %d", len(addresses), tc.addresses)
			}
		})
	}
}
