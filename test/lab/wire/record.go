// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// record is what became of probes, in the order in which they were sent.
type record struct {
	mu     sync.Mutex
	probes []sent
}

type sent struct {
	at     time.Time
	done   bool
	answer string // empty if lost
}

// begin notes that a probe is sent, and returns its number.
func (r *record) begin(at time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probes = append(r.probes, sent{at: at})
	return len(r.probes) - 1
}

// end notes what became of a probe. What comes later doesn't count.
func (r *record) end(i int, answer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i >= 0 && i < len(r.probes) && !r.probes[i].done {
		r.probes[i].done, r.probes[i].answer = true, answer
	}
}

// sentAt is when a probe was sent.
func (r *record) sentAt(i int) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i < 0 || i >= len(r.probes) {
		return time.Time{}
	}
	return r.probes[i].at
}

// between tells of the probes that were sent from a time on and before another.
func (r *record) between(from, to time.Time) Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return summarise(slices.DeleteFunc(slices.Clone(r.probes), func(s sent) bool { return s.at.Before(from) || !s.at.Before(to) }))
}

// length is how many probes were sent so far.
func (r *record) length() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.probes)
}

// await waits until that many probes in a row, from one on, are answered.
func (r *record) await(ctx context.Context, from, n int) error {
	ticker := time.NewTicker(ProbeInterval)
	defer ticker.Stop()
	for {
		run, last := r.answered(from, n)
		if run >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the last was %s: %w", last, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// answered counts, from a probe on, how many were answered last, until there are enough.
func (r *record) answered(from, enough int) (run int, last string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last = "not sent"
	for _, s := range r.probes[from:] {
		if !s.done {
			break
		}
		if run++; s.answer == "" {
			run = 0
		}
		if last = "answered"; run == 0 {
			last = "lost"
		}
		if run >= enough {
			break
		}
	}
	return run, last
}

func summarise(probes []sent) Result {
	r := Result{Sent: len(probes), Answers: map[string]int{}}
	var darkSince time.Time
	for i, p := range probes {
		if p.answer == "" {
			if r.Lost++; r.Lost == 1 {
				r.First = p.at
			}
			if darkSince.IsZero() {
				darkSince = p.at
			}
		} else {
			r.Answers[p.answer]++
		}
		if !darkSince.IsZero() && (p.answer != "" || i == len(probes)-1) {
			r.Dark = max(r.Dark, p.at.Sub(darkSince))
			darkSince = time.Time{}
		}
	}
	return r
}
