// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
	"github.com/fairlead-lb/fairlead/ipam"
)

// without is an edit that removes an annotation.
func without(key string) func(*corev1.Service) {
	return func(svc *corev1.Service) { delete(svc.Annotations, key) }
}

// keeps is a Service that asks for what it can't have, says why, and still shows what it had.
func (s *scene) keeps(ctx context.Context, name string, reason ipam.Reason, showing ...any) {
	GinkgoHelper()
	Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, name), v1alpha1.ServiceAllocated) }).Should(And(
		HaveField("Status", metav1.ConditionFalse), HaveField("Reason", string(reason)), HaveField("Message", ContainSubstring("until then it keeps"))))
	var want []string
	for _, a := range showing {
		want = append(want, a.(interface{ String() string }).String())
	}
	Expect(shown(s.service(ctx, name))).To(Equal(want))
}

var _ = Describe("A Service that changes what it asks for", func() {
	s := newScene()

	It("holds the new address before the old one goes", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "other", []string{s.v4(21).String()}, byName)
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		w := s.witness(ctx)
		s.editService(ctx, "web", asking(s.v4(5)))
		s.served(ctx, "web", s.v4(5))
		s.rests(ctx, s.v4(1))
		s.editService(ctx, "web", all(without(v1alpha1.AnnotationAddresses), fromPool(s.poolName("other"))))
		s.served(ctx, "web", s.v4(21))
		s.rests(ctx, s.v4(5))
		w.sawOnly(ctx, "web", s.v4(1), s.v4(5), s.v4(21))
		Expect(eventsOf(ctx, s.service(ctx, "web"))).To(And(HaveLen(3), HaveEach(HaveField("Reason", controller.ReasonAllocated))))
		Expect(s.ips(ctx)).To(HaveLen(3), "no other address has been taken on the way")
	})

	It("keeps the address when it asks no longer", func(ctx SpecContext) {
		s.addPool(ctx, "a-lan", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "b-other", []string{between(s.v4(21), s.v4(29))})
		s.addService(ctx, "by-number", asking(s.v4(5)))
		s.addService(ctx, "by-field", func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = s.v4(6).String() })
		s.addService(ctx, "by-pool", fromPool(s.poolName("b-other")))
		s.served(ctx, "by-number", s.v4(5))
		s.served(ctx, "by-field", s.v4(6))
		s.served(ctx, "by-pool", s.v4(21))
		w := s.witness(ctx)
		s.editService(ctx, "by-number", without(v1alpha1.AnnotationAddresses))
		s.editService(ctx, "by-field", func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = "" })
		s.editService(ctx, "by-pool", without(v1alpha1.AnnotationPool))
		w.sawOnly(ctx, "by-number", s.v4(5))
		w.sawOnly(ctx, "by-field", s.v4(6))
		w.sawOnly(ctx, "by-pool", s.v4(21))
		Expect(w.toServices()).To(HaveLen(3), "nothing but the three edits has been written")
	})

	It("gets what another holds only when that one lets go, and keeps what it has until then", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "holder")
		s.served(ctx, "holder", s.v4(1))
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(2))
		w := s.witness(ctx)
		s.editService(ctx, "web", asking(s.v4(1)))
		s.keeps(ctx, "web", ipam.AddressInUse, s.v4(2))
		s.deleteService(ctx, "holder")
		s.served(ctx, "web", s.v4(1))
		w.sawOnly(ctx, "holder", s.v4(1))
		w.sawOnly(ctx, "web", s.v4(2), s.v4(1))
	})

	It("and wants the address of one that wants its own leaves both what they have", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first")
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second")
		s.served(ctx, "second", s.v4(2))
		w := s.witness(ctx)
		s.editService(ctx, "first", asking(s.v4(2)))
		s.editService(ctx, "second", asking(s.v4(1)))
		s.keeps(ctx, "first", ipam.AddressInUse, s.v4(1))
		s.keeps(ctx, "second", ipam.AddressInUse, s.v4(2))
		w.sawOnly(ctx, "first", s.v4(1))
		w.sawOnly(ctx, "second", s.v4(2))

		By("the second giving way")
		s.editService(ctx, "second", asking(s.v4(3)))
		s.served(ctx, "second", s.v4(3))
		s.served(ctx, "first", s.v4(2))
		w.sawOnly(ctx, "first", s.v4(1), s.v4(2))
		w.sawOnly(ctx, "second", s.v4(2), s.v4(3))
	})

	It("keeps of two families the one that the pool it asks for has no room for", func(ctx SpecContext) {
		s.addPool(ctx, "a-lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addPool(ctx, "b-narrow", []string{between(s.v4(21), s.v4(29)), between(s.v6(21), s.v6(29))},
			func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.MaxPerNamespace = ptr.To[int32](1) })
		s.addService(ctx, "web", families(corev1.IPFamilyPolicyPreferDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol))
		s.served(ctx, "web", s.v4(1), s.v6(1))
		w := s.witness(ctx)
		s.editService(ctx, "web", fromPool(s.poolName("b-narrow")))
		Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAllocated) }).Should(
			HaveField("Message", ContainSubstring("holds as many addresses of pool")))
		w.sawOnly(ctx, "web", both(s.v4(1), s.v6(1)), both(s.v4(21), s.v6(1)))
		s.editPool(ctx, "b-narrow", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.MaxPerNamespace = nil })
		s.served(ctx, "web", s.v4(21), s.v6(21))
		w.sawOnly(ctx, "web", both(s.v4(1), s.v6(1)), both(s.v4(21), s.v6(1)), both(s.v4(21), s.v6(21)))
	})

	It("keeps its address when its labels fit the pool no longer", func(ctx SpecContext) {
		s.addPool(ctx, "gold", []string{between(s.v4(1), s.v4(9))}, forServices("tier", "gold"))
		s.addService(ctx, "web", labelled("tier", "gold"))
		s.served(ctx, "web", s.v4(1))
		w := s.witness(ctx)
		s.editService(ctx, "web", labelled("tier", "tin"))
		w.sawOnly(ctx, "web", s.v4(1))
		Expect(w.toServices()).To(HaveLen(1), "nothing but the edit has been written")
	})
})

