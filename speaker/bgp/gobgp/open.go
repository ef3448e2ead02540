// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// asTrans stands for an ASN that doesn't fit into two bytes (RFC 6793).
const asTrans = 23456

// negotiated is what both sides said of themselves.
type negotiated struct {
	asn      uint32
	routerID netip.Addr
	// holdTime and keepalive are those of the session.
	holdTime, keepalive time.Duration
	families            bgp.Families
	// fourBytes says that ASNs have four bytes.
	fourBytes bool
	// keeps says that the router keeps routes during a restart, and wants to
	// know when a table is complete.
	keeps           bool
	extendedNextHop bool
}

// unicast are the families that there are.
func unicast(f bgp.Families) (out []packet.RouteFamily) {
	if f.IPv4 {
		out = append(out, packet.RF_IPv4_UC)
	}
	if f.IPv6 {
		out = append(out, packet.RF_IPv6_UC)
	}
	return out
}

// openMessage says who we are. Preserved says that the router may keep the
// routes that it has of us, restarting that we don't know what it told us
// before (RFC 4724, section 3).
func openMessage(s bgp.Session, restarting, preserved bool) *packet.BGPMessage {
	capabilities := []packet.ParameterCapabilityInterface{packet.NewCapFourOctetASNumber(s.LocalASN), packet.NewCapRouteRefresh()}
	var restart []*packet.CapGracefulRestartTuple
	var longLived []*packet.CapLongLivedGracefulRestartTuple
	for _, f := range unicast(s.Families) {
		capabilities = append(capabilities, packet.NewCapMultiProtocol(f))
		restart = append(restart, packet.NewCapGracefulRestartTuple(f, preserved))
		longLived = append(longLived, packet.NewCapLongLivedGracefulRestartTuple(f, preserved, uint32(s.LongLivedTime/time.Second)))
	}
	if s.Families.IPv4 && s.Neighbor.Is6() {
		capabilities = append(capabilities, packet.NewCapExtendedNexthop([]*packet.CapExtendedNexthopTuple{
			packet.NewCapExtendedNexthopTuple(packet.RF_IPv4_UC, packet.AFI_IP6),
		}))
	}
	if s.GracefulRestart {
		// The N-bit (RFC 8538) stays off: a Cease of ours is meant to end the
		// routes.
		capabilities = append(capabilities, packet.NewCapGracefulRestart(restarting, false, uint16(s.RestartTime/time.Second), restart))
		if s.LongLivedTime > 0 {
			capabilities = append(capabilities, packet.NewCapLongLivedGracefulRestart(longLived))
		}
	}
	asn := uint16(asTrans)
	if s.LocalASN < 1<<16 {
		asn = uint16(s.LocalASN)
	}
	return packet.NewBGPOpenMessage(asn, uint16(s.HoldTime/time.Second), s.RouterID.String(),
		[]packet.OptionParameterInterface{packet.NewOptionParameterCapability(capabilities)})
}

// open reads the router's OPEN message and waits until it agrees to ours.
func (t *talk) open(confirm func()) error {
	kind, body, err := t.read(t.session.HoldTime)
	if err != nil {
		return err
	}
	if err := t.expect(kind, packet.BGP_MSG_OPEN, 1); err != nil {
		return err
	}
	var f *fault
	if t.negotiated, f = negotiate(t.session, body); f != nil {
		t.notify(f.Notification, f.data)
		return f
	}
	if err := t.send(packet.NewBGPKeepAliveMessage()); err != nil {
		return err
	}
	confirm()
	if kind, _, err = t.read(min(t.holdTime, openTime)); err != nil {
		return err
	}
	return t.expect(kind, packet.BGP_MSG_KEEPALIVE, 2)
}

// openTime is for how long a session may be begun that never expires, because the
// router wants it so (RFC 4271, section 8.2.2).
const openTime = 4 * time.Minute

// expect makes sure that a message is the one that must come.
func (t *talk) expect(kind, want, subcode uint8) error {
	if kind == want {
		return nil
	}
	f := refuse(packet.BGP_ERROR_FSM_ERROR, subcode, []byte{kind})
	t.notify(f.Notification, f.data)
	return f
}

// decodeOpen reads an OPEN message. A panic of the decoder is an error like any
// other: the message came from elsewhere.
func decodeOpen(body []byte) (o *packet.BGPOpen, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("decoder: %v", cause)
		}
	}()
	o = &packet.BGPOpen{}
	return o, o.DecodeFromBytes(body)
}

