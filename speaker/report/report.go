// SPDX-License-Identifier: Apache-2.0

// Package report keeps the Speaker object, which tells the cluster what a node's own network looks like, and what is wrong with it.
package report

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/preflight"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

const (
	// minInterval is between two writes, and between a write that failed and
	// the next try.
	minInterval = 10 * time.Second
	// flipInterval is between two writes if an interface went up or down, which
	// decides whether the node is given addresses, or a BGP session, or a
	// condition changed.
	flipInterval = time.Second
	// writeTimeout ends a write that hangs.
	writeTimeout = 10 * time.Second
)

// Self tells of the node's own objects.
type Self interface {
	// Changed has a value after Own changed.
	Changed() <-chan struct{}
	// Own is what was last seen; false before everything was.
	Own() (source.Own, bool)
}

// Writer writes to the API server.
type Writer interface {
	client.Writer
	client.StatusClient
}

var _ Self = &source.Self{}

// Reporter writes the Speaker of a node.
type Reporter struct {
	log        logr.Logger
	node       string
	self       Self
	api        Writer
	links      chan []link.Link
	conditions chan []metav1.Condition
	mesh       chan []preflight.Segment
	sessions   chan []v1alpha1.BGPSession
}

// New returns a Reporter that does nothing before Run.
func New(log logr.Logger, node string, self Self, api Writer) *Reporter {
	return &Reporter{
		log: log, node: node, self: self, api: api,
		links: make(chan []link.Link, 1), conditions: make(chan []metav1.Condition, 1), mesh: make(chan []preflight.Segment, 1),
		sessions: make(chan []v1alpha1.BGPSession, 1),
	}
}

// SetLinks tells the node's interfaces. It doesn't wait, and only the last
// state counts. Nothing is written before it was called. One goroutine at a
// time may call it.
func (r *Reporter) SetLinks(links []link.Link) { replace(r.links, links) }

// SetConditions tells the conditions that the node's settings put it in; when
// each became so the Reporter knows, and it sums them up. Conditions of other
// types stay as they are. It is called as SetLinks is, by another goroutine if
// need be.
func (r *Reporter) SetConditions(conditions []metav1.Condition) { replace(r.conditions, conditions) }

// SetMesh tells which of the other speakers on the node's networks are heard.
// It is called as SetLinks is, by another goroutine if need be, and not before
// there was time to hear them: what stands in the Speaker stays until then.
func (r *Reporter) SetMesh(segments []preflight.Segment) { replace(r.mesh, segments) }

// SetSessions tells the node's BGP sessions. It is called as SetLinks is, by
// another goroutine if need be: what stands in the Speaker stays until then.
func (r *Reporter) SetSessions(sessions []v1alpha1.BGPSession) { replace(r.sessions, sessions) }

// replace leaves a value in a channel that has room for one.
func replace[T any](c chan T, value T) {
	select {
	case <-c:
	default:
	}
	c <- value
}

// Run writes, whenever the API server has something else than what is so,
// until ctx is done, and returns nil then. Without a Node there is no Speaker.
func (r *Reporter) Run(ctx context.Context) error {
	var now state
	var failing bool
	var last time.Time // write
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case now.links = <-r.links:
			now.linked = true
		case now.conditions = <-r.conditions:
		case now.segments = <-r.mesh:
			now.meshed = true
		case now.sessions = <-r.sessions:
			now.sessioned = true
		case <-r.self.Changed():
		case <-due:
		}
		due = nil
		own, ok := r.self.Own()
		if !now.linked || !ok || own.NodeUID == "" {
			continue
		}
		want := now.desired(own)
		if own.Speaker != nil && sameSpec(own.Speaker, want) && sameStatus(own.Speaker, want) {
			continue
		}
		interval := minInterval
		if own.Speaker != nil && !failing && flipped(own.Speaker, want) {
			interval = flipInterval
		}
		if wait := time.Until(last.Add(interval)); wait > 0 {
			due = time.After(wait)
			continue
		}
		err := r.write(ctx, own, want)
		last = time.Now()
		if err != nil && ctx.Err() == nil {
			due = time.After(minInterval)
			if !failing {
				r.log.Error(err, "Can't write this node's Speaker, trying again")
			}
		} else if failing {
			r.log.Info("Writing this node's Speaker again")
		}
		failing = err != nil
	}
}

func sameSpec(a, b *v1alpha1.Speaker) bool { return equality.Semantic.DeepEqual(a.Spec, b.Spec) }

func sameStatus(a, b *v1alpha1.Speaker) bool { return equality.Semantic.DeepEqual(a.Status, b.Status) }

// write makes the Speaker if there is none, and sets of it what is not so.
func (r *Reporter) write(ctx context.Context, own source.Own, want *v1alpha1.Speaker) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	obj := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: r.node}, Spec: want.Spec}
	speced := own.Speaker != nil && sameSpec(own.Speaker, want)
	if own.Speaker == nil {
		obj.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: r.node, UID: own.NodeUID}}
		err := r.api.Create(ctx, obj)
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create Speaker %s: %w", r.node, err)
		}
		speced = err == nil
	}
	if !speced {
		if err := r.patch(ctx, map[string]any{"spec": map[string]any{"endpoints": want.Spec.Endpoints}}, r.api.Patch); err != nil {
			return fmt.Errorf("patch Speaker %s: %w", r.node, err)
		}
	}
	if own.Speaker != nil && sameStatus(own.Speaker, want) {
		return nil
	}
	status := map[string]any{"interfaces": want.Status.Interfaces}
	if len(want.Status.Conditions) > 0 {
		status["conditions"] = want.Status.Conditions
	}
	if own.Speaker == nil || !slices.Equal(own.Speaker.Status.NotHeard, want.Status.NotHeard) {
		status["notHeard"] = want.Status.NotHeard
	}
	if own.Speaker == nil || !equality.Semantic.DeepEqual(own.Speaker.Status.BGP, want.Status.BGP) {
		status["bgp"] = want.Status.BGP
	}
	setStatus := func(ctx context.Context, obj client.Object, patch client.Patch, _ ...client.PatchOption) error {
		return r.api.Status().Patch(ctx, obj, patch)
	}
	if err := r.patch(ctx, map[string]any{"status": status}, setStatus); err != nil {
		return fmt.Errorf("patch status of Speaker %s: %w", r.node, err)
	}
	return nil
}

// patch changes parts of the Speaker.
func (r *Reporter) patch(ctx context.Context, part map[string]any, do func(context.Context, client.Object, client.Patch, ...client.PatchOption) error) error {
	patch, err := json.Marshal(part)
	if err != nil {
		return err
	}
	return do(ctx, &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: r.node}}, client.RawPatch(types.MergePatchType, patch))
}
