// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// restart returns the graceful restart capability of an OPEN message, and the
// long-lived one.
func restart(t testing.TB, o *packet.BGPOpen) (*packet.CapGracefulRestart, *packet.CapLongLivedGracefulRestart) {
	t.Helper()
	var short *packet.CapGracefulRestart
	var long *packet.CapLongLivedGracefulRestart
	for _, p := range o.OptParams {
		for _, c := range p.(*packet.OptionParameterCapability).Capability {
			switch c := c.(type) {
			case *packet.CapGracefulRestart:
				short = c
			case *packet.CapLongLivedGracefulRestart:
				long = c
			}
		}
	}
	return short, long
}

// helper is the capability of a router that keeps routes during a restart.
func helper() packet.ParameterCapabilityInterface {
	return packet.NewCapGracefulRestart(false, false, 120, []*packet.CapGracefulRestartTuple{packet.NewCapGracefulRestartTuple(packet.RF_IPv4_UC, false)})
}

const (
	restartState    = 0x08 // of the flags of the capability
	notificationBit = 0x04
	forwardingState = 0x80 // of the flags of a family
)

// told reads UPDATE messages until the end of the table and returns its prefixes.
func told(t testing.TB, c net.Conn) []string {
	t.Helper()
	var out []string
	for {
		u := next[*packet.BGPUpdate](t, c)
		if end, _ := u.IsEndOfRib(); end {
			return out
		}
		for _, n := range u.NLRI {
			out = append(out, n.String())
		}
	}
}

func TestOpenSaysWhetherForwardingWasPreserved(t *testing.T) {
	t.Parallel()
	for _, preserved := range []bool{false, true} {
		t.Run(fmt.Sprint(preserved), func(t *testing.T) {
			t.Parallel()
			w := newWire(t)
			p := w.peer("tor", 65001)
			p.LongLivedTime = time.Hour
			a := newAnnouncer(t, preserved)
			a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(3)}))
			check := func(o *packet.BGPOpen, restarted, kept bool) {
				t.Helper()
				short, long := restart(t, o)
				if short == nil || long == nil || len(short.Tuples) != 1 || len(long.Tuples) != 1 {
					t.Fatalf("capabilities %v and %v", short, long)
				}
				if got := short.Flags&restartState != 0; got != restarted {
					t.Errorf("R-bit %v, want %v", got, restarted)
				}
				if got := short.Tuples[0].Flags&forwardingState != 0; got != kept {
					t.Errorf("F-bit %v, want %v", got, kept)
				}
				if short.Flags&notificationBit != 0 || short.Time != 30 || long.Tuples[0].RestartTime != 3600 {
					t.Errorf("capabilities %+v and %+v", short, long.Tuples[0])
				}
			}
			c := w.accept()
			check(establish(t, c, 65000, helper()), preserved, preserved)
			if got := told(t, c); len(got) != 3 {
				t.Errorf("table %v", got)
			}
			established(t, a, "tor")
			// The node goes on forwarding when a connection breaks.
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			check(establish(t, w.accept(), 65000, helper()), false, true)
		})
	}
}

