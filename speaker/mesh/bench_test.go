// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// mature gives a machine peers that hear each other, with claims of the first.
func mature(b *testing.B, peers, addresses int) (*Machine, []*other, time.Time) {
	names := fixed{"me"}
	var all []*other
	for i := range peers {
		all = append(all, newOther(fmt.Sprintf("peer-%03d", i), nil))
		names = append(names, all[i].node)
	}
	var list []Address
	for i := range addresses {
		list = append(list, Address{
			Addr:       netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
			Interfaces: []string{"eth0"}, Recorded: Claim{Node: "peer-000", Term: 1},
		})
	}
	m, now := machine(Config{Node: "me", Boot: 3}, names, list...)
	hear(m, all, &now, 500*time.Millisecond)
	return m, all, now
}

// hear has hellos of the peers arrive for some time.
func hear(m *Machine, from []*other, now *time.Time, d time.Duration) {
	var set []heard
	for _, o := range from[:min(len(from), 100)] {
		set = append(set, heard{node: hashName(o.node), age: 5, state: Synced})
	}
	for end := now.Add(d); now.Before(end); {
		*now = now.Add(50 * time.Millisecond)
		for _, o := range from {
			m.Receive(*now, packet(*now, o.hello(hello{state: Synced, uptime: 100, digest: m.peers[o.node].knownDigest()}, set...)))
		}
		m.Tick(*now)
		m.Output()
	}
}

// knownDigest is what a peer says that has just what is known of it.
func (p *peer) knownDigest() digest {
	if p == nil {
		return digest{}
	}
	return p.digest
}

func BenchmarkReceiveHello(b *testing.B) {
	for _, n := range []int{3, 16, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m, all, now := mature(b, n, 100)
			o := all[n-1]
			var set []heard
			for _, p := range all {
				set = append(set, heard{node: hashName(p.node), age: 5, state: Synced})
			}
			frame := o.hello(hello{state: Synced, uptime: 100, digest: m.peers[o.node].digest}, set...)
			p := packet(now, frame)
			b.ReportAllocs()
			for b.Loop() {
				o.seq++
				for i := range 8 { // the sequence number in place
					frame[22+i] = byte(o.seq >> (56 - 8*i))
				}
				m.Receive(now, p)
			}
		})
	}
}

func BenchmarkTick(b *testing.B) {
	for _, n := range []int{16, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m, _, now := mature(b, n, 1000)
			b.ReportAllocs()
			for b.Loop() {
				m.Tick(now)
				m.Output()
			}
		})
	}
}

// BenchmarkTakeover measures the tick in which an owner of 10,000 addresses is
// found dead.
func BenchmarkTakeover(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		m, all, now := mature(b, 3, 10000)
		hear(m, all, &now, 2*time.Second)
		records := 0
		var longest time.Duration
		b.StartTimer()
		for range 40 {
			b.StopTimer()
			now = now.Add(25 * time.Millisecond)
			for _, o := range all[1:] {
				m.Receive(now, packet(now, o.hello(hello{state: Synced, uptime: 100})))
			}
			b.StartTimer()
			began := time.Now()
			m.Tick(now)
			out := m.Output()
			longest = max(longest, time.Since(began))
			records += len(out.Record)
		}
		if records != 10000 {
			b.Fatalf("%d claims", records)
		}
		b.ReportMetric(float64(longest.Microseconds())/1000, "longest-ms")
	}
}
