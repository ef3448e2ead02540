// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
	"github.com/fairlead-lb/fairlead/ipam"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// collected is how long the garbage collector may take: it looks for new kinds every half minute.
const collected = time.Minute

// speakerOf is what a node's speaker tells of it.
func speakerOf(ctx context.Context, node string) (*v1alpha1.Speaker, error) {
	s := &v1alpha1.Speaker{}
	return s, api.Get(ctx, client.ObjectKey{Name: node}, s)
}

// toldOf waits until a node's speaker has told of it, and of its settings.
func toldOf(ctx context.Context, node string) (speaker *v1alpha1.Speaker) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		var err error
		speaker, err = speakerOf(ctx, node)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(speaker.Status.Interfaces).NotTo(BeEmpty())
		g.Expect(speaker.Status.Conditions).NotTo(BeEmpty())
	}).Should(Succeed())
	return speaker
}

// restedOf is toldOf, and waits until the speaker has no news of what happened before: it may keep them for 10 s.
func restedOf(ctx context.Context, node string) *v1alpha1.Speaker {
	GinkgoHelper()
	last, since := toldOf(ctx, node), time.Now()
	Eventually(ctx, func(g Gomega) {
		now, err := speakerOf(ctx, node)
		g.Expect(err).NotTo(HaveOccurred())
		if now.ResourceVersion != last.ResourceVersion {
			last, since = now, time.Now()
		}
		g.Expect(time.Since(since)).To(BeNumerically(">", 11*time.Second))
	}).WithTimeout(time.Minute).Should(Succeed())
	return last
}