var _ = Describe("A Service that stops being of type LoadBalancer", func() {
	s := newScene()

	becomes := func(kind corev1.ServiceType) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			svc.Spec.Type, svc.Spec.LoadBalancerClass, svc.Spec.AllocateLoadBalancerNodePorts = kind, nil, nil
			if kind == corev1.ServiceTypeExternalName {
				svc.Spec.ExternalName = "web.example.com"
				svc.Spec.ClusterIP, svc.Spec.ClusterIPs, svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy = "", nil, nil, nil
			}
		}
	}
	again := func(svc *corev1.Service) {
		svc.Spec.Type, svc.Spec.ExternalName = corev1.ServiceTypeLoadBalancer, ""
	}

	DescribeTable("lets its address rest and gets the same one back, also if it had a class and now has none:",
		func(ctx SpecContext, kind corev1.ServiceType, edits ...func(*corev1.Service)) {
			s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
			s.addService(ctx, "first")
			s.served(ctx, "first", s.v4(1))
			s.addService(ctx, "web", edits...)
			s.served(ctx, "web", s.v4(2))
			w := s.witness(ctx)
			s.editService(ctx, "web", becomes(kind))
			s.rests(ctx, s.v4(2))
			Eventually(ctx, func() *corev1.Service { return s.service(ctx, "web") }).Should(And(
				HaveField("Finalizers", BeEmpty()), HaveField("Status", Equal(corev1.ServiceStatus{}))))
			s.addService(ctx, "newcomer")
			s.served(ctx, "newcomer", s.v4(3))
			s.editService(ctx, "web", again)
			s.served(ctx, "web", s.v4(2))
			w.sawOnly(ctx, "web", s.v4(2), "", s.v4(2))
			w.sawOnly(ctx, "first", s.v4(1))
		},
		func(kind corev1.ServiceType, edits ...func(*corev1.Service)) string {
			return map[bool]string{true: "", false: "of our class, then "}[len(edits) == 0] + string(kind)
		},
		Entry(nil, corev1.ServiceTypeClusterIP),
		Entry(nil, corev1.ServiceTypeNodePort),
		Entry(nil, corev1.ServiceTypeExternalName),
		Entry(nil, corev1.ServiceTypeClusterIP, ofClass(v1alpha1.DefaultLoadBalancerClass)),
	)

	It("makes room for one that waits, which then keeps it", func(ctx SpecContext) {
		s.addPool(ctx, "small", []string{s.v4(1).String()})
		s.addService(ctx, "first")
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "waiting")
		s.refused(ctx, "waiting", ipam.PoolExhausted)
		s.editService(ctx, "first", becomes(corev1.ServiceTypeClusterIP))
		s.served(ctx, "waiting", s.v4(1))
		w := s.witness(ctx)
		s.editService(ctx, "first", again)
		s.refused(ctx, "first", ipam.PoolExhausted)
		w.sawOnly(ctx, "waiting", s.v4(1))
	})
})

