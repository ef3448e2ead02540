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

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// mismatch is the PoolMismatch condition of an address, empty if it has none.
func (s *scene) mismatch(ctx context.Context, addr netip.Addr) metav1.Condition {
	GinkgoHelper()
	return ptr.Deref(meta.FindStatusCondition(s.ip(ctx, addr).Status.Conditions, v1alpha1.PoolMismatch), metav1.Condition{})
}

// stranded waits until an address says that its pool no longer has it.
func (s *scene) stranded(ctx context.Context, addr netip.Addr, reason string) {
	GinkgoHelper()
	Eventually(ctx, func() metav1.Condition { return s.mismatch(ctx, addr) }).Should(And(
		HaveField("Status", metav1.ConditionTrue), HaveField("Reason", reason), HaveField("Message", ContainSubstring("stays with its Service"))))
}

// healed waits until an address says that its pool has it again.
func (s *scene) healed(ctx context.Context, addr netip.Addr) {
	GinkgoHelper()
	Eventually(ctx, func() metav1.Condition { return s.mismatch(ctx, addr) }).Should(
		And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", "InPool")))
}

func (s *scene) deletePool(ctx context.Context, name string) {
	GinkgoHelper()
	Expect(api.Delete(ctx, s.pool(ctx, name))).To(Succeed())
}

func ranges(list ...any) []v1alpha1.AddressRange {
	var out []v1alpha1.AddressRange
	for _, r := range list {
		switch r := r.(type) {
		case string:
			out = append(out, v1alpha1.AddressRange(r))
		case netip.Addr:
			out = append(out, v1alpha1.AddressRange(r.String()))
		}
	}
	return out
}

var _ = Describe("A pool that goes", func() {
	s := newScene()

	It("and comes back strands its addresses and heals them, and they are announced throughout", onLab, func(ctx SpecContext) {
		lan := []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))}
		s.addPool(ctx, "lan", lan)
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
		claim := s.ip(ctx, addr).Status.L2
		w := s.witness(ctx)

		s.deletePool(ctx, "lan")
		s.stranded(ctx, addr, "PoolGone")
		Consistently(ctx, whoHas).WithArguments(addr).Should(Equal([]string{owner.MAC.String()}))
		s.addService(ctx, "waiting")
		Eventually(ctx, func() metav1.ConditionStatus {
			return conditionOf(s.service(ctx, "waiting"), v1alpha1.ServiceAllocated).Status
		}).Should(Equal(metav1.ConditionFalse))

		s.addPool(ctx, "lan", lan)
		s.healed(ctx, addr)
		s.served(ctx, "waiting", s.v4(2))
		Consistently(ctx, whoHas).WithArguments(addr).Should(Equal([]string{owner.MAC.String()}))
		w.sawOnly(ctx, "web", addr)
		Expect(w.claims(addr)).To(HaveLen(1))
		Expect(s.ip(ctx, addr).Status.L2).To(Equal(claim))
		Expect(w.toServices()).To(HaveEach(ContainSubstring("Service waiting")))
	})

	It("with all others leaves every Service what it has, in whatever way it got it", func(ctx SpecContext) {
		held := s.serveAllWays(ctx)
		w := s.witness(ctx)
		s.deletePool(ctx, "lan")
		s.deletePool(ctx, "small")
		for _, addrs := range held {
			for _, addr := range addrs {
				s.stranded(ctx, addr, "PoolGone")
			}
		}
		s.refused(ctx, "a-waiting", ipam.PoolNotFound)
		for name, addrs := range held {
			s.served(ctx, name, addrs...)
			Expect(w.showings(name)).To(HaveLen(1), name)
		}
		Expect(w.toServices()).To(HaveEach(ContainSubstring("Service a-waiting")))
	})

	It("is not gone from a stranded address that is asked for, and that rests in no pool", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Addresses = ranges(between(s.v4(2), s.v4(9))) })
		s.stranded(ctx, s.v4(1), "NotInPool")
		s.addService(ctx, "asking", asking(s.v4(1)))
		s.refused(ctx, "asking", ipam.AddressNotInPool)

		By("the Service going and coming back")
		s.deleteService(ctx, "web")
		s.rests(ctx, s.v4(1))
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(2))
		s.refused(ctx, "asking", ipam.AddressNotInPool)
	})
})

