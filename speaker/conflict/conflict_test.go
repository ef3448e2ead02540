// SPDX-License-Identifier: Apache-2.0

package conflict

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

var (
	vip   = netip.MustParseAddr("192.0.2.10")
	vip2  = netip.MustParseAddr("192.0.2.11")
	vip6  = netip.MustParseAddr("2001:db8::10")
	node2 = netip.MustParseAddr("192.0.2.2")

	mine     = link.MAC{2, 0, 0, 0, 0, 1}
	peer     = link.MAC{2, 0, 0, 0, 0, 2}
	stranger = link.MAC{2, 0, 0, 0, 0, 0x99}
	another  = link.MAC{2, 0, 0, 0, 0, 0x98}
)

// lan is a Machine on a LAN whose hosts answer as the test says. Time goes on
// from one thing to do to the next.
type lan struct {
	t     *testing.T
	m     *Machine
	start time.Time
	now   time.Time
	// answers returns the MACs that answer an Ask.
	answers func(Ask) []link.MAC
	log     []string
	asks    map[netip.Addr]int
}

func newLAN(t *testing.T) *lan {
	start := time.Unix(1000, 0)
	l := &lan{t: t, m: New(rand.New(rand.NewPCG(1, 1))), start: start, now: start, asks: map[netip.Addr]int{}, answers: func(Ask) []link.MAC { return nil }}
	l.m.SetCluster(l.now, map[link.MAC]struct{}{mine: {}, peer: {}})
	return l
}

// drain does what the Machine wants, and writes down what it tells.
func (l *lan) drain() {
	for {
		out := l.m.Output(l.now)
		if len(out.Asks)+len(out.Free)+len(out.Defend)+len(out.Reports)+len(out.Proxies) == 0 {
			return
		}
		for _, a := range out.Free {
			l.note("free %s", a)
		}
		for _, a := range out.Defend {
			l.note("defend %s", a)
		}
		for _, p := range out.Proxies {
			l.note("proxy %s", p.MAC)
		}
		for _, r := range out.Reports {
			switch {
			case r.Conflict == nil:
				l.note("over %s", r.Addr)
			case r.Conflict.Announced:
				l.note("claimed %s %s", r.Addr, r.Conflict.MAC)
			default:
				l.note("taken %s %s", r.Addr, r.Conflict.MAC)
			}
		}
		for _, a := range out.Asks {
			l.asks[a.Addr]++
			for _, mac := range l.answers(a) {
				l.m.Sight(l.now, Sighting{Interface: a.Interface, Addr: a.Addr, MAC: mac, Kind: Answer})
			}
		}
	}
}

func (l *lan) note(format string, args ...any) { l.log = append(l.log, fmt.Sprintf(format, args...)) }

// wait lets time pass.
func (l *lan) wait(d time.Duration) {
	l.drain()
	for until := l.now.Add(d); ; {
		next := l.m.Next()
		if next.IsZero() || next.After(until) {
			l.now = until
			return
		}
		if next.After(l.now) {
			l.now = next
		}
		l.m.Tick(l.now)
		l.drain()
	}
}

func (l *lan) set(addrs ...Address) {
	for _, a := range addrs {
		if a.Interfaces == nil {
			a.Interfaces = []string{"eth0"}
		}
		l.m.Set(l.now, a)
	}
	l.drain()
}

func (l *lan) sight(addr netip.Addr, mac link.MAC, kind Kind) {
	l.m.Sight(l.now, Sighting{Interface: "eth0", Addr: addr, MAC: mac, Kind: kind})
	l.drain()
}

// saw fails unless exactly this was told since it was last called.
func (l *lan) saw(want ...string) {
	l.t.Helper()
	if !slices.Equal(l.log, want) {
		l.t.Errorf("after %v told\n%s\nwant\n%s", l.now.Sub(l.start), strings.Join(l.log, "\n"), strings.Join(want, "\n"))
	}
	l.log = nil
}

// taking answers for some addresses.
func taking(mac link.MAC, addrs ...netip.Addr) func(Ask) []link.MAC {
	return func(a Ask) []link.MAC {
		if slices.Contains(addrs, a.Addr) {
			return []link.MAC{mac}
		}
		return nil
	}
}

func TestNewAddressIsProbed(t *testing.T) {
	for _, addr := range []netip.Addr{vip, vip6} {
		l := newLAN(t)
		l.set(Address{Addr: addr, First: true})
		if l.m.MayAnnounce(addr) {
			t.Error("it may be announced at once")
		}
		l.wait(probeTime - 1)
		l.saw()
		if l.asks[addr] != probes {
			t.Errorf("%d probes, want %d", l.asks[addr], probes)
		}
		l.wait(1)
		l.saw("free " + addr.String())
		if !l.m.MayAnnounce(addr) {
			t.Error("it may not be announced")
		}
		l.wait(time.Hour)
		l.saw()
		if l.asks[addr] != probes {
			t.Errorf("%d probes, want %d", l.asks[addr], probes)
		}
	}
}

