// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// datagramFlows is how many flows of each family there are in a run, at least.
const datagramFlows = 20

// bgpRow is a fault, and what must hold while it is there and when it is mended.
type bgpRow struct {
	name, title string
	// promise is what holds with such routers; false if the row is not about them.
	promise func(variant) (bgpBounds, bool)
	// strike does it to the victim.
	strike func(ctx context.Context, s *bgpScene, victim *cluster.Node) error
	// forget is by when routers must have forgotten the victim after the strike. Without it they must not notice anything,
	// and so the flows are to addresses that one node alone announces: whoever forgets it for a moment loses something.
	forget func(variant) time.Duration
	// keeps says that the victim goes on announcing what no other node does.
	keeps bool
	// hold is for how long the fault is there.
	hold time.Duration
	// mend undoes the fault.
	mend func(ctx context.Context, s *bgpScene, victim *cluster.Node) error
}

// leaveTime is by when a node that is drained has withdrawn its routes.
const leaveTime = 7 * time.Second

// soon is by when routers must have forgotten a node that told them so.
const soon = time.Second

var bgpRows = []bgpRow{
	{
		name: "port", title: "switch port silent", promise: silentDeath, forget: byDetection,
		strike: func(ctx context.Context, _ *bgpScene, n *cluster.Node) error { return n.Cut(ctx) },
		mend:   func(ctx context.Context, _ *bgpScene, n *cluster.Node) error { return n.Heal(ctx) },
	},
	{
		name: "power", title: "power lost and back", promise: silentDeath, forget: byDetection,
		strike: func(_ context.Context, _ *bgpScene, n *cluster.Node) error { return n.PowerOff() },
		mend:   func(ctx context.Context, _ *bgpScene, n *cluster.Node) error { return n.PowerOn(ctx) },
	},
	{
		name: "rolling", title: "rolling restart of all speakers", promise: nothingLost,
		strike: func(ctx context.Context, s *bgpScene, _ *cluster.Node) error {
			for _, n := range s.lab.Nodes {
				if err := s.lab.RestartSpeaker(ctx, n); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "kill", title: "speaker killed, started again", hold: crashDelay,
		promise: func(v variant) (bgpBounds, bool) {
			// BIRD takes the silence of BFD for the end of the node: what that costs is told.
			return bgpBounds{lossless: v.kind != router.BIRD || !v.bfd}, true
		},
		strike: func(_ context.Context, s *bgpScene, n *cluster.Node) error { return s.speaker(n).Kill() },
		mend:   func(_ context.Context, s *bgpScene, n *cluster.Node) error { return s.speaker(n).Start() },
	},
	{
		name: "drain", title: "node drained", promise: nothingLost,
		strike: func(ctx context.Context, _ *bgpScene, n *cluster.Node) error { return n.Drain(ctx) },
		forget: func(variant) time.Duration { return leaveTime }, keeps: true,
		mend: func(ctx context.Context, _ *bgpScene, n *cluster.Node) error { return n.Undrain(ctx) },
	},
	{
		name: "reboot", title: "node shut down and started", promise: nothingLost,
		strike: func(ctx context.Context, s *bgpScene, n *cluster.Node) error {
			// A kubelet ends the Pods that are critical for the node after all others, and the machine when they have ended.
			if err := s.speaker(n).Stop(cluster.StopGrace); err != nil {
				return err
			}
			if err := s.forgotten(ctx, n, false, soon); err != nil {
				return err
			}
			return n.PowerOff()
		},
		forget: func(variant) time.Duration { return soon },
		mend:   func(ctx context.Context, _ *bgpScene, n *cluster.Node) error { return n.PowerOn(ctx) },
	},
}

// nothingLost is promised with all routers.
func nothingLost(variant) (bgpBounds, bool) { return bgpBounds{lossless: true}, true }

// silentDeath costs as long as it takes to be noticed.
func silentDeath(v variant) (bgpBounds, bool) {
	if v.bfd {
		return bgpBounds{median: lostNode.median, max: lostNode.max, hits: true}, true
	}
	return bgpBounds{max: holdTime, hits: true}, true
}

// byDetection is when a router must have noticed, with what it takes to look.
func byDetection(v variant) time.Duration {
	if v.bfd {
		return lostNode.max + soon
	}
	return holdTime + soon
}

// run does the row's fault once and tells what the flows of each family met.
func (r bgpRow) run(ctx context.Context, s *bgpScene, random *rand.Rand) ([]bgpOutcome, error) {
	if err := s.steady(ctx); err != nil {
		return nil, err
	}
	victim := s.lab.Nodes[random.IntN(len(s.lab.Nodes))]
	flows, err := s.ask(ctx, r.forget == nil)
	if err != nil {
		return nil, err
	}
	struck, mended, err := r.strikeAndMend(ctx, s, victim, flows)
	if err == nil {
		err = s.steady(ctx)
	}
	if err == nil {
		err = answered(ctx, flows)
	}
	ended := time.Now()
	stopAll(flows)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", victim.Name(), err)
	}
	if r.forget == nil {
		mended = ended // what was forgotten against the rules is dark until it is back
	}
	return outcomesOf(flows, struck, mended, ended), nil
}

// outcomesOf is what the flows of each family met.
func outcomesOf(flows []addressFlows, struck, mended, ended time.Time) (outcomes []bgpOutcome) {
	for _, family := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
		o, any := bgpOutcome{family: family}, false
		for _, f := range flows {
			if familyOf(f.addr) != family {
				continue
			}
			any = true
			// What was sent in the last moment before the fault belongs to it.
			for _, result := range f.Between(struck.Add(-wire.ProbeInterval), mended) {
				if o.lost += result.Lost; result.Lost > 0 {
					o.dark = append(o.dark, result.Dark)
					o.first = append(o.first, result.First.Sub(struck))
				}
			}
			for _, result := range f.Between(mended, ended) {
				if o.back += result.Lost; result.Lost > 0 {
					o.first = append(o.first, result.First.Sub(struck))
				}
			}
		}
		if any {
			outcomes = append(outcomes, o)
		}
	}
	return outcomes
}

// strikeAndMend returns when it did both.
func (r bgpRow) strikeAndMend(ctx context.Context, s *bgpScene, victim *cluster.Node, flows []addressFlows) (struck, mended time.Time, err error) {
	if err := answered(ctx, flows); err != nil {
		return time.Now(), time.Now(), fmt.Errorf("before the fault: %w", err)
	}
	struck = time.Now()
	if err := r.strike(ctx, s, victim); err != nil {
		return struck, time.Now(), err
	}
	if r.forget != nil {
		if err := s.forgotten(ctx, victim, r.keeps, r.forget(s.variant)); err != nil {
			return struck, time.Now(), err
		}
		if err := answered(ctx, flows); err != nil {
			return struck, time.Now(), fmt.Errorf("during the fault: %w", err)
		}
	}
	if err := sleep(ctx, r.hold-time.Since(struck)); err != nil {
		return struck, time.Now(), err
	}
	mended = time.Now()
	if r.mend != nil {
		err = r.mend(ctx, s, victim)
	}
	return struck, mended, err
}

// answered waits until every flow is answered for a while.
func answered(ctx context.Context, flows []addressFlows) error {
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	for _, f := range flows {
		if err := f.Await(ctx, warm); err != nil {
			return err
		}
	}
	return nil
}