var _ = Describe("The cluster's own network", onLab, func() {
	s := newScene()

	// The LAN but for its first addresses, a few beside the nodes', and its last; the hosts that are no nodes are left out.
	wholeLAN := func(p *v1alpha1.LoadBalancerIPPool) {
		p.Spec.ReuseAfter = &metav1.Duration{}
		p.Spec.Exclude = []v1alpha1.AddressRange{
			"10.89.0.2-10.89.0.255", "10.89.1.6-10.89.255.253",
			"fd89::2-fd89::ffff", "fd89::1:6-fd89::ffff:ffff:ffff:ffff",
		}
	}
	lan := []string{cluster.LAN4.String(), cluster.LAN6.String()}
	available := func(ctx context.Context, family func(v1alpha1.LoadBalancerIPPoolStatus) *v1alpha1.AddressCount) func() string {
		return func() string {
			if count := family(s.pool(ctx, "lan").Status); count != nil {
				return count.Available
			}
			return "not counted"
		}
	}
	v4 := func(status v1alpha1.LoadBalancerIPPoolStatus) *v1alpha1.AddressCount { return status.IPv4 }
	v6 := func(status v1alpha1.LoadBalancerIPPoolStatus) *v1alpha1.AddressCount { return status.IPv6 }

	It("is told by the speakers", func(ctx SpecContext) {
		for _, n := range lab.Nodes {
			Eventually(ctx, func(g Gomega) {
				speaker, err := speakerOf(ctx, n.Name())
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(speaker.Status.Interfaces).To(ContainElement(v1alpha1.Interface{
					Name: cluster.Interface, MAC: n.MAC.String(), Up: true, IPv6: true,
					Addresses: []v1alpha1.InterfaceAddress{v1alpha1.InterfaceAddress(n.IPv4.String() + "/16"), v1alpha1.InterfaceAddress(n.IPv6.String() + "/64")},
					Gateways:  []v1alpha1.Gateway{v1alpha1.Gateway(lab.Router.IPv4.String()), v1alpha1.Gateway(lab.Router.IPv6.String())},
				}))
				g.Expect(speaker.Spec.Endpoints).To(ConsistOf(
					v1alpha1.Endpoint{Interface: cluster.Interface, Address: n.IPv4.String()},
					And(HaveField("Interface", cluster.Interface), HaveField("Address", HavePrefix("fe80:")))))
				node := &corev1.Node{}
				g.Expect(api.Get(ctx, objectKey("", n.Name()), node)).To(Succeed())
				g.Expect(speaker.OwnerReferences).To(Equal([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name(), UID: node.UID}}))
			}).Should(Succeed())
		}
	})

	It("is told again where somebody edited it, and otherwise not written", func(ctx SpecContext) {
		speaker, untouched := toldOf(ctx, "node1"), restedOf(ctx, "node2")
		told := speaker.Status.Interfaces
		base := speaker.DeepCopy()
		speaker.Status.Interfaces = nil
		Expect(api.Status().Patch(ctx, speaker, client.MergeFrom(base))).To(Succeed())
		Eventually(ctx, func(g Gomega) {
			speaker, err := speakerOf(ctx, "node1")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(speaker.Status.Interfaces).To(Equal(told))
		}).Should(Succeed())
		after := toldOf(ctx, "node2")
		Expect(after.ResourceVersion).To(Equal(untouched.ResourceVersion), func() string {
			return cmp.Diff([]any{untouched.Spec, untouched.Status}, []any{after.Spec, after.Status})
		})
	})

	It("is told anew when a Node comes back as another", func(ctx SpecContext) {
		n := lab.Nodes[2]
		before := toldOf(ctx, n.Name())
		s.afterwards(func(ctx context.Context) {
			Expect(n.Register(ctx)).To(Succeed())
			Eventually(ctx, func() error { return lab.RestartSpeaker(ctx, n) }).Should(Succeed())
		})
		Expect(n.Delete(ctx)).To(Succeed())
		Eventually(ctx, func() bool {
			_, err := speakerOf(ctx, n.Name())
			return apierrors.IsNotFound(err)
		}).WithTimeout(collected).Should(BeTrue(), "the Speaker should go with its Node")
		Expect(n.Register(ctx)).To(Succeed())
		Eventually(ctx, func() error { return lab.RestartSpeaker(ctx, n) }).Should(Succeed())
		Eventually(ctx, func(g Gomega) {
			after, err := speakerOf(ctx, n.Name())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(after.Status.Interfaces).To(Equal(before.Status.Interfaces))
			g.Expect(after.OwnerReferences[0].UID).NotTo(Equal(before.OwnerReferences[0].UID))
		}).Should(Succeed())
	})

	It("keeps its addresses, its gateways and the ends of its subnets to itself", func(ctx SpecContext) {
		s.addPool(ctx, "lan", lan, wholeLAN)
		// Of ten are the network, the router, three nodes and broadcast; of eight the anycast address, the router and three nodes.
		Eventually(ctx, available(ctx, v4)).Should(Equal("4"))
		Eventually(ctx, available(ctx, v6)).Should(Equal("3"))
		var got4, got6 []string
		for i := range 4 {
			name := fmt.Sprint("web-", i)
			s.addService(ctx, name)
			Eventually(ctx, func() []string { return shown(s.service(ctx, name)) }).Should(HaveLen(1))
			got4 = append(got4, shown(s.service(ctx, name))...)
		}
		for i := range 3 {
			name := fmt.Sprint("six-", i)
			s.addService(ctx, name, families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol))
			Eventually(ctx, func() []string { return shown(s.service(ctx, name)) }).Should(HaveLen(1))
			got6 = append(got6, shown(s.service(ctx, name))...)
		}
		Expect(got4).To(Equal([]string{"10.89.1.0", "10.89.1.4", "10.89.1.5", "10.89.255.254"}))
		Expect(got6).To(Equal([]string{"fd89::1:0", "fd89::1:4", "fd89::1:5"}))
		s.addService(ctx, "late")
		s.refused(ctx, "late", ipam.PoolExhausted)
	})

	It("gives an address that is no node's to who asks for it by number", func(ctx SpecContext) {
		s.addPool(ctx, "lan", lan, wholeLAN)
		s.addService(ctx, "web", asking("10.89.0.0"))
		s.served(ctx, "web", netip.MustParseAddr("10.89.0.0"))
		for _, addr := range []netip.Addr{lab.Nodes[0].IPv4, lab.Nodes[1].IPv4} {
			name := "asks-for-" + fmt.Sprint(addr.As4()[3])
			s.addService(ctx, name, asking(addr))
			refusal := s.refused(ctx, name, ipam.NodeAddress)
			Expect(refusal.Message).To(ContainSubstring("%s is the address of node", addr))
		}
	})

	It("takes out what a node has from now on, and gives it back", func(ctx SpecContext) {
		s.addPool(ctx, "lan", lan, wholeLAN)
		Eventually(ctx, available(ctx, v4)).Should(Equal("4"))
		n := lab.Nodes[0]
		address := func(verb string) error {
			_, err := n.Run(context.Background(), "ip", "address", verb, "10.89.1.4/16", "dev", cluster.Interface)
			return err
		}
		Expect(address("add")).To(Succeed())
		had := true
		s.afterwards(func(context.Context) {
			if had {
				Expect(address("del")).To(Succeed())
			}
		})
		Eventually(ctx, available(ctx, v4)).Should(Equal("3"))
		s.addService(ctx, "web", asking("10.89.1.4"))
		Expect(s.refused(ctx, "web", ipam.NodeAddress).Message).To(ContainSubstring("node node1"))
		Expect(address("del")).To(Succeed())
		had = false
		s.served(ctx, "web", netip.MustParseAddr("10.89.1.4"))
	})

	It("is where an address must be on to be announced", func(ctx SpecContext) {
		s.addPool(ctx, "far", []string{"203.0.113.8/30"}, func(p *v1alpha1.LoadBalancerIPPool) { p.Spec.ReuseAfter = &metav1.Duration{} })
		s.addService(ctx, "web")
		s.served(ctx, "web", netip.MustParseAddr("203.0.113.8"))
		announced := conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAnnounced)
		Expect(announced.Status).To(Equal(metav1.ConditionFalse))
		Expect(announced.Reason).To(Equal(controller.ReasonNoEligibleNode))
		Expect(announced.Message).To(Equal("no node has an interface on the network of 203.0.113.8"))
	})
})
