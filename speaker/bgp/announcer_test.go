// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// world is an Announcer on a fake, and what BFD is told.
type world struct {
	*Announcer
	t     *testing.T
	fake  *fake
	reg   *prometheus.Registry
	paths []BFDSession
}

func (w *world) Set(s []BFDSession) { w.paths = s }

func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, fake: newFake(), reg: prometheus.NewRegistry()}
		w.Announcer = New(logr.Discard(), w.reg, w.fake, w, true)
		f(t, w)
		if err := w.Leave(context.Background(), false); err != nil {
			t.Error(err)
		}
	})
}

func (w *world) set(peers ...PeerRoutes) {
	w.Announcer.Set(Desired{Peers: peers})
	synctest.Wait()
}

func (w *world) expect(want string) {
	w.t.Helper()
	synctest.Wait()
	if d := cmp.Diff(want, w.fake.did()); d != "" {
		w.t.Errorf("what was done (-want +got):\n%s", d)
	}
}

func to(n int, edits ...func(*Peer)) PeerRoutes {
	p := valid()
	p.Name, p.Address = fmt.Sprint("tor", n), netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
	for _, edit := range edits {
		edit(&p)
	}
	return PeerRoutes{Peer: p}
}

func (p PeerRoutes) with(prefixes ...string) PeerRoutes {
	for _, s := range prefixes {
		p.Routes = append(p.Routes, Route{Prefix: netip.MustParsePrefix(s)})
	}
	return p
}

func TestSetDoesWhatChanged(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.set(to(1).with("10.0.0.1/32"), to(2).with("10.0.0.1/32"))
		if d := cmp.Diff("tor1 192.0.2.1 10.0.0.1/32\ntor2 192.0.2.2 10.0.0.1/32\n", w.fake.String()); d != "" {
			t.Errorf("state (-want +got):\n%s", d)
		}
		w.fake.did()
		w.set(to(1).with("10.0.0.1/32"), to(2).with("10.0.0.1/32"))
		w.expect("")
		w.set(to(1).with("10.0.0.1/32", "10.0.0.2/32"), to(2).with("10.0.0.1/32"))
		w.expect("update tor1 +1 -0")
		w.set(to(1).with("10.0.0.2/32", "2001:db8::1/128"), to(2).with("10.0.0.1/32"))
		w.expect("update tor1 +0 -1") // the session carries no IPv6
		w.set(to(2, func(p *Peer) { p.BFD.Multiplier = 3; p.ConnectTime = 9 * time.Second }).with("10.0.0.1/32"))
		w.expect("stop tor1")
		w.set(to(2, func(p *Peer) { p.HoldTime = 30 * time.Second }).with("10.0.0.1/32"))
		w.expect("stop tor2\nstart tor2 192.0.2.2 preserved=true")
	})
}

func TestAnySequenceEndsInTheSameState(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		rng := rand.New(rand.NewPCG(1, 2))
		last := []PeerRoutes{to(1).with("10.0.0.1/32"), to(3).with("10.0.0.3/32", "10.0.0.0/24")}
		for range 300 {
			var peers []PeerRoutes
			for n := range 4 {
				if rng.IntN(2) == 0 {
					peers = append(peers, to(n, func(p *Peer) { p.HoldTime = time.Duration(9+rng.IntN(2)) * time.Second }).with(fmt.Sprintf("10.0.0.%d/32", rng.IntN(4))))
				}
			}
			w.Announcer.Set(Desired{Peers: peers})
			if rng.IntN(3) == 0 {
				synctest.Wait()
			}
		}
		w.set(last...)
		if d := cmp.Diff("tor1 192.0.2.1 10.0.0.1/32\ntor3 192.0.2.3 10.0.0.0/24 10.0.0.3/32\n", w.fake.String()); d != "" {
			t.Errorf("state (-want +got):\n%s", d)
		}
	})
}

