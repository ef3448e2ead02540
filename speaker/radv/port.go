// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/go-logr/logr"

	"github.com/fairlead-lb/fairlead/internal/due"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// maxReceived is more than any Ethernet frame holds.
	maxReceived = 16 << 10
	// readRetry is the wait after an error that the kernel should not give.
	readRetry = time.Second
)

// port is a link that is advertised on. One goroutine sends and receives.
type port struct {
	a        *Advertiser
	log      logr.Logger
	at       place
	as       identity
	conn     conn
	messages map[kind][]byte
	count    counters
	ctx      context.Context // done when the port is closed
	stop     context.CancelFunc

	// Guarded by the Advertiser's mu.
	routers routers
	own     []netip.Addr

	// Only the goroutine knows these.
	schedule *schedule
	failing  string // what sending failed with last
}

func (p *port) start() { go p.run() }

// close doesn't wait for the goroutine, which may be about to call changed.
func (p *port) close() {
	p.stop()
	p.count.routers.Set(0)
	if err := p.conn.close(); err != nil {
		p.log.Error(err, "Can't close ICMPv6 socket")
	}
}

func (p *port) run() {
	buf := make([]byte, maxReceived)
	for {
		for s, ok := p.schedule.pop(time.Now()); ok; s, ok = p.schedule.pop(time.Now()) {
			p.send(s)
		}
		packet, err := p.conn.receive(buf, earlier(p.schedule.next(), p.expire(time.Now())))
		switch {
		case p.ctx.Err() != nil:
			return
		case err == nil:
			p.handle(packet, time.Now())
		case errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, errTooLong):
			p.count.drop(reasonLong)
		default:
			p.log.Error(err, "Can't hear routers, trying again")
			if !due.Wait(p.ctx, readRetry) {
				return
			}
		}
	}
}

// send is done with what the interface doesn't take: the schedule repeats it.
func (p *port) send(s sending) {
	err := p.conn.send(p.messages[s.kind], p.as.source, s.to)
	switch {
	case p.ctx.Err() != nil:
	case err == nil:
		p.failing = ""
		p.count.sent[s.kind].Inc()
	default:
		p.count.failed.Inc()
		if p.failing != err.Error() {
			p.failing = err.Error()
			p.log.Error(err, "Can't send to routers, trying again", "message", s.kind.String(), "to", s.to)
		}
	}
}

func (p *port) handle(in packet, now time.Time) {
	m, why := parse(in)
	if why != "" {
		p.count.drop(why)
		return
	}
	from := in.from.WithZone("")
	if p.isOwn(from) {
		return
	}
	p.count.received[m.kind].Inc()
	if m.kind == solicitation {
		p.schedule.asked(from, now)
		return
	}
	p.schedule.met()
	if !p.hear(from, m.mac, now) {
		p.count.drop(reasonFull)
	}
}

func (p *port) isOwn(addr netip.Addr) bool {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	return slices.Contains(p.own, addr)
}

// hear notes a router's advertisement. It reports false if there are too many.
func (p *port) hear(from netip.Addr, mac link.MAC, now time.Time) (room bool) {
	p.update(func(r routers) (changed bool) {
		changed, room = r.hear(from, mac, now)
		return changed
	})
	return room
}

// expire forgets routers, and returns when it is to be called again.
func (p *port) expire(now time.Time) (next time.Time) {
	p.update(func(r routers) bool {
		changed := r.expire(now)
		next = r.next()
		return changed
	})
	return next
}

// update lets f change the routers, and says so if it did. What comes after the
// port was closed changes nothing any more.
func (p *port) update(f func(routers) (changed bool)) {
	p.a.mu.Lock()
	if p.ctx.Err() != nil {
		p.a.mu.Unlock()
		return
	}
	changed, addrs := f(p.routers), p.routers.addrs()
	p.count.routers.Set(float64(len(addrs)))
	p.a.mu.Unlock()
	if changed {
		p.log.Info("The routers of the link are others", "routers", addrs)
		p.a.changed()
	}
}