func TestFailuresInWords(t *testing.T) {
	t.Parallel()
	shutdown := packet.NewBGPNotificationMessage(6, 2, append([]byte{11}, "maintenance"...))
	for _, test := range []struct {
		name, want string
		edit       func(*bgp.Peer)
		router     func(t *testing.T, w *wire)
	}{
		{
			name: "nobody listens", want: "can't connect: ", edit: func(p *bgp.Peer) {},
			router: func(t *testing.T, w *wire) { _ = w.l.Close() },
		},
		{
			name: "the router has another ASN", want: "we refused the router: its ASN is 65009, and 65000 is wanted",
			router: func(t *testing.T, w *wire) { _ = write(w.accept(), open(65009)) },
		},
		{
			name: "the router is not internal", want: "we refused the router: its ASN is 65009, and our own, 65001, is wanted",
			edit:   func(p *bgp.Peer) { p.PeerType, p.PeerASN = bgp.Internal, 0 },
			router: func(t *testing.T, w *wire) { _ = write(w.accept(), open(65009)) },
		},
		{
			name: "the router is not external", want: "we refused the router: its ASN is our own, 65001, and another is wanted",
			edit:   func(p *bgp.Peer) { p.PeerType, p.PeerASN = bgp.External, 0 },
			router: func(t *testing.T, w *wire) { _ = write(w.accept(), open(65001)) },
		},
		{
			name: "the router expects another ASN", want: "the router ended the session: OPEN message error, bad peer AS (it expects another ASN of this node)",
			router: func(t *testing.T, w *wire) {
				c := w.accept()
				next[*packet.BGPOpen](t, c)
				_ = write(c, packet.NewBGPNotificationMessage(2, 2, nil))
			},
		},
		{
			name: "the router is shut down", want: `the router ended the session: cease, administrative shutdown: "maintenance"`,
			router: func(t *testing.T, w *wire) {
				c := w.accept()
				establish(t, c, 65000)
				_ = write(c, shutdown)
			},
		},
		{
			name: "the router closes the connection", want: "the router closed the connection without a word",
			router: func(t *testing.T, w *wire) {
				c := w.accept()
				establish(t, c, 65000)
				next[*packet.BGPUpdate](t, c) // so that it is established on both sides
				_ = c.Close()
			},
		},
		{
			name: "a router that has refused turns away who comes back", want: "the router ended the session: OPEN message error, bad peer AS",
			router: func(t *testing.T, w *wire) {
				c := w.accept()
				next[*packet.BGPOpen](t, c)
				_ = write(c, packet.NewBGPNotificationMessage(2, 2, nil))
				_ = w.accept().Close()
				w.accept()
			},
		},
		{
			name: "the router resets the connection", want: "the router reset the connection",
			router: func(t *testing.T, w *wire) {
				c := w.accept()
				establish(t, c, 65000)
				next[*packet.BGPUpdate](t, c)
				if err := c.(*net.TCPConn).SetLinger(0); err != nil {
					t.Error(err)
				}
				_ = c.Close()
			},
		},
		{
			name: "the router falls silent", want: "nothing was heard of the router during the hold time",
			edit:   func(p *bgp.Peer) { p.HoldTime, p.KeepaliveTime = 3*time.Second, time.Second },
			router: func(t *testing.T, w *wire) { establish(t, w.accept(), 65000) },
		},
		{
			name: "a router that keeps routes falls silent", want: "nothing was heard of the router during the hold time",
			edit:   func(p *bgp.Peer) { p.HoldTime, p.KeepaliveTime = 3*time.Second, time.Second },
			router: func(t *testing.T, w *wire) { establish(t, w.accept(), 65000, helper()) },
		},
		{
			name: "the router sends a message of another type", want: "we ended the session: message header error, bad message type",
			router: func(t *testing.T, w *wire) {
				c := w.accept()
				establish(t, c, 65000)
				next[*packet.BGPUpdate](t, c)
				_, _ = c.Write([]byte(strings.Repeat("\xff", 16) + "\x00\x13\x63"))
			},
		},
		{
			name: "the router says twice who it is", want: "we ended the session: finite state machine error, unexpected message in Established",
			router: func(t *testing.T, w *wire) {
				c := w.accept()
				establish(t, c, 65000)
				next[*packet.BGPUpdate](t, c)
				_ = write(c, open(65000))
			},
		},
		{
			name: "the router sends what is no message", want: "we ended the session: message header error, bad message length",
			router: func(t *testing.T, w *wire) {
				c := w.accept()
				establish(t, c, 65000)
				next[*packet.BGPUpdate](t, c)
				_, _ = c.Write([]byte(strings.Repeat("\xff", 16) + "\x00\x01\x02"))
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWire(t)
			p := w.peer("tor", 65001)
			if test.edit != nil {
				test.edit(&p)
			}
			a := newAnnouncer(t, false)
			a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(1)}))
			test.router(t, w)
			eventually(t, func() error {
				if s := status(a, "tor"); !strings.HasPrefix(s.LastError, test.want) || s.State == bgp.Established {
					return fmt.Errorf("%s: %q, want %q", s.State, s.LastError, test.want)
				}
				return nil
			})
		})
	}
}

// quietly makes sure that nothing comes and the connection stays.
func quietly(t testing.TB, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("something came (%v)", err)
	}
}

func TestLeavingForGoodSaysSo(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	a := newAnnouncer(t, false)
	a.Set(desired(bgp.PeerRoutes{Peer: w.peer("tor", 65001), Routes: routes(1)}))
	c := w.accept()
	establish(t, c, 65000)
	established(t, a, "tor")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := a.Leave(ctx, false); err != nil {
		t.Fatal(err)
	}
	if n := next[*packet.BGPNotification](t, c); n.ErrorCode != packet.BGP_ERROR_CEASE {
		t.Errorf("notification %+v", n)
	}
}