// Whatever is edited: who holds an address keeps it, his Service and the claim are not written, and only who comes later
// feels the edit.
var _ = Describe("An edit of a pool", func() {
	s := newScene()

	DescribeTable("moves nobody, writes no Service, and counts for who comes later:",
		func(ctx SpecContext, edit func(*v1alpha1.LoadBalancerIPPoolSpec), strands bool, reason ipam.Reason) {
			zero, _ := s.prefix()
			s.addPool(ctx, "lan", []string{between(zero.Addr(), s.v4(9))})
			for i, name := range []string{"zero", "one"} {
				s.addService(ctx, name)
				s.served(ctx, name, s.v4(i))
			}
			s.addService(ctx, "sharing", sharing("k"), tcp(80))
			s.served(ctx, "sharing", s.v4(2))
			s.addService(ctx, "asking", asking(s.v4(5)))
			s.served(ctx, "asking", s.v4(5))
			names := []string{"zero", "one", "sharing", "asking"}
			held := []netip.Addr{s.v4(0), s.v4(1), s.v4(2), s.v4(5)}
			for i, name := range names {
				Eventually(ctx, func() string { return conditionOf(s.service(ctx, name), v1alpha1.ServiceAnnounced).Reason }).Should(Equal("Announced"))
				Eventually(ctx, eventsOf).WithArguments(s.service(ctx, name)).Should(HaveLen(1), "%s", held[i])
			}

			w := s.witness(ctx)
			s.editPool(ctx, "lan", edit)
			s.awaitObserved(ctx, "lan")
			for _, addr := range held {
				if strands {
					s.stranded(ctx, addr, "NotInPool")
				}
			}
			Consistently(ctx, w.toServices).Should(BeEmpty())
			for i, name := range names {
				s.served(ctx, name, held[i])
				Expect(w.claims(held[i])).To(HaveLen(1))
				Expect(eventsOf(ctx, s.service(ctx, name))).To(HaveLen(1))
			}
			if !strands {
				for _, addr := range held {
					Expect(s.mismatch(ctx, addr)).To(BeZero())
				}
			}

			s.addService(ctx, "newcomer")
			if reason == "" {
				Eventually(ctx, func() []string { return shown(s.service(ctx, "newcomer")) }).Should(HaveLen(1))
				Expect(shown(s.service(ctx, "newcomer"))).NotTo(ContainElement(BeElementOf(texts(held))))
			} else {
				s.refused(ctx, "newcomer", reason)
			}
			for i, name := range names {
				Expect(w.showings(name)).To(Equal([]string{held[i].String()}))
			}
		},
		Entry("disabled", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Disabled = true }, false, ipam.PoolDisabled),
		Entry("autoAssign off", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.AutoAssign = ptr.To(false) }, false, ipam.NoAutoAssignPool),
		Entry("a serviceSelector that selects none of them", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}
		}, false, ipam.NoMatchingPool),
		Entry("a namespaceSelector that selects nothing", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"no": "such"}}
		}, false, ipam.NoMatchingPool),
		Entry("a lower maxPerNamespace", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.MaxPerNamespace = ptr.To[int32](1) }, false, ipam.QuotaExceeded),
		Entry("avoidBuggyIPs, though one holds .0", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.AvoidBuggyIPs = true }, false, ipam.Reason("")),
		Entry("another priority", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Priority = -5 }, false, ipam.Reason("")),
		Entry("more addresses", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.Addresses = append(p.Addresses, ranges(between(s.v4(20), s.v4(29)))...)
		}, false, ipam.Reason("")),
		Entry("the same addresses written otherwise", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.Addresses = ranges(between(s.v4(4), s.v4(9)), between(s.v4(0), s.v4(6)))
		}, false, ipam.Reason("")),
		Entry("an exclusion of all that is held", func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.Exclude = ranges(between(s.v4(0), s.v4(2)), s.v4(5))
		}, true, ipam.Reason("")),
		Entry("other addresses altogether", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Addresses = ranges(between(s.v4(20), s.v4(29))) }, true, ipam.Reason("")),
	)

	It("that adds one with the same addresses and a higher priority moves nobody and gives nothing twice", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(4))})
		for i, name := range []string{"first", "second"} {
			s.addService(ctx, name)
			s.served(ctx, name, s.v4(i+1))
		}
		w := s.witness(ctx)
		s.addPool(ctx, "over", []string{between(s.v4(1), s.v4(9))}, func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.Priority = 10 })
		s.awaitObserved(ctx, "over")
		s.addService(ctx, "third")
		s.served(ctx, "third", s.v4(3))
		Expect(s.ip(ctx, s.v4(3)).Spec.Pool).To(Equal(s.poolName("over")))
		Expect(s.ip(ctx, s.v4(1)).Spec.Pool).To(Equal(s.poolName("lan")))
		s.addService(ctx, "asking", asking(s.v4(1)))
		s.refused(ctx, "asking", ipam.AddressInUse)

		By("the first pool going, whose addresses the other has")
		s.deletePool(ctx, "lan")
		s.stranded(ctx, s.v4(1), "PoolGone")
		s.addService(ctx, "fourth")
		s.served(ctx, "fourth", s.v4(4))
		w.sawOnly(ctx, "first", s.v4(1))
		w.sawOnly(ctx, "second", s.v4(2))
		w.sawOnly(ctx, "third", "", s.v4(3))
	})

	It("that disables it keeps it from being joined, asked, and returned to", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "sharing", sharing("k"), tcp(80))
		s.served(ctx, "sharing", s.v4(1))
		s.addService(ctx, "rested")
		s.served(ctx, "rested", s.v4(2))
		s.deleteService(ctx, "rested")
		s.rests(ctx, s.v4(2))
		s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Disabled = true })
		s.awaitObserved(ctx, "lan")
		s.addService(ctx, "joining", sharing("k"), tcp(443))
		s.addService(ctx, "asking", asking(s.v4(5)))
		s.addService(ctx, "rested")
		for _, name := range []string{"joining", "asking", "rested"} {
			s.refused(ctx, name, ipam.PoolDisabled)
		}
		s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Disabled = false })
		s.served(ctx, "joining", s.v4(1))
		s.served(ctx, "asking", s.v4(5))
		s.served(ctx, "rested", s.v4(2))
	})
})

