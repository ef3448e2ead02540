// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Kernel opens real sockets in the network namespace of the calling thread. It
// needs CAP_NET_RAW.
type Kernel struct{}

var _ Sockets = Kernel{}

// Listen opens a packet socket.
func (Kernel) Listen(l link.Link, f Family) (Conn, error) {
	if f == IPv4 {
		return openRing(l.Index, unix.ETH_P_ARP, arpMessages, arpSlot)
	}
	return openRing(l.Index, unix.ETH_P_IPV6, ndpMessages, ndpSlot)
}

// Group opens an IPv6 socket, to which nothing is ever sent.
func (Kernel) Group(l link.Link) (Group, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &groupFD{fd: fd, index: l.Index}, nil
}

// Check returns an error if the program may not open packet sockets.
func Check() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	return unix.Close(fd)
}

// groupFD is a socket with memberships: as many as fit into the memory that
// net.core.optmem_max allows for a socket's options.
type groupFD struct{ fd, index int }

func (g *groupFD) Join(group netip.Addr) error {
	err := g.set(unix.IPV6_JOIN_GROUP, group)
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) {
		return ErrFull
	}
	return err
}

func (g *groupFD) Leave(group netip.Addr) error { return g.set(unix.IPV6_LEAVE_GROUP, group) }

func (g *groupFD) set(option int, group netip.Addr) error {
	return unix.SetsockoptIPv6Mreq(g.fd, unix.IPPROTO_IPV6, option, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(g.index)})
}

func (g *groupFD) Close() error { return unix.Close(g.fd) }
