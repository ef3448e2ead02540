// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Offsets in an Ethernet frame with an ARP packet (RFC 826) for IPv4.
const (
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

func parseARP(frame []byte, self link.MAC) (message, bool) {
	if len(frame) < arpFrameLen ||
		ethernet.EtherType(binary.BigEndian.Uint16(frame[offEtherType:])) != ethernet.EtherTypeARP ||
		binary.BigEndian.Uint16(frame[offHWType:]) != hwEthernet ||
		ethernet.EtherType(binary.BigEndian.Uint16(frame[offProtoType:])) != ethernet.EtherTypeIPv4 ||
		frame[offHWLen] != macLen || frame[offProtoLen] != ipLen {
		return message{}, false
	}
	operation := arp.Operation(binary.BigEndian.Uint16(frame[offOperation:]))
	if operation != arp.OperationRequest && operation != arp.OperationReply {
		return message{}, true
	}
	sender := link.MAC(frame[offSenderMAC:])
	switch {
	case !isStation(sender):
		return message{}, false // an answer could reach nobody, or everybody
	case sender == self:
		return message{}, true
	}
	var m message
	from := netip.AddrFrom4([ipLen]byte(frame[offSenderIP:]))
	target := netip.AddrFrom4([ipLen]byte(frame[offTargetIP:]))
	if unicast(from) {
		// A reply to itself is a gratuitous one: nobody has asked.
		m.claimed, m.claimedMAC, m.reply = from, sender, operation == arp.OperationReply && from != target
	}
	// One who asks for its own address announces it (RFC 5227, section 3).
	if operation == arp.OperationRequest && from != target {
		m.target, m.asker, m.askerMAC = target, from, sender
	}
	return m, true
}

// appendReply appends the answer to a request. A probe (RFC 5227, section
// 2.1.1: its sender has no IP address) is answered like any other request.
func appendReply(b []byte, m message, self, as link.MAC) []byte {
	return appendARP(b, m.askerMAC, self, arp.OperationReply, as, m.target, m.askerMAC, m.asker)
}

// appendGratuitous appends the announcement of RFC 5227, section 2.3, which is
// a request, and second, for neighbours that learn from replies only, a reply.
func appendGratuitous(b []byte, addr netip.Addr, self link.MAC, n int) (frame []byte, more bool) {
	if n == 0 {
		return appendARP(b, broadcast, self, arp.OperationRequest, self, addr, link.MAC{}, addr), true
	}
	return appendARP(b, broadcast, self, arp.OperationReply, self, addr, self, addr), false
}

// appendRequest appends a question. An unspecified asker makes it a probe.
func appendRequest(b []byte, to, self link.MAC, asker, target netip.Addr) []byte {
	return appendARP(b, to, self, arp.OperationRequest, self, asker, link.MAC{}, target)
}

func appendARP(b []byte, to, from link.MAC, op arp.Operation, senderMAC link.MAC, sender netip.Addr, targetMAC link.MAC, target netip.Addr) []byte {
	b = appendEthernet(b, to, from, uint16(ethernet.EtherTypeARP))
	b = binary.BigEndian.AppendUint16(b, hwEthernet)
	b = binary.BigEndian.AppendUint16(b, uint16(ethernet.EtherTypeIPv4))
	b = append(b, macLen, ipLen)
	b = binary.BigEndian.AppendUint16(b, uint16(op))
	b = append(b, senderMAC[:]...)
	s, t := sender.As4(), target.As4()
	b = append(b, s[:]...)
	b = append(b, targetMAC[:]...)
	b = append(b, t[:]...)
	var padding [minFrame - arpFrameLen]byte
	return append(b, padding[:]...)
}
