// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
)

// The annotations of peers, by what they ask for.
var (
	addressAnnotations = []string{
		"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs", "lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips", "kube-vip.io/loadbalancerIPs",
	}
	poolAnnotations              = []string{"metallb.io/address-pool", "metallb.universe.tf/address-pool"}
	sharingKeyAnnotations        = []string{"metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip", "lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"}
	sharingNamespacesAnnotations = []string{"lbipam.cilium.io/sharing-cross-namespace", "io.cilium/lb-ipam-sharing-cross-namespace"}
)

// each is an entry for each annotation.
func each(annotations []string) []any {
	var entries []any
	for _, a := range annotations {
		entries = append(entries, Entry(nil, a))
	}
	return entries
}

func sentence(format string) func(string) string {
	return func(annotation string) string { return fmt.Sprintf(format, annotation) }
}

var _ = Describe("With compatAnnotations", onLab, Ordered, func() {
	installedWith("compat", "compatAnnotations={metallb,cilium,kube-vip}")
	s := newScene()

	// contradicts waits until a Service says that part of its request is not followed, in its condition and a Warning.
	contradicts := func(ctx context.Context, name string, ignored, followed string) {
		GinkgoHelper()
		Eventually(ctx, func(g Gomega) {
			svc := s.service(ctx, name)
			allocated := conditionOf(svc, v1alpha1.ServiceAllocated)
			g.Expect(allocated).To(And(
				HaveField("Status", metav1.ConditionTrue),
				HaveField("Reason", controller.ReasonContradictoryRequest),
				HaveField("Message", And(ContainSubstring(ignored), ContainSubstring("is not followed, because"), ContainSubstring(followed)))))
			g.Expect(eventsOf(ctx, svc)).To(ContainElement(And(
				HaveField("Type", corev1.EventTypeWarning), HaveField("Reason", controller.ReasonContradictoryRequest), HaveField("Note", allocated.Message))))
		}).Should(Succeed())
	}

	DescribeTable("an address is asked for by number, and moved by", append([]any{func(ctx SpecContext, annotation string) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", annotated(annotation, s.v4(5).String()))
		s.served(ctx, "web", s.v4(5))
		Expect(conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAllocated).Reason).To(Equal(controller.ReasonAllocated))
		w := s.witness(ctx)
		s.editService(ctx, "web", annotated(annotation, s.v4(6).String()))
		s.served(ctx, "web", s.v4(6))
		s.editService(ctx, "web", without(annotation))
		w.sawOnly(ctx, "web", s.v4(5), s.v4(6))
	}, sentence("%s")}, each(addressAnnotations)...)...)

	DescribeTable("a pool is asked for by", append([]any{func(ctx SpecContext, annotation string) {
		s.addPool(ctx, "a-lan", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "b-asked", []string{between(s.v4(21), s.v4(29))}, byName)
		s.addService(ctx, "web", annotated(annotation, s.poolName("b-asked")))
		s.served(ctx, "web", s.v4(21))
	}, sentence("%s")}, each(poolAnnotations)...)...)

	DescribeTable("an address is shared by", append([]any{func(ctx SpecContext, annotation string) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", annotated(annotation, "k"), tcp(80))
		s.served(ctx, "web", s.v4(1))
		s.addService(ctx, "dns", annotated(annotation, "k"), tcp(53))
		s.served(ctx, "dns", s.v4(1))
		s.addService(ctx, "ours", sharing("k"), tcp(443))
		s.served(ctx, "ours", s.v4(1))
		s.addService(ctx, "other", annotated(annotation, "l"), tcp(444))
		s.served(ctx, "other", s.v4(2))
	}, sentence("%s")}, each(sharingKeyAnnotations)...)...)

	DescribeTable("an address is shared across namespaces by", append([]any{func(ctx SpecContext, annotation string) {
		other := s.namespace + "-other"
		s.addNamespace(ctx, other, nil)
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", sharing("k"), tcp(80), annotated(annotation, other))
		s.served(ctx, "web", s.v4(1))
		s.addService(ctx, "dns", inNamespace(other), sharing("k"), tcp(53), annotated(annotation, "*"))
		s.servedIn(ctx, other, "dns", s.v4(1))
		s.addService(ctx, "alone", inNamespace(other), sharing("k"), tcp(443))
		s.servedIn(ctx, other, "alone", s.v4(2))
	}, sentence("%s")}, each(sharingNamespacesAnnotations)...)...)

	It("ours are followed before spec.loadBalancerIP, and that before theirs, and what is not followed is told", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		field := func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = s.v4(4).String() }
		theirs := annotated("metallb.io/loadBalancerIPs", s.v4(5).String())
		s.addService(ctx, "web", asking(s.v4(3)), field, theirs)
		s.served(ctx, "web", s.v4(3))
		contradicts(ctx, "web", "spec.loadBalancerIP", v1alpha1.AnnotationAddresses)
		contradicts(ctx, "web", "metallb.io/loadBalancerIPs", v1alpha1.AnnotationAddresses)
		s.addService(ctx, "no-annotation", func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = s.v4(6).String() }, theirs)
		s.served(ctx, "no-annotation", s.v4(6))
		contradicts(ctx, "no-annotation", "metallb.io/loadBalancerIPs", "spec.loadBalancerIP")

		By("the contradiction going")
		w := s.witness(ctx)
		s.editService(ctx, "web", all(without("metallb.io/loadBalancerIPs"), func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = "" }))
		Eventually(ctx, func() string { return conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAllocated).Reason }).Should(Equal(controller.ReasonAllocated))
		w.sawOnly(ctx, "web", s.v4(3))
	})

	It("the first peer that was named is followed, and a peer's present name before its older one", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "other", []string{between(s.v4(21), s.v4(29))})
		s.addService(ctx, "peers", annotated("kube-vip.io/loadbalancerIPs", s.v4(7).String()), annotated("lbipam.cilium.io/ips", s.v4(6).String()))
		s.served(ctx, "peers", s.v4(6))
		contradicts(ctx, "peers", "kube-vip.io/loadbalancerIPs", "lbipam.cilium.io/ips")
		s.addService(ctx, "names", annotated("metallb.universe.tf/address-pool", s.poolName("lan")), annotated("metallb.io/address-pool", s.poolName("other")))
		s.served(ctx, "names", s.v4(21))
		contradicts(ctx, "names", "metallb.universe.tf/address-pool", "metallb.io/address-pool")
		s.addService(ctx, "keys", sharing("k"), annotated("lbipam.cilium.io/sharing-key", "l"))
		s.served(ctx, "keys", s.v4(1))
		contradicts(ctx, "keys", "lbipam.cilium.io/sharing-key", v1alpha1.AnnotationSharingKey)
		Expect(s.ip(ctx, s.v4(1)).Spec.SharingKey).To(Equal("k"))
	})

	It("the same said twice is no contradiction", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		edits := []func(*corev1.Service){asking(s.v4(5)), func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = s.v4(5).String() }}
		for _, a := range addressAnnotations {
			edits = append(edits, annotated(a, " "+s.v4(5).String()))
		}
		s.addService(ctx, "web", edits...)
		s.served(ctx, "web", s.v4(5))
		Expect(conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAllocated).Reason).To(Equal(controller.ReasonAllocated))
	})
})

