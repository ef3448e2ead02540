// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	fakesource "k8s.io/client-go/tools/cache/testing"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// cluster is a fake API server behind a real cache, with a Source on it.
type cluster struct {
	t      *testing.T
	kinds  map[string]*fakesource.FakeControllerSource
	source *Source
}

func newCluster(t *testing.T, objects ...client.Object) *cluster {
	t.Helper()
	c := &cluster{t: t, kinds: map[string]*fakesource.FakeControllerSource{}}
	for _, kind := range []string{"*v1.Node", "*v1.Service", "*v1.EndpointSlice", "*v1alpha1.LoadBalancerIP"} {
		c.kinds[kind] = fakesource.NewFakeControllerSource()
	}
	for _, o := range objects {
		c.kind(o).Add(o)
	}
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	options := CacheOptions(scheme)
	options.NewInformer = func(_ toolscache.ListerWatcher, obj runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
		return toolscache.NewSharedIndexInformer(c.kind(obj), obj, resync, indexers)
	}
	informers, err := cache.New(&rest.Config{Host: "http://127.0.0.1:1"}, options)
	if err != nil {
		t.Fatal(err)
	}
	c.source = New(informers)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- informers.Start(ctx) }()
	go func() { ended <- c.source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("ended with %v", err)
			}
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
	c := newCluster(t, node("a"), service("web", true), endpointSlice("web-1", "web", readyOn("a")),
		lbip("192.0.2.1", heldBy("web")))
	c.until("everything is there", func(st State) bool {
		return len(st.Snapshot.Nodes) == 1 && len(st.Snapshot.Addresses) == 1 &&
			len(st.Snapshot.Addresses[0].Services) == 1 && len(st.Snapshot.Addresses[0].Services[0].Endpoints) == 1
	})
	c.kinds["*v1.Node"].Modify(node("a", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }))
	c.until("node a is dead", func(st State) bool { return !st.Snapshot.Nodes[0].Alive })
	c.kinds["*v1.Node"].Delete(node("a"))
	c.until("node a is gone", func(st State) bool { return len(st.Snapshot.Nodes) == 0 })
	c.kinds["*v1alpha1.LoadBalancerIP"].Modify(lbip("192.0.2.1", heldBy("web"), claimed("b", 2)))
	c.until("b claims", func(st State) bool { return st.Snapshot.Addresses[0].Claim.Node == "b" })
	c.kinds["*v1alpha1.LoadBalancerIP"].Delete(lbip("192.0.2.1"))
	c.until("the address is gone", func(st State) bool { return len(st.Snapshot.Addresses) == 0 && len(st.Records) == 0 })
}

func TestAnEmptyClusterIsAState(t *testing.T) {
	newCluster(t).until("there is nothing", func(st State) bool { return len(st.Snapshot.Addresses) == 0 })
}

// What was deleted while the watch was broken is found by the next list.
func TestSourceSurvivesABrokenWatch(t *testing.T) {
	c := newCluster(t, node("a"), node("b"))
	c.until("both are there", func(st State) bool { return len(st.Snapshot.Nodes) == 2 })
	c.kinds["*v1.Node"].DeleteDropWatch(node("b"))
	c.kinds["*v1.Node"].ResetWatch()
	c.until("node b is gone", func(st State) bool { return len(st.Snapshot.Nodes) == 1 })
}
