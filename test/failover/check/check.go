// SPDX-License-Identifier: Apache-2.0

// Package check reads what hosts on a LAN were answered while links were cut and speakers paused, and tells how long an
// address had two answerers, or none.
package check

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// Loss is a direction that passes nothing; an empty name is everybody.
type Loss struct{ From, To string }

// Change is a moment from which on the LAN is as it says.
type Change struct {
	At     time.Time
	What   string   // for people
	Losses []Loss   `json:",omitempty"` // all that are in force
	Paused []string `json:",omitempty"` // all nodes whose speaker is paused
}

// Schedule is what was done to a LAN, and to whom.
type Schedule struct {
	Nodes   map[string]wire.MAC // that may answer
	Askers  map[string]wire.MAC // that asked
	Addrs   []netip.Addr
	Every   time.Duration // between two questions of an asker for an address
	Changes []Change      // in order; the first is the beginning
	End     time.Time
}

// Exchange is what an asker saw: questions of its own and answers to it.
type Exchange map[string][]wire.Resolution

// Finding is how long something was, and where.
type Finding struct {
	For    time.Duration
	Addr   netip.Addr
	Asker  string
	From   time.Time
	Change Change // the last before it ended
	Who    string // answered
}

func (f Finding) String() string {
	if f.For == 0 {
		return "never"
	}
	s := fmt.Sprintf("%.3f s: %s, asked for by %s from %s on, after: %s", f.For.Seconds(), f.Addr, f.Asker, f.From.Format("15:04:05.000"), f.Change.What)
	if f.Who != "" {
		s += "; answered by " + f.Who
	}
	return s
}

// Report is what was found.
type Report struct {
	Questions, Answers, Relayed int
	Strangers                   int       // answers with a MAC of no node
	Together                    []Finding // two nodes of one segment answered, longest first, one for each change
	Unanswered                  []Finding // nobody did although somebody could have, in the same way
}

// worst is how many findings of a sort are kept.
const worst = 5

// Check goes through what the askers saw.
func Check(s Schedule, seen Exchange) Report {
	c := checker{Schedule: s, names: map[wire.MAC]string{}}
	for name, mac := range s.Nodes {
		c.names[mac] = name
	}
	for _, change := range s.Changes {
		c.segments = append(c.segments, segments(s, change))
	}
	for asker := range s.Askers {
		byAddr := map[netip.Addr][]wire.Resolution{}
		for _, r := range seen[asker] {
			if !r.Answer {
				c.report.Questions++
				continue
			}
			c.report.Answers++
			if r.Relayed() {
				c.report.Relayed++
			}
			if c.names[r.MAC] == "" {
				c.report.Strangers++
				continue
			}
			byAddr[r.Addr] = append(byAddr[r.Addr], r)
		}
		for _, addr := range s.Addrs {
			c.unanswered(asker, addr, byAddr[addr])
			c.together(asker, addr, byAddr[addr])
		}
	}
	return c.report
}

type checker struct {
	Schedule
	names    map[wire.MAC]string
	segments []map[string]int // per change: the segment of each node and asker
	report   Report
}

// until is when the i-th change gives way to the next.
func (c *checker) until(i int) time.Time {
	if i+1 < len(c.Changes) {
		return c.Changes[i+1].At
	}
	return c.End
}

// unanswered finds for how long after each change nobody answered. The clock starts anew with each change, and runs only
// where a speaker that is not paused is in the asker's segment. An answer that names a node of another segment is none.
func (c *checker) unanswered(asker string, addr netip.Addr, answers []wire.Resolution) {
	next := 0
	for i, change := range c.Changes {
		segment := c.segments[i]
		possible := false
		for node := range c.Nodes {
			possible = possible || segment[node] == segment[asker] && !slices.Contains(change.Paused, node)
		}
		last, end := change.At, c.until(i)
		note := func(to time.Time) {
			if possible {
				c.report.Unanswered = keep(c.report.Unanswered, Finding{For: to.Sub(last), Addr: addr, Asker: asker, From: last, Change: change})
			}
		}
		for ; next < len(answers) && answers[next].At.Before(end); next++ {
			if a := answers[next]; !a.At.Before(change.At) && segment[c.names[a.MAC]] == segment[asker] {
				note(a.At)
				last = a.At
			}
		}
		note(end)
	}
}

// together finds for how long two nodes of the asker's segment answered at once. Where they come into one segment the
// clock starts.
func (c *checker) together(asker string, addr netip.Addr, answers []wire.Resolution) {
	stretches := wire.Stretches(answers, c.Every*5/2) // one answer may be lost
	for i, a := range stretches {
		for _, b := range stretches[i+1:] {
			if b.First.After(a.Last) {
				break // they are in the order of their beginning
			}
			if a.MAC == b.MAC {
				continue
			}
			end := a.Last
			if b.Last.Before(end) {
				end = b.Last
			}
			c.overlap(Finding{Addr: addr, Asker: asker, Who: c.names[a.MAC] + " and " + c.names[b.MAC]}, c.names[a.MAC], c.names[b.MAC], b.First, end)
		}
	}
}

func (c *checker) overlap(f Finding, a, b string, from, to time.Time) {
	var since time.Time // that they are in one segment; zero while they are not
	for i, change := range c.Changes {
		start, end := change.At, c.until(i)
		if start.Before(from) {
			start = from
		}
		if to.Before(end) {
			end = to
		}
		if end.Before(start) {
			continue
		}
		segment := c.segments[i]
		if segment[a] != segment[f.Asker] || segment[b] != segment[f.Asker] {
			since = time.Time{}
			continue
		}
		if since.IsZero() {
			since = start
		}
		f.For, f.From, f.Change = end.Sub(since), since, change
		c.report.Together = keep(c.report.Together, f)
	}
}

// keep keeps the longest, one for each change.
func keep(list []Finding, f Finding) []Finding {
	if f.For <= 0 {
		return list
	}
	same := func(o Finding) bool {
		// What goes on over a change is found again, and longer.
		return o.Change.At.Equal(f.Change.At) || o.From.Equal(f.From) && o.Addr == f.Addr && o.Asker == f.Asker
	}
	if slices.ContainsFunc(list, func(o Finding) bool { return same(o) && o.For >= f.For }) {
		return list
	}
	list = slices.DeleteFunc(list, same)
	at, _ := slices.BinarySearchFunc(list, f, func(a, b Finding) int { return cmp.Compare(b.For, a.For) })
	list = slices.Insert(list, at, f)
	return list[:min(len(list), worst)]
}

// segments numbers the parts of the LAN whose members can all talk to each other, if only by way of others.
func segments(s Schedule, change Change) map[string]int {
	var names []string
	for name := range s.Nodes {
		names = append(names, name)
	}
	for name := range s.Askers {
		names = append(names, name)
	}
	lost := func(from, to string) bool {
		return slices.ContainsFunc(change.Losses, func(l Loss) bool {
			return (l.From == "" || l.From == from) && (l.To == "" || l.To == to)
		})
	}
	number := map[string]int{}
	for _, first := range names {
		if number[first] > 0 {
			continue
		}
		number[first] = len(number) + 1
		for reached := []string{first}; len(reached) > 0; reached = reached[1:] {
			for _, other := range names {
				if number[other] == 0 && !lost(reached[0], other) && !lost(other, reached[0]) {
					number[other] = number[first]
					reached = append(reached, other)
				}
			}
		}
	}
	return number
}
