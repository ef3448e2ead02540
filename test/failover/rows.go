// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// row is a fault, and what must hold while it is there and when it is mended.
type row struct {
	name   string // of the flag -rows
	title  string
	bounds bounds

	// before is done before the victim is chosen and the probes are started.
	before func(ctx context.Context, s *scene, random *rand.Rand, i int) error
	// strike does it to the victim; i counts the runs.
	strike func(ctx context.Context, s *scene, victim *cluster.Node, i int) error
	// dead says that the victim's kernel answers nobody until it is mended: it is the others that must answer.
	dead bool
	// hold is how long the fault is there. Zero is until others answer, of a fault that takes the victim's address away, or
	// not at all.
	hold time.Duration
	// away says that the fault ends when another than the victim answers.
	away bool
	// mend undoes the fault.
	mend func(ctx context.Context, s *scene, victim *cluster.Node) error
	// byName says that the row is left out unless it is asked for.
	byName bool
}

// What the loss of a node may cost, and what that of a speaker on a living node may.
var (
	lostNode    = bounds{median: 500 * time.Millisecond, max: time.Second}
	hungSpeaker = bounds{cold: 1500 * time.Millisecond, fresh: 1500 * time.Millisecond, keeps: true, stays: true}
	lostSpeaker = bounds{cold: 1300 * time.Millisecond, fresh: 1300 * time.Millisecond, keeps: true, stays: true}
)

const (
	pause      = 3 * time.Second  // shorter than a stand-in lasts
	longPause  = 13 * time.Second // longer: others own what it had when it is back
	afterHeal  = 10 * time.Second // "shortly before", for peers that distrust a node that was away
	crashDelay = 3 * time.Second  // as a kubelet may take: longer than what is measured
)

var rows = []row{
	{
		name: "cable", title: "owner's cable pulled", bounds: lostNode, dead: true, away: true,
		strike: unplug, mend: plug,
	},
	{
		name: "port", title: "owner's switch port silent", bounds: lostNode, dead: true, away: true,
		strike: cut, mend: heal,
	},
	{
		name: "reboot", title: "owner's machine rebooted", bounds: lostNode, dead: true, away: true,
		strike: func(_ context.Context, _ *scene, n *cluster.Node, _ int) error { return n.PowerOff() },
		mend: func(ctx context.Context, s *scene, n *cluster.Node) error {
			return s.restart(n, func() error { return n.PowerOn(ctx) })
		},
	},
	{
		name: "pause", title: "owner's speaker paused and resumed", bounds: hungSpeaker, hold: pause,
		strike: stop, mend: resume,
	},
	{
		name: "longpause", title: "owner's speaker paused for long", byName: true, hold: longPause,
		bounds: bounds{cold: hungSpeaker.cold, fresh: hungSpeaker.fresh},
		strike: stop, mend: resume,
	},
	{
		name: "healed", title: "cable or port, 10 s after a heal", bounds: lostNode, dead: true, away: true,
		before: healOne, strike: cableOrPort, mend: cableAndPort,
	},
	{
		name: "noapi", title: "cable or port, API server away", bounds: lostNode, dead: true, away: true,
		before: func(ctx context.Context, s *scene, _ *rand.Rand, _ int) error { return s.lab.Control.Cut(ctx) },
		strike: cableOrPort,
		mend: func(ctx context.Context, s *scene, n *cluster.Node) error {
			if err := cableAndPort(ctx, s, n); err != nil {
				return err
			}
			return s.lab.Control.Heal(ctx)
		},
	},
	{
		name: "kill", title: "speaker killed, started again", bounds: lostSpeaker, hold: crashDelay,
		strike: func(_ context.Context, s *scene, n *cluster.Node, _ int) error { return s.speaker(n).Kill() },
		mend: func(_ context.Context, s *scene, n *cluster.Node) error {
			return s.restart(n, s.speaker(n).Start)
		},
	},
	{
		name: "restart", title: "speaker restarted", bounds: lostSpeaker,
		strike: func(ctx context.Context, s *scene, n *cluster.Node, _ int) error {
			return s.restart(n, func() error { return s.lab.RestartSpeaker(ctx, n) })
		},
	},
	{
		name: "rolling", title: "rolling restart of all speakers", bounds: lostSpeaker,
		strike: func(ctx context.Context, s *scene, _ *cluster.Node, _ int) error {
			for _, n := range s.lab.Nodes {
				if err := s.restart(n, func() error { return s.lab.RestartSpeaker(ctx, n) }); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "drain", title: "owner drained", bounds: bounds{lossless: true}, away: true,
		strike: func(ctx context.Context, _ *scene, n *cluster.Node, _ int) error { return n.Drain(ctx) },
		mend:   func(ctx context.Context, _ *scene, n *cluster.Node) error { return n.Undrain(ctx) },
	},
}

func unplug(_ context.Context, _ *scene, n *cluster.Node, _ int) error { return n.Unplug() }
func plug(_ context.Context, _ *scene, n *cluster.Node) error          { return n.Plug() }
func cut(ctx context.Context, _ *scene, n *cluster.Node, _ int) error  { return n.Cut(ctx) }
func heal(ctx context.Context, _ *scene, n *cluster.Node) error        { return n.Heal(ctx) }

func stop(_ context.Context, s *scene, n *cluster.Node, _ int) error { return s.speaker(n).Pause() }
func resume(_ context.Context, s *scene, n *cluster.Node) error      { return s.speaker(n).Resume() }

// cableOrPort pulls the cable in every other run.
func cableOrPort(ctx context.Context, s *scene, n *cluster.Node, i int) error {
	if i%2 == 0 {
		return unplug(ctx, s, n, i)
	}
	return cut(ctx, s, n, i)
}

func cableAndPort(ctx context.Context, s *scene, n *cluster.Node) error {
	if err := n.Plug(); err != nil {
		return err
	}
	return n.Heal(ctx)
}

// healOne cuts off an owner until others answer for what it had, heals it, and waits as long as the row is about.
func healOne(ctx context.Context, s *scene, random *rand.Rand, i int) error {
	owners, err := s.steady(ctx)
	if err != nil {
		return err
	}
	n, _, err := s.choose(owners, random)
	if err != nil {
		return err
	}
	if err := cableOrPort(ctx, s, n, i); err != nil {
		return err
	}
	answered := s.answeredByOthers(ctx, n)
	if err := cableAndPort(ctx, s, n); err != nil {
		return err
	}
	if answered != nil {
		return answered
	}
	return sleep(ctx, afterHeal)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
