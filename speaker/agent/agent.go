// SPDX-License-Identifier: Apache-2.0

// Package agent is the speaker's loop: from the cluster and the links to announcements and claims.
package agent

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

const (
	// minInterval is between two looks at the cluster: the first event is
	// acted on at once, a burst is taken together.
	minInterval = 50 * time.Millisecond
	// retryInterval is the wait before an interface that couldn't be used is
	// tried again.
	retryInterval = 2 * time.Second
)

// Source tells what the cluster is like.
type Source interface {
	// Changed has a value after State changed.
	Changed() <-chan struct{}
	// State is the last that was seen; false before the first complete one.
	State() (source.State, bool)
}

// Responder announces addresses.
type Responder interface {
	// Set makes desired the whole of what is answered, and returns the places
	// that can't be used.
	Set(links []link.Link, desired map[netip.Addr]l2.Want) map[l2.Place]error
	// Close ends all announcements.
	Close()
}

var (
	_ Source    = &source.Source{}
	_ Responder = &l2.Responder{}
)

// Agent announces what plan gives to a node, and records its claims.
type Agent struct {
	log       logr.Logger
	node      string
	source    Source
	responder Responder
	recorder  *Recorder

	links chan []link.Link
	ready atomic.Bool
}

// New returns an Agent for the node.
func New(log logr.Logger, node string, src Source, responder Responder, recorder *Recorder) *Agent {
	return &Agent{
		log: log, node: node, source: src, responder: responder, recorder: recorder,
		links: make(chan []link.Link, 1),
	}
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

// Ready tells whether announcements have once been set from a complete state.
func (a *Agent) Ready() bool { return a.ready.Load() }

// Run works until ctx is done, falls silent and returns nil. Nothing that
// happens to the API server ends it or changes what is announced.
func (a *Agent) Run(ctx context.Context) error {
	defer a.responder.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.recorder.Run(ctx) })
	g.Go(func() error {
		a.loop(ctx)
		return nil
	})
	return g.Wait()
}

func (a *Agent) loop(ctx context.Context) {
	var links []link.Link
	var linksKnown bool
	now := announcements{unable: map[plan.Reason]int{}}
	for {
		var retry <-chan time.Time
		if len(now.failed) > 0 {
			retry = time.After(retryInterval)
		}
		select {
		case <-ctx.Done():
			return
		case links = <-a.links:
			linksKnown = true
		case <-a.source.Changed():
		case <-retry:
		}
		state, ok := a.source.State()
		if !ok || !linksKnown {
			continue
		}
		now = a.apply(now, links, state)
		a.ready.Store(true)
		if !pause(ctx, minInterval) {
			return
		}
	}
}

// announcements is what the responder does.
type announcements struct {
	// since is when it began to answer for each address that it answers for.
	since map[netip.Addr]time.Time
	// failed are the places that it can't use.
	failed map[l2.Place]error
	// unable counts by reason the addresses that the others wait for in vain.
	unable map[plan.Reason]int
}

// apply makes the announcements and claims those of a state.
func (a *Agent) apply(before announcements, links []link.Link, state source.State) announcements {
	snapshot := plan.Snapshot{Nodes: state.Nodes, Addresses: make([]plan.Address, 0, len(state.Addresses))}
	for _, address := range state.Addresses {
		snapshot.Addresses = append(snapshot.Addresses, address.Address)
	}
	p := plan.Compute(withLinks(snapshot, a.node, links), a.node)
	desired := make(map[netip.Addr]l2.Want, len(p.Announce))
	used := map[string]bool{}
	for _, ann := range p.Announce {
		desired[ann.Addr] = l2.Want{Interfaces: ann.Interfaces}
		for _, name := range ann.Interfaces {
			used[name] = true
		}
	}
	listen := slices.DeleteFunc(slices.Clone(links), func(l link.Link) bool { return !used[l.Name] })
	// First of all the wire: it waits for nobody.
	after := announcements{since: make(map[netip.Addr]time.Time, len(desired)), failed: a.responder.Set(listen, desired)}
	now := time.Now()
	for _, ann := range p.Announce {
		if _, ok := usable(ann, after.failed); !ok {
			continue
		}
		after.since[ann.Addr] = now
		if t, ok := before.since[ann.Addr]; ok {
			after.since[ann.Addr] = t
		}
	}
	after.unable = map[plan.Reason]int{}
	for _, v := range p.Verdicts {
		if v.Expected {
			after.unable[v.Reason]++
		}
	}
	a.recorder.Set(claims(p, a.node, links, after, state.Addresses))
	a.tell(before, after, p)
	return after
}

