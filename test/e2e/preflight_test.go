// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// ip configures a host's network.
func ip(ctx context.Context, h *cluster.Host, commands ...string) {
	GinkgoHelper()
	for _, c := range commands {
		_, err := h.Run(ctx, "ip", strings.Fields(c)...)
		Expect(err).NotTo(HaveOccurred(), "ip %s", c)
	}
}

// routes are those of a host, of both families.
func routes(ctx context.Context, h *cluster.Host) (all []string) {
	GinkgoHelper()
	for _, family := range []string{"-4", "-6"} {
		out, err := h.Run(ctx, "ip", family, "route")
		Expect(err).NotTo(HaveOccurred())
		all = append(all, strings.Split(strings.TrimSpace(out), "\n")...)
	}
	return all
}

// sysctls sets settings of IPv4, as "eth0/rp_filter=1".
func sysctls(h *cluster.Host, settings ...string) {
	GinkgoHelper()
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		Expect(h.Sysctl("ipv4/conf/"+key, value)).To(Succeed())
	}
}

// told waits until a node's speaker tells of a condition, and returns that.
func told(ctx context.Context, node *cluster.Node, kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
	GinkgoHelper()
	var found metav1.Condition
	Eventually(ctx, func(g Gomega) {
		speaker, err := speakerOf(ctx, node.Name())
		g.Expect(err).NotTo(HaveOccurred())
		c := meta.FindStatusCondition(speaker.Status.Conditions, kind)
		g.Expect(c).NotTo(BeNil())
		g.Expect(*c).To(And(HaveField("Status", status), HaveField("Reason", reason)))
		found = *c
	}).Should(Succeed())
	return found
}