func TestTakeoverDoesNotWait(t *testing.T) {
	l := newLAN(t)
	l.set(Address{Addr: vip})
	if !l.m.MayAnnounce(vip) || l.asks[vip] != 0 {
		t.Error("it is probed")
	}
	// One that is being probed, and that another node turns out to have claimed.
	l.set(Address{Addr: vip2, First: true}, Address{Addr: vip2})
	if !l.m.MayAnnounce(vip2) {
		t.Error("the probing goes on")
	}
	l.saw("free " + vip2.String())
	l.wait(time.Hour)
	l.saw()
}

func TestAddressThatAnotherHostHasIsNotAnnounced(t *testing.T) {
	l := newLAN(t)
	l.answers = taking(stranger, vip)
	l.set(Address{Addr: vip, First: true})
	l.saw("taken 192.0.2.10 02:00:00:00:00:99")
	for range 5 {
		l.wait(againAfter + againJitter)
		if l.m.MayAnnounce(vip) {
			t.Fatal("it may be announced")
		}
	}
	l.saw()
	l.wait(tellAgainAfter)
	l.saw("taken 192.0.2.10 02:00:00:00:00:99") // it still is
	// The other host gives it up.
	l.answers = taking(stranger)
	l.wait(againAfter + againJitter + probeTime)
	l.saw("free 192.0.2.10", "over 192.0.2.10")
}

func TestWhoProbesForTheSameAddressHasItToo(t *testing.T) {
	for kind, want := range map[Kind][]string{Probe: {"taken 192.0.2.10 02:00:00:00:00:99"}, Claim: {"taken 192.0.2.10 02:00:00:00:00:99"}} {
		l := newLAN(t)
		l.m.SetNodes(map[string][]netip.Addr{"eth0": {node2}})
		l.set(Address{Addr: vip, First: true})
		l.sight(vip, stranger, kind)
		l.saw(want...)
	}
}

func TestClusterIsNoConflict(t *testing.T) {
	for _, kind := range []Kind{Answer, Claim, Probe} {
		l := newLAN(t)
		l.set(Address{Addr: vip, First: true}, Address{Addr: vip2})
		for _, mac := range []link.MAC{mine, peer, {}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
			l.sight(vip, mac, kind)
			l.sight(vip2, mac, kind)
		}
		l.wait(time.Hour)
		l.saw("free 192.0.2.10")
	}
}

func TestMACThatTurnsOutToBeANodes(t *testing.T) {
	l := newLAN(t)
	l.answers = taking(stranger, vip)
	l.set(Address{Addr: vip, First: true}, Address{Addr: vip2})
	l.sight(vip2, another, Claim)
	l.saw("taken 192.0.2.10 02:00:00:00:00:99", "defend 192.0.2.11", "claimed 192.0.2.11 02:00:00:00:00:98")
	l.m.SetCluster(l.now, map[link.MAC]struct{}{mine: {}, peer: {}, stranger: {}, another: {}})
	l.wait(probeTime)
	l.saw("over 192.0.2.11", "free 192.0.2.10", "over 192.0.2.10")
}

func TestProxyIsFoundBeforeItDoesHarm(t *testing.T) {
	l := newLAN(t)
	l.m.SetNodes(map[string][]netip.Addr{"eth0": {node2, netip.MustParseAddr("2001:db8::2")}})
	l.answers = func(a Ask) []link.MAC {
		if a.Addr == node2 {
			return []link.MAC{peer, stranger}
		}
		return []link.MAC{stranger} // for whatever is asked
	}
	l.set(Address{Addr: vip, First: true})
	l.wait(2 * probeTime)
	l.saw("proxy 02:00:00:00:00:99", "free 192.0.2.10")
	l.set(Address{Addr: vip2, First: true})
	l.wait(probeTime)
	l.saw("free 192.0.2.11")
	// But who says that an address is its own is no proxy for it.
	l.sight(vip, stranger, Claim)
	l.saw("defend 192.0.2.10", "claimed 192.0.2.10 02:00:00:00:00:99")
}

func TestHostThatIsNoProxyIsAConflictEvenSo(t *testing.T) {
	l := newLAN(t)
	l.m.SetNodes(map[string][]netip.Addr{"eth0": {node2}})
	l.answers = func(a Ask) []link.MAC {
		return map[netip.Addr][]link.MAC{node2: {peer}, vip: {stranger}}[a.Addr]
	}
	l.set(Address{Addr: vip, First: true})
	l.saw()
	l.wait(proxyTime)
	l.saw("taken 192.0.2.10 02:00:00:00:00:99")
	if l.asks[node2] != 1 {
		t.Errorf("asked for the other node %d times", l.asks[node2])
	}
}

