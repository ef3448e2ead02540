// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

func TestRouters(t *testing.T) {
	a, b := netip.MustParseAddr("fe80::a"), netip.MustParseAddr("fe80::b")
	x, y := link.MAC{2, 0, 0, 0, 0, 0xa}, link.MAC{2, 0, 0, 0, 0, 0xb}
	type ra struct {
		at   time.Duration
		from netip.Addr
		mac  link.MAC
	}
	for name, tt := range map[string]struct {
		heard []ra
		at    time.Duration
		want  []netip.Addr
	}{
		"none":                              {},
		"all that are heard count":          {heard: []ra{{0, b, y}, {0, a, x}}, want: []netip.Addr{a, b}},
		"silence alone ends nothing":        {heard: []ra{{0, a, x}}, at: hold - 1, want: []netip.Addr{a}},
		"but half an hour of it does":       {heard: []ra{{0, a, x}}, at: hold},
		"counted from the last one":         {heard: []ra{{0, a, x}, {time.Minute, a, x}}, at: hold, want: []netip.Addr{a}},
		"another router replaces nobody":    {heard: []ra{{0, a, x}, {time.Minute, b, y}, {2 * time.Minute, b, y}, {3 * time.Minute, b, y}}, want: []netip.Addr{a, b}},
		"one's new address replaces":        {heard: []ra{{0, a, x}, {time.Minute, b, x}, {2 * time.Minute, b, x}}, want: []netip.Addr{b}},
		"not before it is heard again":      {heard: []ra{{0, a, x}, {time.Minute, b, x}}, want: []netip.Addr{a, b}},
		"nor at once":                       {heard: []ra{{0, a, x}, {time.Second, b, x}, {2 * time.Second, b, x}}, want: []netip.Addr{a, b}},
		"one router may have two addresses": {heard: []ra{{0, a, x}, {time.Minute, b, x}, {2 * time.Minute, a, x}}, want: []netip.Addr{a, b}},
		"who doesn't tell his Ethernet address replaces nobody": {
			heard: []ra{{0, a, link.MAC{}}, {time.Minute, b, link.MAC{}}, {2 * time.Minute, b, link.MAC{}}}, want: []netip.Addr{a, b},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := routers{}
			for _, h := range tt.heard {
				before := r.addrs()
				changed, room := r.hear(h.from, h.mac, start.Add(h.at))
				if !room || changed == slices.Equal(before, r.addrs()) {
					t.Errorf("changed %v, room %v: %v became %v", changed, room, before, r.addrs())
				}
			}
			before := r.addrs()
			if changed := r.expire(start.Add(tt.at)); changed == slices.Equal(before, r.addrs()) {
				t.Errorf("changed %v: %v became %v", changed, before, r.addrs())
			}
			if got := r.addrs(); !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
			if next := r.next(); next.IsZero() != (len(r) == 0) {
				t.Errorf("the next of %v expires at %v", r, next)
			}
		})
	}
}

func TestRoutersAreBounded(t *testing.T) {
	r := routers{}
	for i := range 100 {
		addr := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(i)})
		if _, room := r.hear(addr, routerMAC, start); room != (i < maxRouters) {
			t.Fatalf("room for the %dth: %v", i+1, room)
		}
	}
	if changed, room := r.hear(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80}), routerMAC, start); changed || !room {
		t.Error("there is no room for one that is known")
	}
}
