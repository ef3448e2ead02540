// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

var _ = Describe("Two controllers without leader election", onLab, Ordered, func() {
	const (
		namespace = "unrest"
		services  = 300
		// The pool is too small for all Services that there are at a time.
		addresses = 100
	)
	var two *site

	BeforeAll(func(ctx SpecContext) {
		two = startSite(ctx, cluster.Config{Name: "e2e-two", Nodes: 1},
			"controller.replicas=2", "controller.leaderElect=false")
	})

	It("never give an address to two who may not share it, and lose none", func(ctx SpecContext) {
		Expect(two.CreateNamespace(ctx, namespace)).To(Succeed())
		addrs, pool := smallPool(addresses)
		api, history := two.record()
		Expect(api.Create(ctx, pool)).To(Succeed())

		seed := uint64(GinkgoRandomSeed())
		AddReportEntry("seed", seed, ReportEntryVisibilityAlways)
		users := &users{api: api, namespace: namespace, services: services, pool: addrs, operations: 2000, pause: 40 * time.Millisecond}
		Expect(users.run(ctx, seed)).To(Succeed())

		By("coming to rest")
		atRest := func() error { return leaks(ctx, api, namespace, addrs) }
		Eventually(atRest).WithTimeout(30 * time.Second).Should(Succeed())

		By("deleting a third, which leaves room for some who wait")
		for i := 0; i < services; i += 3 {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceName(i)}}
			Expect(client.IgnoreNotFound(api.Delete(ctx, svc))).To(Succeed())
		}
		Eventually(atRest).WithTimeout(30 * time.Second).Should(Succeed())

		By("deleting all")
		deleteServices(ctx, api, namespace, history)

		changes, err := history.stop()
		Expect(err).NotTo(HaveOccurred())
		f := check(changes, addrs)
		AddReportEntry("what the history shows", f.String(), ReportEntryVisibilityAlways)
		Expect(f.violations).To(BeEmpty())
		Expect(f.twoAddresses).To(BeNumerically("<", 2*time.Second))
		Expect(f.orphaned).To(BeNumerically("<", 2*time.Second))
		Expect(f.unbound).To(BeNumerically("<", 2*time.Second))
		// Otherwise nothing was put to the test.
		Expect(f.bound).To(BeNumerically(">", services))
		Expect(f.shared).To(BeNumerically(">", services/10))
		Expect(f.reused).To(BeNumerically(">", services/10))
	})
})
