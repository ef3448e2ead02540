// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

var _ = Describe("An address in use", func() {
	s := newScene()

	It("heals when a person deletes its object", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first")
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second")
		s.served(ctx, "second", s.v4(2))
		before := s.ip(ctx, s.v4(2))
		Expect(api.Delete(ctx, before)).To(Succeed())
		Eventually(ctx, func(g Gomega) {
			ip, err := getIP(ctx, s.v4(2))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(ip.UID).NotTo(Equal(before.UID))
			g.Expect(ip.Spec.Services).To(Equal(before.Spec.Services))
		}).Should(Succeed())
		s.stays(ctx, "second", s.v4(2))
	})

	It("is restored when somebody empties the Service's status", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		svc := s.service(ctx, "web")
		svc.Status = corev1.ServiceStatus{}
		Expect(api.Status().Update(ctx, svc)).To(Succeed())
		s.served(ctx, "web", s.v4(1))
	})

	It("is bound anew to a Service of the same name that was restored from a backup", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		old := s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.deleteService(ctx, "web")
		s.addService(ctx, "web", func(svc *corev1.Service) { svc.Finalizers = []string{finalizer} })
		s.served(ctx, "web", s.v4(1))
		Expect(s.service(ctx, "web").UID).NotTo(Equal(old.UID))
	})

	DescribeTable("is there again, with the finalizer and as it was, after", func(ctx SpecContext, harm func(context.Context, string)) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addService(ctx, "gap")
		s.served(ctx, "gap", s.v4(1))
		s.addService(ctx, "web", families(corev1.IPFamilyPolicyRequireDualStack), sharing("k"), tcp(80))
		s.served(ctx, "web", s.v4(2), s.v6(1))
		s.addService(ctx, "dns", sharing("k"), tcp(53))
		s.served(ctx, "dns", s.v4(2))
		// What heals must not be taken by mistake for what is free.
		s.deleteService(ctx, "gap")
		s.rests(ctx, s.v4(1))
		Expect(api.Delete(ctx, s.ip(ctx, s.v4(1)))).To(Succeed())

		w := s.witness(ctx)
		harm(ctx, "web")
		s.served(ctx, "web", s.v4(2), s.v6(1))
		s.served(ctx, "dns", s.v4(2))
		Consistently(ctx, func() []string { return w.showings("dns") }).Should(Equal([]string{s.v4(2).String()}))
		Expect(shown(s.service(ctx, "web"))).To(Equal(texts([]netip.Addr{s.v4(2), s.v6(1)})))
		Expect(s.service(ctx, "web").Finalizers).To(Equal([]string{finalizer}))
		_, err := getIP(ctx, s.v4(1))
		Expect(apierrors.IsNotFound(err)).To(BeTrue(), "nothing else should have been taken: %v", err)
	},
		Entry("its finalizer is taken off", func(ctx context.Context, name string) {
			s.editService(ctx, name, func(svc *corev1.Service) { svc.Finalizers = nil })
		}),
		Entry("its conditions are taken off", func(ctx context.Context, name string) {
			svc := s.service(ctx, name)
			svc.Status.Conditions = nil
			Expect(api.Status().Update(ctx, svc)).To(Succeed())
		}),
		Entry("another address is written over it", func(ctx context.Context, name string) {
			svc := s.service(ctx, name)
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: s.v4(1).String()}}
			Expect(api.Status().Update(ctx, svc)).To(Succeed())
		}),
		Entry("a hostname is put beside it", func(ctx context.Context, name string) {
			svc := s.service(ctx, name)
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{Hostname: "web.example.com"})
			Expect(api.Status().Update(ctx, svc)).To(Succeed())
		}),
		Entry("its status and finalizer go together", func(ctx context.Context, name string) {
			s.editService(ctx, name, func(svc *corev1.Service) { svc.Finalizers = nil })
			empty := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}}
			Expect(api.Status().Patch(ctx, empty, client.RawPatch(types.MergePatchType, []byte(`{"status": null}`)))).To(Succeed())
		}),
		Entry("the objects of both addresses are deleted", func(ctx context.Context, _ string) {
			Expect(api.Delete(ctx, s.ip(ctx, s.v4(2)))).To(Succeed())
			Expect(api.Delete(ctx, s.ip(ctx, s.v6(1)))).To(Succeed())
		}),
		Entry("its object is made to say that it was released", func(ctx context.Context, _ string) {
			ip := s.ip(ctx, s.v4(2))
			ip.Spec.Services = nil
			ip.Spec.Released = &v1alpha1.Release{Service: v1alpha1.ServiceName{Namespace: s.namespace, Name: "nobody"}, At: metav1.Now()}
			Expect(api.Update(ctx, ip)).To(Succeed())
		}),
	)
})
