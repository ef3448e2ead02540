// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// fixed is a policy under which everybody may own everything, in the order of
// names, and claimants stay.
type fixed []string

func (f fixed) Owner(_ netip.Addr, claimant string) string { return claimant }

func (f fixed) Successors(netip.Addr) []string { return f }

// mine is as fixed, but the first one should own what nobody claims.
type mine []string

func (f mine) Owner(_ netip.Addr, claimant string) string {
	if claimant == "" {
		return f[0]
	}
	return claimant
}

func (f mine) Successors(netip.Addr) []string { return f }

// machine returns one that has been synced for long.
func machine(c Config, f Policy, addrs ...Address) (*Machine, time.Time) {
	now := epoch
	m := New(c, f, now)
	m.SetCluster(now, 7)
	m.SetSegments(now, []Segment{{Index: 1, Name: "eth0", MAC: link.MAC{2, 1}, Up: true}})
	m.SetAddresses(now, addrs, nil)
	for range 200 {
		now = now.Add(50 * time.Millisecond)
		m.Tick(now)
		m.Output()
	}
	return m, now
}

// other makes frames of another node.
type other struct{ codec }

func newOther(name string, key []byte) *other {
	c := Config{Node: name, Boot: 1}
	if key != nil {
		c.Keys = [][]byte{key}
	}
	return &other{newCodec(c)}
}

func (o *other) hello(h hello, heard ...heard) []byte {
	b := appendHello(o.begin(kindHello, 7), &h)
	b[len(b)-1] = byte(len(heard))
	for _, e := range heard {
		b = appendHeard(b, e)
	}
	return o.end(b)
}

func (o *other) claims(words ...word) []byte {
	b := append(o.begin(kindClaims, 7), 0, 0)
	for i := range words {
		b = appendWord(b, &words[i])
	}
	return o.end(b)
}

func packet(now time.Time, b []byte) Packet {
	return Packet{Interface: 1, From: netip.MustParseAddr("192.168.0.9"), TTL: 255, At: now, Payload: b}
}
