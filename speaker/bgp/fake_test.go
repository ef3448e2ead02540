// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// fake is a backend that prints its state.
type fake struct {
	mu    sync.Mutex
	log   []string
	conns map[Key]*fakeConn
	fails error
}

func newFake() *fake { return &fake{conns: map[Key]*fakeConn{}} }

type fakeConn struct {
	fake     *fake
	session  Session
	table    map[netip.Prefix]Route
	observer Observer
}

func (f *fake) note(format string, args ...any) { f.log = append(f.log, fmt.Sprintf(format, args...)) }

func (f *fake) Start(s Session, routes []Route, preserved bool, o Observer) (Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails != nil {
		return nil, f.fails
	}
	c := &fakeConn{fake: f, session: s, table: map[netip.Prefix]Route{}, observer: o}
	for _, r := range routes {
		c.table[r.Prefix] = r
	}
	f.conns[s.Key()] = c
	f.note("start %s %s preserved=%v", s.Name, s.Neighbor, preserved)
	return c, nil
}

func (c *fakeConn) Update(s Session, announce []Route, withdraw []netip.Prefix) {
	c.fake.mu.Lock()
	defer c.fake.mu.Unlock()
	if len(announce)+len(withdraw) > 0 {
		c.fake.note("update %s +%d -%d", s.Name, len(announce), len(withdraw))
	}
	c.session = s
	for _, r := range announce {
		c.table[r.Prefix] = r
	}
	for _, p := range withdraw {
		delete(c.table, p)
	}
}

func (c *fakeConn) Reset() {
	c.fake.mu.Lock()
	defer c.fake.mu.Unlock()
	c.fake.note("reset %s", c.session.Name)
}

func (c *fakeConn) Stop() {
	c.fake.mu.Lock()
	defer c.fake.mu.Unlock()
	c.fake.note("stop %s", c.session.Name)
	delete(c.fake.conns, c.session.Key())
}

// conn returns that with a peer.
func (f *fake) conn(peer string) *fakeConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, c := range f.conns {
		if k.Peer == peer {
			return c
		}
	}
	return nil
}

// did returns what was done since the last time.
func (f *fake) did() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := strings.Join(f.log, "\n")
	f.log = nil
	return out
}

// String is what routers have.
func (f *fake) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, k := range slices.SortedFunc(maps.Keys(f.conns), Key.compare) {
		c := f.conns[k]
		fmt.Fprintf(&b, "%s %s", k.Peer, k.Neighbor)
		for _, p := range slices.SortedFunc(maps.Keys(c.table), netip.Prefix.Compare) {
			r := c.table[p]
			fmt.Fprintf(&b, " %s", p)
			if len(r.Communities) > 0 {
				fmt.Fprintf(&b, " %x", r.Communities)
			}
			if r.LocalPref != nil {
				fmt.Fprintf(&b, " pref %d", *r.LocalPref)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
