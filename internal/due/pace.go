// SPDX-License-Identifier: Apache-2.0

package due

import "time"

// Pace lets things happen so often and no more. What was not used of it is
// saved up for a burst.
type Pace struct {
	every time.Duration
	burst time.Duration
	// free is when the next thing may happen if nothing were saved.
	free time.Time
}

// NewPace returns a Pace of so many a second, of which so many at once.
func NewPace(perSecond, burst int) Pace {
	every := time.Second / time.Duration(perSecond)
	return Pace{every: every, burst: every * time.Duration(burst-1)}
}

// Take reports whether one thing may happen now, and counts it if so.
func (p *Pace) Take(now time.Time) bool {
	if now.Before(p.Next()) {
		return false
	}
	if saved := now.Add(-p.burst); p.free.Before(saved) {
		p.free = saved
	}
	p.free = p.free.Add(p.every)
	return true
}

// Next returns when Take succeeds next.
func (p *Pace) Next() time.Time { return p.free }
