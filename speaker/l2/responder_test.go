// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

func TestAClaimIsAnnouncedThreeTimesAndThenEveryMinute(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(59 * time.Second)
		wantLines(t, lan.take(),
			"0s gratuitous request: 192.0.2.50 is 1", "0s gratuitous reply: 192.0.2.50 is 1",
			"1.1s gratuitous request: 192.0.2.50 is 1", "1.1s gratuitous reply: 192.0.2.50 is 1",
			"2.2s gratuitous request: 192.0.2.50 is 1", "2.2s gratuitous reply: 192.0.2.50 is 1",
		)
		time.Sleep(64 * time.Second)
		wantLines(t, lan.take(),
			"1m2.2s gratuitous request: 192.0.2.50 is 1", "1m2.2s gratuitous reply: 192.0.2.50 is 1",
			"2m2.2s gratuitous request: 192.0.2.50 is 1", "2m2.2s gratuitous reply: 192.0.2.50 is 1",
		)
	})
}

func TestSettingTheSameStateSendsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(10 * time.Second)
		lan.take()
		socket := lan.sockets[Place{"eth0", IPv4}]
		for range 100 {
			set(t, r, all, on("eth0", vip2, vip))
		}
		wantLines(t, lan.take())
		if lan.sockets[Place{"eth0", IPv4}] != socket || len(lan.sockets) != 4 {
			t.Errorf("sockets were opened or closed: %v", lan.open())
		}
	})
}

func TestANewAddressLeavesTheOthersAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		lan.take()
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(time.Second)
		wantLines(t, lan.take(), "10s gratuitous request: 192.0.2.51 is 1", "10s gratuitous reply: 192.0.2.51 is 1")
	})
}

func TestARemovedAddressFallsSilentAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(time.Second)
		lan.take()
		set(t, r, all, on("eth0", vip2))
		lan.says("eth0", IPv4, ask())
		lan.says("eth0", IPv4, askFor(vip2))
		wantLines(t, lan.take(), "1s reply to 192.0.2.2 at 2: 192.0.2.51 is 1")
		time.Sleep(time.Hour)
		for _, line := range lan.take() {
			if strings.Contains(line, vip.String()) {
				t.Errorf("sent %s", line)
			}
		}
	})
}

func TestAnAddressThatCameBackIsNew(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(10 * time.Second)
		set(t, r, all, on("eth0", vip2))
		set(t, r, all, on("eth0", vip, vip2))
		lan.take()
		time.Sleep(time.Second)
		set(t, r, all, on("eth0", vip2))
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(1200 * time.Millisecond)
		wantLines(t, lan.take(),
			"11s gratuitous request: 192.0.2.50 is 1", "11s gratuitous reply: 192.0.2.50 is 1",
			"12.1s gratuitous request: 192.0.2.50 is 1", "12.1s gratuitous reply: 192.0.2.50 is 1",
		)
	})
}

// Both families of an interface share one pace.
func TestAnnouncementsArePaced(t *testing.T) {
	const n, frames = 500, 500 * (2 + 1)
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", append(manyAddrs(n), manyAddrs6(n)...)...))
		time.Sleep(20 * time.Second)
		sent := lan.takeFrames()
		if len(sent) != rounds*frames {
			t.Fatalf("%d frames", len(sent))
		}
		// The two frames of one address go together.
		const most = framesPerSecond + 1
		for i := most; i < len(sent); i++ {
			if sent[i].at-sent[i-most].at < time.Second {
				t.Fatalf("more than %d frames in a second, after %v", most, sent[i].at)
			}
		}
		times := map[string]time.Duration{}
		for i, s := range sent {
			line := describe(s.frame)
			last, again := times[line]
			if again && i < frames {
				t.Fatalf("the second round began before the first was over, with %s", line)
			}
			if again && s.at-last < time.Second {
				t.Fatalf("%s: again after %v", line, s.at-last)
			}
			times[line] = s.at
		}
		if len(times) != frames {
			t.Errorf("%d different frames, want %d", len(times), frames)
		}
	})
}

func TestAFreshClaimGoesBeforeRepetitions(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		addrs := manyAddrs(1000)
		set(t, r, all, on("eth0", addrs...))
		time.Sleep(5 * time.Second) // in the second round
		lan.take()
		set(t, r, all, on("eth0", append(addrs, vip)...))
		time.Sleep(10 * time.Millisecond)
		if sent := lan.take(); !slices.ContainsFunc(sent, func(s string) bool { return strings.Contains(s, vip.String()) }) {
			t.Errorf("sent %v", sent)
		}
	})
}

func TestManyAddressesAreRefreshedMoreSlowly(t *testing.T) {
	const n = 5000
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", manyAddrs(n)...))
		time.Sleep(10 * time.Minute)
		lan.take()
		time.Sleep(n * time.Second / refreshRate)
		sent := lan.takeFrames()
		once := map[string]int{}
		for _, s := range sent {
			once[describe(s.frame)]++
		}
		if len(once) < 2*n-4 || len(sent) > 2*n+4 {
			t.Errorf("%d frames for %d addresses, %d different", len(sent), n, len(once))
		}
	})
}

