// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
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
	desired map[netip.Addr][]string
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
	st := source.State{Records: map[netip.Addr]source.Record{}}
	st.Snapshot.Nodes = slices.Collect(maps.Values(s.world.nodes))
	for _, p := range list.Items {
		a := plan.Address{Addr: netip.MustParseAddr(p.Spec.Address), Proposed: p.Spec.Owner, Services: []plan.Service{{Name: "web"}}}
		if c := p.Status.L2; c != nil {
			a.Claim = plan.Claim{Node: c.Node, Term: c.Term}
		}
		st.Snapshot.Addresses = append(st.Snapshot.Addresses, a)
		st.Records[a.Addr] = source.Record{Name: p.Name, ResourceVersion: p.ResourceVersion, Claim: p.Status.L2}
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

func (s *speaker) Set(_ []link.Link, desired map[netip.Addr][]string) map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desired = desired
	s.sets++
	if s.broken != nil {
		return map[string]error{"eth0": s.broken}
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
	return s.desired[addr] != nil
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

func TestTheProposedNodeAnswersAndClaims(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.run("a"), w.run("b")
		w.settle()
		a.wantAnswers(true)
		b.wantAnswers(false)
		want := &v1alpha1.L2Claim{Node: "a", Interface: "eth0", MAC: "02:00:00:00:00:01", Term: 1, Since: metav1.NewTime(w.start)}
		if diff := cmp.Diff(want, w.claim()); diff != "" {
			t.Errorf("claim (-want +got):\n%s", diff)
		}
		w.wantTries(1)
	}, proposed("a"))
}

func TestNothingIsAnnouncedBeforeClusterAndLinksAreKnown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := w.runWithoutLinks("a")
		s.poke()
		synctest.Wait()
		s.sync()
		synctest.Wait()
		if n := s.setCount(); n != 0 || s.Ready() {
			t.Errorf("set %d times, ready is %v", n, s.Ready())
		}
		s.SetLinks([]link.Link{eth0})
		s.wantAnswers(true)
		if !s.Ready() {
			t.Error("not ready")
		}
	}, proposed("a"))
}

func TestARestartWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		a.wantAnswers(true)
		w.wantClaim("a", 7)
		w.wantTries(0)
	}, claimedBy("a", 7))
}

func TestAChangedMACIsRecordedUnderTheSameTerm(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		before := w.claim()
		changed := eth0
		changed.MAC[5] = 9
		a.SetLinks([]link.Link{changed})
		w.settle()
		want := before.DeepCopy()
		want.MAC = "02:00:00:00:00:09"
		if diff := cmp.Diff(want, w.claim()); diff != "" {
			t.Errorf("claim (-want +got):\n%s", diff)
		}
		w.wantTries(1)
	}, claimedBy("a", 7))
}

// A cache that lags behind the own write must not make another one.
func TestALaggingCacheMakesNoSecondWrite(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		a.sync()
		for range 100 {
			time.Sleep(time.Second)
			a.poke()
		}
		w.wantClaim("a", 1)
		w.wantTries(1)
	}, proposed("a"))
}

func TestABurstIsTakenTogether(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		a.sync()
		synctest.Wait()
		before := a.setCount()
		for range 1000 {
			a.poke()
			time.Sleep(time.Millisecond)
		}
		if n := a.setCount() - before; n < 15 || n > 21 {
			t.Errorf("set %d times in a second", n)
		}
	}, proposed("a"))
}

func TestAnAnnouncementDoesNotWaitForTheAPIServer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.refuse = func() error { return errors.New("connection refused") }
		a := w.run("a")
		a.sync()
		a.wantAnswers(true)
		time.Sleep(10 * time.Minute)
		a.wantAnswers(true)
		w.wantClaim("", 0)
		w.mu.Lock()
		w.refuse = func() error { return nil }
		w.mu.Unlock()
		time.Sleep(maxBackoff)
		w.wantClaim("a", 1)
		if since := w.claim().Since; !since.Equal(&metav1.Time{Time: w.start}) {
			t.Errorf("it began to answer at %v, recorded is %v", w.start, since)
		}
	}, proposed("a"))
}

func TestABusyClusterDoesNotUndoTheBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.refuse = func() error {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "loadbalancerips"}, vip.String(), errors.New("no"))
		}
		a := w.run("a")
		for range 600 {
			a.sync()
			time.Sleep(100 * time.Millisecond)
		}
		if n := w.tryCount(); n < 5 || n > 15 {
			t.Errorf("%d tries in a minute", n)
		}
	}, proposed("a"))
}

func TestAClaimDecidedOnAnOldObjectIsNotRecorded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.latency = time.Second
		a := w.run("a")
		a.sync()
		synctest.Wait()
		w.propose("b") // while a's write is on its way
		time.Sleep(time.Minute)
		w.wantClaim("", 0)
		w.wantTries(1)
		a.wantAnswers(true) // it knows no better
		b := w.run("b")
		w.settle()
		a.wantAnswers(false)
		b.wantAnswers(true)
		w.wantClaim("b", 1)
	}, proposed("a"))
}

