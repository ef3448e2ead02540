// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// section is lines of an FRR configuration that share a context, such as "router bgp 1", "address-family ipv4 unicast".
type section struct {
	context []string
	lines   []string
}

func (s *section) add(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// frrSections are the configuration in an order in which its lines can be entered one after the other.
func frrSections(c Config) []section {
	var profiles []section
	bgp := section{context: []string{fmt.Sprintf("router bgp %d", c.ASN)}}
	families := []section{
		{context: append(slices.Clone(bgp.context), "address-family ipv4 unicast")},
		{context: append(slices.Clone(bgp.context), "address-family ipv6 unicast")},
	}
	bgp.add("bgp router-id %s", c.ID)
	bgp.add("no bgp ebgp-requires-policy")
	bgp.add("no bgp default ipv4-unicast")
	bgp.add("no bgp network import-check")
	bgp.add("bgp bestpath as-path multipath-relax")
	switch c.Restart {
	case Restarter:
		bgp.add("bgp graceful-restart")
		bgp.add("bgp graceful-restart preserve-fw-state")
	case NoRestart:
		bgp.add("bgp graceful-restart-disable")
	}
	if c.RestartTime > 0 {
		bgp.add("bgp graceful-restart restart-time %d", c.RestartTime/time.Second)
	}
	for i := range families {
		families[i].add("maximum-paths 64")
		families[i].add("maximum-paths ibgp 64")
		for _, p := range networksOf(c, i == 1) {
			families[i].add("network %s", p)
		}
	}
	for _, n := range c.Neighbors {
		id := frrNeighbor(&bgp, n)
		if n.BFD != nil {
			profile := frrProfile(*n.BFD)
			profiles = append(profiles, profile)
			// Only both lines can be taken back one by one.
			bgp.add("neighbor %s bfd", id)
			bgp.add("neighbor %s bfd %s", id, profile.context[1])
		}
		for _, line := range n.Extra {
			bgp.add("neighbor %s %s", id, line)
		}
		v4, v6 := n.families()
		for i, exchanged := range []bool{v4, v6} {
			if !exchanged {
				continue
			}
			families[i].add("neighbor %s activate", id)
			for _, line := range n.FamilyExtra {
				families[i].add("neighbor %s %s", id, line)
			}
		}
	}
	return slices.Concat(profiles, []section{bgp}, families)
}

// frrNeighbor adds what BGP itself needs to know of a neighbour, and returns the name that it has in the
// configuration.
func frrNeighbor(bgp *section, n Neighbor) string {
	asn := "external"
	if n.ASN != 0 {
		asn = fmt.Sprint(n.ASN)
	}
	var id string
	switch {
	case n.Interface != "":
		id = n.Interface
		bgp.add("neighbor %s interface remote-as %s", id, asn)
	case n.Range.IsValid():
		id = n.name()
		bgp.add("neighbor %s peer-group", id)
		bgp.add("neighbor %s remote-as %s", id, asn)
		bgp.add("bgp listen range %s peer-group %s", n.Range, id)
	default:
		id = n.Address.WithZone("").String()
		bgp.add("neighbor %s remote-as %s", id, asn)
		if n.Address.Zone() != "" {
			bgp.add("neighbor %s interface %s", id, n.Address.Zone())
		}
	}
	bgp.add("neighbor %s timers connect 1", id)
	if n.HoldTime > 0 {
		bgp.add("neighbor %s timers %d %d", id, n.keepalive(), n.HoldTime/time.Second)
	}
	if n.Source.IsValid() {
		bgp.add("neighbor %s update-source %s", id, n.Source)
	}
	if n.Port != 0 {
		bgp.add("neighbor %s port %d", id, n.Port)
	}
	if n.Passive {
		bgp.add("neighbor %s passive", id)
	}
	if n.Password != "" {
		bgp.add("neighbor %s password %s", id, n.Password)
	}
	if n.TTLSecurity {
		bgp.add("neighbor %s ttl-security hops %d", id, max(1, n.MultiHop))
	} else if n.MultiHop > 0 {
		bgp.add("neighbor %s ebgp-multihop %d", id, n.MultiHop)
	}
	if n.ExtendedNextHop {
		bgp.add("neighbor %s capability extended-nexthop", id)
	}
	return id
}

// frrProfile is named after what is in it, so that a profile never changes.
func frrProfile(b BFD) section {
	ms := b.interval().Milliseconds()
	name := fmt.Sprintf("profile every%d-x%d", ms, b.multiplier())
	if b.Passive {
		name += "-passive"
	}
	s := section{context: []string{"bfd", name}}
	s.add("receive-interval %d", ms)
	s.add("transmit-interval %d", ms)
	s.add("detect-multiplier %d", b.multiplier())
	if b.Passive {
		s.add("passive-mode")
	}
	return s
}

// frrText is what vtysh reads from a file.
func frrText(sections []section) string {
	var b strings.Builder
	for _, s := range sections {
		if len(s.lines) == 0 {
			continue
		}
		for _, line := range slices.Concat(s.context, s.lines) {
			b.WriteString(line + "\n")
		}
		for i := range s.context {
			if context := s.context[len(s.context)-1-i]; strings.HasPrefix(context, "address-family") {
				b.WriteString("exit-address-family\n")
			} else {
				b.WriteString("exit\n")
			}
		}
	}
	return b.String()
}

// frrChange leads from one configuration to another and touches nothing that both have: what is entered last goes first,
// because a neighbour's first line takes the others with it. Profiles stay; nobody minds one that is not used.
func frrChange(from, to []section) string {
	var edits []section
	for _, old := range slices.Backward(from) {
		if old.context[0] == "bfd" {
			continue
		}
		if !slices.ContainsFunc(to, func(s section) bool { return s.context[0] == old.context[0] }) {
			return "no " + old.context[0] + "\n" + frrText(to) // another ASN
		}
		gone := section{context: old.context}
		for _, line := range slices.Backward(minus(old, to)) {
			if !replaced(line, to) {
				gone.lines = append(gone.lines, negate(line))
			}
		}
		edits = append(edits, gone)
	}
	for _, s := range to {
		edits = append(edits, section{context: s.context, lines: minus(s, from)})
	}
	return frrText(edits)
}

// replaced tells of a neighbour's AS whether another one follows. To negate it would take the neighbour's other lines away,
// too.
func replaced(line string, to []section) bool {
	id, _, ok := strings.Cut(line, " remote-as ")
	return ok && slices.ContainsFunc(to, func(s section) bool {
		return slices.ContainsFunc(s.lines, func(l string) bool { return strings.HasPrefix(l, id+" remote-as ") })
	})
}

// minus are the lines of a section that the section of the same context among the others lacks.
func minus(s section, others []section) []string {
	i := slices.IndexFunc(others, func(o section) bool { return slices.Equal(o.context, s.context) })
	if i < 0 {
		return s.lines
	}
	return slices.DeleteFunc(slices.Clone(s.lines), func(line string) bool { return slices.Contains(others[i].lines, line) })
}

func negate(line string) string {
	if positive, ok := strings.CutPrefix(line, "no "); ok {
		return positive
	}
	return "no " + line
}
