// SPDX-License-Identifier: Apache-2.0

// Package standing tells how a speaker stands with its API server: whether it is still wanted, and whether its end is a restart.
package standing

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/internal/due"
)

const (
	// askInterval is between questions while there is doubt.
	askInterval = 2 * time.Second
	// askTimeout ends a question that hangs.
	askTimeout = 5 * time.Second
	// confirmations are how many answers in a row say no before it is believed:
	// RBAC rules are missing for a moment while a chart is upgraded.
	confirmations = 2
)

// Standing asks the API server, only when something gives it reason to.
type Standing struct {
	log  logr.Logger
	api  client.Reader
	node string
	pod  types.NamespacedName

	doubt chan struct{}

	refused bool // as Run has told last
	changed func(refused bool)
}

// New returns a Standing for the speaker of a node; api must read from the API
// server itself. The pod is empty for a speaker that runs in none. It calls
// changed from Run, when the speaker is told no and when it isn't any more.
func New(log logr.Logger, api client.Reader, node string, pod types.NamespacedName, changed func(refused bool)) *Standing {
	return &Standing{log: log, api: api, node: node, pod: pod, doubt: make(chan struct{}, 1), changed: changed}
}

// Doubt says that there is reason to ask: the node's object is gone, or a
// request was refused. It doesn't wait.
func (s *Standing) Doubt() {
	select {
	case s.doubt <- struct{}{}:
	default:
	}
}

// WatchError takes the errors of informers; it fits
// cache.Options.DefaultWatchErrorHandler.
func (s *Standing) WatchError(ctx context.Context, r *toolscache.Reflector, err error) {
	if isNo(err) {
		s.Doubt()
	}
	toolscache.DefaultWatchErrorHandler(ctx, r, err)
}

// isNo tells an answer that says no from no answer.
func isNo(err error) bool { return apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) }

// Run asks when there is doubt, until ctx is done, and returns nil then. A
// speaker that is refused goes on asking until it isn't. An API server that
// can't be reached changes nothing.
func (s *Standing) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.doubt:
		}
		for no := 0; ; {
			err := s.ask(ctx)
			switch {
			case err == nil:
				no = 0
			case isNo(err) || apierrors.IsNotFound(err):
				no++
			}
			if no == 0 && err == nil {
				s.set(false, nil)
				break
			}
			if no >= confirmations {
				s.set(true, err)
			}
			if !due.Wait(ctx, askInterval) {
				return nil
			}
		}
	}
}

// ask returns why the speaker may not work for its node, or why that is not
// known.
func (s *Standing) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return s.api.Get(ctx, client.ObjectKey{Name: s.node}, &corev1.Node{})
}

func (s *Standing) set(refused bool, why error) {
	was := s.refused
	s.refused = refused
	switch {
	case refused == was:
		return
	case refused:
		s.log.Info("The API server says no: handing the addresses over, and answering until others do", "reason", why.Error())
	default:
		s.log.Info("The API server takes this speaker again")
	}
	s.changed(refused)
}

// Restarting tells whether the end of this process is known to be a restart of
// the speaker: its Pod is being deleted, as a rollout does, while the node
// stays. Whoever can't ask within ctx doesn't know, and says false. draining
// says that the node is being emptied.
//
// A kubelet that shuts its node down ends Pods without deleting them.
func (s *Standing) Restarting(ctx context.Context, draining bool) bool {
	if draining || s.pod.Name == "" {
		return false
	}
	var pod corev1.Pod
	if err := s.api.Get(ctx, s.pod, &pod); err != nil {
		s.log.Info("Can't tell whether this is a restart: handing the addresses over", "reason", err.Error())
		return false
	}
	return pod.DeletionTimestamp != nil
}
