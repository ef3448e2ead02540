// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ports of RFC 5881, section 4, and RFC 5883, section 5.
const (
	portSingleHop = 3784
	portMultihop  = 4784
	firstSource   = 49152
	lastSource    = 65535
)

const (
	// priority and class put packets before bulk traffic, on the node and,
	// marked as network control (RFC 4594, section 3.1), in switches that look.
	priority = 6
	class    = 0xc0
	// receiveBuffer holds what 200 sessions at 100 ms get in more than a second,
	// where more than net.core.rmem_max is permitted.
	receiveBuffer = 4 << 20
	// batch is how many packets a system call reads.
	batch = 32
	// payloadSize is for a packet with any authentication; what is longer is cut.
	payloadSize = 128
	controlSize = 128
)

// place is where a receiver listens.
type place struct {
	v4, multihop bool
	vrf          string
}

// datagram is valid until deliver returns.
type datagram struct {
	place    place
	from, to netip.Addr // without zone
	index    int        // of the interface
	ttl      int
	at       time.Time // when the kernel had it
	payload  []byte
}

// network opens sockets.
type network interface {
	// listen calls ready, from a goroutine of its own, when there may be something to drain.
	listen(p place, ready func(receiver)) (receiver, error)
	// dial opens what a session sends by, from a source port.
	dial(k Key, index int, source uint16) (sender, error)
	// index returns that of an interface.
	index(name string) (int, error)
}

type receiver interface {
	// drain delivers all that waits, and doesn't wait for more.
	drain(deliver func(*datagram)) error
	// close waits until ready has returned.
	close()
}

type sender interface {
	// send doesn't wait. The bytes are not kept.
	send(b []byte) error
	close()
}

// kernel is the network namespace that it is called in.
type kernel struct{}

var _ network = kernel{}

func (kernel) index(name string) (int, error) {
	// One system call; net.InterfaceByName lists every interface of the node.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("interface %q: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, fmt.Errorf("interface %q: %w", name, err)
	}
	return int(req.Uint32()), nil
}

// option is a socket option to be set.
type option struct {
	name       string
	level, opt int
	value      int
}

func udp(v4 bool, options ...option) (int, error) {
	domain := unix.AF_INET6
	if v4 {
		domain = unix.AF_INET
	} else {
		options = append(options, option{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1})
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil {
			unix.Close(fd)
			return 0, fmt.Errorf("%s: %w", o.name, err)
		}
	}
	return fd, nil
}

func bind(fd int, device string, local netip.Addr, zone int, port uint16) error {
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return fmt.Errorf("bind to %s: %w", device, err)
		}
	}
	if err := unix.Bind(fd, sockaddr(local, zone, port)); err != nil {
		return fmt.Errorf("bind to port %d of %s: %w", port, local, err)
	}
	return nil
}

func sockaddr(a netip.Addr, zone int, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
	if a.IsLinkLocalUnicast() {
		sa.ZoneId = uint32(zone)
	}
	return sa
}

