// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// use has all helpers work on another lab until the container ends.
func (s *site) use() {
	before := lab
	set := func(s *site) { lab, api, kube, restConfig = s, s.API, s.Kube, s.RESTConfig }
	set(s)
	DeferCleanup(set, before)
}

// on moves an address of the scene to the same place of another network.
func on(network netip.Prefix, addr netip.Addr) netip.Addr {
	b, n := addr.AsSlice(), network.Addr().AsSlice()
	copy(b[:2], n)
	moved, _ := netip.AddrFromSlice(b)
	return moved
}

func byInterfaces(patterns ...v1alpha1.InterfacePattern) func(*v1alpha1.L2AdvertisementSpec) {
	return func(ad *v1alpha1.L2AdvertisementSpec) { ad.Interfaces = patterns }
}

// answersBy checks that a node's link, and no other, answers for an address on its LAN.
func answersBy(ctx context.Context, addr netip.Addr, from, link *cluster.Host) {
	GinkgoHelper()
	Eventually(ctx, whoHasBy).WithArguments(from, addr).Should(Equal([]string{link.MAC.String()}), "%s of %s should answer for %s", link.Interface, link.Name(), addr)
}

// silentBy checks that nobody answers for an address on a client's LAN.
func silentBy(ctx context.Context, addr netip.Addr, from *cluster.Host) {
	GinkgoHelper()
	Eventually(ctx, whoHasBy).WithArguments(from, addr).Should(BeEmpty())
}

var _ = Describe("A node with two networks", onLab, Ordered, func() {
	BeforeAll(func(ctx SpecContext) {
		startSite(ctx, cluster.Config{Name: "e2e-two-lans", Nodes: 2, SecondLAN: true}).use()
	})
	s := newScene()

	// second is the i-th address of the scene on the second LAN.
	second := func(f corev1.IPFamily, i int) netip.Addr {
		if f == corev1.IPv6Protocol {
			return on(cluster.SecondLAN6, s.v6(i))
		}
		return on(cluster.SecondLAN4, s.v4(i))
	}
	addSecondLAN := func(ctx context.Context, f corev1.IPFamily) {
		GinkgoHelper()
		s.addPool(ctx, "lan", []string{between(second(f, 1), second(f, 9))})
	}

	DescribeTable("answers by the interface on the address's network, and goes on by it alone", func(ctx SpecContext, f corev1.IPFamily) {
		addSecondLAN(ctx, f)
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), of(f))
		addr, owner := s.announced(ctx, "web")
		Expect(s.ip(ctx, addr).Status.L2.Interface).To(Equal(cluster.SecondInterface))
		answersBy(ctx, addr, lab.Client.Second, owner.Second)
		reaches(ctx, addr, "web-node1")
		Consistently(ctx, whoHasBy).WithArguments(lab.Client, addr).Should(BeEmpty())

		// Its other interface still carries its hellos: it says itself that it can't answer any more.
		s.afterwards(func(context.Context) { Expect(owner.Second.Plug()).To(Succeed()) })
		Expect(owner.Second.Unplug()).To(Succeed())
		heir := others(owner)[0]
		answersBy(ctx, addr, lab.Client.Second, heir.Second)
		Eventually(ctx, s.owner).WithArguments(addr).Should(BeIdenticalTo(heir))
		Expect(owner.Second.Plug()).To(Succeed())
		Consistently(ctx, whoHasBy).WithArguments(lab.Client.Second, addr).Should(Equal([]string{heir.Second.MAC.String()}), "nothing fails back")
	}, inBothFamilies)

	DescribeTable("answers by the interfaces that an L2Advertisement names, also when it names others", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, byInterfaces(cluster.SecondInterface))
		s.addService(ctx, "web", of(f))
		addr, owner := s.announced(ctx, "web")
		Expect(s.ip(ctx, addr).Status.L2.Interface).To(Equal(cluster.SecondInterface), "what is written out needs no address on the network")
		answersBy(ctx, addr, lab.Client.Second, owner.Second)
		silentBy(ctx, addr, lab.Client)

		s.editAdvertisement(ctx, byInterfaces(cluster.Interface))
		answersBy(ctx, addr, lab.Client, owner.Host)
		silentBy(ctx, addr, lab.Client.Second)
		Eventually(ctx, func() string { return s.ip(ctx, addr).Status.L2.Interface }).Should(Equal(cluster.Interface))
		Expect(s.owner(ctx, addr)).To(BeIdenticalTo(owner), "the node should stay, as it can still have it")

		s.editAdvertisement(ctx, byInterfaces("eth?"))
		answersBy(ctx, addr, lab.Client, owner.Host)
		silentBy(ctx, addr, lab.Client.Second)
	}, inBothFamilies)

	DescribeTable("announces nothing by an interface that no node has, or that is excluded", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, byInterfaces("nic7"))
		s.advertisement(ctx, metav1.ConditionFalse, "NoInterface")
		s.addService(ctx, "web", of(f))
		addr := s.unannounced(ctx, "web")
		s.editAdvertisement(ctx, byInterfaces("eth*", "!"+cluster.Interface))
		s.unannounced(ctx, "web")
		s.editAdvertisement(ctx, byInterfaces("eth*", "!"+cluster.SecondInterface))
		s.advertisement(ctx, metav1.ConditionTrue, "Ready")
		_, owner := s.announced(ctx, "web")
		answersBy(ctx, addr, lab.Client, owner.Host)
	}, inBothFamilies)

	DescribeTable("answers by the interfaces that those L2Advertisements name which select it", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, func(ad *v1alpha1.L2AdvertisementSpec) { onlyOn("node1")(ad); byInterfaces(cluster.Interface)(ad) })
		s.advertiseAs(ctx, "second", func(ad *v1alpha1.L2AdvertisementSpec) { onlyOn("node2")(ad); byInterfaces(cluster.SecondInterface)(ad) })
		s.addService(ctx, "a", of(f))
		s.addService(ctx, "b", of(f))
		links := map[string]netip.Addr{}
		for _, name := range []string{"a", "b"} {
			addr, owner := s.announced(ctx, name)
			links[owner.Name()] = addr
		}
		Expect(links).To(HaveLen(2))
		first, node1, node2 := links["node1"], lab.Nodes[0], lab.Nodes[1]
		answersBy(ctx, first, lab.Client, node1.Host)
		answersBy(ctx, links["node2"], lab.Client.Second, node2.Second)
		silentBy(ctx, links["node2"], lab.Client)
		s.mark(ctx, "node1", drain, undrain)
		answersBy(ctx, first, lab.Client.Second, node2.Second)
		silentBy(ctx, first, lab.Client)
	}, inBothFamilies)
})

