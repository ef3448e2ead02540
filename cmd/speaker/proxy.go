// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/internal/due"
)

const (
	// proxyMetrics are kube-proxy's, on its default port. That it is healthy it
	// says before it has done anything.
	proxyMetrics = "http://127.0.0.1:10249/metrics"
	// proxySynced is when it last programmed the node, for each family of
	// addresses if it tells them apart.
	proxySynced = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
	// proxyPoll is the time between two questions.
	proxyPoll = 100 * time.Millisecond
	// mostMetrics is how much of its answer is read, which has some 100 kB.
	mostMetrics = 8 << 20
)

// How long a kube-proxy is waited for.
const (
	// bootPatience is for a node that was just started. Another program may be
	// doing the work, or kube-proxy never get it done.
	bootPatience = time.Minute
	// syncPatience is for one that listens on a node that is up for long, where
	// it begins with what is in the kernel already; and for its second family
	// after a boot.
	syncPatience = 10 * time.Second
	// restartPatience is for one that may not be there at all, or have one family
	// only, on a node that is up for long. It is a part of the time for which
	// routers keep routes over a restart.
	restartPatience = 2 * time.Second
)

// proxy is what a node's kube-proxy says of itself.
type proxy struct {
	absent bool
	// families are those of addresses that it has programmed the node for. It
	// begins with both where the kernel has both, one after the other.
	families int
}

// askProxy asks the kube-proxy whose metrics are at a URL.
func askProxy(ctx context.Context, url string) proxy {
	ctx, cancel := context.WithTimeout(ctx, proxyTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return proxy{}
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return proxy{absent: errors.Is(err, syscall.ECONNREFUSED)}
	}
	defer answer.Body.Close()
	var p proxy
	for lines := bufio.NewScanner(io.LimitReader(answer.Body, mostMetrics)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if name, _, _ = strings.Cut(name, "{"); name != proxySynced {
			continue
		}
		if at, err := strconv.ParseFloat(value, 64); err == nil && at > 0 {
			p.families++
		}
	}
	return p
}

// patience is for how long it makes sense to wait for more after it began to say
// so, on a node that was just booted or not.
func (p proxy) patience(booted bool) time.Duration {
	switch {
	case p.families > 1:
		return 0
	case booted && p.families == 0:
		return bootPatience
	case booted || p.families == 0 && !p.absent:
		return syncPatience
	}
	return restartPatience
}

// awaitForwarding waits until the kube-proxy whose metrics are at a URL has
// programmed the node, or it makes no sense to wait any longer, and tells which.
// A node that boots starts its speaker and its kube-proxy together, and what
// routers send it before it knows the Services is lost.
func awaitForwarding(ctx context.Context, uptime time.Duration, url string) bool {
	var last proxy
	for since := time.Now(); ; {
		p := askProxy(ctx, url)
		if p != last {
			last, since = p, time.Now()
		}
		if time.Since(since) >= p.patience(uptime < settledUnseen) || !due.Wait(ctx, proxyPoll) {
			return p.families > 0
		}
	}
}
