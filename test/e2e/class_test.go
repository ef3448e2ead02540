// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// installedWith has the specs of an Ordered container run in a small site of their own, with Fairlead installed otherwise.
func installedWith(name string, set ...string) {
	BeforeAll(func(ctx SpecContext) {
		wasLab, wasAPI, wasKube, wasConfig := lab, api, kube, restConfig
		other := startSite(ctx, cluster.Config{Name: "e2e-" + name, Nodes: 1, Family: cluster.IPv4}, set...)
		lab, api, kube, restConfig = other, other.API, other.Kube, other.RESTConfig
		DeferCleanup(func() { lab, api, kube, restConfig = wasLab, wasAPI, wasKube, wasConfig })
	})
}

var ourClass = ofClass(v1alpha1.DefaultLoadBalancerClass)

var _ = Describe("Installed beside another load balancer, with defaultClass off,", onLab, Ordered, func() {
	installedWith("class", "defaultClass=false")
	s := newScene()

	// untouched is a Service that nobody has written to since, nor said anything about but so many events.
	untouched := func(ctx context.Context, svc *corev1.Service, events int) {
		GinkgoHelper()
		Consistently(ctx, func(g Gomega) {
			now := s.service(ctx, svc.Name)
			g.Expect(now.ResourceVersion).To(Equal(svc.ResourceVersion))
			g.Expect(eventsOf(ctx, now)).To(HaveLen(events))
		}).Should(Succeed())
	}

	It("it serves its class, and has nothing to do with Services of another or of none", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		none := s.addService(ctx, "none")
		another := s.addService(ctx, "another", ofClass("example.com/other"))
		s.addService(ctx, "ours", ourClass)
		s.served(ctx, "ours", s.v4(1))
		addr, owner := s.announced(ctx, "ours")
		answers(ctx, addr, owner)
		untouched(ctx, none, 0)
		untouched(ctx, another, 0)
	})

	It("it gives an address back that its Service had with the class, and nothing to the Service without it", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", ourClass)
		s.served(ctx, "web", s.v4(1))
		Eventually(ctx, eventsOf).WithArguments(s.service(ctx, "web")).Should(HaveLen(1))
		become := func(kind corev1.ServiceType, class *string) func(*corev1.Service) {
			return func(svc *corev1.Service) {
				svc.Spec.Type, svc.Spec.LoadBalancerClass, svc.Spec.AllocateLoadBalancerNodePorts = kind, class, nil
			}
		}
		s.editService(ctx, "web", become(corev1.ServiceTypeClusterIP, nil))
		s.rests(ctx, s.v4(1))
		Eventually(ctx, func() *corev1.Service { return s.service(ctx, "web") }).Should(And(
			HaveField("Finalizers", BeEmpty()), HaveField("Status", Equal(corev1.ServiceStatus{}))))
		s.editService(ctx, "web", become(corev1.ServiceTypeLoadBalancer, nil))
		untouched(ctx, s.service(ctx, "web"), 1)
		s.editService(ctx, "web", become(corev1.ServiceTypeClusterIP, nil))
		class := v1alpha1.DefaultLoadBalancerClass
		s.editService(ctx, "web", become(corev1.ServiceTypeLoadBalancer, &class))
		s.served(ctx, "web", s.v4(1))
	})

	It("it says that there is no pool as long as there is none", func(ctx SpecContext) {
		s.addService(ctx, "web", ourClass)
		Expect(s.refused(ctx, "web", ipam.NoPool).Message).To(ContainSubstring("create a LoadBalancerIPPool"))
		s.addService(ctx, "asking", ourClass, asking(s.v4(5)))
		s.refused(ctx, "asking", ipam.NoPool)
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.served(ctx, "web", s.v4(1))
		s.served(ctx, "asking", s.v4(5))
	})
})
