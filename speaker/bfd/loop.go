// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ready is called by a receiver's own goroutine.
func (m *Manager) ready(r receiver) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.drain(r)
	m.arm()
}

// drain is always under the lock: what is read has been heeded before anybody
// judges.
func (m *Manager) drain(r receiver) {
	if err := r.drain(m.receive); err != nil {
		m.log.Error(err, "Can't receive BFD packets")
	}
}

// deliver gives a datagram to its session.
func (m *Manager) deliver(d *datagram) {
	if why := m.take(d); why != taken {
		m.stats.dropped[why]++
	}
}

func (m *Manager) take(d *datagram) reason {
	if !d.place.multihop && d.ttl != 255 {
		return dropTTL // RFC 5881, section 5
	}
	var p packet
	if why := p.decode(d.payload); why != taken {
		return why
	}
	now := time.Now()
	e := m.byDiscriminator[p.your]
	adopts := false
	if e == nil {
		e = m.find(d)
		if e == nil || p.your != 0 && !e.adoptable(now, &p) {
			return dropUnknown
		}
		adopts = p.your != 0
	}
	// Your Discriminator alone says which session it is (RFC 5880, section 6.3),
	// but no way around the TTL's check or past the interface is left open.
	switch {
	case d.place != e.place || e.index != 0 && e.index != d.index:
		return dropUnknown
	case d.ttl < int(e.MinimumTTL):
		return dropTTL
	}
	e.count.received++
	var out packet
	var send bool
	why := taken
	if adopts {
		delete(m.byDiscriminator, e.local)
		m.byDiscriminator[p.your] = e
		out, send = e.adopt(now, d.at, &p)
	} else {
		out, send, why = e.receive(now, d.at, &p)
	}
	if send {
		m.send(e, now, &out)
	}
	m.settle(e)
	return why
}

// find returns whose neighbour sent a packet that names no session.
func (m *Manager) find(d *datagram) *endpoint {
	for _, index := range [...]int{d.index, 0} {
		for _, local := range [...]netip.Addr{d.to, {}} {
			if e := m.byPeer[peer{d.place, d.from, local, index}]; e != nil {
				return e
			}
		}
	}
	return nil
}

// tick is called by the timer.
func (m *Manager) tick() {
	m.mu.Lock()
	defer m.unlock()
	if m.closed {
		return
	}
	m.armed = time.Time{}
	now := time.Now()
	if next := m.due.Next(); !next.IsZero() && now.Sub(next) > stalled {
		m.wake(now)
	}
	drained := false
	for {
		e, ok := m.due.First(now)
		if !ok {
			break
		}
		if !drained && e.remote != 0 && !now.Before(e.deadline()) {
			// What the neighbour sent may wait to be read.
			for _, r := range m.receivers {
				m.drain(r)
			}
			drained = true
		}
		m.act(e, now)
	}
	m.arm()
}

// wake is called when the process was stopped for some time.
func (m *Manager) wake(now time.Time) {
	m.stats.stalls++
	for _, r := range m.receivers {
		m.drain(r)
	}
	for _, e := range m.endpoints {
		e.session.wake(now)
		m.settle(e)
	}
}

// act does what is due for an endpoint.
func (m *Manager) act(e *endpoint, now time.Time) {
	if !e.gone.IsZero() && !now.Before(e.gone) {
		m.forget(e)
		m.shut()
		return
	}
	if e.sender == nil {
		m.open(e, now)
	}
	if out, ok := e.tick(now); ok {
		m.send(e, now, &out)
	}
	m.settle(e)
}

// send sends a packet; one that the network doesn't take is lost as others are.
func (m *Manager) send(e *endpoint, now time.Time, p *packet) {
	if e.sender == nil {
		return
	}
	p.encode(&e.buffer)
	err := e.sender.send(e.buffer[:])
	switch {
	case err == nil:
		e.count.sent++
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS):
		e.count.failed++
		return // the queue is full for the moment
	default:
		// The interface or the own address may be another one by now.
		e.count.failed++
		m.hangUp(e)
		e.tried = now
	}
	m.note(e, &e.unsent, err)
}

func (e *endpoint) news() news { return news{e.state, e.remoteState, e.downs, e.trouble()} }

// settle is called when something has happened to an endpoint: it is due at
// another time then, and there may be news.
func (m *Manager) settle(e *endpoint) {
	if e.forgotten {
		return
	}
	at := e.next()
	if e.sender == nil {
		at = earliest(at, e.tried.Add(reopen))
	}
	if !e.gone.IsZero() {
		at = earliest(at, e.gone)
	}
	if at.IsZero() {
		m.due.Remove(e)
	} else {
		m.due.Set(e, at)
	}
	if n := e.news(); n != e.told {
		e.told = n
		m.announce(e)
	}
	m.checkParked()
}

func (m *Manager) announce(e *endpoint) {
	if e.queued {
		return
	}
	e.queued = true
	m.changes = append(m.changes, e)
	if !m.telling {
		m.telling = true
		go m.tell()
	}
}

// tell calls changed until there is no more news.
func (m *Manager) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.changes) > 0 {
		e := m.changes[0]
		m.changes = m.changes[1:]
		e.queued = false
		s := e.status()
		m.mu.Unlock()
		m.changed(s)
		m.mu.Lock()
	}
	m.changes = nil
	m.telling = false
}

// arm sets the timer to when the next session is due.
func (m *Manager) arm() {
	next := m.due.Next()
	if m.closed || next.IsZero() || next.Equal(m.armed) {
		return
	}
	m.armed = next
	if m.timer == nil {
		m.timer = time.AfterFunc(time.Until(next), m.tick)
		return
	}
	m.timer.Reset(time.Until(next))
}
