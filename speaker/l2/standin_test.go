// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestAStandInAnswersWithTheOwnersMACAndAnnouncesNothing(t *testing.T) {
	metered(t, func(t *testing.T, r *Responder, lan *fakeLAN, reg *prometheus.Registry) {
		set(t, r, all, as("eth0", otherMAC, vip, vip6))
		lan.says("eth0", IPv4, ask())
		lan.says("eth0", IPv6, solicit())
		time.Sleep(10 * time.Minute)
		wantLines(t, lan.take(),
			"0s reply to 192.0.2.2 at 2: 192.0.2.50 is 3",
			"0s advertisement SO to fe80::2 at 2: 2001:db8::5:50 is 3")
		groups, _ := lan.joined("eth0")
		wantLines(t, groups, "ff02::1:ff05:50")
		if n := counts(t, reg, IPv4)["addresses"]; n != 1 {
			t.Errorf("answers for %v addresses", n)
		}
	})
}

// The frame comes from our own MAC, so that no switch learns the owner's here.
func TestAStandInSendsFromItsOwnMAC(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, as("eth0", otherMAC, vip, vip6))
		lan.says("eth0", IPv4, ask())
		lan.says("eth0", IPv6, solicit())
		for _, f := range lan.takeFrames() {
			if [6]byte(f.frame[offSource:]) != selfMAC {
				t.Errorf("sent from %x", f.frame[offSource:ethernetLen])
			}
		}
	})
}

func TestAStandInThatClaimsAnnouncesAndOneThatEndsIsSilent(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, as("eth0", otherMAC, vip, vip2))
		claimed := as("eth0", otherMAC)
		claimed[vip] = on("eth0", vip)[vip]
		set(t, r, all, claimed)
		lan.says("eth0", IPv4, ask())
		lan.says("eth0", IPv4, askFor(vip2))
		got := map[string]bool{}
		for _, line := range lan.take() {
			got[line] = true
		}
		for _, line := range []string{
			"0s gratuitous request: 192.0.2.50 is 1", "0s gratuitous reply: 192.0.2.50 is 1", "0s reply to 192.0.2.2 at 2: 192.0.2.50 is 1",
		} {
			if !got[line] {
				t.Errorf("missing: %s in %v", line, got)
			}
		}
		if len(got) != 3 {
			t.Errorf("sent %v", got)
		}
	})
}

// An owner that comes back to standing in, as when it learns of a better
// claim too late, stops announcing.
func TestAnOwnerThatStandsInAnnouncesNoMore(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		lan.take()
		set(t, r, all, as("eth0", otherMAC, vip))
		time.Sleep(time.Hour)
		wantLines(t, lan.take())
	})
}

func TestARequestThatIsReadTooLateIsNotAnswered(t *testing.T) {
	metered(t, func(t *testing.T, r *Responder, lan *fakeLAN, reg *prometheus.Registry) {
		set(t, r, all, on("eth0", vip, vip6))
		time.Sleep(10 * time.Second)
		lan.take()
		lan.says("eth0", IPv4, aged{ask(), maxAge + time.Millisecond})
		lan.says("eth0", IPv6, aged{solicit(), maxAge + time.Millisecond})
		lan.says("eth0", IPv4, aged{askFor(other), time.Hour})
		wantLines(t, lan.take())
		lan.says("eth0", IPv4, aged{ask(), maxAge})
		lan.says("eth0", IPv4, aged{ask(), -time.Hour}) // the clock was set back
		line := "10s reply to 192.0.2.2 at 2: 192.0.2.50 is 1"
		wantLines(t, lan.take(), line, line)
		if got := counts(t, reg, IPv4)["requests_too_late_total"]; got != 1 {
			t.Errorf("%v requests were too late", got)
		}
	})
}

func TestNothingIsSentAfterTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		start := time.Now()
		r.AnswerUntil(start.Add(time.Second))
		set(t, r, all, on("eth0", vip))
		time.Sleep(time.Second)
		lan.take()
		lan.says("eth0", IPv4, ask())
		wantLines(t, lan.take(), "1s reply to 192.0.2.2 at 2: 192.0.2.50 is 1")
		time.Sleep(4 * time.Second)
		lan.says("eth0", IPv4, ask())
		wantLines(t, lan.take()) // the second round was due at 1.1 s, too

		r.AnswerUntil(start.Add(time.Hour))
		wantLines(t, lan.take(), "5s gratuitous request: 192.0.2.50 is 1", "5s gratuitous reply: 192.0.2.50 is 1")
		lan.says("eth0", IPv4, ask())
		wantLines(t, lan.take(), "5s reply to 192.0.2.2 at 2: 192.0.2.50 is 1")
	})
}

func TestAnnounceAndRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		desired := on("eth0", vip6)
		desired[vip] = Want{Interfaces: []string{"eth0", "eth1"}}
		set(t, r, all, desired)
		time.Sleep(10 * time.Second)
		lan.take()
		r.Announce(vip6)
		r.Announce(other)
		wantLines(t, lan.take(), "10s advertisement O to ff02::1 at all: 2001:db8::5:50 is 1")
		time.Sleep(10 * time.Second)
		lan.take()
		r.Refresh("eth1")
		r.Refresh("eth7")
		wantLines(t, lan.take(), "20s gratuitous request: 192.0.2.50 is 8", "20s gratuitous reply: 192.0.2.50 is 8")
	})
}

// In a flood of reasons to announce an address anew there is one turn for it.
func TestAnAddressIsAnnouncedAnewInOneTurn(t *testing.T) {
	var s schedule
	now := time.Unix(1000, 0)
	s.add(vip)
	s.add(other)
	for _, turn := range []netip.Addr{vip, other} {
		for range 1000 {
			s.again(vip)
			s.again(other)
		}
		if addr, _, _ := s.take(now); addr != turn {
			t.Errorf("it is the turn of %v, not of %v", addr, turn)
		}
		if len(s.fresh) > 2 {
			t.Fatalf("%d turns wait", len(s.fresh))
		}
	}
}

func TestAnIPv6ClaimIsAnnouncedThreeTimesASecondApart(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip6))
		time.Sleep(59 * time.Second)
		const line = "advertisement O to ff02::1 at all: 2001:db8::5:50 is 1"
		wantLines(t, lan.take(), "0s "+line, "1.1s "+line, "2.2s "+line)
	})
}
