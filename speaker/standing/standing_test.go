// SPDX-License-Identifier: Apache-2.0

package standing

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var nodes = schema.GroupResource{Resource: "nodes"}

// server answers every question alike.
type server struct {
	mu    sync.Mutex
	err   error
	pod   corev1.Pod
	asked int
}

// answer makes err the answer from now on, and returns how often it was asked.
func (s *server) answer(err error) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	return s.asked
}

func (s *server) Get(_ context.Context, _ client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if pod, ok := obj.(*corev1.Pod); ok && s.err == nil {
		*pod = s.pod
	}
	return s.err
}

func (s *server) List(context.Context, client.ObjectList, ...client.ListOption) error {
	panic("nobody lists")
}

// run starts a Standing and returns what it told, to be read after
// synctest.Wait.
func run(t *testing.T, api *server) (*Standing, *[]bool) {
	told := &[]bool{}
	s := New(logr.Discard(), api, "a", types.NamespacedName{}, func(refused bool) { *told = append(*told, refused) })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); synctest.Wait() })
	go s.Run(ctx)
	return s, told
}

func wantTold(t *testing.T, told *[]bool, want ...bool) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(*told, want) {
		t.Errorf("told %v, want %v", *told, want)
	}
}

func TestWithoutDoubtNobodyIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &server{err: apierrors.NewUnauthorized("no")}
		_, told := run(t, api)
		time.Sleep(time.Hour)
		wantTold(t, told)
		if n := api.answer(nil); n != 0 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestBeingToldNoIsNotTheSameAsNoAnswer(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want []bool
	}{
		"the token is refused":        {apierrors.NewUnauthorized("no"), []bool{true}},
		"the request is forbidden":    {apierrors.NewForbidden(nodes, "a", errors.New("no")), []bool{true}},
		"the Node is gone":            {apierrors.NewNotFound(nodes, "a"), []bool{true}},
		"the server can't be reached": {errors.New("connection refused"), nil},
		"the server is overloaded":    {apierrors.NewTooManyRequests("later", 1), nil},
		"all is well":                 {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, told := run(t, &server{err: tt.err})
				s.Doubt()
				time.Sleep(time.Minute)
				wantTold(t, told, tt.want...)
			})
		})
	}
}

func TestASingleNoIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &server{err: apierrors.NewForbidden(nodes, "a", errors.New("no"))}
		s, told := run(t, api)
		s.Doubt()
		synctest.Wait()
		api.answer(nil)
		time.Sleep(time.Minute)
		wantTold(t, told)
	})
}

func TestWhoeverIsRefusedGoesOnAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &server{err: apierrors.NewUnauthorized("no")}
		s, told := run(t, api)
		s.Doubt()
		time.Sleep(time.Hour)
		wantTold(t, told, true)
		api.answer(errors.New("connection refused"))
		time.Sleep(time.Hour)
		wantTold(t, told, true)
		api.answer(nil)
		time.Sleep(askInterval)
		wantTold(t, told, true, false)
		asked := api.answer(nil)
		time.Sleep(time.Hour)
		if n := api.answer(nil) - asked; n != 0 {
			t.Errorf("asked %d times without doubt", n)
		}
	})
}

func TestOnlyAPodThatIsDeletedRestarts(t *testing.T) {
	deleted := metav1.Now()
	pod := types.NamespacedName{Namespace: "system", Name: "speaker"}
	for name, tt := range map[string]struct {
		api      *server
		pod      types.NamespacedName
		draining bool
		want     bool
	}{
		"its Pod is being deleted":                 {api: &server{pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &deleted}}}, pod: pod, want: true},
		"the node is being drained":                {api: &server{pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &deleted}}}, pod: pod, draining: true},
		"its Pod stays: the node is shutting down": {api: &server{}, pod: pod},
		"it runs in no Pod":                        {api: &server{pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &deleted}}}},
		"the server can't be reached":              {api: &server{err: errors.New("connection refused")}, pod: pod},
	} {
		s := New(logr.Discard(), tt.api, "a", tt.pod, nil)
		if got := s.Restarting(t.Context(), tt.draining); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
