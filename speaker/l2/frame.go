// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Offsets in an Ethernet frame with an ARP packet (RFC 826) for IPv4.
const (
	offEtherType  = 12
	offHWType     = 14
	offProtoType  = 16
	offHWLen      = 18
	offProtoLen   = 19
	offOperation  = 20
	offSenderMAC  = 22
	offSenderIP   = 28
	offTargetIP   = 38
	arpFrameLen   = 42
	hwEthernet    = 1
	macLen, ipLen = 6, 4
)

// request is an ARP request that is to be answered.
type request struct {
	senderMAC link.MAC
	senderIP  netip.Addr
	targetIP  netip.Addr
}

// outcome is what a received frame is worth.
type outcome int

const (
	ignore outcome = iota
	malformed
	answer
)

// owned is a set of addresses. It isn't changed once it is shared.
type owned map[netip.Addr]struct{}

// decide tells whether a frame is an ARP request that asks an interface with
// this MAC for an owned address. It takes constant time and allocates nothing.
func decide(frame []byte, self link.MAC, addrs owned) (request, outcome) {
	if len(frame) < arpFrameLen ||
		ethernet.EtherType(binary.BigEndian.Uint16(frame[offEtherType:])) != ethernet.EtherTypeARP ||
		binary.BigEndian.Uint16(frame[offHWType:]) != hwEthernet ||
		ethernet.EtherType(binary.BigEndian.Uint16(frame[offProtoType:])) != ethernet.EtherTypeIPv4 ||
		frame[offHWLen] != macLen || frame[offProtoLen] != ipLen {
		return request{}, malformed
	}
	if arp.Operation(binary.BigEndian.Uint16(frame[offOperation:])) != arp.OperationRequest {
		return request{}, ignore
	}
	sender := link.MAC(frame[offSenderMAC:])
	switch {
	case isGroup(sender) || sender == link.MAC{}:
		return request{}, malformed // an answer could reach nobody, or everybody
	case sender == self:
		return request{}, ignore
	}
	if to := link.MAC(frame); to != self && !isGroup(to) {
		return request{}, ignore // promiscuous interfaces see such frames
	}
	target := netip.AddrFrom4([ipLen]byte(frame[offTargetIP:]))
	if _, ok := addrs[target]; !ok {
		return request{}, ignore
	}
	from := netip.AddrFrom4([ipLen]byte(frame[offSenderIP:]))
	if from == target {
		return request{}, ignore // an announcement, which asks nothing (RFC 5227, section 3)
	}
	return request{senderMAC: sender, senderIP: from, targetIP: target}, answer
}

// isGroup tells whether frames to the address go to several stations.
func isGroup(m link.MAC) bool { return m[0]&1 != 0 }

// reply returns the frame that answers a request. A probe (RFC 5227, section
// 2.1.1: its sender has no IP address) is answered like any other request.
func (r request) reply(self link.MAC) []byte {
	return frame(arp.OperationReply, self, r.targetIP, r.senderMAC, r.senderIP, r.senderMAC[:])
}

// gratuitous returns the two frames that tell every neighbour where an address
// is. The request is the announcement of RFC 5227, section 2.3; there are
// neighbours that learn from replies only.
func gratuitous(self link.MAC, addr netip.Addr) [2][]byte {
	return [2][]byte{
		frame(arp.OperationRequest, self, addr, link.MAC{}, addr, ethernet.Broadcast),
		frame(arp.OperationReply, self, addr, self, addr, ethernet.Broadcast),
	}
}

// frame panics on an address that isn't IPv4: Set lets none through.
func frame(op arp.Operation, from link.MAC, fromIP netip.Addr, to link.MAC, toIP netip.Addr, dst net.HardwareAddr) []byte {
	p, err := arp.NewPacket(op, from[:], fromIP, to[:], toIP)
	if err != nil {
		panic(fmt.Sprintf("l2: ARP packet for %v: %v", fromIP, err))
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("l2: marshal ARP packet: %v", err))
	}
	f := ethernet.Frame{Destination: dst, Source: from[:], EtherType: ethernet.EtherTypeARP, Payload: payload}
	b, err := f.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("l2: marshal Ethernet frame: %v", err))
	}
	return b
}
