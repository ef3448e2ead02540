// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestOnlyANodeThatForwardsHasPreservedIt(t *testing.T) {
	status := http.StatusOK
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer proxy.Close()
	nobody := httptest.NewServer(http.NotFoundHandler())
	nobody.Close()
	for _, tt := range []struct {
		name   string
		uptime time.Duration
		url    string
		status int
		want   bool
	}{
		{"just booted", time.Minute, proxy.URL, http.StatusOK, false},
		{"up, and kube-proxy is ready", 3 * time.Minute, proxy.URL, http.StatusOK, true},
		{"up, and kube-proxy is not ready", time.Hour, proxy.URL, http.StatusServiceUnavailable, false},
		{"up for a while, without kube-proxy", 3 * time.Minute, nobody.URL, 0, false},
		{"up for long, without kube-proxy", time.Hour, nobody.URL, 0, true},
	} {
		status = tt.status
		if got := forwards(t.Context(), tt.uptime, tt.url); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
