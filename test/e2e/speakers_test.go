// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

var _ = Describe("The speaker of the node that announces", onLab, func() {
	s := newScene()

	DescribeTable("tells in the LoadBalancerIP who answers, and another one that it got an answer", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.addService(ctx, "web", of(f))
		addr, owner := s.announced(ctx, "web")
		verifiedBy := func() string {
			ip := s.ip(ctx, addr)
			if !meta.IsStatusConditionTrue(ip.Status.Conditions, v1alpha1.AddressVerified) || ip.Status.Verified == nil {
				return ""
			}
			Expect(ip.Status.Verified.MAC).To(Equal(ip.Status.L2.MAC))
			return ip.Status.Verified.By
		}
		Eventually(ctx, verifiedBy).Should(And(Not(BeEmpty()), Not(Equal(owner.Name()))))

		before, err := metric(ctx, owner, "fairlead_l2_replies_sent_total")
		Expect(err).NotTo(HaveOccurred())
		answers(ctx, addr, owner)
		Expect(metric(ctx, owner, "fairlead_l2_replies_sent_total")).To(BeNumerically(">", before))
		Expect(metric(ctx, owner, "fairlead_l2_announcements_sent_total")).To(BeNumerically(">", 0))
		Expect(metric(ctx, owner, "fairlead_l2_addresses")).To(BeNumerically(">", 0))
	}, inBothFamilies)

	// Elsewhere the address returns when the speaker is ready again. Each such move breaks connections, and nobody asked for
	// it: ours stays.
	DescribeTable("hands over when it ends, with nothing lost, and takes nothing back", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), of(f))
		addr, owner := s.announced(ctx, "web")
		o := lookOn(ctx, true, addr)
		speaker := lab.product.Speakers[owner.Name()]
		s.afterwards(func(context.Context) {
			Expect(speaker.Start()).To(Or(Succeed(), MatchError(ContainSubstring("running"))))
		})
		Expect(speaker.Stop(cluster.StopGrace)).To(Succeed())
		heir := s.goes(ctx, addr, owner)
		Expect(speaker.Start()).To(Succeed())
		Eventually(ctx, lab.SpeakerReady).WithArguments(owner).Should(Succeed())
		s.remains(ctx, addr, heir)
		Expect(s.ip(ctx, addr).Status.L2.Term).To(BeEquivalentTo(2))
		o.sawMoves(addr, owner, heir)
		Expect(o.result[addr].Lost).To(BeZero(), "%s", o.result[addr])
	}, inBothFamilies)

	It("may crash: others answer for it with its MAC, and after ten seconds with their own, and nothing is lost", func(ctx SpecContext) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.advertise(ctx, prefer(100, "node2"))
		s.addService(ctx, "web", selecting("web"), dual)
		s.announced(ctx, "web")
		addrs, owner := []netip.Addr{s.v4(1), s.v6(1)}, lab.Nodes[1]
		for _, addr := range addrs {
			Eventually(ctx, s.owner).WithArguments(addr).Should(BeIdenticalTo(owner))
			answers(ctx, addr, owner)
		}
		o := lookOn(ctx, true, addrs...)
		speaker := lab.product.Speakers[owner.Name()]
		s.afterwards(func(context.Context) {
			Expect(speaker.Start()).To(Or(Succeed(), MatchError(ContainSubstring("running"))))
		})
		Expect(speaker.Kill()).To(Succeed())
		for _, addr := range addrs {
			s.remains(ctx, addr, owner)
		}
		heirs := map[netip.Addr]*cluster.Node{}
		for _, addr := range addrs {
			heirs[addr] = s.goes(ctx, addr, owner)
		}
		Expect(speaker.Start()).To(Succeed())
		for _, addr := range addrs {
			s.remains(ctx, addr, heirs[addr])
			o.sawMoves(addr, owner, heirs[addr])
			Expect(o.result[addr].Lost).To(BeZero(), "%s", o.result[addr])
		}
	})
})
