// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"net/netip"
	"time"
)

// Backend speaks the protocol.
type Backend interface {
	// Start begins to establish a session whose first table are the routes. It
	// doesn't wait for the router. Preserved says that the node kept forwarding
	// while nothing was announced: the router may keep what it has until then.
	Start(s Session, routes []Route, preserved bool, o Observer) (Conn, error)
}

// Conn is a session that was started. It goes on until Stop, whatever the
// router does. Its methods are called by one goroutine at a time.
type Conn interface {
	// Update announces and withdraws routes. The session has the same fields as
	// that which was started, but those that don't reset it.
	Update(s Session, announce []Route, withdraw []netip.Prefix)
	// Reset drops the connection and begins anew at once.
	Reset()
	// Stop ends the session with a Cease notification, and returns when that is
	// sent or can't be.
	Stop()
}

// Observer is told what happens to a session. Its methods don't wait, and may
// be called by several goroutines.
type Observer interface {
	// State is told whenever one of the fields changes.
	State(Info)
	// Failed is told why there is no session.
	Failed(message string)
	// Notified is told of each notification, sent or received.
	Notified(Notification)
	// UpdateSent is told of each UPDATE message.
	UpdateSent()
}

// State is that of a session (RFC 4271, section 8.2.2).
type State uint8

const (
	Idle State = iota
	Connect
	Active
	OpenSent
	OpenConfirm
	Established
)

func (s State) String() string {
	return [...]string{"Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established"}[s]
}

// Info is what the wire says of a session.
type Info struct {
	State State
	// Since is when the session got into or out of Established.
	Since time.Time
	// The rest is known while the session is established.
	ASN             uint32
	RouterID, Local netip.Addr
	Families        Families
	// GracefulRestart says that the router keeps the routes during a restart.
	GracefulRestart bool
}

// BFD watches the paths to routers.
type BFD interface {
	// Set makes the sessions the whole of what is watched. It may be called any
	// number of times with the same ones. It must not call the Announcer back
	// before it returned.
	Set([]BFDSession)
}

// BFDSession is a path to watch.
type BFDSession struct {
	Key Key
	// Local is not valid if the kernel may choose.
	Local, Neighbor netip.Addr
	// Interface is the one that the path begins with, if it is known.
	Interface string
	MultiHop  bool
	Profile   BFDProfile
}

// BFDState is that of a BFD session (RFC 5880, section 6.2).
type BFDState uint8

const (
	// NoBFD says that the path isn't watched.
	NoBFD BFDState = iota
	BFDAdminDown
	BFDDown
	BFDInit
	BFDUp
)

func (s BFDState) String() string { return [...]string{"", "AdminDown", "Down", "Init", "Up"}[s] }
