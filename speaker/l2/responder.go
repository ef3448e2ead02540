// SPDX-License-Identifier: Apache-2.0

// Package l2 answers ARP requests and neighbour solicitations for addresses that are on no interface, and announces them.
package l2

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// ErrNoInterface says that a place isn't there.
var ErrNoInterface = errors.New("no interface of this name is up and resolves addresses of this family")

// Family is that of an address: IPv4 is resolved by ARP, IPv6 by NDP.
type Family uint8

const (
	IPv4 Family = iota
	IPv6
)

// FamilyOf returns the family of a valid address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string { return [...]string{"ipv4", "ipv6"}[f] }

// Place is where addresses of a family are answered.
type Place struct {
	Interface string
	Family    Family
}

// Want says how to answer for an address.
type Want struct {
	// Interfaces are the names of those to answer on.
	Interfaces []string
	// As has, by interface, the MAC of another node to answer with: who stands
	// in for an owner moves nothing. There the address is not announced.
	As map[string]link.MAC
}

func (w Want) equal(o Want) bool {
	return slices.Equal(w.Interfaces, o.Interfaces) && maps.Equal(w.As, o.As)
}

// on tells how to answer on an interface, if at all.
func (w Want) on(name string) (answerAs, bool) {
	return answerAs{w.As[name]}, slices.Contains(w.Interfaces, name)
}

// Sighting is a frame that says where an address is, from another station or
// another interface of this one. It proves nothing: anybody can send one.
type Sighting struct {
	Interface string
	Addr      netip.Addr
	MAC       link.MAC
	// At is when the kernel received it, by the wall clock.
	At time.Time
	// Reply tells an ARP reply or a neighbour advertisement from a request
	// whose sender says in passing who it is, and from a gratuitous ARP reply.
	Reply bool
	// Probe says that the station has not got the address yet: it makes sure
	// that nobody else has it. That is told of addresses that were asked for
	// lately and are not answered for.
	Probe bool
}

// Responder answers on any number of interfaces. Its methods may be called by
// several goroutines.
type Responder struct {
	log     logr.Logger
	metrics metrics
	sockets Sockets
	sighted func(Sighting)
	deadman *deadman

	mu    sync.Mutex
	wants map[netip.Addr]Want
	users map[Place]int // how many wants name it
	ports map[int]*port // by interface index
	// silent are the names of interfaces on which nothing is answered for now.
	silent []string
}

// New returns a Responder that does nothing before Set. Outside of tests the
// sockets are Kernel's.
//
// It calls sighted with each frame that says where an address is that is
// answered for or was asked for lately. That may be as often as frames arrive,
// and no request is answered meanwhile: sighted must neither wait nor call the
// Responder.
func New(log logr.Logger, reg prometheus.Registerer, sockets Sockets, sighted func(Sighting)) *Responder {
	return &Responder{
		log: log, metrics: newMetrics(reg), sockets: sockets, sighted: sighted, deadman: newDeadman(),
		wants: map[netip.Addr]Want{}, users: map[Place]int{}, ports: map[int]*port{},
	}
}

// Set makes desired the whole of what is answered, on those of the links that
// are up. It listens on every link that it is given: leave out those that can
// carry no address. It may be called any number of times with the same state,
// and costs little where little changed. It keeps the wants, which must not be
// modified any more, but not the map.
//
// An address that is new on an interface is announced, and so are all of an
// interface that came up, appeared or changed its MAC. From the return on
// nothing is sent for addresses that are not desired.
//
// It returns the places that can't be used, with the cause; another Set tries
// them again.
func (r *Responder) Set(links []link.Link, desired map[netip.Addr]Want) map[Place]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := r.take(desired)

	present := make(map[int]link.Link, len(links))
	for _, l := range links {
		if l.Up && l.MAC != (link.MAC{}) {
			present[l.Index] = l
		}
	}
	for index, p := range r.ports {
		if l, ok := present[index]; !ok || l.MAC != p.mac || l.Name != p.name {
			p.close()
			delete(r.ports, index)
			p.log.V(1).Info("Stopped answering on interface")
			continue
		}
		p.apply(changed, r.wants)
	}
	failed := map[Place]error{}
	for index, l := range present {
		p := r.ports[index]
		if p == nil {
			p = newPort(r.log, l, r.deadman, r.sighted)
			p.silence(slices.Contains(r.silent, l.Name))
			r.ports[index] = p
		}
		p.link = l
		for _, f := range []Family{IPv4, IPv6} {
			r.attach(p, f, failed)
		}
	}
	for place := range r.users {
		if p := r.named(place.Interface); failed[place] == nil && (p == nil || p.wires[place.Family] == nil) {
			failed[place] = ErrNoInterface
		}
	}
	return failed
}

