// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// text of a route, for tables.
func (r Route) text() string {
	parts := []string{r.Prefix.String()}
	for _, c := range r.Communities {
		parts = append(parts, fmt.Sprint(c))
	}
	for _, l := range r.Large {
		parts = append(parts, fmt.Sprint(l[0], ":", l[1], ":", l[2]))
	}
	if r.LocalPref != nil {
		parts = append(parts, fmt.Sprint("pref=", *r.LocalPref))
	}
	if r.MED != nil {
		parts = append(parts, fmt.Sprint("med=", *r.MED))
	}
	if r.Prepend > 0 {
		parts = append(parts, fmt.Sprint("prepend=", r.Prepend))
	}
	return strings.Join(parts, " ")
}

func texts(routes []Route) []string {
	out := []string{}
	for _, r := range routes {
		out = append(out, r.text())
	}
	return out
}

func communities(c ...uint32) func(*BGPAdvertisement) {
	return func(ad *BGPAdvertisement) { ad.Communities = c }
}

func pref(v uint32) func(*BGPAdvertisement) { return func(ad *BGPAdvertisement) { ad.LocalPref = &v } }

func TestRoutes(t *testing.T) {
	everything := func(ad *BGPAdvertisement) {
		ad.Communities, ad.Large, ad.LocalPref, ad.MED, ad.Prepend = []uint32{1, 2}, [][3]uint32{{1, 2, 3}}, new(uint32(200)), new(uint32), 3
	}
	type ads = []*BGPAdvertisement
	type held struct {
		addr string
		by   Service
	}
	web := clusterWide(true)
	for name, tt := range map[string]struct {
		ads       ads
		addresses []held
		stay      []string
		against   string
	}{
		"one advertisement says it all": {ads{advertising("x", everything)}, []held{{"192.0.2.1", web}}, []string{"192.0.2.1/32 1 2 1:2:3 pref=200 med=0 prepend=3"}, ""},
		"IPv6":                          {ads{advertising("x", everything)}, []held{{"2001:db8::1", web}}, []string{"2001:db8::1/128 1 2 1:2:3 pref=200 med=0 prepend=3"}, ""},
		"two unite":                     {ads{advertising("x", communities(2, 3), pref(5)), advertising("y", communities(1, 2), func(ad *BGPAdvertisement) { ad.MED = new(uint32(7)) })}, []held{{"192.0.2.1", web}}, []string{"192.0.2.1/32 1 2 3 pref=5 med=7"}, ""},
		"of a contradiction the first name counts": {ads{advertising("z", pref(1)), advertising("y", pref(2)), advertising("x")}, []held{{"192.0.2.1", web}}, []string{"192.0.2.1/32 pref=2"}, "{localPref y [z]}"},
		"addresses share an aggregate":             {ads{advertising("x", aggregated, communities(1))}, []held{{"192.0.2.9", web}, {"192.0.2.1", web}, {"2001:db8::1", web}}, []string{"192.0.2.0/24 1", "2001:db8::/64 1"}, ""},
		"Local addresses stay out of it":           {ads{advertising("x", aggregated)}, []held{{"192.0.2.9", localTo(onA)}, {"192.0.2.1", web}}, []string{"192.0.2.0/24", "192.0.2.9/32"}, ""},
		"aggregates stand beside single addresses": {ads{advertising("x", aggregated), advertising("y", communities(9))}, []held{{"192.0.2.1", web}, {"192.0.2.2", web}}, []string{"192.0.2.0/24", "192.0.2.1/32 9", "192.0.2.2/32 9"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			table := NewTable()
			self := bgpNode("a")
			scope := NewBGPScope(twoPeers, tt.ads...)
			for _, h := range tt.addresses {
				a := Address{Addr: netip.MustParseAddr(h.addr), BGP: scope, Services: []Service{h.by}}
				does, _ := BGP(&a, &self, []Node{self})
				table.Set(a.Addr, does)
			}
			routes := table.Routes()
			if len(routes) != 2 {
				t.Errorf("told %v", routes)
			}
			for _, peer := range []string{"p1", "p2"} {
				if got := texts(routes[peer].Stay); !slices.Equal(got, tt.stay) || len(routes[peer].Leave) > 0 {
					t.Errorf("%s is told %q and %q", peer, got, texts(routes[peer].Leave))
				}
				var against string
				for _, all := range table.Contradictions()[peer] {
					for _, c := range all {
						against += fmt.Sprint(c)
					}
				}
				if against != tt.against {
					t.Errorf("%s: contradictions %s", peer, against)
				}
			}
		})
	}
}

