// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

func valid() Peer {
	return Peer{
		Name: "tor", Address: netip.MustParseAddr("192.0.2.1"), LocalASN: 65001, PeerASN: 65000, RouterID: netip.MustParseAddr("192.0.2.7"),
		HoldTime: 90 * time.Second, KeepaliveTime: 3 * time.Second, ConnectTime: 5 * time.Second,
		Families: Families{IPv4: true}, GracefulRestart: true, RestartTime: 30 * time.Second,
	}
}

func TestPeersThatCannotBe(t *testing.T) {
	for want, edit := range map[string]func(*Peer){
		"one of peerAddress":                 func(p *Peer) { p.Interface = "eth0" },
		"one of peerAddress, interface":      func(p *Peer) { p.Address = netip.Addr{} },
		"is not the address of a router":     func(p *Peer) { p.Address = netip.MustParseAddr("224.0.0.1") },
		"is link-local":                      func(p *Peer) { p.Address = netip.MustParseAddr("fe80::1") },
		"localASN 0":                         func(p *Peer) { p.LocalASN = 0 },
		"localASN 23456":                     func(p *Peer) { p.LocalASN = 23456 },
		"peerASN 23456":                      func(p *Peer) { p.PeerASN = 23456 },
		"routerID must be":                   func(p *Peer) { p.RouterID = netip.IPv4Unspecified() },
		"holdTime 2s":                        func(p *Peer) { p.HoldTime = 2 * time.Second },
		"holdTime 9.5s":                      func(p *Peer) { p.HoldTime = 9500 * time.Millisecond },
		"keepaliveTime 0s":                   func(p *Peer) { p.KeepaliveTime = 0 },
		"keepaliveTime 31s":                  func(p *Peer) { p.KeepaliveTime = 31 * time.Second },
		"connectTime 0s":                     func(p *Peer) { p.ConnectTime = 0 },
		"ebgpMultiHop is for external peers": func(p *Peer) { p.MultiHop, p.PeerType = 2, Internal },
		"ebgpMultiHop and ttlSecurityHops":   func(p *Peer) { p.MultiHop, p.TTLSecurityHops = 2, 2 },
		"ebgpMultiHop contradicts interface": func(p *Peer) { p.MultiHop, p.Address, p.Interface = 2, netip.Addr{}, "eth0" },
		"ttlSecurityHops must be":            func(p *Peer) { p.TTLSecurityHops = 255 },
		"sourceAddress ::":                   func(p *Peer) { p.Source = netip.IPv6Unspecified() },
		"are of different families":          func(p *Peer) { p.Source = netip.MustParseAddr("2001:db8::1") },
		"sourceAddress contradicts interface": func(p *Peer) {
			p.Source, p.Address, p.Interface = netip.MustParseAddr("2001:db8::1"), netip.Addr{}, "eth0"
		},
		"the kernel does not sign":          func(p *Peer) { p.Password, p.Address = "x", netip.MustParseAddr("fe80::1%eth0") },
		"longer than 80 bytes":              func(p *Peer) { p.Password = strings.Repeat("x", 81) },
		"families must name":                func(p *Peer) { p.Families = Families{} },
		"the restart time 0s":               func(p *Peer) { p.RestartTime = 0 },
		"long-lived graceful restart needs": func(p *Peer) { p.GracefulRestart, p.LongLivedTime = false, time.Second },
	} {
		p := valid()
		edit(&p)
		sessions, refusals := Resolve([]Peer{p}, Network{})
		if len(sessions) != 0 || len(refusals) != 1 || refusals[0].Reason != InvalidPeer || !strings.Contains(refusals[0].Message, want) {
			t.Errorf("%s: %v, %v", want, sessions, refusals)
		}
	}
}

// What the API server admits must not be refused here.
func TestPeersAtTheEdge(t *testing.T) {
	for name, edit := range map[string]func(*Peer){
		"the greatest AS":    func(p *Peer) { p.LocalASN, p.PeerASN = 1<<32-1, 1<<32-1 },
		"AS 65535":           func(p *Peer) { p.PeerASN = 65535 },
		"the shortest times": func(p *Peer) { p.HoldTime, p.KeepaliveTime, p.ConnectTime = 3*time.Second, time.Second, time.Second },
		"the longest times": func(p *Peer) {
			p.HoldTime, p.KeepaliveTime, p.ConnectTime = 65535*time.Second, 21845*time.Second, 65535*time.Second
			p.RestartTime, p.LongLivedTime = 4095*time.Second, 16777215*time.Second
		},
		"a router on the node":     func(p *Peer) { p.Address = netip.MustParseAddr("127.0.0.1") },
		"an IPv4 link-local one":   func(p *Peer) { p.Address = netip.MustParseAddr("169.254.1.1") },
		"as many hops as there be": func(p *Peer) { p.MultiHop = 255 },
	} {
		p := valid()
		edit(&p)
		if sessions, refusals := Resolve([]Peer{p}, Network{}); len(sessions) != 1 || len(refusals) != 0 {
			t.Errorf("%s: %v, %v", name, sessions, refusals)
		}
	}
}

