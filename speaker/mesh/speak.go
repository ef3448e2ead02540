// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

const (
	// burst is how many frames of claims go out in one tick.
	burst = 50
	// burstPause is when the next ones follow.
	burstPause = 10 * time.Millisecond
	// askClaims is how long a peer may claim something else than is known
	// before it is asked: usually its claims are on their way.
	askClaims = 150 * time.Millisecond
	// askAgain is the pause between requests to a peer; it doubles up to
	// askSeldom while nothing helps.
	askAgain  = 200 * time.Millisecond
	askSeldom = 5 * time.Second
	// replyPause is the least time between two complete answers.
	replyPause = 100 * time.Millisecond
)

// speak sends what is due: claims first, then hellos whose digests cover them.
func (m *Machine) speak(now time.Time) {
	if m.cluster == 0 {
		return
	}
	m.request(now)
	m.reply(now)
	m.sayClaims(now)
	due := !now.Before(m.helloDue)
	if due || m.hurried {
		m.sayHello(now)
		m.hurried = false
	}
	if due {
		m.helloDue = now.Add(interval)
	}
	m.at(m.helloDue)
}

// send puts a frame out on all interfaces.
func (m *Machine) send(b []byte) {
	b = m.codec.end(b)
	for _, i := range m.ifaces {
		if i.Up {
			m.sendOn(i, b, false)
		}
	}
}

func (m *Machine) sendOn(i *iface, b []byte, sparing bool) {
	if !m.config.Unicast {
		m.out.Frames = append(m.out.Frames, Frame{Interface: i.Index, Sparing: sparing, Payload: b})
		return
	}
	for _, p := range m.order {
		if to := p.endpoint(i); to.IsValid() && p != m.self {
			m.out.Frames = append(m.out.Frames, Frame{Interface: i.Index, To: to, Payload: b})
		}
	}
}

// endpoint is the address at which a peer is reached on an interface.
func (p *peer) endpoint(i *iface) netip.Addr {
	for _, e := range p.endpoints {
		if e.Interface == i.Index {
			return e.Addr
		}
	}
	return netip.Addr{}
}

// sayHello sends a hello on every interface.
func (m *Machine) sayHello(now time.Time) {
	h := hello{
		state:  m.state(),
		uptime: uint32(now.Sub(m.started) / time.Second),
	}
	if m.synced {
		h.claims, h.digest = m.self.count, m.self.digest
	}
	if h.state == Synced && now.Sub(m.started) < youth {
		h.state = Young
	}
	for _, i := range m.ifaces {
		if !i.Up {
			continue
		}
		h.mac, h.silent = i.MAC, i.silent
		b := appendHello(m.codec.begin(kindHello, m.cluster), &h)
		count := len(b) - 1
		b = m.appendHeardSet(now, b, i)
		b[count] = byte((len(b) - count - 1) / heardSize)
		m.sendOn(i, m.codec.end(b), m.sparing(now, i))
	}
	m.rotation++
}

// appendHeardSet adds whom this node hears on an interface. If they are too
// many, each hello begins with another one.
func (m *Machine) appendHeardSet(now time.Time, b []byte, i *iface) []byte {
	fit := min(m.codec.room(b)/heardSize, 255)
	start := 0
	if len(m.order) > fit {
		start = m.rotation * fit % len(m.order)
	}
	for n := range m.order {
		p := m.order[(start+n)%len(m.order)]
		l := p.link(i)
		if l == nil || !l.hears(now) {
			continue
		}
		if fit == 0 {
			break
		}
		fit--
		age := (now.Sub(l.last) + ageUnit*time.Millisecond - 1) / (ageUnit * time.Millisecond)
		b = appendHeard(b, heard{node: p.hash, age: uint8(min(age, 255)), state: p.state, ipv4: now.Sub(l.ipv4) < missed})
	}
	return b
}

// request asks peers for claims that they have and this node doesn't.
func (m *Machine) request(now time.Time) {
	for _, p := range m.order {
		if p.toldSince.IsZero() || p == m.self {
			continue
		}
		due := p.toldSince.Add(askClaims)
		if m.listening(p, now) {
			due = p.toldSince
		}
		if p.askPause > 0 {
			due = latest(due, p.asked.Add(p.askPause))
		}
		if now.Before(due) {
			m.at(due)
			continue
		}
		if !p.heard(now) {
			continue
		}
		p.asked = now
		p.askPause = min(max(2*p.askPause, askAgain), askSeldom)
		b := m.codec.begin(kindRequest, m.cluster)
		b = append(append(b, byte(len(p.name))), p.name...)
		m.send(binary.BigEndian.AppendUint16(b, p.differs()))
	}
}

