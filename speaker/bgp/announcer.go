// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
)

// Desired is all that is to be announced.
type Desired struct {
	Peers []PeerRoutes
	// Network is where the neighbours are looked for.
	Network Network
}

// PeerRoutes are the routes for a peer. They must not be modified any more: as
// long as they are the same slice, they are not looked at again.
type PeerRoutes struct {
	Peer
	Routes []Route
}

// Announcer keeps sessions and announces routes on them. Its methods may be
// called by several goroutines.
type Announcer struct {
	log       logr.Logger
	metrics   metrics
	backend   Backend
	bfd       BFD
	preserved bool
	began     time.Time
	changed   chan struct{}
	// setting keeps the calls of bfd.Set in order.
	setting sync.Mutex

	mu       sync.Mutex
	sessions map[Key]*session
	// ending are those that were stopped and may still be connected.
	ending            map[Key]*session
	stopping          sync.WaitGroup
	refusals          []Refusal
	marked, withdrawn bool
	left              bool
	// paths are those that are watched, and bfdStates what was told of them.
	paths     map[Key]BFDSession
	bfdStates map[Key]BFDState
}

// New returns an Announcer that does nothing before Set. Without bfd no path is
// watched.
//
// Preserved says that the process was restarted and the node kept forwarding:
// only then may routers keep the routes that they have of it. After a boot it
// must not be said, because the node may not forward yet.
func New(log logr.Logger, reg prometheus.Registerer, backend Backend, bfd BFD, preserved bool) *Announcer {
	return &Announcer{
		log: log, metrics: newMetrics(reg), backend: backend, bfd: bfd, preserved: preserved, began: time.Now(),
		changed: make(chan struct{}, 1), sessions: map[Key]*session{}, ending: map[Key]*session{}, bfdStates: map[Key]BFDState{},
	}
}

// restarted tells whether the peer's router may still keep routes from before
// this process.
func (a *Announcer) restarted(p Peer) bool {
	return a.preserved && time.Since(a.began) < p.RestartTime+p.LongLivedTime
}

// Set makes desired the whole of what is announced. It returns at once, and may
// be called any number of times with the same state: nothing is sent then.
//
// The first call must have all routes: each session says that its table is
// complete (End-of-RIB) as soon as it has sent those, and routers forget what
// they kept from before a restart and didn't hear again.
func (a *Announcer) Set(desired Desired) {
	a.setting.Lock()
	defer a.setting.Unlock()
	peers := make([]Peer, len(desired.Peers))
	routes := make(map[string][]Route, len(desired.Peers))
	for i, p := range desired.Peers {
		peers[i] = p.Peer
		routes[p.Name] = p.Routes
	}
	found, refusals := Resolve(peers, desired.Network)
	paths := watched(found)
	if a.set(found, paths, refusals, routes) && a.bfd != nil {
		a.bfd.Set(paths)
	}
}

func (a *Announcer) set(found []Session, paths []BFDSession, refusals []Refusal, routes map[string][]Route) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left {
		return false
	}
	wanted := make(map[Key]bool, len(found))
	for _, s := range found {
		key := s.Key()
		wanted[key] = true
		running := a.sessions[key]
		if running == nil {
			running = newSession(a, s)
			a.sessions[key] = running
			before := a.ending[key]
			a.stopping.Go(func() {
				if before != nil {
					<-before.ended
				}
				running.run()
				a.ended(running)
			})
			a.tellChanged()
		}
		running.set(func(w *work) {
			w.session, w.routes, w.marked, w.withdrawn = s, routes[s.Name], a.marked, a.withdrawn
		})
	}
	for key, s := range a.sessions {
		if !wanted[key] {
			s.set(func(w *work) { w.stop = true })
			delete(a.sessions, key)
			a.ending[key] = s
			a.tellChanged()
		}
	}
	a.forgetStates(paths)
	if !slices.Equal(a.refusals, refusals) {
		a.refusals = refusals
		a.tellChanged()
	}
	return true
}

