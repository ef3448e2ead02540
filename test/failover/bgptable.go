// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// bgpOutcome is what the flows of one family met in one run.
type bgpOutcome struct {
	family cluster.Family
	dark   []time.Duration // of each flow that lost something before the fault was mended
	lost   int             // datagrams, until then
	back   int             // and from then on
	first  []time.Duration // after the fault, of each flow that lost something
}

// bgpBounds are what a row promises. A zero bound is none.
type bgpBounds struct {
	median, max time.Duration // of the flows that lost something
	lossless    bool          // no datagram is lost
	hits        bool          // the fault can't pass unnoticed: a row that lost nothing measured nothing
}

// broken tells what does not hold of a row's outcomes for one family. Whatever is promised of a fault, its end costs nothing.
func (b bgpBounds) broken(list []bgpOutcome) (all []string) {
	dark := darkOf(list)
	for _, bound := range []struct {
		name       string
		got, bound time.Duration
	}{{"median", dark.median, b.median}, {"max", dark.max, b.max}} {
		if bound.bound > 0 && bound.got > bound.bound {
			all = append(all, fmt.Sprintf("%s %s > %s", bound.name, seconds(bound.got), seconds(bound.bound)))
		}
	}
	lost, back := lostOf(list)
	if b.lossless && lost > 0 {
		all = append(all, fmt.Sprintf("%d lost", lost))
	}
	if (b.lossless || b.hits) && back > 0 {
		all = append(all, fmt.Sprintf("%d lost when it was back", back))
	}
	if b.hits && lost == 0 {
		all = append(all, "no flow noticed")
	}
	return all
}

func darkOf(list []bgpOutcome) spread {
	var all []time.Duration
	for _, o := range list {
		all = append(all, o.dark...)
	}
	return spreadOfTimes(all)
}

func lostOf(list []bgpOutcome) (lost, back int) {
	for _, o := range list {
		lost, back = lost+o.lost, back+o.back
	}
	return lost, back
}

// bgpResult is a row on a lab with some sort of routers.
type bgpResult struct {
	row      bgpRow
	variant  variant
	bounds   bgpBounds
	outcomes []bgpOutcome
}

var bgpColumns = []string{"case", "routers", "BFD", "family", "runs", "flows", "dark s", "lost", "back", "verdict"}

// lines are the table's for the row, one for each family, and whether its bounds held in all runs that were wanted.
func (r bgpResult) lines(wanted int) (lines [][]string, kept bool) {
	head := []string{r.row.title, fmt.Sprintf("%d %s", r.variant.routers, r.variant.kind), onOff(r.variant.bfd)}
	kept = true
	for _, family := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
		list := slices.DeleteFunc(slices.Clone(r.outcomes), func(o bgpOutcome) bool { return o.family != family })
		if len(list) == 0 {
			continue
		}
		broken := r.bounds.broken(list)
		if len(list) < wanted {
			broken = append(broken, fmt.Sprintf("%d runs failed", wanted-len(list)))
		}
		verdict := "ok"
		switch {
		case len(broken) > 0:
			kept, verdict = false, "BROKEN: "+strings.Join(broken, ", ")
		case r.bounds == bgpBounds{}:
			verdict = "told"
		}
		affected := 0
		for _, o := range list {
			affected += len(o.dark)
		}
		lost, back := lostOf(list)
		lines = append(lines, append(slices.Clone(head), string(family), fmt.Sprint(len(list)), fmt.Sprint(affected),
			darkOf(list).String(), fmt.Sprint(lost), fmt.Sprint(back), verdict))
	}
	if lines == nil {
		line := append(head, slices.Repeat([]string{"-"}, len(bgpColumns)-len(head)-1)...)
		return [][]string{append(line, "BROKEN: no run succeeded")}, false
	}
	return lines, kept
}

// printBGP prints all results and tells whether every bound held.
func printBGP(out io.Writer, results []bgpResult, runs int) bool {
	fmt.Fprintf(out, `
%d flows of datagrams of each family from the far host, each with a port of its own and a datagram every 10 ms: to an address
that all nodes announce or, where routers must not notice anything, to addresses that one node alone does. flows: those that
lost something in all runs. dark s: for how long, least / median / most. lost: datagrams of all runs; back: those that were
lost when the fault was mended. Routers' tables are checked before, after and, where a node goes, during each run.

`, datagramFlows)
	return printLines(out, bgpColumns, results, runs)
}