// heard tells whether hellos of the peer arrive on any interface.
func (p *peer) heard(now time.Time) bool {
	return slices.ContainsFunc(p.links, func(l *peerLink) bool { return l.hears(now) })
}

// listening tells whether addresses are not answered until the claims of a
// peer are known.
func (m *Machine) listening(p *peer, now time.Time) bool {
	return slices.ContainsFunc(p.links, func(l *peerLink) bool { return l.on.silent && l.hears(now) })
}

// reply begins to tell all claims of the buckets that were asked for.
func (m *Machine) reply(now time.Time) {
	if m.replyMask == 0 || m.complete != 0 {
		return
	}
	if due := m.replied.Add(replyPause); now.Before(due) {
		m.at(due)
		return
	}
	m.replied = now
	m.complete, m.replyMask = m.replyMask, 0
	for _, e := range m.sorted(m.self) {
		if e.best.by == m.self && m.complete&(1<<bucketOf(e.addr)) != 0 && !e.replying {
			e.replying = true
			m.replying = append(m.replying, e)
		}
	}
}

// sayClaims sends claims, at most a burst at a time: releases, new own ones,
// those that somebody seems not to know, and those asked for.
func (m *Machine) sayClaims(now time.Time) {
	w := writer{m: m, left: burst}
	for w.left > 0 && len(m.releasing) > 0 {
		w.add(&m.releasing[0])
		m.releasing = m.releasing[1:]
	}
	for w.left > 0 && len(m.saying) > 0 {
		e := m.saying[0]
		m.saying = m.saying[1:]
		e.saying = false
		w.addOwn(e)
	}
	m.relayDue(now, &w)
	for w.left > 0 && len(m.replying) > 0 {
		e := m.replying[0]
		m.replying = m.replying[1:]
		e.replying = false
		w.addOwn(e)
	}
	if m.complete != 0 && len(m.replying) == 0 && w.left > 0 {
		w.complete(m.complete)
		m.complete = 0
	}
	w.flush()
	if len(m.releasing)+len(m.saying)+len(m.replying) > 0 || m.complete != 0 {
		m.at(now.Add(burstPause))
	}
}

// relayDue tells claims to those that seem not to know them.
func (m *Machine) relayDue(now time.Time, w *writer) {
	kept := m.relays[:0]
	for _, r := range m.relays {
		if now.Before(r.due) || w.left == 0 {
			m.at(latest(r.due, now.Add(burstPause)))
			kept = append(kept, r)
			continue
		}
		e := r.entry
		e.relaying = false
		if b := bucketOf(e.addr); e.best.by == nil || r.to.told[b] == r.to.digest[b] {
			continue
		}
		if e.best.by == m.self {
			w.addOwn(e)
		} else {
			w.add(&word{addr: e.addr, term: e.best.term, rank: e.best.rank, mute: e.best.mute, node: []byte(e.best.by.name)})
		}
	}
	clear(m.relays[len(kept):])
	m.relays = kept
}

// writer fills frames with claims.
type writer struct {
	m    *Machine
	b    []byte
	left int // frames
}

func (w *writer) addOwn(e *address) {
	if e.best.by == w.m.self && w.m.synced {
		w.add(&word{addr: e.addr, term: e.best.term, rank: e.best.rank, mute: e.best.mute})
	}
}

func (w *writer) add(c *word) {
	if w.b != nil && w.m.codec.room(w.b) < wordRoom(c) {
		w.flush()
	}
	w.begin()
	w.b = appendWord(w.b, c)
}

func (w *writer) begin() {
	if w.b == nil {
		w.b = append(w.m.codec.begin(kindClaims, w.m.cluster), 0, 0)
	}
}

// complete has the frame that is being filled say that with it all claims of
// some buckets are told.
func (w *writer) complete(mask uint16) {
	w.begin()
	binary.BigEndian.PutUint16(w.b[headerSize+len(w.m.config.Node):], mask)
}

func (w *writer) flush() {
	if w.b != nil {
		w.m.send(w.b)
		w.b = nil
		w.left--
	}
}
