// SPDX-License-Identifier: Apache-2.0

package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// Place is where a router runs.
type Place struct {
	Namespace *sandbox.Namespace
	Name      string // its processes are Name/bgpd, Name/bird, ...
	Dir       string // its own, made if it is missing; users without root's rights must be able to pass the folders above it
	Log       func(process string) string
}

// Router is a running router. Its methods may be called from any goroutine.
type Router struct {
	Kind  Kind
	place Place

	mu        sync.Mutex // held while programs or the configuration change
	config    Config
	processes []*sandbox.Process
}

// programs are what makes FRR and BIRD different.
type programs interface {
	// start starts them anew with a configuration, and returns when it is in force.
	start(ctx context.Context, c Config, again bool) ([]*sandbox.Process, error)
	change(ctx context.Context, from, to Config) error
	command(ctx context.Context, line string) (string, error)
	sessions(ctx context.Context) ([]Session, error)
	// table is the paths of one prefix or, if it is not valid, of all.
	table(ctx context.Context, prefix netip.Prefix) ([]Path, error)
}

var (
	_ programs = frr{}
	_ programs = bird{}
)

func (r *Router) programs() programs {
	if r.Kind == BIRD {
		return bird{r.place}
	}
	return frr{r.place}
}

// Start starts a router and returns when its configuration is in force.
func Start(ctx context.Context, kind Kind, place Place, c Config) (*Router, error) {
	if kind != FRR && kind != BIRD {
		return nil, fmt.Errorf("router %s: kind %q: want %s or %s", place.Name, kind, FRR, BIRD)
	}
	if err := os.MkdirAll(place.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("router %s: %w", place.Name, err)
	}
	if err := forward(place.Namespace); err != nil {
		return nil, fmt.Errorf("router %s: %w", place.Name, err)
	}
	r := &Router{Kind: kind, place: place}
	return r, r.start(ctx, c, false)
}

// forward has a namespace do as routers do: balance by flows, and forward answers also where the questions went another way.
func forward(n *sandbox.Namespace) error {
	links, err := n.Netlink().LinkList()
	if err != nil {
		return err
	}
	settings := map[string]string{"ipv4/fib_multipath_hash_policy": "1", "ipv6/fib_multipath_hash_policy": "1"}
	for _, link := range append([]string{"all", "default"}, namesOf(links)...) {
		settings["ipv4/conf/"+link+"/rp_filter"] = "0"
	}
	for key, value := range settings {
		if err := n.Sysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

func namesOf(links []netlink.Link) (names []string) {
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func (r *Router) start(ctx context.Context, c Config, again bool) error {
	if err := c.check(); err != nil {
		return err
	}
	processes, err := r.programs().start(ctx, c, again)
	r.processes = processes
	if err != nil {
		return fmt.Errorf("router %s: starting %s: %w", r.place.Name, r.Kind, err)
	}
	r.config = c.clone()
	return nil
}

// Config is what the router was told last.
func (r *Router) Config() Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.config.clone()
}

// Configure changes what differs from the present configuration and leaves the rest alone: sessions that are the same in
// both go on, as far as the program lets them. For FRR a change of graceful restart resets all.
func (r *Router) Configure(ctx context.Context, c Config) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := c.check(); err != nil {
		return err
	}
	if c.Text != "" || r.config.Text != "" {
		return fmt.Errorf("router %s: a configuration that is text can't be changed", r.place.Name)
	}
	if err := r.programs().change(ctx, r.config, c); err != nil {
		return fmt.Errorf("router %s: configuring %s: %w", r.place.Name, r.Kind, err)
	}
	r.config = c.clone()
	return nil
}

// Processes are the router's programs.
func (r *Router) Processes() []*sandbox.Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.processes)
}

// Kill ends the router's programs at once. Its kernel goes on with the routes that it has.
func (r *Router) Kill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(r.processes) {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

// Stop ends the programs as a person would. A restarter's kernel keeps the routes, another's loses them.
func (r *Router) Stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(r.processes) {
		errs = append(errs, p.Stop(stopGrace))
	}
	return errors.Join(errs...)
}

// Start starts the programs again after Kill or Stop, with the configuration that they had.
func (r *Router) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start(ctx, r.config, true)
}

// Command gives a line to vtysh or birdc, such as "show bgp summary", and returns the answer.
func (r *Router) Command(ctx context.Context, line string) (string, error) {
	answer, err := r.programs().command(ctx, line)
	if err != nil {
		return "", fmt.Errorf("router %s: %q: %w", r.place.Name, line, err)
	}
	return answer, nil
}

// Sessions are what is between the router and each of its neighbours, in order of their addresses.
func (r *Router) Sessions(ctx context.Context) ([]Session, error) {
	sessions, err := r.programs().sessions(ctx)
	if err != nil {
		return nil, fmt.Errorf("sessions of router %s: %w", r.place.Name, err)
	}
	return sessions, nil
}

// Session is that with one neighbour. It is an error if there is none.
func (r *Router) Session(ctx context.Context, neighbor netip.Addr) (Session, error) {
	sessions, err := r.Sessions(ctx)
	if err != nil {
		return Session{}, err
	}
	i := slices.IndexFunc(sessions, func(s Session) bool { return s.Neighbor == neighbor.WithZone("") })
	if i < 0 {
		return Session{}, fmt.Errorf("router %s has no session with %s", r.place.Name, neighbor)
	}
	return sessions[i], nil
}

// Paths are the paths of a prefix in the BGP table, none if it is not there.
func (r *Router) Paths(ctx context.Context, prefix netip.Prefix) ([]Path, error) {
	return r.table(ctx, prefix.Masked())
}

// Table is the whole BGP table, in order of prefixes.
func (r *Router) Table(ctx context.Context) ([]Path, error) { return r.table(ctx, netip.Prefix{}) }

func (r *Router) table(ctx context.Context, prefix netip.Prefix) ([]Path, error) {
	paths, err := r.programs().table(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("BGP table of router %s: %w", r.place.Name, err)
	}
	slices.SortStableFunc(paths, func(a, b Path) int {
		return cmp.Or(comparePrefixes(a.Prefix, b.Prefix), a.Neighbor.Compare(b.Neighbor))
	})
	return paths, nil
}

// KernelRoute is where the router's kernel sends what goes to a prefix, by its route for exactly that prefix.
func (r *Router) KernelRoute(prefix netip.Prefix) ([]Hop, error) {
	return KernelRoute(r.place.Namespace, prefix.Masked())
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func sortSessions(sessions []Session) {
	slices.SortFunc(sessions, func(a, b Session) int {
		return cmp.Or(a.Neighbor.Compare(b.Neighbor), cmp.Compare(a.Interface, b.Interface))
	})
}

func (p Place) file(name string) string { return filepath.Join(p.Dir, name) }
