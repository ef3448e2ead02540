// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

var (
	vip  = netip.MustParseAddr("192.0.2.50")
	eth0 = link.Link{
		Index: 2, Name: "eth0", MAC: link.MAC{2, 0, 0, 0, 0, 1}, Up: true, ARP: true,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
	}
)

// world is a cluster: an API server, the nodes' speakers, and their caches,
// which follow the API server when told to.
type world struct {
	t        *testing.T
	api      client.WithWatch
	refuse   func() error  // what writes fail with, or nil
	latency  time.Duration // of each write
	nodes    map[string]plan.Node
	speakers []*speaker

	mu    sync.Mutex
	tries []time.Duration // of writes
	start time.Time
}

// speaker is one node's Agent with its fakes.
type speaker struct {
	*Agent
	world   *world
	changed chan struct{}
	stop    context.CancelFunc
	ended   chan error

	mu      sync.Mutex
	state   *source.State
	desired map[netip.Addr]l2.Want
	sets    int
	logged  []string
	broken  error // what interfaces fail with
	closed  bool
}

// bubble runs a test in a world with the nodes a, b and c.
func bubble(t *testing.T, test func(t *testing.T, w *world), addrs ...*v1alpha1.LoadBalancerIP) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		scheme, err := source.Scheme()
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, nodes: map[string]plan.Node{}, refuse: func() error { return nil }, start: time.Now()}
		b := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.LoadBalancerIP{})
		for _, a := range addrs {
			b.WithObjects(a.DeepCopy())
		}
		w.api = b.WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: w.patch}).Build()
		for _, n := range []string{"a", "b", "c"} {
			w.nodes[n] = plan.Node{Name: n, Alive: true, Ready: true}
		}
		test(t, w)
		for _, s := range w.speakers {
			s.stop()
			if err := <-s.ended; err != nil {
				t.Errorf("%s ended with %v", s.node, err)
			}
			if !s.closed {
				t.Errorf("%s left its announcements", s.node)
			}
		}
	})
}

func (w *world) patch(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
	time.Sleep(w.latency)
	w.mu.Lock()
	w.tries = append(w.tries, time.Since(w.start))
	err := w.refuse()
	w.mu.Unlock()
	if err != nil {
		return err
	}
	return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
}

// run starts the speaker of a node. It has its interfaces, but no state before
// sync.
func (w *world) run(node string) *speaker {
	s := w.runWithoutLinks(node)
	s.SetLinks([]link.Link{eth0})
	return s
}

func (w *world) runWithoutLinks(node string) *speaker {
	s := &speaker{world: w, changed: make(chan struct{}, 1), ended: make(chan error, 1)}
	log := funcr.New(func(_, args string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.logged = append(s.logged, args)
	}, funcr.Options{})
	s.Agent = New(log, node, s, s, NewRecorder(logr.Discard(), prometheus.NewRegistry(), w.api))
	ctx, cancel := context.WithCancel(w.t.Context())
	s.stop = cancel
	go func() { s.ended <- s.Run(ctx) }()
	w.speakers = append(w.speakers, s)
	return s
}

// sync lets a speaker's cache see the API server as it is.
func (s *speaker) sync() {
	var list v1alpha1.LoadBalancerIPList
	if err := s.world.api.List(context.Background(), &list); err != nil {
		s.world.t.Fatal(err)
	}
	st := source.State{Nodes: slices.Collect(maps.Values(s.world.nodes)), Addresses: map[netip.Addr]source.Address{}}
	for _, p := range list.Items {
		a := plan.Address{Addr: netip.MustParseAddr(p.Spec.Address), Proposed: p.Spec.Owner, Services: []plan.Service{{Name: "web"}}}
		if c := p.Status.L2; c != nil {
			a.Claim = plan.Claim{Node: c.Node, Term: c.Term}
		}
		st.Addresses[a.Addr] = source.Address{Address: a, Record: source.Record{Name: p.Name, ResourceVersion: p.ResourceVersion, Claim: p.Status.L2}}
	}
	s.mu.Lock()
	s.state = &st
	s.mu.Unlock()
	s.poke()
}

func (s *speaker) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// settle syncs all caches until nothing happens any more.
func (w *world) settle() {
	for range 5 {
		for _, s := range w.speakers {
			s.sync()
		}
		time.Sleep(time.Second)
	}
}

func (s *speaker) Changed() <-chan struct{} { return s.changed }

func (s *speaker) State() (source.State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil {
		return source.State{}, false
	}
	return *s.state, true
}

func (s *speaker) Set(_ []link.Link, desired map[netip.Addr]l2.Want) map[l2.Place]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desired = desired
	s.sets++
	if s.broken != nil {
		return map[l2.Place]error{{Interface: "eth0", Family: l2.IPv4}: s.broken}
	}
	return nil
}

func (s *speaker) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *speaker) setCount() int {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sets
}

// answers tells whether the node answers for the address now.
func (s *speaker) answers(addr netip.Addr) bool {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.desired[addr]
	return ok
}

func (s *speaker) wantAnswers(want bool) {
	s.world.t.Helper()
	if s.answers(vip) != want {
		s.world.t.Errorf("after %v node %s answers: %v", time.Since(s.world.start), s.node, !want)
	}
}

func (w *world) claim() *v1alpha1.L2Claim {
	w.t.Helper()
	synctest.Wait()
	var p v1alpha1.LoadBalancerIP
	if err := w.api.Get(context.Background(), client.ObjectKey{Name: vip.String()}, &p); err != nil {
		w.t.Fatal(err)
	}
	return p.Status.L2
}

func (w *world) wantClaim(node string, term int64) {
	w.t.Helper()
	c := w.claim()
	if node == "" && c == nil {
		return
	}
	if c == nil || c.Node != node || c.Term != term {
		w.t.Errorf("after %v the claim is %+v, want %s %d", time.Since(w.start), c, node, term)
	}
}

func (w *world) wantTries(n int) {
	w.t.Helper()
	if w.tryCount() != n {
		w.t.Errorf("%d writes, want %d: at %v", len(w.tries), n, w.tries)
	}
}

func (w *world) tryCount() int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.tries)
}

func (w *world) propose(node string) {
	w.t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"owner":%q}}`, node)
	obj := &v1alpha1.LoadBalancerIP{ObjectMeta: metav1.ObjectMeta{Name: vip.String()}}
	if err := w.api.Patch(context.Background(), obj, client.RawPatch(types.MergePatchType, patch)); err != nil {
		w.t.Fatal(err)
	}
}

// lose makes a node NotReady, or gone.
func (w *world) lose(node string, gone bool) {
	delete(w.nodes, node)
	if !gone {
		w.nodes[node] = plan.Node{Name: node}
	}
}

func address(addr, owner string, claim *v1alpha1.L2Claim) *v1alpha1.LoadBalancerIP {
	p := &v1alpha1.LoadBalancerIP{ObjectMeta: metav1.ObjectMeta{Name: addr}}
	p.Spec = v1alpha1.LoadBalancerIPSpec{Address: addr, Owner: owner}
	p.Status.L2 = claim
	return p
}

func proposed(owner string) *v1alpha1.LoadBalancerIP { return address(vip.String(), owner, nil) }

func claimedBy(node string, term int64) *v1alpha1.LoadBalancerIP {
	return address(vip.String(), node, &v1alpha1.L2Claim{
		Node: node, Interface: "eth0", MAC: eth0.MAC.String(), Term: term,
		Since: metav1.NewTime(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)),
	})
}
