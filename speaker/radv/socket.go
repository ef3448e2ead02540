// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errTooLong is a packet that didn't fit the buffer.
var errTooLong = errors.New("packet is too long")

// class marks network control (RFC 4594, section 3.1).
const class = 0xc0

// socket sends and receives router advertisements and solicitations on one
// interface. It needs the capability NET_RAW and no other. One goroutine may
// receive and send, another close.
type socket struct {
	file  *os.File
	raw   syscall.RawConn
	index int
	oob   [256]byte
}

var _ conn = &socket{}

func listen(at place) (conn, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := prepare(fd, at); err != nil {
		unix.Close(fd)
		return nil, err
	}
	s := &socket{file: os.NewFile(uintptr(fd), "radv:"+at.name), index: at.index}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

// prepare filters before anything else, so that no other message is ever
// queued. The kernel keeps every interface in the group of all nodes, but in
// that of all routers only if it forwards IPv6 there.
func prepare(fd int, at place) error {
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	for _, k := range [...]kind{solicitation, advertisement} {
		filter.Data[k>>5] &^= 1 << (k & 31)
	}
	if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter); err != nil {
		return fmt.Errorf("ICMPV6_FILTER: %w", err)
	}
	if err := unix.BindToDevice(fd, at.name); err != nil {
		return fmt.Errorf("bind to device: %w", err)
	}
	for _, o := range []struct {
		name       string
		opt, value int
	}{
		{"IPV6_UNICAST_HOPS", unix.IPV6_UNICAST_HOPS, hopLimit},
		{"IPV6_MULTICAST_HOPS", unix.IPV6_MULTICAST_HOPS, hopLimit},
		{"IPV6_MULTICAST_LOOP", unix.IPV6_MULTICAST_LOOP, 0},
		{"IPV6_MULTICAST_IF", unix.IPV6_MULTICAST_IF, at.index},
		{"IPV6_RECVHOPLIMIT", unix.IPV6_RECVHOPLIMIT, 1},
		{"IPV6_TCLASS", unix.IPV6_TCLASS, class},
	} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, o.opt, o.value); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	group := &unix.IPv6Mreq{Multiaddr: allRouters.As16(), Interface: uint32(at.index)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group); err != nil {
		return fmt.Errorf("join %v: %w", allRouters, err)
	}
	return nil
}

func (s *socket) close() error { return s.file.Close() }

func (s *socket) receive(buf []byte, until time.Time) (packet, error) {
	if err := s.file.SetReadDeadline(until); err != nil {
		return packet{}, err
	}
	var n, oobn, flags int
	var from unix.Sockaddr
	var failed error
	if err := s.raw.Read(func(fd uintptr) bool {
		n, oobn, flags, from, failed = unix.Recvmsg(int(fd), buf, s.oob[:], 0)
		return failed != unix.EAGAIN && failed != unix.EINTR
	}); err != nil {
		return packet{}, err
	}
	if failed != nil {
		return packet{}, fmt.Errorf("receive: %w", failed)
	}
	if flags&unix.MSG_TRUNC != 0 {
		return packet{}, errTooLong
	}
	p := packet{payload: buf[:n], hopLimit: receivedHopLimit(s.oob[:oobn])}
	if sa, ok := from.(*unix.SockaddrInet6); ok {
		p.from = netip.AddrFrom16(sa.Addr)
	}
	return p, nil
}

// receivedHopLimit returns 0 if the kernel doesn't tell.
func receivedHopLimit(oob []byte) int {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_HOPLIMIT && len(data) >= 4 {
			return int(binary.NativeEndian.Uint32(data))
		}
		oob = rest
	}
	return 0
}

// send doesn't wait: a packet that finds the queue full is lost.
func (s *socket) send(b []byte, from, to netip.Addr) error {
	oob := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16(), Ifindex: uint32(s.index)})
	sa := &unix.SockaddrInet6{Addr: to.As16(), ZoneId: uint32(s.index)}
	var failed error
	if err := s.raw.Control(func(fd uintptr) { _, failed = unix.SendmsgN(int(fd), b, oob, sa, unix.MSG_DONTWAIT) }); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("send: %w", failed)
	}
	return nil
}
