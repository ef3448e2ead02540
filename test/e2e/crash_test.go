// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// crashRounds is how often the crash test runs: $FAIRLEAD_E2E_CRASH_ROUNDS, else once.
func crashRounds() int {
	text, ok := os.LookupEnv("FAIRLEAD_E2E_CRASH_ROUNDS")
	if !ok {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		panic("e2e: FAIRLEAD_E2E_CRASH_ROUNDS should be a number from 1: " + text)
	}
	return n
}

var _ = Describe("A controller that is killed again and again", onLab, Ordered, func() {
	const (
		services   = 90
		operations = 500
		// The pool is too small for all Services that there are at a time.
		addresses = 35
		// upAtMost is long enough for a controller to start, to fill its ledger and to work a while; some are killed
		// on the way there.
		upAtMost   = 1500 * time.Millisecond
		downAtMost = 300 * time.Millisecond
		probePort  = 7472 // as in the chart
	)
	var one *site

	BeforeAll(func(ctx SpecContext) {
		// Without a lease there is none that the next one would have to wait for.
		one = startSite(ctx, cluster.Config{Name: "e2e-crash", Nodes: 1}, "controller.leaderElect=false")
	})

	for round := range crashRounds() {
		It(fmt.Sprintf("gives no address twice, loses none and changes none (round %d)", round+1), func(ctx SpecContext) {
			namespace := fmt.Sprintf("crash-%d", round)
			seed := uint64(GinkgoRandomSeed()) + uint64(round)
			AddReportEntry("seed", seed, ReportEntryVisibilityAlways)
			Expect(one.CreateNamespace(ctx, namespace)).To(Succeed())
			addrs, pool := smallPool(addresses)
			api, history := one.record()
			Expect(api.Create(ctx, pool)).To(Succeed())

			users := &users{api: api, namespace: namespace, services: services, pool: addrs, operations: operations, pause: 100 * time.Millisecond}
			done := make(chan error, 1)
			go func() { done <- users.run(ctx, seed) }()
			r := rand.New(rand.NewPCG(seed, seed))
			upTo := func(longest time.Duration) time.Duration { return time.Duration(r.Int64N(int64(longest))) }
			controller := one.product.Controllers[0]
			kills := 0
			for atWork := true; atWork; kills++ {
				select {
				case err := <-done:
					Expect(err).NotTo(HaveOccurred())
					atWork = false // the last kill comes while the last operations are being followed
				case <-time.After(upTo(upAtMost)):
				}
				Expect(controller.State()).To(Equal(sandbox.Running), "it should end by nothing but a signal")
				Expect(controller.Kill()).To(Succeed())
				time.Sleep(upTo(downAtMost))
				Expect(controller.Start()).To(Succeed())
			}

			By("coming to rest")
			killed := time.Now()
			host := one.Host("controller1")
			Eventually(ctx, func() error {
				_, err := host.Get(ctx, fmt.Sprintf("http://%s/readyz", netip.AddrPortFrom(host.Addr(), probePort)))
				return err
			}).Should(Succeed())
			atRest := func() error { return leaks(ctx, api, namespace, addrs) }
			Eventually(atRest).WithTimeout(30 * time.Second).Should(Succeed())
			rested := time.Since(killed)
			Consistently(atRest).Should(Succeed())

			By("deleting all")
			deleteServices(ctx, api, namespace, history)
			Expect(api.Delete(ctx, pool)).To(Succeed())

			changes, err := history.stop()
			Expect(err).NotTo(HaveOccurred())
			f := check(changes, addrs)
			AddReportEntry("what the history shows", fmt.Sprintf("%d kills; at rest %s after the last; %s", kills, rested.Round(time.Millisecond), f), ReportEntryVisibilityAlways)
			Expect(f.violations).To(BeEmpty())
			// Otherwise nothing was put to the test.
			Expect(kills).To(BeNumerically(">=", 5))
			Expect(f.bound).To(BeNumerically(">", services))
			Expect(f.shared).To(BeNumerically(">", 0))
			Expect(f.reused).To(BeNumerically(">", 0))
		})
	}
})
