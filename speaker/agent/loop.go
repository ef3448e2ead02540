// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
)

const (
	// minInterval is between two looks at the cluster: the first event is
	// acted on at once, a burst is taken together. A look that took long is
	// followed by a rest of restFactor times as long, so that a busy cluster
	// takes no more than a share of a core.
	minInterval = 50 * time.Millisecond
	restFactor  = 10
	// retryInterval is the wait before an interface that couldn't be used is
	// tried again.
	retryInterval = 2 * time.Second
	// hung is after how long without a round the loop will not go on by itself.
	hung = 10 * time.Second
)

func (a *Agent) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var look, retry time.Time // when to look at the cluster, and at what failed; zero for not at all
	var rest time.Time        // not to look before
	for {
		var links []link.Link
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-a.wake:
		case links = <-a.links:
		case <-a.source.Changed():
			look = latest(time.Now(), rest)
		}
		now := time.Now()
		looks := !look.IsZero() && !now.Before(look)
		if links != nil || looks {
			a.step() // what takes long now is no stall
		}
		if links != nil {
			a.setLinks(links)
		}
		if looks {
			look = time.Time{}
			a.look()
			took := time.Since(now)
			if a.view.complete() { // until then it is silent, and in a hurry
				rest = now.Add(max(minInterval, restFactor*took))
			}
			now = now.Add(took)
		}
		if !retry.IsZero() && !now.Before(retry) {
			retry = time.Time{}
			a.retry()
		}
		next, failing := a.step()
		switch {
		case !failing:
			retry = time.Time{}
		case retry.IsZero():
			retry = now.Add(retryInterval)
		}
		for _, t := range [...]time.Time{look, retry} {
			if !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		timer.Reset(time.Until(next))
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// setLinks takes the node's interfaces.
func (a *Agent) setLinks(links []link.Link) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.router.SetLinks(links)
	if !a.view.setLinks(links) {
		a.tellLinks() // kube-proxy's interface is among those that carry nothing
		return
	}
	a.setSegments(now)
	if a.view.complete() {
		a.machine.Reconsider(now)
		a.setAddresses(now, a.view.all(), nil)
	}
}

// look takes what is new of the cluster.
func (a *Agent) look() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	first, saved := !a.view.complete(), !a.view.synced || a.view.state.Saved
	s, ok := a.source.State()
	if !ok {
		return
	}
	a.view.setState(s)
	a.router.SetState(s)
	if !a.view.nodes[a.view.self].Alive {
		a.doubt()
	}
	if saved && !s.Saved {
		a.machine.SetRecorder(now, true) // it could be read
	}
	if a.cluster == 0 || saved && !s.Saved {
		// Once the cluster itself has told it stays: speakers that took another
		// name at other times would not hear each other. What was saved may be
		// of a cluster that the node was in before.
		a.cluster = a.view.cluster()
		a.machine.SetCluster(now, a.cluster)
	}
	if first || s.ScopesChanged || s.SpeakersChanged || slices.ContainsFunc(s.Changed, func(addr netip.Addr) bool {
		return a.view.strays(addr, a.wire.segments)
	}) {
		a.setSegments(now)
	}
	switch {
	case !a.view.complete():
	case first:
		a.setAddresses(now, a.view.all(), nil)
	case s.NodesChanged:
		a.machine.Reconsider(now)
		a.setAddresses(now, a.view.all(), s.Gone)
	default:
		a.setAddresses(now, s.Changed, s.Gone)
	}
}

// setSegments tells the machine and the wire where other speakers are met.
func (a *Agent) setSegments(now time.Time) {
	segments := a.view.segments()
	own := make([]mesh.Segment, len(segments))
	for i, l := range segments {
		own[i] = mesh.Segment{Index: l.Index, Name: l.Name, MAC: l.MAC, Up: l.Up}
	}
	a.machine.SetSegments(now, own)
	a.machine.SetPeers(now, a.view.peers(segments))
	for _, l := range a.wire.segments {
		if !slices.ContainsFunc(segments, func(s link.Link) bool { return s.Name == l.Name }) {
			a.metrics.peers.DeleteLabelValues(l.Name)
		}
	}
	a.wire.setSegments(segments)
	a.setCluster(now, segments)
	a.tellLinks()
}

// tellLinks tells of the interfaces, and which of them are segments.
func (a *Agent) tellLinks() {
	if !a.view.complete() {
		return
	}
	names := make([]string, len(a.wire.segments))
	for i, l := range a.wire.segments {
		names[i] = l.Name
	}
	a.tellSegments(a.view.links, names)
}

// setAddresses tells the machine of addresses that may differ.
func (a *Agent) setAddresses(now time.Time, changed, gone []netip.Addr) {
	addresses, released := a.view.addresses(changed, func(addr netip.Addr) string {
		c, _ := a.machine.Claim(addr)
		return c.Node
	})
	gone = append(released, gone...)
	a.machine.SetAddresses(now, addresses, gone)
	for _, addr := range changed {
		a.wire.touch(addr)
	}
	for _, addr := range gone {
		a.wire.touch(addr)
	}
}

// retry tries again what couldn't be used.
func (a *Agent) retry() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wire.again()
}

// step lets the machine do what is due, and does what it says. It returns when
// to be called again, and whether something can't be used.
func (a *Agent) step() (next time.Time, failing bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.stepped.Store(int64(now.Sub(a.started)))
	for _, l := range a.wire.segments {
		if at := a.responder.LastReceived(l.Name); !at.IsZero() {
			a.machine.Received(now, l.Index, at)
		}
	}
	replies, others := a.sightings.take()
	for _, s := range replies {
		if index, ok := a.wire.index(s.Interface); ok {
			a.machine.Answered(now, index, s.Addr, s.MAC)
		}
	}
	a.observe(now, others)
	a.machine.Tick(now)
	out := a.machine.Output()
	a.do(now, out)
	var touched []netip.Addr
	if !out.More { // all are answered as they are to be
		touched = a.wire.takeTouched()
	}
	a.verify(now, touched)
	a.record(now, touched)
	a.tell(now, touched)
	next = a.watch.next(a.machine.Next())
	if len(a.wire.touched) > 0 {
		next = now
	}
	return next, a.wire.failing()
}
