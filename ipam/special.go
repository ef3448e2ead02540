// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"

	"go4.org/netipx"
)

// special is what no Service can have, whatever a pool spans. Kubernetes takes hardly any of it for the address of an
// endpoint or for an external IP either.
var special = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "an address of no host"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("255.255.255.255/32"), "the broadcast address"},
	{netip.MustParsePrefix("::/128"), "an address of no host"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
}

// Special says what an address is that no Service can have, and nothing of any other.
func Special(addr netip.Addr) string {
	for _, s := range special {
		if s.prefix.Contains(addr) {
			return s.what
		}
	}
	return ""
}

// SpecialRanges returns the addresses that no Service can have.
func SpecialRanges() []netipx.IPRange {
	ranges := make([]netipx.IPRange, 0, len(special))
	for _, s := range special {
		ranges = append(ranges, netipx.RangeOfPrefix(s.prefix))
	}
	return ranges
}
