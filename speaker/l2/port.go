// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/fairlead-lb/fairlead/internal/due"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

// framesPerSecond bounds the announcements on an interface: switches police
// broadcasts.
const framesPerSecond = 500

// port is one interface, with one MAC. The Responder's lock guards its methods.
type port struct {
	log     logr.Logger
	name    string
	mac     link.MAC
	link    link.Link // as of the last Set: only for those who hold the Responder's lock
	deadman *deadman
	sighted func(Sighting)
	silent  atomic.Bool

	start time.Time
	heard atomic.Int64 // when a frame came last, in nanoseconds since start; 0 for never

	// mu guards what the Responder shares with the goroutine that announces.
	mu       sync.Mutex
	wires    [2]*wire // by family; nil where there is none
	schedule schedule
	wake     chan struct{}

	stop context.CancelFunc
	done sync.WaitGroup
}

// newPort returns a port without wires. The caller ends it with close.
func newPort(log logr.Logger, l link.Link, d *deadman, sighted func(Sighting)) *port {
	ctx, cancel := context.WithCancel(context.Background())
	p := &port{
		log: log.WithValues("interface", l.Name), name: l.Name, mac: l.MAC, link: l, deadman: d, sighted: sighted,
		start: time.Now(), wake: make(chan struct{}, 1), stop: cancel,
	}
	p.done.Go(func() { p.announce(ctx) })
	return p
}

// close falls silent and waits for the goroutines to end.
func (p *port) close() {
	p.stop()
	p.detach(IPv4)
	p.detach(IPv6)
	p.done.Wait()
}

// attach opens the sockets of a family.
func (p *port) attach(f Family, sockets Sockets, count counters) error {
	conn, err := sockets.Listen(p.link, f)
	if err != nil {
		return err
	}
	w := newWire(p, f, conn, count)
	if f == IPv6 {
		l := p.link
		w.groups = newGroups(func() (Group, error) { return sockets.Group(l) }, count.groups)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wires[f] = w
	return nil
}

// detach closes the sockets of a family, if there are any.
func (p *port) detach(f Family) {
	p.mu.Lock()
	w := p.wires[f]
	p.wires[f] = nil
	p.schedule.removeFamily(f)
	p.mu.Unlock()
	if w != nil {
		w.close()
	}
}

// fill answers for all that is wanted of a family on a wire that is new.
func (p *port) fill(f Family, wants map[netip.Addr]Want) {
	var addrs []netip.Addr
	for addr := range wants {
		if FamilyOf(addr) == f {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	p.apply(addrs, wants)
}

// apply makes the port answer for the addresses as they are wanted, and
// announce those that are new, in the order given.
func (p *port) apply(addrs []netip.Addr, wants map[netip.Addr]Want) {
	if len(addrs) == 0 {
		return
	}
	p.mu.Lock()
	for _, addr := range addrs {
		w := p.wires[FamilyOf(addr)]
		if w == nil {
			continue
		}
		as, wanted := wants[addr].on(p.name)
		if !wanted {
			w.drop(addr)
			p.schedule.remove(addr)
			continue
		}
		w.own(addr, as)
		if as.ours() {
			p.schedule.add(addr)
		} else {
			p.schedule.remove(addr)
		}
	}
	for _, w := range p.wires {
		w.settle()
	}
	p.mu.Unlock()
	p.poke()
}

func (p *port) announceAgain(addr netip.Addr) {
	p.mu.Lock()
	p.schedule.again(addr)
	p.mu.Unlock()
	p.poke()
}

func (p *port) announceAllAgain() {
	p.mu.Lock()
	p.schedule.restart()
	p.mu.Unlock()
	p.poke()
}

// poke makes announce look at the schedule.
func (p *port) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// received notes that a frame came at a time that can be compared with the
// monotonic clock's.
func (p *port) received(at time.Time) { p.heard.Store(max(1, int64(at.Sub(p.start)))) }

func (p *port) lastReceived() time.Time {
	if ns := p.heard.Load(); ns != 0 {
		return p.start.Add(time.Duration(ns))
	}
	return time.Time{}
}

// announce tells neighbours where the addresses are, as scheduled, until ctx
// is done.
func (p *port) announce(ctx context.Context) {
	var buf [maxSent]byte
	for {
		frames, wait := p.announceNext(time.Now(), buf[:0])
		if frames > 0 {
			if !due.Wait(ctx, time.Duration(frames)*time.Second/framesPerSecond) {
				return
			}
			continue
		}
		if !p.sleep(ctx, wait) {
			return
		}
	}
}

// announceNext announces the address whose turn it is, and returns the number
// of its frames; or else how long to wait, forever if that is negative. The
// lock is held meanwhile: nothing is sent for what was withdrawn.
func (p *port) announceNext(now time.Time, buf []byte) (frames int, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.deadman.alive(now) || p.silent.Load() {
		return 0, -1
	}
	addr, wait, ok := p.schedule.take(now)
	if !ok {
		return 0, wait
	}
	w := p.wires[FamilyOf(addr)]
	for more := true; more; frames++ {
		var frame []byte
		frame, more = appendAnnouncement(buf, addr, p.mac, frames)
		if w.send(frame) {
			w.count.announcements.Inc()
		}
	}
	return frames, 0
}

// sleep waits for the time, or forever if it is negative, or for poke. It
// reports false when ctx is done.
func (p *port) sleep(ctx context.Context, d time.Duration) bool {
	var timeout <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-p.wake:
	case <-timeout:
	}
	return true
}
