// SPDX-License-Identifier: Apache-2.0

// Package report keeps the Speaker object, which tells the cluster what a node's own network looks like.
package report

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

const (
	// minInterval is between two writes, and between a write that failed and
	// the next try.
	minInterval = 10 * time.Second
	// flipInterval is between two writes if an interface went up or down, which
	// decides whether the node is given addresses.
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
	log   logr.Logger
	node  string
	self  Self
	api   Writer
	links chan []link.Link
}

// New returns a Reporter that does nothing before Run.
func New(log logr.Logger, node string, self Self, api Writer) *Reporter {
	return &Reporter{log: log, node: node, self: self, api: api, links: make(chan []link.Link, 1)}
}

// SetLinks tells the node's interfaces. It doesn't wait, and only the last
// state counts. Nothing is written before it was called. One goroutine at a
// time may call it.
func (r *Reporter) SetLinks(links []link.Link) {
	select {
	case <-r.links:
	default:
	}
	r.links <- links
}

// Run writes, whenever the API server has something else than what is so,
// until ctx is done, and returns nil then. Without a Node there is no Speaker.
func (r *Reporter) Run(ctx context.Context) error {
	var want []v1alpha1.Interface
	var known, failing bool
	var last time.Time // write
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case links := <-r.links:
			want, known = interfaces(links), true
		case <-r.self.Changed():
		case <-due:
		}
		due = nil
		own, ok := r.self.Own()
		if !known || !ok || own.NodeUID == "" ||
			own.Speaker != nil && equality.Semantic.DeepEqual(own.Speaker.Status.Interfaces, want) {
			continue
		}
		interval := minInterval
		if own.Speaker != nil && !failing && flipped(own.Speaker.Status.Interfaces, want) {
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

// write makes the Speaker if there is none, and sets its interfaces.
func (r *Reporter) write(ctx context.Context, own source.Own, want []v1alpha1.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	obj := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: r.node}}
	if own.Speaker == nil {
		obj.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: r.node, UID: own.NodeUID}}
		if err := r.api.Create(ctx, obj); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create Speaker %s: %w", r.node, err)
		}
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"interfaces": want}})
	if err != nil {
		return fmt.Errorf("encode Speaker %s: %w", r.node, err)
	}
	if err := r.api.Status().Patch(ctx, obj, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("patch status of Speaker %s: %w", r.node, err)
	}
	return nil
}
