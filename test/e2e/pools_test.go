// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func labelled(key, value string) func(*corev1.Service) {
	return func(svc *corev1.Service) { metav1.SetMetaDataLabel(&svc.ObjectMeta, key, value) }
}

func forServices(key, value string) func(*v1alpha1.LoadBalancerIPPool) {
	return func(p *v1alpha1.LoadBalancerIPPool) {
		p.Spec.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
}

var _ = Describe("A pool", func() {
	s := newScene()

	// condition waits for a condition of the pool.
	condition := func(ctx context.Context, pool, kind string, status metav1.ConditionStatus) metav1.Condition {
		GinkgoHelper()
		var found metav1.Condition
		Eventually(ctx, func() metav1.ConditionStatus {
			found = ptr.Deref(meta.FindStatusCondition(s.pool(ctx, pool).Status.Conditions, kind), metav1.Condition{})
			return found.Status
		}).Should(Equal(status), "%s of pool %s", kind, pool)
		return found
	}

	It("with a serviceSelector serves only Services with its labels", func(ctx SpecContext) {
		s.addPool(ctx, "gold", []string{between(s.v4(1), s.v4(9))}, func(p *v1alpha1.LoadBalancerIPPool) {
			p.Spec.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}
		})
		s.addService(ctx, "plain")
		s.addService(ctx, "gold", labelled("tier", "gold"))
		s.served(ctx, "gold", s.v4(1))
		s.refused(ctx, "plain", "NoMatchingPool")
		s.editService(ctx, "plain", labelled("tier", "gold"))
		s.served(ctx, "plain", s.v4(2))
	})

	It("with a namespaceSelector serves only namespaces with its labels, and sees them change", func(ctx SpecContext) {
		tenant := s.namespace + "-tenant"
		s.addNamespace(ctx, tenant, nil)
		s.addPool(ctx, "tenants", []string{between(s.v4(1), s.v4(9))}, func(p *v1alpha1.LoadBalancerIPPool) {
			p.Spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tenant": s.namespace}}
		})
		s.addService(ctx, "web", inNamespace(tenant))
		s.refusedIn(ctx, tenant, "web", "NoMatchingPool")
		ns := &corev1.Namespace{}
		Expect(api.Get(ctx, objectKey("", tenant), ns)).To(Succeed())
		metav1.SetMetaDataLabel(&ns.ObjectMeta, "tenant", s.namespace)
		Expect(api.Update(ctx, ns)).To(Succeed())
		s.servedIn(ctx, tenant, "web", s.v4(1))
	})

	It("with both selectors serves only what both match", func(ctx SpecContext) {
		s.addPool(ctx, "both", []string{between(s.v4(1), s.v4(9))}, func(p *v1alpha1.LoadBalancerIPPool) {
			p.Spec.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}
		})
		other := s.namespace + "-other"
		s.addNamespace(ctx, other, nil)
		s.addService(ctx, "label-only", inNamespace(other), labelled("tier", "gold"))
		s.addService(ctx, "namespace-only")
		s.addService(ctx, "both", labelled("tier", "gold"))
		s.served(ctx, "both", s.v4(1))
		s.refused(ctx, "namespace-only", "NoMatchingPool")
		s.refusedIn(ctx, other, "label-only", "NoMatchingPool")
	})

	It("of the highest priority goes first, and the next when it is exhausted", func(ctx SpecContext) {
		s.addPool(ctx, "a-low", []string{between(s.v4(1), s.v4(9))})
		s.addPool(ctx, "z-high", []string{s.v4(20).String()}, func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.Priority = 10 })
		s.addService(ctx, "first")
		s.served(ctx, "first", s.v4(20))
		s.addService(ctx, "second")
		s.served(ctx, "second", s.v4(1))
	})

	It("that is exhausted serves the waiting Service once another is deleted", func(ctx SpecContext) {
		s.addPool(ctx, "small", []string{s.v4(1).String()})
		s.addService(ctx, "first")
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "waiting")
		Expect(s.refused(ctx, "waiting", "PoolExhausted").Message).To(ContainSubstring(s.poolName("small")))
		Expect(condition(ctx, "small", v1alpha1.PoolExhausted, metav1.ConditionTrue).Message).To(ContainSubstring("IPv4"))
		s.deleteService(ctx, "first")
		s.served(ctx, "waiting", s.v4(1))
	})

	It("that is exhausted serves the waiting Service once it grows", func(ctx SpecContext) {
		s.addPool(ctx, "small", []string{s.v4(1).String()})
		s.addService(ctx, "first")
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "waiting")
		s.refused(ctx, "waiting", "PoolExhausted")
		s.editPool(ctx, "small", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.Addresses = append(p.Addresses, v1alpha1.AddressRange(s.v4(7).String()))
		})
		s.served(ctx, "waiting", s.v4(7))
		s.stays(ctx, "first", s.v4(1))
	})

	It("that is disabled keeps what is held and gives nothing new", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "held")
		s.served(ctx, "held", s.v4(1))
		s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Disabled = true })
		s.awaitObserved(ctx, "lan")
		s.addService(ctx, "new")
		s.refused(ctx, "new", "PoolDisabled")
		s.stays(ctx, "held", s.v4(1))
		s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Disabled = false })
		Eventually(ctx, func() []string { return shown(s.service(ctx, "new")) }).Should(HaveLen(1))
	})

	It("gives excluded addresses to nobody, and buggy ones only to who asks", func(ctx SpecContext) {
		p4, _ := s.prefix()
		s.addPool(ctx, "lan", []string{p4.Addr().String() + "-" + s.v4(3).String()}, func(p *v1alpha1.LoadBalancerIPPool) {
			p.Spec.Exclude = []v1alpha1.AddressRange{v1alpha1.AddressRange(s.v4(1).String())}
			p.Spec.AvoidBuggyIPs = true
		})
		s.addService(ctx, "first")
		s.served(ctx, "first", s.v4(2))
		s.addService(ctx, "excluded", asking(s.v4(1)))
		s.refused(ctx, "excluded", "AddressExcluded")
		s.addService(ctx, "buggy", asking(p4.Addr()))
		s.served(ctx, "buggy", p4.Addr())
	})

	It("with maxPerNamespace gives a namespace no more", func(ctx SpecContext) {
		other := s.namespace + "-other"
		s.addNamespace(ctx, other, nil)
		s.addPool(ctx, "fair", []string{between(s.v4(1), s.v4(9))}, func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.MaxPerNamespace = ptr.To[int32](1) })
		s.addService(ctx, "first")
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second")
		s.refused(ctx, "second", "QuotaExceeded")
		s.addService(ctx, "first", inNamespace(other))
		s.servedIn(ctx, other, "first", s.v4(2))
		s.deleteService(ctx, "first")
		s.served(ctx, "second", s.v4(3))
	})

	It("counts its addresses and tells overlaps", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(10)), between(s.v6(0), s.v6(15))})
		s.addService(ctx, "web", families(corev1.IPFamilyPolicyRequireDualStack))
		s.served(ctx, "web", s.v4(1), s.v6(0))
		Eventually(ctx, func() v1alpha1.LoadBalancerIPPoolStatus { return s.pool(ctx, "lan").Status }).Should(And(
			HaveField("IPv4", HaveValue(Equal(v1alpha1.AddressCount{Capacity: "10", Allocated: "1", Available: "9"}))),
			HaveField("IPv6", HaveValue(Equal(v1alpha1.AddressCount{Capacity: "16", Allocated: "1", Available: "15"}))),
		))
		condition(ctx, "lan", v1alpha1.PoolReady, metav1.ConditionTrue)
		condition(ctx, "lan", v1alpha1.PoolExhausted, metav1.ConditionFalse)
		condition(ctx, "lan", v1alpha1.PoolOverlaps, metav1.ConditionFalse)
		s.addPool(ctx, "over", []string{s.v4(10).String()})
		Expect(condition(ctx, "lan", v1alpha1.PoolOverlaps, metav1.ConditionTrue).Message).To(ContainSubstring(s.poolName("over")))
		Expect(condition(ctx, "over", v1alpha1.PoolOverlaps, metav1.ConditionTrue).Message).To(ContainSubstring(s.poolName("lan")))
	})

	It("with a reversed IPv6 range is not Ready, and its other ranges work", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v6(9), s.v6(1)), between(s.v4(1), s.v4(9))})
		Expect(condition(ctx, "lan", v1alpha1.PoolReady, metav1.ConditionFalse).Message).To(ContainSubstring(between(s.v6(9), s.v6(1))))
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
	})

	It("that shrinks or goes strands the addresses held, which stay", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		mismatch := func() metav1.Condition {
			return ptr.Deref(meta.FindStatusCondition(s.ip(ctx, s.v4(1)).Status.Conditions, v1alpha1.PoolMismatch), metav1.Condition{})
		}
		s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.Addresses = []v1alpha1.AddressRange{v1alpha1.AddressRange(s.v4(2).String())}
		})
		Eventually(ctx, mismatch).Should(And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", "NotInPool")))
		Expect(api.Delete(ctx, s.pool(ctx, "lan"))).To(Succeed())
		Eventually(ctx, mismatch).Should(And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", "PoolGone")))
		s.stays(ctx, "web", s.v4(1))
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		Eventually(ctx, mismatch).Should(HaveField("Status", metav1.ConditionFalse))
	})
})
