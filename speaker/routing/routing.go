// SPDX-License-Identifier: Apache-2.0

// Package routing makes BGP sessions and routes of what the cluster says, and tells what became of them.
package routing

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
	"github.com/fairlead-lb/fairlead/speaker/bgp"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

// retryInterval is the wait before a link that couldn't be used is tried again.
const retryInterval = 2 * time.Second

// leaveTime is how long routers are asked to prefer another node's route before
// this one is withdrawn.
const leaveTime = 5 * time.Second

// Announcer keeps the sessions.
type Announcer interface {
	// Set makes desired the whole of what is announced.
	Set(desired bgp.Desired)
	// Changed has a value when Status may be another than before.
	Changed() <-chan struct{}
	// Status tells of all sessions, and of what was refused.
	Status() []bgp.Status
}

// Neighbors finds routers on unnumbered links.
type Neighbors interface {
	// Set makes links those on which to look for routers. False: call it again.
	Set(links []link.Link) bool
	// Routers are the link-local addresses of those that were heard, by link.
	Routers() map[string][]netip.Addr
}

var _ Announcer = &bgp.Announcer{}

// Routing tells an Announcer what the node announces to which routers.
type Routing struct {
	node      string
	announcer Announcer
	neighbors Neighbors
	tell      func([]v1alpha1.BGPSession)
	wake      chan struct{}

	mu       sync.Mutex
	table    *plan.Table
	known    bool // the cluster was, with all that is about BGP
	behind   bool // something was told while that wasn't, which the table lacks
	peers    []kube.Peer
	links    []link.Link
	linked   bool
	ousted   bool       // the node was taken out of the cluster
	routerID netip.Addr // for peers that name none

	// The rest is Run's.
	told map[string]told
	held map[string]time.Time // since when peers are
}

// told is what a peer was told last.
type told struct {
	plan.Told
	ousted bool
	routes []bgp.Route
	// leaving is since when routes are among those to leave.
	leaving map[netip.Prefix]time.Time
}

// New returns a Routing for a node. Tell is told the sessions when they change.
func New(node string, announcer Announcer, neighbors Neighbors, tell func([]v1alpha1.BGPSession)) *Routing {
	return &Routing{
		node: node, announcer: announcer, neighbors: neighbors, tell: tell, wake: make(chan struct{}, 1),
		table: plan.NewTable(), behind: true, told: map[string]told{}, held: map[string]time.Time{},
	}
}

// SetState takes the cluster, of which it keeps nothing that changes. Each State
// has to be told, in order. It costs as much as there are changes.
func (r *Routing) SetState(s source.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Partial || s.Peering == nil {
		r.behind = true // nothing is announced before all is known, and then all of it is new
		return
	}
	own := slices.IndexFunc(s.Nodes, func(n plan.Node) bool { return n.Name == r.node })
	if own < 0 {
		r.oust(s)
		return
	}
	if r.behind {
		r.table, r.behind = plan.NewTable(), false
		s.NodesChanged, s.PeeringChanged = true, true
	}
	changed := s.Changed
	if s.NodesChanged {
		changed = nil
		for addr := range s.Addresses {
			changed = append(changed, addr)
		}
	}
	for _, addr := range changed {
		a := s.Addresses[addr]
		announced, _ := plan.BGP(&a.Address, &s.Nodes[own], s.Nodes)
		r.table.Set(addr, announced)
	}
	for _, addr := range s.Gone {
		r.table.Set(addr, plan.Announced{})
	}
	if s.PeeringChanged {
		r.peers = s.Peering.Of(r.node)
	}
	r.known, r.ousted = true, false
	r.Refresh()
}

// oust takes a cluster that the node is no longer in. What it announced it goes
// on announcing, but asks routers to prefer whoever else does: it may be the last
// that can be reached, and was perhaps taken out by mistake.
func (r *Routing) oust(s source.State) {
	for _, addr := range slices.Concat(s.Gone, s.Changed) {
		if len(s.Addresses[addr].Services) == 0 {
			r.table.Set(addr, plan.Announced{})
		}
	}
	r.ousted, r.behind = true, true // should it come back, all is new
	r.Refresh()
}

