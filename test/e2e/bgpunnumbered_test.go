// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
)

// cable is one between a node and a router, with link-local addresses only.
type cable struct {
	node               *cluster.Node
	router             *cluster.Router
	nodeEnd, routerEnd *cluster.Host
}

var _ = Describe("Over a cable without addresses", onLab, Ordered, func() {
	BeforeAll(func(ctx SpecContext) {
		startSite(ctx, cluster.Config{Name: "e2e-cables", Nodes: 2}).use()
	})
	s := newRoutedScene()
	cables := map[*cluster.Router][]cable{} // one to each node
	BeforeEach(func() {
		for _, r := range lab.tors {
			for _, n := range lab.Nodes[len(cables[r]):] {
				nodeEnd, routerEnd, err := lab.Connect(n.Host, r.Host)
				Expect(err).NotTo(HaveOccurred())
				cables[r] = append(cables[r], cable{n, r, nodeEnd, routerEnd})
			}
		}
	})

	// addCablePeers has all routers and nodes talk over their cables, and nowhere else.
	addCablePeers := func(ctx context.Context, bfd bool) {
		GinkgoHelper()
		var profile string
		var watched *router.BFD
		if bfd {
			profile, watched = s.peerName("bfd"), &router.BFD{Multiplier: 5}
			p := &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: profile}, Spec: v1alpha1.BFDProfileSpec{DetectMultiplier: 5}}
			Expect(api.Create(ctx, p)).To(Succeed())
			s.afterwards(func(ctx context.Context) { Expect(api.Delete(ctx, p)).To(Succeed()) })
		}
		for _, r := range lab.tors {
			configureTor(ctx, r, func(c *router.Config) {
				c.Neighbors = nil
				for _, line := range cables[r] {
					c.Neighbors = append(c.Neighbors, router.Neighbor{Interface: line.routerEnd.Interface, ASN: nodesASN, BFD: watched})
				}
			})
			for _, line := range cables[r] {
				s.addPeer(ctx, line.nodeEnd.Interface, netip.Addr{}, otherwise(func(p *v1alpha1.BGPPeerSpec) {
					p.Interface, p.NodeSelector, p.BFDProfile = v1alpha1.InterfaceName(line.nodeEnd.Interface), onNodes(line.node.Name()), profile
				}))
			}
		}
	}
	// leadsBy checks that a router leads to an address by these cables.
	leadsBy := func(ctx context.Context, r *cluster.Router, addr netip.Addr, lines ...cable) {
		GinkgoHelper()
		var paths, hops []any
		for _, line := range lines {
			own := line.nodeEnd.IPv6
			paths = append(paths, And(HaveField("Neighbor", own), HaveField("NextHops", ContainElement(own)), HaveField("ASPath", Equal([]uint32{nodesASN}))))
			hops = append(hops, router.Hop{Via: own, Interface: line.routerEnd.Interface})
		}
		Eventually(ctx, r.BGP.Paths).WithArguments(ofAddress(addr)).Should(ConsistOf(paths...), "BGP table of %s", r.Name())
		Eventually(ctx, func() ([]router.Hop, error) { return r.BGP.KernelRoute(ofAddress(addr)) }).Should(ConsistOf(hops...), "kernel of %s", r.Name())
	}

	DescribeTable("a router is found by its advertisements, and led to addresses by IPv6 next hops", func(ctx SpecContext, k stack, bfd bool) {
		s.addRouted(ctx)
		addCablePeers(ctx, bfd)
		s.startBackends(ctx, "web")
		s.addService(ctx, "web", selecting("web"), k.service)
		for _, r := range lab.tors {
			for _, line := range cables[r] {
				Eventually(ctx, r.BGP.Session).WithArguments(line.nodeEnd.IPv6).Should(And(
					HaveField("State", "Established"), HaveField("Interface", line.routerEnd.Interface)))
				// A node takes what comes from the far host by a link only if it would answer by that one.
				for _, network := range []netip.Prefix{cluster.Far4, cluster.Far6} {
					Expect(line.nodeEnd.RouteBy(network, line.routerEnd.IPv6)).To(Succeed())
				}
			}
			for _, addr := range k.addrs(s, 1) {
				leadsBy(ctx, r, addr, cables[r]...)
				answersVia(ctx, r, netip.AddrPortFrom(addr, 80), backendNames()...)
			}
		}
		if !bfd {
			return
		}
		for _, r := range lab.tors {
			for _, line := range cables[r] {
				Eventually(ctx, r.BGP.Session).WithArguments(line.nodeEnd.IPv6).Should(HaveField("BFD", And(Not(BeNil()), HaveField("State", "Up"))))
				s.sessionTells(ctx, line.node, line.nodeEnd.Interface, HaveField("State", v1alpha1.BGPEstablished), HaveField("BFD", v1alpha1.BFDUp))
			}
		}
		// Where it goes dark, both sides find out long before the hold time of 90 s would be over.
		for _, r := range lab.tors {
			dark, other := cables[r][0], cables[r][1]
			Expect(dark.nodeEnd.Cut(ctx)).To(Succeed())
			s.afterwards(func(ctx context.Context) { Expect(dark.nodeEnd.Heal(ctx)).To(Succeed()) })
			for _, addr := range k.addrs(s, 1) {
				leadsBy(ctx, r, addr, other)
			}
			s.sessionTells(ctx, dark.node, dark.nodeEnd.Interface, HaveField("State", Not(Equal(v1alpha1.BGPEstablished))), HaveField("BFD", v1alpha1.BFDDown))
		}
	},
		Entry("IPv4", stack{corev1.IPv4Protocol}, false),
		Entry("IPv6", stack{corev1.IPv6Protocol}, false),
		Entry("both families", bothFamilies, false),
		Entry("IPv4, with BFD", stack{corev1.IPv4Protocol}, true),
		Entry("IPv6, with BFD", stack{corev1.IPv6Protocol}, true),
		Entry("both families, with BFD", bothFamilies, true),
	)
})
