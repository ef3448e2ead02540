// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func speaker(name string, edits ...func(*v1alpha1.Speaker)) *v1alpha1.Speaker {
	s := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

func withUID(uid types.UID) func(*corev1.Node) { return func(n *corev1.Node) { n.UID = uid } }

// runSelf runs a Self of node a until the test ends.
func (c *cluster) runSelf() *Self {
	s := NewSelf(c.informers, "a")
	ctx, cancel := context.WithCancel(c.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("ended with %v", err)
		}
	})
	return s
}

func TestSelfFollowsTheNodesOwnObjects(t *testing.T) {
	c := newCluster(t, logr.Discard()).run(node("a", withUID("1")), node("b", withUID("2")))
	s := c.runSelf()
	until := func(what string, ok func(Own) bool) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for {
			select {
			case <-s.Changed():
				if own, complete := s.Own(); !complete {
					t.Fatal("told before it is complete")
				} else if ok(own) {
					return
				}
			case <-deadline:
				own, _ := s.Own()
				t.Fatalf("not told that %s: %+v", what, own)
			}
		}
	}
	until("node a is there", func(o Own) bool { return o.NodeUID == "1" && o.Speaker == nil })
	c.kinds["*v1alpha1.Speaker"].Add(speaker("a"))
	until("a Speaker is there", func(o Own) bool { return o.Speaker != nil })
	c.kinds["*v1alpha1.Speaker"].Modify(speaker("a", func(s *v1alpha1.Speaker) { s.Status.Interfaces = []v1alpha1.Interface{{Name: "eth0"}} }))
	until("the Speaker has an interface", func(o Own) bool { return len(o.Speaker.Status.Interfaces) == 1 })
	c.kinds["*v1alpha1.Speaker"].Delete(speaker("a"))
	until("the Speaker is gone", func(o Own) bool { return o.Speaker == nil })
	c.kinds["*v1.Node"].Delete(node("a"))
	until("node a is gone", func(o Own) bool { return o.NodeUID == "" })
	c.kinds["*v1.Node"].Add(node("a", withUID("3")))
	until("node a is another", func(o Own) bool { return o.NodeUID == "3" })
}

// Whoever has no kind Speaker, or no right to it, announces nevertheless.
func TestASourceDoesNotWaitForSpeakers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, logr.Discard())
		c.kinds["*v1alpha1.Speaker"].ListError = errors.New("forbidden")
		c.run(node("a"))
		s := c.runSelf()
		time.Sleep(time.Minute)
		if _, ok := c.source.State(); !ok {
			t.Error("there is no state")
		}
		if _, ok := s.Own(); ok {
			t.Error("the node's objects count as seen")
		}
	})
}
