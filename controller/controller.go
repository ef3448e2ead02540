// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// Options of a Controller.
type Options struct {
	Classes Classes
	// Workers is how many Services, and how many addresses, are worked on at
	// once. Most of a worker's time is spent waiting for the API server.
	Workers int
	// Cloud leaves Services to another program, which asks what
	// [Controller.LoadBalancer] returns.
	Cloud bool
	// Peers are the other load balancers whose annotations are understood, too.
	Peers []Peer
}

// poolStatusDelay gathers the changes that a burst of Services makes to a
// pool's counts into one write.
const poolStatusDelay = time.Second

// fillPage is how many objects are read at once beside the caches, which have
// them all.
const fillPage = 500

// Controller allocates addresses, shows them in Services, and proposes owners.
// Any number may run: the API server keeps them from giving an address twice.
// With leader election one runs and the others have warm caches.
type Controller struct {
	client client.Client
	live   client.Reader
	cache  cache.Cache
	opts   Options
	words  vocabulary
	now    func() time.Time

	ledger *ledger
	pools  *pools
	// started is when it began to lead. One goroutine at a time reads the
	// terrain, and the nodes for avoided, which is what the ledger was told last.
	started time.Time
	terrain atomic.Pointer[terrain]
	// sessions are read by the same goroutine.
	sessions atomic.Pointer[sessions]
	avoided  avoidance
	teller   *teller
	// atWork counts the Services that are being worked on.
	atWork atomic.Int32
	// warm says that the caches are filled, and filled that the ledger is.
	warm, filled atomic.Bool
	elected      <-chan struct{}

	services   queue
	addresses  queue
	poolStatus queue
	config     queue
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Keys of the config queue.
const (
	poolsChanged  = "pools"
	nodesChanged  = "nodes" // or what advertisements make of them
	peersChanged  = "peers" // or their sessions
	somethingFree = "free addresses"
)

// Add registers a Controller with the manager, which runs it once it leads.
func Add(ctx context.Context, mgr manager.Manager, opts Options) (*Controller, error) {
	if err := mgr.GetFieldIndexer().IndexField(ctx, &discoveryv1.EndpointSlice{}, endpointsByService, indexEndpointsByService); err != nil {
		return nil, fmt.Errorf("index EndpointSlices: %w", err)
	}
	c := &Controller{
		client:     client.WithFieldOwner(mgr.GetClient(), fieldOwner),
		live:       mgr.GetAPIReader(),
		cache:      mgr.GetCache(),
		opts:       opts,
		elected:    mgr.Elected(),
		words:      understanding(opts.Peers),
		now:        time.Now,
		ledger:     newLedger(),
		pools:      &pools{},
		services:   newQueue("services"),
		addresses:  newQueue("addresses"),
		poolStatus: newQueue("pool-status"),
		config:     newQueue("config"),
	}
	c.teller = newTeller(mgr.GetEventRecorder("fairlead-controller"), func() bool { return c.atWork.Load() > 0 })
	// Warm the caches before the lease is won.
	for _, obj := range watched() {
		if _, err := mgr.GetCache().GetInformer(ctx, obj); err != nil {
			return nil, fmt.Errorf("watch %T: %w", obj, err)
		}
	}
	if err := registerMetrics(c); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if err := mgr.Add(onceWarm(func() { c.warm.Store(true) })); err != nil {
		return nil, err
	}
	return c, mgr.Add(c)
}

// onceWarm is called by the manager when the caches are filled, whoever leads.
type onceWarm func()

func (f onceWarm) Start(context.Context) error {
	f()
	return nil
}

func (onceWarm) NeedLeaderElection() bool { return false }

// Ready is a readiness check: it fails until the caches are filled and, on the
// leader, until everything that is held has been read.
func (c *Controller) Ready(*http.Request) error {
	switch {
	case !c.warm.Load():
		return errors.New("the caches are being filled")
	case c.filled.Load():
		return nil
	}
	select {
	case <-c.elected:
		return errors.New("what is held is being read")
	default:
		return nil
	}
}

func watched() []client.Object {
	return []client.Object{
		&corev1.Service{}, &corev1.Namespace{}, &corev1.Node{}, &discoveryv1.EndpointSlice{},
		&v1alpha1.LoadBalancerIPPool{}, &v1alpha1.LoadBalancerIP{}, &v1alpha1.Speaker{}, &v1alpha1.L2Advertisement{},
		&v1alpha1.BGPAdvertisement{}, &v1alpha1.BGPPeer{}, &v1alpha1.BFDProfile{},
	}
}

func newQueue(name string) queue {
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](5*time.Millisecond, 30*time.Second),
		workqueue.TypedRateLimitingQueueConfig[reconcile.Request]{Name: name})
}

func request(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: name}}
}

