// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"github.com/go-logr/logr"

	"github.com/fairlead-lb/fairlead/internal/due"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
)

const (
	// askTimeout is how long it may take to learn whether the end is a restart.
	askTimeout = time.Second
	// toldTime is how long peers need to hear that it is: three hellos.
	toldTime = 300 * time.Millisecond
	// drainTimeout ends a drain in which nobody takes over, well before a
	// kubelet's patience of 30 s does.
	drainTimeout = 10 * time.Second
	// drainPoll is between two looks at what is left.
	drainPoll = 20 * time.Millisecond
)

// leaver is a speaker that is about to end.
type leaver interface {
	Leave(mesh.Leaving)
	Draining() bool
	// Remaining is the number of addresses that it still answers for.
	Remaining() int
	// CanLeave tells whether there is anybody to take them over.
	CanLeave() bool
}

// restarts tells whether an end is a restart.
type restarts interface {
	Restarting(ctx context.Context, draining bool) bool
}

// partings are two ways to part from routers.
type partings interface {
	// restart has them keep all routes.
	restart(ctx context.Context)
	// drain has them turn to other nodes, and then end ends the sessions.
	drain() (end func(ctx context.Context))
}

// leave tells the other speakers and routers of the end. After a restart this
// speaker will be back, so they stand in for it; else they take its addresses
// over, and it answers until they have.
func leave(ctx context.Context, log logr.Logger, speaker leaver, routers partings, stand restarts) {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if stand.Restarting(ask, speaker.Draining()) {
		log.Info("Restarting: other speakers stand in")
		speaker.Leave(mesh.Restart)
		told := time.Now().Add(toldTime)
		routers.restart(ctx)
		due.Wait(ctx, time.Until(told))
		return
	}
	n := speaker.Remaining()
	log.Info("Ending: other speakers take over", "addresses", n)
	speaker.Leave(mesh.Drain)
	defer routers.drain()(ctx)
	due.Wait(ctx, toldTime)
	for end := time.Now().Add(drainTimeout); speaker.Remaining() > 0; {
		if !speaker.CanLeave() || !time.Now().Before(end) || !due.Wait(ctx, drainPoll) {
			log.Info("Nobody took over", "addresses", speaker.Remaining())
			return
		}
	}
}
