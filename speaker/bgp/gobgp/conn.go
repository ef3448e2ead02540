// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

const (
	// dialTimeout leaves room for two lost SYN packets.
	dialTimeout = 5 * time.Second
	// steady is how long a session lasts that is begun anew at once when it
	// breaks. One that breaks sooner may do so each time.
	steady = 10 * time.Second
	// grudge is how long a router that has ended a session may turn away who
	// comes back. BIRD does so for up to five minutes.
	grudge = 5 * time.Minute
)

// conn is a session, from one connection to the next.
type conn struct {
	observer bgp.Observer
	cancel   context.CancelFunc
	done     chan struct{}
	resets   chan struct{}
	accepted chan net.Conn
	// changes gets a value when changed isn't empty any more.
	changes chan struct{}
	// leave ends listening, if the session is passive.
	leave func()

	mu      sync.Mutex
	session bgp.Session
	table   map[netip.Prefix]bgp.Route
	changed map[netip.Prefix]bool

	// preserved says that the node kept forwarding since the router last heard
	// of it, and restarting that the process is new. Only run uses them, and
	// info.
	preserved, restarting bool
	info                  bgp.Info
	// spoken is when the router last said why it ended the session. Only run
	// uses it.
	spoken time.Time
}

// Update announces and withdraws routes.
func (c *conn) Update(s bgp.Session, announce []bgp.Route, withdraw []netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = s
	for _, r := range announce {
		c.table[r.Prefix] = r
		c.changed[r.Prefix] = true
	}
	for _, p := range withdraw {
		delete(c.table, p)
		c.changed[p] = true
	}
	select {
	case c.changes <- struct{}{}:
	default:
	}
}

// change is what became of a prefix.
type change struct {
	prefix netip.Prefix
	route  bgp.Route
	// gone says that there is no route any more.
	gone bool
}

// take returns what changed since the last time.
func (c *conn) take() (bgp.Session, []change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]change, 0, len(c.changed))
	for p := range c.changed {
		r, ok := c.table[p]
		out = append(out, change{prefix: p, route: r, gone: !ok})
	}
	clear(c.changed)
	return c.session, out
}

// whole returns all that there is.
func (c *conn) whole() (bgp.Session, []change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]change, 0, len(c.table))
	for p, r := range c.table {
		out = append(out, change{prefix: p, route: r})
	}
	return c.session, out
}

func (c *conn) current() bgp.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// Reset drops the connection and begins anew.
func (c *conn) Reset() {
	select {
	case c.resets <- struct{}{}:
	default:
	}
}

// Stop ends the session with a Cease.
func (c *conn) Stop() {
	c.cancel()
	<-c.done
}

// run keeps a session up until ctx is done.
func (c *conn) run(ctx context.Context) {
	defer close(c.done)
	if c.leave != nil {
		defer func() {
			c.leave()
			select {
			case nc := <-c.accepted: // too late
				_ = nc.Close()
			default:
			}
		}()
	}
	for {
		var wait time.Duration
		nc, err := c.connect(ctx)
		if err == nil {
			wait, err = c.talk(ctx, nc)
			if errors.As(err, new(*spoken)) {
				c.spoken = time.Now()
			}
		} else {
			wait = c.current().ConnectTime
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.observer.Failed(err.Error())
		}
		c.tell(bgp.Info{State: bgp.Idle})
		if !c.pause(ctx, wait) {
			return
		}
	}
}

// pause waits, not always as long, so that a router isn't met by all nodes at
// once. A reset ends it, and so does a router that connects.
func (c *conn) pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait - time.Duration(rand.Int64N(int64(wait)/4+1)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-c.resets:
	case <-timer.C:
	case nc := <-c.accepted:
		c.putBack(nc)
	}
	return true
}

// putBack leaves a connection for later, unless there is a newer one.
func (c *conn) putBack(nc net.Conn) {
	select {
	case c.accepted <- nc:
	default:
		_ = nc.Close()
	}
}

// tell tells the state. Since is when the session got into or out of
// Established.
func (c *conn) tell(i bgp.Info) {
	i.Since = c.info.Since
	if c.info.Since.IsZero() || (i.State == bgp.Established) != (c.info.State == bgp.Established) {
		i.Since = time.Now()
	}
	c.info = i
	c.observer.State(i)
}

