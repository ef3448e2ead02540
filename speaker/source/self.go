// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

// Own are the objects of the node itself. Nobody changes them.
type Own struct {
	// NodeUID is that of the Node, empty while there is none.
	NodeUID types.UID
	// Speaker is nil while there is none.
	Speaker *v1alpha1.Speaker
	// Interfaces are the patterns of all L2Advertisements.
	Interfaces []plan.Patterns
}

// Self follows the objects of one node, and what concerns its interfaces. It is apart from Source so that
// announcing never waits for them.
type Self struct {
	informers cache.Informers
	node      string
	changed   chan struct{}

	mu     sync.Mutex
	synced bool
	own    Own
	ads    map[string]plan.Patterns
}

// NewSelf returns a Self on a cache made with CacheOptions, which the caller
// starts.
func NewSelf(informers cache.Informers, node string) *Self {
	return &Self{informers: informers, node: node, changed: make(chan struct{}, 1), ads: map[string]plan.Patterns{}}
}

// Changed returns a channel that has a value after Own changed, the first time
// when it is first complete. One value may stand for many changes.
func (s *Self) Changed() <-chan struct{} { return s.changed }

// Own returns the objects as they were last seen, or false if they have not
// been seen yet.
func (s *Self) Own() (Own, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own, s.synced
}

// Run follows the objects until ctx is done, and returns nil then.
func (s *Self) Run(ctx context.Context) error {
	synced, err := follow(ctx, s.informers, func() { signal(s.changed) }, []handler{
		{&corev1.Node{}, onObject(s.setNode)},
		{&v1alpha1.Speaker{}, onObject(s.setSpeaker)},
		{&v1alpha1.L2Advertisement{}, onObject(s.setAdvertisement)},
	})
	if err != nil {
		return err
	}
	for _, c := range synced {
		select {
		case <-ctx.Done():
			return nil
		case <-c.Done():
		}
	}
	s.mu.Lock()
	s.synced = true
	s.mu.Unlock()
	signal(s.changed)
	<-ctx.Done()
	return nil
}

func (s *Self) setNode(old, node *corev1.Node) bool {
	if node == nil && old.Name != s.node || node != nil && node.Name != s.node {
		return false
	}
	var uid types.UID
	if node != nil {
		uid = node.UID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := uid != s.own.NodeUID
	s.own.NodeUID = uid
	return changed && s.synced
}

func (s *Self) setSpeaker(old, speaker *v1alpha1.Speaker) bool {
	if speaker == nil && old.Name != s.node || speaker != nil && speaker.Name != s.node {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own.Speaker = speaker
	return s.synced
}

func (s *Self) setAdvertisement(old, ad *v1alpha1.L2Advertisement) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ad == nil {
		delete(s.ads, old.Name)
	} else {
		var patterns plan.Patterns
		for _, p := range ad.Spec.Interfaces {
			patterns = append(patterns, string(p))
		}
		if was, ok := s.ads[ad.Name]; ok && slices.Equal(was, patterns) {
			return false
		}
		s.ads[ad.Name] = patterns
	}
	s.own.Interfaces = slices.Collect(maps.Values(s.ads))
	return s.synced
}
