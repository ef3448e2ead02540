// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

var _ = Describe("By BGP an address", onLab, func() {
	s := newRoutedScene()

	// serve makes a Service that routers lead to by these nodes.
	serve := func(ctx SpecContext, k stack, edits ...func(*corev1.Service)) {
		GinkgoHelper()
		s.addRouted(ctx)
		s.withPeers(ctx, k)
		s.addService(ctx, "web", append([]func(*corev1.Service){selecting("web"), k.service}, edits...)...)
	}

	DescribeTable("of policy Cluster is announced by all nodes while an endpoint is anywhere", func(ctx SpecContext, k stack) {
		serve(ctx, k)
		for _, addr := range k.addrs(s, 1) {
			unrouted(ctx, addr)
		}
		pods := s.startBackends(ctx, "web", lab.Nodes[1])
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes, "web-node2")
		}
		s.tellsOfBGP(ctx, "web")
		Expect(pods[0].SetReady(ctx, false)).To(Succeed())
		for _, addr := range k.addrs(s, 1) {
			unrouted(ctx, addr)
		}
	}, inAllStacks)

	DescribeTable("of policy Local is announced where ready endpoints are, then where they serve while they end", func(ctx SpecContext, k stack) {
		s.startBackends(ctx, "web", lab.Nodes[0])
		serve(ctx, k, local)
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes[:1], "web-node1")
		}
		second, err := lab.Nodes[1].StartPod(ctx, s.namespace, "second", map[string]string{"app": "web"})
		Expect(err).NotTo(HaveOccurred())
		s.backends = append(s.backends, second)
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes[:2], "second", "web-node1")
		}
		// One that ends is left as long as there is another, and serves on if it is the last.
		Expect(second.Terminate(ctx)).To(Succeed())
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes[:1], "web-node1")
		}
		Expect(s.backends[0].(*cluster.Pod).Terminate(ctx)).To(Succeed())
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes[:2], "second", "web-node1")
		}
		for _, b := range s.backends {
			Expect(b.(*cluster.Pod).SetReady(ctx, false)).To(Succeed())
		}
		Expect(lab.AwaitEndpoints(ctx, objectKey(s.namespace, "web"), 0)).To(Succeed())
	}, inAllStacks)
})