var _ = Describe("The network settings of a node", onLab, func() {
	s := newScene()

	// healthy waits until a node's speaker finds nothing wrong, which it says as soon as it has something to look at again.
	healthy := func(ctx context.Context, node *cluster.Node) {
		GinkgoHelper()
		told(ctx, node, v1alpha1.SpeakerHealthy, metav1.ConditionTrue, "AllWell")
		Eventually(ctx, metric).WithArguments(node, "fairlead_speaker_preflight_problems").Should(BeZero())
	}

	It("are told to be well where they are", func(ctx SpecContext) {
		for _, node := range lab.Nodes {
			healthy(ctx, node)
		}
		out, err := lab.Kubectl(ctx, "get", "lbspeaker")
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.Fields(strings.Split(out, "\n")[1])[:4]).To(Equal([]string{"node1", "True", "AllWell", cluster.Interface}))
	})

	It("are told if kube-proxy in IPVS mode has every node answer for an address", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{s.v4(1).String()})
		s.addService(ctx, "web")
		addr, owner := s.announced(ctx, "web")
		other := lab.Nodes[0]
		if other == owner {
			other = lab.Nodes[1]
		}

		// What kube-proxy does; a bridge is at hand where a dummy is not.
		ip(ctx, other.Host, "link add kube-ipvs0 type bridge", "link set kube-ipvs0 arp off", fmt.Sprintf("addr add %s/32 dev kube-ipvs0", addr))
		s.afterwards(func(ctx context.Context) {
			sysctls(other.Host, "all/arp_ignore=0", "all/arp_announce=0")
			if _, err := other.Netlink().LinkByName("kube-ipvs0"); err == nil {
				ip(ctx, other.Host, "link del kube-ipvs0")
			}
			healthy(ctx, other)
		})
		Eventually(ctx, whoHas).WithArguments(addr).Should(ConsistOf(owner.MAC.String(), other.MAC.String()))
		c := told(ctx, other, v1alpha1.SpeakerStrictARP, metav1.ConditionFalse, "KernelAnswers")
		Expect(c.Message).To(ContainSubstring("strictARP: true"))
		told(ctx, other, v1alpha1.SpeakerHealthy, metav1.ConditionFalse, v1alpha1.SpeakerStrictARP)
		Expect(metric(ctx, other, "fairlead_speaker_preflight_problems")).To(BeEquivalentTo(1))

		// What strictARP sets. That the next Service comes has the speaker look.
		sysctls(other.Host, "all/arp_ignore=1", "all/arp_announce=2")
		answers(ctx, addr, owner)
		ip(ctx, other.Host, fmt.Sprintf("addr add %s/32 dev kube-ipvs0", s.v4(2)))
		told(ctx, other, v1alpha1.SpeakerStrictARP, metav1.ConditionTrue, "Strict")
		ip(ctx, other.Host, "link del kube-ipvs0")
		told(ctx, other, v1alpha1.SpeakerStrictARP, metav1.ConditionTrue, "NoIPVS")
		healthy(ctx, other)
	})

	It("are told if they drop what clients of other networks send", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{s.v4(1).String()})
		s.addService(ctx, "web", selecting("web"))
		addr, owner := s.announced(ctx, "web")
		s.startBackends(ctx, "web", owner)
		backend := "web-" + owner.Name()
		get := func(from *cluster.Host) func(context.Context) (string, error) {
			return func(ctx context.Context) (string, error) { return curl(ctx, from, addr, "/hostname") }
		}
		Eventually(ctx, get(lab.Far)).Should(Equal(backend))

		// A second uplink has the better default route.
		uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "uplink", PeerNamespace: netlink.NsFd(lab.Router.FD())}
		Expect(owner.Netlink().LinkAdd(uplink)).To(Succeed())
		strictly := func(loose int) []string {
			return []string{fmt.Sprintf("all/rp_filter=%d", loose), fmt.Sprintf("%s/rp_filter=%d", cluster.Interface, loose)}
		}
		s.afterwards(func(ctx context.Context) {
			sysctls(owner.Host, strictly(2)...)
			if _, err := owner.Netlink().LinkByName("uplink"); err == nil {
				ip(ctx, owner.Host, "link del uplink")
			}
			ip(ctx, owner.Host, fmt.Sprintf("route replace default via %s dev %s", lab.Router.IPv4, cluster.Interface))
			healthy(ctx, owner)
		})
		ip(ctx, lab.Router, "addr add 198.18.0.1/30 dev uplink", "link set uplink up")
		ip(ctx, owner.Host, "addr add 198.18.0.2/30 dev uplink", "link set uplink up", "route replace default via 198.18.0.1 dev uplink")
		Eventually(ctx, get(lab.Far)).Should(Equal(backend), "the filter is loose")
		healthy(ctx, owner)

		sysctls(owner.Host, strictly(1)...)
		Eventually(ctx, func() error {
			_, err := get(lab.Far)(ctx)
			return err
		}).Should(HaveOccurred())
		Eventually(ctx, get(lab.Client)).Should(Equal(backend))
		ip(ctx, owner.Host, "addr add 198.18.0.5/32 dev uplink") // has the speaker look
		c := told(ctx, owner, v1alpha1.SpeakerReversePathFiltered, metav1.ConditionTrue, "PacketsDropped")
		Expect(c.Message).To(And(ContainSubstring("clients of other networks on "+cluster.Interface), ContainSubstring("rp_filter=2")))

		sysctls(owner.Host, strictly(2)...)
		Eventually(ctx, get(lab.Far)).Should(Equal(backend))
		ip(ctx, owner.Host, "addr del 198.18.0.5/32 dev uplink")
		told(ctx, owner, v1alpha1.SpeakerReversePathFiltered, metav1.ConditionFalse, "PacketsPass")
	})

	It("are told if no interface is on a network", func(ctx SpecContext) {
		node := lab.Nodes[2]
		onLAN, alone := netip.PrefixFrom(node.IPv4, cluster.LAN4.Bits()), netip.PrefixFrom(node.IPv4, 32)
		onLAN6, alone6 := netip.PrefixFrom(node.IPv6, cluster.LAN6.Bits()), netip.PrefixFrom(node.IPv6, 128)
		add := func(what string, args ...any) string { return fmt.Sprintf(what+" dev "+cluster.Interface, args...) }
		// It keeps the way to the API server, which is IPv4, all the while.
		leave := []string{
			add("addr add %s", alone),
			add("route add %s metric 5", cluster.LAN4),
			add("route del default via %s", lab.Router.IPv4), add("-6 route del default via %s", lab.Router.IPv6),
			add("addr del %s", onLAN), add("addr del %s", onLAN6), add("addr add %s nodad", alone6),
		}
		back := []string{
			add("addr add %s", onLAN), add("addr del %s", alone), add("addr del %s", alone6), add("addr add %s nodad", onLAN6),
			add("route del %s metric 5", cluster.LAN4),
			add("route add default via %s", lab.Router.IPv4), add("-6 route add default via %s", lab.Router.IPv6),
		}
		before := routes(ctx, node.Host)
		s.afterwards(func(ctx context.Context) {
			ip(ctx, node.Host, back...)
			Expect(routes(ctx, node.Host)).To(ConsistOf(before), "the node should be as it was")
			told(ctx, node, v1alpha1.SpeakerNoInterface, metav1.ConditionFalse, "InterfaceUp")
			healthy(ctx, node)
		})
		ip(ctx, node.Host, leave...)
		told(ctx, node, v1alpha1.SpeakerNoInterface, metav1.ConditionTrue, "NoneFits")
		told(ctx, node, v1alpha1.SpeakerHealthy, metav1.ConditionFalse, v1alpha1.SpeakerNoInterface)
	})
})