// connect makes a connection, or waits for the router to do so.
func (c *conn) connect(ctx context.Context) (net.Conn, error) {
	s := c.current()
	o := optionsOf(s)
	if s.Passive {
		c.tell(bgp.Info{State: bgp.Active})
		for {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-c.resets: // there is nothing to begin anew
			case nc := <-c.accepted:
				if err := o.adopt(nc, s.Neighbor.Is4()); err != nil {
					_ = nc.Close()
					return nil, fmt.Errorf("can't use the router's connection: %w", err)
				}
				return nc, nil
			}
		}
	}
	c.tell(bgp.Info{State: bgp.Connect})
	zone, err := zoneOf(s.Neighbor)
	if err != nil {
		return nil, fmt.Errorf("can't connect: %w", err)
	}
	d := net.Dialer{Timeout: dialTimeout, Control: control(o), KeepAlive: -1}
	if s.Source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.Source.WithZone(zone), 0))
	}
	nc, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(s.Neighbor.WithZone(zone), s.Port).String())
	if err != nil {
		return nil, fmt.Errorf("can't connect: %w", explained(err))
	}
	return nc, nil
}

// explained says what it may mean that nothing came back: a kernel drops what is
// signed with another password without a word (RFC 2385, section 2.0).
func explained(err error) error {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("no answer: the router is down, out of reach, or has another password")
	}
	return err
}

// zoneOf returns the zone of an address as a number. Package net keeps those of
// the names for a minute, in which an interface may have come back as another.
func zoneOf(a netip.Addr) (string, error) {
	if a.Zone() == "" {
		return "", nil
	}
	i, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return "", fmt.Errorf("interface %s: %w", a.Zone(), err)
	}
	return strconv.Itoa(i.Index), nil
}

// talk has a session over a connection. It returns when that is over, with the
// cause, and how long to wait before the next.
func (c *conn) talk(ctx context.Context, nc net.Conn) (time.Duration, error) {
	s := c.current()
	t := &talk{Conn: nc, session: s, observer: c.observer}
	defer t.close()

	c.tell(bgp.Info{State: bgp.OpenSent})
	if err := t.send(openMessage(s, c.restarting, c.preserved)); err != nil {
		return s.ConnectTime, err
	}
	// Whoever ends the session meanwhile closes the connection.
	stop := context.AfterFunc(ctx, func() { t.cease(packet.BGP_ERROR_SUB_PEER_DECONFIGURED) })
	defer stop()
	replaced, err := c.open(t)
	switch {
	case replaced:
		return 0, nil
	case err != nil:
		if t.asn == 0 && time.Since(c.spoken) < grudge && (errors.Is(err, errClosed) || errors.Is(err, errBroken)) {
			err = nil // it has said why
		}
		return s.ConnectTime, err
	}
	c.preserved, c.restarting = s.GracefulRestart, false
	c.tell(bgp.Info{
		State: bgp.Established, ASN: t.asn, RouterID: t.routerID, Local: t.local(), Families: t.families, GracefulRestart: t.keeps,
	})
	if t.families.IPv4 && t.nextHop4(s).Is6() && !t.extendedNextHop {
		c.observer.Failed("the router does not take IPv4 routes with an IPv6 next hop (RFC 8950): turn on its extended next hop capability")
	}

	begun := time.Now()
	err = c.carry(ctx, t)
	if errors.Is(err, errReset) || errors.Is(err, errReplaced) {
		return 0, nil
	}
	if time.Since(begun) < steady {
		return s.ConnectTime, err
	}
	return 0, err
}

// open opens a session, unless the router makes another connection meanwhile: it
// has lost this one then, and may never answer on it.
func (c *conn) open(t *talk) (replaced bool, err error) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case nc := <-c.accepted:
			c.putBack(nc)
			replaced = true
			t.close()
		case <-over:
		}
	})
	err = t.open(func() { c.tell(bgp.Info{State: bgp.OpenConfirm}) })
	close(over)
	wg.Wait()
	return replaced, err
}

var (
	errReset    = errors.New("reset")
	errReplaced = errors.New("the router made another connection")
)

// carry runs an established session.
func (c *conn) carry(parent context.Context, t *talk) error {
	select {
	case <-c.resets: // it was for another session
	default:
	}
	ctx, end := context.WithCancelCause(parent)
	finish := func(err error) {
		if !errors.Is(err, errCeased) { // or else who sent the notification knows the cause
			end(err)
		}
	}
	var wg sync.WaitGroup
	refresh := make(chan bgp.Families, 1)
	wg.Go(func() { finish(t.receive(refresh)) })
	wg.Go(func() { finish(c.transmit(ctx, t, refresh)) })
	select {
	case <-ctx.Done():
		if parent.Err() != nil {
			t.cease(packet.BGP_ERROR_SUB_PEER_DECONFIGURED)
		}
	case <-c.resets:
		end(errReset)
		t.cease(subcodeBFDDown)
	case nc := <-c.accepted:
		// The router lost the connection that we still have (RFC 4724, section 5).
		c.putBack(nc)
		end(errReplaced)
	}
	t.close()
	wg.Wait()
	return context.Cause(ctx)
}