func TestResolve(t *testing.T) {
	addr := netip.MustParseAddr
	eth0 := link.Link{
		Name: "eth0", Addrs: []netip.Addr{addr("192.0.2.7"), addr("2001:db8::7"), addr("fe80::7")},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::7/64"), netip.MustParsePrefix("fe80::7/64")},
		Gateways: []netip.Addr{addr("192.0.2.1"), addr("fe80::1")},
	}
	eth1 := link.Link{Name: "eth1", Addrs: []netip.Addr{addr("fe80::8")}, Prefixes: []netip.Prefix{netip.MustParsePrefix("fe80::8/64")}}
	type found struct {
		Neighbor     string
		OnLink       bool
		Next4, Next6 string
		Families     Families
	}
	both := Families{IPv4: true, IPv6: true}
	for _, test := range []struct {
		name    string
		edit    func(*Peer)
		network Network
		want    []found
		reasons []Reason
	}{
		{
			name: "an address", edit: func(*Peer) {}, network: Network{Links: []link.Link{eth0}},
			want: []found{{Neighbor: "192.0.2.1", OnLink: true, Families: Families{IPv4: true}}},
		},
		{
			name: "an address behind a router", edit: func(p *Peer) { p.Address, p.Families = addr("198.51.100.1"), both },
			network: Network{Links: []link.Link{eth1, eth0}},
			want:    []found{{Neighbor: "198.51.100.1", Next6: "2001:db8::7", Families: both}},
		},
		{
			name: "no IPv6 on the way", edit: func(p *Peer) { p.Families = both },
			want: []found{{Neighbor: "192.0.2.1", Families: both}}, reasons: []Reason{NoNextHop},
		},
		{
			name: "an IPv6 address", edit: func(p *Peer) { p.Address, p.Families = addr("2001:db8::1"), both },
			network: Network{Links: []link.Link{eth0}},
			want:    []found{{Neighbor: "2001:db8::1", OnLink: true, Next4: "192.0.2.7", Families: both}},
		},
		{
			name: "an interface", edit: func(p *Peer) { p.Address, p.Interface, p.Families = netip.Addr{}, "eth1", both },
			network: Network{Links: []link.Link{eth0, eth1}, Routers: map[string][]netip.Addr{"eth1": {addr("fe80::2")}, "eth0": {addr("fe80::3")}}},
			want:    []found{{Neighbor: "fe80::2%eth1", OnLink: true, Families: both}},
		},
		{
			name: "an interface without a router", edit: func(p *Peer) { p.Address, p.Interface = netip.Addr{}, "eth1" },
			network: Network{Links: []link.Link{eth1}}, reasons: []Reason{NoNeighbor},
		},
		{
			name: "an interface that is not there", edit: func(p *Peer) { p.Address, p.Interface = netip.Addr{}, "eth1" },
			reasons: []Reason{NoNeighbor},
		},
		{
			name: "gateways of both families", edit: func(p *Peer) { p.Address, p.DefaultGateway, p.Families = netip.Addr{}, true, both },
			network: Network{Links: []link.Link{eth0}},
			want: []found{
				{Neighbor: "192.0.2.1", OnLink: true, Families: Families{IPv4: true}},
				{Neighbor: "fe80::1%eth0", OnLink: true, Families: Families{IPv6: true}},
			},
		},
		{
			name: "a gateway of a family", edit: func(p *Peer) { p.Address, p.DefaultGateway = netip.Addr{}, true },
			network: Network{Links: []link.Link{eth0}},
			want:    []found{{Neighbor: "192.0.2.1", OnLink: true, Families: Families{IPv4: true}}},
		},
		{name: "no gateway", edit: func(p *Peer) { p.Address, p.DefaultGateway = netip.Addr{}, true }, reasons: []Reason{NoNeighbor}},
		{
			name: "a gateway that can have no password",
			edit: func(p *Peer) {
				p.Address, p.DefaultGateway, p.Password, p.Families = netip.Addr{}, true, "x", Families{IPv6: true}
			},
			network: Network{Links: []link.Link{eth0}}, reasons: []Reason{InvalidPeer},
		},
		{name: "no password yet", edit: func(p *Peer) { p.PasswordProblem = "no Secret" }, reasons: []Reason{PasswordUnavailable}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := valid()
			test.edit(&p)
			sessions, refusals := Resolve([]Peer{p}, test.network)
			var got []found
			text := func(a netip.Addr) string {
				if !a.IsValid() {
					return ""
				}
				return a.String()
			}
			for _, s := range sessions {
				got = append(got, found{s.Neighbor.String(), s.OnLink, text(s.NextHop4), text(s.NextHop6), s.Families})
			}
			var reasons []Reason
			for _, r := range refusals {
				reasons = append(reasons, r.Reason)
			}
			if d := cmp.Diff(test.want, got) + cmp.Diff(test.reasons, reasons); d != "" {
				t.Errorf("(-want +got)\n%s%v", d, refusals)
			}
		})
	}
}

