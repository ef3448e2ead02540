// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mdlayher/ndp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// announcers are the MACs that a capture has heard say to everybody that they have an address.
func announcers(capture *wire.Capture, addr netip.Addr) (macs []string) {
	for _, a := range capture.ARP() {
		if a.Gratuitous() && a.SenderIP == addr {
			macs = append(macs, a.SenderMAC.String())
		}
	}
	for _, f := range capture.Frames() {
		if mac, ok := unsolicited(f, addr); ok {
			macs = append(macs, mac)
		}
	}
	return macs
}

// unsolicited reads a neighbour advertisement to all nodes that nobody asked for, as RFC 4861, section 7.2.6, has it: not
// solicited, to override what is known, and not from a router.
func unsolicited(f wire.Frame, addr netip.Addr) (mac string, ok bool) {
	const ethernet, ipv6 = 14, 40
	if f.EtherType() != wire.EtherTypeIPv6 || len(f.Data) < ethernet+ipv6 || f.Data[ethernet+6] != 58 {
		return "", false
	}
	to, _ := netip.AddrFromSlice(f.Data[ethernet+24 : ethernet+40])
	message, err := ndp.ParseMessage(f.Data[ethernet+ipv6:])
	if err != nil || to != netip.IPv6LinkLocalAllNodes() {
		return "", false
	}
	na, ok := message.(*ndp.NeighborAdvertisement)
	if !ok || na.TargetAddress != addr || na.Solicited || !na.Override || na.Router || len(na.Options) != 1 {
		return "", false
	}
	lla, ok := na.Options[0].(*ndp.LinkLayerAddress)
	if !ok || lla.Direction != ndp.Target {
		return "", false
	}
	return lla.Addr.String(), true
}

var _ = Describe("A neighbour", onLab, func() {
	s := newScene()

	DescribeTable("is told who has an address when it is claimed, and again when it moves", func(ctx SpecContext, f corev1.IPFamily) {
		capture, err := wire.StartCapture(lab.Client.Namespace, cluster.Interface, wire.EtherTypeARP, wire.EtherTypeIPv6)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(capture.Close)
		s.addLAN(ctx)
		s.addService(ctx, "web", of(f))
		addr, first := s.announced(ctx, "web")
		Eventually(ctx, announcers).WithArguments(capture, addr).Should(And(Not(BeEmpty()), HaveEach(first.MAC.String())))
		s.mark(ctx, first.Name(), drain, undrain)
		second := s.goes(ctx, addr, first)
		Eventually(ctx, announcers).WithArguments(capture, addr).Should(ContainElement(second.MAC.String()))
	}, inBothFamilies)

	DescribeTable("that asks one node alone whether it still has the address is answered", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.addService(ctx, "web", of(f))
		addr, owner := s.announced(ctx, "web")
		// The kernel asks the MAC that it knows (RFC 4861, section 7.3; for ARP RFC 1122, section 2.3.2.1).
		s.afterwards(func(context.Context) { Expect(lab.Client.SetNeighbour(addr, nil)).To(Succeed()) })
		ip(ctx, lab.Client, fmt.Sprintf("neigh replace %s lladdr %s dev %s nud probe", addr, owner.MAC, cluster.Interface))
		Eventually(ctx, func() (string, error) {
			return lab.Client.Run(ctx, "ip", "neigh", "show", addr.String(), "dev", cluster.Interface)
		}).Should(And(ContainSubstring("REACHABLE"), ContainSubstring(owner.MAC.String())))
	}, inBothFamilies)

	It("that wants an IPv6 address in use for itself finds by DAD that it is taken", func(ctx SpecContext) {
		s.addLAN(ctx)
		s.addService(ctx, "web", of(corev1.IPv6Protocol))
		addr, owner := s.announced(ctx, "web")
		dad := func(on string) {
			GinkgoHelper()
			for _, key := range []string{"accept_dad", "dad_transmits"} {
				Expect(lab.Client.Sysctl("ipv6/conf/"+cluster.Interface+"/"+key, on)).To(Succeed())
			}
		}
		s.afterwards(func(context.Context) { dad("0") })
		dad("1") // the lab has it off
		ip(ctx, lab.Client, fmt.Sprintf("addr add %s/128 dev %s", addr, cluster.Interface))
		Eventually(ctx, func() (string, error) {
			out, err := lab.Client.Run(ctx, "ip", "-6", "addr", "show", "dev", cluster.Interface, "to", addr.String())
			return strings.TrimSpace(out), err
		}).Should(ContainSubstring("dadfailed"))
		ip(ctx, lab.Client, fmt.Sprintf("addr del %s/128 dev %s", addr, cluster.Interface))
		s.remains(ctx, addr, owner)
	})
})
