// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// transmit sends the whole table, says that it is complete, and then what
// changes.
func (c *conn) transmit(ctx context.Context, t *talk, refresh <-chan bgp.Families) error {
	sent := map[netip.Prefix]bool{}
	push := func(only bgp.Families, what func() (bgp.Session, []change)) error {
		s, changes := what()
		for i := range changes {
			ch := changes[i]
			if !ch.fits() {
				t.observer.Failed(fmt.Sprintf("the route %s isn't announced: it has more communities than a message has room for", ch.prefix))
			}
			if !ch.fits() || !t.takes(s, ch.prefix) {
				changes[i] = change{prefix: ch.prefix, gone: true}
			}
		}
		changes = slices.DeleteFunc(changes, func(ch change) bool {
			return !only.Of(ch.prefix) || ch.gone && !sent[ch.prefix]
		})
		messages := t.updates(s, changes)
		if err := t.send(messages...); err != nil {
			return err
		}
		for _, ch := range changes {
			if ch.gone {
				delete(sent, ch.prefix)
			} else {
				sent[ch.prefix] = true
			}
		}
		for range messages {
			t.observer.UpdateSent()
		}
		return nil
	}
	c.take() // what changed before is in the table
	if err := push(t.families, c.whole); err != nil {
		return err
	}
	if t.keeps {
		for _, f := range unicast(t.families) {
			if err := t.send(packet.NewEndOfRib(f)); err != nil {
				return err
			}
		}
	}
	keepalive := time.NewTicker(t.keepalive)
	defer keepalive.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-c.changes:
			err = push(t.families, c.take)
		case f := <-refresh:
			err = push(bgp.Families{IPv4: f.IPv4 && t.families.IPv4, IPv6: f.IPv6 && t.families.IPv6}, c.whole)
		case <-keepalive.C:
			err = t.send(packet.NewBGPKeepAliveMessage())
		}
		if err != nil {
			return err
		}
	}
}

func (t *talk) nextHop4(s bgp.Session) netip.Addr {
	if s.NextHop4.IsValid() {
		return s.NextHop4
	}
	return t.local()
}

func (t *talk) nextHop6(s bgp.Session) netip.Addr {
	if s.NextHop6.IsValid() {
		return s.NextHop6
	}
	return t.local()
}

// takes tells whether the router can be told of a prefix: an IPv4 one with an
// IPv6 next hop it may take for an error (RFC 8950, section 4).
func (t *talk) takes(s bgp.Session, p netip.Prefix) bool {
	return p.Addr().Is6() || t.nextHop4(s).Is4() || t.extendedNextHop
}

