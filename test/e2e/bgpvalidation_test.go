// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// As JSON: some of it our own types can't say.
var _ = Describe("At apply time", func() {
	try := func(ctx context.Context, kind, spec string) (*unstructured.Unstructured, error) {
		obj := &unstructured.Unstructured{}
		text := fmt.Sprintf(`{"apiVersion": %q, "kind": %q, "metadata": {"name": "tried"}, "spec": %s}`, v1alpha1.GroupVersion.String(), kind, spec)
		Expect(json.Unmarshal([]byte(text), &obj.Object)).To(Succeed())
		return obj, api.Create(ctx, obj, client.DryRunAll)
	}
	refused := func(kind string) func(context.Context, string, string) {
		return func(ctx context.Context, message, spec string) {
			_, err := try(ctx, kind, spec)
			Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
			Expect(err).To(MatchError(ContainSubstring(message)))
		}
	}
	accepted := func(kind string) func(context.Context, string) {
		return func(ctx context.Context, spec string) {
			_, err := try(ctx, kind, spec)
			Expect(err).NotTo(HaveOccurred())
		}
	}
	// peer is one that is fine, with further fields, of which a later one counts.
	peer := func(fields string) string { return `{"peerAddress": "192.0.2.1", "peerASN": 64513, ` + fields + `}` }

	DescribeTable("a BGPPeer is refused with", refused("BGPPeer"),
		Entry("no router", "give exactly one of peerAddress, interface and autoDiscover", `{"peerASN": 1}`),
		Entry("two routers", "give exactly one of peerAddress, interface and autoDiscover", peer(`"interface": "eth0"`)),
		Entry("three", "give exactly one of peerAddress, interface and autoDiscover", peer(`"interface": "eth0", "autoDiscover": "DefaultGateway"`)),
		Entry("another way of finding it", "spec.autoDiscover: Unsupported value", `{"peerASN": 1, "autoDiscover": "DNS"}`),
		Entry("no AS", "spec.peerASN: Required", `{"peerAddress": "192.0.2.1"}`),
		Entry("the AS 0", "must be a number from 1 to 4294967295", peer(`"peerASN": 0`)),
		Entry("an AS of five bytes", "must be a number from 1 to 4294967295", peer(`"peerASN": 4294967296`)),
		Entry("the AS that stands for others", "except 23456", peer(`"peerASN": 23456`)),
		Entry("an AS in quotes", "must be a number from 1 to 4294967295", peer(`"peerASN": "64513"`)),
		Entry("another word for an AS", "external, or internal", peer(`"peerASN": "any"`)),
		Entry("half an AS", "spec.peerASN", peer(`"peerASN": 1.5`)),
		Entry("a local AS that stands for others", "23456 stands for", peer(`"localASN": 23456`)),
		Entry("a local AS of five bytes", "less than or equal to 4294967295", peer(`"localASN": 4294967296`)),
		Entry("a name", "must be the IPv4 or IPv6 address of a host", peer(`"peerAddress": "router"`)),
		Entry("a multicast address", "must be the IPv4 or IPv6 address of a host", peer(`"peerAddress": "224.0.0.1"`)),
		Entry("no address", "must be the IPv4 or IPv6 address of a host", peer(`"peerAddress": "::"`)),
		Entry("a link-local address", "give interface instead", peer(`"peerAddress": "fe80::1"`)),
		Entry("a zone", "must be the IPv4 or IPv6 address of a host", peer(`"peerAddress": "fe80::1%eth0"`)),
		Entry("an interface that is none", "must be the name of an interface", `{"peerASN": 1, "interface": "eth 0"}`),
		Entry("an interface with too long a name", "spec.interface", `{"peerASN": 1, "interface": "eth0123456789012"}`),
		Entry("a source of the other family", "must be of the same address family", peer(`"sourceAddress": "2001:db8::1"`)),
		Entry("a link-local source", "not a link-local IPv6 one", peer(`"peerAddress": "2001:db8::1", "sourceAddress": "fe80::1"`)),
		Entry("a source for an interface", "leave out sourceAddress", `{"peerASN": 1, "interface": "eth0", "sourceAddress": "192.0.2.1"}`),
		Entry("two interfaces", "leave out bindInterface", `{"peerASN": 1, "interface": "eth0", "bindInterface": "vrf1"}`),
		Entry("a password over an interface", "leave out passwordSecretRef", `{"peerASN": 1, "interface": "eth0", "passwordSecretRef": {"name": "x"}}`),
		Entry("a Secret without a name", "spec.passwordSecretRef.name", peer(`"passwordSecretRef": {"name": ""}`)),
		Entry("hops over an interface", "one hop away", `{"peerASN": 1, "interface": "eth0", "ebgpMultiHop": 2}`),
		Entry("hops to a gateway", "one hop away", `{"peerASN": 1, "autoDiscover": "DefaultGateway", "ebgpMultiHop": 2}`),
		Entry("hops both ways", "contradict each other", peer(`"ebgpMultiHop": 2, "ttlSecurityHops": 2`)),
		Entry("hops in the own AS", "is in the same", peer(`"localASN": 64513, "ebgpMultiHop": 2`)),
		Entry("hops to an internal one", "is in the same", peer(`"peerASN": "internal", "ebgpMultiHop": 2`)),
		Entry("one hop, which is none", "greater than or equal to 2", peer(`"ebgpMultiHop": 1`)),
		Entry("too many hops", "less than or equal to 254", peer(`"ttlSecurityHops": 255`)),
		Entry("a router ID of IPv6", "must have the form of an IPv4 address", peer(`"routerID": "2001:db8::1"`)),
		Entry("the router ID 0.0.0.0", "must have the form of an IPv4 address", peer(`"routerID": "0.0.0.0"`)),
		Entry("a hold time of 1s", "must be whole seconds from 3s", peer(`"holdTime": "1s"`)),
		Entry("a hold time of 2s", "must be whole seconds from 3s", peer(`"holdTime": "2s"`)),
		Entry("a hold time with a fraction", "must be whole seconds from 3s", peer(`"holdTime": "3.5s"`)),
		Entry("too long a hold time", "must be whole seconds from 3s", peer(`"holdTime": "65536s"`)),
		Entry("an empty hold time", "must be whole seconds from 3s", peer(`"holdTime": ""`)),
		Entry("a hold time that is a number", "spec.holdTime", peer(`"holdTime": 90`)),
		Entry("a keepalive of more than a third", "at most a third of holdTime", peer(`"holdTime": "9s", "keepaliveTime": "4s"`)),
		Entry("a keepalive of more than a third of the default", "at most a third of holdTime", peer(`"keepaliveTime": "31s"`)),
		Entry("no hold time", "must be whole seconds from 3s", peer(`"holdTime": "0s"`)),
		Entry("no time to connect", "must be whole seconds from 1s", peer(`"connectTime": "0s"`)),
		Entry("too long a restart", "must be whole seconds from 1s to 4095s", peer(`"gracefulRestart": {"restartTime": "4096s"}`)),
		Entry("long-lived routes and no restart", "longLivedStaleTime needs graceful restart", peer(`"gracefulRestart": {"enabled": false, "longLivedStaleTime": "1h"}`)),
		Entry("another family", "spec.families[0]: Unsupported value", peer(`"families": ["l2vpn"]`)),
		Entry("no family", "at least 1 items", peer(`"families": []`)),
		Entry("a family twice", "Duplicate value", peer(`"families": ["ipv4", "ipv4"]`)),
		Entry("the port 0", "greater than or equal to 1", peer(`"peerPort": 0`)),
	)

	DescribeTable("a BGPPeer is accepted with", accepted("BGPPeer"),
		Entry("the greatest AS", peer(`"peerASN": 4294967295, "localASN": 4294967295`)),
		Entry("an IPv6 address", peer(`"peerAddress": "2001:db8::1", "sourceAddress": "2001:db8::2"`)),
		Entry("a router on the node", peer(`"peerAddress": "127.0.0.1", "peerPort": 1179`)),
		Entry("an IPv4 link-local address, which needs no zone", peer(`"peerAddress": "169.254.1.1"`)),
		Entry("an interface", `{"peerASN": "external", "interface": "eth0.100"}`),
		Entry("the gateway", `{"peerASN": "internal", "autoDiscover": "DefaultGateway", "passwordSecretRef": {"name": "x"}}`),
		Entry("the shortest times", peer(`"holdTime": "3s", "keepaliveTime": "1s", "connectTime": "1s"`)),
		Entry("the longest times", peer(`"holdTime": "65535s", "keepaliveTime": "21845s", "connectTime": "18h", "gracefulRestart": {"restartTime": "4095s", "longLivedStaleTime": "4660h"}`)),
		Entry("as many hops as there may be", peer(`"localASN": 64512, "ebgpMultiHop": 255`)),
		Entry("one family", peer(`"families": ["ipv6"]`)),
	)

	It("a BGPPeer gets what it does not say", func(ctx SpecContext) {
		obj, err := try(ctx, "BGPPeer", `{"peerAddress": "192.0.2.1", "peerASN": 4200000000}`)
		Expect(err).NotTo(HaveOccurred())
		Expect(obj.Object["spec"]).To(Equal(map[string]any{
			"peerAddress": "192.0.2.1", "peerASN": int64(4200000000), "peerPort": int64(179), "holdTime": "90s", "connectTime": "10s",
			"gracefulRestart": map[string]any{"enabled": true, "restartTime": "30s"},
		}))
	})

	DescribeTable("a BGPAdvertisement is refused with", refused("BGPAdvertisement"),
		Entry("a community that is too large", "must be a community such as", `{"communities": ["65536:1"]}`),
		Entry("a large community of two parts", "must be a community such as", `{"communities": ["large:65000:1"]}`),
		Entry("a large community that is too large", "must be a community such as", `{"communities": ["large:4294967296:1:1"]}`),
		Entry("a name that is not known", "must be a community such as", `{"communities": ["no-exports"]}`),
		Entry("a name in capitals", "must be a community such as", `{"communities": ["NO-EXPORT"]}`),
		Entry("a number", "must be a community such as", `{"communities": ["65000"]}`),
		Entry("a community that could be written in another way", "must be a community such as", `{"communities": ["065000:1"]}`),
		Entry("a community twice", "Duplicate value", `{"communities": ["65000:1", "65000:1"]}`),
		Entry("a local preference of five bytes", "less than or equal to 4294967295", `{"localPref": 4294967296}`),
		Entry("a negative MED", "greater than or equal to 0", `{"med": -1}`),
		Entry("too long a path", "less than or equal to 10", `{"asPathPrepend": 11}`),
		Entry("an aggregate of everything", "greater than or equal to 1", `{"aggregationLength": 0}`),
		Entry("an aggregate of less than an address", "less than or equal to 32", `{"aggregationLength": 33}`),
		Entry("one of IPv6", "less than or equal to 128", `{"aggregationLengthV6": 129}`),
		Entry("a peer twice", "Duplicate value", `{"peers": ["tor", "tor"]}`),
	)

	DescribeTable("a BGPAdvertisement is accepted with", accepted("BGPAdvertisement"),
		Entry("nothing", `{}`),
		Entry("every kind of community", `{"communities": ["65000:100", "0:0", "65535:65535", "large:4294967295:0:1", "graceful-shutdown", "accept-own", "no-llgr", "blackhole",
			"no-export", "no-advertise", "no-export-subconfed", "no-peer"]}`),
		Entry("everything", `{"pools": ["lan"], "peers": ["tor"], "localPref": 4294967295, "med": 0, "asPathPrepend": 10, "aggregationLength": 24, "aggregationLengthV6": 64, "requireEndpoints": false}`),
	)

	DescribeTable("a BFDProfile is refused with", refused("BFDProfile"),
		Entry("too short an interval", "must be whole milliseconds from 10ms", `{"receiveInterval": "9ms"}`),
		Entry("microseconds", "must be whole milliseconds from 10ms", `{"transmitInterval": "10500us"}`),
		Entry("too long an interval", "must be whole milliseconds from 10ms", `{"transmitInterval": "61s"}`),
		Entry("no multiplier", "greater than or equal to 1", `{"detectMultiplier": 0}`),
		Entry("a TTL that nothing has left", "less than or equal to 254", `{"minimumTTL": 255}`),
	)

	It("a BFDProfile gets what it does not say", func(ctx SpecContext) {
		obj, err := try(ctx, "BFDProfile", `{}`)
		Expect(err).NotTo(HaveOccurred())
		Expect(obj.Object["spec"]).To(Equal(map[string]any{
			"receiveInterval": "300ms", "transmitInterval": "300ms", "detectMultiplier": int64(3), "minimumTTL": int64(254),
		}))
	})
})
