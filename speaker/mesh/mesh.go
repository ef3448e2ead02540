// SPDX-License-Identifier: Apache-2.0

// Package mesh decides among speakers, without the API server, who answers for which address on layer 2.
//
// A Machine is told what happens (frames, replies of the wire, what the cluster
// says, time) and tells what to do (frames, asks, answers, claims to record).
// It has no goroutine, clock, socket or logger: equal inputs give equal
// outputs. It is not safe for use by several goroutines.
//
// The caller's loop is: call what happened, call Tick when Next says so and at
// least every 100 ms, then do what Output says. docs/design/0004-mesh.md has
// the protocol and its rules.
package mesh

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Config is what a machine is born with.
type Config struct {
	// Node is the name of the own node, at most 253 bytes.
	Node string
	// Boot is different in every life of the process. That of a later life
	// should be higher: else it counts only once the one before is silent.
	Boot uint64
	// Keys authenticate frames: the first one signs, and any will do in what
	// others sign, so that keys can be changed node by node. Without one frames
	// are neither signed nor checked.
	Keys [][]byte
	// AcceptUnsigned takes frames without a signature as well: for as long as
	// it takes to give all nodes a key.
	AcceptUnsigned bool
	// Unicast sends frames to the peers that SetPeers named instead of to everyone.
	Unicast bool
}

// Claim is a node's word that it answers for an address.
type Claim struct {
	// Node is empty in the zero Claim only.
	Node string
	// Term is at least 1; the highest wins.
	Term int64
	// Rank is 0 for a claim on record and 1 + the claimant's place among the
	// living successors for another; at equal term the lowest wins.
	Rank uint8
}

// Credible tells whether a term can have been reached from one that is known:
// a made-up one must not become the last.
func Credible(term, known int64) bool { return term >= 1 && term <= known+1<<32 && term <= maxTerm }

// Segment is an interface of the own node that can carry addresses.
type Segment struct {
	Index int
	Name  string
	MAC   link.MAC
	Up    bool
}

// Address is what the cluster says of an address.
type Address struct {
	Addr netip.Addr
	// Interfaces are the names of those on which this node could answer now.
	Interfaces []string
	// Recorded is the claim on record, zero without one. Its rank is ignored.
	Recorded Claim
	// Proposed is the node that the controller chose, if it did. It counts as
	// a claim of term 0.
	Proposed string
}

// Endpoint is an address by which a node can be reached and asked for on an
// interface of the own node.
type Endpoint struct {
	Interface int
	Addr      netip.Addr
}

// Peer is a speaker that the API told of. None is needed: hellos introduce
// peers. It serves unicast, and asking for nodes that were never heard.
type Peer struct {
	Node      string
	Endpoints []Endpoint
}

// Policy is the last known state of the cluster, as decisions. Answers may
// change only before a call to SetAddresses or Reconsider.
type Policy interface {
	// Owner is the node that should own an address whose claimant (empty
	// without one) is the one given; empty if nobody is eligible.
	Owner(addr netip.Addr, claimant string) string
	// Successors are the nodes that may own an address, best first, whoever is
	// alive. The machine keeps the slice only until the policy changes.
	Successors(addr netip.Addr) []string
}

// Packet is a frame that was received.
type Packet struct {
	Interface int
	// From is the address of the sender, without zone.
	From netip.Addr
	// TTL is the TTL or hop limit that it arrived with.
	TTL int
	// At is when the kernel received it.
	At time.Time
	// Payload is not kept.
	Payload []byte
}

// Leaving is how a speaker ends.
type Leaving uint8

const (
	// Restart: another process will be here soon; nothing moves for 10 s.
	Restart Leaving = iota + 1
	// Drain: successors take over; this node answers until it hears them.
	Drain
	// Ousted: the API server refuses this node. As Drain, unless a peer says
	// the same: then nothing changes.
	Ousted
	// Stay takes back what was said before.
	Stay Leaving = 0
)

// Output is what to do. It is valid until the next call of a method.
type Output struct {
	// Frames are to be sent, in order.
	Frames []Frame
	// Asks are ordinary ARP or neighbour requests for the address of a node.
	Asks []Ask
	// Answers are the addresses for which it changed how they are answered.
	Answers []Answer
	// Silent are the names of the interfaces on which own addresses are not
	// answered for the moment, whatever Answers say; it is complete each time.
	Silent []string
	// Refresh are the names of the interfaces on which all own addresses are to
	// be announced again: two parts of the network have found each other.
	Refresh []string
	// Announce are addresses that are to be announced again: somebody else
	// answered for them until now.
	Announce []netip.Addr
	// Record are new claims of this node to be recorded by compare and swap:
	// only over a lower term, and only while Claim still returns them. Tell
	// the outcome by Recorded.
	Record []Record
	// Probe are addresses whose owner a peer suspects to be mute. Ask the wire
	// for them, and call Confirm if nobody answers.
	Probe []netip.Addr
	// More says that the next Output has more of Answers or Record: all at once
	// would take the caller too long.
	More bool
}

// Frame is a payload to send. The same payload may be sent several times.
type Frame struct {
	Interface int
	// To is the receiver; invalid for all nodes, by both families.
	To netip.Addr
	// Sparing says that one family is enough: IPv4 where there is a choice.
	Sparing bool
	Payload []byte
}

// Ask is a request to the wire. The reply is told by Answered.
type Ask struct {
	Interface int
	Addr      netip.Addr
	// MAC to send to; zero for everyone.
	MAC link.MAC
}

// Answer says how an address is answered from now on.
type Answer struct {
	Addr netip.Addr
	// Interfaces are those on which to answer with their own MAC, and to
	// announce, except while they are Silent. Don't change the slice.
	Interfaces []string
	// As are those on which to answer with the MAC of the node For, and to
	// announce nothing.
	As  map[string]link.MAC
	For string
}

// Record is a claim of this node that is not on record.
type Record struct {
	Addr  netip.Addr
	Claim Claim
	// Held says that it is not made before it is on record.
	Held bool
}

// State is what a speaker says of itself.
type State uint8

const (
	// Unsynced: it knows no cluster state yet, and answers for nothing.
	Unsynced State = iota
	// Young: as Synced, but it doesn't know others long enough to judge them.
	Young
	Synced
	LeavingRestart
	LeavingDrain
	LeavingOusted
	states
)

func (s State) String() string {
	return [...]string{"unsynced", "young", "synced", "leaving: restart", "leaving: drain", "ousted"}[min(s, states-1)]
}

// PeerStatus is what is known of a peer on an interface.
type PeerStatus struct {
	Node      string
	Interface int
	State     State
	// Heard says that its hellos arrive. HeardByOthers says that peers that
	// this node hears, hear it.
	Heard, HeardByOthers bool
	// Last is when it was last heard, zero if never.
	Last time.Time
	// Claims is how many addresses it claims.
	Claims int
}
