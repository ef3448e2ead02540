// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// count reads UPDATE messages until so many routes have come.
func count(t testing.TB, c net.Conn, n int) {
	t.Helper()
	for n > 0 {
		n -= len(next[*packet.BGPUpdate](t, c).NLRI)
	}
}

// BenchmarkTenThousandRoutes has two routers with 10,000 routes each.
func BenchmarkTenThousandRoutes(b *testing.B) {
	const n = 10000
	before := heap()
	a := newAnnouncer(b, false)
	wires := []*wire{newWire(b), newWire(b)}
	all := routes(n)
	var peers []bgp.PeerRoutes
	for i, w := range wires {
		peers = append(peers, bgp.PeerRoutes{Peer: w.peer(string(rune('a'+i)), 65001), Routes: all})
	}
	a.Set(desired(peers...))
	var conns []net.Conn
	for _, w := range wires {
		c := w.accept()
		establish(b, c, 65000, helper())
		conns = append(conns, c)
	}
	begun := time.Now()
	for _, c := range conns {
		count(b, c, n)
	}
	first := time.Since(begun)
	used := heap() - before

	i := 0
	b.Run("one more", func(b *testing.B) {
		for range b.N {
			i++
			more := bgp.Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 32)}
			all = append(all[:n:n], more)
			for k := range peers {
				peers[k].Routes = all
			}
			a.Set(desired(peers...))
			for _, c := range conns {
				count(b, c, 1)
			}
		}
	})
	b.Run("nothing new", func(b *testing.B) {
		for range b.N {
			a.Set(desired(peers...))
		}
	})
	b.Logf("first table of %d routes to %d routers: %s; heap: %.1f MB", n, len(conns), first.Round(time.Millisecond), float64(used)/1e6)
}
