// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	fakesource "k8s.io/client-go/tools/cache/testing"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// cluster is a fake API server behind a real cache, with a Source on it.
type cluster struct {
	t         *testing.T
	kinds     map[string]*fakesource.FakeControllerSource
	informers cache.Cache
	source    *Source
}

func noSecrets() *Secrets { return NewSecrets("fairlead", nil, nil) }

// newCluster returns a cluster whose Source doesn't run yet.
func newCluster(t *testing.T, log logr.Logger) *cluster { return newClusterWithFile(t, log, "") }

func newClusterWithFile(t *testing.T, log logr.Logger, file string) *cluster {
	t.Helper()
	c := &cluster{t: t, kinds: map[string]*fakesource.FakeControllerSource{}}
	for _, kind := range []string{"*v1.Node", "*v1.Service", "*v1.EndpointSlice", "*v1alpha1.LoadBalancerIP", "*v1alpha1.LoadBalancerIPPool", "*v1alpha1.L2Advertisement", "*v1alpha1.Speaker", "*v1alpha1.BGPPeer", "*v1alpha1.BGPAdvertisement", "*v1alpha1.BFDProfile"} {
		c.kinds[kind] = fakesource.NewFakeControllerSource()
	}
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: "http://127.0.0.1:1"}
	options, err := CacheOptions(config, scheme)
	if err != nil {
		t.Fatal(err)
	}
	options.NewInformer = func(_ toolscache.ListerWatcher, obj runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
		return toolscache.NewSharedIndexInformer(c.kind(obj), obj, resync, indexers)
	}
	informers, err := cache.New(config, options)
	if err != nil {
		t.Fatal(err)
	}
	c.informers, c.source = informers, New(log, informers, file, noSecrets(), func() {})
	return c
}

// run runs the Source, with these objects in the cluster, until the test ends.
func (c *cluster) run(objects ...client.Object) *cluster {
	for _, o := range objects {
		c.kind(o).Add(o)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	ended := make(chan error, 2)
	go func() { ended <- c.informers.Start(ctx) }()
	go func() { ended <- c.source.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				c.t.Errorf("ended with %v", err)
			}
		}
		for _, k := range c.kinds {
			k.Broadcaster.Shutdown()
		}
	})
	return c
}

func (c *cluster) kind(o runtime.Object) *fakesource.FakeControllerSource {
	k := c.kinds[fmt.Sprintf("%T", o)]
	if k == nil {
		c.t.Fatalf("a speaker doesn't read %T", o)
	}
	return k
}

// until waits for a state that the Source tells of.
func (c *cluster) until(what string, ok func(State) bool) {
	c.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case <-c.source.Changed():
			st, complete := c.source.State()
			if !complete {
				c.t.Fatal("told before the state is complete")
			}
			if ok(st) {
				return
			}
		case <-deadline:
			st, _ := c.source.State()
			c.t.Fatalf("not told that %s: %+v", what, st)
		}
	}
}

func TestSourceFollowsTheCluster(t *testing.T) {
	c := newCluster(t, logr.Discard()).run(node("a"), service("web", true), endpointSlice("web-1", "web", readyOn("a")),
		lbip("192.0.2.1", heldBy("web")))
	addr := netip.MustParseAddr("192.0.2.1")
	c.until("everything is there", func(st State) bool {
		return len(st.Nodes) == 1 && len(st.Addresses) == 1 && len(st.Addresses[addr].Services) == 1 && len(st.Addresses[addr].Services[0].Endpoints) == 1
	})
	c.kinds["*v1.Node"].Modify(node("a", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }))
	c.until("node a isn't Ready", func(st State) bool { return !st.Nodes[0].Ready })
	c.kinds["*v1alpha1.Speaker"].Add(speaker("a", func(s *v1alpha1.Speaker) { s.Status.Interfaces = []v1alpha1.Interface{{Name: "eth0"}} }))
	c.until("node a's interface", func(st State) bool { return len(st.Nodes[0].Links) == 1 && len(st.Speakers) == 1 })
	c.kinds["*v1.Node"].Delete(node("a"))
	c.until("node a is gone", func(st State) bool { return len(st.Nodes) == 0 })
	c.kinds["*v1alpha1.LoadBalancerIP"].Modify(lbip("192.0.2.1", heldBy("web"), claimed("b", 2)))
	c.until("b claims", func(st State) bool { return st.Addresses[addr].Claim.Node == "b" })
	c.kinds["*v1alpha1.L2Advertisement"].Add(advertisement("lan"))
	c.until("it is advertised", func(st State) bool { return st.Addresses[addr].Scope != nil })
	c.kinds["*v1alpha1.L2Advertisement"].Modify(advertisement("lan", func(s *v1alpha1.L2AdvertisementSpec) {
		s.PoolSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "1"}}
	}))
	c.until("its pool isn't selected", func(st State) bool { return st.Addresses[addr].Scope == nil })
	c.kinds["*v1alpha1.LoadBalancerIPPool"].Add(pool("lan", map[string]string{"tier": "1"}))
	c.until("its pool is selected", func(st State) bool { return st.Addresses[addr].Scope != nil })
	c.kinds["*v1alpha1.LoadBalancerIP"].Delete(lbip("192.0.2.1"))
	c.until("the address is gone", func(st State) bool { return len(st.Addresses) == 0 })
}

func TestAnEmptyClusterIsAState(t *testing.T) {
	newCluster(t, logr.Discard()).run().until("there is nothing", func(st State) bool { return len(st.Addresses) == 0 })
}

// What was deleted while the watch was broken is found by the next list.
func TestSourceSurvivesABrokenWatch(t *testing.T) {
	c := newCluster(t, logr.Discard()).run(node("a"), node("b"))
	c.until("both are there", func(st State) bool { return len(st.Nodes) == 2 })
	c.kinds["*v1.Node"].DeleteDropWatch(node("b"))
	c.kinds["*v1.Node"].ResetWatch()
	c.until("node b is gone", func(st State) bool { return len(st.Nodes) == 1 })
}

// An API server that can't be reached is told of: the informers are silent.
func TestWaitingForTheAPIServerIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var logged []string
		log := funcr.New(func(_, args string) {
			mu.Lock()
			defer mu.Unlock()
			logged = append(logged, args)
		}, funcr.Options{})
		c := newCluster(t, log)
		c.kinds["*v1.Service"].ListError = errors.New("connection refused")
		c.run(node("a"))
		time.Sleep(lateInterval + time.Second)
		if _, ok := c.source.State(); ok {
			t.Error("there is a state")
		}
		mu.Lock()
		defer mu.Unlock()
		if len(logged) != 1 || !strings.Contains(logged[0], "Waiting for the API server") || !strings.Contains(logged[0], "Service") {
			t.Errorf("logged %q", logged)
		}
	})
}
