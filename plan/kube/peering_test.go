// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func seconds(n int) *metav1.Duration {
	return &metav1.Duration{Duration: time.Duration(n) * time.Second}
}

func TestPeersOfANode(t *testing.T) {
	router := netip.MustParseAddr("192.0.2.1")
	bare := func(edit func(*Peer)) Peer {
		p := Peer{
			Name: "p", LocalASN: 64512, PeerASN: 64513, Address: router, Port: 179,
			HoldTime: 90 * time.Second, KeepaliveTime: 30 * time.Second, ConnectTime: 10 * time.Second,
			GracefulRestart: true, RestartTime: 30 * time.Second, IPv4: true, IPv6: true,
		}
		edit(&p)
		return p
	}
	type spec = v1alpha1.BGPPeerSpec
	for name, tt := range map[string]struct {
		edit func(*spec)
		node NodeBGP
		want Peer
	}{
		"what is not said has a default": {func(s *spec) {}, NodeBGP{}, bare(func(p *Peer) {})},
		"all that can be said": {
			func(s *spec) {
				*s = spec{
					LocalASN: new(int64(4200000000)), PeerASN: "4200000001", PeerAddress: "2001:db8::1", PeerPort: 1179, Passive: true,
					SourceAddress: "2001:db8::2", RouterID: "10.0.0.1", BindInterface: "vrf1", HoldTime: seconds(10), KeepaliveTime: seconds(2),
					ConnectTime: seconds(5), TTLSecurityHops: new(int32(1)), PasswordSecretRef: &v1alpha1.PasswordSecret{Name: "good"}, BFDProfile: "fast",
					GracefulRestart: &v1alpha1.GracefulRestart{Enabled: new(true), RestartTime: seconds(60), LongLivedStaleTime: seconds(3600)},
					Families:        []v1alpha1.BGPFamily{"ipv6"},
				}
			}, NodeBGP{},
			Peer{
				Name: "p", LocalASN: 4200000000, PeerASN: 4200000001, Address: netip.MustParseAddr("2001:db8::1"), Port: 1179, Passive: true,
				SourceAddress: netip.MustParseAddr("2001:db8::2"), RouterID: netip.MustParseAddr("10.0.0.1"), BindInterface: "vrf1",
				HoldTime: 10 * time.Second, KeepaliveTime: 2 * time.Second, ConnectTime: 5 * time.Second, TTLSecurityHops: 1, Password: "secret",
				BFD:             &BFD{ReceiveInterval: 100 * time.Millisecond, TransmitInterval: 300 * time.Millisecond, DetectMultiplier: 3, Passive: true, MinimumTTL: 254},
				GracefulRestart: true, RestartTime: time.Minute, LongLivedStaleTime: time.Hour, IPv6: true,
			},
		},
		"an unnumbered one in another AS": {
			func(s *spec) {
				s.PeerAddress, s.Interface, s.PeerASN, s.GracefulRestart = "", "eth1", "external", &v1alpha1.GracefulRestart{Enabled: new(false)}
			}, NodeBGP{},
			bare(func(p *Peer) {
				p.Address, p.Interface, p.PeerASN, p.External, p.GracefulRestart = netip.Addr{}, "eth1", 0, true, false
			}),
		},
		"a gateway in the own AS": {
			func(s *spec) { s.PeerAddress, s.AutoDiscover, s.PeerASN = "", "DefaultGateway", "internal" }, NodeBGP{},
			bare(func(p *Peer) { p.Address, p.DefaultGateway, p.PeerASN, p.Internal = netip.Addr{}, true, 0, true }),
		},
		"keepalives come every whole seconds":   {func(s *spec) { s.HoldTime = seconds(5) }, NodeBGP{}, bare(func(p *Peer) { p.HoldTime, p.KeepaliveTime = 5*time.Second, time.Second })},
		"a multihop one":                        {func(s *spec) { s.EBGPMultiHop = new(int32(255)) }, NodeBGP{}, bare(func(p *Peer) { p.MultiHop = 255 })},
		"a BFDProfile that isn't there is none": {func(s *spec) { s.BFDProfile = "gone" }, NodeBGP{}, bare(func(p *Peer) {})},
		"what the Node says comes first": {
			func(s *spec) { s.RouterID = "10.0.0.1" }, NodeBGP{ASN: "64999", RouterID: "10.0.0.2"},
			bare(func(p *Peer) { p.LocalASN, p.RouterID = 64999, netip.MustParseAddr("10.0.0.2") }),
		},
		"the Node may be the only one to say": {func(s *spec) { s.LocalASN = nil }, NodeBGP{ASN: "64999"}, bare(func(p *Peer) { p.LocalASN = 64999 })},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec{LocalASN: new(int64(64512)), PeerASN: "64513", PeerAddress: "192.0.2.1"}
			tt.edit(&s)
			got := peering(s, tt.node).Of("a")
			if len(got) != 1 || !reflect.DeepEqual(got[0], tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func peering(spec v1alpha1.BGPPeerSpec, node NodeBGP) *Peering {
	return NewPeering(PeeringObjects{
		Peers:       []*v1alpha1.BGPPeer{peer("p", nil, spec)},
		Profiles:    map[string]*v1alpha1.BFDProfile{"fast": {Spec: v1alpha1.BFDProfileSpec{ReceiveInterval: &metav1.Duration{Duration: 100 * time.Millisecond}, Passive: true}}},
		Nodes:       map[string]labels.Set{"a": {"zone": "1"}, "b": nil},
		Annotations: map[string]NodeBGP{"a": node},
		Passwords: map[string]Password{
			"good":    ReadPassword("good", "kubernetes.io/basic-auth", map[string][]byte{"password": []byte("secret")}),
			"long":    ReadPassword("long", "kubernetes.io/basic-auth", map[string][]byte{"password": []byte(strings.Repeat("x", 81))}),
			"empty":   ReadPassword("empty", "kubernetes.io/basic-auth", map[string][]byte{"password": nil}),
			"opaque":  ReadPassword("opaque", "Opaque", map[string][]byte{"password": []byte("secret")}),
			"missing": PasswordMissing("missing", "fairlead"),
			"unread":  PasswordUnread("unread", errors.New("forbidden")),
			"new":     PasswordUnread("new", nil),
		},
	})
}

func TestASessionIsHeldDown(t *testing.T) {
	secret := func(name string) v1alpha1.BGPPeerSpec {
		return v1alpha1.BGPPeerSpec{LocalASN: new(int64(64512)), PasswordSecretRef: &v1alpha1.PasswordSecret{Name: name}}
	}
	asn := v1alpha1.BGPPeerSpec{LocalASN: new(int64(64512))}
	for name, tt := range map[string]struct {
		spec    v1alpha1.BGPPeerSpec
		node    NodeBGP
		reason  Reason
		message string
	}{
		"without an AS of its own":             {v1alpha1.BGPPeerSpec{}, NodeBGP{}, NoLocalASN, "set spec.localASN of BGPPeer p, or the Node's annotation fairlead.dev/bgp-asn"},
		"by an AS that is none":                {asn, NodeBGP{ASN: "AS64512"}, InvalidAnnotation, `"AS64512"`},
		"by an AS that is nobody's":            {asn, NodeBGP{ASN: "23456"}, InvalidAnnotation, "fairlead.dev/bgp-asn"},
		"by an AS of 0":                        {asn, NodeBGP{ASN: "0"}, InvalidAnnotation, "fairlead.dev/bgp-asn"},
		"by a router ID that is none":          {asn, NodeBGP{RouterID: "2001:db8::1"}, InvalidAnnotation, "fairlead.dev/bgp-router-id"},
		"by the router ID 0.0.0.0":             {asn, NodeBGP{RouterID: "0.0.0.0"}, InvalidAnnotation, "fairlead.dev/bgp-router-id"},
		"by a Secret that may not be read":     {secret("other"), NodeBGP{}, SecretNotListed, "speaker.bgp.passwordSecrets"},
		"by a Secret that isn't there":         {secret("missing"), NodeBGP{}, SecretNotFound, "no Secret missing in namespace fairlead"},
		"by a Secret that can't be read":       {secret("unread"), NodeBGP{}, SecretNotRead, "forbidden"},
		"by a Secret that wasn't read yet":     {secret("new"), NodeBGP{}, SecretNotRead, "has not been read yet"},
		"by a Secret of another type":          {secret("opaque"), NodeBGP{}, SecretInvalid, "is of type Opaque"},
		"by a Secret without a password":       {secret("empty"), NodeBGP{}, SecretInvalid, "no entry password"},
		"by a password that TCP-MD5 can't use": {secret("long"), NodeBGP{}, SecretInvalid, "81 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			got := peering(tt.spec, tt.node).Of("a")[0]
			if got.Held == nil || got.Held.Reason != tt.reason || !strings.Contains(got.Held.Message, tt.message) {
				t.Errorf("held by %+v", got.Held)
			}
			if got.Password != "" {
				t.Errorf("with password %q", got.Password)
			}
		})
	}
}

func TestAPeerSelectsNodes(t *testing.T) {
	p := peering(v1alpha1.BGPPeerSpec{NodeSelector: matching("zone", "1")}, NodeBGP{})
	if a, b, gone := p.Of("a"), p.Of("b"), p.Of("gone"); len(a) != 1 || b != nil || gone != nil {
		t.Errorf("got %v, %v, %v", a, b, gone)
	}
	if got := peering(v1alpha1.BGPPeerSpec{NodeSelector: unreadable}, NodeBGP{}).Of("a"); got != nil {
		t.Errorf("one that can't be read selects %v", got)
	}
}