func TestLeavingARoute(t *testing.T) {
	r := Route{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Communities: []uint32{1, 0xffffff01}, LocalPref: new(uint32(200))}
	want := "192.0.2.1/32 1 4294901760 4294967041 pref=0"
	if got := r.Leaving().text(); got != want {
		t.Errorf("got %s", got)
	}
	if got := r.Leaving().Leaving().text(); got != want {
		t.Errorf("twice: %s", got)
	}
	if r.text() != "192.0.2.1/32 1 4294967041 pref=200" {
		t.Errorf("it became %s", r.text())
	}
}

// However a table came to be what it is, it says the same as one made at once.
// What it returned never changes.
func TestTableForgets(t *testing.T) {
	type snapshot struct {
		routes map[string]Told
		texts  string
	}
	text := func(routes map[string]Told) string {
		var all []string
		for peer, told := range routes {
			all = append(all, fmt.Sprint(peer, texts(told.Stay), texts(told.Leave)))
		}
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	r := rand.New(rand.NewPCG(3, 3))
	united, left := 0, 0
	for range 200 {
		addresses, nodes, peers := randomBGP(r)
		moods := [][]Node{nodes}
		for range 3 {
			_, others, _ := randomBGP(r)
			moods = append(moods, others)
		}
		table := NewTable()
		does := map[netip.Addr]Announced{}
		var returned []snapshot
		for range 40 {
			a, mood := &addresses[r.IntN(len(addresses))], moods[r.IntN(len(moods))]
			does[a.Addr] = Announced{}
			if r.IntN(4) > 0 {
				does[a.Addr], _ = BGP(a, &mood[0], mood)
			}
			table.Set(a.Addr, does[a.Addr])
			if r.IntN(3) > 0 {
				continue
			}
			routes := table.Routes()
			fresh := NewTable()
			for addr, d := range does {
				fresh.Set(addr, d)
			}
			if got, want := text(routes), text(fresh.Routes()); got != want {
				t.Fatalf("got\n%s\nwant\n%s\nfor %v", got, want, peers)
			}
			if got, want := table.Contradictions(), fresh.Contradictions(); !reflect.DeepEqual(got, want) {
				t.Fatalf("contradictions %v, want %v", got, want)
			}
			for _, told := range routes {
				for _, list := range [][]Route{told.Stay, told.Leave} {
					if !slices.IsSortedFunc(list, func(a, b Route) int { return a.Prefix.Compare(b.Prefix) }) {
						t.Fatalf("not sorted: %v", texts(list))
					}
				}
				left += len(told.Leave)
			}
			united += len(table.Contradictions())
			returned = append(returned, snapshot{routes, text(routes)})
		}
		for _, s := range returned {
			if got := text(s.routes); got != s.texts {
				t.Fatalf("what was\n%s\nis\n%s", s.texts, got)
			}
		}
	}
	if united == 0 || left == 0 {
		t.Errorf("%d contradictions and %d routes that are given up", united, left)
	}
}

// One Service more with 10,000 there: what it costs until the routes are known.
func BenchmarkOneOfTenThousandRoutes(b *testing.B) {
	scope := NewBGPEverywhere(twoPeers)
	self := bgpNode("a")
	address := func(i int) Address {
		return Address{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), BGP: scope, Services: []Service{clusterWide(true)}}
	}
	table := NewTable()
	for i := range 10000 {
		a := address(i)
		does, _ := BGP(&a, &self, nil)
		table.Set(a.Addr, does)
	}
	table.Routes()
	a := address(10001)
	for b.Loop() {
		does, _ := BGP(&a, &self, nil)
		table.Set(a.Addr, does)
		table.Routes()
		table.Set(a.Addr, Announced{})
		table.Routes()
	}
}
