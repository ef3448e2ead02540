// SPDX-License-Identifier: Apache-2.0

package router_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/lab/binaries"
	"github.com/fairlead-lb/fairlead/test/lab/router"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

func TestMain(m *testing.M) {
	if err := binaries.EnsurePackages(context.Background(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Two namespaces have a link between them: left is 10.0.0.1 and fd00::1 on eth0, right 10.0.0.2 and fd00::2.
var (
	left4, right4 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	left6, right6 = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
)

// wires makes the two namespaces. Neither has an address if numbered is false.
func wires(t *testing.T, numbered bool) [2]*sandbox.Namespace {
	t.Helper()
	box, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	})
	var ends [2]*sandbox.Namespace
	for i, name := range []string{"left", "right"} {
		if ends[i], err = box.AddNamespace(name); err != nil {
			t.Fatal(err)
		}
		for key, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0", "ipv6/conf/default/dad_transmits": "0",
		} {
			if err := ends[i].Sysctl(key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ends[1].FD())}
	if err := ends[0].Netlink().LinkAdd(cable); err != nil {
		t.Fatal(err)
	}
	for i, addrs := range [][]string{{"10.0.0.1/24", "fd00::1/64"}, {"10.0.0.2/24", "fd00::2/64"}} {
		link, err := ends[i].Netlink().LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if !numbered {
				break
			}
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				t.Fatal(err)
			}
			if err := ends[i].Netlink().AddrAdd(link, addr); err != nil {
				t.Fatal(err)
			}
		}
		if err := ends[i].Netlink().LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	return ends
}

func start(t *testing.T, n *sandbox.Namespace, kind router.Kind, c router.Config) *router.Router {
	t.Helper()
	dir := t.TempDir()
	// The daemons are other users, and go's folder for the test is closed to them.
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	logs := func(process string) string { return filepath.Join(dir, strings.ReplaceAll(process, "/", "_")+".log") }
	r, err := router.Start(t.Context(), kind, router.Place{Namespace: n, Name: n.Name(), Dir: filepath.Join(dir, "r"), Log: logs}, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		sessions, err := r.Sessions(context.Background())
		t.Logf("%s: sessions %+v, %v", r.Kind, sessions, err)
		for _, p := range r.Processes() {
			if text, err := os.ReadFile(p.Log); err == nil {
				t.Logf("%s:\n%s", p.Name, text)
			}
		}
	})
	return r
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := sandbox.Poll(ctx, what, func(context.Context) error { return check() }); err != nil {
		t.Fatal(err)
	}
}

func established(t *testing.T, r *router.Router, neighbor netip.Addr, bfd bool) router.Session {
	t.Helper()
	var s router.Session
	eventually(t, fmt.Sprintf("%s has a session with %s", r.Kind, neighbor), func() error {
		var err error
		if s, err = r.Session(t.Context(), neighbor); err != nil {
			return err
		}
		if !s.Established() {
			return fmt.Errorf("it is %s: %s", s.State, s.LastError)
		}
		if bfd && (s.BFD == nil || s.BFD.State != "Up") {
			return fmt.Errorf("BFD is %+v", s.BFD)
		}
		return nil
	})
	return s
}

func paths(t *testing.T, r *router.Router, prefix string, check func([]router.Path) error) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has the right paths of %s", r.Kind, prefix), func() error {
		got, err := r.Paths(t.Context(), netip.MustParsePrefix(prefix))
		if err != nil {
			return err
		}
		return check(got)
	})
}

func want(expected ...router.Path) func([]router.Path) error {
	return func(got []router.Path) error {
		// A link-local next hop is whatever the kernel made up.
		got = slices.Clone(got)
		for i := range got {
			got[i].NextHops = slices.DeleteFunc(slices.Clone(got[i].NextHops), netip.Addr.IsLinkLocalUnicast)
		}
		if diff := cmp.Diff(expected, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			return fmt.Errorf("paths differ:\n%s", diff)
		}
		return nil
	}
}

func number(n uint32) *uint32 { return &n }

func kinds(t *testing.T, f func(t *testing.T, left, right router.Kind)) {
	for _, k := range [][2]router.Kind{{router.FRR, router.BIRD}, {router.BIRD, router.FRR}} {
		t.Run(fmt.Sprintf("%s with %s", k[0], k[1]), func(t *testing.T) { f(t, k[0], k[1]) })
	}
}

