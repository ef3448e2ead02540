// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

var _ = Describe("Two controllers without leader election", onLab, Ordered, func() {
	const (
		namespace = "unrest"
		services  = 300
		// The pool is too small for all Services that there are at a time.
		addresses = 100
		unrest    = 30 * time.Second
	)
	var two *site

	BeforeAll(func(ctx SpecContext) {
		two = startSite(ctx, cluster.Config{Name: "e2e-two", Nodes: 1, Family: cluster.IPv4},
			"controller.replicas=2", "controller.leaderElect=false")
	})

	It("never give an address to two who may not share it, and lose none", func(ctx SpecContext) {
		config := two.RESTConfig()
		config.QPS = -1
		api, err := client.NewWithWatch(config, client.Options{Scheme: two.API.Scheme()})
		Expect(err).NotTo(HaveOccurred())
		Expect(two.CreateNamespace(ctx, namespace)).To(Succeed())
		prefix, _ := cluster.PoolRange(0)
		var pool []netip.Addr
		for a := prefix.Addr(); len(pool) < addresses; a = a.Next() {
			pool = append(pool, a)
		}
		history, err := record(api)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() {
			changes, _ := history.stop() // a gap has been told
			if CurrentSpecReport().Failed() {
				AddReportEntry("the history", lines(changes), ReportEntryVisibilityFailureOrVerbose)
			}
		})
		Expect(api.Create(ctx, &v1alpha1.LoadBalancerIPPool{
			ObjectMeta: metav1.ObjectMeta{Name: "lan"},
			Spec: v1alpha1.LoadBalancerIPPoolSpec{
				Addresses:  []v1alpha1.AddressRange{v1alpha1.AddressRange(between(pool[0], pool[addresses-1]))},
				ReuseAfter: &metav1.Duration{Duration: 2 * time.Second},
			},
		})).To(Succeed())

		seed := uint64(GinkgoRandomSeed())
		AddReportEntry("seed", seed, ReportEntryVisibilityAlways)
		users := &users{api: api, namespace: namespace, services: services, pool: pool}
		Expect(users.run(ctx, seed, unrest)).To(Succeed())

		By("coming to rest")
		atRest := func() error { return leaks(ctx, api, namespace, pool) }
		Eventually(atRest).WithTimeout(30 * time.Second).Should(Succeed())

		By("deleting a third, which leaves room for some who wait")
		for i := 0; i < services; i += 3 {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceName(i)}}
			Expect(client.IgnoreNotFound(api.Delete(ctx, svc))).To(Succeed())
		}
		Eventually(atRest).WithTimeout(30 * time.Second).Should(Succeed())

		By("deleting all")
		Expect(api.DeleteAllOf(ctx, &corev1.Service{}, client.InNamespace(namespace))).To(Succeed())
		Eventually(func(g Gomega) {
			var left v1alpha1.LoadBalancerIPList
			g.Expect(api.List(ctx, &left)).To(Succeed())
			g.Expect(left.Items).To(BeEmpty(), "what rests should be forgotten after its time")
			g.Expect(history.alive()).To(BeZero())
		}).WithTimeout(30 * time.Second).Should(Succeed())

		changes, err := history.stop()
		Expect(err).NotTo(HaveOccurred())
		f := check(changes, prefix)
		AddReportEntry("what the history shows", fmt.Sprintf(
			"%d changes; %d bindings, %d of them to a shared address and %d of a rested one; "+
				"longest that a Service held two addresses %s, "+
				"that an address outlived its Service %s, that a Service showed one it did not hold %s",
			f.changes, f.bound, f.shared, f.reused,
			f.twoAddresses.Round(time.Millisecond), f.orphaned.Round(time.Millisecond), f.unbound.Round(time.Millisecond)), ReportEntryVisibilityAlways)
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

func lines(changes []change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintln(&b, c)
	}
	return b.String()
}

func serviceName(i int) string { return fmt.Sprintf("svc-%03d", i) }

// users create, change and delete Services without waiting for anything.
type users struct {
	api       client.Client
	namespace string
	services  int
	pool      []netip.Addr
}

// run returns after the time given. What each user does follows from the seed; what comes of it, from all of them.
func (u *users) run(ctx context.Context, seed uint64, duration time.Duration) error {
	const count, pause = 6, 40 * time.Millisecond
	end := time.Now().Add(duration)
	g, ctx := errgroup.WithContext(ctx)
	for user := range count {
		r := rand.New(rand.NewPCG(seed, uint64(user)))
		g.Go(func() error {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for time.Now().Before(end) {
				// Each has Services of its own.
				name := serviceName(r.IntN(u.services/count)*count + user)
				if err := u.touch(ctx, r, name); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-tick.C:
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// touch makes a Service that does not exist, and changes or deletes one that does.
func (u *users) touch(ctx context.Context, r *rand.Rand, name string) error {
	svc := &corev1.Service{}
	err := u.api.Get(ctx, objectKey(u.namespace, name), svc)
	switch {
	case apierrors.IsNotFound(err):
		svc = &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: name},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: ptr.To(false),
			},
		}
		u.changePorts(r, svc)
		u.changeKey(r, svc)
		if r.IntN(10) == 0 {
			u.askAnother(r, svc)
		}
		return u.api.Create(ctx, svc)
	case err != nil:
		return err
	case svc.DeletionTimestamp != nil:
		return nil
	}
	base := svc.DeepCopy()
	switch n := r.IntN(10); {
	case n < 4:
		return client.IgnoreNotFound(u.api.Delete(ctx, svc))
	case n < 6:
		u.changePorts(r, svc)
	case n < 7:
		u.changeKey(r, svc)
	case n < 8:
		u.askAnother(r, svc)
	default:
		if svc.Spec.Type = corev1.ServiceTypeClusterIP; base.Spec.Type == corev1.ServiceTypeClusterIP {
			svc.Spec.Type = corev1.ServiceTypeLoadBalancer
			svc.Spec.AllocateLoadBalancerNodePorts = ptr.To(false)
		} else {
			svc.Spec.AllocateLoadBalancerNodePorts = nil
		}
	}
	return client.IgnoreNotFound(u.api.Patch(ctx, svc, client.MergeFrom(base)))
}

func (u *users) changePorts(r *rand.Rand, svc *corev1.Service) {
	svc.Spec.Ports = nil
	for _, p := range r.Perm(4)[:1+r.IntN(2)] {
		svc.Spec.Ports = append(svc.Spec.Ports, port([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}[p%2], int32(80+p)))
	}
}

// changeKey gives every other Service a sharing key.
func (u *users) changeKey(r *rand.Rand, svc *corev1.Service) {
	delete(svc.Annotations, v1alpha1.AnnotationSharingKey)
	if r.IntN(2) == 0 {
		sharing(strings.Repeat("k", 1+r.IntN(20)))(svc)
	}
}

// askAnother has the Service ask for an address by number, or for none.
func (u *users) askAnother(r *rand.Rand, svc *corev1.Service) {
	delete(svc.Annotations, v1alpha1.AnnotationAddresses)
	if r.IntN(2) == 0 {
		asking(u.pool[r.IntN(len(u.pool))])(svc)
	}
}
