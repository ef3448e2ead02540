// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

var (
	left  = netip.MustParseAddr("192.0.2.1")
	right = netip.MustParseAddr("192.0.2.2")
)

func TestAManagerNoticesASilentNeighbour(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, _ *Manager, da, _ *diary) {
		s := is(t, a, Up)
		if s.Detection != 600*ms || s.TransmitInterval != 200*ms || s.RemoteDetection != 600*ms {
			t.Errorf("%+v", s)
		}
		l.hosts[left].set(func() { l.cut = true })
		time.Sleep(601 * ms)
		synctest.Wait()
		same(t, da.take(), "Down control detection time expired")
		if s := is(t, a, Down); s.Downs != 1 || s.RemoteDiscriminator != 0 || s.Detection != 0 {
			t.Errorf("%+v", s)
		}
		l.hosts[left].set(func() { l.cut = false })
		time.Sleep(3 * time.Second)
		is(t, a, Up)
	})
}

func TestSetTwiceDoesNothing(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *Manager, da, db *diary) {
		sent := func() uint64 {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.endpoints[to(right, nil)[0].Key].count.sent
		}
		before, was := sent(), is(t, a, Up)
		for range 100 {
			set(t, a, to(right, nil))
		}
		if sent() != before || is(t, a, Up) != was {
			t.Errorf("%d packets, %+v, was %+v", sent()-before, is(t, a, Up), was)
		}
	})
}

func TestTimersChangeLive(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *Manager, da, db *diary) {
		since := is(t, a, Up).Since
		for _, tx := range []time.Duration{50, 500, 10, 2000, 100} {
			set(t, a, to(right, func(c *Config) { c.Transmit, c.Receive, c.Multiplier = tx*ms, tx*ms, 4 }))
			time.Sleep(10 * time.Second)
			s := is(t, a, Up)
			if s.Since != since || s.RemoteDetection != is(t, b, Up).Detection || s.RemoteDetection != 4*max(tx*ms, 200*ms) {
				t.Errorf("at %v: %+v", tx*ms, s)
			}
		}
		same(t, da.take()+db.take(), "")
	})
}

func TestANeighbourIsToldThatASessionEnds(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *Manager, da, db *diary) {
		set(t, a, nil)
		time.Sleep(2 * ms)
		synctest.Wait()
		same(t, db.take(), "Down neighbor signaled session down")
		same(t, da.take(), "AdminDown administratively down")
		if s := is(t, b, Down); s.RemoteState != AdminDown || len(a.Sessions()) != 0 {
			t.Errorf("%+v", s)
		}
		// Wanted again before it is forgotten, and after.
		set(t, a, to(right, nil))
		time.Sleep(5 * time.Second)
		is(t, a, Up)
		set(t, a, nil)
		time.Sleep(20 * time.Second)
		a.mu.Lock()
		if len(a.endpoints)+len(a.byDiscriminator)+len(a.byPeer)+len(a.receivers)+a.due.Len() != 0 {
			t.Errorf("something is left: %v %v", a.endpoints, a.receivers)
		}
		a.mu.Unlock()
		set(t, a, to(right, nil))
		time.Sleep(5 * time.Second)
		is(t, b, Up)
	})
}

func TestARestartOfAProcessGoesUnnoticed(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *Manager, da, db *diary) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Park(ctx, 20*time.Second); err != nil {
			t.Fatal(err)
		}
		if s := is(t, b, Up); s.Detection < 20*time.Second {
			t.Errorf("the neighbour waits for %v", s.Detection)
		}
		was := is(t, a, Up).LocalDiscriminator
		a.Close()
		time.Sleep(15 * time.Second)
		next, dn := manager(t, l.host(left))
		set(t, next, to(right, func(c *Config) { c.Adopt = time.Second }))
		time.Sleep(500 * ms)
		s := is(t, next, Up)
		if s.LocalDiscriminator != was {
			t.Errorf("%d is not adopted: %+v", was, s)
		}
		next.mu.Lock()
		if len(next.byDiscriminator) != 1 {
			t.Errorf("%d discriminators are known", len(next.byDiscriminator))
		}
		next.mu.Unlock()
		time.Sleep(30 * time.Second)
		same(t, dn.take(), "Up")
		same(t, db.take(), "")
		if s := is(t, b, Up); s.Detection != 600*ms {
			t.Errorf("the neighbour still waits for %v", s.Detection)
		}
		next.Close()
	})
}

