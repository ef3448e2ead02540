// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

var _ = Describe("A released address", func() {
	s := newScene()

	reuseAfter := func(d time.Duration) func(*v1alpha1.LoadBalancerIPPool) {
		return func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.ReuseAfter = &metav1.Duration{Duration: d} }
	}
	isGone := func(ctx SpecContext, i int) func() bool {
		return func() bool {
			_, err := getIP(ctx, s.v4(i))
			return apierrors.IsNotFound(err)
		}
	}

	It("rests, and goes back to the Service of the same name", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.deleteService(ctx, "web")
		s.rests(ctx, s.v4(1))
		Expect(s.ip(ctx, s.v4(1)).Spec.Released.Service).To(Equal(v1alpha1.ServiceName{Namespace: s.namespace, Name: "web"}))
		s.addService(ctx, "other")
		s.served(ctx, "other", s.v4(2))
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
	})

	It("goes to another Service when nothing fresher is left", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(2))})
		s.addService(ctx, "first")
		s.served(ctx, "first", s.v4(1))
		s.deleteService(ctx, "first")
		s.rests(ctx, s.v4(1))
		s.addService(ctx, "second")
		s.served(ctx, "second", s.v4(2))
		s.addService(ctx, "third")
		s.served(ctx, "third", s.v4(1))
	})

	It("is forgotten when it has rested", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))}, reuseAfter(2*time.Second))
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.deleteService(ctx, "web")
		s.rests(ctx, s.v4(1))
		Eventually(isGone(ctx, 1)).Should(BeTrue())
	})

	It("is forgotten at once where the pool lets nothing rest", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))}, reuseAfter(0))
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.deleteService(ctx, "web")
		Eventually(isGone(ctx, 1)).Should(BeTrue())
		s.addService(ctx, "other")
		s.served(ctx, "other", s.v4(1))
	})

	It("comes from a Service that is of type LoadBalancer no longer, which keeps nothing of ours", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", ofClass(v1alpha1.DefaultLoadBalancerClass))
		s.served(ctx, "web", s.v4(1))
		s.editService(ctx, "web", func(svc *corev1.Service) {
			svc.Spec.Type, svc.Spec.LoadBalancerClass = corev1.ServiceTypeClusterIP, nil
			svc.Spec.AllocateLoadBalancerNodePorts = nil
		})
		s.rests(ctx, s.v4(1))
		Eventually(ctx, func() *corev1.Service { return s.service(ctx, "web") }).Should(And(
			HaveField("Finalizers", BeEmpty()), HaveField("Status", Equal(corev1.ServiceStatus{}))))
	})

	It("is given no sooner than its Service is gone", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{s.v4(1).String()})
		svc := s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.editService(ctx, "web", func(svc *corev1.Service) { svc.Finalizers = append(svc.Finalizers, "example.com/waits") })
		s.afterwards(func(ctx context.Context) {
			if err := api.Get(ctx, objectKey(s.namespace, "web"), svc); !apierrors.IsNotFound(err) {
				s.editService(ctx, "web", func(svc *corev1.Service) { svc.Finalizers = nil })
			}
		})
		Expect(api.Delete(ctx, svc)).To(Succeed())
		// Another's finalizer holds the Service; what we gave it is cleaned up all the same.
		s.rests(ctx, s.v4(1))
		Expect(s.service(ctx, "web").Finalizers).To(Equal([]string{"example.com/waits"}))
		Expect(shown(s.service(ctx, "web"))).To(BeEmpty())
	})
})