// Routers know the node on an unnumbered link by one address.
func TestSourceOnUnnumberedLinks(t *testing.T) {
	addr := netip.MustParseAddr
	n := Network{
		Links:   []link.Link{{Name: "eth1", Addrs: []netip.Addr{addr("192.0.2.8"), addr("fe80::8"), addr("fe80::9")}}},
		Routers: map[string][]netip.Addr{"eth1": {addr("fe80::2")}},
	}
	for _, test := range []struct {
		passive bool
		want    netip.Addr
	}{{false, addr("fe80::8")}, {true, netip.Addr{}}} { // to a passive peer the router comes
		p := valid()
		p.Address, p.Interface, p.Passive = netip.Addr{}, "eth1", test.passive
		sessions, refusals := Resolve([]Peer{p}, n)
		if len(sessions) != 1 || sessions[0].Source != test.want {
			t.Errorf("%+v, %v, want the source %s", sessions, refusals, test.want)
		}
	}
}

func TestPeersThatAreInEachOthersWay(t *testing.T) {
	second := func(edit func(*Peer)) []Peer {
		a, b := valid(), valid()
		a.Name, b.Name = "a", "b"
		edit(&b)
		return []Peer{b, a}
	}
	passive := func(peers []Peer) []Peer {
		for i := range peers {
			peers[i].Passive = true
		}
		return peers
	}
	other := netip.MustParseAddr("192.0.2.2")
	for _, test := range []struct {
		name  string
		peers []Peer
		want  []Reason
	}{
		{"one router", second(func(*Peer) {}), []Reason{DuplicateNeighbor}},
		{"one router in two VRFs", second(func(p *Peer) { p.BindInterface = "blue" }), nil},
		{"one socket", passive(second(func(p *Peer) { p.Address = other })), nil},
	} {
		_, refusals := Resolve(test.peers, Network{})
		var got []Reason
		for _, r := range refusals {
			got = append(got, r.Reason)
			if r.Peer != "b" {
				t.Errorf("%s: the first by name is refused: %v", test.name, r)
			}
		}
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, d)
		}
	}
}

// Every field of a session is in the table, so that an edit of none is missed.
func TestFieldsAreComplete(t *testing.T) {
	base := Session{Peer: valid(), Neighbor: netip.MustParseAddr("192.0.2.1")}
	elsewhere := map[string]string{
		"Name": "it is the session's key", "Address": "Neighbor comes of it", "Interface": "Neighbor comes of it", "DefaultGateway": "Neighbor comes of it",
		"PasswordProblem": "there is no session with one", "OnLink": "only BFD uses it",
	}
	var edit func(v reflect.Value, name string)
	s := base
	edit = func(v reflect.Value, name string) {
		for i := range v.NumField() {
			field := v.Type().Field(i).Name
			f := v.Field(i)
			if field == "Peer" {
				edit(f, field)
				continue
			}
			s = base
			switch x := f.Addr().Interface().(type) {
			case *netip.Addr:
				*x = netip.MustParseAddr("203.0.113.99")
			case *time.Duration:
				*x += time.Second
			case *Families:
				x.IPv6 = true
			case *BFDProfile:
				x.Multiplier = 9
			case *string:
				*x += "x"
			case *bool:
				*x = !*x
			default:
				f.SetUint(f.Uint() + 1)
			}
			if got, known := len(Changed(base, s)), elsewhere[field] != ""; (got == 0) != known {
				t.Errorf("%s: %d fields changed", field, got)
			}
		}
	}
	edit(reflect.ValueOf(&s).Elem(), "Session")
}

func TestNotificationsInWords(t *testing.T) {
	for _, test := range []struct {
		n    Notification
		want string
	}{
		{Notification{Code: 6, Subcode: 2, Sent: true}, "we ended the session: cease, administrative shutdown"},
		{Notification{Code: 2, Subcode: 2}, "the router ended the session: OPEN message error, bad peer AS (it expects another ASN of this node)"},
		{Notification{Code: 6, Subcode: 99}, "the router ended the session: cease, subcode 99"},
		{Notification{Code: 99}, "the router ended the session: error 99"},
		{Notification{Code: 6, Subcode: 4, Text: "a\xffb"}, `the router ended the session: cease, administrative reset: "a?b"`},
		{Notification{Code: 4, Sent: true}, HoldTimeOver},
	} {
		if got := test.n.String(); got != test.want {
			t.Errorf("%+v: %s, want %s", test.n, got, test.want)
		}
	}
}
