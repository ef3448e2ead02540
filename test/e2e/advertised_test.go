// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
)

const tier = "tier"

func inTier(value string) func(*corev1.Service) {
	return func(svc *corev1.Service) { metav1.SetMetaDataLabel(&svc.ObjectMeta, tier, value) }
}

func selectingTier(value string) func(*v1alpha1.L2AdvertisementSpec) {
	return func(ad *v1alpha1.L2AdvertisementSpec) {
		ad.ServiceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{tier: value}}
	}
}

// unannounced waits until a Service's condition says that no node may announce its address, and checks that none does.
func (s *scene) unannounced(ctx context.Context, name string) netip.Addr {
	GinkgoHelper()
	Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, name), v1alpha1.ServiceAnnounced) }).Should(And(
		HaveField("Status", metav1.ConditionFalse), HaveField("Reason", controller.ReasonNoEligibleNode)))
	addr := netip.MustParseAddr(shown(s.service(ctx, name))[0])
	silent(ctx, addr)
	return addr
}

var _ = Describe("An L2Advertisement", onLab, func() {
	s := newScene()

	DescribeTable("announces what both its pools and its serviceSelector select, as labels come and go", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.addPool(ctx, "other", []string{s.at(f, 51).String()}, byName)
		s.advertise(ctx, selectingTier("web"))
		s.advertiseAs(ctx, "elsewhere", func(ad *v1alpha1.L2AdvertisementSpec) {
			ad.Pools = []string{s.poolName("other")}
			selectingTier("db")(ad)
		})
		// Each of these is selected by one advertisement's pools and the other one's Services.
		s.addService(ctx, "db", of(f), inTier("db"))
		s.addService(ctx, "web-other", of(f), inTier("web"), fromPool(s.poolName("other")))
		s.addService(ctx, "web", of(f), inTier("web"))
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
		s.unannounced(ctx, "db")
		s.unannounced(ctx, "web-other")

		s.editService(ctx, "db", inTier("web"))
		db, dbOwner := s.announced(ctx, "db")
		answers(ctx, db, dbOwner)
		// What others make of an edit like this is to stop. An edit silences nobody: it may be a mistake, and it says so.
		s.editService(ctx, "db", inTier("db"))
		Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, "db"), v1alpha1.ServiceAnnounced) }).Should(
			HaveField("Reason", controller.ReasonNotSelected))
		s.remains(ctx, db, dbOwner)
	}, inBothFamilies)

	DescribeTable("announces beside another one: from one node of those of both", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, func(ad *v1alpha1.L2AdvertisementSpec) { selectingTier("web")(ad); onlyOn("node1")(ad) })
		s.advertiseAs(ctx, "more", func(ad *v1alpha1.L2AdvertisementSpec) {
			ad.ServiceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: tier, Operator: metav1.LabelSelectorOpExists}}}
			onlyOn("node3")(ad)
		})
		s.addService(ctx, "db", of(f), inTier("db"))
		addr, owner := s.announced(ctx, "db")
		Expect(owner.Name()).To(Equal("node3"), "only the second selects it")
		answers(ctx, addr, owner)
		s.addService(ctx, "web", of(f), inTier("web"))
		addr, owner = s.announced(ctx, "web")
		Expect(owner.Name()).To(Equal("node1"), "both select it, and this node has nothing yet")
		s.remains(ctx, addr, owner)
		s.mark(ctx, "node1", drain, undrain)
		Expect(s.goes(ctx, addr, owner).Name()).To(Equal("node3"))
	}, inBothFamilies)

	DescribeTable("announces a shared address if it selects one of the Services", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, selectingTier("web"))
		s.addService(ctx, "db", of(f), inTier("db"), sharing("k"), tcp(5432))
		addr := s.unannounced(ctx, "db")
		s.addService(ctx, "web", of(f), inTier("web"), sharing("k"), tcp(80))
		shared, owner := s.announced(ctx, "web")
		Expect(shared).To(Equal(addr))
		answers(ctx, addr, owner)
		s.announced(ctx, "db")
	}, inBothFamilies)

	DescribeTable("is not needed for a pool that a Service asks for by name", func(ctx SpecContext, f corev1.IPFamily, auto bool) {
		s.addLAN(ctx)
		s.addPool(ctx, "asked", []string{s.at(f, 51).String()}, func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.AutoAssign = ptr.To(auto) })
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), of(f), fromPool(s.poolName("asked")))
		addr, owner := s.announced(ctx, "web")
		Expect(addr).To(Equal(s.at(f, 51)))
		answers(ctx, addr, owner)
		reaches(ctx, addr, "web-node1")
	},
		Entry("that gives to anybody, IPv4", corev1.IPv4Protocol, true), Entry("that gives to anybody, IPv6", corev1.IPv6Protocol, true),
		Entry("that doesn't, IPv4", corev1.IPv4Protocol, false), Entry("that doesn't, IPv6", corev1.IPv6Protocol, false),
	)

	DescribeTable("is not needed for a pool of IPv6 that is written as", func(ctx SpecContext, addresses func() string) {
		s.addPool(ctx, "lan", []string{addresses()})
		s.addService(ctx, "web", of(corev1.IPv6Protocol))
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
	},
		Entry("a range", func() string { return between(s.v6(1), s.v6(9)) }),
		Entry("a prefix", func() string { return netip.PrefixFrom(s.v6(16), 124).String() }),
		Entry("one address", func() string { return s.v6(5).String() }),
	)
})
