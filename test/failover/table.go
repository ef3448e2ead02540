// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// outcome is what the clients of one address saw in one run.
type outcome struct {
	family   cluster.Family
	cold     time.Duration // the longest without an answer that works, for who asks every 20 ms
	udp      time.Duration // the longest run of lost datagrams
	lost     int           // datagrams
	broken   int           // of the long connections
	stalled  time.Duration // the longest wait on one
	fresh    time.Duration // the longest wait of a client that had to ask first
	together time.Duration // the longest that two MACs answered at once
	moved    int           // addresses of the family that have another owner than before, or another term
	stuck    bool          // the owner should have been replaced and was not
}

func familyOf(a netip.Addr) cluster.Family {
	if a.Is4() {
		return cluster.IPv4
	}
	return cluster.IPv6
}

// moved counts the addresses of a family that have another owner, or the same one anew.
func moved(before, after map[netip.Addr]owner, is4 bool) int {
	n := 0
	for addr, was := range before {
		if addr.Is4() == is4 && after[addr] != was {
			n++
		}
	}
	return n
}

// bounds are what a row promises. A zero bound is none.
type bounds struct {
	median, max time.Duration // without an answer, by either probe
	cold, fresh time.Duration // the longest, of those that ask
	keeps       bool          // no datagram is lost and no connection breaks
	lossless    bool          // no datagram is lost
	stays       bool          // no address moves
}

// mostTogether is for how long two may answer for one address, whatever happens.
const mostTogether = time.Second

// broken tells what does not hold of a row's outcomes for one family.
func (b bounds) broken(list []outcome) (all []string) {
	over := func(what string, got, bound time.Duration) {
		if bound > 0 && got > bound {
			all = append(all, fmt.Sprintf("%s %s > %s", what, seconds(got), seconds(bound)))
		}
	}
	cold, udp := spreadOf(list, func(o outcome) time.Duration { return o.cold }), spreadOf(list, func(o outcome) time.Duration { return o.udp })
	over("median", max(cold.median, udp.median), b.median)
	over("max", max(cold.max, udp.max), b.max)
	over("cold", cold.max, b.cold)
	over("fresh", longest(list, func(o outcome) time.Duration { return o.fresh }), b.fresh)
	over("two answer", longest(list, func(o outcome) time.Duration { return o.together }), mostTogether)
	none := func(what string, got int, wanted bool) {
		if wanted && got > 0 {
			all = append(all, fmt.Sprintf("%d %s", got, what))
		}
	}
	none("lost", sum(list, func(o outcome) int { return o.lost }), b.keeps || b.lossless)
	none("resets", sum(list, func(o outcome) int { return o.broken }), b.keeps)
	none("not replaced", len(slices.DeleteFunc(slices.Clone(list), func(o outcome) bool { return !o.stuck })), true)
	none("moved", sum(list, func(o outcome) int { return o.moved }), b.stays)
	return all
}

// spread is the least, the middle and the most.
type spread struct{ min, median, max time.Duration }

func (s spread) String() string {
	return seconds(s.min) + " / " + seconds(s.median) + " / " + seconds(s.max)
}

func spreadOf(list []outcome, of func(outcome) time.Duration) spread {
	var all []time.Duration
	for _, o := range list {
		all = append(all, of(o))
	}
	return spreadOfTimes(all)
}

func spreadOfTimes(all []time.Duration) spread {
	if len(all) == 0 {
		return spread{}
	}
	all = slices.Sorted(slices.Values(all))
	half := len(all) / 2
	median := all[half]
	if len(all)%2 == 0 {
		median = (all[half-1] + all[half]) / 2
	}
	return spread{all[0], median, all[len(all)-1]}
}

func longest(list []outcome, of func(outcome) time.Duration) time.Duration {
	return spreadOf(list, of).max
}

func sum(list []outcome, of func(outcome) int) (n int) {
	for _, o := range list {
		n += of(o)
	}
	return n
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

// result is a row on a lab of some size.
type result struct {
	row      row
	nodes    int
	outcomes []outcome
}

// columns of the table. A row has one of each, in this order.
var columns = []string{"case", "nodes", "family", "runs", "cold s", "udp s", "lost", "resets", "stall s", "fresh s", "two s", "moved", "verdict"}

// lines are the table's for the row, one for each family, and whether its bounds held in all runs that were wanted.
func (r result) lines(wanted int) (lines [][]string, kept bool) {
	kept = true
	for _, family := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
		list := slices.DeleteFunc(slices.Clone(r.outcomes), func(o outcome) bool { return o.family != family })
		if len(list) == 0 {
			continue
		}
		broken := r.row.bounds.broken(list)
		if len(list) < wanted {
			broken = append(broken, fmt.Sprintf("%d runs failed", wanted-len(list)))
		}
		verdict := "ok"
		if len(broken) > 0 {
			kept, verdict = false, "BROKEN: "+strings.Join(broken, ", ")
		}
		duration := func(of func(outcome) time.Duration) string { return seconds(longest(list, of)) }
		count := func(of func(outcome) int) string { return fmt.Sprint(sum(list, of)) }
		lines = append(lines, []string{
			r.row.title, fmt.Sprint(r.nodes), string(family), fmt.Sprint(len(list)),
			spreadOf(list, func(o outcome) time.Duration { return o.cold }).String(),
			spreadOf(list, func(o outcome) time.Duration { return o.udp }).String(),
			count(func(o outcome) int { return o.lost }), count(func(o outcome) int { return o.broken }),
			duration(func(o outcome) time.Duration { return o.stalled }), duration(func(o outcome) time.Duration { return o.fresh }),
			duration(func(o outcome) time.Duration { return o.together }), count(func(o outcome) int { return o.moved }), verdict,
		})
	}
	if lines == nil {
		line := slices.Repeat([]string{"-"}, len(columns))
		line[0], line[1], line[len(line)-1] = r.row.title, fmt.Sprint(r.nodes), "BROKEN: no run succeeded"
		return [][]string{line}, false
	}
	return lines, kept
}

// printTable prints all results and tells whether every bound held.
func printTable(out io.Writer, results []result, runs int) bool {
	fmt.Fprintf(out, `
cold, udp: seconds without an answer, least / median / most of the runs: for who asks the LAN every 20 ms, and for
datagrams that a client who knows the owner sends every 10 ms. stall: the longest wait on one of the %d TCP connections.
fresh: the longest wait of clients that ask first, as kernels do. two: the longest that two MACs answered at once.
lost, resets, moved: datagrams, TCP connections and addresses of all runs.

`, flows)
	return printLines(out, columns, results, runs)
}

// measured is a row of which so many runs were wanted.
type measured interface {
	lines(wanted int) (lines [][]string, kept bool)
}

// printLines prints the lines of all results, and tells whether every bound held.
func printLines[R measured](out io.Writer, columns []string, results []R, runs int) bool {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t"))
	all := true
	for _, r := range results {
		lines, kept := r.lines(runs)
		all = all && kept
		for _, line := range lines {
			fmt.Fprintln(w, strings.Join(line, "\t"))
		}
	}
	_ = w.Flush() // standard output: there is nobody to tell
	return all
}
