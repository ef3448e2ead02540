// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// work is what a session is to do.
type work struct {
	session           Session
	routes            []Route
	marked, withdrawn bool
	// reset and stop are done once.
	reset, stop bool
}

// session does what it is told in a goroutine of its own, so that a router that
// is slow delays nobody.
type session struct {
	log      logr.Logger
	announce *Announcer
	key      Key
	counters counters
	wake     chan struct{}
	ended    chan struct{}

	mu     sync.Mutex
	work   work
	info   Info
	failed string
	at     time.Time
	routes int
	over   bool
}

func newSession(a *Announcer, s Session) *session {
	log := a.log.WithValues("peer", s.Name, "neighbor", s.Neighbor)
	return &session{
		log: log, announce: a, key: s.Key(),
		wake: make(chan struct{}, 1), ended: make(chan struct{}), info: Info{Since: time.Now()},
	}
}

// set changes what is to be done.
func (s *session) set(f func(*work)) {
	s.mu.Lock()
	f(&s.work)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) take() work {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.work
	s.work.reset = false
	return w
}

// run is over when the session was stopped.
func (s *session) run() {
	var conn Conn
	var done work
	var sent Table
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	defer retry.Stop()
	s.counters = s.announce.metrics.of(s.key)
	for {
		select {
		case <-s.wake:
		case <-retry.C:
		}
		w := s.take()
		if w.stop {
			if conn != nil {
				conn.Stop()
			}
			s.end()
			return
		}
		if conn != nil && slices.ContainsFunc(Changed(done.session, w.session), func(f Field) bool { return f.Resets }) {
			s.log.Info("Session begins anew because of an edit", "fields", names(Changed(done.session, w.session)))
			conn.Stop()
			conn = nil
		}
		if conn == nil {
			table := w.table()
			var err error
			if conn, err = s.announce.backend.Start(w.session, table, s.announce.restarted(w.session.Peer), s); err != nil {
				s.Failed(err.Error())
				retry.Reset(w.session.ConnectTime)
				continue
			}
			sent, done = table, w
			s.announced(len(sent))
			continue
		}
		if w.reset {
			conn.Reset()
		}
		if w.sameTable(done) {
			if len(Changed(done.session, w.session)) > 0 {
				conn.Update(w.session, nil, nil)
			}
			done = w
			continue
		}
		table := w.table()
		announce, withdraw := Diff(sent, table)
		if done.session.NextHop4 != w.session.NextHop4 || done.session.NextHop6 != w.session.NextHop6 {
			announce = table
		}
		conn.Update(w.session, announce, withdraw)
		sent, done = table, w
		s.announced(len(sent))
	}
}

func (w work) table() Table {
	if w.withdrawn {
		return nil
	}
	return w.session.tableOf(w.routes, w.marked)
}

// sameTable tells that a look at the routes would find nothing new.
func (w work) sameTable(o work) bool {
	same := len(w.routes) == len(o.routes) && (len(w.routes) == 0 || &w.routes[0] == &o.routes[0])
	return same && w.marked == o.marked && w.withdrawn == o.withdrawn &&
		w.session.NextHop4 == o.session.NextHop4 && w.session.NextHop6 == o.session.NextHop6
}

func names(fields []Field) []string {
	var out []string
	for _, f := range fields {
		if f.Resets {
			out = append(out, f.Name)
		}
	}
	return out
}

func (s *session) announced(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.routes = n
	s.counters.routes.Set(float64(n))
}

// waiting tells that the session is not being established just now.
func (s *session) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info.State < OpenSent
}

func (s *session) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Key: s.key, Info: s.info, LastError: s.failed, LastErrorAt: s.at}
	if s.info.State == Established {
		st.Routes = s.routes
	}
	return st
}

// State is told by the backend.
func (s *session) State(i Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.info == i {
		return
	}
	was := s.info.State == Established
	s.info = i
	switch is := i.State == Established; {
	case is && !was:
		s.counters.up.Set(1)
		s.counters.established.Inc()
		s.log.Info("Session established", "asn", i.ASN, "families", i.Families.String())
	case was && !is:
		s.counters.up.Set(0)
		s.log.Info("Session lost", "cause", s.failed)
	}
	s.announce.tellChanged()
}

// Failed is told by the backend.
func (s *session) Failed(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.at = time.Now()
	if s.failed == message {
		return
	}
	s.failed = message
	s.log.V(1).Info("No session", "cause", message)
	s.announce.tellChanged()
}

// Notified is told by the backend.
func (s *session) Notified(n Notification) {
	if n.Sent {
		s.counters.notificationsSent.Inc()
	} else {
		s.counters.notificationsReceived.Inc()
	}
	s.Failed(n.String())
}

// UpdateSent is told by the backend.
func (s *session) UpdateSent() { s.counters.updates.Inc() }

// end takes the session out of the metrics. What the backend still tells of it
// counts no more.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.announce.metrics.forget(s.key)
}