var _ = Describe("Without compatAnnotations", func() {
	s := newScene()

	It("annotations of peers mean nothing", func(ctx SpecContext) {
		s.addPool(ctx, "a-lan", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "b-other", []string{between(s.v4(21), s.v4(29))})
		theirs := func(svc *corev1.Service) {
			for _, a := range addressAnnotations {
				annotated(a, s.v4(25).String())(svc)
			}
			for _, a := range poolAnnotations {
				annotated(a, s.poolName("b-other"))(svc)
			}
			for _, a := range sharingKeyAnnotations {
				annotated(a, "k")(svc)
			}
			for _, a := range sharingNamespacesAnnotations {
				annotated(a, "*")(svc)
			}
		}
		for i, name := range []string{"first", "second"} {
			s.addService(ctx, name, theirs, tcp(int32(80+i)))
			s.served(ctx, name, s.v4(i+1))
			Expect(conditionOf(s.service(ctx, name), v1alpha1.ServiceAllocated).Reason).To(Equal(controller.ReasonAllocated))
		}
	})

	It("our annotation is followed before spec.loadBalancerIP, and that is told", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", asking(s.v4(3)), func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = s.v4(4).String() })
		s.served(ctx, "web", s.v4(3))
		Expect(conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAllocated)).To(And(
			HaveField("Reason", controller.ReasonContradictoryRequest),
			HaveField("Message", ContainSubstring(fmt.Sprintf("spec.loadBalancerIP says %q", s.v4(4))))))
	})
})