func anywhere(v4 bool) netip.Addr {
	if v4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// socket sends the packets of one session: the source port is its own (RFC
// 5881, section 4), and so packets of several can't share a system call.
type socket struct {
	fd int
	to unix.Sockaddr
}

func (kernel) dial(k Key, index int, source uint16) (sender, error) {
	v4 := k.Remote.Is4()
	options := []option{{"SO_PRIORITY", unix.SOL_SOCKET, unix.SO_PRIORITY, priority}}
	port := uint16(portSingleHop)
	if k.Multihop {
		port = portMultihop
	}
	if v4 {
		options = append(options,
			option{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, 255},
			option{"IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, class})
	} else {
		options = append(options,
			option{"IPV6_UNICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255},
			option{"IPV6_TCLASS", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class})
	}
	fd, err := udp(v4, options...)
	if err != nil {
		return nil, err
	}
	device, local := k.Interface, k.Local
	if device == "" {
		device = k.VRF
	}
	if !local.IsValid() {
		local = anywhere(v4)
	}
	if err := bind(fd, device, local, index, source); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// Nobody has reason to send to the source port. What comes nevertheless is
	// not kept.
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("SO_ATTACH_FILTER: %w", err)
	}
	// Not connected: each packet takes the route that is right then.
	return &socket{fd: fd, to: sockaddr(k.Remote, index, port)}, nil
}

func (s *socket) send(b []byte) error { return unix.Sendto(s.fd, b, unix.MSG_DONTWAIT, s.to) }

func (s *socket) close() { unix.Close(s.fd) }

// listener receives the packets of all sessions of its place, many at a time.
type listener struct {
	file *os.File
	raw  syscall.RawConn
	// emptied is when everything had been read: nothing waits for longer.
	emptied time.Time

	deliver func(*datagram)
	now     time.Time
	err     error
	read    func(fd uintptr)
	d       datagram
	headers [batch]header
	vectors [batch]unix.Iovec
	names   [batch]unix.RawSockaddrInet6
	payload [batch][payloadSize]byte
	control [batch][controlSize]byte
}

// header is C's struct mmsghdr.
type header struct {
	unix.Msghdr
	n uint32
}

func (kernel) listen(p place, ready func(receiver)) (receiver, error) {
	options := []option{
		{"SO_TIMESTAMPNS", unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1},
		// Another program that does BFD is noticed: the socket that isn't in a
		// VRF is opened first, and without this option.
		{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, btoi(p.vrf != "")},
	}
	if p.v4 {
		options = append(options,
			option{"IP_RECVTTL", unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
			option{"IP_PKTINFO", unix.IPPROTO_IP, unix.IP_PKTINFO, 1})
	} else {
		options = append(options,
			option{"IPV6_RECVHOPLIMIT", unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
			option{"IPV6_RECVPKTINFO", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1})
	}
	fd, err := udp(p.v4, options...)
	if err != nil {
		return nil, err
	}
	port := uint16(portSingleHop)
	if p.multihop {
		port = portMultihop
	}
	if err := bind(fd, p.vrf, anywhere(p.v4), 0, port); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	// With NET_ADMIN, which a speaker need not have.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("SO_RCVBUF: %w", err)
		}
	}
	l := &listener{file: os.NewFile(uintptr(fd), "bfd"), emptied: time.Now(), d: datagram{place: p}}
	if l.raw, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		return nil, fmt.Errorf("poll: %w", err)
	}
	for i := range l.headers {
		l.vectors[i].Base = &l.payload[i][0]
		l.vectors[i].SetLen(payloadSize)
		h := &l.headers[i].Msghdr
		h.Name = (*byte)(unsafe.Pointer(&l.names[i]))
		h.Iov = &l.vectors[i]
		h.SetIovlen(1)
		h.Control = &l.control[i][0]
	}
	l.read = func(fd uintptr) { l.err = l.readAll(int(fd)) }
	go func() {
		// It ends when the file is closed. A drain reads until nothing is left,
		// and the poller notes what comes from then on: false waits for that.
		_ = l.raw.Read(func(uintptr) bool { ready(l); return false })
	}()
	return l, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (l *listener) close() { l.file.Close() }

func (l *listener) drain(deliver func(*datagram)) error {
	l.deliver = deliver
	if err := l.raw.Control(l.read); err != nil {
		return err
	}
	return l.err
}

func (l *listener) readAll(fd int) error {
	for {
		for i := range l.headers {
			l.headers[i].Namelen = unix.SizeofSockaddrInet6
			l.headers[i].SetControllen(controlSize)
		}
		l.now = time.Now()
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&l.headers[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
		case unix.EAGAIN:
			n = 0
		case unix.EINTR:
			continue
		default:
			return fmt.Errorf("receive: %w", errno)
		}
		for i := range int(n) {
			l.take(i)
		}
		if n < batch {
			l.emptied = l.now
			return nil
		}
	}
}

// take delivers the i-th datagram of a batch.
func (l *listener) take(i int) {
	d, h := &l.d, &l.headers[i]
	if l.d.place.v4 {
		d.from = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&l.names[i])).Addr)
	} else {
		d.from = netip.AddrFrom16(l.names[i].Addr)
	}
	d.to, d.index, d.ttl, d.at = netip.Addr{}, 0, 0, l.now
	d.payload = l.payload[i][:h.n]
	for oob := l.control[i][:h.Controllen]; len(oob) >= unix.SizeofCmsghdr; {
		c, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		oob = rest
		l.heed(c.Level, c.Type, data)
	}
	l.deliver(d)
}

// heed reads what the kernel tells beside a datagram.
func (l *listener) heed(level, kind int32, data []byte) {
	d := &l.d
	switch {
	case level == unix.IPPROTO_IP && kind == unix.IP_TTL && len(data) >= 4,
		level == unix.IPPROTO_IPV6 && kind == unix.IPV6_HOPLIMIT && len(data) >= 4:
		d.ttl = int(binary.NativeEndian.Uint32(data))
	case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		d.index = int(binary.NativeEndian.Uint32(data))
		d.to = netip.AddrFrom4([4]byte(data[8:12]))
	case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		d.index = int(binary.NativeEndian.Uint32(data[16:]))
		d.to = netip.AddrFrom16([16]byte(data[:16]))
	case level == unix.SOL_SOCKET && kind == unix.SO_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(unix.Timespec{})):
		ts := (*unix.Timespec)(unsafe.Pointer(&data[0]))
		// The time is the wall clock's, which may have been set meanwhile.
		age := l.now.Sub(time.Unix(ts.Unix()))
		d.at = l.now.Add(-min(max(age, 0), l.now.Sub(l.emptied)))
	}
}
