// SPDX-License-Identifier: Apache-2.0

package report

import (
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

// interfaces returns what a Speaker tells of the links: first those with a
// gateway, last those that only advertisements name.
func interfaces(links []link.Link, named []plan.Patterns) []v1alpha1.Interface {
	var leading, connected, others []v1alpha1.Interface
	for _, l := range links {
		if !l.ARP {
			continue
		}
		i := v1alpha1.Interface{Name: l.Name, MAC: l.MAC.String(), Up: l.Up, IPv6: l.NDP}
		for _, p := range l.Prefixes {
			if isLinkLocal(p.Addr()) {
				continue
			}
			if len(i.Addresses) < v1alpha1.MaxInterfaceAddresses {
				i.Addresses = append(i.Addresses, v1alpha1.InterfaceAddress(p.String()))
			}
		}
		for _, gw := range l.Gateways[:min(len(l.Gateways), v1alpha1.MaxInterfaceGateways)] {
			i.Gateways = append(i.Gateways, v1alpha1.Gateway(gw.String()))
		}
		switch {
		case len(l.Gateways) > 0:
			leading = append(leading, i)
		case l.Announces():
			connected = append(connected, i)
		case slices.ContainsFunc(named, func(p plan.Patterns) bool { return p.Names(l.Name) }):
			others = append(others, i)
		}
	}
	out := slices.Concat(leading, connected, others)
	return out[:min(len(out), v1alpha1.MaxSpeakerInterfaces)]
}

// endpoints returns where the node is reached on those of the links that it
// tells of: the first IPv4 address of each and the first link-local IPv6 one,
// which a host has whatever else it has.
func endpoints(links []link.Link, told []v1alpha1.Interface) []v1alpha1.Endpoint {
	var out []v1alpha1.Endpoint
	for _, i := range told {
		at := slices.IndexFunc(links, func(l link.Link) bool { return l.Name == i.Name })
		var have4, have6 bool
		for _, p := range links[at].Prefixes {
			addr := p.Addr()
			switch {
			case addr.Is4() && !have4:
				have4 = true
			case isLinkLocal(addr) && !have6:
				have6 = true
			default:
				continue
			}
			if len(out) < v1alpha1.MaxSpeakerEndpoints {
				out = append(out, v1alpha1.Endpoint{Interface: i.Name, Address: addr.String()})
			}
		}
	}
	return out
}

func isLinkLocal(addr netip.Addr) bool { return addr.Is6() && addr.IsLinkLocalUnicast() }
