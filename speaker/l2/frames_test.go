// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

var (
	selfMAC  = link.MAC{2, 0, 0, 0, 0, 1}
	askerMAC = link.MAC{2, 0, 0, 0, 0, 2}
	otherMAC = link.MAC{2, 0, 0, 0, 0, 3}

	asker = netip.MustParseAddr("192.0.2.2")
	vip   = netip.MustParseAddr("192.0.2.50")
	vip2  = netip.MustParseAddr("192.0.2.51")
	other = netip.MustParseAddr("192.0.2.99")
	zero  = netip.IPv4Unspecified()

	asker6 = netip.MustParseAddr("fe80::2")
	vip6   = netip.MustParseAddr("2001:db8::5:50")
	vip62  = netip.MustParseAddr("2001:db8::5:51")
	other6 = netip.MustParseAddr("2001:db8::5:99")
	zero6  = netip.IPv6Unspecified()
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// The frames of tests are made by others' encoders.

// ask returns the frame of an ordinary request for vip, edited.
func ask(edits ...func(b []byte)) []byte { return askFor(vip, edits...) }

func askFor(target netip.Addr, edits ...func(b []byte)) []byte {
	return arpFrame(arp.OperationRequest, askerMAC, asker, broadcast, target, edits...)
}

func arpFrame(op arp.Operation, from link.MAC, sender netip.Addr, to link.MAC, target netip.Addr, edits ...func(b []byte)) []byte {
	p := must(arp.NewPacket(op, from[:], sender, make(net.HardwareAddr, 6), target))
	return etherFrame(to, from, ethernet.EtherTypeARP, must(p.MarshalBinary()), edits...)
}

func etherFrame(to, from link.MAC, t ethernet.EtherType, payload []byte, edits ...func(b []byte)) []byte {
	f := ethernet.Frame{Destination: to[:], Source: from[:], EtherType: t, Payload: payload}
	b := must(f.MarshalBinary())
	for _, edit := range edits {
		edit(b)
	}
	return b
}

// solicit returns the frame of an ordinary solicitation for vip6, edited.
func solicit(edits ...func(b []byte)) []byte { return solicitFor(vip6, edits...) }

func solicitFor(target netip.Addr, edits ...func(b []byte)) []byte {
	return solicitFrom(asker6, solicitedNode(target), target, []ndp.Option{lla(ndp.Source, askerMAC)}, edits...)
}

func solicitFrom(source, dest, target netip.Addr, options []ndp.Option, edits ...func(b []byte)) []byte {
	to := selfMAC
	if dest.IsMulticast() {
		to = groupMAC(dest)
	}
	return ndpFrame(to, askerMAC, source, dest, &ndp.NeighborSolicitation{TargetAddress: target, Options: options}, edits...)
}

// advertise returns the frame of another node that says that vip6 is there.
func advertise(dest netip.Addr, solicited bool, options []ndp.Option, edits ...func(b []byte)) []byte {
	to := selfMAC
	if dest.IsMulticast() {
		to = groupMAC(dest)
	}
	return ndpFrame(to, otherMAC, vip6, dest,
		&ndp.NeighborAdvertisement{Solicited: solicited, Override: true, TargetAddress: vip6, Options: options}, edits...)
}

func lla(d ndp.Direction, m link.MAC) ndp.Option {
	return &ndp.LinkLayerAddress{Direction: d, Addr: m[:]}
}

func ndpFrame(to, from link.MAC, source, dest netip.Addr, m ndp.Message, edits ...func(b []byte)) []byte {
	return icmpFrame(to, from, source, dest, must(ndp.MarshalMessageChecksum(m, source, dest)), edits...)
}

func icmpFrame(to, from link.MAC, source, dest netip.Addr, icmp []byte, edits ...func(b []byte)) []byte {
	header := make([]byte, 8, 40)
	header[0] = 6 << 4
	binary.BigEndian.PutUint16(header[4:], uint16(len(icmp)))
	header[6], header[7] = 58, 255
	header = append(append(header, source.AsSlice()...), dest.AsSlice()...)
	return etherFrame(to, from, ethernet.EtherTypeIPv6, append(header, icmp...), edits...)
}

// withOptions returns a solicitation for vip6 with options of any kind, whose
// checksum is right.
func withOptions(options ...byte) []byte {
	body := append(append([]byte{typeSolicitation, 0, 0, 0, 0, 0, 0, 0}, vip6.AsSlice()...), options...)
	b := icmpFrame(groupMAC(solicitedNode(vip6)), askerMAC, asker6, solicitedNode(vip6), body)
	sum(b)
	return b
}

// sum makes the checksum of a message right again.
func sum(b []byte) {
	n := int(binary.BigEndian.Uint16(b[offPayloadLen:]))
	icmp := b[offICMP : offICMP+n]
	put(offChecksum, 0, 0)(icmp)
	binary.BigEndian.PutUint16(icmp[offChecksum:], checksum(b[offSourceIP:offICMP], icmp))
}

func put(off int, bytes ...byte) func([]byte)  { return func(b []byte) { copy(b[off:], bytes) } }
func putMAC(off int, m link.MAC) func([]byte)  { return put(off, m[:]...) }
func putIP(off int, a netip.Addr) func([]byte) { return put(off, a.AsSlice()...) }

func gratuitous(n int, from link.MAC, addr netip.Addr) []byte {
	b, _ := appendGratuitous(nil, addr, from, n)
	return b
}

const malformed = "malformed"

// said is something that is said to a port that owns vip, vip2, vip6 and vip62.
type said struct {
	name   string
	frame  []byte
	answer string // or malformed
	sees   string // where it says that an owned address is
}

var framesARP = []said{
	{name: "a request for an owned address is answered", frame: ask(), answer: "reply to 192.0.2.2 at 2: 192.0.2.50 is 1"},
	{name: "a request to our own MAC is answered", frame: ask(putMAC(0, selfMAC)), answer: "reply to 192.0.2.2 at 2: 192.0.2.50 is 1"},
	{name: "a probe is answered, to defend the address", frame: ask(putIP(offSenderIP, zero)), answer: "reply to 0.0.0.0 at 2: 192.0.2.50 is 1"},
	{name: "a frame without padding is answered", frame: ask()[:arpFrameLen], answer: "reply to 192.0.2.2 at 2: 192.0.2.50 is 1"},
	{name: "a target MAC in the request does not matter", frame: ask(putMAC(32, otherMAC)), answer: "reply to 192.0.2.2 at 2: 192.0.2.50 is 1"},
	{name: "a request for another address is ignored", frame: askFor(other)},
	{name: "a request to another station is ignored", frame: ask(putMAC(0, otherMAC))},
	{name: "our own request is ignored", frame: ask(putMAC(offSenderMAC, selfMAC))},
	{name: "our own announcement is ignored", frame: gratuitous(0, selfMAC, vip)},
	{name: "another node's announcement is seen", frame: gratuitous(0, otherMAC, vip), sees: "192.0.2.50 is 3"},
	{name: "another node's announcement by a reply is seen, and no answer", frame: gratuitous(1, otherMAC, vip), sees: "192.0.2.50 is 3"},
	{name: "a reply is seen", frame: arpFrame(arp.OperationReply, otherMAC, vip, selfMAC, asker, putMAC(0, selfMAC)), sees: "192.0.2.50 is 3, says a reply"},
	{name: "a reply to a probe is seen", frame: arpFrame(arp.OperationReply, otherMAC, vip, selfMAC, netip.IPv4Unspecified(), putMAC(0, selfMAC)), sees: "192.0.2.50 is 3, says a reply"},
	{name: "one who asks from an owned address is seen, and answered", frame: ask(putIP(offSenderIP, vip2)),
		answer: "reply to 192.0.2.51 at 2: 192.0.2.50 is 1", sees: "192.0.2.51 is 2"},
	{name: "a reply about another address is ignored", frame: gratuitous(1, otherMAC, other)},
	{name: "a reply to another station is ignored", frame: arpFrame(arp.OperationReply, otherMAC, vip, askerMAC, asker)},
	{name: "an unknown operation is ignored", frame: ask(put(offOperation, 0, 9))},
	{name: "a truncated packet is malformed", frame: ask()[:arpFrameLen-1], answer: malformed},
	{name: "a packet that isn't for Ethernet is malformed", frame: ask(put(offHWType, 0, 6)), answer: malformed},
	{name: "a packet that isn't for IPv4 is malformed", frame: ask(put(offProtoType, 0x86, 0xdd)), answer: malformed},
	{name: "a wrong length of MACs is malformed", frame: ask(put(offHWLen, 8)), answer: malformed},
	{name: "a wrong length of addresses is malformed", frame: ask(put(offProtoLen, 16)), answer: malformed},
	{name: "a request from everybody is malformed", frame: ask(putMAC(offSenderMAC, broadcast)), answer: malformed},
	{name: "a request from a group is malformed", frame: ask(putMAC(offSenderMAC, link.MAC{1, 0, 0x5e, 0, 0, 1})), answer: malformed},
	{name: "a request from nobody is malformed", frame: ask(putMAC(offSenderMAC, link.MAC{})), answer: malformed},
}

var framesNDP = []said{
	{name: "a multicast solicitation is answered", frame: solicit(), answer: "advertisement SO to fe80::2 at 2: 2001:db8::5:50 is 1"},
	{name: "a unicast solicitation is answered", frame: solicitFrom(asker6, vip6, vip6, []ndp.Option{lla(ndp.Source, askerMAC)}),
		answer: "advertisement SO to fe80::2 at 2: 2001:db8::5:50 is 1"},
	{name: "a unicast solicitation without option (a probe of unreachability detection) is answered to who sent the frame",
		frame: solicitFrom(asker6, vip6, vip6, nil), answer: "advertisement SO to fe80::2 at 2: 2001:db8::5:50 is 1"},
	{name: "so is a multicast one", frame: solicitFrom(asker6, solicitedNode(vip6), vip6, nil),
		answer: "advertisement SO to fe80::2 at 2: 2001:db8::5:50 is 1"},
	{name: "the answer goes to the MAC in the option", frame: solicitFrom(asker6, vip6, vip6, []ndp.Option{lla(ndp.Source, askerMAC)}, putMAC(offSource, otherMAC)),
		answer: "advertisement SO to fe80::2 at 2: 2001:db8::5:50 is 1"},
	{name: "duplicate address detection is answered to all nodes, not as solicited", frame: solicitFrom(zero6, solicitedNode(vip6), vip6, nil),
		answer: "advertisement O to ff02::1 at all: 2001:db8::5:50 is 1"},
	{name: "with a nonce (RFC 7527) too", frame: solicitFrom(zero6, solicitedNode(vip6), vip6, []ndp.Option{ndp.NewNonce()}),
		answer: "advertisement O to ff02::1 at all: 2001:db8::5:50 is 1"},
	{name: "a solicitation for another address is ignored", frame: solicitFor(other6)},
	{name: "a solicitation for an address of the same group is ignored", frame: solicitFor(netip.MustParseAddr("fd00::5:50"))},
	{name: "a solicitation to another station is ignored", frame: solicit(putMAC(0, otherMAC))},
	{name: "our own solicitation is ignored", frame: solicit(putMAC(offSource, selfMAC))},
	{name: "our own detection is ignored", frame: solicitFrom(zero6, solicitedNode(vip6), vip6, nil, putMAC(offSource, selfMAC))},
	{name: "options that nobody knows are skipped", frame: withOptions(250, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 2),
		answer: "advertisement SO to fe80::2 at 2: 2001:db8::5:50 is 1"},
	{name: "reserved bits are ignored", frame: solicit(put(offICMP+offFlags, 0xff, 1, 2, 3), sum), answer: "advertisement SO to fe80::2 at 2: 2001:db8::5:50 is 1"},
	{name: "the source of another is seen", frame: solicitFrom(vip62, solicitedNode(vip6), vip6, []ndp.Option{lla(ndp.Source, askerMAC)}),
		answer: "advertisement SO to 2001:db8::5:51 at 2: 2001:db8::5:50 is 1", sees: "2001:db8::5:51 is 2"},
	{name: "an advertisement to all is seen", frame: advertise(allNodes, false, []ndp.Option{lla(ndp.Target, otherMAC)}), sees: "2001:db8::5:50 is 3, says a reply"},
	{name: "an advertisement to us is seen", frame: advertise(asker6, true, []ndp.Option{lla(ndp.Target, otherMAC)}), sees: "2001:db8::5:50 is 3, says a reply"},
	{name: "an advertisement without option is its sender's", frame: advertise(asker6, true, nil), sees: "2001:db8::5:50 is 3, says a reply"},
	{name: "our own advertisement is ignored", frame: advertise(allNodes, false, nil, putMAC(offSource, selfMAC))},
	{name: "another message is ignored", frame: solicit(put(offICMPType, 133), sum)},

	{name: "a hop limit that a router lowered is malformed", frame: solicit(put(offHopLimit, 254)), answer: malformed},
	{name: "a wrong checksum is malformed", frame: solicit(put(offICMP+offChecksum, 1, 2)), answer: malformed},
	{name: "a code other than 0 is malformed", frame: solicit(put(offICMP+offCode, 1), sum), answer: malformed},
	{name: "a message of less than 24 bytes is malformed", frame: solicit(put(offPayloadLen, 0, 23), sum), answer: malformed},
	{name: "a message that is longer than the frame is malformed", frame: solicit(put(offPayloadLen, 0, 33)), answer: malformed},
	{name: "a truncated frame is malformed", frame: solicit()[:offICMP+offOptions-1], answer: malformed},
	{name: "a packet that isn't IPv6 is malformed", frame: solicit(put(offVersion, 4<<4)), answer: malformed},
	{name: "a multicast target is malformed", frame: solicit(putIP(offICMP+offTarget, allNodes), sum), answer: malformed},
	{name: "an option of no length is malformed", frame: withOptions(250, 0, 0, 0, 0, 0, 0, 0), answer: malformed},
	{name: "an option that is longer than the message is malformed", frame: withOptions(250, 2, 0, 0, 0, 0, 0, 0), answer: malformed},
	{name: "half an option is malformed", frame: withOptions(250), answer: malformed},
	{name: "a source option of another length is malformed", frame: withOptions(1, 2, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0), answer: malformed},
	{name: "a group as the source is malformed", frame: withOptions(1, 1, 0x33, 0x33, 0, 0, 0, 1), answer: malformed},
	{name: "a frame from a group is malformed", frame: solicit(putMAC(offSource, broadcast)), answer: malformed},
	{name: "a multicast source address is malformed", frame: solicit(putIP(offSourceIP, allNodes), sum), answer: malformed},
	{name: "detection with a source option is malformed", frame: solicitFrom(zero6, solicitedNode(vip6), vip6, []ndp.Option{lla(ndp.Source, askerMAC)}), answer: malformed},
	{name: "detection by unicast is malformed", frame: solicitFrom(zero6, vip6, vip6, nil), answer: malformed},
	{name: "detection to all nodes is malformed", frame: solicitFrom(zero6, allNodes, vip6, nil), answer: malformed},
	{name: "a solicited advertisement to a group is malformed", frame: advertise(allNodes, true, []ndp.Option{lla(ndp.Target, otherMAC)}), answer: malformed},
	{name: "an advertisement that a router let through is malformed", frame: advertise(allNodes, false, nil, put(offHopLimit, 64)), answer: malformed},
}

// describe says in words what a frame says, as others' decoders read it.
func describe(b []byte) string {
	var e ethernet.Frame
	if err := e.UnmarshalBinary(b); err != nil {
		return err.Error()
	}
	if e.EtherType == ethernet.EtherTypeARP {
		return describeARP(e)
	}
	return describeNDP(e)
}

func describeARP(e ethernet.Frame) string {
	var p arp.Packet
	if err := p.UnmarshalBinary(e.Payload); err != nil {
		return err.Error()
	}
	kind := "request"
	if p.Operation == arp.OperationReply {
		kind = "reply"
	}
	sender := station(p.SenderHardwareAddr)
	if p.SenderIP == p.TargetIP {
		return fmt.Sprintf("gratuitous %s: %v is %s", kind, p.SenderIP, sender)
	}
	if kind == "request" {
		return fmt.Sprintf("request to %s: who is %v? says %v, which is %s", station(e.Destination), p.TargetIP, p.SenderIP, sender)
	}
	if !slices.Equal(p.TargetHardwareAddr, e.Destination) {
		return fmt.Sprintf("reply to %v in a frame to %v", p.TargetHardwareAddr, e.Destination)
	}
	return fmt.Sprintf("reply to %v at %s: %v is %s", p.TargetIP, station(e.Destination), p.SenderIP, sender)
}

func describeNDP(e ethernet.Frame) string {
	ip := e.Payload
	if len(ip) < 40 || ip[6] != 58 || ip[7] != 255 || len(ip) != 40+int(binary.BigEndian.Uint16(ip[4:])) {
		return fmt.Sprintf("IPv6 packet %x", ip)
	}
	source, dest := netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	m, err := ndp.ParseMessage(ip[40:])
	if err != nil {
		return err.Error()
	}
	if again, err := ndp.MarshalMessageChecksum(m, source, dest); err != nil || !slices.Equal(again, ip[40:]) {
		return fmt.Sprintf("message %x should be %x (%v)", ip[40:], again, err)
	}
	mac := func(options []ndp.Option, d ndp.Direction) string {
		for _, o := range options {
			if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == d {
				return station(l.Addr)
			}
		}
		return "unsaid"
	}
	switch m := m.(type) {
	case *ndp.NeighborAdvertisement:
		var flags strings.Builder
		for _, f := range []struct {
			set  bool
			name string
		}{{m.Router, "R"}, {m.Solicited, "S"}, {m.Override, "O"}} {
			if f.set {
				flags.WriteString(f.name)
			}
		}
		said := ""
		if source != m.TargetAddress {
			said = fmt.Sprintf(", says %v", source)
		}
		return fmt.Sprintf("advertisement %s to %v at %s: %v is %s%s", &flags, dest, station(e.Destination), m.TargetAddress, mac(m.Options, ndp.Target), said)
	case *ndp.NeighborSolicitation:
		return fmt.Sprintf("solicitation to %v at %s: who is %v? says %v, which is %s", dest, station(e.Destination), m.TargetAddress, source, mac(m.Options, ndp.Source))
	}
	return fmt.Sprintf("message %T", m)
}

// station is a MAC in one word.
func station(m net.HardwareAddr) string {
	switch {
	case link.MAC(m) == broadcast, link.MAC(m) == groupMAC(allNodes):
		return "all"
	case m[0] == 0x33:
		return fmt.Sprintf("group %x", []byte(m[2:]))
	}
	return fmt.Sprint(m[5])
}

func describeSighting(s Sighting) string {
	said := ""
	switch {
	case s.Reply:
		said = ", says a reply"
	case s.Probe:
		said = ", or is to be"
	}
	return fmt.Sprintf("%v is %d%s", s.Addr, s.MAC[5], said)
}
