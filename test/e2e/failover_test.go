// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

var _ = Describe("When a node goes", onLab, func() {
	s := newScene()

	// lose has something happen to the node that announces a Service, and measures how long no client is answered.
	lose := func(ctx context.Context, happens func(*cluster.Node)) {
		GinkgoHelper()
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", selecting("web"))
		addr, owner := s.announced(ctx, "web")
		var others []*cluster.Node
		for _, n := range lab.Nodes {
			if n != owner {
				others = append(others, n)
			}
		}
		s.startBackends(ctx, "web", others...)

		probe := wire.StartProbe(lab.Client, "udp", netip.AddrPortFrom(addr, 80))
		var result *wire.Result
		stop := func() wire.Result {
			if result == nil {
				r := probe.Stop()
				result = &r
			}
			return *result
		}
		defer stop()
		within, cancel := context.WithTimeout(ctx, 2*patience)
		defer cancel()
		Expect(probe.AwaitAnswers(within, 20)).To(Succeed())
		term := s.ip(ctx, addr).Status.L2.Term
		happens(owner)
		Eventually(ctx, func() string { return s.ip(ctx, addr).Status.L2.Node }).WithTimeout(2 * patience).ShouldNot(Equal(owner.Name()))
		Expect(s.ip(ctx, addr).Status.L2.Term).To(BeNumerically(">", term))
		heir := s.owner(ctx, addr)
		answers(ctx, addr, heir)
		Expect(probe.AwaitAnswers(within, 50)).To(Succeed())
		AddReportEntry(CurrentSpecReport().LeafNodeText, stop().String(), ReportEntryVisibilityAlways)
	}

	It("because it was deleted, another answers", func(ctx SpecContext) {
		lose(ctx, func(n *cluster.Node) {
			s.afterwards(func(ctx context.Context) {
				Expect(n.Plug()).To(Succeed())
				Expect(n.Register(ctx)).To(Succeed())
				Eventually(ctx, func() error { return lab.RestartSpeaker(ctx, n) }).Should(Succeed())
			})
			Expect(n.Unplug()).To(Succeed())
			Expect(n.Delete(ctx)).To(Succeed())
		})
	})

	It("but only for its kubelet, it goes on answering", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", selecting("web"))
		addr, owner := s.announced(ctx, "web")
		s.afterwards(func(ctx context.Context) {
			owner.ResumeHeartbeat()
			Eventually(ctx, nodeReady).WithArguments(owner.Name()).Should(Equal(corev1.ConditionTrue))
		})
		owner.StopHeartbeat()
		Eventually(ctx, nodeReady).WithArguments(owner.Name()).WithTimeout(2 * patience).Should(Equal(corev1.ConditionUnknown))
		Consistently(ctx, whoHas).WithArguments(addr).Should(Equal([]string{owner.MAC.String()}))
		Expect(s.ip(ctx, addr).Spec.Owner).To(Equal(owner.Name()), "nobody else should be proposed")
		// Who is new goes elsewhere.
		for _, name := range []string{"one", "two", "three"} {
			s.addService(ctx, name)
			_, other := s.announced(ctx, name)
			Expect(other).NotTo(BeIdenticalTo(owner))
		}
	})
})

// nodeReady is a Node's condition.
func nodeReady(ctx context.Context, name string) (corev1.ConditionStatus, error) {
	node := &corev1.Node{}
	if err := api.Get(ctx, objectKey("", name), node); err != nil {
		return "", err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status, nil
		}
	}
	return "", nil
}

