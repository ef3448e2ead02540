// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

// kernel is a Monitor's world.
type kernel struct {
	*Monitor
	registry *prometheus.Registry

	mu        sync.Mutex
	arpIgnore int
	err       error
	seen      seen
}

// seen is what a Monitor did.
type seen struct {
	looks, told int
	silent      bool // the node, by what was told last
	logged      []string
}

func monitor(t *testing.T, test func(k *kernel)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{registry: prometheus.NewRegistry()}
		log := funcr.New(func(_, args string) { k.do(func() { k.seen.logged = append(k.seen.logged, args) }) }, funcr.Options{})
		k.Monitor = New(log, k.registry, func(c []metav1.Condition) {
			k.do(func() {
				k.seen.told, k.seen.silent = k.seen.told+1, meta.IsStatusConditionTrue(c, v1alpha1.SpeakerARPIgnored)
			})
		})
		k.read = func(links []link.Link, carriers []string) (Node, error) {
			if len(links) != 1 || len(carriers) != 1 {
				t.Errorf("looked at %v of %v", carriers, links)
			}
			k.mu.Lock()
			defer k.mu.Unlock()
			k.seen.looks++
			return Node{Interfaces: []Interface{{Name: "eth0", Up: true, ARPIgnore: k.arpIgnore}}}, k.err
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()
		test(k)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func (k *kernel) do(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// set changes what is found.
func (k *kernel) set(arpIgnore int, err error) {
	k.do(func() { k.arpIgnore, k.err = arpIgnore, err })
}

// after lets time go by, and returns what was seen by then.
func (k *kernel) after(d time.Duration) (now seen) {
	time.Sleep(d)
	synctest.Wait()
	k.do(func() { now = k.seen })
	return now
}

// metric is that of ARPIgnored.
func (k *kernel) metric(t *testing.T) float64 {
	t.Helper()
	families, err := k.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		if m.GetLabel()[0].GetValue() == v1alpha1.SpeakerARPIgnored {
			return m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric in %v", families)
	return 0
}

func TestASettingIsNoticedWithinAMinute(t *testing.T) {
	monitor(t, func(k *kernel) {
		if k.after(time.Hour).looks > 0 {
			t.Error("looked before there were links")
		}
		k.Set([]link.Link{ether(0)}, []string{"eth0"})
		if now := k.after(0); now.told != 1 || now.silent || len(now.logged) > 0 {
			t.Errorf("%+v", now)
		}
		if v := k.metric(t); v != 0 {
			t.Errorf("the metric is %v", v)
		}
		k.set(8, nil)
		if now := k.after(interval); now.told != 2 || !now.silent || len(now.logged) != 1 || !strings.Contains(now.logged[0], "arp_ignore is 8 for eth0") {
			t.Errorf("%+v", now)
		}
		if v := k.metric(t); v != 1 {
			t.Errorf("the metric is %v", v)
		}
		if now := k.after(time.Hour); now.told != 2 || len(now.logged) != 1 {
			t.Errorf("%+v", now)
		}
		k.set(1, nil)
		if now := k.after(interval); now.told != 3 || now.silent || len(now.logged) != 2 || !strings.Contains(now.logged[1], "no longer") {
			t.Errorf("%+v", now)
		}
		if v := k.metric(t); v != 0 {
			t.Errorf("the metric is %v", v)
		}
	})
}

func TestLinksThatChangeAreLookedAtOnceASecond(t *testing.T) {
	monitor(t, func(k *kernel) {
		for range 45 {
			k.Set([]link.Link{ether(0)}, []string{"eth0"})
			k.after(100 * time.Millisecond)
		}
		if now := k.after(0); now.looks != 5 { // at 0, 1, 2, 3 and 4 s
			t.Errorf("looked %d times in 4.5 s", now.looks)
		}
		if now := k.after(59 * time.Second); now.looks != 6 { // at the last of the changes
			t.Errorf("looked %d times", now.looks)
		}
	})
}

func TestWhatCantBeReadChangesNothing(t *testing.T) {
	monitor(t, func(k *kernel) {
		k.Set([]link.Link{ether(0)}, []string{"eth0"})
		k.after(0)
		k.set(0, errors.New("no such file"))
		if now := k.after(time.Hour); now.told != 1 || len(now.logged) != 1 || !strings.Contains(now.logged[0], "no such file") {
			t.Errorf("%+v", now)
		}
		k.set(8, nil)
		if now := k.after(interval); now.told != 2 {
			t.Errorf("%+v", now)
		}
	})
}
