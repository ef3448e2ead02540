// SPDX-License-Identifier: Apache-2.0

// Package gobgp speaks BGP, in the messages of GoBGP.
package gobgp

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

var _ bgp.Backend = (*Backend)(nil)

// Backend makes sessions.
type Backend struct {
	mu sync.Mutex
	// listeners are those of passive sessions, which share them.
	listeners map[socket]*listener
}

// New returns a Backend without sessions.
func New() *Backend { return &Backend{listeners: map[socket]*listener{}} }

// Start begins a session.
func (b *Backend) Start(s bgp.Session, routes []bgp.Route, preserved bool, o bgp.Observer) (bgp.Conn, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &conn{
		observer: o, cancel: cancel, done: make(chan struct{}),
		resets: make(chan struct{}, 1), accepted: make(chan net.Conn, 1), changes: make(chan struct{}, 1),
		session: s, table: make(map[netip.Prefix]bgp.Route, len(routes)), changed: map[netip.Prefix]bool{},
		preserved: preserved, restarting: preserved,
	}
	for _, r := range routes {
		c.table[r.Prefix] = r
	}
	if s.Passive {
		leave, err := b.listen(s, c.accepted)
		if err != nil {
			cancel()
			return nil, err
		}
		c.leave = leave
	}
	go c.run(ctx)
	return c, nil
}
