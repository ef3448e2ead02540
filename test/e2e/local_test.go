// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// remote is an edit that takes back local.
func remote(svc *corev1.Service) {
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
}

// seesClient checks that a backend sees the client's own address.
func seesClient(ctx context.Context, addr netip.Addr) {
	GinkgoHelper()
	own := lab.Client.IPv4
	if addr.Is6() {
		own = lab.Client.IPv6
	}
	Eventually(ctx, func() (netip.Addr, error) {
		text, err := datagram(ctx, lab.Client, addr, "clientip")
		if err != nil {
			return netip.Addr{}, err
		}
		seen, err := netip.ParseAddrPort(text)
		return seen.Addr(), err
	}).Should(Equal(own))
}

var _ = Describe("With externalTrafficPolicy Local an address", onLab, func() {
	s := newScene()

	// serve announces a Service with backends on some nodes.
	serve := func(ctx context.Context, f corev1.IPFamily, nodes ...*cluster.Node) (netip.Addr, *cluster.Node, []*cluster.Pod) {
		GinkgoHelper()
		s.addLAN(ctx)
		pods := s.startBackends(ctx, "web", nodes...)
		s.addService(ctx, "web", selecting("web"), of(f), local)
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
		return addr, owner, pods
	}

	DescribeTable("goes where ready endpoints are, then where they serve while they end, and stays where none is", func(ctx SpecContext, f corev1.IPFamily) {
		addr, owner, pods := serve(ctx, f, lab.Nodes[1])
		Expect(owner).To(BeIdenticalTo(lab.Nodes[1]))
		seesClient(ctx, addr)
		o := lookOn(ctx, false, addr)

		// The only endpoint ends, and goes on serving until it has ended.
		Expect(pods[0].Terminate(ctx)).To(Succeed())
		Expect(lab.AwaitEndpoints(ctx, objectKey(s.namespace, "web"), 0)).To(Succeed())
		s.remains(ctx, addr, lab.Nodes[1])
		seesClient(ctx, addr)

		// One that is ready is better.
		more := s.startBackends(ctx, "more", lab.Nodes[2])
		s.editService(ctx, "web", selecting("more"))
		s.goes(ctx, addr, lab.Nodes[1])
		seesClient(ctx, addr)

		Expect(more[0].SetReady(ctx, false)).To(Succeed())
		Expect(lab.AwaitEndpoints(ctx, objectKey(s.namespace, "web"), 0)).To(Succeed())
		s.remains(ctx, addr, lab.Nodes[2])
		o.sawMoves(addr, lab.Nodes[1], lab.Nodes[2])
	}, inBothFamilies)

	DescribeTable("may be on any node if an endpoint is on none in particular", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.addService(ctx, "web", withPorts, of(f), local)
		s.unannounced(ctx, "web")
		Expect(lab.CreateSlicesTo(ctx, objectKey(s.namespace, "web"), lab.Client)).To(Succeed())
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
		s.mark(ctx, owner.Name(), drain, undrain)
		s.goes(ctx, addr, owner)
	}, inBothFamilies)

	DescribeTable("is shared with Services of the same endpoints only, and stays when one of them is deleted", func(ctx SpecContext, f corev1.IPFamily) {
		addr, owner, _ := serve(ctx, f, lab.Nodes[2])
		s.editService(ctx, "web", sharing("k"))
		onHTTPS := all(selecting("web"), tcp(443), of(f), sharing("k"))
		s.addService(ctx, "sibling", onHTTPS, local)
		shared, _ := s.announced(ctx, "sibling")
		Expect(shared).To(Equal(addr))
		// Who could answer from other nodes gets an address of its own, as two could not have this one.
		s.addService(ctx, "cluster", onHTTPS)
		other, _ := s.announced(ctx, "cluster")
		Expect(other).NotTo(Equal(addr))

		o := lookOn(ctx, true, addr)
		s.deleteService(ctx, "sibling")
		s.remains(ctx, addr, owner)
		o.sawNothing(addr, owner)
	}, inBothFamilies)

	DescribeTable("is another than before if the address was shared with Services that stay Cluster", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web", lab.Nodes[1])
		s.addService(ctx, "web", selecting("web"), of(f), sharing("k"))
		addr, owner := s.announced(ctx, "web")
		s.addService(ctx, "sibling", all(selecting("web"), tcp(443), of(f), sharing("k")))
		s.announced(ctx, "sibling")
		o := lookOn(ctx, true, addr)
		s.editService(ctx, "sibling", local)
		s.served(ctx, "sibling", s.at(f, 2))
		answers(ctx, s.at(f, 2), lab.Nodes[1])
		s.remains(ctx, addr, owner)
		o.sawNothing(addr, owner)
	}, inBothFamilies)

	DescribeTable("of policy Cluster goes to an endpoint when it becomes Local, and stays when it no longer is", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.addService(ctx, "web", selecting("web"), of(f))
		addr, owner := s.announced(ctx, "web")
		to := others(owner)[0]
		s.startBackends(ctx, "web", to)
		o := lookOn(ctx, true, addr)
		s.editService(ctx, "web", local)
		Expect(s.goes(ctx, addr, owner)).To(BeIdenticalTo(to))
		seesClient(ctx, addr)
		s.editService(ctx, "web", remote)
		s.remains(ctx, addr, to)
		o.sawMoves(addr, owner, to)
	}, inBothFamilies)
})