// SetLinks takes the node's interfaces.
func (r *Routing) SetLinks(links []link.Link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.links, r.linked = links, true
	r.Refresh()
}

// Refresh has it look at the routers that are heard, and at everything else. It
// doesn't wait.
func (r *Routing) Refresh() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx is done, and returns nil then. It ends no session: that is
// the Announcer's.
func (r *Routing) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.announcer.Changed():
			r.report()
		case <-r.wake:
			timer.Reset(r.announce(time.Now()))
		case <-timer.C:
			timer.Reset(r.announce(time.Now()))
		}
	}
}

// forever is a pause after which there is nothing to do.
const forever = time.Duration(1<<63 - 1)

// announce tells the Announcer how it is now, and returns when to do so again
// though nothing changes.
func (r *Routing) announce(now time.Time) (again time.Duration) {
	peers, routes, links, ousted, ok := r.snapshot()
	if !ok {
		return forever
	}
	again = forever
	unnumbered := map[string]struct{}{}
	desired := bgp.Desired{Network: bgp.Network{Links: links}}
	for _, p := range peers {
		if p.Held != nil {
			continue
		}
		if p.Interface != "" {
			unnumbered[p.Interface] = struct{}{}
		}
		of, due := r.told[p.Name].next(now, routes[p.Name], ousted)
		r.told[p.Name] = of
		again = min(again, due)
		desired.Peers = append(desired.Peers, bgp.PeerRoutes{Peer: r.peer(&p), Routes: of.routes})
	}
	for name := range r.told {
		if !slices.ContainsFunc(peers, func(p kube.Peer) bool { return p.Name == name && p.Held == nil }) {
			delete(r.told, name)
		}
	}
	if !r.neighbors.Set(slices.DeleteFunc(slices.Clone(links), func(l link.Link) bool {
		_, wanted := unnumbered[l.Name]
		return !wanted
	})) {
		again = min(again, retryInterval)
	}
	desired.Network.Routers = r.neighbors.Routers()
	r.announcer.Set(desired)
	r.report()
	return again
}

// snapshot returns what there is to announce; false before all is known.
func (r *Routing) snapshot() (peers []kube.Peer, routes map[string]plan.Told, links []link.Link, ousted, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.known || !r.linked {
		return nil, nil, nil, false, false
	}
	if !r.routerID.IsValid() {
		r.routerID = routerID(r.node, r.links)
	}
	return r.peers, r.table.Routes(), r.links, r.ousted, true
}

// next is what a peer is told now, and when that changes by itself. A route that
// is to be left and wasn't announced never is: a node that is excluded would take
// traffic of each new address for a moment.
func (t told) next(now time.Time, is plan.Told, ousted bool) (told, time.Duration) {
	again := forever
	if same(t.Stay, is.Stay) && same(t.Leave, is.Leave) && len(t.leaving) == 0 && t.ousted == ousted && t.routes != nil {
		return t, again
	}
	n := told{Told: is, ousted: ousted, routes: make([]bgp.Route, 0, len(is.Stay)+len(is.Leave))}
	for _, route := range is.Stay {
		if ousted {
			route = route.Leaving()
		}
		n.routes = append(n.routes, bgp.Route(route))
	}
	for _, route := range is.Leave {
		since, leaves := t.leaving[route.Prefix]
		if !leaves {
			if _, stayed := slices.BinarySearchFunc(t.Stay, route.Prefix, comparePrefix); !stayed {
				continue
			}
			since = now
		}
		if n.leaving == nil {
			n.leaving = map[netip.Prefix]time.Time{}
		}
		n.leaving[route.Prefix] = since
		if left := since.Add(leaveTime).Sub(now); left > 0 {
			n.routes = append(n.routes, bgp.Route(route.Leaving()))
			again = min(again, left)
		}
	}
	return n, again
}

func comparePrefix(r plan.Route, p netip.Prefix) int { return r.Prefix.Compare(p) }

// same tells whether two slices of routes, which never change, are one.
func same(a, b []plan.Route) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
