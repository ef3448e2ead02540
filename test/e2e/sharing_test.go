// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/ipam"
)

var _ = Describe("Sharing", func() {
	s := newScene()

	const http, dns = 80, 53

	It("puts Services of one key and disjoint ports on one address", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", sharing("k"), tcp(http))
		s.served(ctx, "web", s.v4(1))
		s.addService(ctx, "dns-tcp", sharing("k"), tcp(dns))
		s.served(ctx, "dns-tcp", s.v4(1))
		s.addService(ctx, "dns-udp", sharing("k"), ports(port(corev1.ProtocolUDP, dns)))
		s.served(ctx, "dns-udp", s.v4(1))
		s.addService(ctx, "alone", tcp(8080))
		s.served(ctx, "alone", s.v4(2))

		ip := s.ip(ctx, s.v4(1))
		Expect(ip.Spec.SharingKey).To(Equal("k"))
		Expect(ip.Spec.Services).To(HaveLen(3))
		Expect(ip.Spec.Holder).To(Equal(s.namespace + "/web +2"))

		s.deleteService(ctx, "web")
		Eventually(ctx, func() int { return len(s.ip(ctx, s.v4(1)).Spec.Services) }).Should(Equal(2))
		s.stays(ctx, "dns-tcp", s.v4(1))
	})

	It("gives the later Service of two with one port another address", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first", sharing("k"), tcp(http))
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second", sharing("k"), ports(port(corev1.ProtocolTCP, 443), port(corev1.ProtocolTCP, http)))
		s.served(ctx, "second", s.v4(2))
		s.addService(ctx, "third", sharing("k"), tcp(443))
		s.served(ctx, "third", s.v4(1))
	})

	It("moves the Service that gains a clashing port, not the one that was there", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first", sharing("k"), tcp(http))
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second", sharing("k"), tcp(443))
		s.served(ctx, "second", s.v4(1))
		s.editService(ctx, "second", tcp(http))
		s.served(ctx, "second", s.v4(2))
		s.stays(ctx, "first", s.v4(1))
	})

	It("of an address asked for by number is refused while a port clashes", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first", sharing("k"), tcp(http))
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "second", sharing("k"), tcp(http), asking(s.v4(1)))
		Expect(s.refused(ctx, "second", ipam.PortClash).Message).To(ContainSubstring("TCP 80"))
		s.editService(ctx, "first", tcp(8080))
		s.served(ctx, "second", s.v4(1))
		s.stays(ctx, "first", s.v4(1))
	})

	It("of an address asked for by number is refused without the key", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first", sharing("k"), tcp(http))
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "other-key", sharing("l"), tcp(443), asking(s.v4(1)))
		s.refused(ctx, "other-key", ipam.SharingKeyMismatch)
		s.addService(ctx, "no-key", tcp(444), asking(s.v4(1)))
		s.refused(ctx, "no-key", ipam.AddressInUse)
		s.editService(ctx, "other-key", sharing("k"))
		s.served(ctx, "other-key", s.v4(1))
	})

	It("across namespaces takes the word of both", func(ctx SpecContext) {
		other := s.namespace + "-other"
		s.addNamespace(ctx, other, nil)
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", sharing("k"), tcp(http))
		s.served(ctx, "web", s.v4(1))
		s.addService(ctx, "dns", inNamespace(other), sharing("k"), sharingWith(s.namespace), tcp(dns), asking(s.v4(1)))
		Expect(s.refusedIn(ctx, other, "dns", ipam.SharingNotAgreed).Message).To(ContainSubstring(other))
		s.addService(ctx, "elsewhere", inNamespace(other), sharing("k"), sharingWith(s.namespace), tcp(443))
		s.servedIn(ctx, other, "elsewhere", s.v4(2))
		s.editService(ctx, "web", sharingWith(other))
		s.servedIn(ctx, other, "dns", s.v4(1))
		s.stays(ctx, "web", s.v4(1))
	})

	It("with externalTrafficPolicy Local takes the same selector", func(ctx SpecContext) {
		local := func(app string) func(*corev1.Service) {
			return func(svc *corev1.Service) {
				svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				svc.Spec.Selector = map[string]string{"app": app}
			}
		}
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "first", sharing("k"), tcp(http), local("a"))
		s.served(ctx, "first", s.v4(1))
		s.addService(ctx, "same", sharing("k"), tcp(443), local("a"))
		s.served(ctx, "same", s.v4(1))
		s.addService(ctx, "cluster", sharing("k"), tcp(444), asking(s.v4(1)))
		s.refused(ctx, "cluster", ipam.BackendMismatch)
		s.addService(ctx, "different", sharing("k"), tcp(445), local("b"))
		s.served(ctx, "different", s.v4(2))
	})
})