func TestLeavingForARestartSaysNothing(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	child := leaver(t, w)
	c := w.accept()
	establish(t, c, 65000, helper())
	if got := told(t, c); len(got) != 1 {
		t.Errorf("table %v", got)
	}
	if _, err := io.WriteString(child, "leave\n"); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := read(c)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Header.Type != packet.BGP_MSG_KEEPALIVE {
			t.Errorf("%T came", m.Body)
		}
	}
}

func TestBFDEndsASessionAndHoldsNoneBack(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	p := w.peer("tor", 65001)
	a := newAnnouncer(t, false)
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(1)}))
	key := bgp.Key{Peer: "tor", Neighbor: w.addr}
	a.BFDChanged(key, bgp.BFDDown)
	c := w.accept() // although BFD isn't up
	establish(t, c, 65000)
	established(t, a, "tor")
	a.BFDChanged(key, bgp.BFDUp)
	a.BFDChanged(key, bgp.BFDAdminDown)
	next[*packet.BGPUpdate](t, c)
	quietly(t, c)
	a.BFDChanged(key, bgp.BFDUp)
	a.BFDChanged(key, bgp.BFDDown)
	if n := next[*packet.BGPNotification](t, c); n.ErrorCode != packet.BGP_ERROR_CEASE {
		t.Errorf("notification %+v", n)
	}
	c = w.accept()
	if s := status(a, "tor"); s.BFD != bgp.BFDDown || !strings.Contains(s.LastError, "BFD") {
		t.Errorf("status %+v", s)
	}
	establish(t, c, 65000)
	established(t, a, "tor")
}

func TestAFloodOfRoutesIsBounded(t *testing.T) {
	w := newWire(t)
	r := newRouter(t, 65000)
	good := r.peer("good", 65001)
	r.expect(t, good.Source, 65001)
	a := newAnnouncer(t, false)
	a.Set(desired(bgp.PeerRoutes{Peer: w.peer("flood", 65001), Routes: routes(1)}, bgp.PeerRoutes{Peer: good, Routes: routes(10)}))
	c := w.accept()
	establish(t, c, 65000)
	established(t, a, "flood", "good")
	since := status(a, "good").Since
	before := heap()
	var peak int64
	var sent int
	for sent < 1000000 {
		if sent%40000 == 0 {
			peak = max(peak, inUse()-before)
		}
		if err := write(c, flood(sent, 800)); err != nil {
			break
		}
		sent += 800
	}
	if sent < 1000000 {
		t.Errorf("only %d routes were taken", sent)
	}
	next[*packet.BGPKeepAlive](t, c)
	grown := heap() - before
	t.Logf("%d routes were taken; the heap grew by %.1f MB at most, and by %.1f MB in the end", sent, float64(peak)/1e6, float64(grown)/1e6)
	if grown > 5e6 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if s := status(a, "flood"); s.State != bgp.Established {
		t.Errorf("the session did not stay: %+v", s)
	}
	if s := status(a, "good"); s.State != bgp.Established || s.Since != since || len(r.table(t, good.Source, ipv4)) != 10 {
		t.Errorf("the other session was disturbed: %+v", s)
	}
}

// flood is an UPDATE message with so many routes.
func flood(first, n int) *packet.BGPMessage {
	nlri := make([]*packet.IPAddrPrefix, n)
	for i := range nlri {
		k := first + i
		nlri[i] = packet.NewIPAddrPrefix(32, netip.AddrFrom4([4]byte{20, byte(k >> 16), byte(k >> 8), byte(k)}).String())
	}
	return packet.NewBGPUpdateMessage(nil, []packet.PathAttributeInterface{
		packet.NewPathAttributeOrigin(0),
		packet.NewPathAttributeAsPath([]packet.AsPathParamInterface{packet.NewAs4PathParam(packet.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{65000})}),
		packet.NewPathAttributeNextHop("192.0.2.9"),
	}, nlri)
}

func TestARouterMayAskForTheTableAgain(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	a := newAnnouncer(t, false)
	a.Set(desired(bgp.PeerRoutes{Peer: w.peer("tor", 65001), Routes: routes(3)}))
	c := w.accept()
	establish(t, c, 65000)
	count(t, c, 3)
	if err := write(c, packet.NewBGPRouteRefreshMessage(packet.AFI_IP6, 0, packet.SAFI_UNICAST)); err != nil {
		t.Fatal(err)
	}
	quietly(t, c)
	if err := write(c, packet.NewBGPRouteRefreshMessage(packet.AFI_IP, 0, packet.SAFI_UNICAST)); err != nil {
		t.Fatal(err)
	}
	count(t, c, 3)
}

