// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	api "github.com/osrg/gobgp/v3/api"
	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

func TestPasswords(t *testing.T) {
	t.Parallel()
	r := newRouter(t, 65000)
	p := r.peer("tor", 65001)
	p.Password = "right"
	r.expect(t, p.Source, 65001, func(n *api.Peer) { n.Conf.AuthPassword = "right" })
	a := newAnnouncer(t, false)
	set := func() { a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(1)})) }
	set()
	established(t, a, "tor")

	// It is changed on one side only.
	p.Password = "wrong"
	set()
	eventually(t, func() error {
		if s := status(a, "tor"); s.State == bgp.Established || !strings.Contains(s.LastError, "can't connect: no answer: the router is down, out of reach, or has another password") {
			return fmt.Errorf("%s: %q", s.State, s.LastError)
		}
		return nil
	})

	// A peer that wants one and has none is held down.
	p.Password, p.PasswordProblem = "", "there is no Secret tor"
	set()
	eventually(t, func() error {
		if s := a.Status(); len(s) != 1 || s[0].Refusal.Reason != bgp.PasswordUnavailable {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	p.Password, p.PasswordProblem = "right", ""
	set()
	established(t, a, "tor")
}

func TestTTLSecurity(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		router      func(*api.Peer)
		established bool
	}{
		{
			name: "a router that sends with TTL 255 is heard", established: true,
			router: func(n *api.Peer) { n.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 255} },
		},
		{name: "another one is not", router: func(n *api.Peer) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, 65000)
			p := r.peer("tor", 65001)
			p.TTLSecurityHops = 1
			r.expect(t, p.Source, 65001, test.router)
			a := newAnnouncer(t, false)
			a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(1)}))
			if test.established {
				established(t, a, "tor")
				return
			}
			// The router's socket answers with TTL 255, so that the connection is
			// made, and falls to 1 then: nothing of what it says is heard.
			eventually(t, func() error {
				if s := status(a, "tor"); s.State != bgp.OpenSent {
					return fmt.Errorf("%s", s.State)
				}
				return nil
			})
			time.Sleep(2 * time.Second)
			if s := status(a, "tor"); s.State != bgp.OpenSent {
				t.Errorf("%s", s.State)
			}
		})
	}
}

func TestBothFamiliesOverEither(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("2001:db8::1/128")
	own4, own6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8:1::7")
	for _, test := range []struct {
		name         string
		over6        bool
		addrs        []netip.Addr
		next4, next6 string
	}{
		{name: "IPv4", addrs: []netip.Addr{own4, own6}, next6: own6.String()},
		{name: "IPv6", over6: true, addrs: []netip.Addr{own4, own6}, next4: own4.String(), next6: "::1"},
		{name: "IPv6 on a link without IPv4", over6: true, addrs: []netip.Addr{own6}, next4: "::1", next6: "::1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !test.over6 {
				t.Parallel()
			}
			r := newRouter(t, 65000)
			if test.over6 {
				r = started.over6
				r.asn = 65000
			}
			p := r.peer("tor", 65001)
			p.Families.IPv6 = true
			if test.over6 {
				p.Source = netip.IPv6Loopback()
			}
			r.expect(t, p.Source, 65001)
			if test.next4 == "" {
				test.next4 = p.Source.String()
			}
			a := newAnnouncer(t, false)
			a.Set(bgp.Desired{
				Peers:   []bgp.PeerRoutes{{Peer: p, Routes: []bgp.Route{{Prefix: v4}, {Prefix: v6}}}},
				Network: bgp.Network{Links: []link.Link{{Name: "eth0", Addrs: test.addrs, Gateways: []netip.Addr{r.addr}}}},
			})
			established(t, a, "tor")
			eventually(t, func() error {
				if d := cmp.Diff(map[string]received{v4.String(): {NextHop: test.next4, Path: []uint32{65001}}}, r.table(t, p.Source, ipv4)); d != "" {
					return fmt.Errorf("IPv4 (-want +got):\n%s", d)
				}
				if d := cmp.Diff(map[string]received{v6.String(): {NextHop: test.next6, Path: []uint32{65001}}}, r.table(t, p.Source, ipv6)); d != "" {
					return fmt.Errorf("IPv6 (-want +got):\n%s", d)
				}
				return nil
			})
			if s := status(a, "tor"); s.Families != (bgp.Families{IPv4: true, IPv6: true}) || s.LastError != "" {
				t.Errorf("status %+v", s)
			}
			if test.over6 {
				a.Set(bgp.Desired{})
				r.forget(t)
			}
		})
	}
}

