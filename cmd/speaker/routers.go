// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/internal/due"
	"github.com/fairlead-lb/fairlead/speaker/bfd"
	"github.com/fairlead-lb/fairlead/speaker/bgp"
	"github.com/fairlead-lb/fairlead/speaker/bgp/gobgp"
	"github.com/fairlead-lb/fairlead/speaker/radv"
	"github.com/fairlead-lb/fairlead/speaker/routing"
)

const (
	// parkCover is how long routers are asked to take a silence of BFD for a
	// restart: as long as they keep routes for one by default.
	parkCover = 30 * time.Second
	// parkTimeout is how long that may take to agree on.
	parkTimeout = 2 * time.Second
	// turnTime is how long routers get to turn to other nodes before routes are
	// withdrawn, and hushTime how long before sessions end then: a packet that is
	// under way still finds its way.
	turnTime = 3 * time.Second
	hushTime = time.Second
	// ceaseTimeout is how long the last word to routers may take.
	ceaseTimeout = 2 * time.Second
)

// routers is what talks to routers, and what it is made of.
type routers struct {
	log       logr.Logger
	routing   *routing.Routing
	announcer *bgp.Announcer
	manager   *bfd.Manager
	neighbors *radv.Advertiser
}

// newRouters returns routers that do nothing before they are told of the
// cluster. Preserved says that the node forwards as it did before this process.
func newRouters(log logr.Logger, reg prometheus.Registerer, node string, preserved bool, tell func([]v1alpha1.BGPSession)) *routers {
	r := &routers{log: log}
	paths := routing.NewPaths(log, preserved)
	r.manager = bfd.New(log, reg, paths.State)
	r.announcer = bgp.New(log, reg, gobgp.New(), paths, preserved)
	paths.Connect(r.manager, r.announcer.BFDChanged)
	r.neighbors = radv.New(log, reg, func() { r.routing.Refresh() })
	r.routing = routing.New(node, r.announcer, r.neighbors, tell)
	return r
}

// run works until ctx is done, and returns nil then. Routers hear of the node
// when it forwards.
func (r *routers) run(ctx context.Context) error {
	defer r.manager.Close()
	defer r.neighbors.Close()
	if !awaitForwarding(ctx, uptime(), proxyMetrics) && ctx.Err() == nil {
		r.log.Info("kube-proxy does not say that it has programmed the node: announcing all the same")
	}
	return r.routing.Run(ctx)
}

// restart leaves routers with all routes: they are told by BFD to be patient,
// and the connections end with the process, without a word.
func (r *routers) restart(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	if err := r.manager.Park(ctx, parkCover); err != nil {
		r.log.Info("Not all routers have agreed by BFD to wait for the restart", "reason", err.Error())
	}
	_ = r.announcer.Leave(ctx, true) // waits for nothing
}

// drain asks routers to turn to other nodes. The function that it returns ends
// the sessions once they have.
func (r *routers) drain() (end func(context.Context)) {
	if len(r.announcer.Status()) == 0 {
		return func(context.Context) {}
	}
	r.announcer.Mark()
	turned := time.Now().Add(turnTime)
	return func(ctx context.Context) {
		due.Wait(ctx, time.Until(turned))
		r.announcer.Withdraw()
		due.Wait(ctx, hushTime)
		ctx, cancel := context.WithTimeout(ctx, ceaseTimeout)
		defer cancel()
		if err := r.announcer.Leave(ctx, false); err != nil {
			r.log.Info("Not all routers have taken the last word", "reason", err.Error())
		}
		if err := r.manager.Set(nil); err != nil {
			r.log.Error(err, "End BFD")
		}
	}
}