func TestARouterThatKnowsTwoBytesOnly(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	p := w.peer("tor", 4200000001)
	a := newAnnouncer(t, false)
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: []bgp.Route{{Prefix: netip.MustParsePrefix("10.0.0.1/32"), Prepend: 1}}}))
	c := w.accept()
	if o := next[*packet.BGPOpen](t, c); o.MyAS != asTrans {
		t.Errorf("ASN %d in the OPEN message", o.MyAS)
	}
	if err := errors.Join(write(c, packet.NewBGPOpenMessage(65000, 90, "192.0.2.99", nil)), write(c, packet.NewBGPKeepAliveMessage())); err != nil {
		t.Fatal(err)
	}
	var two, four []uint32
	for _, attribute := range next[*packet.BGPUpdate](t, c).PathAttributes {
		switch attribute := attribute.(type) {
		case *packet.PathAttributeAsPath:
			two = attribute.Value[0].GetAS()
		case *packet.PathAttributeAs4Path:
			four = attribute.Value[0].GetAS()
		}
	}
	if !slices.Equal(two, []uint32{asTrans, asTrans}) || !slices.Equal(four, []uint32{4200000001, 4200000001}) {
		t.Errorf("paths %v and %v", two, four)
	}
}

// A router that lost the connection makes another one while we still have the
// first.
func TestANewConnectionOfAPassivePeerReplacesTheOld(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	p := w.peer("tor", 65001)
	p.Passive, p.Port = true, 10180
	a := newAnnouncer(t, false)
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(3)}))
	dial := func() (c net.Conn) {
		t.Helper()
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(w.addr, 0))}
		eventually(t, func() (err error) {
			c, err = d.Dial("tcp", netip.AddrPortFrom(p.Source, p.Port).String())
			return err
		})
		t.Cleanup(func() { _ = c.Close() })
		establish(t, c, 65000, helper())
		if got := told(t, c); len(got) != 3 {
			t.Errorf("table %v", got)
		}
		return c
	}
	old := dial()
	dial()
	if _, err := read(old); !errors.Is(err, io.EOF) {
		t.Errorf("the old connection: %v", err)
	}
	// From elsewhere nobody is let in.
	c, err := net.Dial("tcp", netip.AddrPortFrom(p.Source, p.Port).String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(c); err == nil {
		t.Error("a stranger was greeted")
	}
}

// A router that ignores the last word, and goes on, holds up nobody.
func TestLeavingDoesNotWaitForARouterThatGoesOn(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	a := newAnnouncer(t, false)
	a.Set(desired(bgp.PeerRoutes{Peer: w.peer("tor", 65001), Routes: routes(1)}))
	c := w.accept()
	establish(t, c, 65000)
	established(t, a, "tor")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for write(c, packet.NewBGPKeepAliveMessage()) == nil {
			time.Sleep(lastWords / 20)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 4*lastWords)
	defer cancel()
	if err := a.Leave(ctx, false); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	<-ended
}

// A route that fits into no message costs no other one, and not the session.
func TestARouteWithTooManyCommunities(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	p := w.peer("tor", 65001)
	a := newAnnouncer(t, false)
	large := func(n int) (out [][3]uint32) {
		for i := range n {
			out = append(out, [3]uint32{65001, 1, uint32(i)})
		}
		return out
	}
	all := routes(3)
	all[0].Large, all[1].Large = large(1000), large(300)
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: all}))
	c := w.accept()
	establish(t, c, 65000, helper())
	if got, want := told(t, c), []string{all[1].Prefix.String(), all[2].Prefix.String()}; !slices.Equal(got, want) {
		t.Errorf("the router is told %v, want %v", got, want)
	}
	if s := status(a, "tor"); s.State != bgp.Established || !strings.Contains(s.LastError, all[0].Prefix.String()) {
		t.Errorf("status %+v", s)
	}
	// One that was announced is withdrawn.
	all = slices.Clone(all)
	all[1].Large = large(1001)
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: all}))
	if u := next[*packet.BGPUpdate](t, c); len(u.WithdrawnRoutes) != 1 || u.WithdrawnRoutes[0].String() != all[1].Prefix.String() {
		t.Errorf("the router was told %+v", u)
	}
}
