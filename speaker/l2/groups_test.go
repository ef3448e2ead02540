// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestGroupsAreJoinedByAsManySocketsAsItTakes(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		const n = 2500
		addrs := manyAddrs6(n)
		set(t, r, all, on("eth0", addrs...))
		if groups, sockets := lan.joined("eth0"); len(groups) != n || sockets != 3 {
			t.Fatalf("%d groups by %d sockets", len(groups), sockets)
		}
		set(t, r, all, on("eth0", addrs[2400:]...))
		if groups, sockets := lan.joined("eth0"); len(groups) != 100 || sockets != 1 {
			t.Fatalf("%d groups by %d sockets", len(groups), sockets)
		}
		set(t, r, all, on("eth0", addrs[1400:]...))
		if groups, sockets := lan.joined("eth0"); len(groups) != 1100 || sockets != 2 {
			t.Fatalf("%d groups by %d sockets", len(groups), sockets)
		}
	})
}

func TestAGroupIsLeftByItsLastAddress(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		same := netip.MustParseAddr("fd00::5:50")
		group := solicitedNode(vip6).String()
		for i, tt := range []struct {
			addrs []netip.Addr
			want  []string
		}{{[]netip.Addr{vip6, same}, []string{group}}, {[]netip.Addr{same}, []string{group}}, {nil, nil}, {[]netip.Addr{vip6}, []string{group}}} {
			set(t, r, all, on("eth0", tt.addrs...))
			if got, _ := lan.joined("eth0"); len(got) != len(tt.want) {
				t.Errorf("step %d: joined %v, want %v", i, got, tt.want)
			}
		}
	})
}

func TestAMembershipThatIsRefusedIsReportedAndTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, nil)
		lan.refuses(unix.ENODEV)
		r.Set(all, on("eth0", vip6))
		lan.take()
		failed := r.Set(all, on("eth0", vip6))
		if err := failed[Place{"eth0", IPv6}]; err == nil || len(failed) != 1 {
			t.Errorf("failed: %v", failed)
		}
		lan.refuses(nil)
		time.Sleep(joinRetry)
		if groups, _ := lan.joined("eth0"); len(groups) != 1 {
			t.Errorf("joined %v", groups)
		}
		set(t, r, all, on("eth0", vip6))
	})
}
