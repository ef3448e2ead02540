// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/plan/kube"
)

// Secrets follows the Secrets that passwords of BGP sessions are in, each by
// itself: a speaker may read these and no others. One that can't be read holds
// up nothing else.
type Secrets struct {
	namespace string
	names     []string
	watch     func(name string) toolscache.ListerWatcher
	set       func(name string, p kube.Password)
}

// NewSecrets returns Secrets of one namespace. watch lists and watches one by
// its name.
func NewSecrets(namespace string, names []string, watch func(name string) toolscache.ListerWatcher) *Secrets {
	return &Secrets{namespace: namespace, names: names, watch: watch, set: func(string, kube.Password) {}}
}

// Run follows the Secrets until ctx is done, and returns nil then.
func (s *Secrets) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for _, name := range s.names {
		w := &watchedSecret{name: name, set: s.set}
		informer := toolscache.NewSharedInformer(s.watch(name), &corev1.Secret{}, 0)
		missing := kube.PasswordMissing(name, s.namespace)
		registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    w.read,
			UpdateFunc: func(_, obj any) { w.read(obj) },
			DeleteFunc: func(any) { w.tell(missing) },
		})
		if err == nil {
			err = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *toolscache.Reflector, err error) {
				w.failed(err)
			})
		}
		if err != nil {
			return fmt.Errorf("watch Secret %s: %w", name, err)
		}
		all.Go(func() { informer.RunWithContext(ctx) })
		all.Go(func() {
			select {
			case <-ctx.Done():
			case <-registration.HasSyncedChecker().Done():
				w.tellFirst(missing)
			}
		})
	}
	<-ctx.Done()
	return nil
}

// watchedSecret tells of one Secret. The informer's calls come from several
// goroutines.
type watchedSecret struct {
	name string
	set  func(name string, p kube.Password)

	mu sync.Mutex
	// known says that the API server has said what there is. It stays true while
	// it says nothing.
	known bool
}

func (w *watchedSecret) read(obj any) {
	if secret, ok := obj.(*corev1.Secret); ok {
		w.tell(kube.ReadPassword(w.name, string(secret.Type), secret.Data))
	}
}

func (w *watchedSecret) tell(p kube.Password) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known = true
	w.set(w.name, p)
}

func (w *watchedSecret) tellFirst(p kube.Password) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known {
		w.known = true
		w.set(w.name, p)
	}
}

func (w *watchedSecret) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known {
		w.set(w.name, kube.PasswordUnread(w.name, err))
	}
}