func TestIPv4OverIPv6NeedsACapability(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, l: l, addr: netip.IPv6Loopback(), port: uint16(l.Addr().(*net.TCPAddr).Port)}
	t.Cleanup(func() { _ = l.Close() })
	p := w.peer("tor", 65001)
	p.Source = netip.Addr{}
	a := newAnnouncer(t, false)
	tell := func(addrs ...netip.Addr) {
		a.Set(bgp.Desired{
			Peers:   []bgp.PeerRoutes{{Peer: p, Routes: routes(1)}},
			Network: bgp.Network{Links: []link.Link{{Name: "eth0", Addrs: addrs, Gateways: []netip.Addr{w.addr}}}},
		})
	}
	tell()
	c := w.accept()
	establish(t, c, 65000, helper())
	if got := told(t, c); len(got) != 0 {
		t.Errorf("the router is told %v", got)
	}
	// With another next hop it is told, and without it no more.
	tell(netip.MustParseAddr("192.0.2.7"))
	count(t, c, 1)
	tell()
	if u := next[*packet.BGPUpdate](t, c); len(u.WithdrawnRoutes) != 1 {
		t.Errorf("the router was told %+v", u)
	}
	eventually(t, func() error {
		if s := status(a, "tor"); !strings.Contains(s.LastError, "RFC 8950") {
			return fmt.Errorf("%s: %q", s.State, s.LastError)
		}
		return nil
	})
}

// A router may send anything. A session with it may end, and nothing else.
func TestMalformedMessagesDisturbNobody(t *testing.T) {
	t.Parallel()
	r := newRouter(t, 65000)
	good := r.peer("good", 65001)
	r.expect(t, good.Source, 65001)
	const bad = 8
	a := newAnnouncer(t, false)
	peers := []bgp.PeerRoutes{{Peer: good, Routes: routes(10)}}
	var wires []*wire
	for i := range bad {
		w := newWire(t)
		wires = append(wires, w)
		peers = append(peers, bgp.PeerRoutes{Peer: w.peer(fmt.Sprint("bad", i), 65001), Routes: routes(10)})
	}
	a.Set(desired(peers...))
	established(t, a, "good")
	since := status(a, "good").Since

	until := time.Now().Add(5 * time.Second)
	sent := make(chan int)
	for i, w := range wires {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			n := 0
			for time.Now().Before(until) {
				if err := w.l.(*net.TCPListener).SetDeadline(until); err != nil {
					break
				}
				c, err := w.l.Accept()
				if err != nil {
					break
				}
				n += nonsense(c, rng, until)
				_ = c.Close()
			}
			sent <- n
		}()
	}
	total := 0
	for range wires {
		total += <-sent
	}
	t.Logf("%d messages", total)
	if total < 100 {
		t.Errorf("only %d messages were taken", total)
	}
	if s := status(a, "good"); s.State != bgp.Established || s.Since != since || len(r.table(t, good.Source, ipv4)) != 10 {
		t.Errorf("the other session was disturbed: %+v", s)
	}
}

// nonsense sends messages that are nearly right, in every state, as long as they
// are taken.
func nonsense(c net.Conn, rng *rand.Rand, until time.Time) (n int) {
	good := []*packet.BGPMessage{open(65000, helper()), packet.NewBGPKeepAliveMessage(), flood(rng.IntN(1000), 3),
		packet.NewBGPRouteRefreshMessage(packet.AFI_IP, 0, packet.SAFI_UNICAST), packet.NewEndOfRib(packet.RF_IPv4_UC)}
	if rng.IntN(4) > 0 {
		// Most of the code is behind a session that is established.
		if write(c, good[0]) != nil || write(c, good[1]) != nil {
			return 0
		}
	}
	if err := c.SetDeadline(until); err != nil {
		return 0
	}
	for time.Now().Before(until) {
		m := good[rng.IntN(len(good))]
		m.Header.Len = 0
		b, err := m.Serialize()
		if err != nil {
			return n
		}
		for range rng.IntN(4) {
			// Mostly behind the header: of that a fault ends the session.
			if at := rng.IntN(len(b)); at >= packet.BGP_HEADER_LENGTH || rng.IntN(20) == 0 {
				b[at] = byte(rng.Uint32())
			}
		}
		if _, err := c.Write(b); err != nil {
			return n
		}
		n++
		if n%50 == 0 {
			time.Sleep(10 * time.Millisecond) // or else most are never read
		}
	}
	return n
}
