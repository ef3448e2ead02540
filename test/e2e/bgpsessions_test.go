// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
)

// oddPort is a port for BGP that is not the usual one.
const oddPort = 1790

// otherwise makes a peer that says who the router is in another way than by its address.
func otherwise(edit func(*v1alpha1.BGPPeerSpec)) func(*v1alpha1.BGPPeerSpec) {
	return func(p *v1alpha1.BGPPeerSpec) {
		p.PeerAddress = ""
		edit(p)
	}
}

// forwarded is how many packets from the far host a router has got.
func forwarded(r *cluster.Router) (uint64, error) {
	link, err := r.Far.Netlink().LinkByName(r.Far.Interface)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Statistics.RxPackets, nil
}

var _ = Describe("A session with a router", onLab, func() {
	s := newRoutedScene()

	allLead := func(ctx context.Context, addrs []netip.Addr, each ...OmegaMatcher) {
		GinkgoHelper()
		for _, r := range lab.tors {
			for _, addr := range addrs {
				leads(ctx, r, addr, lab.Nodes, each...)
			}
		}
	}

	It("is between ASes whose numbers have four bytes", func(ctx SpecContext) {
		const nodes, routers = 4200000000, 4200000100
		configureTors(ctx, eachNeighbor(func(n *router.Neighbor) { n.ASN = nodes }), func(c *router.Config) { c.ASN = routers })
		addrs := s.addWeb(ctx)
		s.addPeers(ctx, bothFamilies, func(p *v1alpha1.BGPPeerSpec) { p.LocalASN, p.PeerASN = ptr.To[int64](nodes), "4200000100" })
		allLead(ctx, addrs, HaveField("ASPath", Equal([]uint32{nodes})))
		s.sessionTells(ctx, lab.Nodes[0], lab.tors[0].Name(), HaveField("State", v1alpha1.BGPEstablished))
	})

	DescribeTable("is opened by the router where the peers are passive, of which a node can have two", func(ctx SpecContext, f corev1.IPFamily, port uint16) {
		addrs := s.addWeb(ctx)
		configureTors(ctx, func(c *router.Config) {
			c.Neighbors = slices.DeleteFunc(c.Neighbors, func(n router.Neighbor) bool { return familyOf(n.Address) != f })
		}, eachNeighbor(func(n *router.Neighbor) { n.Passive, n.Port = false, port }))
		for _, r := range lab.tors {
			s.addPeer(ctx, r.Name(), addressOf(r.Host, f), func(p *v1alpha1.BGPPeerSpec) { p.Passive, p.PeerPort = true, int32(port) })
		}
		allLead(ctx, addrs)
		sessions := sessionsLive(ctx, lab.tors[1])
		// Neither is disturbed when the other goes.
		s.deletePeer(ctx, lab.tors[0].Name())
		for _, addr := range addrs {
			neverTold(ctx, lab.tors[0], ofAddress(addr))
			leads(ctx, lab.tors[1], addr, lab.Nodes)
		}
		sessions.goOn(ctx, lab.tors[1])
	},
		Entry("by IPv4", corev1.IPv4Protocol, uint16(0)),
		Entry("by IPv6", corev1.IPv6Protocol, uint16(0)),
		Entry("at another port", corev1.IPv4Protocol, uint16(oddPort)),
	)

	DescribeTable("is with another port of the router", func(ctx SpecContext, f corev1.IPFamily) {
		addrs := s.addWeb(ctx)
		for _, r := range lab.tors {
			_, err := r.RunInput(ctx, "table inet odd { chain in { type nat hook prerouting priority dstnat; tcp dport 1790 redirect to :179; }; }\n", "nft", "-f", "-")
			Expect(err).NotTo(HaveOccurred())
			s.afterwards(func(ctx context.Context) {
				established(ctx, r, f) // none: the last words of a session go that way, too
				_, err := r.Run(ctx, "nft", "delete", "table", "inet", "odd")
				Expect(err).NotTo(HaveOccurred())
			})
		}
		s.withPeers(ctx, stack{f}, func(p *v1alpha1.BGPPeerSpec) { p.PeerPort, p.Families = oddPort, nil })
		allLead(ctx, addrs)
		for _, n := range lab.Nodes {
			said, err := n.Run(ctx, "ss", "-Htn", "state", "established", "( dport = :1790 )")
			Expect(err).NotTo(HaveOccurred())
			Expect(strings.Count(said, ":1790")).To(Equal(len(lab.tors)), said)
		}
	}, inBothFamilies)

	DescribeTable("has the node's address that its peer names", func(ctx SpecContext, f corev1.IPFamily, own string) {
		node, address := lab.Nodes[0], netip.MustParsePrefix(own)
		ip(ctx, node.Host, "address add "+own+" dev eth0")
		s.afterwards(func(ctx context.Context) {
			for _, r := range lab.tors {
				established(ctx, r, f) // none: it takes the address to end a session
			}
			ip(ctx, node.Host, "address del "+own+" dev eth0")
		})
		addrs := s.addWeb(ctx)
		configureTors(ctx, func(c *router.Config) {
			c.Neighbors = append(c.Neighbors, router.Neighbor{Address: address.Addr(), ASN: nodesASN, Passive: true, IPv4: true, IPv6: true})
		})
		for _, r := range lab.tors {
			s.addPeer(ctx, r.Name(), addressOf(r.Host, f), func(p *v1alpha1.BGPPeerSpec) {
				p.NodeSelector, p.SourceAddress, p.BindInterface = onNodes(node.Name()), address.Addr().String(), "eth0"
			})
		}
		for _, r := range lab.tors {
			Eventually(ctx, r.BGP.Paths).WithArguments(ofAddress(s.at(f, 1))).Should(ConsistOf(And(
				HaveField("Neighbor", address.Addr()), HaveField("NextHops", ContainElement(address.Addr())))))
			Eventually(ctx, func() ([]router.Hop, error) { return r.BGP.KernelRoute(ofAddress(s.at(f, 1))) }).Should(ConsistOf(HaveField("Via", address.Addr())))
			for _, addr := range addrs {
				reachedBy(ctx, addr, r)
			}
		}
	},
		Entry("IPv4", corev1.IPv4Protocol, "10.89.5.1/16"),
		Entry("IPv6", corev1.IPv6Protocol, "fd89::5:1/64"),
	)

	It("is with the node's default gateways, of either family, and follows them", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		gateway, other := lab.tors[0], lab.tors[1]
		s.addPeer(ctx, "gateway", gateway.IPv4, otherwise(func(p *v1alpha1.BGPPeerSpec) { p.AutoDiscover = v1alpha1.AutoDiscoverDefaultGateway }))
		sessionsOf := func(r *cluster.Router, nodes ...*cluster.Node) {
			GinkgoHelper()
			established(ctx, r, corev1.IPv4Protocol, nodes...)
			established(ctx, r, corev1.IPv6Protocol, nodes...)
		}
		sessionsOf(gateway, lab.Nodes...)
		for _, addr := range addrs {
			leads(ctx, gateway, addr, lab.Nodes)
		}
		moved := lab.Nodes[2]
		send := func(ctx context.Context, by *cluster.Router) {
			ip(ctx, moved.Host, "-4 route replace default via "+by.IPv4.String()+" dev eth0", "-6 route replace default via "+by.IPv6.String()+" dev eth0")
		}
		s.afterwards(func(ctx context.Context) { send(ctx, gateway) })
		send(ctx, other)
		sessionsOf(other, moved)
		sessionsOf(gateway, lab.Nodes[:2]...)
		for _, addr := range addrs {
			leads(ctx, other, addr, lab.Nodes[2:])
			leads(ctx, gateway, addr, lab.Nodes[:2])
		}
	})

	It("tells the router for how long it is to keep the routes of a speaker that restarts", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		s.withPeers(ctx, bothFamilies)
		allLead(ctx, addrs)
		// It tells when it has told all, too, which ends the wait for what is left of before. Only FRR shows it.
		for _, n := range lab.Nodes {
			Eventually(ctx, lab.tors[0].BGP.Session).WithArguments(n.IPv4).Should(And(HaveField("IPv4.EndOfRIB", true), HaveField("IPv6.EndOfRIB", true)))
		}
		restartTime := func(d time.Duration) {
			GinkgoHelper()
			for _, r := range lab.tors {
				for _, n := range lab.Nodes {
					Eventually(ctx, r.BGP.Session).WithArguments(n.IPv4).Should(And(
						HaveField("State", "Established"), HaveField("Restart.Time", d)), "%s with %s", r.Name(), n.Name())
				}
			}
		}
		restartTime(30 * time.Second)
		edit := func(g v1alpha1.GracefulRestart) {
			GinkgoHelper()
			for _, r := range lab.tors {
				s.editPeer(ctx, r.Name(), func(p *v1alpha1.BGPPeerSpec) { p.GracefulRestart = &g })
			}
		}
		edit(v1alpha1.GracefulRestart{RestartTime: &metav1.Duration{Duration: 2 * time.Minute}, LongLivedStaleTime: &metav1.Duration{Duration: time.Hour}})
		restartTime(2 * time.Minute)
		edit(v1alpha1.GracefulRestart{Enabled: ptr.To(false)})
		restartTime(0)
		allLead(ctx, addrs)
	})

	It("is one of two that a node has, by whose routers the far host's flows go side by side", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		s.withPeers(ctx, bothFamilies)
		allLead(ctx, addrs)
		for _, addr := range addrs {
			var before []uint64
			for _, r := range lab.tors {
				n, err := forwarded(r)
				Expect(err).NotTo(HaveOccurred())
				before = append(before, n)
			}
			reachedBy(ctx, addr, lab.tors...)
			for i, r := range lab.tors {
				Expect(forwarded(r)).To(BeNumerically(">", before[i]+10), "%s should get its share of flows to %s", r.Name(), addr)
			}
		}
	})
})