var _ = Describe("A restart", onLab, func() {
	s := newScene()

	const count = 6
	name := func(i int) string { return fmt.Sprint("web-", i) }

	// serve makes Services and returns which node announces each.
	serve := func(ctx context.Context) map[netip.Addr]*cluster.Node {
		GinkgoHelper()
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(20))})
		owners := map[netip.Addr]*cluster.Node{}
		for i := range count {
			s.addService(ctx, name(i))
			s.served(ctx, name(i), s.v4(i+1))
		}
		for i := range count {
			addr, owner := s.announced(ctx, name(i))
			owners[addr] = owner
		}
		return owners
	}
	// unchanged checks that every Service has what it had.
	unchanged := func(ctx context.Context, owners map[netip.Addr]*cluster.Node) {
		GinkgoHelper()
		for i := range count {
			s.served(ctx, name(i), s.v4(i+1))
			answers(ctx, s.v4(i+1), owners[s.v4(i+1)])
			Expect(s.owner(ctx, s.v4(i+1))).To(BeIdenticalTo(owners[s.v4(i+1)]))
			Expect(s.ip(ctx, s.v4(i+1)).Status.L2.Term).To(Equal(int64(1)))
		}
	}

	It("of the controller keeps every address and owner", func(ctx SpecContext) {
		owners := serve(ctx)
		controller := lab.product.Controllers[0]
		Expect(controller.Stop(cluster.StopGrace)).To(Succeed())
		Expect(controller.Err()).NotTo(HaveOccurred(), "SIGTERM should end it with status 0")
		unchanged(ctx, owners)
		Expect(controller.Start()).To(Succeed())
		s.addService(ctx, "new")
		s.served(ctx, "new", s.v4(count+1))
		unchanged(ctx, owners)
	})

	It("of a controller that was killed keeps every address and owner", func(ctx SpecContext) {
		owners := serve(ctx)
		controller := lab.product.Controllers[0]
		Expect(controller.Kill()).To(Succeed())
		Expect(controller.Start()).To(Succeed())
		s.addService(ctx, "new")
		// The lease of the killed one has to run out first.
		Eventually(ctx, func() []string { return shown(s.service(ctx, "new")) }).WithTimeout(30 * time.Second).Should(Equal([]string{s.v4(count + 1).String()}))
		unchanged(ctx, owners)
	})

	It("of the speakers keeps every address and owner", func(ctx SpecContext) {
		owners := serve(ctx)
		for _, p := range lab.product.Speakers {
			Expect(p.Stop(cluster.StopGrace)).To(Succeed())
			Expect(p.Err()).NotTo(HaveOccurred(), "SIGTERM should end it with status 0")
		}
		silent(ctx, s.v4(1))
		for _, p := range lab.product.Speakers {
			Expect(p.Start()).To(Succeed())
		}
		unchanged(ctx, owners)
		for _, p := range lab.product.Speakers {
			Expect(p.Kill()).To(Succeed())
			Expect(p.Start()).To(Succeed())
		}
		unchanged(ctx, owners)
	})

	It("of the controller releases what belonged to Services that went meanwhile", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		for i := range 3 {
			s.addService(ctx, name(i))
			s.served(ctx, name(i), s.v4(i+1))
		}
		controller := lab.product.Controllers[0]
		Expect(controller.Stop(cluster.StopGrace)).To(Succeed())
		s.afterwards(func(context.Context) {
			Expect(controller.Start()).To(Or(Succeed(), MatchError(ContainSubstring("running"))))
		})
		// One waits for the finalizer, one loses it by force and is gone, one is gone and there again.
		Expect(api.Delete(ctx, s.service(ctx, name(0)))).To(Succeed())
		for i := 1; i <= 2; i++ {
			Expect(api.Delete(ctx, s.service(ctx, name(i)))).To(Succeed())
			s.editService(ctx, name(i), func(svc *corev1.Service) { svc.Finalizers = nil })
		}
		s.addService(ctx, name(2))
		Expect(controller.Start()).To(Succeed())
		s.rests(ctx, s.v4(1))
		s.rests(ctx, s.v4(2))
		s.served(ctx, name(2), s.v4(3))
		Eventually(ctx, func() error { return api.Get(ctx, objectKey(s.namespace, name(0)), &corev1.Service{}) }).ShouldNot(Succeed())
	})
})
