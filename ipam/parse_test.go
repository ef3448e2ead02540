// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"go4.org/netipx"
)

// failsWith checks a *ParseError; want is its problem and its text.
func failsWith(t *testing.T, err error, problem Problem, text string) {
	t.Helper()
	var p *ParseError
	if !errors.As(err, &p) {
		t.Fatalf("got error %v, want a ParseError", err)
	}
	if p.Problem != problem || p.Error() != text {
		t.Errorf("got  %s: %s\nwant %s: %s", p.Problem, p, problem, text)
	}
}

func TestParseRange(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.0/24":              "192.0.2.0-192.0.2.255",
		"192.0.2.7/32":              "192.0.2.7-192.0.2.7",
		"192.0.2.7":                 "192.0.2.7-192.0.2.7",
		"192.0.2.7-192.0.2.9":       "192.0.2.7-192.0.2.9",
		" 192.0.2.7 - 192.0.2.7 ":   "192.0.2.7-192.0.2.7",
		"0.0.0.0/0":                 "0.0.0.0-255.255.255.255",
		"::/0":                      "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
		"2001:db8::-2001:db8::ffff": "2001:db8::-2001:db8::ffff",
	} {
		t.Run(in, func(t *testing.T) {
			if got, err := ParseRange(in); err != nil || got != netipx.MustParseIPRange(want) {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
		})
	}
	for _, c := range []struct {
		in      string
		problem Problem
		text    string
	}{
		{"", InvalidSyntax, `"": "" is not an IP address: write one such as 192.0.2.1 or 2001:db8::1`},
		{"10.0.0.300", InvalidSyntax, `"10.0.0.300": "10.0.0.300" is not an IP address: write one such as 192.0.2.1 or 2001:db8::1`},
		{"10.0.0.1-", InvalidSyntax, `"10.0.0.1-": "" is not an IP address: write one such as 192.0.2.1 or 2001:db8::1`},
		{"10.0.0.1-10.0.0.2-10.0.0.3", InvalidSyntax, `"10.0.0.1-10.0.0.2-10.0.0.3": "10.0.0.2-10.0.0.3" is not an IP address: write one such as 192.0.2.1 or 2001:db8::1`},
		{"10.0.0.0/33", InvalidSyntax, `"10.0.0.0/33": "33" is not a prefix length: write a CIDR such as 192.0.2.0/24 or 2001:db8::/64`},
		{"10.0.0.5/24", HostBitsSet, `"10.0.0.5/24": the address has bits right of the prefix: write 10.0.0.0/24 for the whole network, or 10.0.0.5 for the one address`},
		{"2001:db8::1/64", HostBitsSet, `"2001:db8::1/64": the address has bits right of the prefix: write 2001:db8::/64 for the whole network, or 2001:db8::1 for the one address`},
		{"10.0.0.1-::1", MixedFamilies, `"10.0.0.1-::1": the range goes from IPv4 to IPv6: write one range per family`},
		{"10.0.0.9-10.0.0.1", ReversedRange, `"10.0.0.9-10.0.0.1": the range ends before it starts: write 10.0.0.1-10.0.0.9`},
		{"fe80::1%eth0", ZoneNotAllowed, `"fe80::1%eth0": an address of a Service has no zone: write fe80::1`},
		{"fe80::%eth0/64", ZoneNotAllowed, `"fe80::%eth0/64": an address of a Service has no zone: write fe80::`},
		{"::ffff:10.0.0.1", MappedAddress, `"::ffff:10.0.0.1": ::ffff:10.0.0.1 is an IPv4 address written as IPv6: write 10.0.0.1`},
		{"::ffff:10.0.0.0/120", MappedAddress, `"::ffff:10.0.0.0/120": ::ffff:10.0.0.0 is an IPv4 address written as IPv6: write 10.0.0.0`},
	} {
		t.Run("refuses "+c.in, func(t *testing.T) {
			_, err := ParseRange(c.in)
			failsWith(t, err, c.problem, c.text)
		})
	}
}

func TestParseAddresses(t *testing.T) {
	for in, want := range map[string][]netip.Addr{
		"":                         nil,
		"  ":                       nil,
		"192.0.2.1":                {ip("192.0.2.1")},
		" 2001:db8::1 , 192.0.2.1": {ip("2001:db8::1"), ip("192.0.2.1")},
	} {
		t.Run(in, func(t *testing.T) {
			got, err := ParseAddresses(in)
			if err != nil || len(got) != len(want) {
				t.Fatalf("got %v, %v, want %v", got, err, want)
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("got %v, want %v", got, want)
				}
			}
		})
	}
	for _, c := range []struct {
		in      string
		problem Problem
		text    string
	}{
		{"web", InvalidSyntax, `"web": "web" is not an IP address: write one such as 192.0.2.1 or 2001:db8::1`},
		{"192.0.2.1,", InvalidSyntax, `"192.0.2.1,": "" is not an IP address: write one such as 192.0.2.1 or 2001:db8::1`},
		{"192.0.2.1,192.0.2.2", DuplicateFamily, `"192.0.2.1,192.0.2.2": 192.0.2.1 and 192.0.2.2 are both IPv4: a Service has at most one address of a family, so keep one of them`},
		{"192.0.2.1,fe80::1%a", ZoneNotAllowed, `"192.0.2.1,fe80::1%a": an address of a Service has no zone: write fe80::1`},
	} {
		t.Run("refuses "+c.in, func(t *testing.T) {
			_, err := ParseAddresses(c.in)
			failsWith(t, err, c.problem, c.text)
		})
	}
}

