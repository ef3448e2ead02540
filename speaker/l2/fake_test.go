// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// fakeLAN opens fake sockets and records what is sent and joined on them.
type fakeLAN struct {
	start time.Time

	mu      sync.Mutex
	refuse  error
	room    int // of a socket with memberships
	sent    []sentFrame
	seen    []string
	sockets map[Place]*fakeSocket // the open ones
	groups  []*fakeGroup          // the open ones
}

type sentFrame struct {
	at    time.Duration
	frame []byte
}

type fakeSocket struct {
	lan    *fakeLAN
	place  Place
	mac    link.MAC
	in     chan any // []byte, aged or error
	closed chan struct{}
}

// aged is a frame that the kernel received a while ago.
type aged struct {
	frame []byte
	age   time.Duration
}

type fakeGroup struct {
	lan     *fakeLAN
	link    string
	members map[netip.Addr]bool
}

var (
	_ Sockets = &fakeLAN{}
	_ Conn    = &fakeSocket{}
	_ Group   = &fakeGroup{}
)

func (l *fakeLAN) Listen(i link.Link, f Family) (Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		return nil, l.refuse
	}
	s := &fakeSocket{lan: l, place: Place{i.Name, f}, mac: i.MAC, in: make(chan any), closed: make(chan struct{})}
	if l.sockets[s.place] != nil {
		return nil, fmt.Errorf("%v is open already", s.place)
	}
	l.sockets[s.place] = s
	return s, nil
}

func (s *fakeSocket) Receive(b []byte) (int, time.Time, error) {
	select {
	case <-s.closed:
		return 0, time.Time{}, net.ErrClosed
	case in := <-s.in:
		switch in := in.(type) {
		case error:
			return 0, time.Time{}, in
		case aged:
			return copy(b, in.frame), time.Now().Add(-in.age), nil
		}
		return copy(b, in.([]byte)), time.Now(), nil
	}
}

func (s *fakeSocket) Send(b []byte) error {
	s.lan.mu.Lock()
	defer s.lan.mu.Unlock()
	s.lan.sent = append(s.lan.sent, sentFrame{time.Since(s.lan.start), slices.Clone(b)})
	return nil
}

func (s *fakeSocket) Dropped() int { return 0 }

func (s *fakeSocket) Close() error {
	close(s.closed)
	s.lan.mu.Lock()
	defer s.lan.mu.Unlock()
	delete(s.lan.sockets, s.place)
	return nil
}

func (l *fakeLAN) Group(i link.Link) (Group, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := &fakeGroup{lan: l, link: i.Name, members: map[netip.Addr]bool{}}
	l.groups = append(l.groups, g)
	return g, nil
}

func (g *fakeGroup) Join(a netip.Addr) error {
	g.lan.mu.Lock()
	defer g.lan.mu.Unlock()
	switch {
	case g.lan.refuse != nil:
		return g.lan.refuse
	case g.members[a]:
		return fmt.Errorf("joined %v already", a)
	case len(g.members) == g.lan.room:
		return ErrFull
	}
	g.members[a] = true
	return nil
}

func (g *fakeGroup) Leave(a netip.Addr) error {
	g.lan.mu.Lock()
	defer g.lan.mu.Unlock()
	if !g.members[a] {
		return fmt.Errorf("no member of %v", a)
	}
	delete(g.members, a)
	return nil
}

func (g *fakeGroup) Close() error {
	g.lan.mu.Lock()
	defer g.lan.mu.Unlock()
	g.lan.groups = slices.DeleteFunc(g.lan.groups, func(o *fakeGroup) bool { return o == g })
	return nil
}

// joined returns the groups that an interface is in, and by how many sockets.
func (l *fakeLAN) joined(name string) (groups []string, sockets int) {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.groups {
		if g.link == name {
			sockets++
			for a := range g.members {
				groups = append(groups, a.String())
			}
		}
	}
	slices.Sort(groups)
	return groups, sockets
}

func (l *fakeLAN) refuses(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = err
}

// says puts a frame, aged or not, or an error on the wire to an interface, and
// waits until it has been dealt with.
func (l *fakeLAN) says(name string, f Family, in any) {
	l.mu.Lock()
	s := l.sockets[Place{name, f}]
	l.mu.Unlock()
	s.in <- in
	synctest.Wait()
}

// take returns what was sent since the last call, one line per frame, after
// everything that is due was done.
func (l *fakeLAN) take() []string {
	var lines []string
	for _, s := range l.takeFrames() {
		lines = append(lines, fmt.Sprintf("%v %v", s.at, describe(s.frame)))
	}
	return lines
}

func (l *fakeLAN) takeFrames() []sentFrame {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := l.sent
	l.sent = nil
	return sent
}

func (l *fakeLAN) sighted(s Sighting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, describeSighting(s)+" on "+s.Interface)
}

func (l *fakeLAN) takeSeen() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen
	l.seen = nil
	return seen
}

func (l *fakeLAN) open() []Place {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Keys(l.sockets), func(a, b Place) int {
		return strings.Compare(a.Interface+a.Family.String(), b.Interface+b.Family.String())
	})
}

var (
	eth0 = link.Link{
		Index: 2, Name: "eth0", MAC: selfMAC, Up: true, ARP: true, NDP: true,
		Addrs:    []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("fe80::1/64")},
	}
	eth1 = link.Link{Index: 3, Name: "eth1", MAC: link.MAC{2, 0, 0, 0, 0, 8}, Up: true, ARP: true, NDP: true}
	all  = []link.Link{eth0, eth1}
)

func on(name string, addrs ...netip.Addr) map[netip.Addr]Want {
	m := map[netip.Addr]Want{}
	for _, a := range addrs {
		m[a] = Want{Interfaces: []string{name}}
	}
	return m
}

// as answers on the interface with another's MAC.
func as(name string, mac link.MAC, addrs ...netip.Addr) map[netip.Addr]Want {
	m := on(name, addrs...)
	for a, w := range m {
		w.As = map[string]link.MAC{name: mac}
		m[a] = w
	}
	return m
}

// bubble runs a test with a Responder on a fake LAN, at a fake time. That
// every goroutine has ended after Close is checked by synctest.
func bubble(t *testing.T, test func(t *testing.T, r *Responder, lan *fakeLAN)) {
	t.Helper()
	metered(t, func(t *testing.T, r *Responder, lan *fakeLAN, _ *prometheus.Registry) { test(t, r, lan) })
}

func metered(t *testing.T, test func(t *testing.T, r *Responder, lan *fakeLAN, reg *prometheus.Registry)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		lan := &fakeLAN{start: time.Now(), room: 1000, sockets: map[Place]*fakeSocket{}}
		reg := prometheus.NewRegistry()
		r := New(logr.Discard(), reg, lan, lan.sighted)
		defer func() {
			r.Close()
			if len(lan.sockets) > 0 || len(lan.groups) > 0 {
				t.Errorf("still open after Close: %v, and %d for groups", lan.open(), len(lan.groups))
			}
		}()
		test(t, r, lan, reg)
	})
}

func set(t *testing.T, r *Responder, links []link.Link, desired map[netip.Addr]Want) {
	t.Helper()
	if failed := r.Set(links, desired); len(failed) > 0 {
		t.Fatal(failed)
	}
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
