// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"math"
	"sync/atomic"
	"time"
)

// deadman is a time after which nobody is answered. It is read for each
// request.
type deadman struct {
	start time.Time
	until atomic.Int64 // nanoseconds since start
}

func newDeadman() *deadman {
	d := &deadman{start: time.Now()}
	d.until.Store(math.MaxInt64)
	return d
}

func (d *deadman) alive(now time.Time) bool { return int64(now.Sub(d.start)) <= d.until.Load() }

// set moves the time on, and returns false if it had passed. Whoever found it
// passed before has by then been told the time before this one looks at it.
func (d *deadman) set(t time.Time) bool {
	old := d.until.Swap(int64(t.Sub(d.start)))
	return int64(time.Since(d.start)) <= old
}
