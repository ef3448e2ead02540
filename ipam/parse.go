// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"
)

// Problem says in one CamelCase word what is wrong with an address or range. It serves as the reason of a condition.
type Problem string

// The problems of a text that should be an address, a range, or a list of addresses.
const (
	InvalidSyntax   Problem = "InvalidSyntax"   // it does not read as what it should be
	HostBitsSet     Problem = "HostBitsSet"     // a CIDR with bits right of its prefix
	MixedFamilies   Problem = "MixedFamilies"   // the ends of a range are of different families
	ReversedRange   Problem = "ReversedRange"   // the end of a range comes before its start
	ZoneNotAllowed  Problem = "ZoneNotAllowed"  // an IPv6 zone, which means something on one node only
	MappedAddress   Problem = "MappedAddress"   // an IPv4 address in IPv6 clothing
	DuplicateFamily Problem = "DuplicateFamily" // a list with two addresses of a family
)

// ParseError is the error of the Parse functions.
type ParseError struct {
	Input   string
	Problem Problem
	Message string // one sentence, without the input: what is wrong and how to write it
}

func (e *ParseError) Error() string { return fmt.Sprintf("%q: %s", e.Input, e.Message) }

// ParseRange reads a CIDR, two addresses joined by a hyphen (both inclusive), or a single address. Spaces around a part
// are ignored. Its error is a *[ParseError].
func ParseRange(s string) (netipx.IPRange, error) {
	fail := func(p Problem, format string, args ...any) (netipx.IPRange, error) {
		return netipx.IPRange{}, &ParseError{Input: s, Problem: p, Message: fmt.Sprintf(format, args...)}
	}
	text := strings.TrimSpace(s)
	if addr, bits, ok := strings.Cut(text, "/"); ok {
		if _, e := parseAddr(addr); e != nil {
			return fail(e.Problem, "%s", e.Message)
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return fail(InvalidSyntax, "%q is not a prefix length: write a CIDR such as 192.0.2.0/24 or 2001:db8::/64", bits)
		}
		if prefix != prefix.Masked() {
			return fail(HostBitsSet, "the address has bits right of the prefix: write %s for the whole network, or %s for the one address",
				prefix.Masked(), prefix.Addr())
		}
		return netipx.RangeOfPrefix(prefix), nil
	}
	first, last, isRange := strings.Cut(text, "-")
	from, e := parseAddr(strings.TrimSpace(first))
	if e != nil {
		return fail(e.Problem, "%s", e.Message)
	}
	if !isRange {
		return netipx.IPRangeFrom(from, from), nil
	}
	to, e := parseAddr(strings.TrimSpace(last))
	if e != nil {
		return fail(e.Problem, "%s", e.Message)
	}
	switch {
	case FamilyOf(from) != FamilyOf(to):
		return fail(MixedFamilies, "the range goes from %s to %s: write one range per family", FamilyOf(from), FamilyOf(to))
	case to.Less(from):
		return fail(ReversedRange, "the range ends before it starts: write %s-%s", to, from)
	}
	return netipx.IPRangeFrom(from, to), nil
}

// ParseAddresses reads a comma list of addresses, at most one per family, as the annotation fairlead.dev/addresses has
// it. Spaces around an address are ignored, and a blank text is no addresses. Its error is a *[ParseError].
func ParseAddresses(s string) ([]netip.Addr, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var addrs []netip.Addr
	for part := range strings.SplitSeq(s, ",") {
		addr, e := parseAddr(strings.TrimSpace(part))
		if e != nil {
			e.Input = s
			return nil, e
		}
		for _, other := range addrs {
			if FamilyOf(other) == FamilyOf(addr) {
				return nil, &ParseError{Input: s, Problem: DuplicateFamily, Message: fmt.Sprintf(
					"%s and %s are both %s: a Service has at most one address of a family, so keep one of them",
					other, addr, FamilyOf(addr))}
			}
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// parseAddr reads an address that may be the address of a Service.
func parseAddr(s string) (netip.Addr, *ParseError) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return addr, &ParseError{Input: s, Problem: InvalidSyntax,
			Message: fmt.Sprintf("%q is not an IP address: write one such as 192.0.2.1 or 2001:db8::1", s)}
	case addr.Zone() != "":
		return addr, &ParseError{Input: s, Problem: ZoneNotAllowed,
			Message: fmt.Sprintf("an address of a Service has no zone: write %s", addr.WithZone(""))}
	case addr.Is4In6():
		return addr, &ParseError{Input: s, Problem: MappedAddress,
			Message: fmt.Sprintf("%s is an IPv4 address written as IPv6: write %s", addr, addr.Unmap())}
	}
	return addr, nil
}

// ObjectName returns the name of the LoadBalancerIP object of addr: the text of an IPv4 address, and for IPv6 all eight
// groups of four hexadecimal digits, joined by hyphens.
func ObjectName(addr netip.Addr) string {
	return strings.ReplaceAll(addr.WithZone("").StringExpanded(), ":", "-")
}

// ParseObjectName is the inverse of ObjectName and accepts nothing else. Its error is a *[ParseError].
func ParseObjectName(name string) (netip.Addr, error) {
	addr, e := parseAddr(strings.ReplaceAll(name, "-", ":"))
	if e == nil && ObjectName(addr) == name {
		return addr, nil
	}
	e = &ParseError{Input: name, Problem: InvalidSyntax, Message: "the name of a LoadBalancerIP is its address, " +
		"such as 192.0.2.1 or 2001-0db8-0000-0000-0000-0000-0000-0001"}
	if addr.IsValid() && !addr.Is4In6() && addr.Zone() == "" {
		e.Message += ": write " + ObjectName(addr)
	}
	return netip.Addr{}, e
}
