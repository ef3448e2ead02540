// SPDX-License-Identifier: Apache-2.0

// Package agent is the speaker's loop: from the cluster, the links and the other speakers to announcements and claims.
package agent

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-lb/fairlead/speaker/conflict"
	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
	"github.com/fairlead-lb/fairlead/speaker/mesh/udp"
	"github.com/fairlead-lb/fairlead/speaker/preflight"
	"github.com/fairlead-lb/fairlead/speaker/record"
	"github.com/fairlead-lb/fairlead/speaker/routing"
	"github.com/fairlead-lb/fairlead/speaker/source"
	"github.com/fairlead-lb/fairlead/speaker/verify"
)

// Source tells what the cluster is like.
type Source interface {
	// Changed has a value after State changed.
	Changed() <-chan struct{}
	// State is the last that was seen, and what is new in it since it was last
	// called; false before the first complete one.
	State() (source.State, bool)
}

// Responder answers for addresses, and asks for them.
type Responder interface {
	// Set makes desired the whole of what is answered, listens on links, and
	// returns the places that can't be used.
	Set(links []link.Link, desired map[netip.Addr]l2.Want) map[l2.Place]error
	// Update is Set for some addresses alone. False: not all that is wanted can
	// be used, and Set tells what can't.
	Update(wants map[netip.Addr]l2.Want) bool
	// Silence names the interfaces on which nothing is answered for now.
	Silence(interfaces []string)
	// AnswerUntil ends all answers at a time, unless it is called again.
	AnswerUntil(t time.Time)
	// Announce announces an address anew.
	Announce(addr netip.Addr)
	// Refresh announces all addresses of an interface anew.
	Refresh(name string)
	// Ask asks the wire for an address; a sighting is the answer.
	Ask(name string, addr netip.Addr, mac link.MAC, probe bool) error
	// LastReceived is when some frame last came in.
	LastReceived(name string) time.Time
	// Close ends all announcements.
	Close()
}

// Seen takes what is found out about addresses. Its methods don't wait.
type Seen interface {
	Conflict(conflict.Report)
	Verified(verify.Result)
}

// Router announces addresses to routers. Its methods don't wait.
type Router interface {
	// SetState takes each State, in order.
	SetState(source.State)
	// SetLinks takes the node's interfaces.
	SetLinks([]link.Link)
}

// Transport carries frames between speakers.
type Transport interface {
	// Set makes links those that it uses. False: call it again.
	Set(links []link.Link) bool
	// Send sends a frame to an address, or to everybody if that is zero: in each
	// family or, sparing, in one.
	Send(index int, to netip.Addr, sparing bool, payload []byte)
	// Close ends it.
	Close()
}

var (
	_ Source    = &source.Source{}
	_ Responder = &l2.Responder{}
	_ Transport = &udp.Transport{}
	_ Seen      = &record.Recorder{}
	_ Router    = &routing.Routing{}
)

// Options are what an Agent is made of.
type Options struct {
	Log      logr.Logger
	Registry prometheus.Registerer
	Mesh     mesh.Config
	Source   Source
	Recorder *Recorder
	Seen     Seen
	Router   Router
	// Segments is told the node's interfaces, and which of them may carry
	// addresses; Peers who is heard on them; and Doubt that the node seems to be
	// gone.
	Segments func(links []link.Link, carriers []string)
	Peers    func([]preflight.Segment)
	Doubt    func()
	// Responder and Transport return these, which call sighted and deliver.
	Responder func(sighted func(l2.Sighting)) Responder
	Transport func(deliver func(udp.Datagram)) Transport
}

// Agent announces a node's share of the addresses, and records its claims.
type Agent struct {
	log       logr.Logger
	node      string
	source    Source
	recorder  *Recorder
	responder Responder
	transport Transport
	router    Router
	metrics   metrics
	sightings sightings
	watch     watch

	links chan []link.Link
	wake  chan struct{}
	ready atomic.Bool
	// stepped is when the loop last went round, in nanoseconds since started.
	stepped atomic.Int64
	started time.Time

	tellSegments func(links []link.Link, carriers []string)
	tellPeers    func([]preflight.Segment)
	doubt        func()

	// mu guards what the receivers of frames share with the loop. The machine's
	// time is read under it, so that it never goes back.
	mu      sync.Mutex
	machine *mesh.Machine
	cluster uint64 // the mesh's name for it, 0 while that isn't known
	view    view
	wire    wire
	tales   tales
}

