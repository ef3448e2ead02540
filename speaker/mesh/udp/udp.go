// SPDX-License-Identifier: Apache-2.0

// Package udp carries datagrams between the speakers of a network segment, pinned to one interface both ways.
package udp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/internal/due"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// MaxPayload fits into a frame of every Ethernet, so that nothing is
	// fragmented.
	MaxPayload = 1400
	// readRetry is the wait after an error that the kernel should not give.
	readRetry = time.Second
)

// Datagram is what was received.
type Datagram struct {
	// Interface is the index of the one that it came in on.
	Interface int
	From      netip.Addr
	// TTL is the IPv4 time to live or the IPv6 hop limit: 255 if no router
	// passed it on.
	TTL int
	// Age is how long ago the kernel received it.
	Age     time.Duration
	Payload []byte
}

// Groups are where datagrams to everybody go: all systems of the segment (RFC
// 1112, section 4; RFC 4291, section 2.7.1). Switches never prune them, and
// every host is a member.
var groups = map[bool]netip.Addr{
	true:  netip.AddrFrom4([4]byte{224, 0, 0, 1}),
	false: netip.MustParseAddr("ff02::1"),
}

// Transport sends and receives on any number of interfaces.
type Transport struct {
	log     logr.Logger
	port    uint16
	deliver func(Datagram)
	sent    *prometheus.CounterVec
	failed  *prometheus.CounterVec

	mu    sync.Mutex
	conns map[key]*conn
	// told are the interfaces whose trouble was logged.
	told map[key]string
}

// key names a socket.
type key struct {
	index int
	name  string
	v4    bool
}

// New returns a Transport that does nothing before Set. It calls deliver for
// each datagram, from one goroutine for each interface and family; the payload
// is deliver's until it returns. No other method waits for deliver: it may come
// once more after its interface was taken away.
func New(log logr.Logger, reg prometheus.Registerer, port uint16, deliver func(Datagram)) *Transport {
	f := promauto.With(reg)
	return &Transport{
		log: log, port: port, deliver: deliver, conns: map[key]*conn{}, told: map[key]string{},
		sent: f.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_mesh_frames_sent_total", Help: "Datagrams sent to other speakers.",
		}, []string{"interface"}),
		failed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_mesh_send_errors_total", Help: "Datagrams to other speakers that the interface did not take.",
		}, []string{"interface"}),
	}
}

// Set makes links the interfaces that are used. On each it speaks IPv4 if the
// interface has an IPv4 address and IPv6 if it has a link-local one. An
// interface that can't be used is logged once and tried again by the next Set,
// which it reports by false.
func (t *Transport) Set(links []link.Link) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := map[key]bool{}
	for _, l := range links {
		v4, v6 := families(l)
		for is4, has := range map[bool]bool{true: v4, false: v6} {
			if has {
				wanted[key{l.Index, l.Name, is4}] = true
			}
		}
	}
	for k, c := range t.conns {
		if !wanted[k] {
			c.close()
			delete(t.conns, k)
		}
	}
	for k := range t.told {
		if !wanted[k] {
			delete(t.told, k)
		}
	}
	complete := true
	for k := range wanted {
		if t.conns[k] != nil {
			continue
		}
		c, err := t.open(k)
		if err != nil {
			complete = false
			if t.told[k] != err.Error() {
				t.told[k] = err.Error()
				t.log.Error(err, "Can't reach other speakers on interface, trying again", "interface", k.name)
			}
			continue
		}
		delete(t.told, k)
		t.conns[k] = c
	}
	return complete
}

// families tells which of IPv4 and IPv6 a link can speak to its segment.
func families(l link.Link) (v4, v6 bool) {
	if !l.Up || !l.ARP {
		return false, false
	}
	for _, p := range l.Prefixes {
		v4 = v4 || p.Addr().Is4()
		v6 = v6 || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()
	}
	return v4, v6
}

// Send sends a datagram on an interface: to an address, or to everybody there if
// it is the zero Addr: in each family or, sparing, by IPv6 only if IPv4 doesn't
// take it. What the interface doesn't take is counted: datagrams may be lost in
// any case.
func (t *Transport) Send(index int, to netip.Addr, sparing bool, payload []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v4 := range [...]bool{true, false} {
		c := t.conn(index, v4)
		if c == nil || to.IsValid() && to.Is4() != v4 {
			continue
		}
		dst := to
		if !dst.IsValid() {
			dst = groups[v4]
		}
		if err := c.send(dst, payload); err != nil {
			c.failed.Inc()
			continue
		}
		c.sent.Inc()
		if sparing {
			return
		}
	}
}

// conn returns the one of an interface and family, nil if there is none.
func (t *Transport) conn(index int, v4 bool) *conn {
	for k, c := range t.conns {
		if k.index == index && k.v4 == v4 {
			return c
		}
	}
	return nil
}

// Close closes every socket.
func (t *Transport) Close() { t.Set(nil) }

func (t *Transport) open(k key) (*conn, error) {
	s, err := listen(k, t.port)
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d on %s: %w", t.port, k.name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &conn{
		socket: s, stop: cancel,
		sent: t.sent.WithLabelValues(k.name), failed: t.failed.WithLabelValues(k.name),
	}
	go t.receive(ctx, c)
	return c, nil
}

// receive delivers until ctx is done.
func (t *Transport) receive(ctx context.Context, c *conn) {
	buf := make([]byte, MaxPayload+1)
	for {
		d, err := c.receive(buf)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			t.deliver(d)
		case errors.Is(err, errTooLong):
			// Not one of ours; whoever sends so much is not worth a line each.
		case errors.Is(err, unix.ENETDOWN):
			// Said once when the interface goes down.
		default:
			t.log.Error(err, "Can't hear other speakers, trying again", "interface", c.key.name)
			if !due.Wait(ctx, readRetry) {
				return
			}
		}
	}
}

// conn is the socket of one interface and family.
type conn struct {
	*socket
	sent, failed prometheus.Counter
	stop         context.CancelFunc
}

func (c *conn) close() {
	c.stop()
	c.socket.Close()
}
