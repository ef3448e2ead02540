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

	"github.com/mdlayher/arp"
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
		n, _, err := c.conn.ReadFrom(buf)
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
		f := Frame{At: time.Now(), Data: slices.Clone(buf[:n])}
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

func parseARP(f Frame) (ARP, bool) {
	if f.EtherType() != EtherTypeARP {
		return ARP{}, false
	}
	var p arp.Packet
	if err := p.UnmarshalBinary(f.Data[ethernetHeader:]); err != nil {
		return ARP{}, false
	}
	return ARP{
		At: f.At, From: f.Source(), To: f.Destination(), Reply: p.Operation == arp.OperationReply,
		SenderMAC: p.SenderHardwareAddr, TargetMAC: p.TargetHardwareAddr, SenderIP: p.SenderIP, TargetIP: p.TargetIP,
	}, true
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
	return conn, err
}