var _ = Describe("A pool's status", func() {
	s := newScene()

	// counts are what the pool says of its families: allocated and available of each.
	counts := func(ctx context.Context) func() []string {
		return func() []string {
			status := s.pool(ctx, "lan").Status
			v4, v6 := ptr.Deref(status.IPv4, v1alpha1.AddressCount{}), ptr.Deref(status.IPv6, v1alpha1.AddressCount{})
			return []string{v4.Allocated, v4.Available, v6.Allocated, v6.Available}
		}
	}

	It("counts each family as Services come, share, rest and go, and can't be edited", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(4)), between(s.v6(1), s.v6(8))})
		Eventually(ctx, counts(ctx)).Should(Equal([]string{"0", "4", "0", "8"}))
		s.addService(ctx, "dual", families(corev1.IPFamilyPolicyRequireDualStack))
		Eventually(ctx, counts(ctx)).Should(Equal([]string{"1", "3", "1", "7"}))
		s.addService(ctx, "six", families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol))
		Eventually(ctx, counts(ctx)).Should(Equal([]string{"1", "3", "2", "6"}))
		s.addService(ctx, "sharing-a", sharing("k"), tcp(80))
		Eventually(ctx, counts(ctx)).Should(Equal([]string{"2", "2", "2", "6"}))
		s.addService(ctx, "sharing-b", sharing("k"), tcp(443))
		s.served(ctx, "sharing-b", s.v4(2))
		s.reserve(ctx, s.v4(4), s.namespace, "later")
		Eventually(ctx, counts(ctx)).Should(Equal([]string{"3", "1", "2", "6"}))

		By("somebody editing it")
		p := s.pool(ctx, "lan")
		p.Status.IPv4.Allocated, p.Status.IPv6 = "77", nil
		Expect(api.Status().Update(ctx, p)).To(Succeed())
		Eventually(ctx, counts(ctx)).Should(Equal([]string{"3", "1", "2", "6"}))

		s.deleteService(ctx, "dual")
		Eventually(ctx, counts(ctx)).Should(Equal([]string{"2", "2", "1", "7"}))
		s.deleteService(ctx, "sharing-a")
		s.editPool(ctx, "lan", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Addresses = ranges(between(s.v4(2), s.v4(9))) })
		Eventually(ctx, counts(ctx)).Should(Equal([]string{"2", "6", "", ""}))
	})
})

