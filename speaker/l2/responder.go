// SPDX-License-Identifier: Apache-2.0

// Package l2 answers ARP requests for addresses that are on no interface, and announces them by gratuitous ARP.
package l2

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// ErrNoInterface says that an address is wanted on an interface that isn't
// there.
var ErrNoInterface = errors.New("no such interface")

// Responder answers on any number of interfaces.
type Responder struct {
	log     logr.Logger
	metrics metrics
	listen  func(link.Link) (io.ReadWriteCloser, error)

	mu    sync.Mutex
	ports map[int]*port // by interface index
}

// New returns a Responder that does nothing before Set. It opens sockets with
// listen, which is Listen outside of tests: reads return ARP requests as whole
// Ethernet frames until Close, and writes send such frames.
func New(log logr.Logger, reg prometheus.Registerer, listen func(link.Link) (io.ReadWriteCloser, error)) *Responder {
	return &Responder{log: log, metrics: newMetrics(reg), listen: listen, ports: map[int]*port{}}
}

// Set makes desired the whole of what is announced: for each IPv4 address the
// names of interfaces in links; other addresses are left out. It may be called any number of times with the
// same state: what is announced already isn't announced again.
//
// An address that is new on an interface is announced by gratuitous ARP, and so
// are all of an interface that came up, appeared or changed its MAC: give an
// interface no addresses while it is down. From the return on there are no
// answers for addresses that are not desired.
//
// It returns the interfaces that can't be used, with the cause; another Set
// tries them again.
func (r *Responder) Set(links []link.Link, desired map[netip.Addr][]string) map[string]error {
	r.mu.Lock()
	defer r.mu.Unlock()

	wanted := map[string]owned{}
	for addr, names := range desired {
		if !addr.Is4() {
			continue // ARP has no words for it
		}
		for _, name := range names {
			if wanted[name] == nil {
				wanted[name] = owned{}
			}
			wanted[name][addr] = struct{}{}
		}
	}
	byIndex := map[int]link.Link{}
	failed := map[string]error{}
	for name := range wanted {
		failed[name] = ErrNoInterface
	}
	for _, l := range links {
		if wanted[l.Name] != nil {
			byIndex[l.Index] = l
			delete(failed, l.Name)
		}
	}

	for index, p := range r.ports {
		if l, ok := byIndex[index]; !ok || l.MAC != p.link.MAC || l.Name != p.link.Name {
			p.close()
			delete(r.ports, index)
			p.log.V(1).Info("Stopped answering on interface")
		}
	}
	for index, l := range byIndex {
		p := r.ports[index]
		if p == nil {
			conn, err := r.listen(l)
			if err != nil {
				failed[l.Name] = fmt.Errorf("open packet socket on %s: %w", l.Name, err)
				continue
			}
			p = startPort(r.log, l, conn, r.metrics.of(l.Name))
			r.ports[index] = p
			p.log.V(1).Info("Answering on interface", "mac", l.MAC)
		}
		p.set(wanted[l.Name])
	}
	return failed
}

// Close falls silent and closes every socket. Nobody calls Set after it.
func (r *Responder) Close() { r.Set(nil, nil) }
