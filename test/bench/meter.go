// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// sample is one line of a page of Prometheus metrics.
type sample struct {
	labels map[string]string
	value  float64
}

var (
	line  = regexp.MustCompile(`(?m)^(\w+)\{(.*)\} ([0-9.e+-]+)$`)
	label = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// samples reads those of one metric.
func samples(page, metric string) ([]sample, error) {
	var found []sample
	for _, m := range line.FindAllStringSubmatch(page, -1) {
		if m[1] != metric {
			continue
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", metric, err)
		}
		s := sample{labels: map[string]string{}, value: value}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			s.labels[l[1]] = l[2]
		}
		found = append(found, s)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("there is no metric %s", metric)
	}
	return found, nil
}

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
	requests, err := samples(string(page), "apiserver_request_total")
	if err != nil {
		return nil, err
	}
	count := writes{}
	for _, r := range requests {
		switch r.labels["verb"] {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION":
			what := r.labels["resource"]
			if sub := r.labels["subresource"]; sub != "" {
				what += "/" + sub
			}
			count[what] += int(r.value)
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
			list, failed := samples(page, metric)
			err = errors.Join(err, failed)
			for _, s := range list {
				if s.labels["name"] != except {
					total += int(s.value)
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

// usage is what a process has used.
type usage struct {
	cpu  time.Duration
	peak int64 // of resident memory, in bytes
}

// usages reads what every process of the lab has used.
func (b *bench) usages() (map[string]usage, error) {
	all := map[string]usage{}
	for _, p := range b.lab.Status().Processes {
		u, err := usageOf(p.PID)
		if err != nil {
			return nil, fmt.Errorf("process %s: %w", p.Name, err)
		}
		all[p.Name] = u
	}
	b.peak = max(b.peak, all[b.controller.Name].peak)
	return all, nil
}

func names(all map[string]usage) []string { return slices.Sorted(maps.Keys(all)) }

func usageOf(pid int) (u usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// proc(5): after the name in parentheses, utime and stime are the 12th and 13th field, in ticks of 10 ms.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, i := range []int{11, 12} {
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			u.peak = kb << 10
			return u, err
		}
	}
	return u, errors.New("no VmHWM in the process's status")
}
