// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

const mac = "02:00:00:00:00:01"

func ether(name string, edits ...func(*link.Link)) link.Link {
	l := link.Link{Name: name, MAC: link.MAC{2, 0, 0, 0, 0, 1}, Up: true, ARP: true}
	for _, edit := range edits {
		edit(&l)
	}
	return l
}

func has(prefixes ...string) func(*link.Link) {
	return func(l *link.Link) {
		for _, p := range prefixes {
			l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p))
		}
	}
}

func leadsTo(gateways ...string) func(*link.Link) {
	return func(l *link.Link) {
		for _, gw := range gateways {
			l.Gateways = append(l.Gateways, netip.MustParseAddr(gw))
		}
	}
}

func noARP(l *link.Link) { l.ARP = false }
func down(l *link.Link)  { l.Up = false }
func ndp(l *link.Link)   { l.NDP = true }

func TestInterfaces(t *testing.T) {
	for name, tt := range map[string]struct {
		links []link.Link
		named []plan.Patterns
		want  []v1alpha1.Interface
	}{
		"an interface on networks of both families": {
			links: []link.Link{ether("eth0", has("192.0.2.10/24", "2001:db8::a/64", "fe80::1/64"), leadsTo("192.0.2.1", "fe80::2"))},
			want: []v1alpha1.Interface{{Name: "eth0", MAC: mac, Up: true,
				Addresses: []v1alpha1.InterfaceAddress{"192.0.2.10/24", "2001:db8::a/64"}, Gateways: []v1alpha1.Gateway{"192.0.2.1", "fe80::2"}}},
		},
		"one that leads to a gateway comes first": {
			links: []link.Link{ether("a", has("192.0.2.10/24")), ether("b", has("198.51.100.1/24")), ether("c", has("203.0.113.1/24"), leadsTo("203.0.113.2"))},
			want: []v1alpha1.Interface{
				{Name: "c", MAC: mac, Up: true, Addresses: []v1alpha1.InterfaceAddress{"203.0.113.1/24"}, Gateways: []v1alpha1.Gateway{"203.0.113.2"}},
				{Name: "a", MAC: mac, Up: true, Addresses: []v1alpha1.InterfaceAddress{"192.0.2.10/24"}},
				{Name: "b", MAC: mac, Up: true, Addresses: []v1alpha1.InterfaceAddress{"198.51.100.1/24"}},
			},
		},
		"one that is down stays": {
			links: []link.Link{ether("eth0", has("192.0.2.10/24"), down)},
			want:  []v1alpha1.Interface{{Name: "eth0", MAC: mac, Addresses: []v1alpha1.InterfaceAddress{"192.0.2.10/24"}}},
		},
		"one with a single address and a gateway, as in some clouds": {
			links: []link.Link{ether("eth0", has("192.0.2.10/32"), leadsTo("172.31.1.1"))},
			want: []v1alpha1.Interface{{Name: "eth0", MAC: mac, Up: true,
				Addresses: []v1alpha1.InterfaceAddress{"192.0.2.10/32"}, Gateways: []v1alpha1.Gateway{"172.31.1.1"}}},
		},
		"a second address on a network of its own is told, too": {
			links: []link.Link{ether("eth0", has("192.0.2.10/24", "192.0.2.100/32"))},
			want:  []v1alpha1.Interface{{Name: "eth0", MAC: mac, Up: true, Addresses: []v1alpha1.InterfaceAddress{"192.0.2.10/24", "192.0.2.100/32"}}},
		},
		"those of Pods are left out": {links: []link.Link{ether("veth1"), ether("veth2", has("fe80::1/64")), ether("veth3", has("10.244.0.1/32"))}},
		"those without ARP are left out": {
			links: []link.Link{ether("kube-ipvs0", has("10.96.0.1/32", "192.0.2.77/32"), noARP), ether("tun0", has("10.8.0.1/24"), leadsTo("10.8.0.2"), noARP)},
		},
		"an advertisement names what is on no network, and it comes last": {
			links: []link.Link{ether("veth1", has("10.244.0.1/32")), ether("bond1.7"), ether("bond1.8"), ether("eth0", has("192.0.2.10/24"), ndp)},
			named: []plan.Patterns{{"!eth0", "veth*"}, {"bond1.7", "bond1.8", "!*.8"}},
			want: []v1alpha1.Interface{
				{Name: "eth0", MAC: mac, Up: true, IPv6: true, Addresses: []v1alpha1.InterfaceAddress{"192.0.2.10/24"}},
				{Name: "bond1.7", MAC: mac, Up: true},
			},
		},
		"an advertisement can't make one do ARP": {links: []link.Link{ether("tun0", noARP)}, named: []plan.Patterns{{"tun0"}}},
		"there is none":                          {},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, interfaces(tt.links, tt.named)); diff != "" {
				t.Errorf("interfaces (-want +got):\n%s", diff)
			}
		})
	}
}

// The API server refuses more than a list may have, and then it has nothing.
func TestInterfacesFitIntoTheirLists(t *testing.T) {
	var links []link.Link
	for i := range v1alpha1.MaxSpeakerInterfaces + 1 {
		l := ether(fmt.Sprint("eth", i))
		for j := range v1alpha1.MaxInterfaceAddresses + 1 {
			l.Prefixes = append(l.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(j), 1}), 24))
		}
		for j := range v1alpha1.MaxInterfaceGateways + 1 {
			l.Gateways = append(l.Gateways, netip.AddrFrom4([4]byte{10, byte(i), 0, byte(j)}))
		}
		links = append(links, l)
	}
	got := interfaces(links, nil)
	if len(got) != v1alpha1.MaxSpeakerInterfaces || len(got[0].Addresses) != v1alpha1.MaxInterfaceAddresses || len(got[0].Gateways) != v1alpha1.MaxInterfaceGateways {
		t.Errorf("%d interfaces, %d addresses, %d gateways", len(got), len(got[0].Addresses), len(got[0].Gateways))
	}
}

func TestEndpoints(t *testing.T) {
	links := []link.Link{
		ether("eth0", has("192.0.2.10/24", "192.0.2.11/24", "2001:db8::a/64", "fe80::1/64", "fe80::2/64"), leadsTo("192.0.2.1")),
		ether("eth1", has("2001:db8:1::a/64")),
		ether("eth2", has("198.51.100.10/24"), down),
		ether("veth1", has("10.244.0.1/32", "fe80::3/64")),
	}
	want := []v1alpha1.Endpoint{{Interface: "eth0", Address: "192.0.2.10"}, {Interface: "eth0", Address: "fe80::1"}, {Interface: "eth2", Address: "198.51.100.10"}}
	if diff := cmp.Diff(want, endpoints(links, interfaces(links, nil))); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}
