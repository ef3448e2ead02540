// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/internal/due"
)

const (
	// minInterval bounds the cost of a node that makes and removes many
	// interfaces: events within it share one listing.
	minInterval = 50 * time.Millisecond
	// retryInterval is the wait after the kernel refused to list or subscribe.
	retryInterval = time.Second
)

// Watcher tells of every change of the interfaces.
type Watcher struct {
	log    logr.Logger
	kernel kernel
	notify func([]Link)
}

// NewWatcher returns a Watcher for the network namespace of the process. It calls notify from Run with all interfaces, once at the start and then
// whenever something has changed. The slice isn't touched afterwards.
func NewWatcher(log logr.Logger, notify func([]Link)) *Watcher {
	return &Watcher{log: log, kernel: routeNetlink{netns.None()}, notify: notify}
}

// kernel is where interfaces come from.
type kernel interface {
	// Subscribe returns a channel that receives a value after each change. It
	// is closed when events may have been lost, and after stop was closed.
	Subscribe(stop <-chan struct{}) (<-chan struct{}, error)
	// List returns the interfaces as they are.
	List() ([]Link, error)
}

// Run watches until ctx is done, and returns nil then. It returns an error if
// it can't start; later trouble is logged and tried again.
func (w *Watcher) Run(ctx context.Context) error {
	var last []Link
	for started := false; ; {
		err := w.follow(ctx, func(links []Link) {
			if !started || !slices.EqualFunc(last, links, Link.Equal) {
				started, last = true, links
				w.notify(links)
			}
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !started:
			return err
		case err == nil:
			// Events were lost. That costs no more than another listing.
			w.log.V(1).Info("Lost network interface events, listing again")
			continue
		}
		w.log.Error(err, "Can't watch network interfaces, trying again")
		if !due.Wait(ctx, retryInterval) {
			return nil
		}
	}
}

// follow lists after each event, until events are lost (nil) or fail.
func (w *Watcher) follow(ctx context.Context, update func([]Link)) error {
	stop := make(chan struct{})
	// Subscribed before the first listing: no change falls between the two.
	events, err := w.kernel.Subscribe(stop)
	if err != nil {
		close(stop)
		return fmt.Errorf("subscribe to network interface events: %w", err)
	}
	defer func() {
		close(stop)
		for range events {
		}
	}()
	for {
		links, err := w.kernel.List()
		if errors.Is(err, netlink.ErrDumpInterrupted) && ctx.Err() == nil {
			continue // something changed meanwhile
		}
		if err != nil {
			return fmt.Errorf("list network interfaces: %w", err)
		}
		update(links)
		if !due.Wait(ctx, minInterval) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-events:
			if !ok {
				return nil
			}
		}
	}
}

// routeNetlink asks the kernel by rtnetlink(7), in a network namespace or,
// with none, in that of the calling thread.
type routeNetlink struct{ ns netns.NsHandle }

var _ kernel = routeNetlink{}

func (r routeNetlink) Subscribe(stop <-chan struct{}) (<-chan struct{}, error) {
	links := make(chan netlink.LinkUpdate)
	addrs := make(chan netlink.AddrUpdate)
	routes := make(chan netlink.RouteUpdate)
	done := make(chan struct{})
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &r.ns, ErrorCallback: fail}); err != nil {
		close(done)
		return nil, err
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &r.ns, ErrorCallback: fail}); err != nil {
		close(done)
		for range links {
		}
		return nil, err
	}
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &r.ns, ErrorCallback: fail}); err != nil {
		close(done)
		for range links {
		}
		for range addrs {
		}
		return nil, err
	}
	// One value stands for any number of changes: the reader lists.
	events := make(chan struct{}, 1)
	go func() {
		defer close(events)
		defer func() {
			close(done)
			for range links {
			}
			for range addrs {
			}
			for range routes {
			}
		}()
		for {
			select {
			case <-stop:
				return
			case <-failed:
				return
			case _, ok := <-links:
				if !ok {
					return
				}
			case _, ok := <-addrs:
				if !ok {
					return
				}
			case update, ok := <-routes:
				if !ok {
					return
				}
				// The pod network's come and go all the time.
				if !isDefault(&update.Route) {
					continue
				}
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	return events, nil
}

func (r routeNetlink) List() ([]Link, error) {
	h, err := netlink.NewHandleAt(r.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	routes, err := defaultRoutes(h)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	// A route that the library can't read must not end all announcing: without
	// gateways there are only fewer addresses that nobody gets by himself.
	return fromNetlink(links, addrs, routes), nil
}

// defaultRoutes lists those of all tables.
func defaultRoutes(h *netlink.Handle) (routes []netlink.Route, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := h.RouteListFilteredIter(family, &netlink.Route{}, netlink.RT_FILTER_TABLE, func(route netlink.Route) bool {
			if isDefault(&route) {
				routes = append(routes, route)
			}
			return true
		})
		if err != nil {
			return routes, err
		}
	}
	return routes, nil
}
