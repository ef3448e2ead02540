// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Sockets are the ways to an interface.
type Sockets interface {
	// Listen returns a connection for ARP or NDP.
	Listen(link.Link, Family) (Conn, error)
	// Group returns a socket that is a member of no group yet.
	Group(link.Link) (Group, error)
}

// Conn sends and receives whole Ethernet frames of a family. One goroutine may
// receive while any send.
type Conn interface {
	// Receive waits for a frame, copies what fits into b, and tells when the
	// kernel received it, by the wall clock. It returns net.ErrClosed
	// after Close.
	Receive(b []byte) (n int, at time.Time, err error)
	// Send doesn't wait: it fails if the interface can't take the frame now.
	Send(frame []byte) error
	// Dropped returns how many frames came when there was no room for more,
	// since the last call. Only who receives may call it.
	Dropped() int
	Close() error
}

// Group is a socket that holds a limited number of memberships of IPv6
// multicast groups.
type Group interface {
	// Join returns ErrFull if the socket can hold no more.
	Join(netip.Addr) error
	Leave(netip.Addr) error
	Close() error
}
