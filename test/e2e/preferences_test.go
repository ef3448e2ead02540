// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// prefer adds a preference for nodes.
func prefer(weight int32, names ...string) func(*v1alpha1.L2AdvertisementSpec) {
	return func(ad *v1alpha1.L2AdvertisementSpec) {
		ad.NodePreferences = append(ad.NodePreferences, v1alpha1.NodePreference{Weight: weight, NodeSelector: *onNodes(names...)})
	}
}

var _ = Describe("A preference for nodes", onLab, func() {
	s := newScene()

	DescribeTable("places new addresses, gives way if its node can't, and takes nothing back", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, prefer(50, "node2"))
		Expect(s.spread(ctx, f, "a", "b")).To(Equal(map[string]int{"node2": 2}))
		addr, preferred := s.announced(ctx, "a")

		// Elsewhere a preferred node that can't be scheduled on loses what it has, and reclaims it later. Each of these
		// moves breaks connections, and a cordon is no sign that the node can't carry traffic: ours has only new ones
		// go elsewhere, a drain moves the rest, and nothing fails back.
		s.mark(ctx, "node2", cordon, uncordon)
		Expect(s.spread(ctx, f, "c")).NotTo(HaveKey("node2"))
		s.remains(ctx, addr, preferred)
		s.mark(ctx, "node2", drain, undrain)
		heir := s.goes(ctx, addr, preferred)
		s.mark(ctx, "node2", func(n *corev1.Node) { uncordon(n); undrain(n) }, func(*corev1.Node) {})
		s.remains(ctx, addr, heir)
		Expect(s.spread(ctx, f, "d")).To(Equal(map[string]int{"node2": 1}), "it is preferred as before")
	}, inBothFamilies)

	DescribeTable("that matches no node changes nothing", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, prefer(100, "node9"))
		Expect(s.spread(ctx, f, "a", "b", "c")).To(And(HaveLen(3), HaveEach(1)))
	}, inBothFamilies)

	DescribeTable("counts for new addresses alone when it is edited", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, prefer(50, "node2"))
		Expect(s.spread(ctx, f, "a")).To(Equal(map[string]int{"node2": 1}))
		addr, owner := s.announced(ctx, "a")
		// Others elect again. Whoever wants the address to move drains its node.
		s.editAdvertisement(ctx, func(ad *v1alpha1.L2AdvertisementSpec) {
			ad.NodePreferences = nil
			prefer(50, "node3")(ad)
		})
		Expect(s.spread(ctx, f, "b", "c")).To(Equal(map[string]int{"node3": 2}))
		s.remains(ctx, addr, owner)
	}, inBothFamilies)

	DescribeTable("doesn't help a node that the nodeSelector leaves out", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, func(ad *v1alpha1.L2AdvertisementSpec) { prefer(100, "node1")(ad); onlyOn("node2", "node3")(ad) })
		Expect(s.spread(ctx, f, "a", "b")).To(Equal(map[string]int{"node2": 1, "node3": 1}))
	}, inBothFamilies)

	DescribeTable("adds up with those of other L2Advertisements that select the node", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, func(ad *v1alpha1.L2AdvertisementSpec) { prefer(60, "node1")(ad); prefer(40, "node2")(ad) })
		Expect(s.spread(ctx, f, "a")).To(Equal(map[string]int{"node1": 1}))
		s.advertiseAs(ctx, "more", func(ad *v1alpha1.L2AdvertisementSpec) { prefer(30, "node2")(ad); prefer(20, "node3")(ad) })
		Expect(s.spread(ctx, f, "b", "c")).To(Equal(map[string]int{"node2": 2}))
	}, inBothFamilies)

	DescribeTable("of disjoint sets of nodes counts where each advertisement selects", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, func(ad *v1alpha1.L2AdvertisementSpec) {
			selectingTier("web")(ad)
			prefer(10, "node1")(ad)
		})
		s.advertiseAs(ctx, "more", func(ad *v1alpha1.L2AdvertisementSpec) {
			selectingTier("db")(ad)
			prefer(90, "node3")(ad)
		})
		for value, node := range map[string]string{"web": "node1", "db": "node3"} {
			s.addService(ctx, value, of(f), inTier(value))
			addr, owner := s.announced(ctx, value)
			Expect(owner.Name()).To(Equal(node), "an advertisement that doesn't select the Service has no say")
			answers(ctx, addr, owner)
		}
	}, inBothFamilies)
})
