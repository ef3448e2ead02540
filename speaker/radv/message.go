// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"net/netip"

	"github.com/mdlayher/ndp"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// kind is the ICMPv6 type of a message.
type kind byte

const (
	solicitation  kind = 133
	advertisement kind = 134
)

func (k kind) String() string {
	if k == solicitation {
		return "solicitation"
	}
	return "advertisement"
}

// The layout of both (RFC 4861, sections 4.1, 4.2 and 4.6).
const (
	offCode            = 1
	lenSolicitation    = 8
	lenAdvertisement   = 16
	optionUnit         = 8 // lengths of options are in units of 8 bytes
	optSourceLinkLayer = 1
	lenMACOption       = optionUnit
	hopLimit           = 255 // no router lets it through
)

// Everybody on the link, and every router there (RFC 4291, section 2.7.1).
var (
	allNodes   = netip.IPv6LinkLocalAllNodes()
	allRouters = netip.IPv6LinkLocalAllRouters()
)

// compose returns a message without its checksum, which the kernel fills in.
// The zero MAC stands for a link without Ethernet addresses.
func compose(k kind, mac link.MAC) ([]byte, error) {
	var options []ndp.Option
	if mac != (link.MAC{}) {
		options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac[:]}}
	}
	if k == solicitation {
		return ndp.MarshalMessage(&ndp.RouterSolicitation{Options: options})
	}
	// With a lifetime of 0 and no prefix it says no more than that we are
	// here: nobody routes through us or gives himself an address.
	return ndp.MarshalMessage(&ndp.RouterAdvertisement{Options: options})
}

// packet is an ICMPv6 message as it was received. The kernel has verified its
// checksum.
type packet struct {
	from     netip.Addr
	hopLimit int
	payload  []byte
}

// message is what counts of a packet.
type message struct {
	kind kind
	// mac is the sender's, zero if it is not told.
	mac link.MAC
}

// reason says why a packet was dropped; it is a label of the metric. Accepted
// packets have none.
type reason string

const (
	// Longer than any frame.
	reasonLong reason = "long"
	// Shorter than its header.
	reasonShort reason = "short"
	// Not a router advertisement or solicitation.
	reasonType reason = "type"
	// An ICMPv6 code that has no meaning.
	reasonCode reason = "code"
	// A hop limit other than 255: it may come from beyond the link.
	reasonHops reason = "hops"
	// An advertisement that is not from a link-local address, or a solicitation from a group.
	reasonSource reason = "source"
	// Options of no length or more than there is, or a link-layer address of a host without an address.
	reasonOptions reason = "options"
	// One more router than the eight of a link that are remembered.
	reasonFull reason = "full"
)

// parse holds a packet against RFC 4861, sections 6.1.1 and 6.1.2. Options that
// don't matter to us may have whatever content: only their lengths must be
// sound.
func parse(p packet) (message, reason) {
	if len(p.payload) < lenSolicitation {
		return message{}, reasonShort
	}
	m := message{kind: kind(p.payload[0])}
	header := lenSolicitation
	switch m.kind {
	case solicitation:
	case advertisement:
		header = lenAdvertisement
	default:
		return message{}, reasonType
	}
	switch {
	case len(p.payload) < header:
		return message{}, reasonShort
	case p.payload[offCode] != 0:
		return message{}, reasonCode
	case p.hopLimit != hopLimit:
		return message{}, reasonHops
	case p.from.IsMulticast(), m.kind == advertisement && !p.from.IsLinkLocalUnicast():
		return message{}, reasonSource
	}
	given := false
	for options := p.payload[header:]; len(options) > 0; {
		if len(options) < 2 {
			return message{}, reasonOptions
		}
		n := int(options[1]) * optionUnit
		if n == 0 || n > len(options) {
			return message{}, reasonOptions
		}
		if options[0] == optSourceLinkLayer {
			given = true
			if n == lenMACOption {
				m.mac = link.MAC(options[2:n])
			}
		}
		options = options[n:]
	}
	if given && p.from.IsUnspecified() {
		return message{}, reasonOptions
	}
	return m, ""
}
