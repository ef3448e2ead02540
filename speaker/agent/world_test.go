// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
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
	"github.com/prometheus/client_golang/prometheus"
	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
	"github.com/fairlead-lb/fairlead/speaker/conflict"
	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
	"github.com/fairlead-lb/fairlead/speaker/mesh/udp"
	"github.com/fairlead-lb/fairlead/speaker/preflight"
	"github.com/fairlead-lb/fairlead/speaker/source"
	"github.com/fairlead-lb/fairlead/speaker/verify"
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
	by    []string        // and by whom
	start time.Time
}

// speaker is one node's Agent with its fakes.
type speaker struct {
	*Agent
	world   *world
	node    string
	mac     link.MAC
	inbox   chan udp.Datagram
	changed chan struct{}
	stop    context.CancelFunc
	ended   chan error

	registry *prometheus.Registry

	mu      sync.Mutex
	synced  bool
	state   source.State
	desired map[netip.Addr]l2.Want
	silent  []string
	until   time.Time
	looks   int
	stopped chan struct{} // what looks wait for, if anything
	said    []netip.Addr  // announced anew
	logged  []string
	broken  error // what interfaces fail with
	closed  bool
	// What it told.
	conflicts []conflict.Report
	verified  []verify.Result
	segments  []preflight.Segment
	links     []link.Link
	carriers  []string
	// stranger is the MAC of another host that has vip, if there is one.
	stranger link.MAC
	// mute says that nobody gets an answer from it, though it is heard.
	mute bool
	// unplugged is a node that the others don't hear, and its kernel neither;
	// crashed is one whose kernel answers.
	unplugged, crashed bool
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
	w.mu.Lock()
	latency := w.latency
	w.mu.Unlock()
	time.Sleep(latency)
	body, err := patch.Data(obj)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.tries = append(w.tries, time.Since(w.start))
	w.by = append(w.by, string(body))
	err = w.refuse()
	w.mu.Unlock()
	if err != nil {
		return err
	}
	return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
}

func (w *world) setRefuse(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = func() error { return err }
}

func (w *world) setLatency(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latency = d
}

// triesOf counts the writes that claim for a node.
func (w *world) triesOf(node string) (n int) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, body := range w.by {
		if strings.Contains(body, fmt.Sprintf(`"node":%q`, node)) {
			n++
		}
	}
	return n
}

// restart starts a speaker that crashed anew.
func (w *world) restart(s *speaker) *speaker {
	s.unplug() // another takes its place on the wire
	again := w.run(s.node)
	again.sync()
	return again
}

// run starts the speaker of a node. It has its interfaces, but no state before
// sync.
func (w *world) run(node string) *speaker {
	s := w.runWithoutLinks(node)
	s.SetLinks([]link.Link{s.eth0()})
	return s
}

func (w *world) runWithoutLinks(node string) *speaker {
	i := byte(slices.Index([]string{"a", "b", "c"}, node))
	s := &speaker{
		world: w, node: node, mac: link.MAC{2, 0, 0, 0, 0, 1 + i}, inbox: make(chan udp.Datagram, 1000),
		changed: make(chan struct{}, 1), ended: make(chan error, 1), desired: map[netip.Addr]l2.Want{},
		state:    source.State{Addresses: map[netip.Addr]source.Address{}},
		registry: prometheus.NewRegistry(),
	}
	log := funcr.New(func(_, args string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.logged = append(s.logged, args)
	}, funcr.Options{})
	ctx, cancel := context.WithCancel(w.t.Context())
	s.stop = cancel
	s.Agent = New(Options{
		Log: log, Registry: s.registry, Source: s,
		Mesh:      mesh.Config{Node: node, Boot: uint64(time.Now().UnixNano()) + uint64(i)},
		Recorder:  NewRecorder(logr.Discard(), prometheus.NewRegistry(), w.api),
		Seen:      s,
		Router:    nobody{},
		Segments:  s.setSegments,
		Peers:     s.setPeers,
		Doubt:     func() {},
		Responder: func(sighted func(l2.Sighting)) Responder { return &responder{s, sighted} },
		Transport: func(deliver func(udp.Datagram)) Transport {
			go func() {
				for {
					select {
					case <-ctx.Done():
						return
					case d := <-s.inbox:
						deliver(d)
					}
				}
			}()
			return &transport{s}
		},
	})
	go func() { s.ended <- s.Run(ctx) }()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.speakers = append(w.speakers, s)
	return s
}

