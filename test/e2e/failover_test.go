// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// rescueTime is how long clients of a node that died may go unanswered.
const rescueTime = time.Second

// probe asks for an address again and again until the returned function is called or the spec ends. That one waits until
// the address answers, and tells of the time since it first did.
func probe(ctx context.Context, addr netip.Addr) (stop func() wire.Result) {
	GinkgoHelper()
	p := wire.StartProbe(lab.Client, "udp", netip.AddrPortFrom(addr, 80))
	started := time.Now()
	end := sync.OnceValue(func() wire.Result { return p.StopSince(started) })
	DeferCleanup(func() { end() })
	answered := func(n int) {
		GinkgoHelper()
		within, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		Expect(p.AwaitAnswers(within, n)).To(Succeed())
	}
	answered(20)
	started = time.Now()
	return func() wire.Result {
		GinkgoHelper()
		answered(50)
		return end()
	}
}

var _ = Describe("When a node goes", onLab, func() {
	s := newScene()

	// lose has the node that announces a Service go, and checks that clients are answered again in time. It returns the heir.
	lose := func(ctx context.Context, family corev1.IPFamily, goes func(*cluster.Node)) *cluster.Node {
		GinkgoHelper()
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.addService(ctx, "web", selecting("web"), families(corev1.IPFamilyPolicySingleStack, family))
		addr, owner := s.announced(ctx, "web")
		s.startBackends(ctx, "web", slices.DeleteFunc(slices.Clone(lab.Nodes), func(n *cluster.Node) bool { return n == owner })...)
		stop := probe(ctx, addr)
		before := s.ip(ctx, addr).Status.L2
		goes(owner)
		Eventually(ctx, func() string { return s.ip(ctx, addr).Status.L2.Node }).ShouldNot(Equal(owner.Name()))
		result := stop()
		AddReportEntry(CurrentSpecReport().LeafNodeText, result.String(), ReportEntryVisibilityAlways)
		Expect(result.Dark).To(BeNumerically("<", rescueTime))
		Expect(s.ip(ctx, addr).Status.L2.Term).To(Equal(before.Term + 1))
		heir := s.owner(ctx, addr)
		answers(ctx, addr, heir)
		return heir
	}

	DescribeTable("because its cable was pulled, another answers within a second, and goes on when the cable is back", func(ctx SpecContext, family corev1.IPFamily, addr func() netip.Addr) {
		s.afterwards(func(context.Context) {
			for _, n := range lab.Nodes {
				Expect(n.Plug()).To(Succeed())
			}
		})
		var lost *cluster.Node
		heir := lose(ctx, family, func(n *cluster.Node) {
			lost = n
			Expect(n.Unplug()).To(Succeed())
		})
		claim := s.ip(ctx, addr()).Status.L2
		Expect(lost.Plug()).To(Succeed())
		Eventually(ctx, lab.SpeakerReady).WithArguments(lost).Should(Succeed())
		// The heir may keep still for a moment, until it knows that the other one claims nothing.
		Consistently(ctx, whoHas).WithArguments(addr()).WithTimeout(2 * time.Second).Should(Or(BeEmpty(), Equal([]string{heir.MAC.String()})))
		answers(ctx, addr(), heir)
		Expect(s.ip(ctx, addr()).Status.L2).To(Equal(claim))
	},
		Entry("for IPv4", corev1.IPv4Protocol, func() netip.Addr { return s.v4(1) }),
		Entry("for IPv6", corev1.IPv6Protocol, func() netip.Addr { return s.v6(1) }),
	)

	It("because it was deleted, another answers within a second", func(ctx SpecContext) {
		lose(ctx, corev1.IPv4Protocol, func(n *cluster.Node) {
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

	// serve makes Services and returns the claims of their addresses.
	serve := func(ctx context.Context) map[netip.Addr]*v1alpha1.L2Claim {
		GinkgoHelper()
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(20))})
		claims := map[netip.Addr]*v1alpha1.L2Claim{}
		for i := range count {
			s.addService(ctx, name(i), selecting("web"))
			s.served(ctx, name(i), s.v4(i+1))
		}
		for i := range count {
			addr, _ := s.announced(ctx, name(i))
			claims[addr] = s.ip(ctx, addr).Status.L2
		}
		return claims
	}
	// unchanged checks that every Service has what it had, and that it is announced as it was.
	unchanged := func(ctx context.Context, claims map[netip.Addr]*v1alpha1.L2Claim) {
		GinkgoHelper()
		for i := range count {
			addr := s.v4(i + 1)
			s.served(ctx, name(i), addr)
			answers(ctx, addr, lab.Node(claims[addr].Node))
			Expect(s.ip(ctx, addr).Status.L2).To(Equal(claims[addr]))
		}
	}

	It("of the controller keeps every address and owner", func(ctx SpecContext) {
		claims := serve(ctx)
		controller := lab.product.Controllers[0]
		Expect(controller.Stop(cluster.StopGrace)).To(Succeed())
		Expect(controller.Err()).NotTo(HaveOccurred(), "SIGTERM should end it with status 0")
		unchanged(ctx, claims)
		Expect(controller.Start()).To(Succeed())
		s.addService(ctx, "new")
		s.served(ctx, "new", s.v4(count+1))
		unchanged(ctx, claims)
	})

	It("of a controller that was killed keeps every address and owner", func(ctx SpecContext) {
		claims := serve(ctx)
		controller := lab.product.Controllers[0]
		Expect(controller.Kill()).To(Succeed())
		Expect(controller.Start()).To(Succeed())
		s.addService(ctx, "new")
		// The lease of the killed one has to run out first.
		Eventually(ctx, func() []string { return shown(s.service(ctx, "new")) }).WithTimeout(30 * time.Second).Should(Equal([]string{s.v4(count + 1).String()}))
		unchanged(ctx, claims)
	})

	It("of the speakers, one after the other or all at once, keeps every address and owner, and no client notices", func(ctx SpecContext) {
		claims := serve(ctx)
		s.startBackends(ctx, "web")
		stop := probe(ctx, s.v4(1))
		for _, n := range lab.Nodes {
			Expect(lab.RestartSpeaker(ctx, n)).To(Succeed())
			unchanged(ctx, claims)
		}
		for _, p := range lab.product.Speakers {
			Expect(p.Kill()).To(Succeed())
		}
		for _, p := range lab.product.Speakers {
			Expect(p.Start()).To(Succeed())
		}
		unchanged(ctx, claims)
		Expect(stop().Lost).To(BeZero())
	})

	It("of a node hands its addresses over before it ends, and of the last node loses none", func(ctx SpecContext) {
		claims := serve(ctx)
		s.startBackends(ctx, "web")
		stop := probe(ctx, s.v4(1))
		first := lab.product.Speakers[claims[s.v4(1)].Node]
		s.afterwards(func(context.Context) {
			for _, p := range lab.product.Speakers {
				Expect(p.Start()).To(Or(Succeed(), MatchError(ContainSubstring("running"))))
			}
		})
		// Without a Pod that is being deleted, this is a machine that shuts down.
		Expect(first.Stop(cluster.StopGrace)).To(Succeed())
		Expect(first.Err()).NotTo(HaveOccurred(), "SIGTERM should end it with status 0")
		gone := claims[s.v4(1)].Node
		for addr, before := range claims {
			if before.Node != gone {
				Expect(s.ip(ctx, addr).Status.L2).To(Equal(before))
				continue
			}
			Eventually(ctx, func() *v1alpha1.L2Claim { return s.ip(ctx, addr).Status.L2 }).Should(And(
				HaveField("Node", Not(Equal(gone))), HaveField("Term", before.Term+1)))
			answers(ctx, addr, s.owner(ctx, addr))
		}
		Expect(stop().Lost).To(BeZero())

		for _, p := range lab.product.Speakers {
			Expect(p.Stop(cluster.StopGrace)).To(Or(Succeed(), MatchError(ContainSubstring("running"))))
		}
		silent(ctx, s.v4(1))
		for i := range count {
			claims[s.v4(i+1)] = s.ip(ctx, s.v4(i+1)).Status.L2
		}
		for _, p := range lab.product.Speakers {
			Expect(p.Start()).To(Succeed())
		}
		unchanged(ctx, claims)
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