// negotiate checks the router's OPEN message, and says what the session is
// like.
func negotiate(s bgp.Session, body []byte) (negotiated, *fault) {
	refuse := func(subcode uint8, data []byte, format string, args ...any) (negotiated, *fault) {
		return negotiated{}, &fault{
			bgp.Notification{Code: packet.BGP_ERROR_OPEN_MESSAGE_ERROR, Subcode: subcode}, data,
			"we refused the router: " + fmt.Sprintf(format, args...),
		}
	}
	o, err := decodeOpen(body)
	if err != nil {
		return refuse(0, nil, "its OPEN message is malformed: %v", err)
	}
	n := negotiated{asn: uint32(o.MyAS), holdTime: s.HoldTime, keepalive: s.KeepaliveTime}
	n.routerID, _ = netip.AddrFromSlice(o.ID.To4())
	named := false
	for _, p := range o.OptParams {
		capabilities, ok := p.(*packet.OptionParameterCapability)
		if !ok {
			continue
		}
		for _, c := range capabilities.Capability {
			switch c := c.(type) {
			case *packet.CapFourOctetASNumber:
				n.asn, n.fourBytes = c.CapValue, true
			case *packet.CapMultiProtocol:
				named = true
				n.families.IPv4 = n.families.IPv4 || s.Families.IPv4 && c.CapValue == packet.RF_IPv4_UC
				n.families.IPv6 = n.families.IPv6 || s.Families.IPv6 && c.CapValue == packet.RF_IPv6_UC
			case *packet.CapGracefulRestart:
				n.keeps = true
			case *packet.CapExtendedNexthop:
				for _, t := range c.Tuples {
					n.extendedNextHop = n.extendedNextHop || t.NLRIAFI == packet.AFI_IP && t.NexthopAFI == packet.AFI_IP6
				}
			}
		}
	}
	if !named { // RFC 4760, section 8
		n.families.IPv4 = s.Families.IPv4
	}

	switch hold := time.Duration(o.HoldTime) * time.Second; {
	case o.Version != 4:
		return refuse(packet.BGP_ERROR_SUB_UNSUPPORTED_VERSION_NUMBER, []byte{0, 4}, "it speaks version %d of BGP", o.Version)
	case s.PeerType == bgp.Numbered && n.asn != s.PeerASN:
		return refuse(packet.BGP_ERROR_SUB_BAD_PEER_AS, asnBytes(n.asn), "its ASN is %d, and %d is wanted", n.asn, s.PeerASN)
	case s.PeerType == bgp.Internal && n.asn != s.LocalASN:
		return refuse(packet.BGP_ERROR_SUB_BAD_PEER_AS, asnBytes(n.asn), "its ASN is %d, and our own, %d, is wanted", n.asn, s.LocalASN)
	case s.PeerType == bgp.External && n.asn == s.LocalASN:
		return refuse(packet.BGP_ERROR_SUB_BAD_PEER_AS, asnBytes(n.asn), "its ASN is our own, %d, and another is wanted", n.asn)
	case n.asn == 0:
		return refuse(packet.BGP_ERROR_SUB_BAD_PEER_AS, asnBytes(n.asn), "its ASN is 0")
	case !n.routerID.IsValid() || n.routerID.IsUnspecified():
		return refuse(packet.BGP_ERROR_SUB_BAD_BGP_IDENTIFIER, nil, "its router ID is 0.0.0.0")
	case n.routerID == s.RouterID && n.asn == s.LocalASN:
		return refuse(packet.BGP_ERROR_SUB_BAD_BGP_IDENTIFIER, nil, "its router ID is our own, %s", s.RouterID)
	case hold != 0 && hold < 3*time.Second:
		return refuse(packet.BGP_ERROR_SUB_UNACCEPTABLE_HOLD_TIME, nil, "its hold time is %s", hold)
	case n.families == bgp.Families{}:
		return refuse(packet.BGP_ERROR_SUB_UNSUPPORTED_CAPABILITY, nil, "it does not carry %s", s.Families)
	case hold == 0: // nobody sends keepalives (RFC 4271, section 4.2)
		n.holdTime, n.keepalive = never, never
	case hold < n.holdTime:
		n.holdTime, n.keepalive = hold, min(n.keepalive, hold/3)
	}
	return n, nil
}

// never is longer than any session.
const never = 100 * 365 * 24 * time.Hour

func asnBytes(asn uint32) []byte {
	if asn < 1<<16 {
		return binary.BigEndian.AppendUint16(nil, uint16(asn))
	}
	return binary.BigEndian.AppendUint16(nil, asTrans)
}
