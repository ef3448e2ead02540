// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"flag"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	schedules = flag.Int("schedules", 250, "random schedules to run")
	firstSeed = flag.Uint64("first-seed", 1, "seed of the first schedule")
	oneSeed   = flag.Uint64("seed", 0, "run this schedule only, and tell all of it")
)

// TestSchedules runs random schedules of failures in a simulated network and
// checks the invariants of docs/design/0004-mesh.md.
func TestSchedules(t *testing.T) {
	if *oneSeed != 0 {
		if broken := newSim(*oneSeed, t.Logf).play(); broken != "" {
			t.Errorf("seed %d: %s", *oneSeed, broken)
		}
		return
	}
	var next, failed, nodes atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(*schedules) || failed.Load() >= 20 {
					return
				}
				w := newSim(*firstSeed+uint64(i), nil)
				nodes.Add(int64(len(w.nodes)))
				if broken := w.play(); broken != "" {
					failed.Add(1)
					t.Errorf("%s (rerun by -run TestSchedules -seed %d)", broken, w.seed)
				}
			}
		})
	}
	wg.Wait()
	ran := min(next.Load(), int64(*schedules))
	t.Logf("%d schedules from seed %d with %d nodes in %v, %d broke", ran, *firstSeed, nodes.Load(), time.Since(began).Round(time.Millisecond), failed.Load())
}