var _ = Describe("An interface", onLab, func() {
	s := newScene()

	const late = "late0"
	// network is on the same LAN, and nobody else's.
	network := func(f corev1.IPFamily) netip.Prefix {
		if f == corev1.IPv6Protocol {
			return netip.MustParsePrefix("fd93::/64")
		}
		return netip.MustParsePrefix("10.93.0.0/16")
	}
	host := func(f corev1.IPFamily, i byte) netip.Addr {
		a := network(f).Addr().AsSlice()
		a[len(a)-1] = i
		addr, _ := netip.AddrFromSlice(a)
		return addr
	}
	// own is the address of a node's interface there.
	own := func(f corev1.IPFamily) netip.Prefix {
		return netip.PrefixFrom(host(f, 10), network(f).Bits())
	}
	// appear gives a node an interface with an address on the network, beside its link to the LAN.
	appear := func(ctx context.Context, f corev1.IPFamily, node *cluster.Node) net.HardwareAddr {
		GinkgoHelper()
		s.afterwards(func(ctx context.Context) {
			if _, err := node.Netlink().LinkByName(late); err == nil {
				ip(ctx, node.Host, "link del "+late)
			}
		})
		ip(ctx, node.Host, "link add "+late+" link "+cluster.Interface+" type macvlan mode bridge",
			fmt.Sprintf("addr add %s dev %s nodad", own(f), late), "link set "+late+" up")
		link, err := node.Netlink().LinkByName(late)
		Expect(err).NotTo(HaveOccurred())
		return link.Attrs().HardwareAddr
	}

	DescribeTable("that appears later announces as any other, with the MAC that it has", func(ctx SpecContext, f corev1.IPFamily) {
		lan := on(network(f), s.at(f, 1))
		// The client is on that network, too, by an address that is not its first.
		client := netip.PrefixFrom(host(f, 3), network(f).Bits())
		ip(ctx, lab.Client, fmt.Sprintf("addr add %s dev %s nodad", client, cluster.Interface))
		s.afterwards(func(ctx context.Context) {
			ip(ctx, lab.Client, fmt.Sprintf("addr del %s dev %s", client, cluster.Interface))
			ips := &v1alpha1.LoadBalancerIP{ObjectMeta: metav1.ObjectMeta{Name: objectName(lan.String())}}
			s.deleteService(ctx, "web")
			Expect(api.Delete(ctx, ips)).To(Succeed())
		})
		s.addPool(ctx, "late", []string{lan.String()})
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), of(f))
		Expect(s.unannounced(ctx, "web")).To(Equal(lan))

		node := lab.Nodes[1]
		mac := appear(ctx, f, node)
		answersWith := func(mac net.HardwareAddr) {
			GinkgoHelper()
			Eventually(ctx, whoHas).WithArguments(lan).Should(Equal([]string{mac.String()}))
			Eventually(ctx, func() *v1alpha1.L2Claim { return s.ip(ctx, lan).Status.L2 }).Should(HaveValue(And(
				HaveField("Node", node.Name()), HaveField("Interface", late), HaveField("MAC", mac.String()))))
			reaches(ctx, lan, "web-node1")
		}
		answersWith(mac)

		capture, err := wire.StartCapture(lab.Client.Namespace, cluster.Interface)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(capture.Close)
		other := net.HardwareAddr{0x02, 0xfa, 0x1e, 0x00, 0x93, 0x01}
		ip(ctx, node.Host, "link set "+late+" address "+other.String())
		answersWith(other)
		Eventually(ctx, func() []string { return announcers(capture, lan) }).Should(ContainElement(other.String()), "the neighbours should be told")
		Expect(s.ip(ctx, lan).Status.L2.Term).To(BeEquivalentTo(1), "the node is the same")

		// Nobody else has such an interface: the address has nowhere to go, and comes back with it.
		ip(ctx, node.Host, "link set "+late+" down")
		silent(ctx, lan)
		// The kernel has taken its IPv6 addresses off.
		ip(ctx, node.Host, "link set "+late+" up", fmt.Sprintf("addr replace %s dev %s nodad", own(f), late))
		answersWith(other)
	}, inBothFamilies)

	DescribeTable("that goes down has another node announce at once", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.addService(ctx, "web", of(f))
		addr, owner := s.announced(ctx, "web")
		o := lookOn(ctx, false, addr)
		s.afterwards(func(context.Context) { Expect(owner.Plug()).To(Succeed()) })
		Expect(owner.Unplug()).To(Succeed())
		heir := s.goes(ctx, addr, owner)
		Expect(owner.Plug()).To(Succeed())
		s.remains(ctx, addr, heir)
		o.sawMoves(addr, owner, heir)
	}, inBothFamilies)
})