// Update is Set for some addresses, at the cost of those alone: all others and
// the links stay as they are. A want without interfaces ends the answers. It
// reports whether all places can be used; Set tells which can't.
func (r *Responder) Update(wants map[netip.Addr]Want) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var changed []netip.Addr
	for addr, w := range wants {
		if r.want(addr, w) {
			changed = append(changed, addr)
		}
	}
	slices.SortFunc(changed, netip.Addr.Compare)
	for _, p := range r.ports {
		p.apply(changed, r.wants)
	}
	for place := range r.users {
		if p := r.named(place.Interface); p == nil || p.wires[place.Family] == nil || p.wires[place.Family].failure() != nil {
			return false
		}
	}
	return true
}

// take makes desired what is wanted, and returns the addresses that differ.
func (r *Responder) take(desired map[netip.Addr]Want) []netip.Addr {
	var changed []netip.Addr
	for addr, w := range desired {
		if r.want(addr, w) {
			changed = append(changed, addr)
		}
	}
	if len(r.wants) != len(desired) { // or else no other is left
		for addr := range r.wants {
			if _, ok := desired[addr]; !ok {
				r.want(addr, Want{})
				changed = append(changed, addr)
			}
		}
	}
	slices.SortFunc(changed, netip.Addr.Compare)
	return changed
}

// want makes w what is wanted for an address, and reports whether it differs.
func (r *Responder) want(addr netip.Addr, w Want) bool {
	old := r.wants[addr]
	if !unicast(addr) || old.equal(w) {
		return false
	}
	r.use(addr, old, -1)
	r.use(addr, w, 1)
	if len(w.Interfaces) == 0 {
		delete(r.wants, addr)
	} else {
		r.wants[addr] = w
	}
	return true
}

func (r *Responder) use(addr netip.Addr, w Want, n int) {
	for _, name := range w.Interfaces {
		place := Place{name, FamilyOf(addr)}
		r.users[place] += n
		if r.users[place] == 0 {
			delete(r.users, place)
		}
	}
}

// attach gives the port its sockets of a family, if the interface resolves it,
// or takes them away if not.
func (r *Responder) attach(p *port, f Family, failed map[Place]error) {
	place := Place{p.name, f}
	w := p.wires[f]
	switch resolves := p.link.ARP && (f == IPv4 || p.link.NDP); {
	case !resolves && w != nil:
		p.detach(f)
	case resolves && w == nil:
		if err := p.attach(f, r.sockets, r.metrics.of(place)); err != nil {
			failed[place] = fmt.Errorf("listen on %s: %w", p.name, err)
			return
		}
		p.fill(f, r.wants)
		p.log.V(1).Info("Answering on interface", "family", f, "mac", p.mac)
	case w != nil:
		if err := w.failure(); err != nil {
			failed[place] = err
		}
	}
}

// unicast tells whether an address can be that of a station.
func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && !a.IsMulticast() && !a.IsUnspecified()
}

// named returns the port of the interface, or nil.
func (r *Responder) named(name string) *port {
	for _, p := range r.ports {
		if p.name == name {
			return p
		}
	}
	return nil
}

// AnswerUntil is a dead man's switch: nothing is answered or announced after t
// until it is called again. Before the first call there is no such time. A
// process that was stopped and goes on is silent until it has looked around.
func (r *Responder) AnswerUntil(t time.Time) {
	if r.deadman.set(t) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.ports {
		p.poke()
	}
}

// Announce announces an address anew wherever it is announced at all.
func (r *Responder) Announce(addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.ports {
		p.announceAgain(addr)
	}
}

// Refresh announces all addresses of an interface anew.
func (r *Responder) Refresh(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.named(name); p != nil {
		p.announceAllAgain()
	}
}

// LastReceived tells when the kernel received the last frame of another
// station that came to the sockets of the interface; zero if none has. The
// time can be compared with those of the monotonic clock.
func (r *Responder) LastReceived(name string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.named(name); p != nil {
		return p.lastReceived()
	}
	return time.Time{}
}

// Ask asks the wire who has an address, once; a sighting is the answer. With a
// MAC it asks only that station. A probe (RFC 5227, section 2.1; RFC 4862,
// section 5.4.2) tells nothing about the asker, so it changes no neighbour's
// cache; that a link has no address of ours makes every question a probe.
func (r *Responder) Ask(name string, addr netip.Addr, mac link.MAC, probe bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !unicast(addr) {
		return fmt.Errorf("ask for %v: not the address of a station", addr)
	}
	p := r.named(name)
	if p == nil || p.wires[FamilyOf(addr)] == nil {
		return fmt.Errorf("ask for %v on %s: %w", addr, name, ErrNoInterface)
	}
	if err := p.ask(addr, mac, probe); err != nil {
		return fmt.Errorf("ask for %v on %s: %w", addr, name, err)
	}
	return nil
}

// Close falls silent and closes every socket. Nobody calls Set after it.
func (r *Responder) Close() { r.Set(nil, nil) }