func TestDrain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.set(to(1).with("10.0.0.1/32"))
		w.Mark()
		synctest.Wait()
		if d := cmp.Diff("tor1 192.0.2.1 10.0.0.1/32 [ffff0000] pref 0\n", w.fake.String()); d != "" {
			t.Errorf("marked (-want +got):\n%s", d)
		}
		// What is new meanwhile is marked too.
		w.set(to(1).with("10.0.0.1/32", "10.0.0.2/32"))
		if d := cmp.Diff("tor1 192.0.2.1 10.0.0.1/32 [ffff0000] pref 0 10.0.0.2/32 [ffff0000] pref 0\n", w.fake.String()); d != "" {
			t.Errorf("marked (-want +got):\n%s", d)
		}
		w.Withdraw()
		w.set(to(1).with("10.0.0.3/32"))
		if d := cmp.Diff("tor1 192.0.2.1\n", w.fake.String()); d != "" {
			t.Errorf("withdrawn (-want +got):\n%s", d)
		}
	})
}

func TestARestartTouchesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, fake: newFake()}
		w.Announcer = New(logr.Discard(), prometheus.NewRegistry(), w.fake, w, false)
		w.set(to(1).with("10.0.0.1/32"))
		w.expect("start tor1 192.0.2.1 preserved=false")
		if err := w.Leave(context.Background(), true); err != nil {
			t.Error(err)
		}
		w.set()
		w.BFDChanged(Key{"tor1", netip.MustParseAddr("192.0.2.1")}, BFDUp)
		w.expect("")
		// The process ends here; so that the test can, the session does.
		w.sessions[Key{"tor1", netip.MustParseAddr("192.0.2.1")}].set(func(w *work) { w.stop = true })
	})
}

func TestBFD(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		profile := BFDProfile{Multiplier: 3, Receive: time.Second, Transmit: time.Second}
		w.set(to(1, func(p *Peer) { p.BFD = profile }), to(2))
		key := Key{"tor1", netip.MustParseAddr("192.0.2.1")}
		if d := cmp.Diff([]BFDSession{{Key: key, Neighbor: key.Neighbor, MultiHop: true, Profile: profile}}, w.paths, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("paths (-want +got):\n%s", d)
		}
		w.fake.did()
		w.fake.conn("tor1").observer.State(Info{State: Established})
		for _, step := range []struct {
			to   BFDState
			want string
		}{
			{BFDDown, ""}, {BFDInit, ""}, {BFDUp, ""}, {BFDUp, ""}, {BFDAdminDown, ""}, {BFDDown, ""}, {BFDUp, ""},
			{BFDDown, "reset tor1"}, {BFDDown, ""}, {BFDUp, ""},
		} {
			w.BFDChanged(key, step.to)
			w.expect(step.want)
		}
		// When the path comes up, a session that waits is tried at once.
		w.BFDChanged(key, BFDDown)
		w.expect("reset tor1")
		w.fake.conn("tor1").observer.State(Info{State: Idle})
		w.BFDChanged(key, BFDUp)
		w.expect("reset tor1")
		w.BFDChanged(Key{Peer: "nobody"}, BFDDown)
		w.expect("")
	})
}

func TestStatusAndMetrics(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.set(to(1).with("10.0.0.1/32"), to(2, func(p *Peer) { p.LocalASN = 0 }))
		o := w.fake.conn("tor1").observer
		now := time.Now()
		up := Info{State: Established, Since: now, ASN: 65000, RouterID: netip.MustParseAddr("192.0.2.99"), Families: Families{IPv4: true}}
		<-w.Changed()
		o.State(up)
		<-w.Changed()
		o.State(up)
		select {
		case <-w.Changed():
			t.Error("nothing changed")
		default:
		}
		o.UpdateSent()
		o.UpdateSent()
		o.Notified(Notification{Code: 6, Subcode: 2, Text: "bye"})
		want := []Status{
			{
				Key: Key{"tor1", netip.MustParseAddr("192.0.2.1")}, Info: up, Routes: 1,
				LastError: `the router ended the session: cease, administrative shutdown: "bye"`, LastErrorAt: now,
			},
			{Key: Key{Peer: "tor2"}, Refusal: Refusal{"tor2", InvalidPeer, "localASN 0 is not an ASN to use"}},
		}
		if d := cmp.Diff(want, w.Status(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("status (-want +got):\n%s", d)
		}
		if d := cmp.Diff(map[string]float64{
			"fairlead_bgp_session_up": 1, "fairlead_bgp_routes_announced": 1, "fairlead_bgp_updates_sent_total": 2, "fairlead_bgp_session_established_total": 1,
			"fairlead_bgp_notifications_received_total": 1, "fairlead_bgp_notifications_sent_total": 0,
		}, metricsOf(t, w.reg)); d != "" {
			t.Errorf("metrics (-want +got):\n%s", d)
		}
		w.set()
		if left := metricsOf(t, w.reg); len(left) != 0 {
			t.Errorf("metrics are left of no session: %v", left)
		}
	})
}

