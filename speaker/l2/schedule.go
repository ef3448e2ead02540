// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"
)

const (
	// rounds of gratuitous ARP after a claim: a switch or a neighbour may miss
	// one.
	rounds = 3
	// roundInterval is between them. Linux neighbours ignore a change within
	// locktime, 1 s, of the one before.
	roundInterval = 1100 * time.Millisecond
	// minRefresh and refreshRate are how often a claim is repeated, so that
	// switches don't forget the port: every minute, but no more than
	// refreshRate addresses per second.
	minRefresh  = time.Minute
	refreshRate = 20
)

// schedule says which address to announce next. It is not safe for concurrent
// use and reads no clock.
type schedule struct {
	items map[netip.Addr]*item
	// fresh are yet to be announced for the first time, in order. They go
	// before any repetition.
	fresh []*item
	later repetitions
}

type item struct {
	addr  netip.Addr
	sent  int
	due   time.Time
	index int // in later, or notLater
}

const notLater = -1

// set makes addrs the addresses to announce. Those that stay keep their turn.
func (s *schedule) set(addrs owned) {
	for a, it := range s.items {
		if _, ok := addrs[a]; ok {
			continue
		}
		delete(s.items, a)
		if it.index != notLater {
			heap.Remove(&s.later, it.index)
		}
	}
	s.fresh = slices.DeleteFunc(s.fresh, func(it *item) bool { return s.items[it.addr] == nil })
	var added []netip.Addr
	for a := range addrs {
		if _, ok := s.items[a]; !ok {
			added = append(added, a)
		}
	}
	slices.SortFunc(added, netip.Addr.Compare)
	if s.items == nil {
		s.items = make(map[netip.Addr]*item, len(added))
	}
	for _, a := range added {
		it := &item{addr: a, index: notLater}
		s.items[a] = it
		s.fresh = append(s.fresh, it)
	}
}

// restart announces every address anew.
func (s *schedule) restart() {
	addrs := make(owned, len(s.items))
	for a := range s.items {
		addrs[a] = struct{}{}
	}
	*s = schedule{}
	s.set(addrs)
}

// take returns the address whose turn it is and counts it as announced now; or
// else how long to wait for the next. With nothing to announce at all, that is
// forever: a negative duration.
func (s *schedule) take(now time.Time) (addr netip.Addr, wait time.Duration, ok bool) {
	var it *item
	switch {
	case len(s.fresh) > 0:
		it = s.fresh[0]
		s.fresh = s.fresh[1:]
	case len(s.later) == 0:
		return netip.Addr{}, -1, false
	case s.later[0].due.After(now):
		return netip.Addr{}, s.later[0].due.Sub(now), false
	default:
		it = heap.Pop(&s.later).(*item)
	}
	it.sent++
	it.due = now.Add(roundInterval)
	if it.sent >= rounds {
		it.due = now.Add(max(minRefresh, time.Duration(len(s.items))*time.Second/refreshRate))
	}
	heap.Push(&s.later, it)
	return it.addr, 0, true
}

// repetitions is a heap by due time; equal ones are in the order of addresses.
type repetitions []*item

var _ heap.Interface = &repetitions{}

func (r repetitions) Len() int { return len(r) }

func (r repetitions) Less(i, j int) bool {
	if c := r[i].due.Compare(r[j].due); c != 0 {
		return c < 0
	}
	return r[i].addr.Less(r[j].addr)
}

func (r repetitions) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].index, r[j].index = i, j
}

func (r *repetitions) Push(x any) {
	it := x.(*item)
	it.index = len(*r)
	*r = append(*r, it)
}

func (r *repetitions) Pop() any {
	last := len(*r) - 1
	it := (*r)[last]
	(*r)[last] = nil
	*r = (*r)[:last]
	it.index = notLater
	return it
}
