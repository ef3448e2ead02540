// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
)

const noExport = 0xffffff01

func community(asn, value uint32) uint32 { return asn<<16 | value }

// bothFamilies are those of a Service that most specs of BGP have: what goes for one address has to go for the other.
var bothFamilies = stack{corev1.IPv4Protocol, corev1.IPv6Protocol}

// addWeb makes the pool routed and a Service with a backend on every node, and returns the Service's addresses.
func (s *scene) addWeb(ctx context.Context, edits ...func(*corev1.Service)) []netip.Addr {
	GinkgoHelper()
	s.addRouted(ctx)
	s.startBackends(ctx, "web")
	s.addService(ctx, "web", append([]func(*corev1.Service){selecting("web"), dual}, edits...)...)
	s.served(ctx, "web", s.v4(1), s.v6(1))
	return bothFamilies.addrs(s, 1)
}

// leads checks that a router leads to an address by these nodes, and that the far host gets answers by way of it.
func leads(ctx context.Context, r *cluster.Router, addr netip.Addr, nodes []*cluster.Node, each ...OmegaMatcher) {
	GinkgoHelper()
	leadsTo(ctx, r, ofAddress(addr), nodes, each...)
	reachedBy(ctx, addr, r)
}

// leadsTo checks the same of a prefix, without asking anybody.
func leadsTo(ctx context.Context, r *cluster.Router, prefix netip.Prefix, nodes []*cluster.Node, each ...OmegaMatcher) {
	GinkgoHelper()
	routerWants(ctx, r, prefix, nodes, each...)
	kernelWants(ctx, r, prefix, nodes...)
}

// reachedBy checks that the far host gets answers at an address by way of these routers.
func reachedBy(ctx context.Context, addr netip.Addr, routers ...*cluster.Router) {
	GinkgoHelper()
	Expect(lab.SendFarBy(routers...)).To(Succeed())
	Eventually(ctx, askedFromFar).WithArguments(netip.AddrPortFrom(addr, 80)).ShouldNot(BeEmpty(), "%s by %s", addr, routers[0].Name())
}

// neverTold checks that a router has no path of a prefix, and gets none for a while.
func neverTold(ctx context.Context, r *cluster.Router, prefix netip.Prefix) {
	GinkgoHelper()
	Eventually(ctx, r.BGP.Paths).WithArguments(prefix).Should(BeEmpty(), "%s at %s", prefix, r.Name())
	Consistently(ctx, r.BGP.Paths).WithArguments(prefix).Should(BeEmpty(), "%s at %s", prefix, r.Name())
	kernelWants(ctx, r, prefix)
}

// attributes of a path are its communities.
func attributes(communities []uint32, large [][3]uint32) OmegaMatcher {
	return And(HaveField("Communities", Equal(communities)), HaveField("Large", Equal(large)))
}

func withMED(med uint32) OmegaMatcher { return HaveField("MED", HaveValue(Equal(med))) }

