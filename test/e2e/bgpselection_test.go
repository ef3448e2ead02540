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
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

var _ = Describe("Who tells which router of an address is said by", onLab, func() {
	s := newRoutedScene()

	// tells checks what each router is told of an address of each family: by which nodes, if at all.
	tells := func(ctx context.Context, addrs []netip.Addr, nodes ...[]*cluster.Node) {
		GinkgoHelper()
		for i, r := range lab.tors {
			for _, addr := range addrs {
				if len(nodes[i]) == 0 {
					neverTold(ctx, r, ofAddress(addr))
				} else {
					leads(ctx, r, addr, nodes[i])
				}
			}
		}
	}
	named := func(name string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"name": name}}
	}
	// addTwo makes two pools, each with a Service of its name, and returns the addresses of each.
	addTwo := func(ctx context.Context, k stack) (one, two []netip.Addr) {
		GinkgoHelper()
		s.startBackends(ctx, "web")
		for i, name := range []string{"one", "two"} {
			s.addPool(ctx, name, []string{between(s.v4(10*i+1), s.v4(10*i+9)), between(s.v6(10*i+1), s.v6(10*i+9))}, func(p *v1alpha1.LoadBalancerIPPool) {
				p.Labels = map[string]string{"name": name}
			})
			s.addService(ctx, name, selecting("web"), k.service, fromPool(s.poolName(name)), labelled("name", name))
			s.served(ctx, name, k.addrs(s, 10*i+1)...)
		}
		return k.addrs(s, 1), k.addrs(s, 11)
	}

	DescribeTable("the peers of a BGPAdvertisement, one to each router", func(ctx SpecContext, k stack) {
		one, two := addTwo(ctx, k)
		s.withPeers(ctx, k)
		tells(ctx, one, lab.Nodes, lab.Nodes)
		s.addBGPAdvertisement(ctx, "one", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.Pools, ad.Peers = []string{s.poolName("one")}, []string{s.peerName(lab.tors[0].Name())}
		})
		s.addBGPAdvertisement(ctx, "two", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.Pools, ad.PeerSelector = []string{s.poolName("two")}, named(lab.tors[1].Name())
		})
		tells(ctx, one, lab.Nodes, nil)
		tells(ctx, two, nil, lab.Nodes)
		sessions := sessionsLive(ctx)
		s.editBGPAdvertisement(ctx, "one", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.PeerSelector = named(lab.tors[1].Name()) })
		s.editBGPAdvertisement(ctx, "two", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.PeerSelector = named("nobody") })
		tells(ctx, one, lab.Nodes, lab.Nodes)
		tells(ctx, two, nil, nil)
		s.editBGPAdvertisement(ctx, "two", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.PeerSelector = nil })
		tells(ctx, two, lab.Nodes, lab.Nodes)
		sessions.goOn(ctx)
	}, inAllStacks)

	It("its pools, by name or by label, and none of it is of another pool", func(ctx SpecContext) {
		one, two := addTwo(ctx, bothFamilies)
		s.withPeers(ctx, bothFamilies)
		s.addBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.Pools, ad.PoolSelector, ad.NodeSelector = nil, named("two"), onNodes("node2")
		})
		tells(ctx, one, lab.Nodes, lab.Nodes) // nothing selects it
		tells(ctx, two, lab.Nodes[1:2], lab.Nodes[1:2])
		s.editBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.Pools = []string{s.poolName("one")} })
		tells(ctx, one, lab.Nodes[1:2], lab.Nodes[1:2])
		tells(ctx, two, lab.Nodes[1:2], lab.Nodes[1:2])
		s.editBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.PoolSelector = nil })
		tells(ctx, one, lab.Nodes[1:2], lab.Nodes[1:2])
		tells(ctx, two, lab.Nodes, lab.Nodes)
		s.editBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.Pools = nil }) // that is all of them
		tells(ctx, two, lab.Nodes[1:2], lab.Nodes[1:2])
	})

	It("its serviceSelector, beside its pools", func(ctx SpecContext) {
		one, two := addTwo(ctx, bothFamilies)
		s.withPeers(ctx, bothFamilies)
		s.addBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.Pools, ad.ServiceSelector = []string{s.poolName("one"), s.poolName("two")}, named("one")
		})
		tells(ctx, one, lab.Nodes, lab.Nodes)
		tells(ctx, two, nil, nil)
		s.editService(ctx, "two", labelled("name", "one"))
		tells(ctx, two, lab.Nodes, lab.Nodes)
		s.editService(ctx, "one", labelled("name", "other"))
		tells(ctx, one, nil, nil)
		// One that selects the Service is no help if it doesn't select the pool.
		s.addBGPAdvertisement(ctx, "b", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.Pools, ad.ServiceSelector = []string{s.poolName("two")}, named("other")
		})
		tells(ctx, one, nil, nil)
		s.editBGPAdvertisement(ctx, "b", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.Pools = append(ad.Pools, s.poolName("one")) })
		tells(ctx, one, lab.Nodes, lab.Nodes)
	})

	It("each of two BGPAdvertisements for Services of its own: by which nodes, with what, and how wide", func(ctx SpecContext) {
		one, two := addTwo(ctx, bothFamilies)
		s.withPeers(ctx, bothFamilies)
		for name, edit := range map[string]func(*v1alpha1.BGPAdvertisementSpec){
			"one": func(ad *v1alpha1.BGPAdvertisementSpec) {
				ad.NodeSelector, ad.Communities = onNodes("node1"), []v1alpha1.Community{"64999:1"}
			},
			"two": func(ad *v1alpha1.BGPAdvertisementSpec) {
				ad.NodeSelector, ad.Communities = onNodes("node2"), []v1alpha1.Community{"64999:2"}
				ad.AggregationLength, ad.AggregationLengthV6 = ptr.To[int32](29), ptr.To[int32](126)
			},
		} {
			s.addBGPAdvertisement(ctx, name, func(ad *v1alpha1.BGPAdvertisementSpec) {
				ad.Pools, ad.ServiceSelector = []string{s.poolName("one"), s.poolName("two")}, named(name)
				edit(ad)
			})
		}
		wide := func() {
			GinkgoHelper()
			for i, length := range []int{29, 126} {
				prefix := netip.PrefixFrom(two[i], length).Masked()
				for _, r := range lab.tors {
					leadsTo(ctx, r, prefix, lab.Nodes[1:2], attributes([]uint32{community(64999, 2)}, nil))
					reachedBy(ctx, two[i], r)
				}
			}
		}
		wide()
		for _, r := range lab.tors {
			for _, addr := range one {
				leads(ctx, r, addr, lab.Nodes[:1], attributes([]uint32{community(64999, 1)}, nil))
			}
		}
		sessions := sessionsLive(ctx)
		s.editBGPAdvertisement(ctx, "one", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.NodeSelector = onNodes("nobody") })
		tells(ctx, one, nil, nil)
		wide()
		sessions.goOn(ctx)
	})

	It("its nodeSelector: one node, two by two advertisements, and whichever get the label", func(ctx SpecContext) {
		const label = "e2e.fairlead.dev/edge"
		addrs := s.addWeb(ctx)
		s.withPeers(ctx, bothFamilies)
		s.addBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.NodeSelector = onNodes("node1") })
		tells(ctx, addrs, lab.Nodes[:1], lab.Nodes[:1])
		s.addBGPAdvertisement(ctx, "b", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{label: s.namespace}}
		})
		for _, nodes := range [][]*cluster.Node{lab.Nodes[:2], lab.Nodes} {
			s.mark(ctx, nodes[len(nodes)-1].Name(),
				func(n *corev1.Node) { metav1.SetMetaDataLabel(&n.ObjectMeta, label, s.namespace) },
				func(n *corev1.Node) { delete(n.Labels, label) })
			tells(ctx, addrs, nodes, nodes)
		}
	})

	It("the nodeSelector of a BGPPeer, which ends sessions and begins them", func(ctx SpecContext) {
		addrs := s.addWeb(ctx)
		s.addPeers(ctx, bothFamilies)
		tells(ctx, addrs, lab.Nodes, lab.Nodes)
		frr := lab.tors[0]
		s.editPeer(ctx, frr.Name(), func(p *v1alpha1.BGPPeerSpec) { p.NodeSelector = onNodes("node1", "node3") })
		selected := []*cluster.Node{lab.Nodes[0], lab.Nodes[2]}
		tells(ctx, addrs, selected, lab.Nodes)
		established(ctx, frr, corev1.IPv4Protocol, selected...)
		s.editPeer(ctx, frr.Name(), func(p *v1alpha1.BGPPeerSpec) { p.NodeSelector = onNodes("nobody") })
		tells(ctx, addrs, nil, lab.Nodes)
		established(ctx, frr, corev1.IPv4Protocol)
		s.editPeer(ctx, frr.Name(), func(p *v1alpha1.BGPPeerSpec) { p.NodeSelector = nil })
		tells(ctx, addrs, lab.Nodes, lab.Nodes)
	})

	It("requireEndpoints false, for an address that nobody answers at", func(ctx SpecContext) {
		s.addRouted(ctx)
		s.withPeers(ctx, bothFamilies)
		s.addService(ctx, "web", selecting("web"), dual)
		s.served(ctx, "web", s.v4(1), s.v6(1))
		addrs := bothFamilies.addrs(s, 1)
		tells(ctx, addrs, nil, nil)
		leadBy := func(nodes ...*cluster.Node) {
			GinkgoHelper()
			for _, r := range lab.tors {
				for _, addr := range addrs {
					leadsTo(ctx, r, ofAddress(addr), nodes)
				}
			}
		}
		s.addBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.RequireEndpoints = ptr.To(false) })
		leadBy(lab.Nodes...)
		s.startBackends(ctx, "web", lab.Nodes[1])
		tells(ctx, addrs, lab.Nodes, lab.Nodes)
		s.editService(ctx, "web", local)
		tells(ctx, addrs, lab.Nodes[1:2], lab.Nodes[1:2])
		Expect(s.backends[0].(*cluster.Pod).SetReady(ctx, false)).To(Succeed())
		leadBy(lab.Nodes...)
		s.editBGPAdvertisement(ctx, "a", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.RequireEndpoints = ptr.To(true) })
		tells(ctx, addrs, nil, nil)
	})
})
