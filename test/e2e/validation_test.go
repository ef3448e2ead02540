// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// Nothing here is stored but what says so: the API server validates a dry run as it does the real thing.
var _ = Describe("At apply time", func() {
	try := func(ctx context.Context, obj client.Object) error { return api.Create(ctx, obj, client.DryRunAll) }
	// tryText takes what our own types can't say.
	tryText := func(ctx context.Context, text string) error {
		obj := &unstructured.Unstructured{}
		Expect(json.Unmarshal([]byte(strings.Replace(text, "{", `{"apiVersion": "`+v1alpha1.GroupVersion.String()+`", `, 1)), &obj.Object)).To(Succeed())
		return try(ctx, obj)
	}
	pool := func(addresses ...v1alpha1.AddressRange) *v1alpha1.LoadBalancerIPPool {
		return &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: "tried"}, Spec: v1alpha1.LoadBalancerIPPoolSpec{Addresses: addresses}}
	}

	DescribeTable("a pool is refused with", func(ctx SpecContext, message string, p *v1alpha1.LoadBalancerIPPool) {
		err := try(ctx, p)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("a CIDR whose prefix is too long", "must be a CIDR", pool("192.0.2.0/33")),
		Entry("a CIDR that is none", "must be a CIDR", pool("192.0.2/24")),
		Entry("an address that is none", "must be a CIDR", pool("192.0.2.256")),
		Entry("a name", "must be a CIDR", pool("example.com")),
		Entry("spaces around a range's hyphen", "without spaces", pool("192.0.2.1 - 192.0.2.9")),
		Entry("a space at the end", "without spaces", pool("192.0.2.1 ")),
		Entry("a range of three", "must be a CIDR", pool("192.0.2.1-192.0.2.2-192.0.2.3")),
		Entry("host bits in an IPv4 CIDR", "bits set to the right of the prefix", pool("192.0.2.1/24")),
		Entry("host bits in an IPv6 CIDR", "bits set to the right of the prefix", pool("2001:db8::1/64")),
		Entry("a range of two families", "same address family", pool("192.0.2.1-2001:db8::1")),
		Entry("a reversed IPv4 range", "write the lower address first", pool("192.0.2.9-192.0.2.1")),
		Entry("an IPv4 range reversed in its first byte", "write the lower address first", pool("200.0.0.0-100.255.255.255")),
		Entry("the same range twice", "Duplicate value", pool("192.0.2.0/24", "192.0.2.0/24")),
		Entry("no address", "spec.addresses", pool()),
		Entry("too many ranges", "must have at most 128 items", pool(many(129)...)),
		Entry("a wrong exclusion", "must be a CIDR", with(pool("192.0.2.0/24"), func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.Exclude = []v1alpha1.AddressRange{"192.0.2.300"}
		})),
		Entry("a quota of none", "greater than or equal to 1", with(pool("192.0.2.0/24"), func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.MaxPerNamespace = ptr.To[int32](0)
		})),
		Entry("a negative reuseAfter", "must be a duration", with(pool("192.0.2.0/24"), func(p *v1alpha1.LoadBalancerIPPoolSpec) {
			p.ReuseAfter = &metav1.Duration{Duration: -time.Second}
		})),
	)

	// What can't be decoded would be the end of the list for every program that reads it.
	DescribeTable("a pool is refused with a reuseAfter that no program can read:", func(ctx SpecContext, duration string) {
		err := tryText(ctx, `{"kind": "LoadBalancerIPPool", "metadata": {"name": "tried"}, "spec": {"addresses": ["192.0.2.0/24"], "reuseAfter": "`+duration+`"}}`)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring("must be a duration")))
	},
		Entry("more than fits", "9999999h"),
		Entry("more than fits, in parts", "999999h999999h999999h"),
		Entry("nothing", ""),
		Entry("a unit of its own", "10d"),
	)

	DescribeTable("a pool is accepted with", func(ctx SpecContext, p *v1alpha1.LoadBalancerIPPool) {
		Expect(try(ctx, p)).To(Succeed())
	},
		Entry("all of IPv4", pool("0.0.0.0/0")),
		Entry("all of IPv6", pool("::/0")),
		Entry("a range of one", pool("192.0.2.1-192.0.2.1")),
		Entry("the widest range", pool("0.0.0.0-255.255.255.255")),
		Entry("both families, overlapping", pool("192.0.2.0/24", "192.0.2.7", "2001:db8::/64", "2001:db8::1-2001:db8::ffff")),
		Entry("as many ranges as there may be", pool(many(128)...)),
		Entry("a reversed IPv6 range, which a condition tells", pool("2001:db8::9-2001:db8::1")),
	)

	ip := func(name, address string) *v1alpha1.LoadBalancerIP {
		return &v1alpha1.LoadBalancerIP{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.LoadBalancerIPSpec{
			Address: address, ReservedFor: &v1alpha1.Reservation{Namespace: "default"},
		}}
	}
	const v6Name = "2001-0db8-0000-0000-0000-0000-0000-0001"

	DescribeTable("a LoadBalancerIP is refused with", func(ctx SpecContext, message string, ip *v1alpha1.LoadBalancerIP) {
		err := try(ctx, ip)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("the name of another address", "metadata.name must be spec.address", ip("192.0.2.2", "192.0.2.1")),
		Entry("any name", "metadata.name must be spec.address", ip("web", "192.0.2.1")),
		Entry("the name of another IPv6 address", "metadata.name must be spec.address", ip("2001-0db8-0000-0000-0000-0000-0000-0002", "2001:db8::1")),
		Entry("an IPv6 name that is not expanded", "metadata.name must be spec.address", ip("2001-db8--1", "2001:db8::1")),
		Entry("no address", "must be an IP address", ip("web", "web")),
		Entry("an IPv6 address in capitals", "canonical form", ip(v6Name, "2001:DB8::1")),
		Entry("an expanded IPv6 address", "canonical form", ip(v6Name, "2001:db8:0:0:0:0:0:1")),
		Entry("holders of a released address", "is not released", func() *v1alpha1.LoadBalancerIP {
			held := ip("192.0.2.1", "192.0.2.1")
			name := v1alpha1.ServiceName{Namespace: "default", Name: "web"}
			held.Spec.Services = []v1alpha1.ServiceBinding{{ServiceName: name, UID: types.UID("1")}}
			held.Spec.Released = &v1alpha1.Release{Service: name, At: metav1.Now()}
			return held
		}()),
		Entry("two holders and no key", "only with a key", func() *v1alpha1.LoadBalancerIP {
			held := ip("192.0.2.1", "192.0.2.1")
			for _, name := range []string{"one", "two"} {
				held.Spec.Services = append(held.Spec.Services, v1alpha1.ServiceBinding{
					ServiceName: v1alpha1.ServiceName{Namespace: "default", Name: name}, UID: types.UID(name),
				})
			}
			return held
		}()),
		Entry("a holder whose namespace can't be", "spec.services[0].namespace", func() *v1alpha1.LoadBalancerIP {
			held := ip("192.0.2.1", "192.0.2.1")
			held.Spec.Services = []v1alpha1.ServiceBinding{{ServiceName: v1alpha1.ServiceName{Namespace: "a/b", Name: "web"}, UID: "1"}}
			return held
		}()),
	)

	DescribeTable("a LoadBalancerIP is refused with a time that no program can read:", func(ctx SpecContext, at string) {
		err := tryText(ctx, `{"kind": "LoadBalancerIP", "metadata": {"name": "192.0.2.1"}, "spec": {"address": "192.0.2.1",
			"released": {"service": {"namespace": "default", "name": "web"}, "at": "`+at+`"}}}`)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring("spec.released.at")))
	},
		Entry("in small letters", "2026-01-01t00:00:00z"),
		Entry("with a wrong fraction", "2026-01-01T00:00:00x5Z"),
		Entry("with an offset that can't be", "2026-01-01T00:00:00+99:99"),
	)

	It("a LoadBalancerIP for a Service that can't be is refused", func(ctx SpecContext) {
		nobodys := ip("192.0.2.1", "192.0.2.1")
		nobodys.Spec.ReservedFor = &v1alpha1.Reservation{Namespace: "shop/web"}
		err := try(ctx, nobodys)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring("spec.reservedFor.namespace")))
	})

	It("a LoadBalancerIP for nobody is refused", func(ctx SpecContext) {
		nobodys := ip("192.0.2.1", "192.0.2.1")
		nobodys.Spec.ReservedFor = nil
		err := try(ctx, nobodys)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring("add spec.reservedFor")))
	})

	DescribeTable("a LoadBalancerIP is accepted with", func(ctx SpecContext, ip *v1alpha1.LoadBalancerIP) {
		Expect(try(ctx, ip)).To(Succeed())
	},
		Entry("an IPv4 address", ip("192.0.2.1", "192.0.2.1")),
		Entry("an IPv6 address", ip(v6Name, "2001:db8::1")),
		Entry("the IPv6 address of zeros", ip("0000-0000-0000-0000-0000-0000-0000-0000", "::")),
	)

	advertisement := func(spec v1alpha1.L2AdvertisementSpec) *v1alpha1.L2Advertisement {
		return &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "tried"}, Spec: spec}
	}
	on := func(interfaces ...v1alpha1.InterfacePattern) *v1alpha1.L2Advertisement {
		return advertisement(v1alpha1.L2AdvertisementSpec{Interfaces: interfaces})
	}
	preferring := func(weight int32) *v1alpha1.L2Advertisement {
		return advertisement(v1alpha1.L2AdvertisementSpec{NodePreferences: []v1alpha1.NodePreference{{Weight: weight}}})
	}

	DescribeTable("an L2Advertisement is refused with", func(ctx SpecContext, message string, ad *v1alpha1.L2Advertisement) {
		err := try(ctx, ad)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("an interface without a name", "spec.interfaces[0]", on("")),
		Entry("an exclusion of nothing", "must be the name of an interface", on("!")),
		Entry("two exclamation marks", "must be the name of an interface", on("!!eth0")),
		Entry("a set of characters", "must be the name of an interface", on("eth[01]")),
		Entry("a backslash", "must be the name of an interface", on(`eth\0`)),
		Entry("a path", "must be the name of an interface", on("eth/0")),
		Entry("two interfaces in one", "must be the name of an interface", on("eth0, eth1")),
		Entry("the same interface twice", "Duplicate value", on("eth0", "eth0")),
		Entry("the same pool twice", "Duplicate value", advertisement(v1alpha1.L2AdvertisementSpec{Pools: []string{"lan", "lan"}})),
		Entry("a pool without a name", "spec.pools[0]", advertisement(v1alpha1.L2AdvertisementSpec{Pools: []string{""}})),
		Entry("a weight of none", "greater than or equal to 1", preferring(0)),
		Entry("too great a weight", "less than or equal to 100", preferring(101)),
	)

	DescribeTable("an L2Advertisement is accepted with", func(ctx SpecContext, ad *v1alpha1.L2Advertisement) {
		Expect(try(ctx, ad)).To(Succeed())
	},
		Entry("nothing", advertisement(v1alpha1.L2AdvertisementSpec{})),
		Entry("names, patterns and exclusions", on("eth0", "bond?.1*", "!bond9.*", "br-lan", "enp1s0f0np0", "veth_1@x", "!*")),
		Entry("all there is", advertisement(v1alpha1.L2AdvertisementSpec{
			Pools: []string{"lan"}, PoolSelector: &metav1.LabelSelector{}, ServiceSelector: &metav1.LabelSelector{}, NodeSelector: &metav1.LabelSelector{},
			Interfaces:      []v1alpha1.InterfacePattern{"eth0"},
			NodePreferences: []v1alpha1.NodePreference{{Weight: 1}, {Weight: 100, NodeSelector: metav1.LabelSelector{MatchLabels: map[string]string{"zone": "1"}}}},
		})),
	)

	It("an L2Advertisement is accepted without a spec", func(ctx SpecContext) {
		Expect(tryText(ctx, `{"kind": "L2Advertisement", "metadata": {"name": "tried"}}`)).To(Succeed())
	})

	Describe("of an existing LoadBalancerIP", func() {
		s := newScene()

		It("the key of Services that share it can't be changed", func(ctx SpecContext) {
			s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
			s.addService(ctx, "one", sharing("k"), tcp(80))
			s.addService(ctx, "two", sharing("k"), tcp(443))
			s.served(ctx, "one", s.v4(1))
			s.served(ctx, "two", s.v4(1))
			err := api.Patch(ctx, s.ip(ctx, s.v4(1)), client.RawPatch(types.MergePatchType, []byte(`{"spec": {"sharingKey": "other"}}`)))
			Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
			Expect(err).To(MatchError(ContainSubstring("change the annotation")))
		})

		It("the address can't be changed", func(ctx SpecContext) {
			reserved := s.reserve(ctx, s.v4(1), s.namespace, "later")
			reserved.Spec.Address = s.v4(2).String()
			err := api.Update(ctx, reserved)
			Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
			Expect(err).To(MatchError(ContainSubstring("the address can't be changed")))
		})
	})
})

func with(p *v1alpha1.LoadBalancerIPPool, edit func(*v1alpha1.LoadBalancerIPPoolSpec)) *v1alpha1.LoadBalancerIPPool {
	edit(&p.Spec)
	return p
}

func many(n int) []v1alpha1.AddressRange {
	var out []v1alpha1.AddressRange
	for i := range n {
		out = append(out, v1alpha1.AddressRange(fmt.Sprintf("2001:db8:1234:5678:%x::1-2001:db8:1234:5678:%x:ffff:ffff:ffff", i, i)))
	}
	return out
}
