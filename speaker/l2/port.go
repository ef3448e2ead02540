// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// framesPerSecond bounds gratuitous ARP on an interface: switches police
	// broadcasts.
	framesPerSecond = 500
	// readRetry is the wait after an error that the kernel should not give.
	readRetry = time.Second
)

// port answers on one interface, with one MAC.
type port struct {
	log   logr.Logger
	link  link.Link
	conn  io.ReadWriteCloser
	count counters

	owned atomic.Pointer[owned]

	mu       sync.Mutex
	schedule schedule
	wake     chan struct{}

	stop context.CancelFunc
	done sync.WaitGroup
}

// startPort takes the connection over. The caller ends it with close.
func startPort(log logr.Logger, l link.Link, conn io.ReadWriteCloser, count counters) *port {
	ctx, cancel := context.WithCancel(context.Background())
	p := &port{
		log: log.WithValues("interface", l.Name), link: l, conn: conn, count: count,
		wake: make(chan struct{}, 1), stop: cancel,
	}
	p.owned.Store(&owned{})
	p.done.Go(func() { p.receive(ctx) })
	p.done.Go(func() { p.announce(ctx) })
	return p
}

// close falls silent and waits for the goroutines to end.
func (p *port) close() {
	p.owned.Store(&owned{})
	p.count.addresses.Set(0)
	p.stop()
	if err := p.conn.Close(); err != nil {
		p.log.Error(err, "Can't close packet socket")
	}
	p.done.Wait()
}

// set makes addrs the addresses to answer for, and announces the new ones.
func (p *port) set(addrs owned) {
	if maps.Equal(*p.owned.Load(), addrs) {
		return
	}
	p.owned.Store(&addrs)
	p.count.addresses.Set(float64(len(addrs)))
	p.mu.Lock()
	p.schedule.set(addrs)
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

// receive answers requests until ctx is done.
func (p *port) receive(ctx context.Context) {
	buf := make([]byte, maxFrame)
	for {
		n, err := p.conn.Read(buf)
		switch {
		case err == nil:
			p.handle(buf[:n])
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, unix.ENETDOWN):
			// Said once when the interface goes down. If it comes up again
			// before anybody looked, the switch may still have forgotten us.
			p.mu.Lock()
			p.schedule.restart()
			p.mu.Unlock()
			p.poke()
		default:
			p.log.Error(err, "Can't read ARP requests, trying again")
			if !pause(ctx, readRetry) {
				return
			}
		}
	}
}

func (p *port) handle(frame []byte) {
	p.count.requests.Inc()
	r, what := decide(frame, p.link.MAC, *p.owned.Load())
	switch what {
	case malformed:
		p.count.malformed.Inc()
	case answer:
		if p.send(r.reply(p.link.MAC)) {
			p.count.replies.Inc()
		}
	}
}

// announce sends gratuitous ARP as scheduled until ctx is done.
func (p *port) announce(ctx context.Context) {
	for {
		p.mu.Lock()
		addr, wait, ok := p.schedule.take(time.Now())
		p.mu.Unlock()
		if !ok {
			if !p.sleep(ctx, wait) {
				return
			}
			continue
		}
		frames := gratuitous(p.link.MAC, addr)
		for _, f := range frames {
			if p.send(f) {
				p.count.gratuitous.Inc()
			}
		}
		if !pause(ctx, time.Duration(len(frames))*time.Second/framesPerSecond) {
			return
		}
	}
}

// send reports success. A frame that the interface doesn't take is only
// counted: neighbours ask again, and announcements are repeated.
func (p *port) send(frame []byte) bool {
	if _, err := p.conn.Write(frame); err != nil {
		p.count.errors.Inc()
		return false
	}
	return true
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

// pause reports whether the time went by before ctx was done.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
