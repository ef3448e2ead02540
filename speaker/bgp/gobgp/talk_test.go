// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"net"
	"testing"

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
