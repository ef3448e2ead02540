// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"net"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// Routers ask for one family right after the other, while the table may still be
// on its way.
func TestNoFamilyThatIsAskedForAgainIsForgotten(t *testing.T) {
	t.Parallel()
	own, router := net.Pipe()
	talk := &talk{Conn: own, negotiated: negotiated{holdTime: patience}}
	refresh := make(chan bgp.Families, 1)
	over := make(chan error)
	go func() { over <- talk.receive(refresh) }()
	for _, afi := range []uint16{packet.AFI_IP, packet.AFI_IP6} {
		if err := write(router, packet.NewBGPRouteRefreshMessage(afi, 0, packet.SAFI_UNICAST)); err != nil {
			t.Fatal(err)
		}
	}
	_ = router.Close()
	if err := <-over; err == nil {
		t.Error("the session goes on")
	}
	if got := <-refresh; got != (bgp.Families{IPv4: true, IPv6: true}) {
		t.Errorf("%s will be sent", got)
	}
}

// A router that wants a shorter hold time doesn't get fewer messages than this
// side was told to send.
func TestKeepaliveTime(t *testing.T) {
	s := bgp.Session{Peer: plain("tor", 65001)}
	s.HoldTime, s.PeerASN = 90*time.Second, 65000
	for _, test := range []struct{ own, hold, want time.Duration }{
		{own: 5 * time.Second, hold: 30 * time.Second, want: 5 * time.Second},
		{own: 30 * time.Second, hold: 30 * time.Second, want: 10 * time.Second},
		{own: 30 * time.Second, hold: 180 * time.Second, want: 30 * time.Second},
	} {
		s.KeepaliveTime = test.own
		body, err := packet.NewBGPOpenMessage(65000, uint16(test.hold/time.Second), "192.0.2.99", nil).Body.Serialize()
		if err != nil {
			t.Fatal(err)
		}
		n, f := negotiate(s, body)
		if f != nil || n.keepalive != test.want {
			t.Errorf("%+v: %s, %v", test, n.keepalive, f)
		}
	}
}
