// SPDX-License-Identifier: Apache-2.0

package bgp

// Field is one of a BGPPeer, as users know it.
type Field struct {
	Name string
	// Resets says that a session ends and begins anew when the field changes,
	// because the router is told of it in the OPEN message or because it is a
	// property of the connection.
	Resets bool
	// Why is for the reference: what a change does.
	Why string

	of func(Session) any
}

// Fields lists what makes up a session.
var Fields = []Field{
	{"peerAddress, interface, autoDiscover", true, "another router is another session", func(s Session) any { return s.Neighbor }},
	{"peerPort", true, "the connection goes to it", func(s Session) any { return s.Port }},
	{"sourceAddress", true, "the connection comes from it", func(s Session) any { return s.Source }},
	{"bindInterface", true, "the connection is confined to it", func(s Session) any { return s.BindInterface }},
	{"localASN", true, "it is in the OPEN message", func(s Session) any { return s.LocalASN }},
	{"peerASN", true, "the router's OPEN message is checked against it", func(s Session) any { return [2]uint32{s.PeerASN, uint32(s.PeerType)} }},
	{"routerID", true, "it is in the OPEN message", func(s Session) any { return s.RouterID }},
	{"holdTime", true, "it is in the OPEN message", func(s Session) any { return s.HoldTime }},
	{"keepaliveTime", true, "it goes with the hold time", func(s Session) any { return s.KeepaliveTime }},
	{"connectTime", false, "the next connection heeds it", func(s Session) any { return s.ConnectTime }},
	{"ebgpMultiHop", true, "the connection has it", func(s Session) any { return s.MultiHop }},
	{"ttlSecurityHops", true, "the connection has it", func(s Session) any { return s.TTLSecurityHops }},
	{"passwordSecretRef", true, "the connection is signed with it", func(s Session) any { return s.Password }},
	{"passive", true, "the other side connects", func(s Session) any { return s.Passive }},
	{"families", true, "they are in the OPEN message", func(s Session) any { return s.Families }},
	{"gracefulRestart", true, "it is in the OPEN message", func(s Session) any {
		return [3]any{s.GracefulRestart, s.RestartTime, s.LongLivedTime}
	}},
	{"bfdProfile", false, "BFD negotiates its timers anew by itself", func(s Session) any { return s.BFD }},
	{"next hop", false, "the routes are announced anew", func(s Session) any { return [2]any{s.NextHop4, s.NextHop6} }},
}

// Changed returns the fields in which two sessions with one neighbour differ.
func Changed(a, b Session) []Field {
	var out []Field
	for _, f := range Fields {
		if f.of(a) != f.of(b) {
			out = append(out, f)
		}
	}
	return out
}
