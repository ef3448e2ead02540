// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrFull says that a socket can be a member of no more groups.
var ErrFull = errors.New("the socket can be a member of no more groups")

// joinRetry is the wait after the kernel refused a membership.
const joinRetry = time.Second

// groups keeps an interface in multicast groups, so that its filter and
// switches that snoop let their frames through. It needs as many sockets as
// they all have room for. Memberships are taken up and given up in the
// background: the kernel's lock for them covers all interfaces, and whoever
// configures one may hold it for long.
type groups struct {
	open func() (Group, error)
	held prometheus.Gauge

	mu      sync.Mutex
	users   map[netip.Addr]int // how many addresses need a group
	changed []netip.Addr       // groups that gained their first user or lost the last
	failed  error
	wake    chan struct{}

	// Only the goroutine knows these.
	sockets []*groupSocket
	members map[netip.Addr]*groupSocket

	stop context.CancelFunc
	done sync.WaitGroup
}

type groupSocket struct {
	Group
	members int
	full    bool
}

// newGroups returns an empty one. The caller ends it with close.
func newGroups(open func() (Group, error), held prometheus.Gauge) *groups {
	ctx, cancel := context.WithCancel(context.Background())
	g := &groups{
		open: open, held: held, users: map[netip.Addr]int{}, wake: make(chan struct{}, 1),
		members: map[netip.Addr]*groupSocket{}, stop: cancel,
	}
	g.done.Go(func() { g.run(ctx) })
	return g
}

// close leaves all groups.
func (g *groups) close() {
	g.stop()
	g.done.Wait()
	for _, s := range g.sockets {
		s.Close() // only memberships could be lost, and they are to be
	}
	g.held.Set(0)
}

// add is to be followed by poke, and so is remove.
func (g *groups) add(group netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.users[group]++
	if g.users[group] == 1 {
		g.changed = append(g.changed, group)
	}
}

func (g *groups) remove(group netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.users[group]--
	if g.users[group] == 0 {
		delete(g.users, group)
		g.changed = append(g.changed, group)
	}
}

// poke makes the changes happen.
func (g *groups) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// failure returns why groups could not be joined that are still wanted.
func (g *groups) failure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

func (g *groups) run(ctx context.Context) {
	for {
		var retry <-chan time.Time
		if g.settle(ctx) {
			retry = time.After(joinRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case <-retry:
		}
	}
}

// settle makes the memberships what is wanted, and reports whether some are to
// be tried again.
func (g *groups) settle(ctx context.Context) bool {
	g.mu.Lock()
	changed := g.changed
	g.changed = nil
	g.mu.Unlock()
	var failed []netip.Addr
	var cause error
	for _, group := range changed {
		if ctx.Err() != nil {
			return false
		}
		g.mu.Lock()
		wanted := g.users[group] > 0
		g.mu.Unlock()
		if wanted == (g.members[group] != nil) {
			continue
		}
		var err error
		if wanted {
			err = g.join(group)
		} else {
			err = g.leave(group)
		}
		if err != nil {
			failed, cause = append(failed, group), err
		}
	}
	g.held.Set(float64(len(g.members)))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed = append(g.changed, failed...)
	g.failed = nil
	if cause != nil {
		g.failed = fmt.Errorf("memberships of %d multicast groups: %w", len(failed), cause)
	}
	return cause != nil
}

// join uses the last socket that has room, or a new one.
func (g *groups) join(group netip.Addr) error {
	for _, s := range slices.Backward(g.sockets) {
		if s.full {
			continue
		}
		err := s.Join(group)
		if errors.Is(err, ErrFull) {
			s.full = true
			continue
		}
		return g.joined(s, group, err)
	}
	opened, err := g.open()
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	s := &groupSocket{Group: opened}
	g.sockets = append(g.sockets, s)
	return g.joined(s, group, s.Join(group))
}

func (g *groups) joined(s *groupSocket, group netip.Addr, err error) error {
	if err != nil {
		g.tidy(s)
		return fmt.Errorf("join %v: %w", group, err)
	}
	s.members++
	g.members[group] = s
	return nil
}

func (g *groups) leave(group netip.Addr) error {
	s := g.members[group]
	if err := s.Leave(group); err != nil {
		return fmt.Errorf("leave %v: %w", group, err)
	}
	delete(g.members, group)
	s.members--
	s.full = false
	g.tidy(s)
	return nil
}

// tidy closes a socket that has no members.
func (g *groups) tidy(s *groupSocket) {
	if s.members == 0 {
		s.Close() // it holds nothing
		g.sockets = slices.DeleteFunc(g.sockets, func(o *groupSocket) bool { return o == s })
	}
}
