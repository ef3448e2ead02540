// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
)

func TestABoundOfBGPIsBrokenByWhatIsOverIt(t *testing.T) {
	dead := bgpBounds{median: 500 * ms, max: time.Second, hits: true}
	for _, tt := range []struct {
		name   string
		bounds bgpBounds
		list   []bgpOutcome
		want   []string
	}{
		{"all within", dead, []bgpOutcome{{dark: []time.Duration{300 * ms, 400 * ms}, lost: 70}, {dark: []time.Duration{900 * ms}, lost: 90}}, nil},
		{"the median of all flows of all runs", dead, []bgpOutcome{{dark: []time.Duration{300 * ms, 600 * ms}, lost: 90}, {dark: []time.Duration{700 * ms}, lost: 70}},
			[]string{"median 0.60 > 0.50"}},
		{"the most, once", dead, []bgpOutcome{{dark: []time.Duration{300 * ms, 300 * ms, 1100 * ms}, lost: 170}}, []string{"max 1.10 > 1.00"}},
		{"a node's return costs something", dead, []bgpOutcome{{dark: []time.Duration{300 * ms}, lost: 30, back: 2}}, []string{"2 lost when it was back"}},
		{"a death that nobody notices", dead, []bgpOutcome{{}}, []string{"no flow noticed"}},
		{"nothing lost", bgpBounds{lossless: true}, []bgpOutcome{{}, {}}, nil},
		{"something lost", bgpBounds{lossless: true}, []bgpOutcome{{dark: []time.Duration{10 * ms}, lost: 1}, {back: 2}}, []string{"1 lost", "2 lost when it was back"}},
		{"no promise", bgpBounds{}, []bgpOutcome{{dark: []time.Duration{9 * time.Second}, lost: 900, back: 1}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.bounds.broken(tt.list)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheTableOfBGPTellsEachFamilyAndWhatIsMissing(t *testing.T) {
	v := variant{kind: router.BIRD, routers: 2, bfd: true}
	row := bgpRow{title: "fault"}
	four := bgpOutcome{family: cluster.IPv4}
	six := bgpOutcome{family: cluster.IPv6, dark: []time.Duration{20 * ms}, lost: 2}
	for _, tt := range []struct {
		name   string
		result bgpResult
		runs   int
		want   []string // the verdicts
	}{
		{"kept", bgpResult{row: row, variant: v, bounds: bgpBounds{max: time.Second}, outcomes: []bgpOutcome{four, six}}, 1, []string{"ok", "ok"}},
		{"broken in one", bgpResult{row: row, variant: v, bounds: bgpBounds{lossless: true}, outcomes: []bgpOutcome{four, six}}, 1, []string{"ok", "BROKEN: 2 lost"}},
		{"only told", bgpResult{row: row, variant: v, outcomes: []bgpOutcome{six}}, 1, []string{"told"}},
		{"a run failed", bgpResult{row: row, variant: v, outcomes: []bgpOutcome{six}}, 2, []string{"BROKEN: 1 runs failed"}},
		{"all did", bgpResult{row: row, variant: v}, 2, []string{"BROKEN: no run succeeded"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lines, kept := tt.result.lines(tt.runs)
			var got []string
			for _, line := range lines {
				if len(line) != len(bgpColumns) {
					t.Errorf("%d columns, want %d: %q", len(line), len(bgpColumns), line)
				}
				got = append(got, line[len(line)-1])
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if want := !slices.ContainsFunc(got, func(v string) bool { return strings.HasPrefix(v, "BROKEN") }); kept != want {
				t.Errorf("kept: %v", kept)
			}
			var out bytes.Buffer
			if printBGP(&out, []bgpResult{tt.result}, tt.runs) != kept || !strings.Contains(out.String(), "2 BIRD   on") {
				t.Errorf("printed:\n%s", &out)
			}
		})
	}
}
