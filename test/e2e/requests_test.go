// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

var _ = Describe("A request", func() {
	s := newScene()

	loadBalancerIP := func(addr any) func(*corev1.Service) {
		return func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = fmt.Sprint(addr) }
	}

	It("in spec.loadBalancerIP is honoured", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", loadBalancerIP(s.v4(5)))
		s.served(ctx, "web", s.v4(5))
	})

	It("in the annotation may name an address of each family", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addService(ctx, "web", families(corev1.IPFamilyPolicyRequireDualStack), asking(s.v6(6), s.v4(5)))
		s.served(ctx, "web", s.v4(5), s.v6(6))
	})

	It("may name one family and leave the other open", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addService(ctx, "web", families(corev1.IPFamilyPolicyRequireDualStack), asking(s.v6(6)))
		s.served(ctx, "web", s.v4(1), s.v6(6))
	})

	It("for a pool is served from it, also if the pool is not for everybody", func(ctx SpecContext) {
		s.addPool(ctx, "a-open", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "b-reserved", []string{between(s.v4(21), s.v4(29))}, func(p *v1alpha1.LoadBalancerIPPool) {
			no := false
			p.Spec.AutoAssign = &no
		})
		s.addService(ctx, "anywhere")
		s.served(ctx, "anywhere", s.v4(1))
		s.addService(ctx, "by-pool", fromPool(s.poolName("b-reserved")))
		s.served(ctx, "by-pool", s.v4(21))
		s.addService(ctx, "by-number", asking(s.v4(25)))
		s.served(ctx, "by-number", s.v4(25))
	})

	It("that changes moves the Service, and the old address rests", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.editService(ctx, "web", asking(s.v4(5)))
		s.served(ctx, "web", s.v4(5))
		s.rests(ctx, s.v4(1))
	})

	It("that can't be met leaves a Service what it has, and says so", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.editService(ctx, "web", asking(s.v4(50)))
		Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAllocated) }).Should(And(
			HaveField("Status", metav1.ConditionFalse),
			HaveField("Reason", string(ipam.AddressNotInPool)),
			HaveField("Message", ContainSubstring("keeps "+s.v4(1).String()))))
		Expect(shown(s.service(ctx, "web"))).To(Equal([]string{s.v4(1).String()}))
	})

	// Each entry asks for what it can't have, and takes the cause away without touching the Service unless that is the cause.
	DescribeTable("is refused with a reason, disturbs nobody, and is served once the cause is gone:",
		func(ctx SpecContext, reason ipam.Reason, arrange func(context.Context), ask func() func(*corev1.Service), cure func(context.Context), result func() string) {
			s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
			s.addService(ctx, "bystander")
			s.served(ctx, "bystander", s.v4(1))
			bystander := conditionOf(s.service(ctx, "bystander"), v1alpha1.ServiceAllocated)
			arrange(ctx)

			s.addService(ctx, "asking", ask())
			s.refused(ctx, "asking", reason)
			cure(ctx)
			Eventually(ctx, func() []string { return shown(s.service(ctx, "asking")) }).Should(Equal([]string{result()}))
			Expect(conditionOf(s.service(ctx, "asking"), v1alpha1.ServiceAllocated).Status).To(Equal(metav1.ConditionTrue))

			s.served(ctx, "bystander", s.v4(1))
			Expect(conditionOf(s.service(ctx, "bystander"), v1alpha1.ServiceAllocated)).To(Equal(bystander))
			// Events of different Services may overtake each other.
			bystanding := s.service(ctx, "bystander")
			Eventually(ctx, func() ([]eventsv1.Event, error) { return eventsOf(ctx, bystanding) }).Should(HaveLen(1))
		},
		Entry("an address outside every pool", ipam.AddressNotInPool,
			func(context.Context) {},
			func() func(*corev1.Service) { return asking(s.v4(50)) },
			func(ctx context.Context) { s.addPool(ctx, "more", []string{s.v4(50).String()}) },
			func() string { return s.v4(50).String() }),
		Entry("an address outside the named pool", ipam.AddressNotInPool,
			func(ctx context.Context) { s.addPool(ctx, "more", []string{s.v4(50).String()}) },
			func() func(*corev1.Service) { return all(asking(s.v4(51)), fromPool(s.poolName("more"))) },
			func(ctx context.Context) {
				s.editPool(ctx, "more", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
					p.Addresses = []v1alpha1.AddressRange{v1alpha1.AddressRange(between(s.v4(50), s.v4(51)))}
				})
			},
			func() string { return s.v4(51).String() }),
		Entry("an address that another Service holds", ipam.AddressInUse,
			func(ctx context.Context) {
				s.addService(ctx, "holder", asking(s.v4(5)))
				s.served(ctx, "holder", s.v4(5))
			},
			func() func(*corev1.Service) { return asking(s.v4(5)) },
			func(ctx context.Context) { s.deleteService(ctx, "holder") },
			func() string { return s.v4(5).String() }),
		Entry("an address that is reserved for another", ipam.AddressReserved,
			func(ctx context.Context) { s.reserve(ctx, s.v4(5), s.namespace, "somebody-else") },
			func() func(*corev1.Service) { return asking(s.v4(5)) },
			func(ctx context.Context) { Expect(api.Delete(ctx, s.ip(ctx, s.v4(5)))).To(Succeed()) },
			func() string { return s.v4(5).String() }),
		Entry("an excluded address", ipam.AddressExcluded,
			func(ctx context.Context) {
				s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
					p.Exclude = []v1alpha1.AddressRange{v1alpha1.AddressRange(s.v4(5).String())}
				})
				s.awaitObserved(ctx, "lan")
			},
			func() func(*corev1.Service) { return asking(s.v4(5)) },
			func(ctx context.Context) {
				s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Exclude = nil })
			},
			func() string { return s.v4(5).String() }),
		Entry("an address of a disabled pool", ipam.PoolDisabled,
			func(ctx context.Context) {
				s.addPool(ctx, "off", []string{s.v4(50).String()}, func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.Disabled = true })
			},
			func() func(*corev1.Service) { return asking(s.v4(50)) },
			func(ctx context.Context) {
				s.editPool(ctx, "off", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Disabled = false })
			},
			func() string { return s.v4(50).String() }),
		Entry("an address of a pool for others", ipam.PoolNotAdmitted,
			func(ctx context.Context) {
				s.addPool(ctx, "gold", []string{s.v4(50).String()}, func(p *v1alpha1.LoadBalancerIPPool) {
					p.Spec.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}
				})
			},
			func() func(*corev1.Service) { return asking(s.v4(50)) },
			func(ctx context.Context) {
				s.editPool(ctx, "gold", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.ServiceSelector = nil })
			},
			func() string { return s.v4(50).String() }),
		Entry("a pool that does not exist", ipam.PoolNotFound,
			func(context.Context) {},
			func() func(*corev1.Service) { return fromPool(s.poolName("later")) },
			func(ctx context.Context) { s.addPool(ctx, "later", []string{s.v4(50).String()}) },
			func() string { return s.v4(50).String() }),
		Entry("an address of a family that the Service is not of", ipam.FamilyNotRequested,
			func(ctx context.Context) { s.addPool(ctx, "six", []string{s.v6(1).String()}) },
			func() func(*corev1.Service) { return asking(s.v6(1)) },
			func(ctx context.Context) { s.editService(ctx, "asking", asking(s.v4(5))) },
			func() string { return s.v4(5).String() }),
		Entry("something that is no address, in the annotation", ipam.InvalidAddress,
			func(context.Context) {},
			func() func(*corev1.Service) { return asking("10.0.0.300") },
			func(ctx context.Context) { s.editService(ctx, "asking", asking(s.v4(5))) },
			func() string { return s.v4(5).String() }),
		Entry("something that is no address, in spec.loadBalancerIP", ipam.InvalidAddress,
			func(context.Context) {},
			func() func(*corev1.Service) { return loadBalancerIP("web.example.com") },
			func(ctx context.Context) { s.editService(ctx, "asking", loadBalancerIP(s.v4(5))) },
			func() string { return s.v4(5).String() }),
		Entry("two addresses of one family", ipam.InvalidAddress,
			func(context.Context) {},
			func() func(*corev1.Service) { return asking(s.v4(5), s.v4(6)) },
			func(ctx context.Context) { s.editService(ctx, "asking", asking(s.v4(5))) },
			func() string { return s.v4(5).String() }),
	)
})

var _ = Describe("A reservation", func() {
	s := newScene()

	It("keeps an address for its Service, also outside every pool", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.reserve(ctx, s.v4(1), s.namespace, "vip")
		s.reserve(ctx, s.v4(50), s.namespace, "outside")
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(2))
		s.addService(ctx, "vip")
		s.served(ctx, "vip", s.v4(1))
		s.addService(ctx, "outside")
		s.served(ctx, "outside", s.v4(50))

		s.deleteService(ctx, "vip")
		Eventually(ctx, func() v1alpha1.LoadBalancerIPSpec { return s.ip(ctx, s.v4(1)).Spec }).Should(And(
			HaveField("Services", BeEmpty()),
			HaveField("ReservedFor", HaveValue(Equal(v1alpha1.Reservation{Namespace: s.namespace, Name: "vip"}))),
			HaveField("Released", BeNil())))
	})

	It("keeps an address for a namespace", func(ctx SpecContext) {
		other := s.namespace + "-other"
		s.addNamespace(ctx, other, nil)
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.reserve(ctx, s.v4(5), other, "")
		s.addService(ctx, "web", inNamespace(other))
		s.servedIn(ctx, other, "web", s.v4(5))
	})
})