// Start runs until ctx ends. The manager calls it once, after the lease is won
// and the caches are filled.
func (c *Controller) Start(ctx context.Context) error {
	if err := c.fill(ctx); err != nil {
		return fmt.Errorf("read what is held: %w", err)
	}
	c.filled.Store(true)
	stop, err := c.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := c.catchUp(ctx); err != nil {
		return fmt.Errorf("read what is no longer held: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.teller.run(ctx) })
	for _, r := range []struct {
		name    string
		queue   queue
		workers int
		do      reconcile.Func
	}{
		{"services", c.services, c.opts.Workers, c.reconcileService},
		{"addresses", c.addresses, c.opts.Workers, c.reconcileAddress},
		{"pool-status", c.poolStatus, 1, c.reconcilePoolStatus},
		{"config", c.config, 1, c.reconcileConfig},
	} {
		run, err := controller.NewUnmanaged(r.name, controller.Options{
			Reconciler:              r.do,
			MaxConcurrentReconciles: r.workers,
			NewQueue: func(string, workqueue.TypedRateLimiter[reconcile.Request]) workqueue.TypedRateLimitingInterface[reconcile.Request] {
				return r.queue
			},
		})
		if err != nil {
			return fmt.Errorf("controller %s: %w", r.name, err)
		}
		g.Go(func() error { return run.Start(ctx) })
	}
	return g.Wait()
}

// NeedLeaderElection makes the manager start a Controller on the leader only.
func (c *Controller) NeedLeaderElection() bool { return true }

// fill reads everything that is held, and what Services show, from the API
// server itself. The cache may be behind what the last leader wrote.
func (c *Controller) fill(ctx context.Context) error {
	if _, err := c.readPools(ctx); err != nil {
		return err
	}
	c.started = c.now()
	if _, _, err := c.readTerrain(ctx); err != nil {
		return err
	}
	if _, err := c.readSessions(ctx); err != nil {
		return err
	}
	if _, err := c.readAvoided(ctx); err != nil {
		return err
	}
	for token, more := "", true; more; more = token != "" {
		var ips v1alpha1.LoadBalancerIPList
		if err := c.live.List(ctx, &ips, client.Limit(fillPage), client.Continue(token)); err != nil {
			return err
		}
		for i := range ips.Items {
			ips.Items[i].ManagedFields = nil
			c.ledger.observe(&ips.Items[i])
			// What belongs to Services that went while nobody looked has no event.
			c.enqueueServices(&ips.Items[i])
		}
		token = ips.Continue
	}
	for token, more := "", true; more; more = token != "" {
		var svcs corev1.ServiceList
		if err := c.live.List(ctx, &svcs, client.Limit(fillPage), client.Continue(token)); err != nil {
			return err
		}
		for i := range svcs.Items {
			svc := &svcs.Items[i]
			held := c.ledger.held(client.ObjectKeyFromObject(svc))
			served := c.opts.Classes.Serves(svc) && svc.DeletionTimestamp == nil
			c.ledger.describe(svc, c.words.holder(svc), c.foreignAddresses(svc, held, served))
			if served && allocatedByUs(svc) {
				addrs, _ := shown(svc)
				for _, addr := range addrs {
					c.ledger.remember(svc, c.words.read(svc).request, addr)
				}
			}
			// One that goes before the watch is followed has no event either.
			c.services.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(svc)})
		}
		token = svcs.Continue
	}
	c.ledger.acceptPast()
	return nil
}

// catchUp drops what went after fill had read it and before the watch was
// followed: nothing tells of that.
func (c *Controller) catchUp(ctx context.Context) error {
	missed := c.addressEvents().DeleteFunc
	for _, addr := range c.ledger.known() {
		obj := c.ledger.object(addr)
		if obj == nil {
			continue // an event was faster
		}
		key := client.ObjectKeyFromObject(obj)
		err := c.client.Get(ctx, key, &v1alpha1.LoadBalancerIP{})
		if apierrors.IsNotFound(err) { // or the cache is behind
			err = c.live.Get(ctx, key, &v1alpha1.LoadBalancerIP{})
		}
		if apierrors.IsNotFound(err) {
			missed(obj)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// reconcileConfig takes changes of what all Services depend on.
func (c *Controller) reconcileConfig(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	switch req.Name {
	case poolsChanged:
		return reconcile.Result{}, c.reconcilePools(ctx)
	case nodesChanged:
		return reconcile.Result{}, c.reconcileNodes(ctx)
	case peersChanged:
		return reconcile.Result{}, c.reconcilePeers(ctx)
	case somethingFree:
		c.wakeLongest()
	}
	return reconcile.Result{}, nil
}

// reconcileNodes takes a change of any node, of its network, or of an
// advertisement.
func (c *Controller) reconcileNodes(ctx context.Context) error {
	changed, rescoped, err := c.readTerrain(ctx)
	if err != nil {
		return err
	}
	if changed {
		all := c.ledger.known()
		c.enqueueAddresses(all)
		c.enqueueHolders(all, rescoped)
	}
	return errors.Join(c.reconcileAvoided(ctx), c.tellAdvertisements(ctx), c.tellBGPAdvertisements(ctx), c.reconcilePeers(ctx))
}

// namespaceLabels returns the labels that namespaceSelectors look at.
func (c *Controller) namespaceLabels(ctx context.Context, name string) labels.Set {
	var ns corev1.Namespace
	if err := c.client.Get(ctx, client.ObjectKey{Name: name}, &ns); err != nil {
		return nil // its event wakes the Services in it
	}
	return ns.Labels
}
