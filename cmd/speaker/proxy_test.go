// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// What kube-proxy says while it begins, when it has programmed a family, and
// both; and what it says before Kubernetes told families apart.
const (
	saysNothing = `# HELP kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds [ALPHA] The last time a sync of proxy rules was queued
# TYPE kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds gauge
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 1.7953004e+09
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"} 1.7953004e+09
`
	saysOne = saysNothing + `# HELP kubeproxy_sync_proxy_rules_last_timestamp_seconds [ALPHA] The last time proxy rules were successfully synced
# TYPE kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1.7953004e+09
`
	saysBoth      = saysOne + "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 1.7953004e+09\n"
	oldSaysZero   = "kubeproxy_sync_proxy_rules_last_timestamp_seconds 0\n"
	oldSaysSynced = "kubeproxy_sync_proxy_rules_last_timestamp_seconds 1.7953004e+09\n"
)

func TestAKubeProxyIsAskedWhetherItHasProgrammedTheNode(t *testing.T) {
	var said string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, said) }))
	defer server.Close()
	for _, tt := range []struct {
		name, said string
		want       proxy
	}{
		{"not yet", saysNothing, proxy{}},
		{"one family", saysOne, proxy{families: 1}},
		{"both families", saysBoth, proxy{families: 2}},
		{"not yet, without families", oldSaysZero, proxy{}},
		{"without families", oldSaysSynced, proxy{families: 1}},
		{"another program", "ok", proxy{}},
	} {
		said = tt.said
		if got := askProxy(t.Context(), server.URL); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	server.Close()
	if got := askProxy(t.Context(), server.URL); got != (proxy{absent: true}) {
		t.Errorf("nobody there: %+v", got)
	}
}

func TestAKubeProxyIsWaitedForAsLongAsItMakesSense(t *testing.T) {
	for _, tt := range []struct {
		of             proxy
		booted, upLong time.Duration
	}{
		{proxy{absent: true}, bootPatience, restartPatience},
		{proxy{}, bootPatience, syncPatience},
		{proxy{families: 1}, syncPatience, restartPatience},
		{proxy{families: 2}, 0, 0},
	} {
		if got := tt.of.patience(true); got != tt.booted {
			t.Errorf("%+v, booted: %s, want %s", tt.of, got, tt.booted)
		}
		if got := tt.of.patience(false); got != tt.upLong {
			t.Errorf("%+v, up for long: %s, want %s", tt.of, got, tt.upLong)
		}
	}
}

// The second family has its time also if the first took longer than that.
func TestASecondFamilyIsWaitedForFromTheFirstOn(t *testing.T) {
	began := time.Now()
	first, second := began.Add(restartPatience+500*time.Millisecond), began.Add(restartPatience+time.Second)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch now := time.Now(); {
		case now.Before(first):
			fmt.Fprint(w, saysNothing)
		case now.Before(second):
			fmt.Fprint(w, saysOne)
		default:
			fmt.Fprint(w, saysBoth)
		}
	}))
	defer server.Close()
	if !awaitForwarding(t.Context(), time.Hour, server.URL) || time.Now().Before(second) {
		t.Errorf("over after %s", time.Since(began))
	}
}

func TestANodeIsNotAnnouncedBeforeItForwards(t *testing.T) {
	var asked atomic.Int32
	said := []string{saysNothing, saysNothing, saysOne, saysBoth}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, said[min(int(asked.Add(1)), len(said))-1])
	}))
	defer server.Close()
	for _, uptime := range []time.Duration{time.Second, time.Hour} {
		asked.Store(0)
		if !awaitForwarding(t.Context(), uptime, server.URL) || int(asked.Load()) != len(said) {
			t.Errorf("up for %s: asked %d times", uptime, asked.Load())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), proxyPoll/2)
	defer cancel()
	asked.Store(0)
	if awaitForwarding(ctx, time.Second, server.URL) {
		t.Error("taken for one that has programmed the node")
	}
}
