// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

// lan joins hosts by a wire that takes a millisecond.
type lan struct {
	mu    sync.Mutex
	hosts map[netip.Addr]*host
	cut   bool
	deaf  netip.Addr // hears nothing
	ttl   int
}

func newLAN() *lan { return &lan{hosts: map[netip.Addr]*host{}, ttl: 255} }

// host is the network of one Manager.
type host struct {
	*lan
	addr netip.Addr

	// These are guarded by lan.mu.
	indices   map[string]int
	listeners map[place]*mailbox
	ports     map[uint16]bool
	fail      error // of what is dialled or sent
	dials     int
	lastPort  uint16
}

func (l *lan) host(a netip.Addr) *host {
	h := &host{lan: l, addr: a, indices: map[string]int{"eth0": 2}, listeners: map[place]*mailbox{}, ports: map[uint16]bool{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts[a] = h
	return h
}

func (h *host) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *host) index(name string) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.indices[name]; i != 0 {
		return i, nil
	}
	return 0, unix.ENODEV
}

// mailbox keeps what came until it is drained, as a socket does.
type mailbox struct {
	host  *host
	place place
	ready func(receiver)
	mail  []datagram
}

func (h *host) listen(p place, ready func(receiver)) (receiver, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners[p] != nil {
		return nil, unix.EADDRINUSE
	}
	h.listeners[p] = &mailbox{host: h, place: p, ready: ready}
	return h.listeners[p], nil
}

func (b *mailbox) drain(deliver func(*datagram)) error {
	b.host.mu.Lock()
	mail := b.mail
	b.mail = nil
	b.host.mu.Unlock()
	for i := range mail {
		deliver(&mail[i])
	}
	return nil
}

func (b *mailbox) close() { b.host.set(func() { delete(b.host.listeners, b.place) }) }

type line struct {
	host     *host
	from, to netip.Addr
	place
	port uint16
}

func (h *host) dial(k Key, _ int, port uint16) (sender, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dials++
	if h.fail != nil {
		return nil, h.fail
	}
	if h.ports[port] {
		return nil, unix.EADDRINUSE
	}
	h.ports[port], h.lastPort = true, port
	from := k.Local
	if !from.IsValid() {
		from = h.addr
	}
	return &line{h, from, k.Remote, place{k.Remote.Is4(), k.Multihop, ""}, port}, nil
}

func (l *line) close() { l.host.set(func() { delete(l.host.ports, l.port) }) }

func (l *line) send(b []byte) error {
	h := l.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return h.fail
	}
	payload := append([]byte(nil), b...)
	time.AfterFunc(ms, func() {
		h.mu.Lock()
		to := h.hosts[l.to]
		if h.cut || l.to == h.deaf || to == nil || to.listeners[l.place] == nil {
			h.mu.Unlock()
			return
		}
		box := to.listeners[l.place]
		box.mail = append(box.mail, datagram{place: l.place, from: l.from, to: l.to, index: 2, ttl: h.ttl, at: time.Now(), payload: payload})
		h.mu.Unlock()
		box.ready(box)
	})
	return nil
}

// diary keeps what changed was told.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) changed(s Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	line := s.State.String()
	if s.Diag != NoDiagnostic {
		line += " " + s.Diag.String()
	}
	if s.Trouble != "" {
		line += " (" + s.Trouble + ")"
	}
	if n := len(d.lines); n == 0 || d.lines[n-1] != line {
		d.lines = append(d.lines, line)
	}
}

func (d *diary) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := strings.Join(d.lines, ", ")
	d.lines = nil
	return all
}

func manager(t *testing.T, h *host) (*Manager, *diary) {
	d := &diary{}
	m := newManager(logr.Discard(), h, d.changed, rand.New(rand.NewPCG(1, uint64(len(h.hosts)))))
	t.Cleanup(m.Close)
	return m, d
}

func to(remote netip.Addr, change func(*Config)) []Config {
	return []Config{config(func(c *Config) {
		c.Remote = remote
		if change != nil {
			change(c)
		}
	})}
}

func set(t *testing.T, m *Manager, configs []Config) {
	t.Helper()
	if err := m.Set(configs); err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, m *Manager, want State) Status {
	t.Helper()
	s := m.Sessions()
	if len(s) != 1 || s[0].State != want {
		t.Fatalf("sessions are %+v, want one that is %v", s, want)
	}
	return s[0]
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// simulate runs f in a bubble, with two managers whose session is Up.
func simulate(t *testing.T, f func(t *testing.T, l *lan, a, b *Manager, da, db *diary)) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, da := manager(t, l.host(left))
		b, db := manager(t, l.host(right))
		set(t, a, to(right, nil))
		set(t, b, to(left, func(c *Config) { c.Passive = true }))
		time.Sleep(5 * time.Second)
		is(t, a, Up)
		is(t, b, Up)
		same(t, da.take(), "Up")
		db.take()
		f(t, l, a, b, da, db)
		a.Close()
		b.Close()
		synctest.Wait()
	})
}
