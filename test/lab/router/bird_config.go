// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// birdHead is what the lab itself relies on.
const birdHead = "log stderr { info, remote, warning, error, auth, fatal, bug };\ntimeformat protocol \"%s.%3f\";\n"

// birdText is the whole configuration. Routes that the kernel has from others are learned, for next hops to be resolved by.
func birdText(c Config) string {
	if c.Text != "" {
		return birdHead + c.Text
	}
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	b.WriteString(birdHead)
	add("router id %s;", c.ID)
	b.WriteString(c.Extra + "\n") // a filter has to be there before it is named
	add("protocol device {}")
	add("protocol direct { ipv4; ipv6; }")
	add("protocol bfd {}")
	restarter := ""
	if c.Restart == Restarter {
		restarter = " persist; graceful restart;"
	}
	for i, family := range []string{"ipv4", "ipv6"} {
		add("protocol kernel { merge paths on limit 64; learn;%s %s { import all; export where source = RTS_BGP; }; }", restarter, family)
		if networks := networksOf(c, i == 1); len(networks) > 0 {
			add("protocol static networks%d {", i)
			add("\t%s;", family)
			for _, p := range networks {
				add("\troute %s unreachable;", p)
			}
			add("}")
		}
	}
	links := birdLinks(c)
	if len(links) > 0 {
		// Neighbours without addresses find the router by its advertisements.
		add("protocol radv {")
		for _, link := range links {
			add("\tinterface %q { min ra interval 3; max ra interval 4; default lifetime 0; };", link)
		}
		add("}")
	}
	for _, n := range c.Neighbors {
		birdNeighbor(add, c, n)
	}
	return b.String()
}

// birdOwn adds the router's own networks to a filter, whatever knows the best way there.
func birdOwn(networks []netip.Prefix) string {
	if len(networks) == 0 {
		return ""
	}
	var list []string
	for _, p := range networks {
		list = append(list, p.String())
	}
	return " || net ~ [ " + strings.Join(list, ", ") + " ]"
}

// birdLinks are the links of neighbours without addresses.
func birdLinks(c Config) []string {
	var links []string
	for _, n := range c.Neighbors {
		if n.Interface != "" && !slices.Contains(links, n.Interface) {
			links = append(links, n.Interface)
		}
	}
	return links
}

func birdNeighbor(add func(string, ...any), c Config, n Neighbor) {
	add("protocol bgp %s {", n.name())
	add("\tlocal as %d;", c.ASN)
	asn, port, link := "external", "", n.Address.Zone()
	if n.ASN != 0 {
		asn = fmt.Sprintf("as %d", n.ASN)
	}
	if n.Port != 0 {
		port = fmt.Sprintf("port %d ", n.Port)
	}
	switch {
	case n.Interface != "":
		link = n.Interface
		add("\tneighbor range fe80::/10 %s%s;", port, asn)
	case n.Range.IsValid():
		add("\tneighbor range %s %s%s;", n.Range, port, asn)
	default:
		add("\tneighbor %s %s%s;", n.Address.WithZone(""), port, asn)
	}
	if !n.Address.IsValid() {
		add("\tdynamic name \"%s_\";", n.name())
	}
	if link != "" {
		add("\tinterface %q;", link)
	}
	add("\tconnect delay time 1;")
	add("\tconnect retry time 1;")
	add("\terror wait time 1, 1;")
	if n.HoldTime > 0 {
		add("\thold time %d;", n.HoldTime/time.Second)
		add("\tkeepalive time %d;", n.keepalive())
	}
	if n.Source.IsValid() {
		add("\tsource address %s;", n.Source)
	}
	if n.Passive {
		add("\tpassive on;")
	}
	if n.Password != "" {
		add("\tpassword %q;", n.Password)
	}
	if n.MultiHop > 0 {
		add("\tmultihop %d;", n.MultiHop)
	}
	if n.TTLSecurity {
		add("\tttl security on;")
	}
	switch c.Restart {
	case Helper:
		add("\tgraceful restart aware;")
	case Restarter:
		add("\tgraceful restart on;")
	case NoRestart:
		add("\tgraceful restart off;")
	}
	if c.RestartTime > 0 {
		add("\tgraceful restart time %d;", c.RestartTime/time.Second)
	}
	if n.BFD != nil {
		passive := ""
		if n.BFD.Passive {
			passive = " passive on;"
		}
		ms := n.BFD.interval().Milliseconds()
		add("\tbfd { min rx interval %[1]d ms; min tx interval %[1]d ms; idle tx interval %[1]d ms; multiplier %[2]d;%[3]s };", ms, n.BFD.multiplier(), passive)
	}
	for _, line := range n.Extra {
		add("\t%s", line)
	}
	v4, v6 := n.families()
	for i, exchanged := range []bool{v4, v6} {
		if !exchanged {
			continue
		}
		add("\t%s {", []string{"ipv4", "ipv6"}[i])
		add("\t\timport all;")
		add("\t\texport where source = RTS_BGP%s;", birdOwn(networksOf(c, i == 1)))
		if i == 0 && (n.ExtendedNextHop || n.Interface != "") {
			add("\t\textended next hop on;")
		}
		for _, line := range n.FamilyExtra {
			add("\t\t%s", line)
		}
		add("\t};")
	}
	add("}")
}