func TestProxyIsFoundByTwoAddresses(t *testing.T) {
	l := newLAN(t)
	l.answers = func(a Ask) []link.MAC { return []link.MAC{stranger} }
	l.set(Address{Addr: vip, First: true})
	l.saw("taken 192.0.2.10 02:00:00:00:00:99")
	l.m.Remove(vip) // its Service was given another
	l.set(Address{Addr: vip2, First: true})
	l.wait(probeTime)
	l.saw("proxy 02:00:00:00:00:99", "over 192.0.2.10", "free 192.0.2.11")
	// The next new address may be a long time coming.
	l.wait(20 * time.Hour)
	l.set(Address{Addr: netip.MustParseAddr("192.0.2.12"), First: true})
	l.wait(probeTime)
	l.saw("free 192.0.2.12")

	l = newLAN(t)
	l.answers = func(a Ask) []link.MAC { return []link.MAC{stranger} }
	l.set(Address{Addr: vip, First: true})
	l.set(Address{Addr: vip2, First: true})
	l.wait(probeTime)
	l.saw("taken 192.0.2.10 02:00:00:00:00:99", "proxy 02:00:00:00:00:99", "free 192.0.2.11", "free 192.0.2.10", "over 192.0.2.10")
}

func TestHostWithAnAddressOfEachFamilyIsNoProxy(t *testing.T) {
	l := newLAN(t)
	l.answers = func(a Ask) []link.MAC { return []link.MAC{stranger} }
	l.set(Address{Addr: vip, First: true})
	l.set(Address{Addr: vip6, First: true})
	l.wait(probeTime)
	l.saw("taken 192.0.2.10 02:00:00:00:00:99", "taken 2001:db8::10 02:00:00:00:00:99")
	l.m.SetCluster(l.now, map[link.MAC]struct{}{mine: {}, peer: {}, stranger: {}})
	l.wait(2 * againAfter)
	l.saw("free 2001:db8::10", "free 192.0.2.10", "over 192.0.2.10", "over 2001:db8::10")
}

func TestHeldAddressIsWatched(t *testing.T) {
	l := newLAN(t)
	l.set(Address{Addr: vip})
	l.sight(vip, stranger, Probe) // it will be answered
	l.saw()
	l.sight(vip, stranger, Claim)
	l.saw("defend 192.0.2.10", "claimed 192.0.2.10 02:00:00:00:00:99")
	if !l.m.MayAnnounce(vip) {
		t.Error("it moves")
	}
	l.sight(vip, stranger, Answer)
	l.wait(defendAfter - 1)
	l.sight(vip, stranger, Claim)
	l.saw()
	l.wait(1)
	l.sight(vip, stranger, Claim)
	l.saw("defend 192.0.2.10")
	l.wait(overAfter - 1)
	l.saw()
	l.wait(1)
	l.saw("over 192.0.2.10")
	l.wait(time.Hour)
	l.saw()
}

func TestConflictOnRecordEnds(t *testing.T) {
	l := newLAN(t)
	l.set(Address{Addr: vip, Recorded: true}, Address{Addr: vip2, First: true, Recorded: true})
	l.wait(probeTime)
	l.saw("free 192.0.2.11", "over 192.0.2.11")
	l.wait(overAfter)
	l.saw("over 192.0.2.10")
}

func TestAddressWithNowhereToBeWaits(t *testing.T) {
	l := newLAN(t)
	l.set(Address{Addr: vip, First: true, Interfaces: []string{}})
	l.wait(time.Hour)
	l.saw()
	l.set(Address{Addr: vip, First: true, Interfaces: []string{"eth0", "eth1"}})
	l.wait(probeTime)
	l.saw("free 192.0.2.10")
	if l.asks[vip] != 2*probes {
		t.Errorf("%d probes, want %d on each interface", l.asks[vip], probes)
	}
}

// A speaker that was paused has heard nothing, and starts again.
func TestPauseIsNoSilence(t *testing.T) {
	l := newLAN(t)
	l.set(Address{Addr: vip, First: true})
	l.now = l.now.Add(time.Minute)
	l.m.Tick(l.now)
	l.drain()
	l.saw()
	l.wait(probeTime)
	l.saw("free 192.0.2.10")
}

func TestProbesOfManyAddressesArePaced(t *testing.T) {
	l := newLAN(t)
	const n = 10_000
	addr := netip.MustParseAddr("10.0.0.0")
	for range n {
		addr = addr.Next()
		l.m.Set(l.now, Address{Addr: addr, Interfaces: []string{"eth0"}, First: true})
	}
	sent, free, until := 0, 0, time.Duration(0)
	for free < n {
		out := l.m.Output(l.now)
		sent, free = sent+len(out.Asks), free+len(out.Free)
		if since := l.now.Sub(l.start); float64(sent) > asksAtOnce+asksPerSecond*since.Seconds()+1 {
			t.Fatalf("%d probes after %v", sent, since)
		}
		if free == n {
			until = l.now.Sub(l.start)
			break
		}
		l.now = l.m.Next()
		l.m.Tick(l.now)
	}
	if most := n*time.Second/asksPerSecond + 2*probeTime; until > most {
		t.Errorf("ready after %v, want %v at most", until, most)
	}
}
