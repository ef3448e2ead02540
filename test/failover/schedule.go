// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/failover/check"
)

const (
	// Between two changes the speakers have the time that they are given to deal with one, and more.
	leastCalm, mostCalm = 3 * time.Second, 8 * time.Second
	// faultsAtOnce is how many faults there are at most.
	faultsAtOnce = 2
)

// fault is something that is wrong with a LAN.
type fault struct {
	what   string
	losses []check.Loss
	paused string // the node whose speaker is
}

// step is a moment of a schedule, and what is wrong from then on.
type step struct {
	after  time.Duration // from the beginning
	what   string
	faults []fault
}

// losses and paused are those of all faults of the step.
func (s step) losses() (all []check.Loss) {
	for _, f := range s.faults {
		for _, l := range f.losses {
			if !slices.Contains(all, l) {
				all = append(all, l)
			}
		}
	}
	return all
}

func (s step) paused() (all []string) {
	for _, f := range s.faults {
		if f.paused != "" && !slices.Contains(all, f.paused) {
			all = append(all, f.paused)
		}
	}
	return all
}

// scheduleOf makes faults come and go at random. Whoever is not a node takes part only where the LAN falls into two.
func scheduleOf(random *rand.Rand, length time.Duration, nodes, others []string) []step {
	calm := func() time.Duration { return leastCalm + time.Duration(random.Int64N(int64(mostCalm-leastCalm))) }
	var steps []step
	var now []fault
	for at := calm(); at < length-mostCalm; at += calm() {
		s := step{after: at}
		if len(now) == faultsAtOnce || len(now) > 0 && random.IntN(2) == 0 {
			i := random.IntN(len(now))
			s.what = "end of: " + now[i].what
			now = slices.Delete(slices.Clone(now), i, i+1)
		} else {
			f := faultOf(random, nodes, others)
			s.what, now = f.what, append(slices.Clone(now), f)
		}
		s.faults = now
		steps = append(steps, s)
	}
	return append(steps, step{after: length - mostCalm, what: "end of all"})
}

func faultOf(random *rand.Rand, nodes, others []string) fault {
	order := random.Perm(len(nodes))
	a, b := nodes[order[0]], nodes[order[1]]
	switch random.IntN(7) {
	case 0:
		return fault{what: a + " cut", losses: []check.Loss{{From: a}, {To: a}}}
	case 1:
		return fault{what: a + " mute", losses: []check.Loss{{From: a}}}
	case 2:
		return fault{what: a + " deaf", losses: []check.Loss{{To: a}}}
	case 3:
		return fault{what: a + " and " + b + " parted", losses: []check.Loss{{From: a, To: b}, {From: b, To: a}}}
	case 4:
		return fault{what: "nothing from " + a + " to " + b, losses: []check.Loss{{From: a, To: b}}}
	case 5:
		return fault{what: a + " paused", paused: a}
	default:
		return split(random, nodes, others)
	}
}

// split parts the LAN in two, with a node or more on either side.
func split(random *rand.Rand, nodes, others []string) fault {
	order := random.Perm(len(nodes))
	var sides [2][]string
	for i, j := range order {
		side := random.IntN(2)
		if i < 2 {
			side = i
		}
		sides[side] = append(sides[side], nodes[j])
	}
	for _, name := range others {
		side := random.IntN(2)
		sides[side] = append(sides[side], name)
	}
	f := fault{}
	for _, side := range sides {
		slices.Sort(side)
	}
	f.what = fmt.Sprintf("split into %s and %s", strings.Join(sides[0], ","), strings.Join(sides[1], ","))
	for _, x := range sides[0] {
		for _, y := range sides[1] {
			f.losses = append(f.losses, check.Loss{From: x, To: y}, check.Loss{From: y, To: x})
		}
	}
	return f
}
