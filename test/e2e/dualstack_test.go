// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
	"github.com/fairlead-lb/fairlead/ipam"
)

var _ = Describe("Two families", func() {
	s := newScene()

	const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol
	const prefer, require = corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack

	It("come from one pool, in the order of the Service's families", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addService(ctx, "prefers", families(prefer, v4, v6))
		s.served(ctx, "prefers", s.v4(1), s.v6(1))
		s.addService(ctx, "requires", families(require, v6, v4))
		s.served(ctx, "requires", s.v6(2), s.v4(2))
		Expect(s.ip(ctx, s.v6(2)).Name).To(Equal(fmt.Sprintf("fd89-0000-0000-0000-%04x-%04x-0000-0002", s.v6(2).As16()[9], uint16(s.v6(2).As16()[10])<<8|uint16(s.v6(2).As16()[11]))))
	})

	It("may come from two pools", func(ctx SpecContext) {
		s.addPool(ctx, "four", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "six", []string{between(s.v6(1), s.v6(9))})
		s.addService(ctx, "web", families(require, v4, v6))
		s.served(ctx, "web", s.v4(1), s.v6(1))
	})

	It("are one for a Service of IPv6 alone", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addService(ctx, "web", families(corev1.IPFamilyPolicySingleStack, v6))
		s.served(ctx, "web", s.v6(1))
	})

	It("are all or nothing for RequireDualStack", func(ctx SpecContext) {
		s.addPool(ctx, "four", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", families(require, v4, v6))
		s.refused(ctx, "web", "FamilyNotInPool")
		Expect(s.ips(ctx)).To(BeEmpty())
		s.addPool(ctx, "six", []string{between(s.v6(1), s.v6(9))})
		s.served(ctx, "web", s.v4(1), s.v6(1))
	})

	It("are one for PreferDualStack until a pool has the second", func(ctx SpecContext) {
		s.addPool(ctx, "four", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", families(prefer, v6, v4))
		s.served(ctx, "web", s.v4(1))
		allocated := conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAllocated)
		Expect(allocated).To(And(
			HaveField("Status", metav1.ConditionTrue),
			HaveField("Reason", controller.ReasonPartlyAllocated),
			HaveField("Message", ContainSubstring("IPv6"))))
		s.addPool(ctx, "six", []string{between(s.v6(1), s.v6(9))})
		s.served(ctx, "web", s.v6(1), s.v4(1))
		Expect(conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAllocated).Reason).To(Equal(controller.ReasonAllocated))
	})

	It("follow the Service when it gains and drops one", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.editService(ctx, "web", func(svc *corev1.Service) { svc.Spec.IPFamilyPolicy = ptr.To(require) })
		s.served(ctx, "web", s.v4(1), s.v6(1))
		s.editService(ctx, "web", func(svc *corev1.Service) {
			svc.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
			svc.Spec.IPFamilies, svc.Spec.ClusterIPs = svc.Spec.IPFamilies[:1], svc.Spec.ClusterIPs[:1]
		})
		s.served(ctx, "web", s.v4(1))
		s.rests(ctx, s.v6(1))
	})

	It("come from a pool that has both rather than from two that have one each", func(ctx SpecContext) {
		s.addPool(ctx, "a-four", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "b-six", []string{between(s.v6(1), s.v6(9))})
		s.addPool(ctx, "c-both", []string{between(s.v4(21), s.v4(29)), between(s.v6(21), s.v6(29))})
		s.addService(ctx, "web", families(prefer, v4, v6))
		s.served(ctx, "web", s.v4(21), s.v6(21))
		s.addService(ctx, "single")
		s.served(ctx, "single", s.v4(1))
	})

	It("come in the order of the cluster's own families unless the Service says otherwise", func(ctx SpecContext) {
		s.addPool(ctx, "four", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "six", []string{between(s.v6(1), s.v6(9))})
		s.addService(ctx, "silent", families(prefer))
		s.served(ctx, "silent", s.v4(1), s.v6(1))
		s.addService(ctx, "six-first", families(prefer, v6))
		s.served(ctx, "six-first", s.v6(2), s.v4(2))
	})

	It("are completed when the pool of the first gains the second, and the first stays", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", families(prefer, v4, v6))
		s.served(ctx, "web", s.v4(1))
		w := s.witness(ctx)
		s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.Addresses = append(p.Addresses, ranges(between(s.v6(1), s.v6(9)))...)
		})
		s.served(ctx, "web", s.v4(1), s.v6(1))
		w.sawOnly(ctx, "web", s.v4(1), both(s.v4(1), s.v6(1)))
	})

	It("don't leave what is held for a pool that has both, but take the second from it", func(ctx SpecContext) {
		s.addPool(ctx, "four", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", families(prefer, v4, v6))
		s.served(ctx, "web", s.v4(1))
		w := s.witness(ctx)
		s.addPool(ctx, "both", []string{between(s.v4(21), s.v4(29)), between(s.v6(21), s.v6(29))}, prior(10))
		s.served(ctx, "web", s.v4(1), s.v6(21))
		w.sawOnly(ctx, "web", s.v4(1), both(s.v4(1), s.v6(21)))
	})

	It("both stay when the pool loses one, which is stranded", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addService(ctx, "prefers", families(prefer, v4, v6))
		s.served(ctx, "prefers", s.v4(1), s.v6(1))
		s.addService(ctx, "requires", families(require, v4, v6))
		s.served(ctx, "requires", s.v4(2), s.v6(2))
		w := s.witness(ctx)
		s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Addresses = p.Addresses[:1] })
		for i := range 2 {
			s.stranded(ctx, s.v6(i+1), "NotInPool")
			Expect(s.mismatch(ctx, s.v4(i+1))).To(BeZero())
		}
		Consistently(ctx, w.toServices).Should(BeEmpty())
		s.addService(ctx, "late", families(prefer, v4, v6))
		s.served(ctx, "late", s.v4(3))
		s.addService(ctx, "strict", families(require, v4, v6))
		s.refused(ctx, "strict", ipam.FamilyNotInPool)
	})

	It("come and go with ipFamilyPolicy, and the first stays all the while", func(ctx SpecContext) {
		s.addPool(ctx, "four", []string{between(s.v4(1), s.v4(9))})
		policy := func(policy corev1.IPFamilyPolicy) func(*corev1.Service) {
			return func(svc *corev1.Service) {
				svc.Spec.IPFamilyPolicy = &policy
				if policy == corev1.IPFamilyPolicySingleStack {
					svc.Spec.IPFamilies, svc.Spec.ClusterIPs = svc.Spec.IPFamilies[:1], svc.Spec.ClusterIPs[:1]
				}
			}
		}
		reason := func() string { return conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAllocated).Reason }
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		w := s.witness(ctx)
		s.editService(ctx, "web", policy(require))
		s.keeps(ctx, "web", ipam.FamilyNotInPool, s.v4(1))
		s.editService(ctx, "web", policy(prefer))
		Eventually(ctx, reason).Should(Equal(controller.ReasonPartlyAllocated))
		s.editService(ctx, "web", policy(require))
		s.keeps(ctx, "web", ipam.FamilyNotInPool, s.v4(1))

		s.addPool(ctx, "six", []string{between(s.v6(1), s.v6(9))})
		s.served(ctx, "web", s.v4(1), s.v6(1))
		s.editService(ctx, "web", policy(prefer))
		s.editService(ctx, "web", policy(corev1.IPFamilyPolicySingleStack))
		s.served(ctx, "web", s.v4(1))
		s.rests(ctx, s.v6(1))
		s.addService(ctx, "other", families(corev1.IPFamilyPolicySingleStack, v6))
		s.served(ctx, "other", s.v6(2))
		s.editService(ctx, "web", policy(prefer))
		s.served(ctx, "web", s.v4(1), s.v6(1))
		w.sawOnly(ctx, "web", s.v4(1), both(s.v4(1), s.v6(1)), s.v4(1), both(s.v4(1), s.v6(1)))
	})

	It("move one at a time when only one is asked for anew", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addService(ctx, "web", families(require, v4, v6))
		s.served(ctx, "web", s.v4(1), s.v6(1))
		w := s.witness(ctx)
		s.editService(ctx, "web", asking(s.v6(5)))
		s.served(ctx, "web", s.v4(1), s.v6(5))
		s.editService(ctx, "web", asking(s.v4(5), s.v6(5)))
		s.served(ctx, "web", s.v4(5), s.v6(5))
		w.sawOnly(ctx, "web", both(s.v4(1), s.v6(1)), both(s.v4(1), s.v6(5)), both(s.v4(5), s.v6(5)))
	})
})
