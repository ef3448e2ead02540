// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settled is how long a node has to be up before it can be said that it kept
	// forwarding while its speaker restarted: longer than routers keep routes for
	// it by default, so that no reboot is taken for a restart.
	settled = 2 * time.Minute
	// settledUnseen is the same where kube-proxy doesn't tell whether it is ready,
	// because another program does its work.
	settledUnseen = 5 * time.Minute
	// kubeProxy tells whether it has programmed the node, on its default port.
	kubeProxy = "http://127.0.0.1:10256/healthz"
	// proxyTimeout is how long it may take to say so.
	proxyTimeout = 500 * time.Millisecond
)

// preserved tells whether the node forwards to Services now, as it did before
// this process began.
func preserved(ctx context.Context) bool { return forwards(ctx, uptime(), kubeProxy) }

// uptime is how long the node is up, 0 if that isn't known.
func uptime() time.Duration {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return time.Duration(info.Uptime) * time.Second
}

// forwards is preserved for a node that is up for some time, whose kube-proxy
// answers at a URL.
func forwards(ctx context.Context, uptime time.Duration, url string) bool {
	if uptime < settled {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, proxyTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED) && uptime >= settledUnseen
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
