// SPDX-License-Identifier: Apache-2.0

// Package radv meets routers on unnumbered links by router advertisements (RFC 4861).
package radv

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Advertiser tells routers our link-local addresses and learns theirs, so that
// BGP sessions need only the name of an interface.
//
// It makes nobody route through us: its advertisements have a lifetime of 0 and
// no prefix. It makes no routes either: what the kernel does with a router's
// advertisements is the kernel's.
//
// A router is remembered until its link goes down or is another, until it gives
// itself another address, or for half an hour of silence. The lifetime
// that it advertises doesn't matter.
type Advertiser struct {
	log     logr.Logger
	changed func()
	metrics metrics
	listen  func(place) (conn, error)
	random  func() float64

	mu    sync.Mutex
	ports map[place]*port
	// told are the links whose trouble was logged.
	told map[place]string
}

// place is an interface. One that was made anew has another index.
type place struct {
	index int
	name  string
}

// identity is how we appear on a link.
type identity struct {
	source netip.Addr
	mac    link.MAC
}

// conn sends and receives on one interface.
type conn interface {
	// receive waits for a packet, whose payload is in buf. Its error is
	// os.ErrDeadlineExceeded when it is time, and errTooLong if the packet
	// doesn't fit.
	receive(buf []byte, until time.Time) (packet, error)
	send(b []byte, from, to netip.Addr) error
	close() error
}

// New returns an Advertiser that does nothing before Set. It calls changed, from
// any goroutine, after Routers would return something else; changed may call the
// Advertiser's methods.
func New(log logr.Logger, reg prometheus.Registerer, changed func()) *Advertiser {
	return &Advertiser{
		log: log, changed: changed, metrics: newMetrics(reg), listen: listen, random: rand.Float64,
		ports: map[place]*port{}, told: map[place]string{},
	}
}

// Set makes links those that are advertised on. One that is down, or has no
// link-local address yet, waits for a Set in which it has. A link that
// can't be used is logged once and tried again by the next Set, which it
// reports by false. Nobody may change links afterwards.
func (a *Advertiser) Set(links []link.Link) bool {
	complete, changed := a.set(links)
	if changed {
		a.changed()
	}
	return complete
}

func (a *Advertiser) set(links []link.Link) (complete, changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	wanted := map[place]link.Link{}
	for _, l := range links {
		if l.Up && l.LinkLocal().IsValid() {
			wanted[place{l.Index, l.Name}] = l
		}
	}
	for at, p := range a.ports {
		if _, ok := wanted[at]; !ok {
			changed = changed || len(p.routers) > 0
			p.close()
			delete(a.ports, at)
		}
	}
	for at := range a.told {
		if _, ok := wanted[at]; !ok {
			delete(a.told, at)
		}
	}
	complete = true
	for at, l := range wanted {
		as, old := identity{l.LinkLocal(), l.MAC}, a.ports[at]
		if old != nil {
			old.own = l.Addrs
			if old.as == as {
				continue
			}
		}
		p, err := a.open(at, as)
		if err != nil {
			complete = false
			if a.told[at] != err.Error() {
				a.told[at] = err.Error()
				a.log.Error(err, "Can't meet routers on interface, trying again", "interface", at.name)
			}
			continue
		}
		delete(a.told, at)
		p.own = l.Addrs
		if old != nil {
			// We changed, not the routers.
			p.routers = old.routers
			old.close()
		}
		a.ports[at] = p
		p.start()
	}
	return complete, changed
}

// Routers returns the link-local addresses, without zones and sorted, of the
// routers heard on each link, by its name.
func (a *Advertiser) Routers() map[string][]netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string][]netip.Addr{}
	for at, p := range a.ports {
		if len(p.routers) > 0 {
			out[at.name] = p.routers.addrs()
		}
	}
	return out
}

// Close falls silent and forgets all routers.
func (a *Advertiser) Close() { a.Set(nil) }

func (a *Advertiser) open(at place, as identity) (*port, error) {
	p := &port{
		a: a, at: at, as: as, routers: routers{}, schedule: newSchedule(time.Now(), a.random), count: a.metrics.of(at.name),
		log: a.log.WithValues("interface", at.name), messages: map[kind][]byte{},
	}
	for _, k := range [...]kind{solicitation, advertisement} {
		b, err := compose(k, as.mac)
		if err != nil {
			return nil, fmt.Errorf("compose router %v: %w", k, err)
		}
		p.messages[k] = b
	}
	c, err := a.listen(at)
	if err != nil {
		return nil, fmt.Errorf("open ICMPv6 socket on %s: %w", at.name, err)
	}
	p.conn = c
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p, nil
}
