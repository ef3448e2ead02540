// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh/udp"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

// eth0 returns the node's interface.
func (s *speaker) eth0() link.Link {
	l := eth0
	l.MAC = s.mac
	l.Prefixes = []netip.Prefix{netip.PrefixFrom(s.addr(), 24)}
	return l
}

// addr is the node's own address.
func (s *speaker) addr() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, s.mac[5]}) }

// others returns the speakers at the other end of the wire.
func (s *speaker) others() []*speaker {
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.speakers), func(o *speaker) bool { return o == s || !s.connected() || !o.connected() })
}

func (s *speaker) connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.unplugged
}

// unplug takes the node off the wire.
func (s *speaker) unplug() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unplugged = true
}

// crash ends the speaker, and leaves the kernel.
func (s *speaker) crash() {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crashed = true
}

// transport is the mesh's end of the wire.
// nobody is a network without routers.
type nobody struct{}

func (nobody) SetState(source.State) {}
func (nobody) SetLinks([]link.Link)  {}

type transport struct{ s *speaker }

func (t *transport) Set([]link.Link) bool { return true }

func (t *transport) Close() {}

func (t *transport) Send(index int, to netip.Addr, _ bool, payload []byte) {
	for _, o := range t.s.others() {
		if to.IsValid() && to != o.addr() {
			continue
		}
		o.inbox <- udp.Datagram{Interface: index, From: t.s.addr(), TTL: 255, Payload: bytes.Clone(payload)}
	}
}

// responder is that of addresses.
type responder struct {
	s       *speaker
	sighted func(l2.Sighting)
}

func (r *responder) Set(_ []link.Link, desired map[netip.Addr]l2.Want) map[l2.Place]error {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desired = maps.Clone(desired)
	if s.broken != nil {
		return map[l2.Place]error{{Interface: "eth0", Family: l2.IPv4}: s.broken}
	}
	return nil
}

func (r *responder) Update(wants map[netip.Addr]l2.Want) bool {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.desired == nil {
		s.desired = map[netip.Addr]l2.Want{}
	}
	for addr, w := range wants {
		if len(w.Interfaces) > 0 {
			s.desired[addr] = w
		} else {
			delete(s.desired, addr)
		}
	}
	return s.broken == nil
}

func (r *responder) Silence(names []string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.silent = slices.Clone(names)
}

func (r *responder) AnswerUntil(t time.Time) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.until = t
}

func (r *responder) Announce(addr netip.Addr) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.said = append(r.s.said, addr)
}

func (r *responder) Refresh(string) {}

// Ask has the kernels of other nodes answer for their own addresses, and their
// speakers for what they announce.
func (r *responder) Ask(name string, addr netip.Addr, _ link.MAC, _ bool) error {
	answer := func(mac link.MAC) {
		go r.sighted(l2.Sighting{Interface: name, Addr: addr, MAC: mac, At: time.Now(), Reply: true})
	}
	for _, o := range r.s.others() {
		if o.addr() == addr {
			answer(o.mac)
		} else if mac := o.answersWith(addr); mac != (link.MAC{}) {
			answer(mac)
		}
	}
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if addr == vip && r.s.stranger != (link.MAC{}) {
		answer(r.s.stranger)
	}
	return nil
}

// LastReceived is now: somebody always asks for something.
func (r *responder) LastReceived(string) time.Time {
	if !r.s.connected() {
		return time.Time{}
	}
	return time.Now()
}

func (r *responder) Close() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.closed = true
	r.s.desired = nil
}

// answersAs returns the MAC that the node answers with for the address now,
// zero if it doesn't.
func (s *speaker) answersAs(addr netip.Addr) link.MAC {
	synctest.Wait()
	return s.answersWith(addr)
}

func (s *speaker) answersWith(addr netip.Addr) link.MAC {
	s.mu.Lock()
	defer s.mu.Unlock()
	want, ok := s.desired[addr]
	switch as := want.As["eth0"]; {
	case !ok || s.mute || time.Now().After(s.until):
		return link.MAC{}
	case as != link.MAC{}:
		return as
	case slices.Contains(s.silent, "eth0"):
		return link.MAC{}
	}
	return s.mac
}

// answers tells whether the node answers for the address with its own MAC.
func (s *speaker) answers(addr netip.Addr) bool { return s.answersAs(addr) == s.mac }

func (s *speaker) wantAnswers(want bool) {
	s.world.t.Helper()
	if s.answers(vip) != want {
		s.world.t.Errorf("after %v node %s answers: %v", time.Since(s.world.start), s.node, !want)
	}
}
