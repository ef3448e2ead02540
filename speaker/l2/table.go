// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// askedFor is how long the answers to a question are looked for.
const askedFor = 3 * time.Second

// answerAs is how an address is answered for: with the MAC of another station,
// or if there is none, with our own.
type answerAs struct{ mac link.MAC }

func (a answerAs) ours() bool { return a.mac == link.MAC{} }

// table is what an interface answers for and asked for, in one family. It is
// safe for concurrent use.
type table struct {
	mu    sync.RWMutex
	owned map[netip.Addr]answerAs
	asked map[netip.Addr]time.Time // until when
}

func newTable() table {
	return table{owned: map[netip.Addr]answerAs{}, asked: map[netip.Addr]time.Time{}}
}

// concerns tells whether it is of interest where an address is.
func (t *table) concerns(addr netip.Addr, now time.Time) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if _, ok := t.owned[addr]; ok {
		return true
	}
	until, ok := t.asked[addr]
	return ok && now.Before(until)
}

// wonders tells whether an address was asked for and is not answered for here.
func (t *table) wonders(addr netip.Addr, now time.Time) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, owned := t.owned[addr]
	until, ok := t.asked[addr]
	return ok && !owned && now.Before(until)
}

// ask makes an address one that was asked for now.
func (t *table) ask(addr netip.Addr, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for a, until := range t.asked {
		if !now.Before(until) {
			delete(t.asked, a)
		}
	}
	t.asked[addr] = now.Add(askedFor)
}

// own reports whether the address was not owned before.
func (t *table) own(addr netip.Addr, as answerAs) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.owned[addr]
	t.owned[addr] = as
	return !ok
}

// drop reports whether the address was owned before.
func (t *table) drop(addr netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.owned[addr]
	delete(t.owned, addr)
	return ok
}

func (t *table) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.owned)
}

func (t *table) size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.owned)
}
