// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
)

var _ = Describe("Allocation", func() {
	s := newScene()

	It("gives a Service the lowest address of the pool, and says so once", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))

		svc := s.service(ctx, "web")
		Expect(svc.Finalizers).To(Equal([]string{finalizer}))
		Expect(conditionOf(svc, v1alpha1.ServiceAllocated).Reason).To(Equal(controller.ReasonAllocated))
		ip := s.ip(ctx, s.v4(1))
		Expect(ip.Spec).To(And(
			HaveField("Address", s.v4(1).String()),
			HaveField("Pool", s.poolName("lan")),
			HaveField("Holder", s.namespace+"/web"),
			HaveField("Owner", Not(BeEmpty())),
			HaveField("Services", ConsistOf(v1alpha1.ServiceBinding{
				ServiceName: v1alpha1.ServiceName{Namespace: s.namespace, Name: "web"},
				UID:         svc.UID,
				Ports:       []v1alpha1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
			})),
		))
		Expect(ip.Finalizers).To(BeEmpty())
		Expect(ip.OwnerReferences).To(BeEmpty())

		one := And(HaveLen(1), ContainElement(And(
			HaveField("Type", corev1.EventTypeNormal),
			HaveField("Reason", controller.ReasonAllocated),
			HaveField("Note", ContainSubstring(s.v4(1).String())),
			HaveField("Series", BeNil()),
		)))
		Eventually(ctx, eventsOf).WithArguments(svc).Should(one)
		Consistently(ctx, eventsOf).WithArguments(svc).Should(one)
	})

	It("gives every Service an address of its own", func(ctx SpecContext) {
		const count = 20
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(count))})
		for i := range count {
			s.addService(ctx, fmt.Sprint("web-", i))
		}
		seen := map[string]string{}
		for i := range count {
			name := fmt.Sprint("web-", i)
			Eventually(ctx, func() []string { return shown(s.service(ctx, name)) }).Should(HaveLen(1))
			addr := shown(s.service(ctx, name))[0]
			Expect(seen).NotTo(HaveKey(addr))
			seen[addr] = name
		}
	})

	It("binds all ports of a Service, of TCP, UDP and SCTP, to one address", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "mixed", ports(
			port(corev1.ProtocolTCP, 80), port(corev1.ProtocolTCP, 443), port(corev1.ProtocolUDP, 443), port(corev1.ProtocolSCTP, 132)))
		s.served(ctx, "mixed", s.v4(1))
		Expect(s.ip(ctx, s.v4(1)).Spec.Services[0].Ports).To(ConsistOf(
			v1alpha1.ServicePort{Protocol: corev1.ProtocolTCP, Port: 80},
			v1alpha1.ServicePort{Protocol: corev1.ProtocolTCP, Port: 443},
			v1alpha1.ServicePort{Protocol: corev1.ProtocolUDP, Port: 443},
			v1alpha1.ServicePort{Protocol: corev1.ProtocolSCTP, Port: 132},
		))
	})

	It("records the ports again when they change, and leaves the address", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.editService(ctx, "web", ports(port(corev1.ProtocolTCP, 8443)))
		Eventually(ctx, func() []v1alpha1.ServicePort { return s.ip(ctx, s.v4(1)).Spec.Services[0].Ports }).Should(
			Equal([]v1alpha1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 8443}}))
		s.stays(ctx, "web", s.v4(1))
	})

	It("serves a Service that wants no node ports", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", func(svc *corev1.Service) { svc.Spec.AllocateLoadBalancerNodePorts = ptr.To(false) })
		s.served(ctx, "web", s.v4(1))
		Expect(s.service(ctx, "web").Spec.Ports).To(HaveEach(HaveField("NodePort", BeZero())))
	})

	It("serves its own class and no class, and doesn't touch the Services of another", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		other := s.addService(ctx, "other", ofClass("example.com/other"))
		s.addService(ctx, "ours", ofClass(v1alpha1.DefaultLoadBalancerClass))
		s.served(ctx, "ours", s.v4(1))
		s.addService(ctx, "none")
		s.served(ctx, "none", s.v4(2))
		Consistently(ctx, func(g Gomega) {
			svc := s.service(ctx, "other")
			g.Expect(svc.ResourceVersion).To(Equal(other.ResourceVersion))
			g.Expect(svc.Status).To(Equal(corev1.ServiceStatus{}))
			g.Expect(svc.Finalizers).To(BeEmpty())
			g.Expect(eventsOf(ctx, svc)).To(BeEmpty())
		}).Should(Succeed())
	})
})
