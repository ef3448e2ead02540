// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// gracefulShutdown is the community GRACEFUL_SHUTDOWN (RFC 8326).
const gracefulShutdown = uint32(65535) << 16

// inOwnAS is an edit for routers that are in the AS of the nodes, and internal one for the BGPPeers that go with it.
func inOwnAS(c *router.Config) {
	c.ASN = nodesASN
	eachNeighbor(func(n *router.Neighbor) { n.ASN = nodesASN })(c)
}

func internal(p *v1alpha1.BGPPeerSpec) { p.PeerASN = v1alpha1.PeerASNInternal }

// probedFromFar has the far host ask at addresses until stop, which checks that every answer came.
func probedFromFar(ctx context.Context, addrs ...netip.Addr) (stop func()) {
	GinkgoHelper()
	var probes []*wire.Probe
	for _, addr := range addrs {
		p := wire.StartProbe(lab.Far, "udp", netip.AddrPortFrom(addr, 80))
		probes = append(probes, p)
		Expect(p.AwaitAnswers(ctx, 20)).To(Succeed())
	}
	return func() {
		GinkgoHelper()
		for i, p := range probes {
			r := p.Stop()
			Expect(r.Lost).To(BeZero(), "%s: %s", addrs[i], r)
		}
	}
}

var _ = Describe("By BGP an address", onLab, func() {
	s := newRoutedScene()

	// serve has all nodes announce a Service with a backend on each.
	serve := func(ctx context.Context, k stack, edits ...func(*corev1.Service)) {
		GinkgoHelper()
		s.addRouted(ctx)
		s.withPeers(ctx, k)
		s.startBackends(ctx, "web")
		s.addService(ctx, "web", append([]func(*corev1.Service){selecting("web"), k.service}, edits...)...)
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes, backendNames()...)
		}
	}

	DescribeTable("of policy Cluster is announced by all nodes while an endpoint is anywhere", func(ctx SpecContext, k stack) {
		s.addRouted(ctx)
		s.withPeers(ctx, k)
		s.addService(ctx, "web", selecting("web"), k.service)
		s.served(ctx, "web", k.addrs(s, 1)...)
		for _, addr := range k.addrs(s, 1) {
			unrouted(ctx, addr)
		}
		pods := s.startBackends(ctx, "web", lab.Nodes[1])
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes, "web-node2")
		}
		s.tellsOfBGP(ctx, "web")
		Expect(pods[0].SetReady(ctx, false)).To(Succeed())
		for _, addr := range k.addrs(s, 1) {
			unrouted(ctx, addr)
		}
	}, inAllStacks)

	DescribeTable("of policy Local is announced where ready endpoints are, then where they serve while they end", func(ctx SpecContext, k stack) {
		s.addRouted(ctx)
		s.withPeers(ctx, k)
		first := s.startBackends(ctx, "web", lab.Nodes[0])[0]
		s.addService(ctx, "web", selecting("web"), k.service, local)
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes[:1], "web-node1")
		}
		second := s.startBackends(ctx, "web", lab.Nodes[1])[0]
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes[:2], backendNames(lab.Nodes[:2]...)...)
		}
		Expect(second.Terminate(ctx)).To(Succeed())
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes[:1], "web-node1")
		}
		Expect(first.Terminate(ctx)).To(Succeed())
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes[:2], backendNames(lab.Nodes[:2]...)...)
		}
		for _, p := range []*cluster.Pod{first, second} {
			Expect(p.Delete(ctx)).To(Succeed())
		}
		s.backends = nil
		for _, addr := range k.addrs(s, 1) {
			unrouted(ctx, addr)
		}
	}, inAllStacks)

	DescribeTable("is one route for all Services that share it, as long as one of them is there", func(ctx SpecContext, k stack) {
		serve(ctx, k, sharing("k"))
		s.addService(ctx, "sibling", all(selecting("web"), tcp(81), k.service, sharing("k")))
		s.served(ctx, "sibling", k.addrs(s, 1)...)
		for _, addr := range k.addrs(s, 1) {
			answersFromFarAt(ctx, netip.AddrPortFrom(addr, 81), backendNames()...)
		}
		s.deleteService(ctx, "web")
		for _, addr := range k.addrs(s, 1) {
			routed(ctx, addr, lab.Nodes...)
			answersFromFarAt(ctx, netip.AddrPortFrom(addr, 81), backendNames()...)
		}
		s.deleteService(ctx, "sibling")
		for _, addr := range k.addrs(s, 1) {
			unrouted(ctx, addr)
		}
	}, inAllStacks)

	DescribeTable("may be asked for by number", func(ctx SpecContext, k stack) {
		s.addRouted(ctx)
		s.withPeers(ctx, k)
		s.startBackends(ctx, "web", lab.Nodes[2])
		var wanted []any
		for _, addr := range k.addrs(s, 7) {
			wanted = append(wanted, addr)
		}
		s.addService(ctx, "web", selecting("web"), k.service, asking(wanted...))
		for _, addr := range k.addrs(s, 7) {
			serves(ctx, addr, lab.Nodes, "web-node3")
		}
	}, inAllStacks)

	DescribeTable("may be of a pool that is written as a prefix", func(ctx SpecContext, k stack) {
		v4, v6 := s.prefix()
		s.addPool(ctx, "routed", []string{v4.String(), v6.String()})
		s.withPeers(ctx, k)
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), k.service)
		s.tellsOfBGP(ctx, "web")
		addrs := shown(s.service(ctx, "web"))
		Expect(addrs).To(HaveLen(len(k)))
		for _, addr := range addrs {
			serves(ctx, netip.MustParseAddr(addr), lab.Nodes, "web-node1")
		}
	}, inAllStacks)

	DescribeTable("is not announced by a node whose network is not set up", func(ctx SpecContext, k stack) {
		serve(ctx, k)
		s.setCondition(ctx, "node1", corev1.NodeNetworkUnavailable)
		for _, addr := range k.addrs(s, 1) {
			routed(ctx, addr, lab.Nodes[1:]...)
			answersFromFar(ctx, addr, backendNames()...)
		}
	}, inAllStacks)

	DescribeTable("is not announced by a node that is excluded, unless all are", func(ctx SpecContext, k stack) {
		serve(ctx, k)
		s.mark(ctx, "node2", exclude, include)
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, others(lab.Nodes[1]), backendNames()...)
		}
		s.mark(ctx, "node1", exclude, include)
		s.mark(ctx, "node3", exclude, include)
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes, backendNames()...)
		}
	}, inAllStacks)

	DescribeTable("is given up by a node that is drained: routers are asked to prefer others first, and nothing is lost", func(ctx SpecContext, k stack) {
		serve(ctx, k)
		addrs := k.addrs(s, 1)
		complete := probedFromFar(ctx, addrs...)
		s.mark(ctx, "node3", drain, undrain)
		marked := ContainElement(And(
			HaveField("Communities", Equal([]uint32{gracefulShutdown})), WithTransform(tellerOf, Equal("node3"))))
		for _, addr := range addrs {
			for _, r := range lab.tors {
				Eventually(ctx, func() ([]router.Path, error) { return r.BGP.Paths(ctx, ofAddress(addr)) }).Should(And(HaveLen(3), marked))
			}
		}
		for _, addr := range addrs {
			serves(ctx, addr, lab.Nodes[:2], backendNames()...)
		}
		complete()
		s.mark(ctx, "node3", undrain, func(*corev1.Node) {})
		for _, addr := range addrs {
			announcedBy(ctx, addr, lab.Nodes, HaveField("Communities", BeEmpty()))
			serves(ctx, addr, lab.Nodes, backendNames()...)
		}
	}, inAllStacks)

	DescribeTable("of a node that an autoscaler is about to remove has a local preference of 0 for routers in its own AS", func(ctx SpecContext, k stack) {
		configureTors(ctx, inOwnAS)
		s.addRouted(ctx)
		s.withPeers(ctx, k, internal)
		s.startBackends(ctx, "web")
		s.addService(ctx, "web", selecting("web"), k.service)
		addrs := k.addrs(s, 1)
		for _, addr := range addrs {
			serves(ctx, addr, lab.Nodes, backendNames()...)
		}
		s.mark(ctx, "node3", scaleDown, func(n *corev1.Node) { n.Spec.Taints = nil })
		for _, addr := range addrs {
			for _, r := range lab.tors {
				Eventually(ctx, func() ([]router.Path, error) { return r.BGP.Paths(ctx, ofAddress(addr)) }).Should(And(HaveLen(3), ContainElement(And(
					WithTransform(tellerOf, Equal("node3")), HaveField("LocalPref", HaveValue(BeZero())),
					HaveField("Communities", Equal([]uint32{gracefulShutdown})), HaveField("Best", BeFalse())))))
				kernelWants(ctx, r, ofAddress(addr), lab.Nodes[:2]...)
			}
		}
		for _, addr := range addrs {
			serves(ctx, addr, lab.Nodes[:2], backendNames()...)
		}
	}, inAllStacks)
})

// tellerOf is the node that has told of a path.
func tellerOf(p router.Path) string { return nodeAt(p.Neighbor) }

// scaleDown taints a Node as the cluster autoscaler does.
func scaleDown(n *corev1.Node) {
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectPreferNoSchedule})
}