// forgetStates forgets what BFD said of paths that aren't watched any more: to
// the same router there may be another.
func (a *Announcer) forgetStates(paths []BFDSession) {
	now := make(map[Key]BFDSession, len(paths))
	for _, p := range paths {
		p.Profile = BFDProfile{} // BFD negotiates another by itself
		now[p.Key] = p
	}
	for key := range a.bfdStates {
		if p, ok := now[key]; !ok || p != a.paths[key] {
			delete(a.bfdStates, key)
			a.tellChanged()
		}
	}
	a.paths = now
}

// ended forgets a session that was stopped.
func (a *Announcer) ended(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ending[s.key] == s {
		delete(a.ending, s.key)
	}
	close(s.ended)
}

// watched are the paths of the sessions that have a profile.
func watched(sessions []Session) []BFDSession {
	var out []BFDSession
	for _, s := range sessions {
		if s.BFD == (BFDProfile{}) {
			continue
		}
		name := s.Neighbor.Zone()
		if name == "" {
			name = s.BindInterface
		}
		out = append(out, BFDSession{
			Key: s.Key(), Local: s.Source, Neighbor: s.Neighbor, Interface: name, MultiHop: !s.OnLink, Profile: s.BFD,
		})
	}
	return out
}

// BFDChanged tells that a path got into a state.
//
// A session ends at once when its path goes down, and is begun anew: where the
// path is dead that fails, and where only BFD is, traffic flows again. So no
// session ever waits for BFD to come up, which a router may not have turned on
// yet. A router that turns BFD off says so (AdminDown), and that is no failure
// (RFC 5882, section 4.2). When the path comes up, a session that isn't
// established is tried at once.
func (a *Announcer) BFDChanged(key Key, state BFDState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sessions[key]
	old := a.bfdStates[key]
	if s == nil || a.left || old == state {
		return
	}
	a.bfdStates[key] = state
	a.tellChanged()
	switch {
	case old == BFDUp && state == BFDDown:
		s.Failed("BFD found the path down")
		s.log.Info("BFD found the path down")
		s.set(func(w *work) { w.reset = true })
	case state == BFDUp && s.waiting():
		s.set(func(w *work) { w.reset = true })
	}
}

// Mark asks the routers to prefer any other way, because this node is about to
// leave (RFC 8326): external ones by a community that they may heed or not,
// internal ones by a local preference of 0 too.
func (a *Announcer) Mark() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.marked = true
	for _, s := range a.sessions {
		s.set(func(w *work) { w.marked = true })
	}
}

// Withdraw withdraws all routes. The sessions stay.
func (a *Announcer) Withdraw() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.withdrawn = true
	for _, s := range a.sessions {
		s.set(func(w *work) { w.withdrawn = true })
	}
}

// Leave ends the work: nothing that is told later has an effect.
//
// For a restart, nothing is sent and no connection closed: the end of the
// process closes them without a word, which is what makes routers keep the
// routes. Else each router gets a Cease, and Leave returns when it is sent.
func (a *Announcer) Leave(ctx context.Context, restart bool) error {
	a.mu.Lock()
	a.left = true
	if !restart {
		for _, s := range a.sessions {
			s.set(func(w *work) { w.stop = true })
		}
	}
	a.mu.Unlock()
	if restart {
		return nil
	}
	done := make(chan struct{})
	go func() {
		a.stopping.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Changed gets a value when Status may be another than before.
func (a *Announcer) Changed() <-chan struct{} { return a.changed }

func (a *Announcer) tellChanged() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Status is what there is to tell of a session, or of a peer that has none.
type Status struct {
	// Key has no neighbour if none was found.
	Key Key
	Info
	// LastError says in words what ended or prevents the session, and
	// LastErrorAt when. They are kept when the session is established again.
	LastError   string
	LastErrorAt time.Time
	// Routes is how many are announced.
	Routes int
	BFD    BFDState
	// Refusal says why there is no session, or less than was asked for.
	Refusal Refusal
}

// Status tells of all sessions, by peer and neighbour, and then of what was
// refused.
func (a *Announcer) Status() []Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Status, 0, len(a.sessions)+len(a.refusals))
	for key, s := range a.sessions {
		st := s.status()
		st.BFD = a.bfdStates[key]
		out = append(out, st)
	}
	slices.SortFunc(out, func(x, y Status) int { return x.Key.compare(y.Key) })
	for _, r := range a.refusals {
		out = append(out, Status{Key: Key{Peer: r.Peer}, Refusal: r})
	}
	return out
}
