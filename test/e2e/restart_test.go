// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// whileStopped does something while no controller runs.
func (s *scene) whileStopped(ctx context.Context, do func()) {
	GinkgoHelper()
	controller := lab.product.Controllers[0]
	s.afterwards(func(context.Context) {
		Expect(controller.Start()).To(Or(Succeed(), MatchError(ContainSubstring("running"))))
	})
	Expect(controller.Stop(cluster.StopGrace)).To(Succeed())
	do()
	Expect(controller.Start()).To(Succeed())
}

// serveAllWays makes Services that hold addresses in every way there is, and one that waits, and returns what they hold.
func (s *scene) serveAllWays(ctx context.Context) map[string][]netip.Addr {
	GinkgoHelper()
	s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
	s.addPool(ctx, "small", []string{s.v4(51).String()}, byName)
	s.reserve(ctx, s.v4(8), s.namespace, "reserved")
	held := map[string][]netip.Addr{}
	for _, svc := range []struct {
		name  string
		edit  func(*corev1.Service)
		addrs []netip.Addr
	}{
		{"plain", all(), []netip.Addr{s.v4(1)}},
		{"dual", families(corev1.IPFamilyPolicyRequireDualStack), []netip.Addr{s.v4(2), s.v6(1)}},
		{"sharing-a", all(sharing("k"), tcp(80)), []netip.Addr{s.v4(3)}},
		{"sharing-b", all(sharing("k"), tcp(443)), []netip.Addr{s.v4(3)}},
		{"by-number", asking(s.v4(7)), []netip.Addr{s.v4(7)}},
		{"by-pool", fromPool(s.poolName("small")), []netip.Addr{s.v4(51)}},
		{"reserved", all(), []netip.Addr{s.v4(8)}},
	} {
		s.addService(ctx, svc.name, svc.edit)
		s.served(ctx, svc.name, svc.addrs...)
		held[svc.name] = svc.addrs
	}
	s.addService(ctx, "a-waiting", fromPool(s.poolName("small")))
	s.refused(ctx, "a-waiting", ipam.PoolExhausted)
	return held
}

// byName has a pool give only to who names it or one of its addresses.
func byName(p *v1alpha1.LoadBalancerIPPool) { p.Spec.AutoAssign = ptr.To(false) }

