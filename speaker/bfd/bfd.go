// SPDX-License-Identifier: Apache-2.0

// Package bfd tells within a fraction of a second that a neighbour can't be reached any more (RFC 5880, 5881 and 5883).
//
// A session is pure: it is told packets and the time, and returns packets. The
// Manager gives sessions sockets and timers. docs/design/0010-bfd.md says what
// was decided and why.
package bfd

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Timers are what a session would like. What it uses is negotiated.
type Timers struct {
	// Transmit and Receive are the intervals at which it would send, and at
	// which it can receive: 300 ms if zero, at least 10 ms.
	Transmit, Receive time.Duration
	// Multiplier is how many packets may be missed: 3 if zero.
	Multiplier uint8
}

const (
	defaultInterval   = 300 * time.Millisecond
	leastInterval     = 10 * time.Millisecond
	defaultMultiplier = 3
	// defaultMinimumTTL lets no packet of a multihop session in that passed more
	// than one router, if not told otherwise.
	defaultMinimumTTL = 254
)

// Key says what a session is with. Two sessions with the same neighbour disturb
// each other unless its address is a different one on their interfaces or VRFs.
type Key struct {
	// Remote is the neighbour. A link-local one needs an Interface.
	Remote netip.Addr
	// Local is the own address, chosen by the kernel if invalid.
	Local netip.Addr
	// Interface is the name of the only one that packets go through, any if empty.
	Interface string
	// VRF is the name of the device whose routes count, empty for none.
	VRF string
	// Multihop says that there may be routers between (RFC 5883).
	Multihop bool
}

// Config is a session to be had.
type Config struct {
	Key
	Timers
	// Passive sends nothing before the neighbour does.
	Passive bool
	// MinimumTTL is what packets of a multihop session must arrive with: 254 if
	// zero. Those of the others must have 255.
	MinimumTTL uint8
	// Adopt is how long a new session only listens. If it hears a neighbour
	// that is Up with the process before this one, it goes on in its place and
	// the neighbour notices nothing.
	Adopt time.Duration
}

// normal returns the Config with its defaults, and as it is compared.
func (c Config) normal() (Config, error) {
	if c.Remote.Zone() != "" && c.Interface == "" {
		c.Interface = c.Remote.Zone()
	}
	c.Remote = c.Remote.Unmap().WithZone("")
	c.Local = c.Local.Unmap().WithZone("")
	switch {
	case !c.Remote.IsValid() || c.Remote.IsUnspecified() || c.Remote.IsMulticast():
		return c, fmt.Errorf("no session is possible with the address %q", c.Remote)
	case c.Remote.IsLinkLocalUnicast() && c.Remote.Is6() && c.Interface == "":
		return c, errors.New("a link-local neighbour needs an interface")
	case c.Local.IsValid() && c.Local.Is4() != c.Remote.Is4():
		return c, fmt.Errorf("the own address %s is of another family", c.Local)
	}
	for _, d := range []*time.Duration{&c.Transmit, &c.Receive} {
		if *d == 0 {
			*d = defaultInterval
		}
		*d = min(max(*d, leastInterval), longest)
	}
	if c.Multiplier == 0 {
		c.Multiplier = defaultMultiplier
	}
	switch {
	case !c.Multihop:
		c.MinimumTTL = 255
	case c.MinimumTTL == 0:
		c.MinimumTTL = defaultMinimumTTL
	}
	return c, nil
}

// unite returns what serves both who want a session of the same Key: the
// quicker one.
func unite(a, b Config) Config {
	a.Transmit = min(a.Transmit, b.Transmit)
	a.Receive = min(a.Receive, b.Receive)
	a.Multiplier = min(a.Multiplier, b.Multiplier)
	a.Passive = a.Passive && b.Passive
	a.MinimumTTL = min(a.MinimumTTL, b.MinimumTTL)
	a.Adopt = max(a.Adopt, b.Adopt)
	return a
}

// Status is what is known of a session.
type Status struct {
	Key
	State State
	// Diag says why it came to this state.
	Diag  Diag
	Since time.Time
	// Downs is how often it left Up.
	Downs uint64
	// RemoteState and RemoteDiag are what the neighbour says of itself. If it
	// is AdminDown, an operator ended the session and nothing has failed.
	RemoteState State
	RemoteDiag  Diag
	// LocalDiscriminator and RemoteDiscriminator name the session in packets;
	// that of a neighbour that isn't heard is 0.
	LocalDiscriminator, RemoteDiscriminator uint32
	// TransmitInterval is at which packets go out, but for jitter.
	TransmitInterval time.Duration
	// Detection is how long the neighbour may be silent, and RemoteDetection
	// how long it lets this side be. Both are zero if it isn't heard.
	Detection, RemoteDetection time.Duration
	// Trouble says what keeps packets from being sent, empty if nothing does.
	Trouble string
}
