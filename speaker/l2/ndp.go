// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/ethernet"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Offsets in an Ethernet frame with a neighbour solicitation or advertisement
// (RFC 4861, sections 4.3 and 4.4) directly behind the IPv6 header. Nobody
// puts extension headers between; the kernel's filter drops such packets.
const (
	offVersion    = 14
	offPayloadLen = 18
	offNextHeader = 20
	offHopLimit   = 21
	offSourceIP   = 22
	offDestIP     = 38
	offICMP       = 54
	offICMPType   = 54

	// In the ICMP message.
	offCode     = 1
	offChecksum = 2
	offFlags    = 4
	offTarget   = 8
	offOptions  = 24

	protoICMPv6       = 58
	typeSolicitation  = 135
	typeAdvertisement = 136
	hopLimit          = 255 // no router lets it through (RFC 4861, section 3.1)

	flagSolicited = 0x40
	flagOverride  = 0x20

	optSourceMAC = 1
	optTargetMAC = 2
	optUnit      = 8 // lengths of options are in units of 8 bytes
	optMACLen    = optUnit
)

var allNodes = netip.IPv6LinkLocalAllNodes()

// solicitedNode returns the group that is asked for an address (RFC 4291,
// section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// groupMAC returns where frames to an IPv6 multicast group go (RFC 2464,
// section 7).
func groupMAC(group netip.Addr) link.MAC {
	b := group.As16()
	return link.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// parseNDP holds a message against RFC 4861, sections 7.1.1 and 7.1.2.
func parseNDP(frame []byte, self link.MAC) (message, bool) {
	if len(frame) < offICMP+offOptions ||
		ethernet.EtherType(binary.BigEndian.Uint16(frame[offEtherType:])) != ethernet.EtherTypeIPv6 ||
		frame[offVersion]>>4 != 6 || frame[offNextHeader] != protoICMPv6 || frame[offHopLimit] != hopLimit {
		return message{}, false
	}
	length := int(binary.BigEndian.Uint16(frame[offPayloadLen:]))
	if length < offOptions || length > len(frame)-offICMP {
		return message{}, false
	}
	icmp := frame[offICMP : offICMP+length]
	if icmp[offCode] != 0 || checksum(frame[offSourceIP:offICMP], icmp) != 0 {
		return message{}, false
	}
	from := link.MAC(frame[offSource:])
	source := netip.AddrFrom16([16]byte(frame[offSourceIP:]))
	dest := netip.AddrFrom16([16]byte(frame[offDestIP:]))
	target := netip.AddrFrom16([16]byte(icmp[offTarget:]))
	if !isStation(from) || source.IsMulticast() || target.IsMulticast() {
		return message{}, false
	}
	switch icmp[0] {
	case typeSolicitation:
		return parseSolicitation(icmp, self, from, source, dest, target)
	case typeAdvertisement:
		return parseAdvertisement(icmp, self, from, dest, target)
	}
	return message{}, true
}

func parseSolicitation(icmp []byte, self, from link.MAC, source, dest, target netip.Addr) (message, bool) {
	mac, given, ok := macOption(icmp[offOptions:], optSourceMAC)
	if !ok || source.IsUnspecified() && (given || dest != solicitedNode(dest)) {
		return message{}, false
	}
	if !given {
		// A unicast solicitation need not have the option; a multicast one
		// must, but the lack does not make it invalid. In both cases the
		// neighbour would have to be resolved first (section 7.2.4). We hold
		// no cache: the frame's sender is what resolution would find.
		mac = from
	}
	if from == self || mac == self {
		return message{}, true
	}
	var m message
	if given && unicast(source) {
		m.claimed, m.claimedMAC = source, mac
	}
	if source != target {
		m.target, m.asker, m.askerMAC = target, source, mac
	}
	return m, true
}

func parseAdvertisement(icmp []byte, self, from link.MAC, dest, target netip.Addr) (message, bool) {
	mac, given, ok := macOption(icmp[offOptions:], optTargetMAC)
	if !ok || dest.IsMulticast() && icmp[offFlags]&flagSolicited != 0 {
		return message{}, false
	}
	if !given {
		mac = from // Linux leaves the option out when it answers a unicast
	}
	if from == self || mac == self || !unicast(target) {
		return message{}, true
	}
	return message{claimed: target, claimedMAC: mac, reply: true}, true
}

// macOption returns the link-layer address among the options, of which all
// must be sound.
func macOption(options []byte, kind byte) (mac link.MAC, given, ok bool) {
	for len(options) > 0 {
		if len(options) < 2 {
			return link.MAC{}, false, false
		}
		n := int(options[1]) * optUnit
		if n == 0 || n > len(options) {
			return link.MAC{}, false, false
		}
		if options[0] == kind && !given {
			if n != optMACLen || !isStation(link.MAC(options[2:])) {
				return link.MAC{}, false, false
			}
			mac, given = link.MAC(options[2:]), true
		}
		options = options[n:]
	}
	return mac, given, true
}

// appendAdvertisement appends the answer to a solicitation (RFC 4861, section
// 7.2.4). Who makes sure that nobody has the address has none to be reached
// at: the answer goes to all nodes and counts as unsolicited.
//
// The source is the address itself, as when the kernel answers for one of its
// own: it is assigned to us in the sense of section 4.4, needs no other address
// on the interface, and agrees with what switches that bind addresses to ports
// see in our traffic. We are no router at that address.
func appendAdvertisement(b []byte, m message, self, as link.MAC) []byte {
	if m.asker.IsUnspecified() {
		return appendNA(b, groupMAC(allNodes), self, m.target, allNodes, flagOverride, as)
	}
	return appendNA(b, m.askerMAC, self, m.target, m.asker, flagSolicited|flagOverride, as)
}

// appendUnsolicited appends the announcement of RFC 4861, section 7.2.6.
func appendUnsolicited(b []byte, addr netip.Addr, self link.MAC) []byte {
	return appendNA(b, groupMAC(allNodes), self, addr, allNodes, flagOverride, self)
}

func appendNA(b []byte, to, from link.MAC, target, dest netip.Addr, flags byte, as link.MAC) []byte {
	return appendNeighbour(b, to, from, target, dest, typeAdvertisement, flags, target, optTargetMAC, as)
}

// appendSolicitation appends a question (RFC 4861, section 7.2.2). From an
// unspecified asker it is that of duplicate address detection (RFC 4862,
// section 5.4.2), which must go to the group. Else an empty MAC says that it
// goes there.
func appendSolicitation(b []byte, to, self link.MAC, asker, target netip.Addr) []byte {
	dest := target
	if to == (link.MAC{}) || asker.IsUnspecified() {
		dest = solicitedNode(target)
	}
	if to == (link.MAC{}) {
		to = groupMAC(dest)
	}
	if asker.IsUnspecified() {
		return appendNeighbour(b, to, self, asker, dest, typeSolicitation, 0, target, 0, link.MAC{})
	}
	return appendNeighbour(b, to, self, asker, dest, typeSolicitation, 0, target, optSourceMAC, self)
}

// appendNeighbour appends a message with one option, or with none if its type
// is 0.
func appendNeighbour(b []byte, to, from link.MAC, source, dest netip.Addr, kind, flags byte, target netip.Addr, option byte, mac link.MAC) []byte {
	length := offOptions
	if option != 0 {
		length += optMACLen
	}
	b = appendEthernet(b, to, from, uint16(ethernet.EtherTypeIPv6))
	b = append(b, 6<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, protoICMPv6, hopLimit)
	addresses := len(b)
	s, d, t := source.As16(), dest.As16(), target.As16()
	b = append(b, s[:]...)
	b = append(b, d[:]...)
	start := len(b)
	b = append(b, kind, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, t[:]...)
	if option != 0 {
		b = append(b, option, optMACLen/optUnit)
		b = append(b, mac[:]...)
	}
	binary.BigEndian.PutUint16(b[start+offChecksum:], checksum(b[addresses:start], b[start:]))
	return b
}

// checksum is that of ICMPv6 (RFC 4443, section 2.3) over a message and its two
// addresses. With a right checksum in the message it is zero.
func checksum(addresses, icmp []byte) uint16 {
	sum := uint32(protoICMPv6) + uint32(len(icmp))
	for _, b := range [][]byte{addresses, icmp} {
		for len(b) >= 2 {
			sum += uint32(binary.BigEndian.Uint16(b))
			b = b[2:]
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
