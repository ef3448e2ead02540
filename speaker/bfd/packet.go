// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"encoding/binary"
	"math"
	"time"
)

// State is that of a session (RFC 5880, section 6.2).
type State uint8

// The states, with the numbers that they have on the wire.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

func (s State) String() string { return [...]string{"AdminDown", "Down", "Init", "Up"}[s&3] }

// Diag says why a session changed its state (RFC 5880, section 4.1).
type Diag uint8

// The codes that this package sends.
const (
	NoDiagnostic       Diag = 0
	DetectionExpired   Diag = 1
	NeighborSignalled  Diag = 3
	AdministrativeDown Diag = 7
)

func (d Diag) String() string {
	names := [...]string{
		"no diagnostic", "control detection time expired", "echo function failed", "neighbor signaled session down",
		"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down",
	}
	if int(d) < len(names) {
		return names[d]
	}
	return "unknown diagnostic"
}

// packet is a control packet without authentication (RFC 5880, section 4.1).
type packet struct {
	diag          Diag
	state         State
	poll, final   bool
	demand        bool
	multiplier    uint8
	my, your      uint32 // discriminators
	desiredMinTx  time.Duration
	requiredMinRx time.Duration
	echoMinRx     time.Duration
}

// packetLength is that of all packets that are sent.
const packetLength = 24

// Bits of the first two bytes.
const (
	version       = 1
	bitPoll       = 1 << 5
	bitFinal      = 1 << 4
	bitAuth       = 1 << 2
	bitDemand     = 1 << 1
	bitMultipoint = 1 << 0
)

// reason says why a packet is not heeded; its text is the label of a metric.
type reason string

const (
	taken             reason = ""
	dropVersion       reason = "version"        // it is of another version of BFD
	dropLength        reason = "length"         // its length is not what it says
	dropMultiplier    reason = "multiplier"     // its multiplier is 0
	dropMultipoint    reason = "multipoint"     // its multipoint bit is set
	dropDiscriminator reason = "discriminator"  // its own discriminator is 0
	dropState         reason = "state"          // it names no session of ours in a state in which it has to
	dropAuth          reason = "authentication" // it is authenticated, which no session here is
	dropTTL           reason = "ttl"            // it came farther than it may: its TTL is too low
	dropUnknown       reason = "unknown"        // there is no session with its sender
	dropAdminDown     reason = "admin-down"     // the session is turned off here
)

// reasons are all that there are.
var reasons = []reason{
	dropVersion, dropLength, dropMultiplier, dropMultipoint, dropDiscriminator, dropState, dropAuth, dropTTL, dropUnknown, dropAdminDown,
}

// decode reads a packet and makes those checks of RFC 5880, section 6.8.6, that
// need no session, in their order.
func (p *packet) decode(b []byte) reason {
	if len(b) < packetLength {
		return dropLength
	}
	auth := b[1]&bitAuth != 0
	shortest := packetLength
	if auth {
		shortest += 2
	}
	*p = packet{
		diag:          Diag(b[0] & 0x1f),
		state:         State(b[1] >> 6),
		poll:          b[1]&bitPoll != 0,
		final:         b[1]&bitFinal != 0,
		demand:        b[1]&bitDemand != 0,
		multiplier:    b[2],
		my:            binary.BigEndian.Uint32(b[4:]),
		your:          binary.BigEndian.Uint32(b[8:]),
		desiredMinTx:  interval(b[12:]),
		requiredMinRx: interval(b[16:]),
		echoMinRx:     interval(b[20:]),
	}
	switch length := int(b[3]); {
	case b[0]>>5 != version:
		return dropVersion
	case length < shortest || length > len(b):
		return dropLength
	case p.multiplier == 0:
		return dropMultiplier
	case b[1]&bitMultipoint != 0:
		return dropMultipoint
	case p.my == 0:
		return dropDiscriminator
	case p.your == 0 && p.state != Down && p.state != AdminDown:
		return dropState
	case auth:
		return dropAuth
	}
	return taken
}

// encode writes the packet to b. The bits that nothing here ever sets, of which
// C is one, are zero.
func (p *packet) encode(b *[packetLength]byte) {
	b[0] = version<<5 | byte(p.diag)&0x1f
	b[1] = byte(p.state) << 6
	if p.poll {
		b[1] |= bitPoll
	}
	if p.final {
		b[1] |= bitFinal
	}
	if p.demand {
		b[1] |= bitDemand
	}
	b[2] = p.multiplier
	b[3] = packetLength
	binary.BigEndian.PutUint32(b[4:], p.my)
	binary.BigEndian.PutUint32(b[8:], p.your)
	binary.BigEndian.PutUint32(b[12:], microseconds(p.desiredMinTx))
	binary.BigEndian.PutUint32(b[16:], microseconds(p.requiredMinRx))
	binary.BigEndian.PutUint32(b[20:], microseconds(p.echoMinRx))
}

// longest is the longest interval that a packet can tell.
const longest = math.MaxUint32 * time.Microsecond

func interval(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Microsecond
}

func microseconds(d time.Duration) uint32 {
	return uint32(min(max(d, 0), longest) / time.Microsecond)
}
