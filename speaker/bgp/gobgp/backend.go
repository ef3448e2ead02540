// SPDX-License-Identifier: Apache-2.0

// Package gobgp speaks BGP by GoBGP, a server for each session.
package gobgp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/go-logr/logr"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

var _ bgp.Backend = (*Backend)(nil)

// Backend makes sessions.
type Backend struct {
	log logr.Logger

	mu sync.Mutex
	// idle are servers without sessions. GoBGP never ends the goroutine of a
	// server, so they are used again.
	idle []*speaker
	// listening are the servers of passive sessions.
	listening map[socket]*speaker
	nextVRF   uint32
}

// socket is where passive sessions listen. They share it, and with it a server.
type socket struct {
	own    netip.Addr
	port   uint16
	device string
}

// New returns a Backend without sessions.
func New(log logr.Logger) *Backend {
	return &Backend{log: log, listening: map[socket]*speaker{}}
}

// Start begins a session: the routes first, and then the neighbour, because
// what is there when the session is established goes out as the first table.
func (b *Backend) Start(s bgp.Session, routes []bgp.Route, preserved bool, o bgp.Observer) (bgp.Conn, error) {
	sp, vrf, err := b.speaker(s)
	if err != nil {
		return nil, err
	}
	c := &conn{backend: b, speaker: sp, vrf: vrf, session: s, observer: o, preserved: preserved,
		poked: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{}),
	}
	sp.log.watch(s.Neighbor, c)
	if err := c.Update(s, routes, nil); err != nil {
		b.release(c)
		return nil, err
	}
	if err := c.add(); err != nil {
		b.release(c)
		return nil, err
	}
	go c.watch()
	return c, nil
}

// speaker returns the server for a session, and the VRF in it that has the
// session's routes.
func (b *Backend) speaker(s bgp.Session) (*speaker, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := identity{s.LocalASN, s.RouterID}
	if !s.Passive {
		sp := b.take(id)
		if err := sp.start(id, nil); err != nil {
			b.idle = append(b.idle, sp)
			return nil, "", err
		}
		return sp, "", nil
	}

	on := socket{s.Source, s.Port, s.BindInterface}
	if !on.own.IsValid() {
		on.own = netip.IPv4Unspecified()
		if s.Neighbor.Is6() {
			on.own = netip.IPv6Unspecified()
		}
	}
	sp := b.listening[on]
	if sp == nil {
		sp = b.take(id)
		if err := sp.start(id, &on); err != nil {
			b.idle = append(b.idle, sp)
			return nil, "", fmt.Errorf("listen on %s port %d: %w", on.own, on.port, err)
		}
		b.listening[on] = sp
	}
	b.nextVRF++
	vrf := fmt.Sprint(b.nextVRF)
	if err := sp.addVRF(vrf, b.nextVRF); err != nil {
		b.settle(sp)
		return nil, "", err
	}
	sp.sessions++
	return sp, vrf, nil
}

// take returns a server without sessions, if possible one that is already what
// it is to be.
func (b *Backend) take(id identity) *speaker {
	if len(b.idle) == 0 {
		return newSpeaker(b.log)
	}
	i := max(0, slices.IndexFunc(b.idle, func(sp *speaker) bool { return sp.identity == id }))
	sp := b.idle[i]
	b.idle = slices.Delete(b.idle, i, i+1)
	return sp
}

// release gives back the server of a session that is over.
func (b *Backend) release(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.speaker.log.watch(c.session.Neighbor, nil)
	if c.vrf != "" {
		c.speaker.deleteVRF(c.vrf)
		c.speaker.sessions--
	}
	b.settle(c.speaker)
}

// settle puts a server aside that has no session any more.
func (b *Backend) settle(sp *speaker) {
	if sp.sessions > 0 {
		return
	}
	maps.DeleteFunc(b.listening, func(_ socket, listening *speaker) bool { return listening == sp })
	sp.clear()
	b.idle = append(b.idle, sp)
}