var watch = &router.BFD{Interval: 250 * time.Millisecond}

func configs(password string) (l, r router.Config) {
	l = router.Config{
		ASN: 64512, ID: left4, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/48")},
		Neighbors: []router.Neighbor{
			{Address: right4, ASN: 4200000001, HoldTime: 9 * time.Second, Password: password, BFD: watch},
			{Address: right6, HoldTime: 9 * time.Second, BFD: watch},
		},
	}
	r = router.Config{
		ASN: 4200000001, ID: right4, Networks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:2::/48")},
		Neighbors: []router.Neighbor{
			{Address: left4, ASN: 64512, Password: password, BFD: watch, Passive: true},
			{Range: netip.MustParsePrefix("fd00::/64"), ASN: 64512, BFD: watch, Passive: true},
		},
	}
	return l, r
}

func TestTwoRoutersExchangeRoutesAndWatchEachOther(t *testing.T) {
	kinds(t, func(t *testing.T, leftKind, rightKind router.Kind) {
		ends := wires(t, true)
		l, r := configs("secret")
		left, right := start(t, ends[0], leftKind, l), start(t, ends[1], rightKind, r)
		for _, neighbor := range []netip.Addr{right4, right6} {
			if s := established(t, left, neighbor, true); s.ASN != 4200000001 || s.IPv4.Forwarding || time.Since(s.Since) > time.Minute {
				t.Errorf("session %+v", s)
			}
			// It starts slowly (RFC 5880, 6.8.3).
			eventually(t, "BFD has the intervals that were asked for", func() error {
				s, err := left.Session(t.Context(), neighbor)
				if err == nil && (s.BFD == nil || s.BFD.Detection != 750*time.Millisecond || s.BFD.Interval != 250*time.Millisecond) {
					err = fmt.Errorf("it is %+v", s.BFD)
				}
				return err
			})
		}
		established(t, right, left4, true)
		established(t, right, left6, true)
		path := func(prefix string, neighbor netip.Addr, asn uint32) router.Path {
			return router.Path{Prefix: netip.MustParsePrefix(prefix), Neighbor: neighbor, NextHops: []netip.Addr{neighbor}, ASPath: []uint32{asn}, Best: true}
		}
		for _, tt := range []struct {
			at   *router.Router
			path router.Path
		}{
			{left, path("198.51.100.0/24", right4, 4200000001)},
			{left, path("2001:db8:2::/48", right6, 4200000001)},
			{right, path("192.0.2.0/24", left4, 64512)},
			{right, path("2001:db8:1::/48", left6, 64512)},
		} {
			paths(t, tt.at, tt.path.Prefix.String(), func(got []router.Path) error {
				for i := range got {
					got[i].LocalPref, got[i].MED = nil, nil // whether unset ones are filled in is the program's taste
				}
				return want(tt.path)(got)
			})
			eventually(t, "the kernel has the route", func() error {
				hops, err := tt.at.KernelRoute(tt.path.Prefix)
				if err == nil && (len(hops) != 1 || hops[0].Interface != "eth0" || hops[0].Via != tt.path.Neighbor && !hops[0].Via.IsLinkLocalUnicast()) {
					err = fmt.Errorf("hops %v", hops)
				}
				return err
			})
		}
		if table, err := left.Table(t.Context()); err != nil || len(table) < 2 {
			t.Errorf("table %v, %v", table, err)
		}
		if got, err := left.Paths(t.Context(), netip.MustParsePrefix("203.0.113.0/24")); err != nil || len(got) != 0 {
			t.Errorf("paths of a prefix that nobody announces: %v, %v", got, err)
		}
		if _, err := left.Command(t.Context(), "show nonsense"); err == nil {
			t.Error("nonsense was understood")
		}
	})
}

