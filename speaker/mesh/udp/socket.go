// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errTooLong is a datagram that didn't fit the buffer.
var errTooLong = errors.New("datagram is too long")

// priority and class put what we send before bulk traffic, on the node (as far
// as that goes without privileges) and, marked as network control (RFC 4594,
// section 3.1), in switches that look.
const (
	priority = 6
	class    = 0xc0
)

// socket sends and receives datagrams on one interface in one family. One
// goroutine may receive while any send.
type socket struct {
	file *os.File
	raw  syscall.RawConn
	v4   bool
	key  key
	port uint16

	// What receive hands to the poller's callback, so that it needs no
	// closure for each datagram.
	read  func(fd uintptr) (done bool)
	buf   []byte
	oob   [256]byte
	n     int
	oobn  int
	flags int
	from  unix.Sockaddr
	err   error
}

// option is a socket option to be set.
type option struct {
	name       string
	level, opt int
	value      int
}

func listen(k key, port uint16) (*socket, error) {
	domain := unix.AF_INET6
	if k.v4 {
		domain = unix.AF_INET
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := prepare(fd, k, port); err != nil {
		unix.Close(fd)
		return nil, err
	}
	s := &socket{file: os.NewFile(uintptr(fd), "udp:"+k.name), v4: k.v4, key: k, port: port}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, err
	}
	s.read = func(fd uintptr) bool {
		s.n, s.oobn, s.flags, s.from, s.err = unix.Recvmsg(int(fd), s.buf, s.oob[:], 0)
		return s.err != unix.EAGAIN && s.err != unix.EINTR
	}
	return s, nil
}

// prepare binds the socket to the interface first: the same port may be used on
// others, and nothing from another interface is ever seen. It joins no group:
// every interface is a member of those of all hosts, and to join takes a lock of
// the kernel that a node with many Pods holds for long.
func prepare(fd int, k key, port uint16) error {
	if err := unix.BindToDevice(fd, k.name); err != nil {
		return fmt.Errorf("bind to device: %w", err)
	}
	options := []option{
		{"SO_TIMESTAMPNS", unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1},
		{"SO_PRIORITY", unix.SOL_SOCKET, unix.SO_PRIORITY, priority},
	}
	var local unix.Sockaddr
	if k.v4 {
		options = append(options,
			option{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, 255},
			option{"IP_MULTICAST_TTL", unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255},
			option{"IP_MULTICAST_LOOP", unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0},
			option{"IP_RECVTTL", unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
			option{"IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, class})
		local = &unix.SockaddrInet4{Port: int(port)}
		if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(k.index)}); err != nil {
			return fmt.Errorf("IP_MULTICAST_IF: %w", err)
		}
	} else {
		options = append(options,
			option{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			option{"IPV6_UNICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255},
			option{"IPV6_MULTICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255},
			option{"IPV6_MULTICAST_LOOP", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
			option{"IPV6_MULTICAST_IF", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, k.index},
			option{"IPV6_RECVHOPLIMIT", unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
			option{"IPV6_TCLASS", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class})
		local = &unix.SockaddrInet6{Port: int(port)}
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	if err := unix.Bind(fd, local); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// Close ends a receive.
func (s *socket) Close() error { return s.file.Close() }

// receive waits for a datagram. Its payload is in buf.
func (s *socket) receive(buf []byte) (Datagram, error) {
	s.buf = buf
	if err := s.raw.Read(s.read); err != nil {
		return Datagram{}, err
	}
	switch {
	case s.err != nil:
		return Datagram{}, s.err
	case s.flags&unix.MSG_TRUNC != 0 || s.n == len(buf):
		return Datagram{}, errTooLong
	}
	d := Datagram{Interface: s.key.index, Payload: buf[:s.n]}
	switch from := s.from.(type) {
	case *unix.SockaddrInet4:
		d.From = netip.AddrFrom4(from.Addr)
	case *unix.SockaddrInet6:
		d.From = netip.AddrFrom16(from.Addr)
	}
	d.TTL, d.Age = control(s.oob[:s.oobn], time.Now())
	return d, nil
}

// control reads what the kernel tells beside a datagram. The time is the wall
// clock's; if that was set meanwhile, the age is wrong once.
func control(oob []byte, now time.Time) (ttl int, age time.Duration) {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		oob = rest
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TTL && len(data) >= 4,
			h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
			ttl = int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(unix.Timespec{})):
			ts := (*unix.Timespec)(unsafe.Pointer(&data[0]))
			age = max(0, now.Sub(time.Unix(ts.Unix())))
		}
	}
	return ttl, age
}

// send doesn't wait: a datagram that finds the queue full is lost.
func (s *socket) send(to netip.Addr, payload []byte) error {
	var sa unix.Sockaddr
	if s.v4 {
		sa = &unix.SockaddrInet4{Port: int(s.port), Addr: to.As4()}
	} else {
		sa = &unix.SockaddrInet6{Port: int(s.port), Addr: to.As16(), ZoneId: uint32(s.key.index)}
	}
	var sent error
	if err := s.raw.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), payload, unix.MSG_DONTWAIT, sa) }); err != nil {
		return err
	}
	return sent
}
