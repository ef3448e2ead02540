// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
)

// MAC is a hardware address as a key.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText writes the usual notation.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads it.
func (m *MAC) UnmarshalText(text []byte) error {
	a, err := net.ParseMAC(string(text))
	if err == nil && len(a) != len(m) {
		err = fmt.Errorf("%s is no MAC of Ethernet", text)
	}
	if err == nil {
		*m = MAC(a)
	}
	return err
}

// MACOf takes over a hardware address of Ethernet.
func MACOf(a net.HardwareAddr) MAC { return MAC(a) }

// Resolution is a question of a host for an address, or an answer to one host, by ARP or by neighbour discovery.
// Announcements to everybody are none.
type Resolution struct {
	At       time.Time
	Answer   bool // else a question
	Addr     netip.Addr
	MAC      MAC // that has the address, of an answer
	From, To MAC // of the frame
}

// Relayed tells an answer that another gives than who has the address, as one does who stands in for it.
func (r Resolution) Relayed() bool { return r.Answer && r.From != r.MAC }

// ParseResolution finds the question or answer in a frame.
func ParseResolution(f Frame) (Resolution, bool) {
	if len(f.Data) < ethernetHeader {
		return Resolution{}, false
	}
	r := Resolution{At: f.At, From: MAC(f.Source()), To: MAC(f.Destination())}
	switch f.EtherType() {
	case EtherTypeARP:
		a, ok := parseARP(f)
		if !ok || a.Gratuitous() {
			return Resolution{}, false
		}
		if r.Addr = a.TargetIP; a.Reply {
			r.Answer, r.Addr, r.MAC = true, a.SenderIP, MAC(a.SenderMAC)
		}
		return r, true
	case EtherTypeIPv6:
		return parseNDP(r, f.Data[ethernetHeader:])
	}
	return Resolution{}, false
}

const (
	ipv6Header  = 40
	icmpv6      = 58
	ndpHopLimit = 255 // RFC 4861, section 7.1: proves that no router was passed
)

func parseNDP(r Resolution, ip []byte) (Resolution, bool) {
	if len(ip) < ipv6Header || ip[6] != icmpv6 || ip[7] != ndpHopLimit {
		return Resolution{}, false
	}
	end := ipv6Header + int(binary.BigEndian.Uint16(ip[4:]))
	if len(ip) < end {
		return Resolution{}, false
	}
	message, err := ndp.ParseMessage(ip[ipv6Header:end])
	if err != nil {
		return Resolution{}, false
	}
	switch m := message.(type) {
	case *ndp.NeighborSolicitation:
		r.Addr = m.TargetAddress
		return r, true
	case *ndp.NeighborAdvertisement:
		if !m.Solicited {
			return Resolution{}, false
		}
		for _, o := range m.Options {
			if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == ndp.Target && len(lla.Addr) == len(r.MAC) {
				r.Answer, r.Addr, r.MAC = true, m.TargetAddress, MAC(lla.Addr)
				return r, true
			}
		}
	}
	return Resolution{}, false
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
