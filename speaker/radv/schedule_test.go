// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var start = time.Unix(1000, 0)

// sent is what went out when, in seconds after the start.
type sent struct {
	At   float64
	Kind kind
	To   netip.Addr
}

// play runs a schedule up to a time, and calls at at its moments.
func play(s *schedule, until time.Duration, moments map[time.Duration]func(now time.Time)) (out []sent) {
	for at := time.Duration(0); at <= until; at += 50 * time.Millisecond {
		now := start.Add(at)
		if f := moments[at]; f != nil {
			f(now)
		}
		for m, ok := s.pop(now); ok; m, ok = s.pop(now) {
			out = append(out, sent{at.Seconds(), m.kind, m.to})
		}
	}
	return out
}

func TestSchedule(t *testing.T) {
	const half = 0.5
	everybody := func(at float64) sent { return sent{at, advertisement, allNodes} }
	ask := func(at float64) sent { return sent{at, solicitation, allRouters} }
	alone := func(at float64) sent { return sent{at, advertisement, routerLL} }
	for name, tt := range map[string]struct {
		until   time.Duration
		moments func(s *schedule) map[time.Duration]func(time.Time)
		want    []sent
	}{
		"three advertisements and solicitations come fast, then advertisements go on": {
			until: 25 * time.Second,
			want:  []sent{ask(0), everybody(0), everybody(3.25), ask(4), everybody(6.5), ask(8), everybody(15.25), everybody(24)},
		},
		"nobody is solicited any more once a router was heard": {
			until: 9 * time.Second,
			moments: func(s *schedule) map[time.Duration]func(time.Time) {
				return map[time.Duration]func(time.Time){time.Second: func(time.Time) { s.met() }}
			},
			want: []sent{ask(0), everybody(0), everybody(3.25), everybody(6.5)},
		},
		"who solicits is answered alone, soon, and once": {
			until: 3 * time.Second,
			moments: func(s *schedule) map[time.Duration]func(time.Time) {
				asked := func(now time.Time) { s.asked(routerLL, now) }
				return map[time.Duration]func(time.Time){time.Second: asked, 1100 * time.Millisecond: asked}
			},
			want: []sent{ask(0), everybody(0), alone(1.25)},
		},
		"who solicits again is answered with all, not before everybody may be": {
			until: 11 * time.Second,
			moments: func(s *schedule) map[time.Duration]func(time.Time) {
				asked := func(now time.Time) { s.asked(routerLL, now) }
				return map[time.Duration]func(time.Time){7 * time.Second: asked, 8 * time.Second: asked}
			},
			want: []sent{ask(0), everybody(0), everybody(3.25), ask(4), everybody(6.5), alone(7.25), ask(8), everybody(9.5)},
		},
		"who has no address on the link is answered with all": {
			until: 13 * time.Second,
			moments: func(s *schedule) map[time.Duration]func(time.Time) {
				asked := func(now time.Time) { s.asked(netip.IPv6Unspecified(), now) }
				return map[time.Duration]func(time.Time){12 * time.Second: asked}
			},
			want: []sent{ask(0), everybody(0), everybody(3.25), ask(4), everybody(6.5), ask(8), everybody(12.25)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSchedule(start, func() float64 { return half })
			var moments map[time.Duration]func(time.Time)
			if tt.moments != nil {
				moments = tt.moments(s)
			}
			got := play(s, tt.until, moments)
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// However many ask, and however often, everybody is advertised to no more than
// each three seconds and no less than each ten, and the rest is bounded.
func TestScheduleUnderAFlood(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		s := newSchedule(start, r.Float64)
		moments := map[time.Duration]func(time.Time){}
		const until = 5 * time.Minute
		for range 5000 {
			at := time.Duration(r.Int64N(int64(until/50/time.Millisecond))) * 50 * time.Millisecond
			from := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(r.IntN(100))})
			moments[at] = func(now time.Time) { s.asked(from, now) }
		}
		last, alone := -1.0, 0
		for _, m := range play(s, until, moments) {
			switch {
			case m.Kind == solicitation:
			case m.To != allNodes:
				alone++
			default:
				if gap := m.At - last; last >= 0 && (gap < minDelay.Seconds() || gap > maxInterval.Seconds()+0.1) {
					t.Fatalf("seed %d: after %vs one at %vs", seed, last, m.At)
				}
				last = m.At
			}
		}
		if limit := maxAnswers * int(until/minDelay+1); alone == 0 || alone > limit {
			t.Errorf("seed %d: %d answers to one alone, want up to %d", seed, alone, limit)
		}
	}
}

func TestNextIsWhenSomethingIsDue(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	s := newSchedule(start, r.Float64)
	now := start
	for i := range 1000 {
		for _, ok := s.pop(now); ok; _, ok = s.pop(now) {
		}
		next := s.next()
		if !next.After(now) {
			t.Fatalf("step %d: something is due that was not returned", i)
		}
		if _, ok := s.pop(next.Add(-1)); ok {
			t.Fatalf("step %d: something was due earlier", i)
		}
		now = next
		if i%3 == 0 {
			s.asked(routerLL, now)
		}
	}
}