var _ = Describe("A Service that shares its address", func() {
	s := newScene()

	const http, https = 80, 443
	// pair makes two Services on one address.
	pair := func(ctx context.Context, edits ...func(*corev1.Service)) {
		GinkgoHelper()
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		app := func(svc *corev1.Service) { svc.Spec.Selector = map[string]string{"app": "web"} }
		s.addService(ctx, "first", all(edits...), sharing("k"), tcp(http), app)
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second", all(edits...), sharing("k"), tcp(https), app)
		s.served(ctx, "second", s.v4(1))
	}
	// disturbed does something while the other Service is written to over and over, which has it looked at again each time.
	disturbed := func(ctx context.Context, name string, do func()) {
		GinkgoHelper()
		disturbing, calm := context.WithCancel(ctx)
		var unrest sync.WaitGroup
		for i := range 4 {
			unrest.Go(func() {
				defer GinkgoRecover()
				for n := 0; disturbing.Err() == nil; n++ {
					s.editService(ctx, name, labelled(fmt.Sprint("touched-", i), fmt.Sprint(n)))
				}
			})
		}
		defer unrest.Wait()
		defer calm()
		do()
	}

	DescribeTable("moves when it does not go with the other any longer, and the other stays:",
		func(ctx SpecContext, initially, edit func(*corev1.Service)) {
			pair(ctx, initially)
			w := s.witness(ctx)
			disturbed(ctx, "first", func() {
				s.editService(ctx, "second", edit)
				s.served(ctx, "second", s.v4(2))
			})
			w.sawOnly(ctx, "second", s.v4(1), s.v4(2))
			w.sawOnly(ctx, "first", s.v4(1))
			Expect(s.ip(ctx, s.v4(1)).Spec.Services).To(ConsistOf(HaveField("Name", "first")))
		},
		Entry("a clashing port", all(), tcp(http)),
		Entry("another key", all(), sharing("l")),
		Entry("no key", all(), without(v1alpha1.AnnotationSharingKey)),
		Entry("traffic policy Local", all(), local),
		Entry("another selector under traffic policy Local", local, func(svc *corev1.Service) { svc.Spec.Selector["app"] = "other" }),
		Entry("traffic policy Cluster instead of Local", local, func(svc *corev1.Service) {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
		}),
	)

	It("moves when it takes back its word to another namespace, and the other stays", func(ctx SpecContext) {
		other := s.namespace + "-other"
		s.addNamespace(ctx, other, nil)
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first", sharing("k"), tcp(http), sharingWith(other))
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second", inNamespace(other), sharing("k"), tcp(https), sharingWith(s.namespace))
		s.servedIn(ctx, other, "second", s.v4(1))
		second := &corev1.Service{}
		Expect(api.Get(ctx, objectKey(other, "second"), second)).To(Succeed())
		w := s.witness(ctx)
		s.editService(ctx, "first", without(v1alpha1.AnnotationSharingNamespaces))
		s.served(ctx, "first", s.v4(2))
		w.sawOnly(ctx, "first", s.v4(1), s.v4(2))
		Expect(w.toServices()).To(HaveEach(ContainSubstring("Service first")))
		s.servedIn(ctx, other, "second", s.v4(1))
	})

	It("keeps it under another key once it is alone, and who waits for that key joins", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first", tcp(http))
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second", sharing("l"), tcp(https), asking(s.v4(1)))
		s.refused(ctx, "second", ipam.AddressInUse)
		w := s.witness(ctx)
		s.editService(ctx, "first", sharing("k"))
		Eventually(ctx, func() string { return s.ip(ctx, s.v4(1)).Spec.SharingKey }).Should(Equal("k"))
		s.refused(ctx, "second", ipam.SharingKeyMismatch)
		s.editService(ctx, "first", sharing("l"))
		s.served(ctx, "second", s.v4(1))
		w.sawOnly(ctx, "first", s.v4(1))
	})

	It("lets one join that waited for its traffic policy to change", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first", sharing("k"), tcp(http), local)
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second", sharing("k"), tcp(https), asking(s.v4(1)))
		s.refused(ctx, "second", ipam.BackendMismatch)
		w := s.witness(ctx)
		s.editService(ctx, "first", func(svc *corev1.Service) {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
		})
		s.served(ctx, "second", s.v4(1))
		w.sawOnly(ctx, "first", s.v4(1))
	})

	It("says why when it has to leave and can't have another, and the other stays", func(ctx SpecContext) {
		s.addPool(ctx, "small", []string{s.v4(1).String()})
		s.addService(ctx, "first", sharing("k"), tcp(http))
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second", sharing("k"), tcp(https))
		s.served(ctx, "second", s.v4(1))
		w := s.witness(ctx)
		s.editService(ctx, "second", tcp(http))
		s.refused(ctx, "second", ipam.PoolExhausted)
		w.sawOnly(ctx, "first", s.v4(1))
		s.editService(ctx, "second", tcp(https))
		s.served(ctx, "second", s.v4(1))
		w.sawOnly(ctx, "first", s.v4(1))
	})
})

