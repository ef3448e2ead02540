// SPDX-License-Identifier: Apache-2.0

// Package wire sees what happens on a lab's LAN: it captures frames, asks who has an address, and measures how long an
// address is dark.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

const ethernetHeader = 14

// Frame is an Ethernet frame as it was seen.
type Frame struct {
	At   time.Time
	Data []byte
}

// EtherType is the protocol that the frame carries.
func (f Frame) EtherType() uint16 { return binary.BigEndian.Uint16(f.Data[12:ethernetHeader]) }

// Source and Destination are the frame's MACs.
func (f Frame) Source() net.HardwareAddr      { return net.HardwareAddr(f.Data[6:12]) }
func (f Frame) Destination() net.HardwareAddr { return net.HardwareAddr(f.Data[0:6]) }

// ARP is a captured ARP message.
type ARP struct {
	At                   time.Time
	From, To             net.HardwareAddr // of the frame
	Reply                bool             // else a request
	SenderMAC, TargetMAC net.HardwareAddr
	SenderIP, TargetIP   netip.Addr
}

// Gratuitous tells an announcement, which asks for or answers with the sender's own address (RFC 5227, section 3), from
// an exchange between two hosts.
func (a ARP) Gratuitous() bool { return a.SenderIP == a.TargetIP }

// String says the message as a person would read it in a capture.
func (a ARP) String() string {
	switch {
	case a.Gratuitous() && a.Reply:
		return fmt.Sprintf("%s is at %s, announced by reply", a.SenderIP, a.SenderMAC)
	case a.Gratuitous():
		return fmt.Sprintf("%s is at %s, announced by request", a.SenderIP, a.SenderMAC)
	case a.Reply:
		return fmt.Sprintf("%s is at %s, told to %s", a.SenderIP, a.SenderMAC, a.TargetIP)
	default:
		return fmt.Sprintf("who has %s, asks %s at %s", a.TargetIP, a.SenderIP, a.SenderMAC)
	}
}

// Capture collects the frames that pass an interface in either direction. Its methods may be called from any goroutine.
type Capture struct {
	conn *packet.Conn
	done chan struct{}

	mu      sync.Mutex
	frames  []Frame
	closing bool
	err     error
}

// StartCapture captures on an interface of a namespace: a host's own, or its port on the LAN. Only the EtherTypes given are
// kept, all if none are. The caller must Close it.
func StartCapture(n *sandbox.Namespace, iface string, etherTypes ...uint16) (*Capture, error) {
	// ETH_P_ALL sees a bridge port's frames before the bridge takes them; a socket for one protocol would see none.
	conn, err := listen(n, iface, unix.ETH_P_ALL)
	if err != nil {
		return nil, fmt.Errorf("capturing on %s of %s: %w", iface, n.Name(), err)
	}
	c := &Capture{conn: conn, done: make(chan struct{})}
	go c.read(etherTypes)
	return c, nil
}

// EtherTypes that a capture is often about.
const (
	EtherTypeARP  uint16 = unix.ETH_P_ARP
	EtherTypeIPv6 uint16 = unix.ETH_P_IPV6
)

func (c *Capture) read(etherTypes []uint16) {
	defer close(c.done)
	buf := make([]byte, 65536)
	for {
		n, at, err := receive(c.conn, buf)
		if err != nil {
			c.mu.Lock()
			if !c.closing {
				c.err = err
			}
			c.mu.Unlock()
			return
		}
		if n < ethernetHeader {
			continue
		}
		f := Frame{At: at, Data: slices.Clone(buf[:n])}
		if len(etherTypes) > 0 && !slices.Contains(etherTypes, f.EtherType()) {
			continue
		}
		c.mu.Lock()
		c.frames = append(c.frames, f)
		c.mu.Unlock()
	}
}

// Frames are the frames seen so far, oldest first.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

// ARP are the ARP messages for IPv4 seen so far, oldest first.
func (c *Capture) ARP() []ARP {
	var all []ARP
	for _, f := range c.Frames() {
		if a, ok := parseARP(f); ok {
			all = append(all, a)
		}
	}
	return all
}

// Close ends the capture. The error is what made it end before, if something did.
func (c *Capture) Close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	err := c.conn.Close()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(err, c.err)
}

func listen(n *sandbox.Namespace, iface string, protocol int) (conn *packet.Conn, err error) {
	err = n.Do(func() error {
		ifi, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		conn, err = packet.Listen(ifi, packet.Raw, protocol, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := prepare(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// prepare has the kernel keep frames, and tell when it got them.
func prepare(conn *packet.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
		)
	})
	return errors.Join(err, failed)
}

// receiveBuffer holds what comes while a busy machine does not let the reader run.
const receiveBuffer = 8 << 20

// receive reads a frame, and when it passed the interface: a reader that had to wait for the processor is not the network.
func receive(conn *packet.Conn, buf []byte) (n int, at time.Time, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, at, err
	}
	var control [64]byte
	var controlled int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, controlled, _, _, failed = unix.Recvmsg(int(fd), buf, control[:], unix.MSG_DONTWAIT)
		return failed != unix.EAGAIN && failed != unix.EINTR
	})
	if err == nil {
		err = failed // else that of a try before
	}
	if err != nil {
		return 0, at, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil {
		return 0, at, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return n, time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), nil
		}
	}
	return n, time.Now(), nil
}
