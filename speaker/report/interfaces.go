// SPDX-License-Identifier: Apache-2.0

package report

import (
	"slices"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

// interfaces returns what a Speaker tells of the links, those with a gateway
// first.
//
// A link that does no ARP announces nothing. kube-proxy's dummy in IPVS mode is
// one, with the address of every Service on it. A link that has only addresses
// that are a network of their own, and leads to no gateway, can announce
// nothing either: some pod networks have such an interface for each Pod.
func interfaces(links []link.Link) []v1alpha1.Interface {
	var out []v1alpha1.Interface
	for _, l := range links {
		listed := l.ARP && len(l.Gateways) > 0
		i := v1alpha1.Interface{Name: l.Name, MAC: l.MAC.String(), Up: l.Up}
		for _, p := range l.Prefixes {
			if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				continue
			}
			listed = listed || l.ARP && !p.IsSingleIP()
			if len(i.Addresses) < v1alpha1.MaxInterfaceAddresses {
				i.Addresses = append(i.Addresses, v1alpha1.InterfaceAddress(p.String()))
			}
		}
		for _, gw := range l.Gateways[:min(len(l.Gateways), v1alpha1.MaxInterfaceGateways)] {
			i.Gateways = append(i.Gateways, v1alpha1.Gateway(gw.String()))
		}
		if listed {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(a, b v1alpha1.Interface) int {
		return min(len(b.Gateways), 1) - min(len(a.Gateways), 1)
	})
	return out[:min(len(out), v1alpha1.MaxSpeakerInterfaces)]
}

// flipped tells whether an interface is up that was down, or the reverse.
func flipped(before, after []v1alpha1.Interface) bool {
	return slices.ContainsFunc(after, func(a v1alpha1.Interface) bool {
		return slices.ContainsFunc(before, func(b v1alpha1.Interface) bool { return a.Name == b.Name && a.Up != b.Up })
	})
}