// updates packs changes into messages. Routes with the same attributes share
// them.
func (t *talk) updates(s bgp.Session, changes []change) []*packet.BGPMessage {
	// The order is of no importance to routers, but makes what is sent the same
	// each time.
	slices.SortFunc(changes, func(a, b change) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	type group struct {
		first    change
		prefixes []packet.AddrPrefixInterface
	}
	var groups []*group
	byAttributes := map[string]*group{}
	for _, ch := range changes {
		key := ch.key()
		g := byAttributes[key]
		if g == nil {
			g = &group{first: ch}
			byAttributes[key] = g
			groups = append(groups, g)
		}
		g.prefixes = append(g.prefixes, nlri(ch.prefix))
	}
	var out []*packet.BGPMessage
	for _, g := range groups {
		for part := range slices.Chunk(g.prefixes, g.first.room()) {
			if g.first.gone {
				out = append(out, t.withdrawal(s, g.first.prefix, part))
			} else {
				out = append(out, t.announcement(s, g.first.route, part))
			}
		}
	}
	return out
}

// room is how many prefixes fit into a message beside the attributes.
func (ch change) room() int {
	const fixed = 200 // the header, and attributes that are always there
	length := 5
	if ch.prefix.Addr().Is6() {
		length = 17
	}
	r := ch.route
	return (packet.BGP_MAX_MESSAGE_LENGTH - fixed - 4*len(r.Communities) - 12*len(r.Large) - 8*int(r.Prepend)) / length
}

// fits tells whether a message has room for the route.
func (ch change) fits() bool { return ch.room() > 0 }

// key is the same for routes that can be in one message.
func (ch change) key() string {
	family := 4
	if ch.prefix.Addr().Is6() {
		family = 6
	}
	if ch.gone {
		return fmt.Sprint(family)
	}
	r := ch.route
	number := func(n *uint32) int64 {
		if n == nil {
			return -1
		}
		return int64(*n)
	}
	return fmt.Sprint(family, r.Communities, r.Large, number(r.LocalPref), number(r.MED), r.Prepend)
}

func nlri(p netip.Prefix) packet.AddrPrefixInterface {
	if p.Addr().Is4() {
		return packet.NewIPAddrPrefix(uint8(p.Bits()), p.Addr().String())
	}
	return packet.NewIPv6AddrPrefix(uint8(p.Bits()), p.Addr().String())
}

// classic tells whether prefixes are where they were before RFC 4760: those of
// IPv4, unless their next hop is of IPv6.
func (t *talk) classic(s bgp.Session, p netip.Prefix) bool {
	return p.Addr().Is4() && (t.nextHop4(s).Is4() || !t.extendedNextHop)
}

func plainNLRI(prefixes []packet.AddrPrefixInterface) []*packet.IPAddrPrefix {
	out := make([]*packet.IPAddrPrefix, len(prefixes))
	for i, p := range prefixes {
		out[i] = p.(*packet.IPAddrPrefix)
	}
	return out
}

func (t *talk) withdrawal(s bgp.Session, like netip.Prefix, prefixes []packet.AddrPrefixInterface) *packet.BGPMessage {
	if t.classic(s, like) {
		return packet.NewBGPUpdateMessage(plainNLRI(prefixes), nil, nil)
	}
	return packet.NewBGPUpdateMessage(nil, []packet.PathAttributeInterface{packet.NewPathAttributeMpUnreachNLRI(prefixes)}, nil)
}

func (t *talk) announcement(s bgp.Session, r bgp.Route, prefixes []packet.AddrPrefixInterface) *packet.BGPMessage {
	attributes := append([]packet.PathAttributeInterface{packet.NewPathAttributeOrigin(packet.BGP_ORIGIN_ATTR_TYPE_IGP)}, t.asPath(s, r)...)
	classic := t.classic(s, r.Prefix)
	if classic {
		attributes = append(attributes, packet.NewPathAttributeNextHop(t.nextHop4(s).String()))
	}
	if r.MED != nil {
		attributes = append(attributes, packet.NewPathAttributeMultiExitDisc(*r.MED))
	}
	if t.asn == s.LocalASN {
		pref := uint32(defaultLocalPref)
		if r.LocalPref != nil {
			pref = *r.LocalPref
		}
		attributes = append(attributes, packet.NewPathAttributeLocalPref(pref))
	}
	if len(r.Communities) > 0 {
		attributes = append(attributes, packet.NewPathAttributeCommunities(r.Communities))
	}
	if !classic {
		hop := t.nextHop6(s)
		if r.Prefix.Addr().Is4() {
			hop = t.nextHop4(s)
		}
		attributes = append(attributes, packet.NewPathAttributeMpReachNLRI(hop.String(), prefixes))
	}
	if len(r.Large) > 0 {
		large := make([]*packet.LargeCommunity, len(r.Large))
		for i, l := range r.Large {
			large[i] = packet.NewLargeCommunity(l[0], l[1], l[2])
		}
		attributes = append(attributes, packet.NewPathAttributeLargeCommunities(large))
	}
	slices.SortFunc(attributes, func(a, b packet.PathAttributeInterface) int { return cmp.Compare(a.GetType(), b.GetType()) })
	if classic {
		return packet.NewBGPUpdateMessage(nil, attributes, plainNLRI(prefixes))
	}
	return packet.NewBGPUpdateMessage(nil, attributes, nil)
}

// defaultLocalPref is what routers give to routes without one.
const defaultLocalPref = 100

// asPath is empty for an internal router. One that knows ASNs of two bytes only
// gets those of four in an attribute of their own (RFC 6793).
func (t *talk) asPath(s bgp.Session, r bgp.Route) []packet.PathAttributeInterface {
	if t.asn == s.LocalASN {
		return []packet.PathAttributeInterface{packet.NewPathAttributeAsPath(nil)}
	}
	path := slices.Repeat([]uint32{s.LocalASN}, 1+int(r.Prepend))
	four := []*packet.As4PathParam{packet.NewAs4PathParam(packet.BGP_ASPATH_ATTR_TYPE_SEQ, path)}
	if t.fourBytes {
		return []packet.PathAttributeInterface{packet.NewPathAttributeAsPath([]packet.AsPathParamInterface{four[0]})}
	}
	two := uint16(asTrans)
	if s.LocalASN < 1<<16 {
		two = uint16(s.LocalASN)
	}
	out := []packet.PathAttributeInterface{packet.NewPathAttributeAsPath([]packet.AsPathParamInterface{
		packet.NewAsPathParam(packet.BGP_ASPATH_ATTR_TYPE_SEQ, slices.Repeat([]uint16{two}, len(path))),
	})}
	if two == asTrans {
		out = append(out, packet.NewPathAttributeAs4Path(four))
	}
	return out
}