func TestAnInterfaceThatCameUpAnnouncesAll(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		down := eth0
		down.Up = false
		if failed := r.Set([]link.Link{down, eth1}, on("eth0", vip)); !errors.Is(failed[Place{"eth0", IPv4}], ErrNoInterface) {
			t.Errorf("failed: %v", failed)
		}
		if open := lan.open(); len(open) != 2 || open[0].Interface != "eth1" {
			t.Errorf("sockets are open: %v", open)
		}
		lan.take()
		set(t, r, all, on("eth0", vip))
		wantLines(t, lan.take(), "10s gratuitous request: 192.0.2.50 is 1", "10s gratuitous reply: 192.0.2.50 is 1")
	})
}

func TestAnInterfaceThatWentDownAndUpUnseenAnnouncesAll(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		lan.take()
		lan.says("eth0", IPv4, error(unix.ENETDOWN))
		wantLines(t, lan.take(), "10s gratuitous request: 192.0.2.50 is 1", "10s gratuitous reply: 192.0.2.50 is 1")
		lan.says("eth0", IPv4, ask())
		wantLines(t, lan.take(), "10s reply to 192.0.2.2 at 2: 192.0.2.50 is 1")
	})
}

func TestAReadErrorDoesNotEndTheAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		lan.take()
		lan.says("eth0", IPv4, error(unix.EIO))
		time.Sleep(readRetry)
		lan.says("eth0", IPv4, ask())
		wantLines(t, lan.take(), "1s reply to 192.0.2.2 at 2: 192.0.2.50 is 1")
	})
}

func TestAChangedMACIsAnnounced(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		lan.take()
		changed := eth0
		changed.MAC[5] = 7
		set(t, r, []link.Link{changed, eth1}, on("eth0", vip))
		lan.says("eth0", IPv4, ask())
		got := lan.take()
		slices.Sort(got) // the reply and the announcement are sent at one time
		wantLines(t, got,
			"10s gratuitous reply: 192.0.2.50 is 7", "10s gratuitous request: 192.0.2.50 is 7",
			"10s reply to 192.0.2.2 at 2: 192.0.2.50 is 7")
	})
}

func TestAnInterfaceOfTheSameNameIsAnother(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		lan.take()
		anew := eth0
		anew.Index = 9
		set(t, r, []link.Link{anew}, on("eth0", vip))
		wantLines(t, lan.take(), "10s gratuitous request: 192.0.2.50 is 1", "10s gratuitous reply: 192.0.2.50 is 1")
	})
}

func TestAnAddressMayBeOnTwoInterfaces(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, map[netip.Addr]Want{vip: {Interfaces: []string{"eth0", "eth1"}}})
		lan.take()
		lan.says("eth0", IPv4, ask())
		lan.says("eth1", IPv4, ask())
		got := lan.take()
		slices.Sort(got)
		wantLines(t, got, "0s reply to 192.0.2.2 at 2: 192.0.2.50 is 1", "0s reply to 192.0.2.2 at 2: 192.0.2.50 is 8")
	})
}

func TestAnInterfaceThatCantBeUsedIsReportedAndTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		lan.refuses(unix.EPERM)
		failed := r.Set([]link.Link{eth0}, on("eth0", vip))
		if !errors.Is(failed[Place{"eth0", IPv4}], unix.EPERM) || !errors.Is(failed[Place{"eth0", IPv6}], unix.EPERM) || len(failed) != 2 {
			t.Errorf("failed: %v", failed)
		}
		failed = r.Set(nil, on("eth0", vip))
		if !errors.Is(failed[Place{"eth0", IPv4}], ErrNoInterface) || len(failed) != 1 {
			t.Errorf("failed: %v", failed)
		}
		lan.refuses(nil)
		set(t, r, all, on("eth0", vip))
		wantLines(t, lan.take(), "0s gratuitous request: 192.0.2.50 is 1", "0s gratuitous reply: 192.0.2.50 is 1")
	})
}

func TestAFamilyThatAnInterfaceDoesNotResolveFailsAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		without := eth0
		without.NDP = false
		both := on("eth0", vip, vip6)
		failed := r.Set([]link.Link{without}, both)
		if !errors.Is(failed[Place{"eth0", IPv6}], ErrNoInterface) || len(failed) != 1 {
			t.Errorf("failed: %v", failed)
		}
		wantLines(t, lan.take(), "0s gratuitous request: 192.0.2.50 is 1", "0s gratuitous reply: 192.0.2.50 is 1")
		time.Sleep(10 * time.Second)
		lan.take()
		set(t, r, []link.Link{eth0}, both)
		wantLines(t, lan.take(), "10s advertisement O to ff02::1 at all: 2001:db8::5:50 is 1")
		r.Set([]link.Link{without}, both)
		time.Sleep(time.Minute)
		for _, line := range lan.take() {
			if strings.Contains(line, "advertisement") && !strings.HasPrefix(line, "11.1s") && !strings.HasPrefix(line, "12.2s") {
				t.Errorf("sent %s", line)
			}
		}
	})
}

