// SPDX-License-Identifier: Apache-2.0

// Package due says when something is to be done: in which order, how often, and after what wait.
package due

import (
	"container/heap"
	"time"
)

// Queue has one time for each key. Its zero value is empty. It is not safe for
// concurrent use.
type Queue[K comparable] struct {
	order  order[K]
	places map[K]*place[K]
}

type place[K comparable] struct {
	key   K
	at    time.Time
	index int
}

// Set has key due at a time, instead of at any other.
func (q *Queue[K]) Set(key K, at time.Time) {
	if p := q.places[key]; p != nil {
		p.at = at
		heap.Fix(&q.order, p.index)
		return
	}
	if q.places == nil {
		q.places = map[K]*place[K]{}
	}
	p := &place[K]{key: key, at: at}
	q.places[key] = p
	heap.Push(&q.order, p)
}

// Remove has key due never.
func (q *Queue[K]) Remove(key K) {
	if p := q.places[key]; p != nil {
		heap.Remove(&q.order, p.index)
		delete(q.places, key)
	}
}

// Next returns when the first key is due, the zero time if none is.
func (q *Queue[K]) Next() time.Time {
	if len(q.order) == 0 {
		return time.Time{}
	}
	return q.order[0].at
}

// First returns the key that has been due for longest, false if none is due by
// now.
func (q *Queue[K]) First(now time.Time) (key K, ok bool) {
	if len(q.order) == 0 || q.order[0].at.After(now) {
		return key, false
	}
	return q.order[0].key, true
}

// Pop removes and returns what First does.
func (q *Queue[K]) Pop(now time.Time) (key K, ok bool) {
	if key, ok = q.First(now); ok {
		q.Remove(key)
	}
	return key, ok
}

// Len returns how many keys are in the queue.
func (q *Queue[K]) Len() int { return len(q.order) }

type order[K comparable] []*place[K]

func (o order[K]) Len() int           { return len(o) }
func (o order[K]) Less(i, j int) bool { return o[i].at.Before(o[j].at) }

func (o order[K]) Swap(i, j int) {
	o[i], o[j] = o[j], o[i]
	o[i].index, o[j].index = i, j
}

func (o *order[K]) Push(p any) {
	place := p.(*place[K])
	place.index = len(*o)
	*o = append(*o, place)
}

func (o *order[K]) Pop() any {
	last := (*o)[len(*o)-1]
	(*o)[len(*o)-1] = nil
	*o = (*o)[:len(*o)-1]
	return last
}
