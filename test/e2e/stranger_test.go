// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// A host of the LAN that is none of the cluster has an address of a pool.
var _ = Describe("Somebody else's host", onLab, func() {
	s := newScene()

	// The host is another in each spec: one that answers for two addresses is a proxy.
	var host *cluster.Host
	BeforeEach(func() {
		var err error
		host, err = lab.AddClient()
		Expect(err).NotTo(HaveOccurred())
	})
	// owns gives it an address, until the returned function or the end of the scene takes that away.
	owns := func(addr netip.Addr) (gone func()) {
		GinkgoHelper()
		link, err := host.Netlink().LinkByName(cluster.Interface)
		Expect(err).NotTo(HaveOccurred())
		entry := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}, Flags: unix.IFA_F_NODAD}
		Expect(host.Netlink().AddrAdd(link, entry)).To(Succeed())
		gone = func() {
			if err := host.Netlink().AddrDel(link, entry); !errors.Is(err, unix.EADDRNOTAVAIL) {
				Expect(err).NotTo(HaveOccurred())
			}
		}
		s.afterwards(func(context.Context) { gone() })
		return gone
	}
	capture := func() *wire.Capture {
		GinkgoHelper()
		c, err := wire.StartCapture(lab.Client.Namespace, cluster.Interface, wire.EtherTypeARP)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(c.Close)
		return c
	}
	conflict := func(ctx context.Context, addr netip.Addr) func(Gomega) {
		return func(g Gomega) {
			ip, err := getIP(ctx, addr)
			g.Expect(err).NotTo(HaveOccurred())
			cond := ptr.Deref(meta.FindStatusCondition(ip.Status.Conditions, v1alpha1.AddressConflict), metav1.Condition{})
			g.Expect(cond.Status).To(Equal(metav1.ConditionTrue), "%+v", ip.Status)
			g.Expect(cond.Message).To(ContainSubstring(host.MAC.String()))
			g.Expect(ip.Status.Conflict).To(HaveField("MAC", host.MAC.String()))
		}
	}
	announced := func(ctx context.Context, name string) func() metav1.Condition {
		return func() metav1.Condition { return conditionOf(s.service(ctx, name), v1alpha1.ServiceAnnounced) }
	}

	It("keeps its address, and the Service gets another", func(ctx SpecContext) {
		owns(s.v4(1))
		seen := capture()
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		Eventually(ctx, func(g Gomega) { checkServed(ctx, g, s.namespace, "web", []netip.Addr{s.v4(2)}) }).Should(Succeed())
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
		Eventually(ctx, conflict(ctx, s.v4(1))).Should(Succeed())
		Expect(s.ip(ctx, s.v4(1)).Spec.Quarantined).To(HaveField("MAC", host.MAC.String()))
		Expect(s.ip(ctx, s.v4(1)).Status.L2).To(BeNil())
		probed := false
		for _, a := range seen.ARP() {
			probed = probed || a.SenderIP == netip.IPv4Unspecified() && a.TargetIP == s.v4(1)
			Expect(a.SenderIP == s.v4(1) && a.SenderMAC.String() != host.MAC.String()).To(BeFalse(), "a node took it: %s", a)
		}
		Expect(probed).To(BeTrue())
		Eventually(ctx, func() (any, error) { return eventsOf(ctx, s.service(ctx, "web")) }).Should(ContainElement(And(
			HaveField("Type", corev1.EventTypeWarning), HaveField("Reason", controller.ReasonAddressConflict), HaveField("Note", ContainSubstring(host.MAC.String())))))
	})

	It("keeps its IPv6 address, and the Service gets another", func(ctx SpecContext) {
		owns(s.v6(1))
		s.addPool(ctx, "lan", []string{between(s.v6(1), s.v6(9))})
		s.addService(ctx, "web", families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol))
		s.served(ctx, "web", s.v6(2))
		Eventually(ctx, conflict(ctx, s.v6(1))).Should(Succeed())
		Expect(s.ip(ctx, s.v6(1)).Status.L2).To(BeNil())
	})

	It("keeps the Service that asked for its address waiting, until it is gone", func(ctx SpecContext) {
		gone := owns(s.v4(3))
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", asking(s.v4(3)))
		Eventually(ctx, announced(ctx, "web")).Should(And(
			HaveField("Status", metav1.ConditionFalse), HaveField("Reason", controller.ReasonAddressConflict), HaveField("Message", ContainSubstring(host.MAC.String()))))
		s.stays(ctx, "web", s.v4(3))
		gone()
		// It is asked for again every minute.
		Eventually(ctx, announced(ctx, "web")).WithTimeout(6 * patience).Should(HaveField("Reason", controller.ReasonAnnounced))
		answers(ctx, s.v4(3), s.owner(ctx, s.v4(3)))
	})

	It("that claims an announced address moves nothing, and is named", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		addr, owner := s.announced(ctx, "web")
		claim := s.ip(ctx, addr).Status.L2
		seen := capture()
		Expect(sendFrames(host, [][]byte{gratuitous(addr, host)}, 1)).To(Succeed())
		Eventually(ctx, conflict(ctx, addr)).Should(Succeed())
		Eventually(ctx, announced(ctx, "web")).Should(And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", controller.ReasonAddressConflict)))
		Eventually(ctx, seen.ARP).Should(ContainElement(And(
			HaveField("SenderIP", addr), HaveField("TargetIP", addr), HaveField("SenderMAC", Equal(owner.MAC)))), "it should be defended")
		s.stays(ctx, "web", addr)
		answers(ctx, addr, owner)
		Expect(s.ip(ctx, addr).Status.L2).To(Equal(claim))
	})
})

var _ = Describe("An announced address", onLab, func() {
	s := newScene()

	DescribeTable("is verified by another node", func(ctx SpecContext, family corev1.IPFamily, first func() netip.Addr) {
		s.addPool(ctx, "lan", []string{first().String()})
		s.addService(ctx, "web", families(corev1.IPFamilyPolicySingleStack, family))
		addr, owner := s.announced(ctx, "web")
		Eventually(ctx, func(g Gomega) {
			status := s.ip(ctx, addr).Status
			g.Expect(meta.IsStatusConditionTrue(status.Conditions, v1alpha1.AddressVerified)).To(BeTrue(), "%+v", status)
			g.Expect(status.Verified).To(And(HaveField("MAC", owner.MAC.String()), HaveField("By", Not(Equal(owner.Name())))))
		}).Should(Succeed())
	},
		Entry("for IPv4", corev1.IPv4Protocol, func() netip.Addr { return s.v4(1) }),
		Entry("for IPv6", corev1.IPv6Protocol, func() netip.Addr { return s.v6(1) }),
	)
})

// gratuitous is an ARP reply to everybody by which a host says that an address is its own.
func gratuitous(addr netip.Addr, from *cluster.Host) []byte {
	ip := addr.As4()
	b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, from.MAC...)
	b = binary.BigEndian.AppendUint16(b, wire.EtherTypeARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 2)
	b = append(append(b, from.MAC...), ip[:]...)
	b = append(append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), ip[:]...)
	return b
}
