// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

func TestAsk(t *testing.T) {
	bare := link.Link{Index: 2, Name: "eth0", MAC: selfMAC, Up: true, ARP: true, NDP: true}
	two := eth0
	two.Addrs = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1")}
	two.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("198.51.100.1/24")}
	for _, tt := range []struct {
		name  string
		link  link.Link
		addr  netip.Addr
		mac   link.MAC
		probe bool
		want  string
	}{
		{"everybody is asked", eth0, other, link.MAC{}, false, "0s request to all: who is 192.0.2.99? says 192.0.2.1, which is 1"},
		{"one station is asked", eth0, other, otherMAC, false, "0s request to 3: who is 192.0.2.99? says 192.0.2.1, which is 1"},
		{"a probe is nobody's", eth0, other, link.MAC{}, true, "0s request to all: who is 192.0.2.99? says 0.0.0.0, which is 1"},
		{"without an address of its own it probes", bare, other, link.MAC{}, false, "0s request to all: who is 192.0.2.99? says 0.0.0.0, which is 1"},
		{"it asks from the address in the same network", two, netip.MustParseAddr("198.51.100.9"), link.MAC{}, false,
			"0s request to all: who is 198.51.100.9? says 198.51.100.1, which is 1"},
		{"or else from any", two, netip.MustParseAddr("203.0.113.9"), link.MAC{}, false, "0s request to all: who is 203.0.113.9? says 192.0.2.1, which is 1"},
		{"a group is asked", eth0, other6, link.MAC{}, false,
			"0s solicitation to ff02::1:ff05:99 at group ff050099: who is 2001:db8::5:99? says fe80::1, which is 1"},
		{"one neighbour is asked", eth0, other6, otherMAC, false, "0s solicitation to 2001:db8::5:99 at 3: who is 2001:db8::5:99? says fe80::1, which is 1"},
		{"a detection is nobody's", eth0, other6, link.MAC{}, true,
			"0s solicitation to ff02::1:ff05:99 at group ff050099: who is 2001:db8::5:99? says ::, which is unsaid"},
		{"a detection of one goes to the group at its MAC", eth0, other6, otherMAC, true,
			"0s solicitation to ff02::1:ff05:99 at 3: who is 2001:db8::5:99? says ::, which is unsaid"},
		{"without an address it detects", bare, other6, link.MAC{}, false,
			"0s solicitation to ff02::1:ff05:99 at group ff050099: who is 2001:db8::5:99? says ::, which is unsaid"},
		{"it asks from the link-local address", two, other6, otherMAC, false, "0s solicitation to 2001:db8::5:99 at 3: who is 2001:db8::5:99? says fe80::1, which is 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
				set(t, r, []link.Link{tt.link}, nil)
				if err := r.Ask("eth0", tt.addr, tt.mac, tt.probe); err != nil {
					t.Fatal(err)
				}
				wantLines(t, lan.take(), tt.want)
			})
		})
	}
}

func TestWhatCantBeAsked(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		without := eth0
		without.NDP = false
		set(t, r, []link.Link{without}, nil)
		for name, err := range map[string]error{
			"an interface that isn't there": r.Ask("eth7", other, link.MAC{}, false),
			"a family that isn't resolved":  r.Ask("eth0", other6, link.MAC{}, false),
		} {
			if !errors.Is(err, ErrNoInterface) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := r.Ask("eth0", netip.MustParseAddr("ff02::1"), link.MAC{}, false); err == nil {
			t.Error("a group was asked for")
		}
		wantLines(t, lan.take())
	})
}

func TestAnAnswerIsSeenForThreeSeconds(t *testing.T) {
	answer := arpFrame(arp.OperationReply, otherMAC, other, selfMAC, asker)
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		lan.says("eth0", IPv4, answer)
		wantLines(t, lan.takeSeen())
		if err := r.Ask("eth0", other, link.MAC{}, false); err != nil {
			t.Fatal(err)
		}
		lan.says("eth1", IPv4, answer)
		wantLines(t, lan.takeSeen())
		for range 2 {
			lan.says("eth0", IPv4, answer)
			wantLines(t, lan.takeSeen(), "192.0.2.99 is 3, says a reply on eth0")
		}
		time.Sleep(askedFor)
		lan.says("eth0", IPv4, answer)
		wantLines(t, lan.takeSeen())
		if err := r.Ask("eth0", vip2, link.MAC{}, false); err != nil {
			t.Fatal(err)
		}
		if n := len(r.named("eth0").wires[IPv4].table.asked); n != 1 {
			t.Errorf("%d addresses are remembered as asked for", n)
		}
	})
}

func TestLastReceived(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, nil)
		if at := r.LastReceived("eth0"); !at.IsZero() {
			t.Errorf("received at %v", at)
		}
		time.Sleep(5 * time.Second)
		lan.says("eth0", IPv4, aged{askFor(other), 2 * time.Second})
		lan.take()
		if age := time.Since(r.LastReceived("eth0")); age != 2*time.Second {
			t.Errorf("received %v ago", age)
		}
		lan.says("eth0", IPv6, solicitFor(other6)[:20])
		lan.take()
		if age := time.Since(r.LastReceived("eth0")); age != 0 {
			t.Errorf("received %v ago", age)
		}
		for _, name := range []string{"eth1", "eth7"} {
			if at := r.LastReceived(name); !at.IsZero() {
				t.Errorf("%s received at %v", name, at)
			}
		}
		lan.says("eth0", IPv4, error(unix.EIO))
	})
}

// Another station may want an address at the same time as this one. Once it is
// answered for here, that is the answer.
func TestAProbeOfAnotherStationIsSeenWhileWeAskToo(t *testing.T) {
	for name, tt := range map[string]struct {
		family Family
		addr   netip.Addr
		probe  []byte
		want   string
	}{
		"ARP": {IPv4, other, appendRequest(nil, broadcast, otherMAC, netip.IPv4Unspecified(), other), "192.0.2.99 is 3, or is to be on eth0"},
		"NDP": {IPv6, other6, appendSolicitation(nil, groupMAC(solicitedNode(other6)), otherMAC, netip.IPv6Unspecified(), other6), "2001:db8::5:99 is 3, or is to be on eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
				set(t, r, all, nil)
				lan.says("eth0", tt.family, tt.probe)
				wantLines(t, lan.takeSeen())
				if err := r.Ask("eth0", tt.addr, link.MAC{}, true); err != nil {
					t.Fatal(err)
				}
				lan.says("eth0", tt.family, tt.probe)
				wantLines(t, lan.takeSeen(), tt.want)
				set(t, r, all, on("eth0", tt.addr))
				lan.says("eth0", tt.family, tt.probe)
				wantLines(t, lan.takeSeen())
			})
		})
	}
}