func TestAReconfiguredRouterKeepsTheSessionsThatAreTheSame(t *testing.T) {
	kinds(t, func(t *testing.T, leftKind, rightKind router.Kind) {
		ends := wires(t, true)
		l, r := configs("secret")
		left, right := start(t, ends[0], leftKind, l), start(t, ends[1], rightKind, r)
		v4, v6 := established(t, left, right4, true), established(t, left, right6, true)

		t.Log("a network more, one less")
		l.Networks = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:1::/48")}
		if err := left.Configure(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		paths(t, right, "203.0.113.0/24", func(got []router.Path) error { return count(got, 1) })
		paths(t, right, "192.0.2.0/24", func(got []router.Path) error { return count(got, 0) })
		if s := established(t, left, right4, true); !same(s, v4) {
			t.Errorf("the session began anew: %+v, before %+v", s, v4)
		}

		t.Log("another password on one side, then on both")
		l.Neighbors[0].Password = "other"
		if err := left.Configure(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the password parts them", func() error {
			s, err := left.Session(t.Context(), right4)
			if err == nil && s.Established() {
				err = fmt.Errorf("they are %s", s.State)
			}
			return err
		})
		r.Neighbors[0].Password = "other"
		if err := right.Configure(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		established(t, left, right4, true)

		t.Log("a neighbour less")
		l.Neighbors, r.Neighbors = l.Neighbors[1:], r.Neighbors[1:]
		if err := left.Configure(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if err := right.Configure(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		paths(t, right, "203.0.113.0/24", func(got []router.Path) error { return count(got, 0) })
		if s := established(t, left, right6, true); !same(s, v6) {
			t.Errorf("the session began anew: %+v, before %+v", s, v6)
		}

		t.Log("another ASN, and time to live instead of BFD")
		l.ASN, r.Neighbors[0].ASN = 64513, 64513
		r.Neighbors[0].Range, r.Neighbors[0].Address = netip.Prefix{}, left6
		for _, n := range []*router.Neighbor{&l.Neighbors[0], &r.Neighbors[0]} {
			n.BFD, n.TTLSecurity = nil, true
		}
		if err := left.Configure(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if err := right.Configure(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if s := established(t, right, left6, false); s.ASN != 64513 || s.BFD != nil {
			t.Errorf("session %+v", s)
		}
		paths(t, right, "2001:db8:1::/48", pathOf(64513))

		t.Log("another ASN, and nothing else")
		l.ASN, r.Neighbors[0].ASN = 64514, 64514
		if err := left.Configure(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if err := right.Configure(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		paths(t, right, "2001:db8:1::/48", pathOf(64514))
	})
}

// pathOf wants one path, by that AS.
func pathOf(asn uint32) func([]router.Path) error {
	return func(got []router.Path) error {
		if len(got) != 1 || !slices.Equal(got[0].ASPath, []uint32{asn}) {
			return fmt.Errorf("paths %+v", got)
		}
		return nil
	}
}

// same tells whether a session has not ended in between.
func same(a, b router.Session) bool { return a.Since.Sub(b.Since).Abs() < 1500*time.Millisecond }

func count(got []router.Path, want int) error {
	if len(got) != want {
		return fmt.Errorf("%d paths, want %d: %+v", len(got), want, got)
	}
	return nil
}

func TestPathAttributesAreRead(t *testing.T) {
	const frrExtra = `
route-map mark permit 10
 set community 64512:7 no-export graceful-shutdown
 set large-community 64512:1:2 1:2:3
 set metric 50
 set local-preference 150
 set as-path prepend 64999
exit
`
	const birdExtra = `
filter mark {
	if source != RTS_STATIC then reject;
	bgp_community.add((64512,7)); bgp_community.add((65535,65281)); bgp_community.add((65535,0));
	bgp_large_community.add((64512,1,2)); bgp_large_community.add((1,2,3));
	bgp_med = 50; bgp_local_pref = 150; bgp_path.prepend(64999);
	accept;
}
`
	kinds(t, func(t *testing.T, leftKind, rightKind router.Kind) {
		ends := wires(t, true)
		prefix4, prefix6 := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128")
		l := router.Config{ASN: 64512, ID: left4, Networks: []netip.Prefix{prefix4, prefix6}}
		l.Neighbors = []router.Neighbor{{Address: right4, ASN: 64512}, {Address: right6, ASN: 64512}}
		for i := range l.Neighbors {
			if leftKind == router.FRR {
				l.Extra, l.Neighbors[i].FamilyExtra = frrExtra, []string{"route-map mark out"}
			} else {
				l.Extra, l.Neighbors[i].FamilyExtra = birdExtra, []string{"export filter mark;"}
			}
		}
		r := router.Config{ASN: 64512, ID: right4, Neighbors: []router.Neighbor{{Address: left4, ASN: 64512}, {Address: left6, ASN: 64512}}}
		start(t, ends[0], leftKind, l)
		right := start(t, ends[1], rightKind, r)
		for _, tt := range []struct {
			prefix netip.Prefix
			from   netip.Addr
		}{{prefix4, left4}, {prefix6, left6}} {
			paths(t, right, tt.prefix.String(), want(router.Path{
				Prefix: tt.prefix, Neighbor: tt.from, NextHops: []netip.Addr{tt.from}, ASPath: []uint32{64999}, Best: true,
				LocalPref: number(150), MED: number(50),
				Communities: []uint32{64512<<16 | 7, 0xffff0000, 0xffffff01}, Large: [][3]uint32{{1, 2, 3}, {64512, 1, 2}},
			}))
		}
		if table, err := right.Table(t.Context()); err != nil || len(table) != 2 || table[0].Prefix != prefix4 || table[1].Prefix != prefix6 {
			t.Errorf("table %+v, %v", table, err)
		}
	})
}

func TestARestartersRoutesAreKept(t *testing.T) {
	kinds(t, func(t *testing.T, leftKind, rightKind router.Kind) {
		ends := wires(t, true)
		l, r := configs("")
		for _, c := range []*router.Config{&l, &r} {
			c.Restart, c.RestartTime = router.Restarter, 40*time.Second
			for i := range c.Neighbors {
				c.Neighbors[i].BFD = nil
			}
		}
		left, right := start(t, ends[0], leftKind, l), start(t, ends[1], rightKind, r)
		if s := established(t, left, right4, false); s.Restart.Time != 40*time.Second {
			t.Errorf("session %+v", s)
		}
		prefixes := []string{"198.51.100.0/24", "2001:db8:2::/48"}
		for _, p := range prefixes {
			paths(t, left, p, func(got []router.Path) error { return count(got, 1) })
		}
		if err := right.Kill(); err != nil {
			t.Fatal(err)
		}
		for _, p := range prefixes {
			paths(t, left, p, func(got []router.Path) error {
				if len(got) != 1 || !got[0].Stale {
					return fmt.Errorf("paths %+v", got)
				}
				return nil
			})
			if hops, err := left.KernelRoute(netip.MustParsePrefix(p)); err != nil || len(hops) != 1 {
				t.Errorf("hops %v, %v", hops, err)
			}
		}
		if s, err := left.Session(t.Context(), right4); err != nil || s.Established() || !s.Restart.Waiting {
			t.Errorf("session %+v, %v", s, err)
		}
		if err := right.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := established(t, left, right4, false); !s.IPv4.Forwarding {
			t.Errorf("session %+v", s)
		}
		for _, p := range prefixes {
			paths(t, left, p, func(got []router.Path) error {
				if len(got) != 1 || got[0].Stale {
					return fmt.Errorf("paths %+v", got)
				}
				return nil
			})
		}
	})
}

func TestRoutersWithoutAddressesFindEachOther(t *testing.T) {
	kinds(t, func(t *testing.T, leftKind, rightKind router.Kind) {
		ends := wires(t, false)
		l := router.Config{ASN: 64512, ID: left4, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/48")},
			Neighbors: []router.Neighbor{{Interface: "eth0"}}}
		r := router.Config{ASN: 64513, ID: right4, Neighbors: []router.Neighbor{{Interface: "eth0"}}}
		start(t, ends[0], leftKind, l)
		right := start(t, ends[1], rightKind, r)
		for _, p := range l.Networks {
			paths(t, right, p.String(), func(got []router.Path) error { return count(got, 1) })
			eventually(t, "the kernel has the route", func() error {
				hops, err := right.KernelRoute(p)
				if err == nil && (len(hops) != 1 || !hops[0].Via.IsLinkLocalUnicast() || hops[0].Interface != "eth0") {
					err = fmt.Errorf("hops %v", hops)
				}
				return err
			})
		}
		if sessions, err := right.Sessions(t.Context()); err != nil || len(sessions) != 1 || sessions[0].Interface != "eth0" || !sessions[0].Neighbor.IsLinkLocalUnicast() {
			t.Errorf("sessions %+v, %v", sessions, err)
		}
	})
}