func TestAQueuedWriteIsDroppedWhenAHigherTermIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.refuse = func() error { return errors.New("connection refused") }
		a := w.run("a")
		a.sync()
		time.Sleep(time.Second)
		tries := w.tryCount()
		if err := w.api.Status().Update(context.Background(), func() client.Object {
			var p v1alpha1.LoadBalancerIP
			if err := w.api.Get(context.Background(), client.ObjectKey{Name: vip.String()}, &p); err != nil {
				t.Fatal(err)
			}
			p.Status.L2 = &v1alpha1.L2Claim{Node: "b", Term: 5, Since: metav1.Now()}
			return &p
		}()); err != nil {
			t.Fatal(err)
		}
		a.sync()
		time.Sleep(time.Hour)
		a.wantAnswers(false)
		w.wantTries(tries)
	}, proposed("a"))
}

func TestAnOwnerHandsOverWhenItsSuccessorHasClaimed(t *testing.T) {
	for name, gone := range map[string]bool{"it is not Ready": false, "its Node is gone": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a, b := w.run("a"), w.run("b")
				w.settle()
				w.lose("a", gone)
				w.settle()
				a.wantAnswers(true) // nobody else does
				b.wantAnswers(false)
				w.propose("b")
				a.sync()
				a.wantAnswers(true)
				b.sync()
				b.wantAnswers(true)
				w.wantClaim("b", 8)
				a.wantAnswers(true) // it has not heard of it yet
				a.sync()
				time.Sleep(time.Second)
				a.wantAnswers(false)
				w.nodes["a"] = plan.Node{Name: "a", Alive: true, Ready: true}
				w.settle()
				a.wantAnswers(false) // nothing fails back
				b.wantAnswers(true)
				w.wantClaim("b", 8)
				w.wantTries(1)
			}, claimedBy("a", 7))
		})
	}
}

func TestAnInterfaceThatFailsIsNoClaim(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		a.mu.Lock()
		a.broken = errors.New("operation not permitted")
		a.mu.Unlock()
		a.sync()
		time.Sleep(time.Minute)
		w.wantClaim("", 0)
		a.mu.Lock()
		a.broken = nil
		a.mu.Unlock()
		time.Sleep(retryInterval)
		w.wantClaim("a", 1)
		if since := w.claim().Since; since.Sub(w.start) < time.Minute {
			t.Errorf("it claims to answer since %v", since)
		}
	}, proposed("a"))
}

// An address that is silent because of this node must say so, in one line for
// all, once.
func TestWhatCantBeAnnouncedIsLogged(t *testing.T) {
	addrs, wide := manyProposed(5)
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a") // on another network
		w.settle()
		a.SetLinks([]link.Link{wide})
		w.settle()
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.logged) != 2 || !strings.Contains(a.logged[0], `"reason"="NoLinkOnSubnet" "addresses"=5`) ||
			!strings.Contains(a.logged[1], `"added"=5`) {
			t.Errorf("logged %q", a.logged)
		}
	}, addrs...)
}

func TestALinkThatGoesDownTakesTheAnnouncementWithIt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		down := eth0
		down.Up = false
		a.SetLinks([]link.Link{down})
		a.wantAnswers(false)
		a.SetLinks([]link.Link{eth0})
		time.Sleep(minInterval)
		a.wantAnswers(true)
		w.wantTries(0)
	}, claimedBy("a", 7))
}

// manyProposed returns n addresses that are proposed for node a, and an
// interface for them.
func manyProposed(n int) ([]*v1alpha1.LoadBalancerIP, link.Link) {
	var addrs []*v1alpha1.LoadBalancerIP
	for i := range n {
		addrs = append(addrs, address(netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i % 250)}).String(), "a", nil))
	}
	wide := eth0
	wide.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}
	return addrs, wide
}

// An API server that is in trouble isn't asked once for every address.
func TestFailingWritesPauseTogether(t *testing.T) {
	const n = 100
	addrs, wide := manyProposed(n)
	bubble(t, func(t *testing.T, w *world) {
		w.refuse = func() error { return apierrors.NewUnauthorized("the node is not there") }
		w.latency = time.Millisecond
		a := w.run("a")
		a.SetLinks([]link.Link{wide})
		a.sync()
		time.Sleep(time.Minute)
		before := w.tryCount()
		time.Sleep(time.Minute)
		if n, most := w.tryCount()-before, writers*int(time.Minute/maxBackoff+1); n == 0 || n > most {
			t.Errorf("%d tries in a minute, want at most %d", n, most)
		}
		w.mu.Lock()
		w.refuse = func() error { return nil }
		w.mu.Unlock()
		before = w.tryCount()
		time.Sleep(2 * maxBackoff)
		w.wantTries(before + n)
	}, addrs...)
}

func TestManyClaimsAreWrittenAtOnce(t *testing.T) {
	const n = 320
	addrs, wide := manyProposed(n)
	bubble(t, func(t *testing.T, w *world) {
		w.latency = 10 * time.Millisecond
		a := w.run("a")
		a.SetLinks([]link.Link{wide})
		a.sync()
		time.Sleep(n / writers * w.latency * 11 / 10)
		w.wantTries(n)
		w.settle()
		w.wantTries(n)
	}, addrs...)
}