func TestParkSaysWhoDoesNotKnow(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *Manager, da, db *diary) {
		l.hosts[left].set(func() { l.cut = true })
		ctx, cancel := context.WithTimeout(t.Context(), 100*ms)
		defer cancel()
		err := a.Park(ctx, 20*time.Second)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "1 of 1 BFD neighbours") {
			t.Error(err)
		}
		// One that went down has nothing to lose.
		if err := a.Park(t.Context(), 20*time.Second); err != nil {
			t.Error(err)
		}
		is(t, a, Down)
	})
}

// What is in the socket is heard before anybody is judged.
func TestAStalledProcessReadsBeforeItJudges(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *Manager, da, db *diary) {
		// The goroutine that reads gets nothing to do from now on.
		h := l.hosts[left]
		h.set(func() { h.listeners[place{v4: true}].ready = func(receiver) {} })
		time.Sleep(time.Minute)
		same(t, da.take()+db.take(), "")
	})
}

// A neighbour is not blamed for what the machine that both run on did.
func TestAStalledProcessGivesTimeForOnePacket(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *Manager, da, db *diary) {
		// b is patient: a is to be the one that judges.
		set(t, a, to(right, func(c *Config) { c.Multiplier = 10 }))
		time.Sleep(2 * time.Second)
		var over time.Time
		a.mu.Lock()
		a.timer.Stop() // a doesn't run from now on
		for _, e := range a.endpoints {
			over = e.deadline()
		}
		a.mu.Unlock()
		l.hosts[left].set(func() { l.deaf = left })
		time.Sleep(time.Until(over) + 10*ms)
		l.hosts[left].set(func() { l.deaf = netip.Addr{} })
		a.tick()
		time.Sleep(time.Minute)
		same(t, da.take()+db.take(), "")
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.stats.stalls != 1 {
			t.Errorf("%d stalls", a.stats.stalls)
		}
	})
}

func TestWhatHasTheWrongTTLOrPlace(t *testing.T) {
	for name, test := range map[string]struct {
		ttl    int
		config func(*Config)
		up     bool
	}{
		"passed a router":                       {254, nil, false},
		"passed none":                           {255, nil, true},
		"multihop, passed one":                  {254, func(c *Config) { c.Multihop = true }, true},
		"multihop, passed two":                  {253, func(c *Config) { c.Multihop = true }, false},
		"multihop, passed two, and may":         {253, func(c *Config) { c.Multihop, c.MinimumTTL = true, 253 }, true},
		"a minimum counts for multihop only":    {254, func(c *Config) { c.MinimumTTL = 1 }, false},
		"on its interface":                      {255, func(c *Config) { c.Interface = "eth0" }, true},
		"on another interface":                  {255, func(c *Config) { c.Interface = "eth1" }, false},
		"from its address":                      {255, func(c *Config) { c.Local = left }, true},
		"from another address":                  {255, func(c *Config) { c.Local = netip.MustParseAddr("192.0.2.9") }, false},
		"its neighbour is said in another form": {255, func(c *Config) { c.Remote = netip.AddrFrom16(right.As16()) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN()
				l.ttl = test.ttl
				ha := l.host(left)
				ha.indices["eth1"] = 3
				a, _ := manager(t, ha)
				b, _ := manager(t, l.host(right))
				set(t, a, to(right, test.config))
				set(t, b, to(left, func(c *Config) {
					if test.config != nil {
						d := config(test.config)
						c.Multihop, c.MinimumTTL = d.Multihop, d.MinimumTTL
					}
				}))
				time.Sleep(10 * time.Second)
				if s := a.Sessions()[0]; (s.State == Up) != test.up {
					t.Errorf("%+v", s)
				}
				a.Close()
				b.Close()
				synctest.Wait()
			})
		})
	}
}

// Who knows a discriminator can't get around the TTL's check by the port for
// packets that passed routers.
func TestTheOtherPortIsNoWayIn(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *Manager, da, db *diary) {
		p := packet{state: Down, multiplier: 3, my: 1, your: is(t, a, Up).LocalDiscriminator}
		var wire [packetLength]byte
		p.encode(&wire)
		a.mu.Lock()
		why := a.take(&datagram{place: place{v4: true, multihop: true}, from: right, to: left, ttl: 255, at: time.Now(), payload: wire[:]})
		a.mu.Unlock()
		if is(t, a, Up); why != dropUnknown {
			t.Errorf("dropped for %q", why)
		}
	})
}

