// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

const maxTTL = 255

// options are those of a connection's socket. What is zero is the kernel's.
type options struct {
	ttl, minTTL int
	device      string
	reusePort   bool
	password    string
	neighbor    netip.Addr // that the password is for
}

// optionsOf are those of a session.
func optionsOf(s bgp.Session) options {
	o := options{device: s.BindInterface, password: s.Password, neighbor: s.Neighbor}
	switch {
	case s.TTLSecurityHops > 0:
		o.ttl, o.minTTL = maxTTL, maxTTL+1-int(s.TTLSecurityHops)
	case s.MultiHop > 0:
		o.ttl = int(s.MultiHop)
	case !s.Internal():
		o.ttl = 1
	}
	return o
}

// control sets the options before the socket is used.
func control(o options) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		return o.set(c, strings.HasSuffix(network, "4"))
	}
}

func (o options) set(c syscall.RawConn, v4 bool) error {
	var errs []error
	note := func(name string, err error) { errs = append(errs, os.NewSyscallError("setsockopt "+name, err)) }
	level, ttl, minTTL := unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT
	if v4 {
		level, ttl, minTTL = unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL
	}
	err := c.Control(func(fd uintptr) {
		if o.ttl > 0 {
			note("TTL", unix.SetsockoptInt(int(fd), level, ttl, o.ttl))
		}
		if o.minTTL > 0 {
			note("MINTTL", unix.SetsockoptInt(int(fd), level, minTTL, o.minTTL))
		}
		if o.device != "" {
			note("BINDTODEVICE", unix.BindToDevice(int(fd), o.device))
		}
		if o.reusePort {
			note("REUSEPORT", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		}
		if o.password != "" {
			note("TCP_MD5SIG", unix.SetsockoptTCPMD5Sig(int(fd), unix.IPPROTO_TCP, unix.TCP_MD5SIG, signature(o.neighbor, o.password)))
		}
	})
	return errors.Join(append(errs, err)...)
}

// sign has connections from a neighbour signed with the password, or with none.
func (l *listener) sign(neighbor netip.Addr, password string) error {
	c, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(fd uintptr) {
		failed = unix.SetsockoptTCPMD5Sig(int(fd), unix.IPPROTO_TCP, unix.TCP_MD5SIG, signature(neighbor, password))
	})
	return errors.Join(os.NewSyscallError("setsockopt TCP_MD5SIG", failed), err)
}

func signature(neighbor netip.Addr, password string) *unix.TCPMD5Sig {
	s := &unix.TCPMD5Sig{Keylen: uint16(len(password))}
	copy(s.Key[:], password)
	if neighbor.Is4() {
		s.Addr.Family = unix.AF_INET
		copy(s.Addr.Data[2:], neighbor.AsSlice()) // behind the port
	} else {
		s.Addr.Family = unix.AF_INET6
		copy(s.Addr.Data[6:], neighbor.AsSlice()) // behind the port and the flow
	}
	return s
}

// adopt sets the options of a connection that was accepted. It is confined and
// signed as its listener is.
func (o options) adopt(c net.Conn, v4 bool) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	return options{ttl: o.ttl, minTTL: o.minTTL}.set(raw, v4)
}
