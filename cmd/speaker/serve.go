// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// server is an HTTP server on a socket that listens already.
type server struct {
	listener net.Listener
	http     *http.Server
}

type servers []server

// listen opens the ports of the metrics and probes. They listen before anything
// else is started, so that a port in use is told at once.
func listen(f flags, metrics prometheus.Gatherer, alive, ready func() bool) (servers, error) {
	var out servers
	for _, s := range []struct {
		flag, address string
		handler       http.Handler
	}{
		{"--metrics-bind-address", f.metricsAddress, metricsHandler(metrics)},
		{"--health-probe-bind-address", f.probeAddress, probeHandler(alive, ready)},
	} {
		if s.address == "0" {
			continue
		}
		l, err := net.Listen("tcp", s.address)
		if err != nil {
			out.close()
			return nil, fmt.Errorf("%s: %w", s.flag, err)
		}
		out = append(out, server{l, &http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second}})
	}
	return out, nil
}

func (s servers) close() {
	for _, srv := range s {
		srv.listener.Close()
	}
}

// run serves until ctx is done. A scrape that is under way then is cut off:
// nothing may hold up the end.
func (s servers) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, srv := range s {
		g.Go(func() error {
			if err := srv.http.Serve(srv.listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", srv.listener.Addr(), err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return srv.http.Close()
		})
	}
	return g.Wait()
}

func metricsHandler(g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	return mux
}

// probeHandler says that the program lives whatever happens to the API server:
// a restart would not bring that back, and end the announcements meanwhile. Only
// a loop that hangs is dead. It is ready once it has announced what it should
// for the first time.
func probeHandler(alive, ready func() bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !alive() {
			http.Error(w, "the loop hangs", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready() {
			http.Error(w, "the cluster or the network interfaces are not known yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
