// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"encoding/binary"
	"net/netip"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// message is what a frame says, of whichever family. The zero value is a frame
// that concerns nobody here.
type message struct {
	// target is asked for, if it is valid, by the station asker. The asker's
	// address is the unspecified one if it makes sure that nobody else has
	// what it is about to take.
	target   netip.Addr
	asker    netip.Addr
	askerMAC link.MAC

	// claimed is said to be at claimedMAC, if it is valid.
	claimed    netip.Addr
	claimedMAC link.MAC
	reply      bool // and not said in passing, by asking
}

// parse reads a frame that came to an interface with this MAC. It returns
// false if the frame is malformed. It allocates nothing.
func parse(f Family, frame []byte, self link.MAC) (message, bool) {
	if len(frame) < ethernetLen {
		return message{}, false
	}
	// A frame for somebody else comes to a promiscuous interface.
	if to := link.MAC(frame); to != self && !isGroup(to) {
		return message{}, true
	}
	if f == IPv4 {
		return parseARP(frame, self)
	}
	return parseNDP(frame, self)
}

// An Ethernet frame begins with two MACs and the type.
const (
	offSource    = 6
	offEtherType = 12
	ethernetLen  = 14
	minFrame     = 60 // without its checksum
)

func appendEthernet(b []byte, to, from link.MAC, etherType uint16) []byte {
	b = append(b, to[:]...)
	b = append(b, from[:]...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

// isGroup tells whether frames to the address go to several stations.
func isGroup(m link.MAC) bool { return m[0]&1 != 0 }

// isStation tells whether a frame to the address can reach one.
func isStation(m link.MAC) bool { return !isGroup(m) && m != link.MAC{} }

var broadcast = link.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// appendAnswer appends the frame that answers a message for its target: it is
// at the MAC as, which need not be that of the sender, self.
func appendAnswer(b []byte, f Family, m message, self, as link.MAC) []byte {
	if f == IPv4 {
		return appendReply(b, m, self, as)
	}
	return appendAdvertisement(b, m, self, as)
}

// appendAnnouncement appends one of the frames that tell every neighbour that
// an address is here, and returns whether there are more than that one.
func appendAnnouncement(b []byte, addr netip.Addr, self link.MAC, n int) (frame []byte, more bool) {
	if addr.Is4() {
		return appendGratuitous(b, addr, self, n)
	}
	return appendUnsolicited(b, addr, self), false
}