var _ = Describe("Of several pools", func() {
	s := newScene()

	// Each pool has one address of its own: its place in the list.
	DescribeTable("a Service gets an address of", func(ctx SpecContext, pools []func(*v1alpha1.LoadBalancerIPPool), gets []int) {
		ns := &corev1.Namespace{}
		Expect(api.Get(ctx, objectKey("", s.namespace), ns)).To(Succeed())
		metav1.SetMetaDataLabel(&ns.ObjectMeta, "team", "blue")
		Expect(api.Update(ctx, ns)).To(Succeed())
		for i, edit := range pools {
			s.addPool(ctx, string(rune('a'+i)), []string{s.v4(i + 1).String()}, edit)
			s.awaitObserved(ctx, string(rune('a'+i)))
		}
		for i, place := range gets {
			name := string(rune('k' + i))
			s.addService(ctx, name, labelled("tier", "gold"))
			if place == 0 {
				s.refused(ctx, name, ipam.PoolExhausted)
			} else {
				s.served(ctx, name, s.v4(place))
			}
		}
	},
		Entry("that of its namespace, by name, and no other", []func(*v1alpha1.LoadBalancerIPPool){forNamespaces(corev1.LabelMetadataName, "elsewhere"), edits()}, []int{2, 0}),
		Entry("the highest priority, then the next", []func(*v1alpha1.LoadBalancerIPPool){prior(-1), prior(5), prior(0)}, []int{2, 3, 1, 0}),
		Entry("those whose namespaceSelector fits", []func(*v1alpha1.LoadBalancerIPPool){
			forNamespaces("team", "red"), forNamespaces("team", "blue"),
		}, []int{2, 0}),
		Entry("those whose namespaceSelector fits by name and label, by priority", []func(*v1alpha1.LoadBalancerIPPool){
			prior(1), edits(forNamespaces("team", "blue"), prior(2)), edits(forNamespaces("team", "red"), prior(3)),
		}, []int{2, 1, 0}),
		Entry("those whose serviceSelector fits", []func(*v1alpha1.LoadBalancerIPPool){
			forServices("tier", "tin"), forServices("tier", "gold"),
		}, []int{2, 0}),
		Entry("those of which both selectors fit", []func(*v1alpha1.LoadBalancerIPPool){
			edits(forNamespaces("team", "red"), forServices("tier", "gold")),
			edits(forNamespaces("team", "blue"), forServices("tier", "tin")),
			edits(forNamespaces("team", "blue"), forServices("tier", "gold")),
		}, []int{3, 0}),
		Entry("those with a priority first, selectors or not", []func(*v1alpha1.LoadBalancerIPPool){
			prior(0), edits(forServices("tier", "gold"), prior(1)),
		}, []int{2, 1, 0}),
		Entry("none that gives only to who asks", []func(*v1alpha1.LoadBalancerIPPool){edits(prior(9), byName), prior(0)}, []int{2, 0}),
	)

	DescribeTable("the one asked for serves, of each family and whether it gives by itself or not:",
		func(ctx SpecContext, autoAssign bool, family corev1.IPFamilyPolicy, list ...corev1.IPFamily) {
			s.addPool(ctx, "a-first", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
			s.addPool(ctx, "b-asked", []string{between(s.v4(21), s.v4(29)), between(s.v6(21), s.v6(29))},
				func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.AutoAssign = &autoAssign })
			s.addService(ctx, "web", families(family, list...), fromPool(s.poolName("b-asked")))
			s.addService(ctx, "anywhere", families(family, list...))
			of := func(i int) (addrs []netip.Addr) {
				for _, f := range list {
					addrs = append(addrs, map[corev1.IPFamily]netip.Addr{corev1.IPv4Protocol: s.v4(i), corev1.IPv6Protocol: s.v6(i)}[f])
				}
				return addrs
			}
			s.served(ctx, "web", of(21)...)
			s.served(ctx, "anywhere", of(1)...)
		},
		Entry("autoAssign, IPv4", true, corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol),
		Entry("autoAssign, IPv6", true, corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol),
		Entry("autoAssign, both", true, corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol),
		Entry("no autoAssign, IPv4", false, corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol),
		Entry("no autoAssign, IPv6", false, corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol),
		Entry("no autoAssign, both", false, corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol),
	)
})

// Edits of a pool.

func edits(list ...func(*v1alpha1.LoadBalancerIPPool)) func(*v1alpha1.LoadBalancerIPPool) {
	return func(p *v1alpha1.LoadBalancerIPPool) {
		for _, edit := range list {
			edit(p)
		}
	}
}

func prior(priority int32) func(*v1alpha1.LoadBalancerIPPool) {
	return func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.Priority = priority }
}

func forNamespaces(key, value string) func(*v1alpha1.LoadBalancerIPPool) {
	return func(p *v1alpha1.LoadBalancerIPPool) {
		p.Spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
}
