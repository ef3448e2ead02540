// SPDX-License-Identifier: Apache-2.0

package due

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

var start = time.Unix(1000, 0)

// A queue does what a map of times does.
func TestQueueIsAMap(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		var q Queue[int]
		m := map[int]time.Time{}
		for now, i := start, 0; i < 2000; i++ {
			switch key := r.IntN(40); r.IntN(4) {
			case 0, 1:
				at := now.Add(time.Duration(r.IntN(50)) * time.Millisecond)
				q.Set(key, at)
				m[key] = at
			case 2:
				q.Remove(key)
				delete(m, key)
			default:
				now = now.Add(time.Duration(r.IntN(10)) * time.Millisecond)
				got, ok := q.Pop(now)
				var first time.Time
				for _, at := range m {
					if first.IsZero() || at.Before(first) {
						first = at
					}
				}
				if want := !first.IsZero() && !first.After(now); ok != want {
					t.Fatalf("seed %d: popped %v, want %v", seed, ok, want)
				}
				if ok {
					if !m[got].Equal(first) {
						t.Fatalf("seed %d: popped what is due at %v, and something is at %v", seed, m[got], first)
					}
					delete(m, got)
				}
			}
			if q.Len() != len(m) {
				t.Fatalf("seed %d: %d keys, want %d", seed, q.Len(), len(m))
			}
		}
	}
}

func TestEmptyQueueIsNeverDue(t *testing.T) {
	var q Queue[string]
	if _, ok := q.Pop(start); ok || !q.Next().IsZero() {
		t.Error("something is due")
	}
	q.Remove("what is not there")
}

func TestPace(t *testing.T) {
	p := NewPace(10, 3)
	taken := func(now time.Time) (n int) {
		for p.Take(now) {
			n++
		}
		return n
	}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 3}, {99 * time.Millisecond, 0}, {100 * time.Millisecond, 1}, {300 * time.Millisecond, 2}, {time.Hour, 3}} {
		if got := taken(start.Add(step.after)); got != step.want {
			t.Errorf("after %v %d, want %d", step.after, got, step.want)
		}
	}
	if next := p.Next(); !next.Equal(start.Add(time.Hour + 100*time.Millisecond)) {
		t.Errorf("next at %v", next)
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begin := time.Now()
		if !Wait(ctx, time.Second) || time.Since(begin) != time.Second {
			t.Errorf("it ended after %v", time.Since(begin))
		}
		if Wait(ctx, time.Hour) || time.Since(begin) != 2*time.Second {
			t.Errorf("it outlasted its context: %v", time.Since(begin))
		}
	})
}