func TestAddressesOfNoStationAreLeftOut(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", netip.Addr{}, netip.MustParseAddr("::ffff:192.0.2.50"), netip.MustParseAddr("fe80::1%eth0"),
			netip.MustParseAddr("ff02::1"), netip.MustParseAddr("224.0.0.1"), zero, zero6))
		time.Sleep(10 * time.Second)
		wantLines(t, lan.take())
	})
}

// Update tells that there is something that only Set tells.
func TestUpdateTellsThatAPlaceCannotBeUsed(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, _ *fakeLAN) {
		set(t, r, all, nil)
		good, bad := netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.78")
		if !r.Update(map[netip.Addr]Want{good: {Interfaces: []string{all[0].Name}}}) {
			t.Error("an interface that is there can't be used")
		}
		if r.Update(map[netip.Addr]Want{bad: {Interfaces: []string{"nowhere"}}}) {
			t.Error("an interface that isn't there can be used")
		}
		if !r.Update(map[netip.Addr]Want{bad: {}}) {
			t.Error("it isn't wanted any more, and can't be used")
		}
	})
}

// Whatever states were set before, the last alone decides what is answered and
// announced, and how.
func TestAnyStatesEndInTheLast(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
			desired := randomState(rnd)
			set(t, r, all, desired)
			for range 20 {
				next := randomState(rnd)
				if rnd.IntN(2) == 0 {
					set(t, r, all, next)
				} else {
					r.Update(changes(desired, next))
				}
				desired = next
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			}
			for _, l := range all {
				wantLines(t, lan.answered(l.Name), expected(desired, l, true)...)
			}
			time.Sleep(time.Hour)
			lan.take()
			time.Sleep(minRefresh)
			announced := map[string][]string{}
			for _, f := range lan.takeFrames() {
				if line := describe(f.frame); !strings.HasPrefix(line, "gratuitous request") {
					mac := line[len(line)-1:]
					addr := strings.TrimSuffix(line[strings.LastIndex(line, ": ")+2:], " is "+mac)
					announced[mac] = append(announced[mac], addr+" is "+mac)
				}
			}
			for _, l := range all {
				got := announced[fmt.Sprint(l.MAC[5])]
				slices.Sort(got)
				wantLines(t, got, expected(desired, l, false)...)
			}
			if groups, _ := lan.joined("eth0"); len(groups) != len(solicitedNodes(desired, "eth0")) {
				t.Errorf("seed %d: joined %v, want %v", seed, groups, solicitedNodes(desired, "eth0"))
			}
		})
	}
}

func randomAddrs() (addrs []netip.Addr) {
	for i := range 6 {
		addrs = append(addrs, nthAddr(i), nthAddr6(i))
	}
	return addrs
}

func randomState(rnd *rand.Rand) map[netip.Addr]Want {
	desired := map[netip.Addr]Want{}
	for _, a := range randomAddrs() {
		var w Want
		for _, l := range all {
			switch rnd.IntN(4) {
			case 0:
				w.Interfaces = append(w.Interfaces, l.Name)
			case 1:
				w.Interfaces = append(w.Interfaces, l.Name)
				w.As = map[string]link.MAC{l.Name: otherMAC}
			}
		}
		if len(w.Interfaces) > 0 {
			desired[a] = w
		}
	}
	return desired
}

// changes leads from one state to another.
func changes(from, to map[netip.Addr]Want) map[netip.Addr]Want {
	c := maps.Clone(to)
	for a := range from {
		if _, ok := to[a]; !ok {
			c[a] = Want{}
		}
	}
	return c
}

// answered asks for all random addresses and returns the answers, sorted.
func (l *fakeLAN) answered(name string) []string {
	l.take()
	var got []string
	for _, a := range randomAddrs() {
		if a.Is4() {
			l.says(name, IPv4, askFor(a))
		} else {
			l.says(name, IPv6, solicitFor(a))
		}
		for _, f := range l.takeFrames() {
			if line := describe(f.frame); strings.HasPrefix(line, "reply") || strings.HasPrefix(line, "advertisement SO") {
				got = append(got, line[strings.LastIndex(line, ": ")+2:])
			}
		}
	}
	slices.Sort(got)
	return got
}

// expected says what a state means for a link: all answers, or only what is
// announced too.
func expected(desired map[netip.Addr]Want, l link.Link, answers bool) []string {
	var lines []string
	for a, w := range desired {
		if !slices.Contains(w.Interfaces, l.Name) {
			continue
		}
		mac, standIn := w.As[l.Name]
		switch {
		case !standIn:
			lines = append(lines, fmt.Sprintf("%v is %d", a, l.MAC[5]))
		case answers:
			lines = append(lines, fmt.Sprintf("%v is %d", a, mac[5]))
		}
	}
	slices.Sort(lines)
	return lines
}

func solicitedNodes(desired map[netip.Addr]Want, name string) map[netip.Addr]bool {
	groups := map[netip.Addr]bool{}
	for a, w := range desired {
		if a.Is6() && slices.Contains(w.Interfaces, name) {
			groups[solicitedNode(a)] = true
		}
	}
	return groups
}