// stopLoop has the loop stop until goOn is called.
func (s *speaker) stopLoop() (goOn func()) {
	stopped := make(chan struct{})
	s.mu.Lock()
	s.stopped = stopped
	s.mu.Unlock()
	s.poke()
	return func() { close(stopped) }
}

// Conflict and Verified take what the speaker finds out.
func (s *speaker) Conflict(r conflict.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conflicts = append(s.conflicts, r)
}

func (s *speaker) Verified(r verify.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verified = append(s.verified, r)
}

func (s *speaker) setPeers(p []preflight.Segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = p
}

func (s *speaker) setSegments(links []link.Link, carriers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links, s.carriers = links, carriers
}

// heard is what it told last of who is heard.
func (s *speaker) heard() []preflight.Segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.segments
}

// sync lets a speaker's cache see the API server as it is.
func (s *speaker) sync() {
	var list v1alpha1.LoadBalancerIPList
	if err := s.world.api.List(context.Background(), &list); err != nil {
		s.world.t.Fatal(err)
	}
	st := source.State{
		Cluster: "cluster", Addresses: map[netip.Addr]source.Address{}, NodesChanged: true,
		Ranges: []netipx.IPRange{netipx.RangeOfPrefix(netip.MustParsePrefix("192.0.2.0/24"))}, ScopesChanged: true,
		Advertising: kube.NewAdvertising(kube.Objects{}),
	}
	for i, name := range []string{"a", "b", "c"} {
		addr := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}), 24)
		st.Speakers = append(st.Speakers, &v1alpha1.Speaker{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: v1alpha1.SpeakerStatus{Interfaces: []v1alpha1.Interface{{
				Name: "eth0", MAC: link.MAC{2, 0, 0, 0, 0, byte(1 + i)}.String(), Up: true, Addresses: []v1alpha1.InterfaceAddress{v1alpha1.InterfaceAddress(addr.String())},
			}}},
		})
	}
	st.SpeakersChanged = true
	st.Nodes = slices.SortedFunc(maps.Values(s.world.nodes), func(a, b plan.Node) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range list.Items {
		a := plan.Address{Addr: netip.MustParseAddr(p.Spec.Address), Proposed: p.Spec.Owner, Services: []plan.Service{{Name: "web"}}}
		if c := p.Status.L2; c != nil {
			a.Claim = plan.Claim{Node: c.Node, Term: c.Term}
		}
		st.Addresses[a.Addr] = source.Address{Address: a, Record: source.Record{Name: p.Name, ResourceVersion: p.ResourceVersion, Claim: p.Status.L2, Status: p.Status}}
		st.Changed = append(st.Changed, a.Addr)
	}
	s.setState(st)
}

func (s *speaker) setState(st source.State) {
	s.mu.Lock()
	for addr := range s.state.Addresses {
		if _, ok := st.Addresses[addr]; !ok {
			st.Gone = append(st.Gone, addr)
		}
	}
	s.state, s.synced = st, true
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
	s.looks++
	st, synced, stopped := s.state, s.synced, s.stopped
	s.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
	return st, synced
}

// metric returns the values of a metric, of whatever labels.
func (s *speaker) metric(name string) (values []float64) {
	synctest.Wait()
	families, err := s.registry.Gather()
	if err != nil {
		s.world.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				values = append(values, m.GetGauge().GetValue()+m.GetCounter().GetValue())
			}
		}
	}
	return values
}

func (s *speaker) lookCount() int {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks
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

// overwrite is what a person may do to a claim on record.
func (w *world) overwrite(claim *v1alpha1.L2Claim) {
	w.t.Helper()
	obj := &v1alpha1.LoadBalancerIP{}
	if err := w.api.Get(context.Background(), client.ObjectKey{Name: vip.String()}, obj); err != nil {
		w.t.Fatal(err)
	}
	obj.Status.L2 = claim
	if err := w.api.Status().Update(context.Background(), obj); err != nil {
		w.t.Fatal(err)
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