func TestObjectName(t *testing.T) {
	for addr, name := range map[string]string{
		"192.0.2.1":   "192.0.2.1",
		"::":          "0000-0000-0000-0000-0000-0000-0000-0000",
		"2001:db8::a": "2001-0db8-0000-0000-0000-0000-0000-000a",
	} {
		if got := ObjectName(ip(addr)); got != name {
			t.Errorf("ObjectName(%s) = %s, want %s", addr, got, name)
		}
		if got, err := ParseObjectName(name); err != nil || got != ip(addr) {
			t.Errorf("ParseObjectName(%s) = %s, %v, want %s", name, got, err, addr)
		}
	}
	rule := "the name of a LoadBalancerIP is its address, such as 192.0.2.1 or 2001-0db8-0000-0000-0000-0000-0000-0001"
	for in, text := range map[string]string{
		"":                `"": ` + rule,
		"web":             `"web": ` + rule,
		"2001-db8--1":     `"2001-db8--1": ` + rule + ": write 2001-0db8-0000-0000-0000-0000-0000-0001",
		"2001:db8::1":     `"2001:db8::1": ` + rule + ": write 2001-0db8-0000-0000-0000-0000-0000-0001",
		"--ffff-10.1.1.1": `"--ffff-10.1.1.1": ` + rule,
		"2001-0DB8-0000-0000-0000-0000-0000-000A": `"2001-0DB8-0000-0000-0000-0000-0000-000A": ` + rule +
			": write 2001-0db8-0000-0000-0000-0000-0000-000a",
	} {
		t.Run("refuses "+in, func(t *testing.T) {
			_, err := ParseObjectName(in)
			failsWith(t, err, InvalidSyntax, text)
		})
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"192.0.2.0/24", "192.0.2.1-192.0.2.9", "::/0", "2001:db8::1", "10.0.0.5/24", "::ffff:1.2.3.4", "fe80::1%a-fe80::2", "-", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			var p *ParseError
			if !errors.As(err, &p) || p.Input != s || p.Problem == "" || p.Message == "" {
				t.Fatalf("%q fails with %#v", s, err)
			}
			return
		}
		if !r.IsValid() || r.From().Zone() != "" || r.From().Is4In6() || r.To().Is4In6() {
			t.Fatalf("%q reads as %s", s, r)
		}
		texts := []string{r.String()}
		if prefix, ok := r.Prefix(); ok {
			texts = append(texts, prefix.String())
		}
		if r.From() == r.To() {
			texts = append(texts, r.From().String())
		}
		for _, text := range texts {
			if again, err := ParseRange(text); err != nil || again != r {
				t.Fatalf("%q reads as %s, which as %q reads as %s, %v", s, r, text, again, err)
			}
		}
	})
}

func FuzzParseAddresses(f *testing.F) {
	for _, s := range []string{"", "192.0.2.1", "192.0.2.1, 2001:db8::1", "1.2.3.4,1.2.3.5", ",", "::ffff:1.2.3.4", "fe80::1%a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		addrs, err := ParseAddresses(s)
		if err != nil {
			var p *ParseError
			if !errors.As(err, &p) || p.Input != s || p.Problem == "" || p.Message == "" {
				t.Fatalf("%q fails with %#v", s, err)
			}
			return
		}
		if len(addrs) > 2 || len(addrs) == 2 && FamilyOf(addrs[0]) == FamilyOf(addrs[1]) {
			t.Fatalf("%q reads as %v", s, addrs)
		}
		var texts []string
		for _, addr := range addrs {
			texts = append(texts, addr.String())
		}
		again, err := ParseAddresses(strings.Join(texts, ","))
		if err != nil || len(again) != len(addrs) {
			t.Fatalf("%q reads as %v, which reads as %v, %v", s, addrs, again, err)
		}
		for i := range addrs {
			if addrs[i] != again[i] {
				t.Fatalf("%q reads as %v, which reads as %v", s, addrs, again)
			}
		}
	})
}

func FuzzParseObjectName(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "2001-0db8-0000-0000-0000-0000-0000-0001", "2001-db8--1", "::1", "--ffff-1.2.3.4", "fe80--1%a"} {
		f.Add(s, []byte(s))
	}
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		if addr, err := ParseObjectName(name); err == nil && ObjectName(addr) != name {
			t.Fatalf("%q reads as %s, whose name is %q", name, addr, ObjectName(addr))
		}
		addr, ok := netip.AddrFromSlice(raw)
		if !ok || addr.Is4In6() {
			return
		}
		if again, err := ParseObjectName(ObjectName(addr)); err != nil || again != addr {
			t.Fatalf("%s has the name %q, which reads as %s, %v", addr, ObjectName(addr), again, err)
		}
	})
}
