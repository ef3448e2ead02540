// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"container/heap"
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	// rounds of announcements after a claim: a switch or a neighbour may miss
	// one. It is also the most that RFC 4861, section 7.2.6, allows.
	rounds = 3
	// roundInterval is between them. Linux neighbours ignore a change within
	// locktime, 1 s, of the one before, and RFC 4861 wants as much.
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

// add announces an address that isn't announced yet.
func (s *schedule) add(addr netip.Addr) {
	if s.items[addr] != nil {
		return
	}
	if s.items == nil {
		s.items = map[netip.Addr]*item{}
	}
	it := &item{addr: addr, index: notLater}
	s.items[addr] = it
	s.fresh = append(s.fresh, it)
}

func (s *schedule) remove(addr netip.Addr) {
	it := s.items[addr]
	if it == nil {
		return
	}
	delete(s.items, addr) // take skips it if it is fresh
	if it.index != notLater {
		heap.Remove(&s.later, it.index)
	}
}

func (s *schedule) removeFamily(f Family) {
	for addr := range s.items {
		if FamilyOf(addr) == f {
			s.remove(addr)
		}
	}
}

// again announces an address anew, if it is announced at all. One that waits
// for its first turn keeps it, however often it is asked for.
func (s *schedule) again(addr netip.Addr) {
	if it := s.items[addr]; it != nil && it.sent > 0 {
		s.remove(addr)
		s.add(addr)
	}
}

// restart announces every address anew.
func (s *schedule) restart() {
	addrs := slices.SortedFunc(maps.Keys(s.items), netip.Addr.Compare)
	*s = schedule{}
	for _, a := range addrs {
		s.add(a)
	}
}

// take returns the address whose turn it is and counts it as announced now; or
// else how long to wait for the next. With nothing to announce at all, that is
// forever: a negative duration.
func (s *schedule) take(now time.Time) (addr netip.Addr, wait time.Duration, ok bool) {
	for len(s.fresh) > 0 && s.items[s.fresh[0].addr] != s.fresh[0] {
		s.fresh = s.fresh[1:] // removed since
	}
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