var _ = Describe("A route that routers are told", onLab, func() {
	s := newRoutedScene()

	// byAll checks that all routers lead to the addresses by all nodes, each path as it should be.
	byAll := func(ctx context.Context, addrs []netip.Addr, each ...OmegaMatcher) {
		GinkgoHelper()
		for _, r := range lab.tors {
			for _, a := range addrs {
				leads(ctx, r, a, lab.Nodes, each...)
			}
		}
	}
	path := func(asns ...uint32) OmegaMatcher { return HaveField("ASPath", Equal(asns)) }

	DescribeTable("goes by sessions", func(ctx SpecContext, k stack, by ...corev1.IPFamily) {
		s.addRouted(ctx)
		for _, r := range lab.tors {
			for _, f := range by {
				s.addPeer(ctx, r.Name()+"-"+map[bool]string{true: "four", false: "six"}[f == corev1.IPv4Protocol], addressOf(r.Host, f))
			}
		}
		s.addBGPAdvertisement(ctx, "all", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.Communities = []v1alpha1.Community{"64999:7"} })
		s.startBackends(ctx, "web")
		s.addService(ctx, "web", selecting("web"), k.service)
		for _, r := range lab.tors {
			for _, addr := range k.addrs(s, 1) {
				routerWants(ctx, r, ofAddress(addr), slices.Repeat(lab.Nodes, len(by)), path(nodesASN), attributes([]uint32{community(64999, 7)}, nil))
				kernelWants(ctx, r, ofAddress(addr), lab.Nodes...)
			}
		}
		for _, addr := range k.addrs(s, 1) {
			answersFromFar(ctx, addr, backendNames()...)
		}
	},
		Entry("of IPv4, an IPv4 address", stack{corev1.IPv4Protocol}, corev1.IPv4Protocol),
		Entry("of IPv6, an IPv4 address", stack{corev1.IPv4Protocol}, corev1.IPv6Protocol),
		Entry("of both families, an IPv4 address", stack{corev1.IPv4Protocol}, corev1.IPv4Protocol, corev1.IPv6Protocol),
		Entry("of IPv4, an IPv6 address", stack{corev1.IPv6Protocol}, corev1.IPv4Protocol),
		Entry("of IPv6, an IPv6 address", stack{corev1.IPv6Protocol}, corev1.IPv6Protocol),
		Entry("of both families, an IPv6 address", stack{corev1.IPv6Protocol}, corev1.IPv4Protocol, corev1.IPv6Protocol),
		Entry("of IPv4, two addresses", bothFamilies, corev1.IPv4Protocol),
		Entry("of IPv6, two addresses", bothFamilies, corev1.IPv6Protocol),
		Entry("of both families, two addresses", bothFamilies, corev1.IPv4Protocol, corev1.IPv6Protocol),
	)

	It("is of the families that the peer has, also after an edit", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		frr, bird := lab.tors[0], lab.tors[1]
		only := func(list ...v1alpha1.BGPFamily) func(*v1alpha1.BGPPeerSpec) {
			return func(p *v1alpha1.BGPPeerSpec) { p.Families = list }
		}
		s.addPeer(ctx, "four", frr.IPv4, only(v1alpha1.BGPFamilyIPv4))
		s.addPeer(ctx, "six", bird.IPv4, only(v1alpha1.BGPFamilyIPv6))
		leads(ctx, frr, addrs[0], lab.Nodes)
		leads(ctx, bird, addrs[1], lab.Nodes)
		neverTold(ctx, frr, ofAddress(addrs[1]))
		neverTold(ctx, bird, ofAddress(addrs[0]))
		s.editPeer(ctx, "four", only(v1alpha1.BGPFamilyIPv6))
		s.editPeer(ctx, "six", only(v1alpha1.BGPFamilyIPv4, v1alpha1.BGPFamilyIPv6))
		leads(ctx, frr, addrs[1], lab.Nodes)
		neverTold(ctx, frr, ofAddress(addrs[0]))
		for _, addr := range addrs {
			leads(ctx, bird, addr, lab.Nodes)
		}
	})

	It("has the communities, the MED and the longer path of its BGPAdvertisement, after an edit, too, and in the same session", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		s.withPeers(ctx, bothFamilies)
		s.addBGPAdvertisement(ctx, "all", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.Communities = []v1alpha1.Community{"64999:2", "64999:1", "large:4200000000:1:2", "no-export"}
			ad.MED, ad.ASPathPrepend, ad.LocalPref = ptr.To[int64](70), 2, ptr.To[int64](300)
		})
		// What the nodes prefer is no matter of another AS: there it is the routers' own 100, if they tell it.
		byAll(ctx, addrs, attributes([]uint32{community(64999, 1), community(64999, 2), noExport}, [][3]uint32{{4200000000, 1, 2}}),
			withMED(70), path(nodesASN, nodesASN, nodesASN), HaveField("LocalPref", Or(BeNil(), HaveValue(BeEquivalentTo(100)))))
		sessions := sessionsLive(ctx)
		for _, change := range []struct {
			edit func(*v1alpha1.BGPAdvertisementSpec)
			each []OmegaMatcher
		}{
			{func(ad *v1alpha1.BGPAdvertisementSpec) {
				ad.Communities = []v1alpha1.Community{"large:1:2:3", "64999:3"}
			}, []OmegaMatcher{attributes([]uint32{community(64999, 3)}, [][3]uint32{{1, 2, 3}})}},
			{func(ad *v1alpha1.BGPAdvertisementSpec) { ad.MED = ptr.To[int64](4294967295) }, []OmegaMatcher{withMED(4294967295)}},
			{func(ad *v1alpha1.BGPAdvertisementSpec) { ad.ASPathPrepend = 10 }, []OmegaMatcher{HaveField("ASPath", HaveLen(11))}},
			{func(ad *v1alpha1.BGPAdvertisementSpec) { ad.Communities, ad.MED, ad.ASPathPrepend = nil, nil, 0 },
				[]OmegaMatcher{attributes(nil, nil), HaveField("MED", Or(BeNil(), HaveValue(BeZero()))), path(nodesASN)}},
		} {
			s.editBGPAdvertisement(ctx, "all", change.edit)
			byAll(ctx, addrs, change.each...)
		}
		sessions.goOn(ctx)
	})

	It("has the local preference in the nodes' own AS, and no AS in its path", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		configureTors(ctx, eachNeighbor(func(n *router.Neighbor) { n.ASN = torsASN }))
		s.withPeers(ctx, bothFamilies, func(p *v1alpha1.BGPPeerSpec) {
			p.LocalASN, p.PeerASN = ptr.To[int64](torsASN), v1alpha1.PeerASNInternal
		})
		preferred := func(preference uint32) OmegaMatcher {
			return And(HaveField("LocalPref", HaveValue(Equal(preference))), HaveField("ASPath", BeEmpty()))
		}
		byAll(ctx, addrs, preferred(100))
		sessions := sessionsLive(ctx)
		s.addBGPAdvertisement(ctx, "all", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.LocalPref, ad.ASPathPrepend, ad.Communities = ptr.To[int64](300), 3, []v1alpha1.Community{"64999:1", "no-export"}
		})
		byAll(ctx, addrs, preferred(300), attributes([]uint32{community(64999, 1), noExport}, nil))
		s.editBGPAdvertisement(ctx, "all", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.LocalPref = ptr.To[int64](0) })
		byAll(ctx, addrs, preferred(0))
		sessions.goOn(ctx)
	})

	It("is to an aggregate, but not for externalTrafficPolicy Local", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		s.withPeers(ctx, bothFamilies)
		s.addService(ctx, "more", selecting("web"), dual)
		s.served(ctx, "more", s.v4(2), s.v6(2))
		s.addBGPAdvertisement(ctx, "all", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.AggregationLength, ad.AggregationLengthV6 = ptr.To[int32](28), ptr.To[int32](120)
		})
		aggregate := func(a netip.Addr) netip.Prefix {
			if a.Is4() {
				return netip.PrefixFrom(a, 28).Masked()
			}
			return netip.PrefixFrom(a, 120).Masked()
		}
		each := func(check func(r *cluster.Router, web, more netip.Addr)) {
			GinkgoHelper()
			for _, r := range lab.tors {
				for _, a := range addrs {
					check(r, a, a.Next())
				}
			}
		}
		each(func(r *cluster.Router, web, more netip.Addr) {
			GinkgoHelper()
			leadsTo(ctx, r, aggregate(web), lab.Nodes)
			neverTold(ctx, r, ofAddress(web))
			reachedBy(ctx, web, r)
			reachedBy(ctx, more, r)
		})
		sessions := sessionsLive(ctx)
		s.editService(ctx, "more", local)
		each(func(r *cluster.Router, web, more netip.Addr) {
			GinkgoHelper()
			leads(ctx, r, more, lab.Nodes)
			leadsTo(ctx, r, aggregate(web), lab.Nodes)
			neverTold(ctx, r, ofAddress(web))
		})
		s.editService(ctx, "web", local)
		each(func(r *cluster.Router, web, _ netip.Addr) {
			GinkgoHelper()
			leads(ctx, r, web, lab.Nodes)
			neverTold(ctx, r, aggregate(web))
		})
		s.editService(ctx, "web", func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster })
		each(func(r *cluster.Router, web, _ netip.Addr) {
			GinkgoHelper()
			leadsTo(ctx, r, aggregate(web), lab.Nodes)
		})
		s.editBGPAdvertisement(ctx, "all", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.AggregationLength, ad.AggregationLengthV6 = nil, nil })
		each(func(r *cluster.Router, web, _ netip.Addr) {
			GinkgoHelper()
			leads(ctx, r, web, lab.Nodes)
			neverTold(ctx, r, aggregate(web))
		})
		sessions.goOn(ctx)
	})

	It("has what all BGPAdvertisements say that select its address, and goes wherever one of them says", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		frr, bird := lab.tors[0], lab.tors[1]
		s.withPeers(ctx, bothFamilies)
		s.addBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.Communities = []v1alpha1.Community{"64999:1", "large:1:1:1"}
		})
		s.addBGPAdvertisement(ctx, "b", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.Communities, ad.MED = []v1alpha1.Community{"64999:1", "64999:2", "large:2:2:2"}, ptr.To[int64](5)
			ad.PeerSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"name": frr.Name()}}
		})
		s.addBGPAdvertisement(ctx, "wide", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.AggregationLength, ad.AggregationLengthV6 = ptr.To[int32](24), ptr.To[int32](96)
			ad.Peers, ad.NodeSelector = []string{s.peerName(bird.Name())}, onNodes("node2")
		})
		for _, addr := range addrs {
			leads(ctx, frr, addr, lab.Nodes, attributes([]uint32{community(64999, 1), community(64999, 2)}, [][3]uint32{{1, 1, 1}, {2, 2, 2}}), withMED(5))
			leads(ctx, bird, addr, lab.Nodes, attributes([]uint32{community(64999, 1)}, [][3]uint32{{1, 1, 1}}))
		}
		v4, v6 := s.prefix()
		for _, wide := range []netip.Prefix{v4, v6} {
			leadsTo(ctx, bird, wide, lab.Nodes[1:2], attributes(nil, nil))
			neverTold(ctx, frr, wide)
		}
		// What one of them no longer says, another may.
		s.editBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.NodeSelector = onNodes("node1") })
		for _, addr := range addrs {
			leads(ctx, bird, addr, lab.Nodes[:1])
			routerWants(ctx, frr, ofAddress(addr), lab.Nodes, HaveField("Communities", ContainElement(community(64999, 2))))
		}
	})
})