// tell logs what changed.
func (a *Agent) tell(before, after announcements, p plan.Plan) {
	for place, err := range after.failed {
		if was := before.failed[place]; was == nil || was.Error() != err.Error() {
			a.log.Error(err, "Can't announce on interface, trying again", "interface", place.Interface, "family", place.Family)
		}
	}
	added, removed := 0, 0
	for _, ann := range p.Announce {
		_, was := before.since[ann.Addr]
		if _, is := after.since[ann.Addr]; is && !was {
			added++
			a.log.V(1).Info("Announcing address", "address", ann.Addr, "interfaces", ann.Interfaces, "term", ann.Term)
		}
	}
	for addr := range before.since {
		if _, ok := after.since[addr]; !ok {
			removed++
		}
	}
	if removed > 0 {
		for _, v := range p.Verdicts {
			if _, ok := before.since[v.Address]; ok {
				a.log.V(1).Info("Stopped announcing address", "address", v.Address, "reason", v.Reason, "message", v.Message)
			}
		}
	}
	for _, v := range p.Verdicts {
		if v.Expected && before.unable[v.Reason] != after.unable[v.Reason] {
			a.log.Info("Can't announce addresses that this node is chosen for", "reason", v.Reason,
				"addresses", after.unable[v.Reason], "one", v.Address, "message", v.Message)
			before.unable[v.Reason] = after.unable[v.Reason] // one line per reason
		}
	}
	if added+removed > 0 {
		a.log.Info("Announcements changed", "added", added, "removed", removed, "addresses", len(after.since))
	}
}

// withLinks returns the snapshot with the links of the own node. A node whose
// object is gone stays in it, not alive, so that it hands over what it has.
func withLinks(s plan.Snapshot, node string, links []link.Link) plan.Snapshot {
	own := plan.Node{Name: node}
	nodes := make([]plan.Node, 0, len(s.Nodes)+1)
	for _, n := range s.Nodes {
		if n.Name == node {
			own = n
			continue
		}
		nodes = append(nodes, n)
	}
	own.LinksKnown = true
	own.Links = make([]plan.Link, 0, len(links))
	for _, l := range links {
		own.Links = append(own.Links, plan.Link{Name: l.Name, Up: l.Up, ARP: l.ARP, NDP: l.NDP, Prefixes: l.Prefixes})
	}
	s.Nodes = append(nodes, own)
	return s
}

// claims returns the claims that are to be recorded: those of addresses that
// are really announced, where the record doesn't say so yet. A claim on record
// keeps its term and time, also if the interface or its MAC is another one now.
func claims(p plan.Plan, node string, links []link.Link, now announcements, addresses map[netip.Addr]source.Address) map[netip.Addr]Claim {
	macs := make(map[string]link.MAC, len(links))
	for _, l := range links {
		macs[l.Name] = l.MAC
	}
	out := map[netip.Addr]Claim{}
	for _, ann := range p.Announce {
		name, ok := usable(ann, now.failed)
		address, known := addresses[ann.Addr]
		record := address.Record
		if !ok || !known {
			continue
		}
		c := v1alpha1.L2Claim{
			Node: node, Interface: name, MAC: macs[name].String(), Term: ann.Term,
			Since: metav1.NewTime(now.since[ann.Addr]),
		}
		if ann.Claimed {
			c.Since = record.Claim.Since
			if c == *record.Claim {
				continue
			}
		}
		out[ann.Addr] = Claim{Name: record.Name, ResourceVersion: record.ResourceVersion, L2: c}
	}
	return out
}

// usable returns the first interface that really announces.
func usable(ann plan.Announcement, failed map[l2.Place]error) (string, bool) {
	for _, name := range ann.Interfaces {
		if failed[l2.Place{Interface: name, Family: l2.FamilyOf(ann.Addr)}] == nil {
			return name, true
		}
	}
	return "", false
}

// pause reports whether the time went by before ctx was done.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
