// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/meter"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// writes is how often each resource has been written to, as "resource/subresource".
type writes map[string]int

// caused are the writes that follow from a Service.
var caused = []string{"loadbalancerips", "services/status", "loadbalancerips/status", "events", "loadbalancerippools/status"}

// writes asks the API server, which counts what it refuses, too.
func (b *bench) writes(ctx context.Context) (writes, error) {
	page, err := b.kube.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	requests, err := meter.Samples(string(page), "apiserver_request_total")
	if err != nil {
		return nil, err
	}
	count := writes{}
	for _, r := range requests {
		switch r.Labels["verb"] {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION":
			what := r.Labels["resource"]
			if sub := r.Labels["subresource"]; sub != "" {
				what += "/" + sub
			}
			count[what] += int(r.Value)
		}
	}
	return count, nil
}

func (w writes) since(before writes) writes {
	n := writes{}
	for what := range w {
		n[what] = w[what] - before[what]
	}
	return n
}

func (w writes) of(what ...string) (total int) {
	for _, name := range what {
		total += w[name]
	}
	return total
}

// The controller's ports, as the chart sets them.
const (
	metricsPort = 7471
	probePort   = 7472
)

// ask asks the controller.
func (b *bench) ask(ctx context.Context, port int, path string) (string, error) {
	host := b.lab.Host("controller1")
	return host.Get(ctx, fmt.Sprintf("http://%s:%d%s", host.Addr(), port, path))
}

// quiet is longer than anything that the controller puts off.
const quiet = 2 * time.Second

// awaitRest waits until the controller has nothing to do, and returns since when: its queues are empty, and for a while
// nothing was added to them. At least so much must have been added by then.
func (b *bench) awaitRest(ctx context.Context, atLeast int) (since time.Time, err error) {
	added := -1
	err = cluster.Poll(ctx, "the controller has nothing to do", func(ctx context.Context) error {
		page, err := b.ask(ctx, metricsPort, "/metrics")
		if err != nil {
			return err
		}
		sum := func(metric, except string) (total int) {
			list, failed := meter.Samples(page, metric)
			err = errors.Join(err, failed)
			for _, s := range list {
				if s.Labels["name"] != except {
					total += int(s.Value)
				}
			}
			return total
		}
		// A pool's counts come back a second after any change, by themselves.
		queued, active, all := sum("workqueue_depth", ""), sum("controller_runtime_active_workers", ""), sum("workqueue_adds_total", "pool-status")
		switch {
		case err != nil:
			return err
		case queued+active > 0 || all != added || all < atLeast:
			added, since = all, time.Now()
			return fmt.Errorf("%d queued, %d worked on, %d in all", queued, active, all)
		case time.Since(since) < quiet:
			return errors.New("it has only just come to rest")
		}
		return nil
	})
	return since, err
}

// usages reads what every process of the lab has used.
func (b *bench) usages() (map[string]meter.Usage, error) {
	all := map[string]meter.Usage{}
	for _, p := range b.lab.Status().Processes {
		u, err := meter.UsageOf(p.PID)
		if err != nil {
			return nil, fmt.Errorf("process %s: %w", p.Name, err)
		}
		all[p.Name] = u
	}
	b.peak = max(b.peak, all[b.controller.Name].Peak)
	return all, nil
}

func names(all map[string]meter.Usage) []string { return slices.Sorted(maps.Keys(all)) }
