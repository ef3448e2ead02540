// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

const (
	// flows is how many long connections there are in a run, of all families.
	flows = 50
	// warm is how many probes in a row must be answered before a fault.
	warm = 20
	// giveUp is when a fault is mended that nobody has dealt with.
	giveUp = 8 * time.Second
)

// run does the row's fault once and tells what the clients of each family saw.
func (r row) run(ctx context.Context, s *scene, random *rand.Rand, i int) (outcomes []outcome, err error) {
	before, err := s.steady(ctx)
	if err != nil {
		return nil, err
	}
	if r.before != nil {
		if err := r.before(ctx, s, random, i); err != nil {
			return nil, err
		}
		// What is steady now is not for the API to say: it may be away.
		if before, err = s.records(ctx); err != nil {
			return nil, err
		}
	}
	victim, addrs, err := s.choose(before, random)
	if err != nil {
		return nil, err
	}
	w, err := s.watch(ctx, addrs)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop(time.Time{})) }()

	dead := wire.MACOf(victim.MAC)
	if err := w.awaitWarm(ctx, dead); err != nil {
		return nil, fmt.Errorf("before the fault: %w", err)
	}
	struck := time.Now()
	if err := r.strike(ctx, s, victim, i); err != nil {
		return nil, err
	}
	// A fault that nobody deals with is a figure like any other, and the worst.
	stuck := r.away && w.awaitOthers(ctx, dead) != nil
	if err := sleep(ctx, r.hold-time.Since(struck)); err != nil {
		return nil, err
	}
	mended := time.Now()
	if r.mend != nil {
		if err := r.mend(ctx, s, victim); err != nil {
			return nil, err
		}
	}
	after, err := s.steady(ctx)
	if err != nil {
		return nil, fmt.Errorf("after the fault: %w", err)
	}
	ended := time.Now()
	// What was sent in the last moment before the fault belongs to it.
	if err := w.stop(struck.Add(-wire.ProbeInterval)); err != nil {
		return nil, err
	}
	for _, c := range w.clients {
		answers := w.cold.Answers(c.addr)
		during := func(m wire.MAC) bool { return !r.dead || m != dead }
		always := func(wire.MAC) bool { return true }
		outcomes = append(outcomes, outcome{
			family:   familyOf(c.addr),
			cold:     max(wire.LongestGap(answers, struck, mended, during), wire.LongestGap(answers, mended, ended, always)),
			udp:      c.warm.Dark,
			lost:     c.warm.Lost,
			broken:   c.flowed.Broken,
			stalled:  c.flowed.Stalled,
			fresh:    c.freshed.Longest,
			together: wire.LongestTogether(answers, 3*wire.ColdInterval),
			moved:    moved(before, after, c.addr.Is4()),
			stuck:    stuck,
		})
	}
	return outcomes, nil
}

// choose picks a node that owns an address of each family, and one of each.
func (s *scene) choose(owners map[netip.Addr]owner, random *rand.Rand) (*cluster.Node, []netip.Addr, error) {
	candidates := owning(owners)
	if len(candidates) == 0 {
		return nil, nil, fmt.Errorf("no node has an address of each family: %v", owners)
	}
	name := candidates[random.IntN(len(candidates))]
	var addrs []netip.Addr
	for _, is4 := range []bool{true, false} {
		i := slices.IndexFunc(s.addrs, func(a netip.Addr) bool { return a.Is4() == is4 && owners[a].node == name })
		if i >= 0 {
			addrs = append(addrs, s.addrs[i])
		}
	}
	return s.lab.Node(name), addrs, nil
}

// speaker is the present process of a node's speaker.
func (s *scene) speaker(n *cluster.Node) *sandbox.Process { return s.product.Speakers[n.Name()] }
