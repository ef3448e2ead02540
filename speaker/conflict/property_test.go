// SPDX-License-Identifier: Apache-2.0

package conflict

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Whatever is seen in whatever order: an address is free only after nobody but
// the cluster and proxies answered all of its probes, what is free stays so, a
// held address is defended once in ten seconds, what is told and remembered is
// bounded, and what was told ends.
func TestInvariants(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := New(rand.New(rand.NewPCG(seed, 2)))
		now := time.Unix(1000, 0)
		ours := map[link.MAC]struct{}{mine: {}, peer: {}}
		m.SetCluster(now, ours)
		if r.IntN(2) == 0 {
			m.SetNodes(map[string][]netip.Addr{"eth0": {node2}})
		}
		addr := func() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + r.IntN(6))}) }
		macs := []link.MAC{mine, peer, stranger, another}
		mac := func() link.MAC { return macs[r.IntN(len(macs))] }

		type known struct {
			since    time.Time // set, or last seen with another host
			held     bool
			free     bool
			told     bool
			defended time.Time
		}
		all := map[netip.Addr]*known{}
		drain := func() {
			out := m.Output(now)
			for _, a := range out.Free {
				k := all[a]
				switch {
				case k == nil || k.free:
					t.Fatalf("seed %d: %s is free once more", seed, a)
				case !k.held && now.Sub(k.since) < probeTime-lateTime-proxyTime:
					t.Fatalf("seed %d: %s is free %v after it was another's", seed, a, now.Sub(k.since))
				}
				k.free = true
			}
			for _, a := range out.Defend {
				k := all[a]
				if k == nil || !k.free || !k.defended.IsZero() && now.Sub(k.defended) < defendAfter {
					t.Fatalf("seed %d: %s is defended at %v", seed, a, now)
				}
				k.defended = now
			}
			for _, rep := range out.Reports {
				if k := all[rep.Addr]; k != nil {
					k.told = rep.Conflict != nil
					if rep.Conflict != nil && (rep.Conflict.MAC == mine || rep.Conflict.MAC == peer) {
						t.Fatalf("seed %d: %+v", seed, rep)
					}
				}
			}
			for a, k := range all {
				if m.MayAnnounce(a) != k.free {
					t.Fatalf("seed %d: %s may be announced: %v, want %v", seed, a, !k.free, k.free)
				}
			}
		}
		for range 400 {
			switch r.IntN(8) {
			case 0:
				a := Address{Addr: addr(), Interfaces: []string{"eth0"}, First: r.IntN(3) > 0}
				k := all[a.Addr]
				if k == nil {
					k = &known{since: now, free: !a.First}
					all[a.Addr] = k
				}
				k.held = k.held || !a.First
				m.Set(now, a)
			case 1:
				a := addr()
				m.Remove(a)
				delete(all, a)
			case 2, 3:
				s := Sighting{Interface: "eth0", Addr: addr(), MAC: mac(), Kind: Kind(1 + r.IntN(3))}
				if r.IntN(8) == 0 {
					s.Addr = node2
				}
				_, cluster := ours[s.MAC]
				o := m.others[stationOf(s.MAC, s.Addr)]
				proxied := s.Kind == Answer && o != nil && (o.proxy || o.addr != s.Addr)
				if k := all[s.Addr]; k != nil && !k.free && !cluster && !proxied {
					k.since = now
				}
				m.Sight(now, s)
			default:
				now = now.Add(time.Duration(r.IntN(120)) * time.Millisecond)
				m.Tick(now)
			}
			drain()
		}
		// Peace.
		for range 10_000 {
			next := m.Next()
			if next.IsZero() {
				break
			}
			if now = next; now.Sub(time.Unix(1000, 0)) > time.Hour {
				break
			}
			m.Tick(now)
			drain()
		}
		for a, k := range all {
			if !k.free || k.told {
				t.Errorf("seed %d: in the end %s is %+v", seed, a, *k)
			}
		}
	}
}

func TestFloodIsBounded(t *testing.T) {
	for _, kind := range []Kind{Answer, Claim, Probe} {
		r := rand.New(rand.NewPCG(1, 1))
		m := New(rand.New(rand.NewPCG(2, 2)))
		now := time.Unix(1000, 0)
		m.SetNodes(map[string][]netip.Addr{"eth0": {node2}})
		m.SetCluster(now, map[link.MAC]struct{}{mine: {}})
		m.Set(now, Address{Addr: vip, Interfaces: []string{"eth0"}})
		m.Set(now, Address{Addr: vip2, Interfaces: []string{"eth0"}, First: true})
		var asks, reports, defences int
		for range 10 * 5_000 { // ten seconds of it
			now = now.Add(200 * time.Microsecond)
			s := Sighting{Interface: "eth0", Addr: vip, Kind: kind, MAC: link.MAC{2, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}}
			if r.IntN(2) == 0 {
				s.Addr = vip2
			}
			m.Sight(now, s)
			m.Tick(now)
			out := m.Output(now)
			asks, reports, defences = asks+len(out.Asks), reports+len(out.Reports), defences+len(out.Defend)
		}
		if len(m.others) > maxOthers || m.due.Len() > 2 {
			t.Errorf("kind %d: %d MACs and %d times are remembered", kind, len(m.others), m.due.Len())
		}
		if asks > 10 || reports > 4 || defences > 2 {
			t.Errorf("kind %d: %d asks, %d reports, %d defences", kind, asks, reports, defences)
		}
		if !m.MayAnnounce(vip) || m.MayAnnounce(vip2) {
			t.Errorf("kind %d: it moved something", kind)
		}
	}
}

// Whoever makes up MACs, each of which answers for two addresses, fills no log.
func TestAFloodOfProxiesIsToldOfNowAndThen(t *testing.T) {
	m := New(rand.New(rand.NewPCG(2, 2)))
	start := time.Unix(1000, 0)
	m.Set(start, Address{Addr: vip, Interfaces: []string{"eth0"}})
	m.Set(start, Address{Addr: vip2, Interfaces: []string{"eth0"}})
	told := 0
	for i := range 50_000 { // ten seconds of it
		now := start.Add(time.Duration(i) * 200 * time.Microsecond)
		for _, addr := range []netip.Addr{vip, vip2} {
			m.Sight(now, Sighting{Interface: "eth0", Addr: addr, Kind: Answer, MAC: link.MAC{2, 9, byte(i >> 16), byte(i >> 8), byte(i)}})
		}
		told += len(m.Output(now).Proxies)
	}
	if told < proxiesAtOnce || told > proxiesAtOnce+10*proxiesPerSecond {
		t.Errorf("%d proxies are told of", told)
	}
}

func BenchmarkSightings(b *testing.B) {
	m := New(rand.New(rand.NewPCG(2, 2)))
	now := time.Unix(1000, 0)
	m.SetCluster(now, map[link.MAC]struct{}{mine: {}})
	m.Set(now, Address{Addr: vip, Interfaces: []string{"eth0"}})
	r := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(20 * time.Microsecond)
		m.Sight(now, Sighting{Interface: "eth0", Addr: vip, Kind: Answer, MAC: link.MAC{2, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}})
		m.Output(now)
	}
}
