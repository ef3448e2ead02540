// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

const ms = time.Millisecond

func TestASpreadHasTheMiddle(t *testing.T) {
	for _, tt := range []struct {
		name string
		of   []time.Duration
		want spread
	}{
		{"nothing", nil, spread{}},
		{"one", []time.Duration{3}, spread{3, 3, 3}},
		{"odd", []time.Duration{9, 1, 4}, spread{1, 4, 9}},
		{"even", []time.Duration{9, 1, 4, 6}, spread{1, 5, 9}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var list []outcome
			for _, d := range tt.of {
				list = append(list, outcome{cold: d})
			}
			if got := spreadOf(list, func(o outcome) time.Duration { return o.cold }); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestABoundIsBrokenByWhatIsOverIt(t *testing.T) {
	for _, tt := range []struct {
		name   string
		bounds bounds
		list   []outcome
		want   []string
	}{
		{"all within", lostNode, []outcome{{cold: 400 * ms, udp: 300 * ms, lost: 40, broken: 25, moved: 3}}, nil},
		{"on the bound", lostNode, []outcome{{cold: 500 * ms}}, nil},
		{"the median, by cold probes", lostNode, []outcome{{cold: 600 * ms}}, []string{"median 0.60 > 0.50"}},
		{"the median, by datagrams", lostNode, []outcome{{udp: 600 * ms}}, []string{"median 0.60 > 0.50"}},
		{"the most, once", lostNode, []outcome{{cold: 300 * ms}, {cold: 1100 * ms}, {cold: 300 * ms}}, []string{"max 1.10 > 1.00"}},
		{"a lost speaker costs nothing", lostSpeaker, []outcome{{cold: 1200 * ms, fresh: 1300 * ms}}, nil},
		{"a lost speaker costs something", lostSpeaker, []outcome{{cold: 1400 * ms, fresh: 1500 * ms, lost: 1, broken: 2, moved: 3}},
			[]string{"cold 1.40 > 1.30", "fresh 1.50 > 1.30", "1 lost", "2 resets", "3 moved"}},
		{"a drain loses no datagram", bounds{lossless: true}, []outcome{{lost: 1}, {lost: 1, broken: 9}}, []string{"2 lost"}},
		{"a drain moves the address", bounds{lossless: true}, []outcome{{}, {stuck: true}}, []string{"1 not replaced"}},
		{"two answer for too long, whatever the row", bounds{}, []outcome{{together: 1500 * ms}}, []string{"two answer 1.50 > 1.00"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.bounds.broken(tt.list)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestATableHasALineForEachFamilyAndTellsWhetherAllHeld(t *testing.T) {
	good := outcome{family: cluster.IPv4, cold: 300 * ms, udp: 310 * ms, lost: 31}
	bad := outcome{family: cluster.IPv6, cold: 1200 * ms, udp: 310 * ms}
	for _, tt := range []struct {
		name     string
		outcomes []outcome
		kept     bool
		verdicts []string
	}{
		{"all held", []outcome{good, good}, true, []string{"ok"}},
		{"one family did not", []outcome{good, bad, good, bad}, false, []string{"ok", "BROKEN: median 1.20 > 0.50, max 1.20 > 1.00"}},
		{"a run is missing", []outcome{good}, false, []string{"BROKEN: 1 runs failed"}},
		{"all are", nil, false, []string{"BROKEN: no run succeeded"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := result{row: rows[0], nodes: 3, outcomes: tt.outcomes}
			lines, kept := r.lines(2)
			var verdicts []string
			for _, line := range lines {
				if len(line) != len(columns) {
					t.Errorf("%d columns, want %d: %q", len(line), len(columns), line)
				}
				verdicts = append(verdicts, line[len(line)-1])
			}
			if diff := cmp.Diff(tt.verdicts, verdicts); diff != "" || kept != tt.kept {
				t.Errorf("kept: %t\n%s", kept, diff)
			}
			var out bytes.Buffer
			if printTable(&out, []result{r}, 2) != tt.kept {
				t.Errorf("the table says otherwise:\n%s", &out)
			}
		})
	}
}

func TestWhoOwnsAndWhatMovedIsToldByFamily(t *testing.T) {
	a4, b4, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")
	before := map[netip.Addr]owner{a4: {"node1", 1}, b4: {"node2", 1}, a6: {"node2", 1}}
	if got := owning(before); !slices.Equal(got, []string{"node2"}) {
		t.Errorf("%v have an address of each family", got)
	}
	after := map[netip.Addr]owner{a4: {"node2", 2}, b4: {"node2", 2}, a6: {"node2", 1}}
	if four, six := moved(before, after, true), moved(before, after, false); four != 2 || six != 0 {
		t.Errorf("%d and %d moved, want 2 and 0", four, six)
	}
}

func TestOnlyWhatWasAnsweredOfLateCounts(t *testing.T) {
	now := time.Unix(1000, 0)
	me, other := wire.MAC{1}, wire.MAC{2}
	for _, tt := range []struct {
		name    string
		answers map[time.Duration]wire.MAC // by age
		want    string
	}{
		{"nobody", nil, "nobody answers"},
		{"me, long ago", map[time.Duration]wire.MAC{time.Second: me}, "nobody answers"},
		{"me", map[time.Duration]wire.MAC{10 * ms: me}, ""},
		{"the other before me", map[time.Duration]wire.MAC{time.Second: other, 10 * ms: me}, ""},
		{"both", map[time.Duration]wire.MAC{20 * ms: other, 10 * ms: me}, other.String()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var answers []wire.Resolution
			for age, mac := range tt.answers {
				answers = append(answers, wire.Resolution{At: now.Add(-age), MAC: mac})
			}
			slices.SortFunc(answers, func(a, b wire.Resolution) int { return a.At.Compare(b.At) })
			err := onlyBy(answers, now.Add(-100*ms), func(m wire.MAC) bool { return m == me })
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