// metricsOf are those of the only session.
func metricsOf(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			out[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

func TestASessionThatCannotStartIsTriedAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.fake.fails = errors.New("listen: address already in use")
		w.set(to(1))
		if s := w.Status()[0]; s.LastError != "listen: address already in use" {
			t.Errorf("status %+v", s)
		}
		w.fake.mu.Lock()
		w.fake.fails = nil
		w.fake.mu.Unlock()
		time.Sleep(valid().ConnectTime)
		w.expect("start tor1 192.0.2.1 preserved=true")
	})
}

// A router that nobody told of routes for longer than it keeps any is new to this
// node, though the process was restarted once.
func TestARestartIsOverOneDay(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		time.Sleep(valid().RestartTime - time.Second)
		w.set(to(1))
		w.expect("start tor1 192.0.2.1 preserved=true")
		time.Sleep(time.Second)
		w.set(to(1), to(2))
		w.expect("start tor2 192.0.2.2 preserved=false")
	})
}

func TestTheNextConnectionHeedsAnEdit(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.set(to(1).with("10.0.0.1/32"))
		w.set(to(1, func(p *Peer) { p.ConnectTime = 9 * time.Second }).with("10.0.0.1/32"))
		if got := w.fake.conn("tor1").session.ConnectTime; got != 9*time.Second {
			t.Errorf("it waits %s", got)
		}
		w.fake.did()
	})
}

// What BFD said of a path says nothing of another one.
func TestAnotherPathOfBFD(t *testing.T) {
	profile := BFDProfile{Multiplier: 3, Receive: time.Second, Transmit: time.Second}
	watched := to(1, func(p *Peer) { p.BFD = profile })
	onLink := Desired{Peers: []PeerRoutes{watched}, Network: Network{Links: []link.Link{{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}}}}}
	for _, test := range []struct {
		name  string
		other Desired
	}{
		{"BFD is turned off", Desired{Peers: []PeerRoutes{to(1)}}},
		{"the router is not on a link any more", Desired{Peers: []PeerRoutes{watched}}},
		{"the session is another", Desired{Peers: []PeerRoutes{to(1, func(p *Peer) { p.BFD, p.Source = profile, netip.MustParseAddr("192.0.2.7") })}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				key := Key{"tor1", netip.MustParseAddr("192.0.2.1")}
				w.Announcer.Set(onLink)
				synctest.Wait()
				w.BFDChanged(key, BFDUp)
				w.Announcer.Set(test.other)
				synctest.Wait()
				if s := w.Status()[0]; s.BFD != NoBFD {
					t.Errorf("the path is said to be %s", s.BFD)
				}
				w.Announcer.Set(onLink)
				synctest.Wait()
				w.fake.did()
				w.BFDChanged(key, BFDDown)
				w.expect("")
			})
		})
	}
}

// An address of the node that comes or goes changes routes, and no session.
func TestAnAddressThatComesAndGoes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		peer := to(1, func(p *Peer) { p.Families.IPv6 = true }).with("10.0.0.1/32", "2001:db8::1/128")
		own := netip.MustParseAddr("2001:db8:1::7")
		for _, step := range []struct {
			addrs []netip.Addr
			want  string
		}{
			{nil, "start tor1 192.0.2.1 preserved=true"}, {[]netip.Addr{own}, "update tor1 +2 -0"}, {nil, "update tor1 +1 -1"},
		} {
			w.Announcer.Set(Desired{Peers: []PeerRoutes{peer}, Network: Network{Links: []link.Link{{Addrs: step.addrs, Gateways: []netip.Addr{own}}}}})
			w.expect(step.want)
		}
		if d := cmp.Diff("tor1 192.0.2.1 10.0.0.1/32\n", w.fake.String()); d != "" {
			t.Errorf("state (-want +got):\n%s", d)
		}
	})
}