var _ = Describe("A controller that starts", onLab, func() {
	s := newScene()

	It("and finds all as it left it writes nothing", func(ctx SpecContext) {
		held := s.serveAllWays(ctx)
		for name := range held {
			s.announced(ctx, name)
		}
		s.addPool(ctx, "mark", []string{s.v4(61).String()}, byName)
		// versions are those of all that there is of the scene.
		versions := func() map[string]string {
			GinkgoHelper()
			out := map[string]string{}
			note := func(obj client.Object) { out[obj.GetName()+" "+string(obj.GetUID())] = obj.GetResourceVersion() }
			var services corev1.ServiceList
			Expect(api.List(ctx, &services, client.InNamespace(s.namespace))).To(Succeed())
			for i := range services.Items {
				note(&services.Items[i])
				events, err := eventsOf(ctx, &services.Items[i])
				Expect(err).NotTo(HaveOccurred())
				for j := range events {
					note(&events[j])
				}
			}
			ips, err := s.ips(ctx)
			Expect(err).NotTo(HaveOccurred())
			for i := range ips {
				note(&ips[i])
			}
			note(s.pool(ctx, "lan"))
			note(s.pool(ctx, "small"))
			return out
		}
		By("the last event, the last count and what other speakers saw being written")
		for _, name := range append(slices.Collect(maps.Keys(held)), "a-waiting") {
			Eventually(ctx, eventsOf).WithArguments(s.service(ctx, name)).ShouldNot(BeEmpty())
		}
		Eventually(ctx, func() []string {
			lan, small := s.pool(ctx, "lan").Status, s.pool(ctx, "small").Status
			return []string{ptr.Deref(lan.IPv4, v1alpha1.AddressCount{}).Allocated, ptr.Deref(lan.IPv6, v1alpha1.AddressCount{}).Allocated, ptr.Deref(small.IPv4, v1alpha1.AddressCount{}).Allocated}
		}).Should(Equal([]string{"5", "1", "1"}))
		Eventually(ctx, func(g Gomega) {
			ips, err := s.ips(ctx)
			g.Expect(err).NotTo(HaveOccurred())
			for _, ip := range ips {
				g.Expect(ip.Status.Verified).NotTo(BeNil(), ip.Name)
			}
		}).Should(Succeed())
		before := versions()

		s.whileStopped(ctx, func() {})
		s.addService(ctx, "mark", fromPool(s.poolName("mark")))
		s.served(ctx, "mark", s.v4(61))
		Consistently(ctx, func() map[string]string {
			after := versions()
			maps.DeleteFunc(after, func(key, _ string) bool { return before[key] == "" })
			return after
		}).Should(Equal(before))
	})

	It("gives nobody's address to one that waits, whatever their order", func(ctx SpecContext) {
		s.addPool(ctx, "small", []string{between(s.v4(1), s.v4(3))})
		for i, name := range []string{"m-1", "m-2", "m-3"} {
			s.addService(ctx, name)
			s.served(ctx, name, s.v4(i+1))
		}
		for _, name := range []string{"a-waits", "z-waits"} {
			s.addService(ctx, name)
			s.refused(ctx, name, ipam.PoolExhausted)
		}
		s.addService(ctx, "b-waits", asking(s.v4(2)))
		s.refused(ctx, "b-waits", ipam.AddressInUse)
		w := s.witness(ctx)
		s.whileStopped(ctx, func() {
			// One who stays shows it no longer: it is the binding that counts.
			svc := s.service(ctx, "m-3")
			svc.Status.LoadBalancer.Ingress = nil
			Expect(api.Status().Update(ctx, svc)).To(Succeed())
			s.addService(ctx, "c-waits")
		})
		s.refused(ctx, "c-waits", ipam.PoolExhausted)
		s.served(ctx, "m-3", s.v4(3))
		w.sawOnly(ctx, "m-1", s.v4(1))
		w.sawOnly(ctx, "m-2", s.v4(2))
		w.sawOnly(ctx, "m-3", s.v4(3), "", s.v4(3))
		for _, name := range []string{"a-waits", "b-waits", "c-waits", "z-waits"} {
			w.sawOnly(ctx, name, "")
		}
	})

	DescribeTable("moves the one of two that share that was edited so that they can't any longer, and not the other:",
		func(ctx SpecContext, first, second string, edit func(*corev1.Service)) {
			onSharing := all(sharing("k"), func(svc *corev1.Service) { svc.Spec.Selector = map[string]string{"app": "web"} })
			s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
			s.addService(ctx, first, onSharing, tcp(80))
			s.served(ctx, first, s.v4(1))
			s.addService(ctx, second, onSharing, tcp(443))
			s.served(ctx, second, s.v4(1))
			w := s.witness(ctx)
			s.whileStopped(ctx, func() { s.editService(ctx, second, edit) })
			s.served(ctx, second, s.v4(2))
			w.sawOnly(ctx, second, s.v4(1), s.v4(2))
			w.sawOnly(ctx, first, s.v4(1))
		},
		Entry("traffic policy Local", "a", "b", local),
		Entry("traffic policy Local, in the other order", "b", "a", local),
		Entry("a clashing port", "b", "a", tcp(80)),
	)

	It("moves the one that took back its word to another namespace, and not the other", func(ctx SpecContext) {
		other := s.namespace + "-other"
		s.addNamespace(ctx, other, nil)
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first", sharing("k"), tcp(80), sharingWith(other))
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second", inNamespace(other), sharing("k"), tcp(443), sharingWith(s.namespace))
		s.servedIn(ctx, other, "second", s.v4(1))
		w := s.witness(ctx)
		s.whileStopped(ctx, func() { s.editService(ctx, "first", without(v1alpha1.AnnotationSharingNamespaces)) })
		s.served(ctx, "first", s.v4(2))
		w.sawOnly(ctx, "first", s.v4(1), s.v4(2))
		Expect(w.toServices()).To(HaveEach(ContainSubstring("Service first ")))
		s.servedIn(ctx, other, "second", s.v4(1))
	})

	It("gives Services that were restored from a backup what they had", func(ctx SpecContext) {
		held := s.serveAllWays(ctx)
		old := map[string]types.UID{}
		s.whileStopped(ctx, func() {
			// A backup keeps spec and metadata, but no status, and everything gets another UID. The addresses still name the old.
			ips, err := s.ips(ctx)
			Expect(err).NotTo(HaveOccurred())
			for i := range ips {
				Expect(api.Delete(ctx, &ips[i])).To(Succeed())
			}
			var services corev1.ServiceList
			Expect(api.List(ctx, &services, client.InNamespace(s.namespace))).To(Succeed())
			for i := range services.Items {
				svc := &services.Items[i]
				old[svc.Name] = svc.UID
				s.editService(ctx, svc.Name, func(svc *corev1.Service) { svc.Finalizers = nil })
				s.deleteService(ctx, svc.Name)
			}
			for _, svc := range services.Items {
				restored := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
					Namespace: svc.Namespace, Name: svc.Name, Annotations: svc.Annotations, Finalizers: svc.Finalizers,
				}, Spec: svc.Spec}
				Expect(api.Create(ctx, restored)).To(Succeed())
				Expect(restored.UID).NotTo(Equal(old[svc.Name]))
			}
			for _, ip := range ips {
				Expect(api.Create(ctx, &v1alpha1.LoadBalancerIP{ObjectMeta: metav1.ObjectMeta{Name: ip.Name}, Spec: ip.Spec})).To(Succeed())
			}
		})
		for name, addrs := range held {
			s.served(ctx, name, addrs...)
		}
		s.refused(ctx, "a-waiting", ipam.PoolExhausted)
		ips, err := s.ips(ctx)
		Expect(err).NotTo(HaveOccurred())
		for _, ip := range ips {
			Expect(ip.Spec.Services).NotTo(ContainElement(HaveField("UID", BeElementOf(slices.Collect(maps.Values(old))))), ip.Name)
		}
	})
})
