// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Listen opens a packet socket that receives ARP requests on the interface and
// sends Ethernet frames. It needs CAP_NET_RAW. One goroutine may read while
// any write. Close ends a read.
func Listen(l link.Link) (io.ReadWriteCloser, error) {
	filter, err := bpf.Assemble(arpRequests)
	if err != nil {
		return nil, fmt.Errorf("assemble packet filter: %w", err)
	}
	ifi := &net.Interface{Index: l.Index, Name: l.Name, HardwareAddr: l.MAC[:]}
	c, err := packet.Listen(ifi, packet.Raw, int(ethernet.EtherTypeARP), &packet.Config{Filter: filter})
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	s := &socket{conn: c, raw: raw}
	s.read = func(fd uintptr) bool {
		s.n, s.err = unix.Read(int(fd), s.buf)
		return s.err != unix.EAGAIN
	}
	return s, nil
}

// Check returns an error if the program may not open packet sockets.
func Check() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	return unix.Close(fd)
}

// arpRequests keeps every other frame from waking the program up. The kernel
// types as meant for another host what a promiscuous interface sees, and also
// the frames of a VLAN that has no interface here, whose tag is gone by now.
// Frames too short to hold an operation fail the load and are dropped.
var arpRequests = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 5},
	bpf.LoadAbsolute{Off: offEtherType, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(ethernet.EtherTypeARP), SkipTrue: 3},
	bpf.LoadAbsolute{Off: offOperation, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(arp.OperationRequest), SkipTrue: 1},
	bpf.RetConstant{Val: maxFrame},
	bpf.RetConstant{Val: 0},
}

// maxFrame is how much of a frame is read: an ARP packet with padding.
const maxFrame = 128

// socket reads without an allocation, which packet.Conn does not: it returns
// each sender's address.
type socket struct {
	conn *packet.Conn
	raw  syscall.RawConn

	read func(fd uintptr) (done bool)
	buf  []byte
	n    int
	err  error
}

func (s *socket) Read(b []byte) (int, error) {
	s.buf = b
	if err := s.raw.Read(s.read); err != nil {
		return 0, err
	}
	return max(s.n, 0), s.err
}

func (s *socket) Write(b []byte) (int, error) {
	return s.conn.WriteTo(b, &packet.Addr{HardwareAddr: b[:macLen]})
}

func (s *socket) Close() error { return s.conn.Close() }