func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		h := l.host(left)
		a, da := manager(t, h)
		b, _ := manager(t, l.host(right))
		set(t, b, to(left, nil))
		h.fail = unix.EADDRNOTAVAIL
		set(t, a, to(right, func(c *Config) { c.Interface = "eth0"; c.Passive = true }))
		time.Sleep(10 * time.Second)
		same(t, da.take(), "Down (send BFD packets: cannot assign requested address), Init (send BFD packets: cannot assign requested address)")
		h.set(func() {
			if h.dials < 5 || h.dials > 11 {
				t.Errorf("tried %d times", h.dials)
			}
			h.fail = nil
		})
		time.Sleep(5 * time.Second)
		if s := is(t, a, Up); s.Trouble != "" {
			t.Error(s.Trouble)
		}
		var port uint16
		h.set(func() { port, h.fail = h.lastPort, unix.ENODEV })
		time.Sleep(150 * ms)
		h.set(func() { h.fail = nil })
		time.Sleep(10 * time.Second)
		is(t, a, Up)
		h.set(func() {
			if h.lastPort != port {
				t.Errorf("the source port was %d and is %d", port, h.lastPort)
			}
		})
		// The interface is another one, and Set is told.
		h.set(func() { h.indices["eth0"] = 0 })
		set(t, a, to(right, func(c *Config) { c.Interface = "eth0" }))
		time.Sleep(5 * time.Second)
		if s := is(t, a, Down); s.Trouble != `there is no interface "eth0"` {
			t.Error(s.Trouble)
		}
		h.set(func() { h.indices["eth0"] = 2 })
		time.Sleep(5 * time.Second)
		is(t, a, Up)
		a.Close()
		b.Close()
		synctest.Wait()
	})
}

func TestSourcePortsAreOfTheRangeAndDiffer(t *testing.T) {
	h := newLAN().host(left)
	m, _ := manager(t, h)
	for p := firstSource; p <= lastSource; p += 2 {
		h.ports[uint16(p)] = true // another program's
	}
	busy := len(h.ports)
	var configs []Config
	for i := range 500 {
		configs = append(configs, Config{Key: Key{Remote: netip.AddrFrom4([4]byte{10, 0, byte(i / 256), byte(i)})}})
	}
	set(t, m, configs)
	if n := len(h.ports) - busy; n != 500 {
		t.Errorf("%d ports", n)
	}
	for p := range h.ports {
		if p < firstSource {
			t.Errorf("port %d", p)
		}
	}
}

func TestConfigs(t *testing.T) {
	h := newLAN().host(left)
	m, _ := manager(t, h)
	addr := netip.MustParseAddr
	err := m.Set([]Config{
		{},
		{Key: Key{Remote: addr("0.0.0.0")}},
		{Key: Key{Remote: addr("fe80::1")}},
		{Key: Key{Remote: addr("192.0.2.7"), Local: addr("2001:db8::1")}},
		{Key: Key{Remote: addr("192.0.2.8")}, Timers: Timers{Transmit: 400 * ms, Receive: 20 * ms}, Passive: true},
		{Key: Key{Remote: addr("192.0.2.8")}, Timers: Timers{Receive: time.Microsecond, Multiplier: 9}},
		{Key: Key{Remote: addr("fe80::1%eth0")}},
	})
	for _, part := range []string{`address "invalid IP"`, `address "0.0.0.0"`, "BFD with fe80::1: a link-local neighbour", "2001:db8::1 is of another family"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
	s := m.Sessions()
	if len(s) != 2 || s[1].Interface != "eth0" || s[1].Remote != addr("fe80::1") {
		t.Fatalf("%+v", s)
	}
	want := Config{
		Key: Key{Remote: addr("192.0.2.8")}, Timers: Timers{Transmit: 300 * ms, Receive: 10 * ms, Multiplier: 3}, MinimumTTL: 255,
	}
	if got := m.endpoints[s[0].Key].Config; got != want {
		t.Errorf("%+v", got)
	}
}

func TestMetrics(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *Manager, da, db *diary) {
		reg := prometheus.NewRegistry()
		reg.MustRegister(a)
		a.deliver(&datagram{place: place{v4: true}, from: right, ttl: 1})
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, metric := range f.Metric {
				name := strings.TrimPrefix(f.GetName(), "fairlead_bfd_")
				for _, label := range metric.Label {
					name += " " + label.GetValue()
				}
				got[name] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			}
		}
		peer := "  false 192.0.2.2  "
		for name, want := range map[string]float64{
			"session_up" + peer: 1, "session_downs_total" + peer: 0, "send_errors_total" + peer: 0,
			"sessions Up": 1, "sessions Down": 0, "packets_dropped_total ttl": 1, "packets_dropped_total unknown": 0, "stalls_total": 0,
		} {
			if n, ok := got[name]; !ok || n != want {
				t.Errorf("%q is %v (%v), want %v", name, n, ok, want)
			}
		}
		for _, name := range []string{"packets_sent_total" + peer, "packets_received_total" + peer} {
			if n := got[name]; n < 20 || n > 50 {
				t.Errorf("%q is %v", name, n)
			}
		}
		if t.Failed() {
			t.Log(got)
		}
	})
}
