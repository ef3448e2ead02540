// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

var _ = Describe("An address that another load balancer gave", func() {
	s := newScene()

	// give writes a Service's status as another load balancer does.
	give := func(ctx context.Context, name string, addrs ...netip.Addr) {
		GinkgoHelper()
		Eventually(ctx, func() error {
			svc := s.service(ctx, name)
			svc.Status.LoadBalancer.Ingress = nil
			for _, a := range addrs {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
			}
			return api.Status().Update(ctx, svc)
		}).Should(Succeed())
	}

	It("is left alone, told, and given to nobody", func(ctx SpecContext) {
		s.addService(ctx, "theirs", asking(s.v4(5)))
		give(ctx, "theirs", s.v4(1))
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		leftAlone := func(g Gomega) {
			svc := s.service(ctx, "theirs")
			g.Expect(shown(svc)).To(Equal([]string{s.v4(1).String()}))
			g.Expect(svc.Finalizers).To(BeEmpty())
			g.Expect(conditionOf(svc, v1alpha1.ServiceAllocated).Reason).To(Equal(string(ipam.ForeignAddress)))
		}
		Eventually(ctx, leftAlone).Should(Succeed())
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(2))
		s.addService(ctx, "asking", asking(s.v4(1)))
		s.refused(ctx, "asking", ipam.ForeignAddress)
		Consistently(ctx, leftAlone).Should(Succeed())

		By("the other load balancer taking it away")
		give(ctx, "theirs")
		s.served(ctx, "asking", s.v4(1))
		s.served(ctx, "theirs", s.v4(5))
	})

	It("to a Service of its own class is given to nobody, either", func(ctx SpecContext) {
		s.addService(ctx, "theirs", ofClass("example.com/other"))
		give(ctx, "theirs", s.v4(1))
		version := s.service(ctx, "theirs").ResourceVersion
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(2))
		Consistently(ctx, func() string { return s.service(ctx, "theirs").ResourceVersion }).Should(Equal(version))
	})
})
