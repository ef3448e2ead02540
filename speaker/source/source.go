// SPDX-License-Identifier: Apache-2.0

// Package source turns what a speaker reads of the cluster into the terms of plan.
package source

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// lateInterval is between messages that the API server is awaited.
const lateInterval = 30 * time.Second

// Scheme returns the kinds that a speaker reads and writes.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register kinds: %w", err)
		}
	}
	return scheme, nil
}

// Mapper knows the kinds that a speaker reads and writes without asking the API
// server: a speaker must start while it is away.
func Mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	m.Add(corev1.SchemeGroupVersion.WithKind("Service"), meta.RESTScopeNamespace)
	m.Add(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	m.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	m.Add(v1alpha1.GroupVersion.WithKind("LoadBalancerIP"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("LoadBalancerIPPool"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("L2Advertisement"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("Speaker"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("BGPPeer"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("BGPAdvertisement"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("BFDProfile"), meta.RESTScopeRoot)
	return m
}

// CacheOptions keeps of each object only what states are made of.
func CacheOptions(config *rest.Config, scheme *runtime.Scheme) (cache.Options, error) {
	lister, err := newLister(config, scheme)
	if err != nil {
		return cache.Options{}, err
	}
	return cache.Options{
		Scheme:      scheme,
		Mapper:      Mapper(),
		NewInformer: lister.informer,
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Service{}:              {Transform: strip},
			&discoveryv1.EndpointSlice{}:   {Transform: strip},
			&corev1.Node{}:                 {Transform: strip},
			&v1alpha1.LoadBalancerIP{}:     {Transform: strip},
			&v1alpha1.LoadBalancerIPPool{}: {Transform: strip},
			&v1alpha1.L2Advertisement{}:    {Transform: strip},
			&v1alpha1.Speaker{}:            {Transform: strip},
			&v1alpha1.BGPPeer{}:            {Transform: strip},
			&v1alpha1.BGPAdvertisement{}:   {Transform: strip},
			&v1alpha1.BFDProfile{}:         {Transform: strip},
		},
	}, nil
}

// Source follows the cluster. Beside it only Self reads of it in a speaker.
type Source struct {
	log     logr.Logger
	cluster Cluster
	store   *store
	changed chan struct{}

	// read is called when everything was.
	read func()

	// file, if there is one, has the state for a start without the API server,
	// and before is what it had at the start, until the cluster itself is known.
	file    string
	before  *store
	unsaved chan struct{}
}

// Cluster is a cache of the cluster.
type Cluster interface {
	cache.Informers
	client.Reader
}

// New returns a Source on a cache made with CacheOptions, which the caller
// starts. With a file it keeps the state there; what the file has is the state
// until the API server was read completely. The caller runs the Secrets, of
// which no file ever has anything. When all but what is about BGP was read, read
// is called once.
func New(log logr.Logger, cluster Cluster, file string, secrets *Secrets, read func()) *Source {
	s := &Source{
		log: log, cluster: cluster, store: newStore(), changed: make(chan struct{}, 1), read: read,
		file: file, unsaved: make(chan struct{}, 1),
	}
	unread := func(st *store) {
		for _, name := range secrets.names {
			st.setPassword(name, kube.PasswordUnread(name, nil))
		}
	}
	unread(s.store)
	secrets.set = func(name string, p kube.Password) {
		if s.store.setPassword(name, p) {
			signal(s.changed)
		}
	}
	if file == "" {
		return s
	}
	before, err := load(file)
	switch {
	case err != nil:
		log.Error(err, "Waiting for the API server instead")
	case before != nil:
		unread(before)
		s.before = before
		s.notify()
	}
	return s
}

// Changed returns a channel that has a value after State changed, the first
// time when there is a State. One value may stand for many changes.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// State returns the cluster as it was last seen, or false if too little of it has
// been: what it is not told of then will be told in the first. When the API server
// goes away the last state stays. One goroutine may call it.
func (s *Source) State() (State, bool) {
	st, ok := s.store.state()
	switch {
	case s.before == nil:
		return st, ok
	case !ok || st.Partial:
		st, ok = s.before.state()
		st.Saved = true
		return st, ok
	}
	st = succeed(st, s.before)
	s.before = nil
	return st, true
}

// Run follows the cluster until ctx is done, and returns nil then.
func (s *Source) Run(ctx context.Context) error {
	err := s.run(ctx)
	if ctx.Err() != nil {
		return nil // informers that have stopped take no handlers
	}
	return err
}

func (s *Source) run(ctx context.Context) error {
	outline, err := follow(ctx, s.cluster, s.notify, []handler{
		{&corev1.Node{}, onObject(s.store.setNode)},
		{&corev1.Service{}, onObject(s.store.setService)},
		{&v1alpha1.LoadBalancerIPPool{}, onObject(s.store.setPool)},
		{&v1alpha1.L2Advertisement{}, onObject(s.store.setAdvertisement)},
	})
	if err != nil {
		return err
	}
	synced, err := follow(ctx, s.cluster, s.notify, []handler{
		{&v1alpha1.LoadBalancerIP{}, onObject(s.store.setIP)},
		{&discoveryv1.EndpointSlice{}, onObject(s.store.setSlice)},
	})
	if err != nil {
		return err
	}
	// What speakers tell is good to know, and nothing to wait for.
	if _, err := follow(ctx, s.cluster, s.notify, []handler{{&v1alpha1.Speaker{}, onObject(s.store.setSpeaker)}}); err != nil {
		return err
	}
	for _, step := range []struct {
		synced []toolscache.DoneChecker
		reach  progress
	}{{outline, outlined}, {synced, complete}} {
		if !s.wait(ctx, step.synced) {
			return nil
		}
		if step.reach == complete {
			s.read()
		}
		s.store.reach(step.reach)
		s.notify()
	}
	// Nothing of layer 2 waits for BGP. BGP waits for all of this: an address whose
	// advertisement wasn't read yet would go to peers that it must not go to.
	bgp, err := follow(ctx, s.cluster, s.notify, []handler{
		{&v1alpha1.BGPPeer{}, onObject(s.store.setPeer)},
		{&v1alpha1.BGPAdvertisement{}, onObject(s.store.setBGPAdvertisement)},
		{&v1alpha1.BFDProfile{}, onObject(s.store.setProfile)},
	})
	if err != nil {
		return err
	}
	var rest sync.WaitGroup
	defer rest.Wait()
	rest.Go(func() {
		if s.wait(ctx, bgp) {
			s.store.completeBGP()
			s.notify()
		}
	})
	if s.file != "" {
		s.keep(ctx)
	}
	<-ctx.Done()
	return nil
}

// wait reports whether everything was seen before ctx was done. The informers
// say nothing when the API server can't be reached.
func (s *Source) wait(ctx context.Context, synced []toolscache.DoneChecker) bool {
	late := time.NewTicker(lateInterval)
	defer late.Stop()
	for _, c := range synced {
		for done := false; !done; {
			select {
			case <-ctx.Done():
				return false
			case <-c.Done():
				done = true
			case <-late.C:
				s.log.Info("Waiting for the API server: nothing that needs this is announced before it was read completely", "missing", c.Name())
			}
		}
	}
	return true
}

func (s *Source) notify() {
	signal(s.changed)
	signal(s.unsaved)
}

// signal leaves a value in a channel that has room for one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// handler takes the objects of a kind, and reports whether they make a
// difference.
type handler struct {
	object client.Object
	set    func(old, obj any) bool
}

// follow calls notify after each event that makes a difference. What it
// returns is done when all objects that exist were handled.
func follow(ctx context.Context, informers cache.Informers, notify func(), handlers []handler) ([]toolscache.DoneChecker, error) {
	var synced []toolscache.DoneChecker
	for _, h := range handlers {
		informer, err := informers.GetInformer(ctx, h.object, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", h.object, err)
		}
		handle := func(old, obj any) {
			if h.set(old, obj) {
				notify()
			}
		}
		registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { handle(nil, obj) },
			UpdateFunc: handle,
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				handle(obj, nil)
			},
		})
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", h.object, err)
		}
		synced = append(synced, registration.HasSyncedChecker())
	}
	return synced, nil
}

// onObject gives a setter its type. An object that isn't there is nil.
func onObject[T any](set func(old, obj *T) bool) func(old, obj any) bool {
	return func(old, obj any) bool {
		o, _ := old.(*T)
		n, _ := obj.(*T)
		return (o != nil || n != nil) && set(o, n)
	}
}