var _ = Describe("A session with a router behind another", onLab, Ordered, func() {
	s := newRoutedScene()
	var behind []*cluster.Router

	BeforeEach(func(ctx SpecContext) {
		if behind != nil {
			return
		}
		for _, kind := range []router.Kind{router.FRR, router.BIRD} {
			r, err := lab.AddRouter(ctx, cluster.RouterConfig{Kind: kind, Place: cluster.Behind, BGP: router.Config{ASN: torsASN}})
			Expect(err).NotTo(HaveOccurred())
			behind = append(behind, r)
		}
	})
	AfterAll(func() {
		for _, r := range behind {
			Expect(r.BGP.Stop()).To(Succeed())
		}
	})

	// alone checks that a router leads to an address by the router before it alone, having been told by every node.
	alone := func(ctx context.Context, r *cluster.Router, addr netip.Addr, each ...OmegaMatcher) {
		GinkgoHelper()
		routerWants(ctx, r, ofAddress(addr), lab.Nodes, each...)
		gateway := lab.tors[0].Far.IPv4
		if addr.Is6() {
			gateway = lab.tors[0].Far.IPv6
		}
		Eventually(ctx, func() ([]netip.Addr, error) {
			hops, err := r.BGP.KernelRoute(ofAddress(addr))
			via := []netip.Addr{}
			for _, h := range hops {
				via = append(via, h.Via)
			}
			return slices.Compact(via), err
		}).Should(Equal([]netip.Addr{gateway}), "kernel of %s", r.Name())
		reachedBy(ctx, addr, r)
	}

	DescribeTable("leads to the nodes by that", func(ctx SpecContext, f corev1.IPFamily, peer func(*v1alpha1.BGPPeerSpec), neighbor func(*router.Neighbor)) {
		addrs := s.addWeb(ctx)
		s.withPeers(ctx, bothFamilies)
		for _, r := range behind {
			configureTor(ctx, r, eachNeighbor(func(n *router.Neighbor) { neighbor(n) }))
			s.addPeer(ctx, r.Name(), addressOf(r.Host, f), peer)
		}
		for _, r := range behind {
			for _, addr := range addrs {
				alone(ctx, r, addr)
			}
		}
		s.sessionTells(ctx, lab.Nodes[0], behind[0].Name(), HaveField("State", v1alpha1.BGPEstablished))
	},
		Entry("with ebgpMultiHop by IPv4", corev1.IPv4Protocol,
			func(p *v1alpha1.BGPPeerSpec) { p.EBGPMultiHop = ptr.To[int32](2) }, func(n *router.Neighbor) { n.MultiHop = 2 }),
		Entry("with ebgpMultiHop by IPv6", corev1.IPv6Protocol,
			func(p *v1alpha1.BGPPeerSpec) { p.EBGPMultiHop = ptr.To[int32](2) }, func(n *router.Neighbor) { n.MultiHop = 2 }),
		Entry("in the nodes' own AS by IPv4", corev1.IPv4Protocol,
			func(p *v1alpha1.BGPPeerSpec) { p.LocalASN = ptr.To[int64](torsASN) }, func(n *router.Neighbor) { n.ASN = torsASN }),
		Entry("in the nodes' own AS by IPv6", corev1.IPv6Protocol,
			func(p *v1alpha1.BGPPeerSpec) { p.LocalASN = ptr.To[int64](torsASN) }, func(n *router.Neighbor) { n.ASN = torsASN }),
		Entry("with ttlSecurityHops by IPv4", corev1.IPv4Protocol,
			func(p *v1alpha1.BGPPeerSpec) { p.TTLSecurityHops = ptr.To[int32](2) }, func(n *router.Neighbor) { n.MultiHop, n.TTLSecurity = 2, true }),
		Entry("with ttlSecurityHops by IPv6", corev1.IPv6Protocol,
			func(p *v1alpha1.BGPPeerSpec) { p.TTLSecurityHops = ptr.To[int32](2) }, func(n *router.Neighbor) { n.MultiHop, n.TTLSecurity = 2, true }),
	)

	It("is none while ttlSecurityHops or ebgpMultiHop say that it is farther than it may be", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		s.withPeers(ctx, bothFamilies)
		for _, r := range behind {
			configureTor(ctx, r, eachNeighbor(func(n *router.Neighbor) { n.MultiHop, n.TTLSecurity = 2, true }))
			s.addPeer(ctx, r.Name(), r.IPv4, func(p *v1alpha1.BGPPeerSpec) { p.TTLSecurityHops = ptr.To[int32](1) })
		}
		for _, r := range behind {
			neverTold(ctx, r, ofAddress(addrs[0]))
			s.sessionTells(ctx, lab.Nodes[0], r.Name(), HaveField("State", Not(Equal(v1alpha1.BGPEstablished))))
			s.editPeer(ctx, r.Name(), func(p *v1alpha1.BGPPeerSpec) { p.TTLSecurityHops = ptr.To[int32](2) })
			alone(ctx, r, addrs[0])
			s.editPeer(ctx, r.Name(), func(p *v1alpha1.BGPPeerSpec) { p.TTLSecurityHops = nil })
			neverTold(ctx, r, ofAddress(addrs[0]))
		}
	})
})
