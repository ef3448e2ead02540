// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// minInterval and maxInterval are those of the unsolicited advertisements
	// (RFC 4861, section 6.2.1: MinRtrAdvInterval is at most 3/4 of
	// MaxRtrAdvInterval). Routers send as often on unnumbered links.
	minInterval = maxInterval * 3 / 4
	maxInterval = 10 * time.Second
	// initial is how many advertisements a link begins with, as fast as any may
	// go to everybody (section 10: MAX_INITIAL_RTR_ADVERTISEMENTS and
	// MIN_DELAY_BETWEEN_RAS), so that one lost doesn't matter.
	initial  = 3
	minDelay = 3 * time.Second
	// maxAnswerDelay is MAX_RA_DELAY_TIME.
	maxAnswerDelay = 500 * time.Millisecond
	// maxAnswers bounds the solicitors that are answered alone.
	maxAnswers = 8
	// solicitations and solicitInterval are MAX_RTR_SOLICITATIONS and
	// RTR_SOLICITATION_INTERVAL.
	solicitations   = 3
	solicitInterval = 4 * time.Second
)

// sending is a message that is due.
type sending struct {
	kind kind
	to   netip.Addr
}

// answer is an advertisement to one solicitor. One that was sent is kept for a
// while, so that nobody has more from us by asking more.
type answer struct {
	to   netip.Addr
	at   time.Time
	sent bool
}

// schedule says when what is to be sent on a link.
type schedule struct {
	random func() float64 // of [0, 1)

	advertised  int       // to everybody, up to initial
	last        time.Time // when
	advertiseAt time.Time
	solicited   int
	solicitAt   time.Time // zero if there is no need any more
	answers     []answer
}

// newSchedule begins with an advertisement and a solicitation, at once. A wait
// before them, to keep the hosts of a link from speaking all together when
// its power comes back (section 6.3.7), is not worth its price here: an
// unnumbered link has two ends.
func newSchedule(now time.Time, random func() float64) *schedule {
	return &schedule{random: random, advertiseAt: now, solicitAt: now}
}

// pop returns the next message that is due, and counts it as sent.
func (s *schedule) pop(now time.Time) (sending, bool) {
	if !s.solicitAt.IsZero() && !s.solicitAt.After(now) {
		s.solicited++
		s.solicitAt = now.Add(solicitInterval)
		if s.solicited == solicitations {
			s.solicitAt = time.Time{}
		}
		return sending{solicitation, allRouters}, true
	}
	if !s.advertiseAt.After(now) {
		low, high := minInterval, maxInterval
		if s.advertised < initial {
			s.advertised++
		}
		if s.advertised < initial {
			low, high = minDelay, minDelay+maxAnswerDelay
		}
		s.last, s.advertiseAt = now, now.Add(s.between(low, high))
		return sending{advertisement, allNodes}, true
	}
	for i := range s.answers {
		if a := &s.answers[i]; !a.sent && !a.at.After(now) {
			a.sent = true
			return sending{advertisement, a.to}, true
		}
	}
	return sending{}, false
}

// next returns when something is due.
func (s *schedule) next() time.Time {
	at := s.advertiseAt
	at = earlier(at, s.solicitAt)
	for _, a := range s.answers {
		if !a.sent {
			at = earlier(at, a.at)
		}
	}
	return at
}

// asked answers a solicitation (RFC 4861, section 6.2.6): to the solicitor
// alone, for only what goes to everybody must wait for the one before; but to
// everybody if he has no address that is the link's, if he was answered just
// now, or if there are too many of him.
func (s *schedule) asked(from netip.Addr, now time.Time) {
	at := now.Add(s.between(0, maxAnswerDelay))
	s.answers = slices.DeleteFunc(s.answers, func(a answer) bool { return a.sent && now.Sub(a.at) >= minDelay })
	i := slices.IndexFunc(s.answers, func(a answer) bool { return a.to == from })
	switch {
	case i >= 0 && !s.answers[i].sent:
	case i < 0 && from.IsLinkLocalUnicast() && len(s.answers) < maxAnswers:
		s.answers = append(s.answers, answer{to: from, at: at})
	default:
		if soonest := s.last.Add(minDelay); at.Before(soonest) {
			at = soonest
		}
		s.advertiseAt = earlier(at, s.advertiseAt)
	}
}

// met ends the solicitations: a router was heard.
func (s *schedule) met() { s.solicitAt = time.Time{} }

func (s *schedule) between(low, high time.Duration) time.Duration {
	return low + time.Duration(s.random()*float64(high-low))
}

// earlier takes the zero Time for never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
