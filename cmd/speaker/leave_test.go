// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"

	"github.com/fairlead-lb/fairlead/speaker/mesh"
)

// endingSpeaker is followed after a time, or never if that is 0.
type endingSpeaker struct {
	restarting, draining bool
	followedAfter        time.Duration
	alone                bool

	told  []mesh.Leaving
	since time.Time
	// parted is what routers noticed.
	parted []string
}

func (s *endingSpeaker) restart(context.Context) { s.parted = append(s.parted, "kept") }

func (s *endingSpeaker) drain() (end func(context.Context)) {
	s.parted = append(s.parted, "turned")
	return func(context.Context) { s.parted = append(s.parted, "ended") }
}

func (s *endingSpeaker) Leave(how mesh.Leaving) {
	s.told = append(s.told, how)
	s.since = time.Now()
}

func (s *endingSpeaker) Draining() bool { return s.draining }

func (s *endingSpeaker) CanLeave() bool { return !s.alone }

func (s *endingSpeaker) Remaining() int {
	if s.followedAfter > 0 && !s.since.IsZero() && time.Since(s.since) >= s.followedAfter {
		return 0
	}
	return 3
}

func (s *endingSpeaker) Restarting(_ context.Context, draining bool) bool {
	return s.restarting && !draining
}

func TestLeave(t *testing.T) {
	for name, tt := range map[string]struct {
		speaker  endingSpeaker
		told     mesh.Leaving
		min, max time.Duration
	}{
		"a restart is told and waits for nobody":  {endingSpeaker{restarting: true}, mesh.Restart, toldTime, toldTime},
		"a drain waits until others have it all":  {endingSpeaker{followedAfter: 2 * time.Second}, mesh.Drain, 2 * time.Second, 2*time.Second + drainPoll},
		"even if it is quick it is told":          {endingSpeaker{followedAfter: time.Millisecond}, mesh.Drain, toldTime, toldTime},
		"it doesn't wait for ever":                {endingSpeaker{}, mesh.Drain, drainTimeout, drainTimeout + toldTime + drainPoll},
		"nor for nobody":                          {endingSpeaker{alone: true}, mesh.Drain, toldTime, toldTime},
		"a restart on a node that drains is none": {endingSpeaker{restarting: true, draining: true, alone: true}, mesh.Drain, toldTime, toldTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				leave(t.Context(), logr.Discard(), &tt.speaker, &tt.speaker, &tt.speaker)
				if took := time.Since(start); took < tt.min || took > tt.max {
					t.Errorf("it took %v", took)
				}
				if !slices.Equal(tt.speaker.told, []mesh.Leaving{tt.told}) {
					t.Errorf("told %v", tt.speaker.told)
				}
				parted := []string{"turned", "ended"}
				if tt.told == mesh.Restart {
					parted = []string{"kept"}
				}
				if !slices.Equal(tt.speaker.parted, parted) {
					t.Errorf("routers noticed %v, want %v", tt.speaker.parted, parted)
				}
			})
		})
	}
}
