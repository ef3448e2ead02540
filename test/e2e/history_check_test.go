// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// What checks the controllers has to be checked itself: each history has one thing wrong.
var _ = Describe("The check of a history", func() {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var pool []netip.Addr
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"} {
		pool = append(pool, netip.MustParseAddr(a))
	}

	service := func(name string, key string, number int32, shows ...string) change {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
		}
		tcp(number)(svc)
		sharing(key)(svc)
		for _, a := range shows {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
		}
		return change{service: svc}
	}
	// ip is bound to "name" or "name:port", which is 80 otherwise.
	ip := func(addr, key string, services ...string) change {
		obj := &v1alpha1.LoadBalancerIP{
			ObjectMeta: metav1.ObjectMeta{Name: ipam.ObjectName(netip.MustParseAddr(addr)), UID: types.UID("uid-" + addr)},
			Spec:       v1alpha1.LoadBalancerIPSpec{Address: addr, SharingKey: key},
		}
		for _, s := range services {
			name, other, ok := strings.Cut(s, ":")
			number := int32(80)
			if ok {
				number = int32(other[0])
			}
			obj.Spec.Services = append(obj.Spec.Services, v1alpha1.ServiceBinding{
				ServiceName: v1alpha1.ServiceName{Namespace: "default", Name: name}, UID: types.UID("uid-" + name),
				Ports: []v1alpha1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: number}},
			})
		}
		return change{ip: obj}
	}
	gone := func(c change) change {
		c.deleted = true
		return c
	}
	with := func(edit func(*corev1.Service), c change) change {
		edit(c.service)
		return c
	}
	clusterIP := func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP }
	// played numbers the changes, one each second.
	played := func(changes ...change) findings {
		for i := range changes {
			changes[i].version, changes[i].seen = uint64(i+1), start.Add(time.Duration(i)*time.Second)
		}
		return check(slices.Clone(changes), pool)
	}

	It("finds nothing wrong with Services that come, share and go", func() {
		f := played(
			service("a", "k", 80), ip("192.0.2.1", "k", "a"), service("a", "k", 80, "192.0.2.1"),
			service("b", "k", 81), ip("192.0.2.1", "k", "a", "b:Q"), service("b", "k", 81, "192.0.2.1"),
			with(clusterIP, service("a", "k", 80)), ip("192.0.2.1", "k", "b:Q"),
			with(clusterIP, service("b", "k", 81)), ip("192.0.2.1", ""), gone(ip("192.0.2.1", "")),
		)
		Expect(f.violations).To(BeEmpty())
		Expect(f.bound).To(Equal(2))
		Expect(f.shared).To(Equal(1))
	})

	DescribeTable("finds", func(what string, changes ...change) {
		Expect(played(changes...).violations).To(ContainElement(ContainSubstring(what)))
	},
		Entry(nil, "two holders and no sharing key", ip("192.0.2.1", "", "a", "b:Q")),
		Entry(nil, "of both a and b", ip("192.0.2.1", "k", "a", "b")),
		Entry(nil, "is held twice by a", ip("192.0.2.1", "k", "a", "a:Q")),
		Entry(nil, "is in no pool", ip("198.51.100.1", "", "a")),
		Entry(nil, "is deleted while", ip("192.0.2.1", "", "a"), gone(ip("192.0.2.1", "", "a"))),
		Entry(nil, "Service b shows 192.0.2.1, which a holds and shows",
			service("a", "k", 80), ip("192.0.2.1", "k", "a"), service("a", "k", 80, "192.0.2.1"), service("b", "k", 80, "192.0.2.1")),
	)

	It("lets a Service change its address by what it asks for", func() {
		dual := families(corev1.IPFamilyPolicyPreferDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol)
		f := played(
			// By number.
			service("a", "", 80, "192.0.2.1"), with(asking("192.0.2.2"), service("a", "", 80, "192.0.2.1")),
			with(asking("192.0.2.2"), service("a", "", 80, "192.0.2.2")), service("a", "", 80, "192.0.2.2"),
			// By its ports, when it is not alone there.
			service("b", "k", 80, "192.0.2.1"), ip("192.0.2.1", "k", "b", "c:Q"),
			service("b", "k", 81, "192.0.2.1"), service("b", "k", 81, "192.0.2.3"),
			// By its families.
			with(dual, service("d", "", 80, "192.0.2.1", "2001:db8::1")), service("d", "", 80, "192.0.2.1", "2001:db8::1"), service("d", "", 80, "192.0.2.1"),
			// By its end.
			gone(service("d", "", 80, "192.0.2.1")),
		)
		Expect(f.violations).To(BeEmpty())
	})

	DescribeTable("finds an address taken from a Service", func(changes ...change) {
		Expect(played(changes...).violations).To(ContainElement(ContainSubstring("shows 192.0.2.1 no longer and did not ask for that")))
	},
		Entry("that asked for nothing", service("a", "", 80, "192.0.2.1"), service("a", "", 80)),
		Entry("that asked for nothing, for another", service("a", "", 80, "192.0.2.1"), service("a", "", 80, "192.0.2.2")),
		Entry("that asked for another and shows a third", service("a", "", 80, "192.0.2.1"), with(asking("192.0.2.2"), service("a", "", 80, "192.0.2.3"))),
		Entry("that asked for another and has nothing", service("a", "", 80, "192.0.2.1"), with(asking("192.0.2.2"), service("a", "", 80))),
		Entry("that asked for another family's", service("a", "", 80, "192.0.2.1"), with(asking("2001:db8::1"), service("a", "", 80, "2001:db8::1"))),
		Entry("that changed its ports and is alone there", service("a", "", 80, "192.0.2.1"), service("a", "", 81, "192.0.2.1"), service("a", "", 81)),
		Entry("that changed its key before it was there", service("a", "k", 80), service("a", "", 80, "192.0.2.1"),
			ip("192.0.2.1", "k", "a", "b:Q"), service("a", "", 80)),
		Entry("whose neighbour changed its ports", service("a", "k", 80, "192.0.2.1"), service("b", "k", 81, "192.0.2.1"),
			ip("192.0.2.1", "k", "a", "b:Q"), service("b", "k", 82, "192.0.2.1"), service("a", "k", 80)),
	)

	It("measures what takes a moment", func() {
		f := played(
			service("a", "", 80), ip("192.0.2.1", "", "a"), ip("192.0.2.2", "", "a"), ip("192.0.2.2", ""),
			service("a", "", 80, "192.0.2.1"), ip("192.0.2.1", ""), with(clusterIP, service("a", "", 80)), service("b", "", 80),
			ip("192.0.2.3", "", "b"), gone(service("b", "", 80)), service("c", "", 80), ip("192.0.2.3", ""),
		)
		Expect(f.violations).To(BeEmpty())
		Expect(f.twoAddresses).To(Equal(time.Second))
		Expect(f.unbound).To(Equal(time.Second))
		Expect(f.orphaned).To(Equal(2 * time.Second))
	})
})
