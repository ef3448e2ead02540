// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
)

var _ = Describe("Another load balancer that writes to a Service of ours again and again", func() {
	s := newScene()

	It("is named, answered less and less, and given nothing, and the Service heals when it stops", func(ctx SpecContext) {
		const rogue = "rogue-lb"
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.addService(ctx, "bystander")
		s.served(ctx, "bystander", s.v4(2))
		Eventually(ctx, func() string { return conditionOf(s.service(ctx, "bystander"), v1alpha1.ServiceAnnounced).Reason }).Should(Equal(controller.ReasonAnnounced))
		w := s.witness(ctx)

		// It writes whenever the Service shows something else than what it wants.
		contesting, stop := context.WithCancel(ctx)
		var contest sync.WaitGroup
		defer contest.Wait()
		defer stop()
		contest.Go(func() {
			defer GinkgoRecover()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-contesting.Done():
					return
				case <-tick.C:
				}
				svc := s.service(ctx, "web")
				if slices.Equal(shown(svc), []string{s.v4(7).String()}) {
					continue
				}
				base := svc.DeepCopy()
				svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: s.v4(7).String()}}
				Expect(api.Status().Patch(ctx, svc, client.MergeFrom(base), client.FieldOwner(rogue))).To(Succeed())
			}
		})
		Eventually(ctx, func(g Gomega) {
			svc := s.service(ctx, "web")
			allocated := conditionOf(svc, v1alpha1.ServiceAllocated)
			g.Expect(allocated).To(And(
				HaveField("Status", metav1.ConditionTrue), HaveField("Reason", controller.ReasonStatusContested), HaveField("Message", ContainSubstring(rogue))))
			g.Expect(eventsOf(ctx, svc)).To(ContainElement(And(
				HaveField("Type", corev1.EventTypeWarning), HaveField("Reason", controller.ReasonStatusContested), HaveField("Note", ContainSubstring(rogue)))))
		}).Should(Succeed())

		before := len(w.showings("web"))
		Consistently(ctx, func() int { return len(w.showings("web")) - before }).WithTimeout(4*time.Second).Should(
			BeNumerically("<=", 6), "with pauses of 1, 2 and 4 s what the Service shows changes at most three times and back")
		Expect(len(w.toServices())).To(BeNumerically("<", 30))
		Expect(w.toServices()).To(HaveEach(ContainSubstring("Service web ")), "nobody else is concerned")
		_, err := getIP(ctx, s.v4(7))
		Expect(apierrors.IsNotFound(err)).To(BeTrue(), "what another gave is not ours: %v", err)
		Expect(holders(s.ip(ctx, s.v4(1)))).To(Equal([]string{string(s.service(ctx, "web").UID)}))
		s.addService(ctx, "asking", asking(s.v4(7)))
		s.refused(ctx, "asking", "ForeignAddress")

		stop()
		contest.Wait()
		// On a slow machine there were more losses, and the pause is longer.
		Eventually(ctx, func() []string { return shown(s.service(ctx, "web")) }).WithTimeout(2 * time.Minute).Should(Equal(texts([]netip.Addr{s.v4(1)})))
		s.served(ctx, "web", s.v4(1))
		s.served(ctx, "asking", s.v4(7))
		Expect(s.service(ctx, "bystander").Status.LoadBalancer.Ingress).To(HaveLen(1))
	})
})
