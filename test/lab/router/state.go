// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Path is a path in a router's BGP table.
type Path struct {
	Prefix      netip.Prefix
	Neighbor    netip.Addr   // who told it; invalid for the router's own
	NextHops    []netip.Addr // one, or a global and a link-local address
	ASPath      []uint32
	LocalPref   *uint32
	MED         *uint32
	Communities []uint32    // sorted
	Large       [][3]uint32 // sorted
	Best        bool
	Stale       bool // kept for a neighbour that restarts, until it has sent all
}

// Session is what a router tells of a neighbour.
type Session struct {
	Neighbor  netip.Addr // invalid if it is not known yet
	Interface string     // of a neighbour with a link-local address
	ASN       uint32
	State     string    // "Established" and the other states of RFC 4271
	Since     time.Time // when it was established; zero if it is not. FRR's may be off by a second, and by another the next time
	LastError string    // why it ended last, in the program's words
	Restart   RestartState
	IPv4      FamilyState
	IPv6      FamilyState
	BFD       *BFDState // nil if there is none
	Updates   int       // UPDATEs received over all sessions; FRR only
	Lives     int       // how often it has been established; FRR only
}

// RestartState is what a neighbour said of graceful restart when the session began, and whether it is used now.
type RestartState struct {
	Time      time.Duration // the neighbour's restart time
	Restarted bool          // the R bit: the session began after a restart
	Waiting   bool          // the neighbour is gone and its routes are kept; BIRD says so until it has sent all
}

// FamilyState is a session's state for one address family.
type FamilyState struct {
	Prefixes   int  // taken from the neighbour
	Forwarding bool // the F bit: the neighbour went on forwarding while it restarted
	EndOfRIB   bool // the neighbour has sent all; FRR only
}

// BFDState is how the watching of a neighbour goes.
type BFDState struct {
	State     string        // Up, Down, Init or AdminDown
	Since     time.Time     // of the state; FRR tells it of Up only
	Interval  time.Duration // between packets sent
	Detection time.Duration // silence after which the neighbour is down
}

// Established tells whether routes are exchanged.
func (s Session) Established() bool { return s.State == "Established" }

// wellKnown are the communities that programs have names for, without the hyphens and in lower case.
var wellKnown = map[string]uint32{
	"gracefulshutdown": 0xffff0000, "acceptown": 0xffff0001, "llgrstale": 0xffff0006, "nollgr": 0xffff0007, "blackhole": 0xffff029a,
	"noexport": 0xffffff01, "noadvertise": 0xffffff02, "localas": 0xffffff03, "noexportsubconfed": 0xffffff03, "nopeer": 0xffffff04,
}

// parseCommunity reads "64512:7" and names such as "no-export".
func parseCommunity(text string) (uint32, error) {
	if c, ok := wellKnown[strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(text))]; ok {
		return c, nil
	}
	parts, err := parseNumbers(text, ":", 16)
	if err != nil || len(parts) != 2 {
		return 0, fmt.Errorf("router: community %q", text)
	}
	return parts[0]<<16 | parts[1], nil
}

func parseLarge(text string) ([3]uint32, error) {
	parts, err := parseNumbers(text, ":", 32)
	if err != nil || len(parts) != 3 {
		return [3]uint32{}, fmt.Errorf("router: large community %q", text)
	}
	return [3]uint32(parts), nil
}

func parseNumbers(text, separator string, bits int) ([]uint32, error) {
	var numbers []uint32
	for part := range strings.SplitSeq(text, separator) {
		n, err := strconv.ParseUint(strings.TrimSpace(part), 10, bits)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, uint32(n))
	}
	return numbers, nil
}

// setCommunities gives the path its communities, each as "a:b" and "a:b:c".
func (p *Path) setCommunities(standard, large []string) error {
	for _, text := range standard {
		c, err := parseCommunity(text)
		if err != nil {
			return err
		}
		p.Communities = append(p.Communities, c)
	}
	for _, text := range large {
		c, err := parseLarge(text)
		if err != nil {
			return err
		}
		p.Large = append(p.Large, c)
	}
	slices.Sort(p.Communities)
	slices.SortFunc(p.Large, func(a, b [3]uint32) int { return slices.Compare(a[:], b[:]) })
	return nil
}