// New returns an Agent for a node.
func New(o Options) *Agent {
	a := &Agent{
		log: o.Log, node: o.Mesh.Node, source: o.Source, recorder: o.Recorder, router: o.Router, metrics: newMetrics(o.Registry),
		started: time.Now(),
		links:   make(chan []link.Link, 1), wake: make(chan struct{}, 1),
		tellSegments: o.Segments, tellPeers: o.Peers, doubt: o.Doubt,
		view: newView(o.Mesh.Node), wire: newWire(), tales: newTales(), watch: newWatch(o.Seen),
	}
	a.machine = mesh.New(o.Mesh, &a.view, time.Now())
	a.responder = o.Responder(a.sighted)
	a.transport = o.Transport(a.deliver)
	return a
}

// SetLinks tells the node's interfaces. It doesn't wait, and only the last
// state counts. Nothing is announced before it was called. One goroutine at a
// time may call it.
func (a *Agent) SetLinks(links []link.Link) {
	select {
	case <-a.links:
	default:
	}
	a.links <- links
}

// Ready tells whether the node has once answered for all that is its own: a
// rollout goes on to the next node then.
func (a *Agent) Ready() bool { return a.ready.Load() }

// Alive tells whether the loop goes round: whatever happens to the cluster and
// to others, it does so ten times a second.
func (a *Agent) Alive() bool {
	return time.Since(a.started)-time.Duration(a.stepped.Load()) < hung
}

// Run works until ctx is done, falls silent and returns nil. Nothing that
// happens to the API server ends it or changes what is announced.
func (a *Agent) Run(ctx context.Context) error {
	defer a.responder.Close()
	defer a.transport.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.recorder.Run(ctx, a.recorded) })
	g.Go(func() error {
		a.loop(ctx)
		return nil
	})
	return g.Wait()
}

// deliver takes a frame of another speaker.
func (a *Agent) deliver(d udp.Datagram) {
	at := time.Now().Add(-d.Age)
	a.mu.Lock()
	now := time.Now()
	a.machine.Receive(now, mesh.Packet{Interface: d.Interface, From: d.From.WithZone(""), TTL: d.TTL, At: at, Payload: d.Payload})
	due := !a.machine.Next().After(now)
	a.mu.Unlock()
	if due {
		signal(a.wake)
	}
}

// sighted takes what the responder saw. It must not wait.
func (a *Agent) sighted(s l2.Sighting) {
	if a.sightings.put(s) {
		signal(a.wake)
	}
}

// recorded takes what became of a try to record a claim.
func (a *Agent) recorded(o Outcome) {
	a.mu.Lock()
	now := time.Now()
	a.machine.SetRecorder(now, o.Reachable)
	if o.Recorded {
		a.machine.Recorded(now, o.Addr, mesh.Claim{Node: o.Claim.L2.Node, Term: o.Claim.L2.Term})
	}
	a.mu.Unlock()
	signal(a.wake)
}

// Leave tells the other speakers that this one ends or, with Stay, that it
// does not.
func (a *Agent) Leave(how mesh.Leaving) {
	a.mu.Lock()
	a.machine.Leave(time.Now(), how)
	a.mu.Unlock()
	signal(a.wake)
}

// Remaining is the number of addresses that are still answered for.
func (a *Agent) Remaining() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.machine.Remaining()
}

// CanLeave tells whether another speaker is heard that could take addresses
// over.
func (a *Agent) CanLeave() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.machine.Peers(time.Now()), func(p mesh.PeerStatus) bool {
		return p.Heard && p.State == mesh.Synced
	})
}

// Draining tells whether the node is being emptied.
func (a *Agent) Draining() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.view.nodes[a.view.self].Draining
}

// signal leaves a value in a channel that has room for one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
