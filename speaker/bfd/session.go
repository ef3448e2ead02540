// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"math/rand/v2"
	"time"

	"github.com/fairlead-lb/fairlead/internal/due"
)

const (
	// slow is the least interval between packets of a session that is not Up
	// (RFC 5880, section 6.8.3).
	slow = time.Second
	// unscheduled is how many packets beside the periodic ones a second are
	// sent: Finals, and news of the own state. A neighbour that is not at fault
	// never needs as many.
	unscheduled      = 100
	unscheduledBurst = 10
)

// intervals are bfd.DesiredMinTxInterval and bfd.RequiredMinRxInterval.
type intervals struct{ tx, rx time.Duration }

// session is one, after RFC 5880, section 6.8, in asynchronous mode. It
// has no socket and no clock: its methods are told the time and return at most
// one packet to send. After each of them next says when tick is due.
type session struct {
	timers  Timers
	passive bool
	rand    *rand.Rand

	state        State
	diag         Diag
	since        time.Time // of the state
	downs        uint64    // how often it left Up
	local        uint32    // the own discriminator
	remote       uint32    // 0 if the neighbour is not known
	remoteState  State
	remoteDiag   Diag
	remoteMult   uint8
	remoteDemand bool
	remoteTimers intervals

	// told is what packets say of the own intervals; while a poll sequence
	// runs it doesn't change. used is what counts until its end: the
	// neighbour may not know better yet.
	told, used intervals
	// cover is the detection time that the neighbour is to have at least.
	cover time.Duration

	polling bool
	polls   int       // packets of the sequence
	polled  time.Time // the first one
	repoll  time.Time // no sequence begins before: Finals of the last one may be under way

	sent   time.Time // the last packet but Finals
	jitter float64   // the part of the interval to wait after it
	heard  time.Time // the last packet of the neighbour
	awake  time.Time // when the process was able to listen again
	quiet  time.Time // nothing is sent before: a neighbour may be heard that is Up
	urgent bool      // there is news of the own side that no packet told yet
	pace   due.Pace
}

// newSession returns a session that is Down. For as long as c.Adopt says it
// sends nothing and can adopt.
func newSession(now time.Time, c Config, local uint32, r *rand.Rand) *session {
	s := &session{
		timers: c.Timers, passive: c.Passive, rand: r,
		state: Down, since: now, local: local, quiet: now.Add(c.Adopt),
		pace: due.NewPace(unscheduled, unscheduledBurst),
	}
	s.forget()
	s.sync(now)
	return s
}

// forget is for when the neighbour has been silent for the detection time.
func (s *session) forget() {
	s.remote = 0
	s.remoteState, s.remoteDiag = Down, NoDiagnostic
	s.remoteDemand = false
	s.remoteTimers = intervals{rx: time.Microsecond}
}

// receive is told a packet that decode found good and that is for this session.
// at is when the kernel had it.
func (s *session) receive(now, at time.Time, p *packet) (out packet, send bool, dropped reason) {
	s.remote = p.my
	s.remoteState, s.remoteDiag = p.state, p.diag
	s.remoteMult = p.multiplier
	s.remoteDemand = p.demand
	s.remoteTimers = intervals{tx: p.desiredMinTx, rx: p.requiredMinRx}
	if p.final && s.polling {
		s.endPoll(now)
	}
	if s.state == AdminDown {
		return out, false, dropAdminDown
	}
	s.heard = latest(s.heard, at)
	s.quiet = earliest(s.quiet, now)

	switch {
	case p.state == AdminDown:
		if s.state != Down {
			s.change(now, Down, NeighborSignalled)
		}
	case s.state == Down:
		switch p.state {
		case Down:
			s.change(now, Init, s.diag)
		case Init:
			s.change(now, Up, NoDiagnostic)
		}
	case s.state == Init:
		if p.state == Init || p.state == Up {
			s.change(now, Up, NoDiagnostic)
		}
	case s.state == Up:
		if p.state == Down {
			s.change(now, Down, NeighborSignalled)
		}
	}
	s.sync(now)
	out, send = s.atOnce(now, p.poll)
	return out, send, taken
}

// adoptable tells whether the packet, whose Your Discriminator nobody has, is
// from a neighbour that is Up with the process before this one.
func (s *session) adoptable(now time.Time, p *packet) bool {
	return s.state == Down && s.remote == 0 && now.Before(s.quiet) && p.state == Up && p.your != 0
}

// adopt goes on where the process before this one ended. What that one said of
// its intervals is not known: a poll sequence tells the own ones, and until its
// end the neighbour is given the slowest it may have been asked for.
func (s *session) adopt(now, at time.Time, p *packet) (out packet, send bool) {
	s.local = p.your
	s.change(now, Up, NoDiagnostic)
	s.told = intervals{}
	s.used = intervals{tx: s.timers.Transmit, rx: max(s.timers.Receive, slow)}
	out, send, _ = s.receive(now, at, p)
	return out, send
}

// tick does what is due.
func (s *session) tick(now time.Time) (out packet, send bool) {
	if s.remote != 0 && !now.Before(s.deadline()) {
		if s.state == Init || s.state == Up {
			// Said to the neighbour, before it is forgotten: it may hear this
			// although it isn't heard, and a passive session says no more.
			s.change(now, Down, DetectionExpired)
			s.sync(now)
			out, send = s.atOnce(now, false)
		}
		s.forget()
		return out, send
	}
	s.sync(now)
	if s.transmits() && !now.Before(s.transmitAt()) {
		return s.compose(now, false), true
	}
	return s.atOnce(now, false)
}