var _ = Describe("A namespace whose labels fit the pool no longer", func() {
	s := newScene()

	It("keeps the addresses that its Services have, and gets no more", func(ctx SpecContext) {
		label := func(value string) {
			GinkgoHelper()
			ns := &corev1.Namespace{}
			Expect(api.Get(ctx, objectKey("", s.namespace), ns)).To(Succeed())
			metav1.SetMetaDataLabel(&ns.ObjectMeta, "tenant", value)
			Expect(api.Update(ctx, ns)).To(Succeed())
		}
		label(s.namespace)
		s.addPool(ctx, "tenants", []string{between(s.v4(1), s.v4(9))}, func(p *v1alpha1.LoadBalancerIPPool) {
			p.Spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tenant": s.namespace}}
		})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		w := s.witness(ctx)
		label("nobody")
		// The controller may yet have to see the label; until it has, it gives.
		Eventually(ctx, func(g Gomega) {
			probe := s.addService(ctx, "probe")
			g.Eventually(ctx, func() string {
				return conditionOf(s.service(ctx, "probe"), v1alpha1.ServiceAllocated).Reason
			}).ShouldNot(BeEmpty())
			reason := conditionOf(s.service(ctx, "probe"), v1alpha1.ServiceAllocated).Reason
			s.deleteService(ctx, probe.Name)
			g.Expect(reason).To(Equal(string(ipam.NoMatchingPool)))
		}).Should(Succeed())
		s.addService(ctx, "asking", asking(s.v4(5)))
		s.refused(ctx, "asking", ipam.PoolNotAdmitted)
		w.sawOnly(ctx, "web", s.v4(1))
		label(s.namespace)
		s.served(ctx, "asking", s.v4(5))
	})
})
