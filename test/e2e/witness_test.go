// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// witness has seen every write to a scene's Services and LoadBalancerIPs since it was called. What it tells holds of each
// moment, not only of those at which a spec looks; the last moments may still be on their way to it.
type witness struct {
	scene   *scene
	history *history
	since   time.Time
	before  []change // how it was then
}

// witness has somebody look on until the spec ends.
func (s *scene) witness(ctx context.Context) *witness {
	GinkgoHelper()
	watching, err := client.NewWithWatch(restConfig(), client.Options{Scheme: api.Scheme(), Mapper: api.RESTMapper()})
	Expect(err).NotTo(HaveOccurred())
	w := &witness{scene: s, since: time.Now()}
	for _, ns := range s.namespaces {
		var list corev1.ServiceList
		Expect(api.List(ctx, &list, client.InNamespace(ns))).To(Succeed())
		for i := range list.Items {
			w.before = append(w.before, change{service: &list.Items[i]})
		}
	}
	ips, err := s.ips(ctx)
	Expect(err).NotTo(HaveOccurred())
	for i := range ips {
		w.before = append(w.before, change{ip: &ips[i]})
	}
	w.history, err = record(watching)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		_, err := w.history.stop()
		Expect(err).NotTo(HaveOccurred())
	})
	return w
}

// writes are the changes that it has seen, in their order.
func (w *witness) writes() []change {
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	seen := slices.DeleteFunc(slices.Clone(w.history.changes), func(c change) bool {
		if c.service != nil {
			return !slices.Contains(w.scene.namespaces, c.service.Namespace)
		}
		v4, v6 := w.scene.prefix()
		addr, err := netip.ParseAddr(c.ip.Spec.Address)
		return err != nil || !v4.Contains(addr) && !v6.Contains(addr)
	})
	slices.SortStableFunc(seen, func(a, b change) int { return cmp.Compare(a.version, b.version) })
	return seen
}

// toServices are the writes to Services.
func (w *witness) toServices() []string {
	var out []string
	for _, c := range w.writes() {
		if c.service != nil {
			out = append(out, c.String())
		}
	}
	return out
}

// showings are what a Service has shown, one after the other, each as addresses with a space between them.
func (w *witness) showings(name string) []string {
	var out []string
	for _, c := range append(slices.Clone(w.before), w.writes()...) {
		if c.service != nil && c.service.Namespace == w.scene.namespace && c.service.Name == name && !c.deleted {
			out = append(out, strings.Join(shown(c.service), " "))
		}
	}
	return slices.Compact(out)
}

// claims are the nodes that have claimed an address, one after the other, with their terms.
func (w *witness) claims(addr netip.Addr) []string {
	var out []string
	for _, c := range append(slices.Clone(w.before), w.writes()...) {
		switch {
		case c.ip == nil || c.ip.Spec.Address != addr.String():
		case c.deleted:
			out = append(out, "deleted")
		case c.ip.Status.L2 == nil:
			out = append(out, "nobody")
		default:
			out = append(out, fmt.Sprintf("%s/%d", c.ip.Status.L2.Node, c.ip.Status.L2.Term))
		}
	}
	return slices.Compact(out)
}

// unheld are the moments at which a Service showed an address that was not bound to it.
func (w *witness) unheld() []string {
	services, ips := map[types.UID]*corev1.Service{}, map[string]*v1alpha1.LoadBalancerIP{}
	var out []string
	for _, c := range append(slices.Clone(w.before), w.writes()...) {
		switch {
		case c.service != nil && c.deleted:
			delete(services, c.service.UID)
		case c.service != nil:
			services[c.service.UID] = c.service
		case c.deleted:
			delete(ips, c.ip.Spec.Address)
		default:
			ips[c.ip.Spec.Address] = c.ip
		}
		if c.version == 0 {
			continue // half of how it was
		}
		for uid, svc := range services {
			for _, addr := range shown(svc) {
				if ip := ips[addr]; ip == nil || !slices.Contains(holders(ip), string(uid)) {
					out = append(out, fmt.Sprintf("%s shows %s without holding it after: %s", svc.Name, addr, c))
				}
			}
		}
	}
	return out
}

// sawOnly waits until nothing is written any more, and checks that a Service has shown these, one after the other, and at
// each moment held what it showed.
func (w *witness) sawOnly(ctx context.Context, name string, showings ...any) {
	GinkgoHelper()
	var want []string
	for _, s := range showings {
		want = append(want, fmt.Sprint(s))
	}
	Eventually(ctx, w.quietFor).Should(BeNumerically(">=", steadily))
	Expect(w.showings(name)).To(Equal(want))
	Expect(w.unheld()).To(BeEmpty())
}

// quietFor is how long nothing has been written.
func (w *witness) quietFor() time.Duration {
	last := w.since
	for _, c := range w.writes() {
		if c.seen.After(last) {
			last = c.seen
		}
	}
	return time.Since(last)
}

// both is what a Service of two families shows.
func both(first, second netip.Addr) string { return first.String() + " " + second.String() }