// next is when tick is due, zero if never.
func (s *session) next() time.Time {
	var at time.Time
	if s.remote != 0 {
		at = s.deadline()
	}
	if s.transmits() {
		at = earliest(at, s.transmitAt())
	}
	if s.state == Up && !s.polling && s.told != s.wanted() {
		at = earliest(at, s.repoll)
	}
	return at
}

// wake is told that the process was unable to listen until now, if what came
// meanwhile has been received. The neighbour may have been as unable: it gets
// the time of one more packet, once until it is heard.
func (s *session) wake(now time.Time) {
	if s.awake.Before(s.heard) {
		s.awake = now
	}
}

// configure changes what can be changed without a new session.
func (s *session) configure(now time.Time, c Config) (out packet, send bool) {
	s.timers, s.passive = c.Timers, c.Passive
	s.sync(now)
	return s.atOnce(now, false)
}

// enable ends disable.
func (s *session) enable(now time.Time) {
	if s.state == AdminDown {
		s.change(now, Down, NoDiagnostic)
		s.sync(now)
	}
}

// disable ends the session by the operator's will.
func (s *session) disable(now time.Time) (out packet, send bool) {
	s.change(now, AdminDown, AdministrativeDown)
	s.sync(now)
	return s.atOnce(now, false)
}

// setCover has the neighbour wait for at least so long before it takes silence
// for a failure, and 0 takes that back. It takes effect when covered says so.
func (s *session) setCover(now time.Time, d time.Duration) (out packet, send bool) {
	s.cover = d
	s.sync(now)
	return s.atOnce(now, false)
}

// covered tells whether the neighbour knows the intervals that are wanted now.
// One that is not Up has nothing to lose.
func (s *session) covered() bool {
	return s.state != Up || !s.polling && s.told == s.wanted()
}

func (s *session) change(now time.Time, to State, d Diag) {
	if s.state == Up && to != Up {
		s.downs++
	}
	s.state, s.diag, s.since = to, d, now
	s.urgent = true
	s.polling = false
}

// wanted are the intervals that packets should tell.
func (s *session) wanted() intervals {
	w := intervals{tx: s.timers.Transmit, rx: s.timers.Receive}
	if s.cover > 0 {
		least := s.cover/time.Duration(s.timers.Multiplier) + time.Microsecond
		w.tx = min(max(w.tx, least), longest)
	}
	if s.state != Up {
		w.tx = max(w.tx, slow)
	}
	// As they are on the wire.
	return intervals{tx: w.tx.Truncate(time.Microsecond), rx: w.rx.Truncate(time.Microsecond)}
}

// sync has packets tell what is wanted: at once unless the session is Up, else
// by a poll sequence, until whose end the own packets don't become rarer and
// the neighbour's are not expected more often (RFC 5880, section 6.8.3).
func (s *session) sync(now time.Time) {
	w := s.wanted()
	switch {
	case s.polling || s.told == w:
	case s.state != Up:
		s.told, s.used = w, w
	case !now.Before(s.repoll):
		s.told = w
		s.used = intervals{tx: min(s.used.tx, w.tx), rx: max(s.used.rx, w.rx)}
		s.polling, s.polls, s.polled = true, 0, now
		s.urgent = true
	}
}

// endPoll ends a poll sequence. If it took several packets, more Finals may be
// under way, for no longer than this one took; they must not end the next one.
func (s *session) endPoll(now time.Time) {
	if s.polls == 0 {
		return // it answers an earlier sequence
	}
	s.polling = false
	s.used = s.told
	if s.polls > 1 {
		s.repoll = now.Add(now.Sub(s.polled))
	}
}

// transmits tells whether packets are sent periodically (RFC 5880, section 6.8.7).
func (s *session) transmits() bool {
	demanded := s.remoteDemand && s.state == Up && s.remoteState == Up && !s.polling
	return s.remoteTimers.rx != 0 && !(s.passive && s.remote == 0) && !demanded
}

// transmitAt is when the next periodic packet goes out.
func (s *session) transmitAt() time.Time {
	return latest(s.sent.Add(time.Duration(float64(s.transmitInterval())*s.jitter)), s.quiet)
}

func (s *session) transmitInterval() time.Duration { return max(s.used.tx, s.remoteTimers.rx) }

// detection is how long the neighbour may be silent.
func (s *session) detection() time.Duration {
	return time.Duration(s.remoteMult) * max(s.used.rx, s.remoteTimers.tx)
}

// remoteDetection is how long the neighbour lets this side be silent.
func (s *session) remoteDetection() time.Duration {
	return time.Duration(s.timers.Multiplier) * max(s.told.tx, s.remoteTimers.rx)
}

func (s *session) deadline() time.Time {
	return latest(s.heard.Add(s.detection()), s.awake.Add(s.detection()/time.Duration(s.remoteMult)))
}

// atOnce returns a packet that is not to wait for its turn, if there is one: a
// Final, or news for a neighbour that is known.
func (s *session) atOnce(now time.Time, final bool) (out packet, send bool) {
	if news := s.urgent && s.remote != 0; !final && !news || !s.pace.Take(now) {
		return out, false
	}
	return s.compose(now, final), true
}

// compose makes a packet. A Final leaves the turns as they are.
func (s *session) compose(now time.Time, final bool) packet {
	s.urgent = false
	if !final {
		s.sent = now
		s.jitter = 0.75 + 0.25*s.rand.Float64()
		if s.timers.Multiplier == 1 {
			s.jitter = 0.75 + 0.15*s.rand.Float64()
		}
		if s.polling {
			s.polls++
		}
	}
	return packet{
		diag: s.diag, state: s.state, poll: s.polling && !final, final: final,
		multiplier: s.timers.Multiplier, my: s.local, your: s.remote,
		desiredMinTx: s.told.tx, requiredMinRx: s.told.rx,
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// earliest is of those that are not zero.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
