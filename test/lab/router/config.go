// SPDX-License-Identifier: Apache-2.0

// Package router runs FRR or BIRD as processes of a network namespace, and reads what they and their kernel know.
package router

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Kind says whose programs a router runs.
type Kind string

// The kinds of routers: bgpd, bfdd and zebra of FRR, or bird.
const (
	FRR  Kind = "FRR"
	BIRD Kind = "BIRD"
)

// Restart says what a router does about graceful restart (RFC 4724).
type Restart string

// Helper keeps the routes of a neighbour that restarts, as routers do by themselves. Restarter also keeps forwarding over a
// restart of its own and tells its neighbours so. NoRestart knows nothing of it.
const (
	Helper    Restart = ""
	Restarter Restart = "restarter"
	NoRestart Restart = "none"
)

// Config is what a router is to do. It announces Networks and what it hears from others, takes all that it is told, and
// uses every path that is as good as the best.
type Config struct {
	ASN       uint32
	ID        netip.Addr // the router ID, an IPv4 address
	Neighbors []Neighbor
	Networks  []netip.Prefix // reachable or not
	Restart   Restart
	// RestartTime is the time that neighbours are told for graceful restart, whole seconds; 0 is the program's own.
	RestartTime time.Duration
	// Extra is more configuration in the program's own language: filters, route maps. What Configure takes out of it stays in
	// an FRR router until that starts anew.
	Extra string
	// Text is the whole configuration in the program's own language, in place of all of the above. Configure can't change it.
	Text string
}

// Neighbor is whom a router talks BGP with. One of Address, Range and Interface says who that is.
type Neighbor struct {
	Address netip.Addr   // with a zone if it is link-local
	Range   netip.Prefix // whoever connects from there; FRR 8.4 doesn't take another password for it while it runs
	// Interface is whoever is at the other end of this link, by link-local addresses. FRR goes and finds it by its router
	// advertisements; BIRD sends such and waits.
	Interface string

	ASN        uint32 // 0 is any but the router's own
	IPv4, IPv6 bool   // what is exchanged; if neither, the address's own family, and both over an Interface

	Source   netip.Addr
	Port     uint16 // 0 is 179
	Passive  bool   // wait for the neighbour to connect
	Password string // TCP-MD5
	MultiHop uint8  // how many hops away an external neighbour may be; 0 is on the link
	// TTLSecurity takes only what came no further than MultiHop hops (RFC 5082). FRR 8.4 then watches the neighbour by
	// multihop BFD, even on the link.
	TTLSecurity bool
	HoldTime    time.Duration
	// ExtendedNextHop is IPv4 by IPv6 next hops (RFC 8950); an Interface has it anyway.
	ExtendedNextHop bool
	BFD             *BFD
	// Extra are lines about this neighbour in the program's own language: for FRR what follows "neighbor X" of the router,
	// for BIRD what is in the protocol's braces. FamilyExtra are those of each address family, or channel.
	Extra, FamilyExtra []string
}

// BFD is how a neighbour is watched.
type BFD struct {
	Interval   time.Duration // both ways, whole milliseconds; 0 is 300 ms
	Multiplier uint8         // 0 is 3
	Passive    bool          // wait for the neighbour's first packet
}

func (b BFD) interval() time.Duration {
	if b.Interval == 0 {
		return 300 * time.Millisecond
	}
	return b.Interval
}

func (b BFD) multiplier() uint8 {
	if b.Multiplier == 0 {
		return 3
	}
	return b.Multiplier
}

// families says what is exchanged with the neighbour.
func (n Neighbor) families() (v4, v6 bool) {
	switch {
	case n.IPv4 || n.IPv6:
		return n.IPv4, n.IPv6
	case n.Interface != "":
		return true, true
	case n.Range.IsValid():
		return n.Range.Addr().Is4(), n.Range.Addr().Is6()
	default:
		return n.Address.Is4(), n.Address.Is6()
	}
}

// name is the neighbour's in a configuration. It says nothing but who that is, so it stays when others come and go.
func (n Neighbor) name() string {
	who := n.Interface
	switch {
	case n.Range.IsValid():
		who = n.Range.String()
	case n.Address.IsValid():
		who = n.Address.String()
	}
	return "peer_" + strings.NewReplacer(".", "_", ":", "_", "/", "_", "%", "_", "-", "_").Replace(who)
}

// keepalive is a third of the hold time, in whole seconds.
func (n Neighbor) keepalive() int { return max(1, int(n.HoldTime/time.Second)/3) }

func (c Config) check() error {
	if c.Text != "" {
		return nil
	}
	if c.ASN == 0 || !c.ID.Is4() {
		return fmt.Errorf("router: ASN %d and ID %s: want a number and an IPv4 address", c.ASN, c.ID)
	}
	for _, n := range c.Neighbors {
		identities := 0
		for _, given := range []bool{n.Address.IsValid(), n.Range.IsValid(), n.Interface != ""} {
			if given {
				identities++
			}
		}
		if identities != 1 {
			return fmt.Errorf("router: neighbour %+v: want one of Address, Range and Interface", n)
		}
		if n.Address.IsLinkLocalUnicast() && n.Address.Zone() == "" {
			return fmt.Errorf("router: neighbour %s: want a zone", n.Address)
		}
		if strings.ContainsAny(n.Password, " \"") {
			return errors.New("router: a password with spaces or quotes can't be written to a configuration")
		}
	}
	return nil
}

// clone shares nothing with the original, which its owner may change for the next Configure.
func (c Config) clone() Config {
	c.Networks, c.Neighbors = slices.Clone(c.Networks), slices.Clone(c.Neighbors)
	for i := range c.Neighbors {
		n := &c.Neighbors[i]
		n.Extra, n.FamilyExtra = slices.Clone(n.Extra), slices.Clone(n.FamilyExtra)
		if n.BFD != nil {
			bfd := *n.BFD
			n.BFD = &bfd
		}
	}
	return c
}

func networksOf(c Config, v6 bool) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(c.Networks), func(p netip.Prefix) bool { return p.Addr().Is6() != v6 })
}
