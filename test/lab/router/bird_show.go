// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	// The protocol's name and the time are in brackets, with the neighbour if the next hop is another.
	birdRoute = regexp.MustCompile(`^(\S*)\s+(?:unicast|unreachable|blackhole|prohibit) \[\S+ \S+(?: from ([^\]\s]+))?\]( \*)?`)
	birdVia   = regexp.MustCompile(`^via (\S+) on `)
	birdPairs = regexp.MustCompile(`\(([0-9, ]+)\)`)
)

// parseBIRDTable reads "show route all", and leaves out what is not BGP's.
func parseBIRDTable(lines []string) ([]Path, error) {
	var paths []Path
	var prefix netip.Prefix
	var current *Path
	done := func() {
		if current != nil && current.NextHops != nil {
			paths = append(paths, *current)
		}
		current = nil
	}
	for _, line := range lines {
		if m := birdRoute.FindStringSubmatch(line); m != nil {
			done()
			if m[1] != "" {
				var err error
				if prefix, err = netip.ParsePrefix(m[1]); err != nil {
					return nil, fmt.Errorf("router: table: %w", err)
				}
			}
			current = &Path{Prefix: prefix, Best: m[3] != ""}
			if m[2] != "" {
				current.Neighbor = parseBIRDAddr(m[2])
			}
			continue
		}
		if current == nil {
			continue
		}
		if err := current.addBIRD(strings.TrimSpace(line)); err != nil {
			return nil, fmt.Errorf("router: %s: %q: %w", prefix, line, err)
		}
	}
	done()
	return paths, nil
}

// addBIRD adds what one line says of the path.
func (p *Path) addBIRD(line string) error {
	if m := birdVia.FindStringSubmatch(line); m != nil && !p.Neighbor.IsValid() {
		p.Neighbor = parseBIRDAddr(m[1])
		return nil
	}
	attribute, value, _ := strings.Cut(line, ": ")
	var err error
	switch attribute {
	case "BGP.next_hop":
		for _, hop := range strings.Fields(value) {
			p.NextHops = append(p.NextHops, parseBIRDAddr(hop))
		}
	case "BGP.as_path":
		if value != "" {
			p.ASPath, err = parseNumbers(value, " ", 32)
		}
	case "BGP.local_pref":
		p.LocalPref, err = parseBIRDNumber(value)
	case "BGP.med":
		p.MED, err = parseBIRDNumber(value)
	case "BGP.community":
		err = p.setCommunities(birdCommunities(value), nil)
	case "BGP.large_community":
		err = p.setCommunities(nil, birdCommunities(value))
	}
	return err
}

// birdCommunities turns "(1,2) (3,4)" into "1:2" and "3:4".
func birdCommunities(value string) []string {
	var all []string
	for _, m := range birdPairs.FindAllStringSubmatch(value, -1) {
		all = append(all, strings.NewReplacer(",", ":", " ", "").Replace(m[1]))
	}
	return all
}

func parseBIRDNumber(text string) (*uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	v := uint32(n)
	return &v, err
}

// parseBIRDAddr reads an address without its zone. It is invalid for what is no address: BIRD has words for some.
func parseBIRDAddr(text string) netip.Addr {
	a, _ := netip.ParseAddr(text)
	return a.WithZone("")
}

// parseBIRDSessions reads "show protocols all" and "show bfd sessions".
func parseBIRDSessions(protocols, bfd []string) ([]Session, error) {
	watched := parseBIRDWatched(bfd)
	var sessions []Session
	var current *Session
	var since time.Time
	var inNeighbor, inRestart bool // which capabilities the line is of
	var family *FamilyState
	for _, line := range protocols {
		if line == "" {
			continue
		}
		if line[0] != ' ' {
			current, family = nil, nil
			if fields := strings.Fields(line); len(fields) > 4 && fields[1] == "BGP" {
				sessions = append(sessions, Session{})
				current, since = &sessions[len(sessions)-1], parseBIRDTime(fields[4])
			}
			continue
		}
		if current == nil {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "BGP state":
			if current.State = value; current.Established() {
				current.Since = since
			}
		case "Neighbor address":
			address, link, _ := strings.Cut(value, "%")
			current.Neighbor, current.Interface = parseBIRDAddr(address), link
		case "Neighbor AS":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("router: %q: %w", line, err)
			}
			current.ASN = uint32(n)
		case "Last error":
			current.LastError = value
		case "Local capabilities":
			inNeighbor = false
		case "Neighbor capabilities":
			inNeighbor = true
		case "Graceful restart":
			inRestart = true
		case "Long-lived graceful restart":
			inRestart = false // it has lines of the same names
		case "Restart time":
			if n, err := strconv.Atoi(value); err == nil && inNeighbor {
				current.Restart.Time = time.Duration(n) * time.Second
			}
		case "Restart recovery":
			current.Restart.Restarted = inNeighbor
		case "AF preserved":
			if inNeighbor && inRestart {
				current.IPv4.Forwarding, current.IPv6.Forwarding = strings.Contains(value, "ipv4"), strings.Contains(value, "ipv6")
			}
		case "Neighbor graceful restart active":
			current.Restart.Waiting = true
		case "Channel ipv4":
			family = &current.IPv4
		case "Channel ipv6":
			family = &current.IPv6
		case "Routes":
			if count, _, ok := strings.Cut(value, " imported"); ok && family != nil {
				family.Prefixes, _ = strconv.Atoi(count)
			}
		}
	}
	var known []Session
	for _, s := range sessions {
		if !s.Neighbor.IsValid() {
			continue // it waits for whoever comes; who has come has a protocol of its own
		}
		if w, ok := watched[s.Neighbor]; ok {
			s.BFD = &w
		}
		known = append(known, s)
	}
	sortSessions(known)
	return known, nil
}

// parseBIRDWatched reads lines of address, link, state, since, interval and detection time.
func parseBIRDWatched(lines []string) map[netip.Addr]BFDState {
	watched := map[netip.Addr]BFDState{}
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) != 6 || !parseBIRDAddr(fields[0]).IsValid() {
			continue
		}
		watched[parseBIRDAddr(fields[0])] = BFDState{
			State: fields[2], Since: parseBIRDTime(fields[3]), Interval: parseBIRDSeconds(fields[4]), Detection: parseBIRDSeconds(fields[5]),
		}
	}
	return watched
}

func parseBIRDSeconds(text string) time.Duration {
	f, _ := strconv.ParseFloat(text, 64)
	return time.Duration(f * float64(time.Second)).Round(time.Millisecond)
}

// parseBIRDTime reads the format that birdText sets: seconds of the epoch with milliseconds.
func parseBIRDTime(text string) time.Time {
	seconds, millis, _ := strings.Cut(text, ".")
	s, _ := strconv.ParseInt(seconds, 10, 64)
	ms, _ := strconv.ParseInt(millis, 10, 64)
	return time.Unix(s, ms*int64(time.Millisecond))
}
