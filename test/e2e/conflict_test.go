// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// What the controller makes of a conflict, with the spec in the place of the speaker that saw it.
var _ = Describe("A conflict that a speaker tells of", onLab, func() {
	s := newScene()
	const stranger = "02:00:00:00:00:99"

	// noSpeakers stops all speakers until the spec ends, so that nobody claims anything.
	noSpeakers := func() {
		GinkgoHelper()
		s.afterwards(func(context.Context) {
			for _, p := range lab.product.Speakers {
				Expect(p.Start()).To(Or(Succeed(), MatchError(ContainSubstring("running"))))
			}
		})
		for _, p := range lab.product.Speakers {
			Expect(p.Stop(cluster.StopGrace)).To(Succeed())
		}
	}
	// tell has the speaker of the node that is proposed for an address say something of it.
	tell := func(ctx context.Context, addr netip.Addr, change func(by string, status *v1alpha1.LoadBalancerIPStatus)) {
		GinkgoHelper()
		var ip *v1alpha1.LoadBalancerIP
		Eventually(ctx, func(g Gomega) {
			var err error
			ip, err = getIP(ctx, addr)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(ip.Spec.Owner).NotTo(BeEmpty())
			g.Expect(ip.Spec.Services).NotTo(BeEmpty())
		}).Should(Succeed())
		base := ip.DeepCopy()
		change(ip.Spec.Owner, &ip.Status)
		Expect(actingAs(ctx, cluster.Speaker, ip.Spec.Owner).Status().Patch(ctx, ip, client.MergeFrom(base))).To(Succeed())
	}
	seen := func(reason string) func(string, *v1alpha1.LoadBalancerIPStatus) {
		return func(by string, status *v1alpha1.LoadBalancerIPStatus) {
			status.Conflict = &v1alpha1.Conflict{By: by, Interface: cluster.Interface, MAC: stranger, At: metav1.Now()}
			meta.SetStatusCondition(&status.Conditions, metav1.Condition{Type: v1alpha1.AddressConflict, Status: metav1.ConditionTrue, Reason: reason, Message: "seen"})
		}
	}
	over := func(_ string, status *v1alpha1.LoadBalancerIPStatus) {
		status.Conflict = nil
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{Type: v1alpha1.AddressConflict, Status: metav1.ConditionFalse, Reason: v1alpha1.ConflictOver, Message: "gone"})
	}
	announced := func(ctx context.Context, name string) func() metav1.Condition {
		return func() metav1.Condition { return conditionOf(s.service(ctx, name), v1alpha1.ServiceAnnounced) }
	}
	saysConflict := func(status metav1.ConditionStatus) OmegaMatcher {
		return And(HaveField("Reason", controller.ReasonAddressConflict), HaveField("Status", status), HaveField("Message", ContainSubstring(stranger)))
	}
	conflicts := func(ctx context.Context, pool string) func() metav1.Condition {
		return func() metav1.Condition {
			return ptr.Deref(meta.FindStatusCondition(s.pool(ctx, pool).Status.Conditions, v1alpha1.PoolConflicts), metav1.Condition{})
		}
	}
	toldOfIt := ContainElement(And(
		HaveField("Type", corev1.EventTypeWarning), HaveField("Reason", controller.ReasonAddressConflict), HaveField("Note", ContainSubstring(stranger))))

	It("before the address was announced gives the Service another one, three times for a pool", func(ctx SpecContext) {
		noSpeakers()
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		for i := 1; i <= 3; i++ {
			tell(ctx, s.v4(i), seen(v1alpha1.ConflictProbeAnswered))
			s.served(ctx, "web", s.v4(i+1))
			Eventually(ctx, func() *v1alpha1.Quarantine { return s.ip(ctx, s.v4(i)).Spec.Quarantined }).Should(HaveField("MAC", stranger))
			s.rests(ctx, s.v4(i))
		}
		Eventually(ctx, func() (any, error) { return eventsOf(ctx, s.service(ctx, "web")) }).Should(toldOfIt)
		Eventually(ctx, conflicts(ctx, "lan")).Should(And(
			HaveField("Status", metav1.ConditionTrue), HaveField("Reason", "QuarantineLimit"), HaveField("Message", ContainSubstring(s.v4(1).String()+" ("+stranger+")"))))

		tell(ctx, s.v4(4), seen(v1alpha1.ConflictProbeAnswered))
		Eventually(ctx, announced(ctx, "web")).Should(saysConflict(metav1.ConditionFalse))
		s.stays(ctx, "web", s.v4(4))
		// Nobody is given what is quarantined but who asks for it.
		s.addService(ctx, "next")
		s.served(ctx, "next", s.v4(5))
		s.addService(ctx, "stubborn", asking(s.v4(2)))
		s.served(ctx, "stubborn", s.v4(2))
		Expect(s.ip(ctx, s.v4(2)).Spec.Quarantined).To(BeNil())
		Eventually(ctx, conflicts(ctx, "lan")).Should(HaveField("Reason", "Quarantined"))
		// A person ends a quarantine.
		Expect(api.Delete(ctx, s.ip(ctx, s.v4(1)))).To(Succeed())
		s.addService(ctx, "last")
		s.served(ctx, "last", s.v4(1))
	})

	It("leaves a Service where it asked to be", func(ctx SpecContext) {
		noSpeakers()
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", asking(s.v4(3)))
		tell(ctx, s.v4(3), seen(v1alpha1.ConflictProbeAnswered))
		s.served(ctx, "web", s.v4(3))
		Eventually(ctx, announced(ctx, "web")).Should(saysConflict(metav1.ConditionFalse))
		Eventually(ctx, func() (any, error) { return eventsOf(ctx, s.service(ctx, "web")) }).Should(toldOfIt)
		s.stays(ctx, "web", s.v4(3))
		Expect(s.ip(ctx, s.v4(3)).Spec.Quarantined).To(BeNil())
		tell(ctx, s.v4(3), over)
		Eventually(ctx, announced(ctx, "web")).Should(HaveField("Reason", controller.ReasonAwaitingClaim))
	})

	It("while the address is announced moves nothing", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		addr, owner := s.announced(ctx, "web")
		tell(ctx, addr, seen(v1alpha1.ConflictClaimSeen))
		Eventually(ctx, announced(ctx, "web")).Should(saysConflict(metav1.ConditionTrue))
		s.stays(ctx, "web", addr)
		answers(ctx, addr, owner)
		Expect(s.owner(ctx, addr)).To(BeIdenticalTo(owner))
		Expect(s.ip(ctx, addr).Spec.Quarantined).To(BeNil())
		tell(ctx, addr, over)
		Eventually(ctx, announced(ctx, "web")).Should(HaveField("Reason", controller.ReasonAnnounced))
	})
})
