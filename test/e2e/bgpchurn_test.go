// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// many Services are made and deleted, so many at a time.
const (
	manyServices = 1000
	atOnce       = 16
)

var _ = Describe("A BGP session", onLab, func() {
	s := newRoutedScene()

	It("goes on through 1,000 Services that come and go, and edits of pools and of other peers", func(ctx SpecContext) {
		k := stack{corev1.IPv4Protocol, corev1.IPv6Protocol}
		v4, v6 := s.prefix()
		s.addPool(ctx, "routed", []string{v4.String(), v6.String()})
		s.addPool(ctx, "spare", []string{"2001:db8::/120"}, byName)
		s.withPeers(ctx, k)
		s.addBGPAdvertisement(ctx, "all", func(ad *v1alpha1.BGPAdvertisementSpec) { ad.RequireEndpoints = ptr.To(false) })
		lives := sessionsLive(ctx)
		const some = 200 // of IPv4
		carried := func(count int) {
			GinkgoHelper()
			for _, r := range lab.tors {
				Eventually(ctx, func(g Gomega) {
					sessions, err := r.BGP.Sessions(ctx)
					g.Expect(err).NotTo(HaveOccurred())
					for _, session := range sessions {
						if session.Established() {
							g.Expect(session.IPv4.Prefixes+session.IPv6.Prefixes).To(Equal(count), "of %s", session.Neighbor)
						}
					}
				}).WithTimeout(3*time.Minute).WithPolling(time.Second).Should(Succeed(), r.Name())
			}
			lives.goOn(ctx)
		}
		var creating errgroup.Group
		creating.SetLimit(atOnce)
		for i := range manyServices {
			creating.Go(func() error {
				svc := &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: serviceName(i)},
					Spec: corev1.ServiceSpec{
						Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: ptr.To(false),
						Ports: []corev1.ServicePort{port(corev1.ProtocolTCP, 80)},
					},
				}
				of(map[bool]corev1.IPFamily{true: corev1.IPv4Protocol, false: corev1.IPv6Protocol}[i < some])(svc)
				return api.Create(ctx, svc)
			})
		}
		// Meanwhile others change what is none of these sessions' business.
		edited := make(chan struct{})
		go func() {
			defer GinkgoRecover()
			defer close(edited)
			s.meddle(ctx)
		}()
		Expect(creating.Wait()).To(Succeed())
		Eventually(ctx, edited, time.Minute).Should(BeClosed())
		carried(manyServices)

		var deleting errgroup.Group
		deleting.SetLimit(atOnce)
		for i := range manyServices {
			deleting.Go(func() error {
				return api.Delete(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: serviceName(i)}})
			})
		}
		Expect(deleting.Wait()).To(Succeed())
		carried(0)
		s.startBackends(ctx, "web")
		s.addService(ctx, "web", selecting("web"), k.service)
		s.tellsOfBGP(ctx, "web")
		for _, addr := range shown(s.service(ctx, "web")) {
			serves(ctx, netip.MustParseAddr(addr), lab.Nodes, backendNames()...)
		}
		lives.goOn(ctx)
	})
})

// meddle edits pools, and makes, edits and deletes peers that nobody is behind.
func (s *scene) meddle(ctx context.Context) {
	GinkgoHelper()
	for i := range 20 {
		name := fmt.Sprint("nobody-", i)
		s.addPeer(ctx, name, netip.AddrFrom4([4]byte{10, 89, 250, byte(i + 1)}))
		s.editPool(ctx, "spare", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Priority = int32(i + 1) })
		s.editPeer(ctx, name, func(p *v1alpha1.BGPPeerSpec) { p.HoldTime = seconds(30 + i) })
		s.editPool(ctx, "routed", func(p *v1alpha1.LoadBalancerIPPoolSpec) { p.Priority = int32(i + 1) })
		if i%2 == 0 {
			s.deletePeer(ctx, name)
		}
	}
}
