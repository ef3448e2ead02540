// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/osrg/gobgp/v3/api"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

func number(n uint32) *uint32 { return &n }

func TestRoutesArriveWithTheirAttributes(t *testing.T) {
	t.Parallel()
	full := bgp.Route{
		Prefix: netip.MustParsePrefix("10.0.0.1/32"), Communities: []uint32{65000<<16 | 7, 0xffffff01},
		Large: [][3]uint32{{65000, 1, 2}}, LocalPref: number(200), MED: number(30), Prepend: 2,
	}
	bare := bgp.Route{Prefix: netip.MustParsePrefix("10.0.0.0/24")}
	for _, test := range []struct {
		name       string
		routerASN  uint32
		edit       func(*bgp.Peer)
		full, bare received
	}{
		{
			name: "external", routerASN: 65000,
			full: received{Path: []uint32{65001, 65001, 65001}, Communities: full.Communities, Large: full.Large, MED: 30},
			bare: received{Path: []uint32{65001}},
		},
		{
			name: "external of any ASN", routerASN: 4200000000,
			edit: func(p *bgp.Peer) { p.PeerType, p.PeerASN = bgp.External, 0 },
			full: received{Path: []uint32{65001, 65001, 65001}, Communities: full.Communities, Large: full.Large, MED: 30},
			bare: received{Path: []uint32{65001}},
		},
		{
			name: "internal", routerASN: 65001,
			edit: func(p *bgp.Peer) { p.PeerType, p.PeerASN = bgp.Internal, 0 },
			full: received{Communities: full.Communities, Large: full.Large, LocalPref: 200, MED: 30},
			bare: received{LocalPref: 100},
		},
		{
			name: "internal by number", routerASN: 65001,
			full: received{Communities: full.Communities, Large: full.Large, LocalPref: 200, MED: 30},
			bare: received{LocalPref: 100},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, test.routerASN)
			p := r.peer("tor", 65001)
			if test.edit != nil {
				test.edit(&p)
			}
			r.expect(t, p.Source, 65001)
			a := newAnnouncer(t, false)
			a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: []bgp.Route{full, bare}}))
			established(t, a, "tor")
			test.full.NextHop, test.bare.NextHop = p.Source.String(), p.Source.String()
			want := map[string]received{"10.0.0.1/32": test.full, "10.0.0.0/24": test.bare}
			eventually(t, func() error {
				if d := cmp.Diff(want, r.table(t, p.Source, ipv4)); d != "" {
					return fmt.Errorf("table (-want +got):\n%s", d)
				}
				return nil
			})
			s := status(a, "tor")
			if s.ASN != test.routerASN || s.RouterID != r.addr || s.Local != p.Source || s.Families != (bgp.Families{IPv4: true}) || s.Routes != 2 || !s.GracefulRestart || s.LastError != "" {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestSetSendsWhatChanged(t *testing.T) {
	t.Parallel()
	r := newRouter(t, 65000)
	p := r.peer("tor", 65001)
	r.expect(t, p.Source, 65001)
	a := newAnnouncer(t, false)
	first := routes(100)
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: first}))
	established(t, a, "tor")
	has := func(n int) {
		t.Helper()
		eventually(t, func() error {
			if got := len(r.table(t, p.Source, ipv4)); got != n {
				return fmt.Errorf("the router has %d routes, not %d", got, n)
			}
			return nil
		})
	}
	has(100)
	since := status(a, "tor").Since
	before := r.updates(t, p.Source)

	// The same routes, as they are and written anew.
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: first}))
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(100)}))
	// One more proves that all before it was looked at.
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(101)}))
	has(101)
	if n := r.updates(t, p.Source) - before; n != 1 {
		t.Errorf("%d UPDATEs for one new route, want 1", n)
	}

	a.Mark()
	eventually(t, func() error {
		for prefix, got := range r.table(t, p.Source, ipv4) {
			if !cmp.Equal(got.Communities, []uint32{bgp.GracefulShutdown}) {
				return fmt.Errorf("%s has communities %x", prefix, got.Communities)
			}
		}
		return nil
	})
	a.Withdraw()
	has(0)
	if s := status(a, "tor"); s.State != bgp.Established || s.Since != since {
		t.Errorf("the session did not stay: %+v", s)
	}
}

func TestSessionSurvivesAThousandChanges(t *testing.T) {
	t.Parallel()
	r := newRouter(t, 65000)
	p := r.peer("tor", 65001)
	r.expect(t, p.Source, 65001)
	other := newWire(t).peer("other", 65001)
	a := newAnnouncer(t, false)
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(10)}))
	established(t, a, "tor")
	since := status(a, "tor").Since
	for i := range 1000 {
		p.BFD.Multiplier = uint8(i) // a field that needs no reset
		peers := []bgp.PeerRoutes{{Peer: p, Routes: routes(1 + i%50)}}
		if i%100 < 50 {
			other.HoldTime = time.Duration(9+i%3) * time.Second
			peers = append(peers, bgp.PeerRoutes{Peer: other})
		}
		a.Set(desired(peers...))
	}
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(7)}))
	eventually(t, func() error {
		if got := len(r.table(t, p.Source, ipv4)); got != 7 {
			return fmt.Errorf("the router has %d routes, not 7", got)
		}
		return nil
	})
	if s := status(a, "tor"); s.State != bgp.Established || s.Since != since {
		t.Errorf("the session did not stay: %+v", s)
	}
}

func TestPassivePeersShareASocketAndNotTheirRoutes(t *testing.T) {
	t.Parallel()
	own := loopback()
	a := newAnnouncer(t, false)
	var peers []bgp.PeerRoutes
	var routers []*router
	for i := range 3 {
		r := newRouter(t, 65000+uint32(i)*10)
		p := r.peer(fmt.Sprint("tor", i), 65001)
		p.Source, p.Port, p.Passive = own, 10179, true
		r.expect(t, own, 65001, func(n *api.Peer) {
			n.Transport = &api.Transport{RemotePort: 10179, LocalAddress: r.addr.String()}
		})
		peers = append(peers, bgp.PeerRoutes{Peer: p, Routes: []bgp.Route{
			{Prefix: netip.MustParsePrefix("10.0.0.0/24"), MED: number(uint32(i) + 1)},
			{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 32)},
		}})
		routers = append(routers, r)
	}
	a.Set(desired(peers...))
	established(t, a, "tor0", "tor1", "tor2")
	check := func(i int, want map[string]received) {
		t.Helper()
		eventually(t, func() error {
			if d := cmp.Diff(want, routers[i].table(t, own, ipv4)); d != "" {
				return fmt.Errorf("table of router %d (-want +got):\n%s", i, d)
			}
			return nil
		})
	}
	of := func(i int) map[string]received {
		return map[string]received{
			"10.0.0.0/24":                  {NextHop: own.String(), Path: []uint32{65001}, MED: uint32(i) + 1},
			fmt.Sprintf("10.1.0.%d/32", i): {NextHop: own.String(), Path: []uint32{65001}},
		}
	}
	for i := range routers {
		check(i, of(i))
	}
	since := status(a, "tor1").Since
	// One peer less, and one route less for another.
	peers[1].Routes = peers[1].Routes[:1]
	a.Set(desired(peers[1:]...))
	want := of(1)
	delete(want, "10.1.0.1/32")
	check(1, want)
	check(2, of(2))
	if s := status(a, "tor1"); s.State != bgp.Established || s.Since != since {
		t.Errorf("the session did not stay: %+v", s)
	}
}
