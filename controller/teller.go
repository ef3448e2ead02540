// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
)

const (
	// busyPace is the time between two events while Services wait for their
	// addresses: an event costs the API server as much as an address.
	busyPace = 25 * time.Millisecond
	// idlePace is the time between two events otherwise.
	idlePace = 2 * time.Millisecond
)

// teller sends events about objects in the order in which they were given,
// when nobody waits for anything else.
type teller struct {
	recorder events.EventRecorder
	// busy reports whether Services are being worked on.
	busy func() bool

	mu    sync.Mutex
	queue []note
	more  chan struct{}
}

type note struct {
	about                 runtime.Object
	kind, reason, message string
}

// action is what the controller did or saw to be done.
func (n note) action() string {
	if _, ok := n.about.(*corev1.Service); ok {
		return "Allocate"
	}
	return "Peer"
}

func newTeller(recorder events.EventRecorder, busy func() bool) *teller {
	return &teller{recorder: recorder, busy: busy, more: make(chan struct{}, 1)}
}

// tell takes an event. It does not wait.
func (t *teller) tell(about runtime.Object, kind, reason, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, note{about: about, kind: kind, reason: reason, message: message})
	select {
	case t.more <- struct{}{}:
	default:
	}
}

// run sends events until ctx ends.
func (t *teller) run(ctx context.Context) error {
	for {
		n, ok := t.next()
		if !ok {
			select {
			case <-ctx.Done():
				return nil
			case <-t.more:
			}
			continue
		}
		t.recorder.Eventf(n.about, nil, n.kind, n.reason, n.action(), "%s", n.message)
		pace := idlePace
		if t.busy() {
			pace = busyPace
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pace):
		}
	}
}

func (t *teller) next() (note, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		t.queue = nil // let go of the array that a burst has grown
		return note{}, false
	}
	n := t.queue[0]
	t.queue[0] = note{}
	t.queue = t.queue[1:]
	return n, true
}
