// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"math/rand/v2"
	"testing"
	"time"
)

// pair is two sessions and what is under way between them.
type pair struct {
	*testing.T
	rand  *rand.Rand
	now   time.Time
	sides [2]*session
	// loss is the part of the packets to a side that is lost, and delay the
	// longest that one takes. None overtakes another.
	loss   [2]float64
	delay  time.Duration
	flying []flight
	last   [2]time.Time
}

type flight struct {
	to int
	at time.Time
	packet
}

func newPair(t *testing.T, seed uint64, a, b Config) *pair {
	r := rand.New(rand.NewPCG(seed, 0))
	return &pair{T: t, rand: r, now: begin, delay: 2 * ms, sides: [2]*session{
		newSession(begin, a, 1+r.Uint32N(1000), r), newSession(begin, b, 2000+r.Uint32N(1000), r),
	}}
}

// send is what a side does with the packet that a method returned.
func (p *pair) send(side int, out packet, send bool) {
	if !send {
		return
	}
	var b [packetLength]byte
	out.encode(&b)
	var again packet
	if why := again.decode(b[:]); why != taken {
		p.Fatalf("a packet that everybody drops for its %s: %+v", why, out)
	}
	if out.poll && out.final {
		p.Fatalf("poll and final at once: %+v", out)
	}
	to := 1 - side
	if p.rand.Float64() >= p.loss[to] {
		p.last[to] = latest(p.last[to], p.now.Add(time.Duration(p.rand.Int64N(int64(p.delay)))))
		p.flying = append(p.flying, flight{to, p.last[to], again})
	}
}

// run lets time go by.
func (p *pair) run(d time.Duration) {
	p.Helper()
	for end, steps := p.now.Add(d), 0; ; steps++ {
		if steps > 1_000_000 {
			p.Fatalf("no end at %v: %+v", p.now, p.sides)
		}
		next, what := end, -1
		for i, f := range p.flying {
			if f.at.Before(next) {
				next, what = f.at, i
			}
		}
		side := -1
		for i, s := range p.sides {
			if at := s.next(); !at.IsZero() && at.Before(next) {
				next, side = at, i
			}
		}
		p.now = latest(p.now, next)
		switch {
		case side >= 0:
			out, send := p.sides[side].tick(p.now)
			p.send(side, out, send)
		case what >= 0:
			f := p.flying[what]
			p.flying = append(p.flying[:what], p.flying[what+1:]...)
			s := p.sides[f.to]
			if f.your != 0 && f.your != s.local {
				continue // nobody has that discriminator
			}
			out, send, _ := s.receive(p.now, p.now, &f.packet)
			p.send(f.to, out, send)
		default:
			return
		}
	}
}

func (p *pair) are(want State) {
	p.Helper()
	for i, s := range p.sides {
		if s.state != want {
			p.Errorf("side %d is %v (%v), want %v", i, s.state, s.diag, want)
		}
	}
}

func (p *pair) random() Config {
	return config(func(c *Config) {
		c.Transmit = time.Duration(10+p.rand.IntN(400)) * ms
		c.Receive = time.Duration(10+p.rand.IntN(400)) * ms
		c.Multiplier = uint8(2 + p.rand.IntN(5))
	})
}

// Whatever timers change meanwhile, two that hear each other stay Up, and agree
// in the end.
func TestAChangeOfTimersNeverTakesASessionDown(t *testing.T) {
	for seed := range uint64(200) {
		p := newPair(t, seed, config(nil), config(func(c *Config) { c.Passive = seed%2 == 0 }))
		p.delay = time.Duration(1+seed%150) * ms
		p.run(5 * time.Second)
		p.are(Up)
		for range 20 {
			side := p.rand.IntN(2)
			var out packet
			var send bool
			switch p.rand.IntN(4) {
			case 0:
				out, send = p.sides[side].setCover(p.now, time.Duration(p.rand.IntN(30))*time.Second)
			default:
				// A packet may take up to 150 ms longer than the one before.
				c := p.random()
				c.Transmit += p.delay
				out, send = p.sides[side].configure(p.now, c)
			}
			p.send(side, out, send)
			p.run(time.Duration(p.rand.IntN(2000)) * ms)
		}
		p.run(time.Minute)
		p.are(Up)
		for i, s := range p.sides {
			if s.downs != 0 || !s.covered() || s.used != s.wanted() || s.remoteTimers != p.sides[1-i].wanted() || s.detection() != p.sides[1-i].remoteDetection() {
				t.Fatalf("seed %d: side %d doesn't agree: %+v", seed, i, s)
			}
		}
	}
}

func TestASilentNeighbourIsDownInTime(t *testing.T) {
	for seed := range uint64(100) {
		p := newPair(t, seed, config(nil), config(nil))
		p.sides[1].configure(p.now, p.random())
		p.run(10 * time.Second)
		p.are(Up)
		s := p.sides[0]
		limit := s.detection()
		p.loss[0] = 1
		p.run(limit + p.delay)
		if s.state != Down || s.diag != DetectionExpired {
			t.Errorf("seed %d: %v (%v) after %v", seed, s.state, s.diag, limit)
		}
	}
}

// What one side can't hear, the other learns at once.
func TestAOneWayFailureIsToldToTheOtherSide(t *testing.T) {
	p := newPair(t, 1, config(func(c *Config) { c.Passive = true }), config(nil))
	p.run(10 * time.Second)
	p.are(Up)
	limit := p.sides[0].detection()
	p.loss[0] = 1
	p.run(limit + 2*p.delay)
	p.are(Down)
	if d := p.sides[1].diag; d != NeighborSignalled {
		t.Errorf("the other side is down for %v", d)
	}
}

// However much is lost, they come up again when nothing is.
func TestTheyRecover(t *testing.T) {
	for seed := range uint64(100) {
		p := newPair(t, seed, config(nil), config(nil))
		for range 20 {
			p.loss = [2]float64{p.rand.Float64(), p.rand.Float64()}
			if p.rand.IntN(4) == 0 {
				side := p.rand.IntN(2)
				out, send := p.sides[side].disable(p.now)
				p.send(side, out, send)
				p.run(time.Duration(p.rand.IntN(5000)) * ms)
				p.sides[side].enable(p.now)
			}
			p.run(time.Duration(p.rand.IntN(5000)) * ms)
		}
		p.loss = [2]float64{}
		p.run(15 * time.Second)
		p.are(Up)
		downs := p.sides[0].downs + p.sides[1].downs
		p.run(time.Minute)
		if p.are(Up); downs != p.sides[0].downs+p.sides[1].downs {
			t.Errorf("seed %d: it flapped", seed)
		}
	}
}

func TestARestartOfAPair(t *testing.T) {
	for seed := range uint64(100) {
		p := newPair(t, seed, config(func(c *Config) { c.Passive = seed%2 == 0 }), config(nil))
		p.loss = [2]float64{0.1, 0.1}
		p.run(20 * time.Second)
		p.loss = [2]float64{}
		p.run(10 * time.Second)
		downs := p.sides[1].downs
		out, send := p.sides[0].setCover(p.now, 20*time.Second)
		p.send(0, out, send)
		p.run(time.Second)
		if !p.sides[0].covered() {
			t.Fatalf("seed %d: no Final in a second: %+v", seed, p.sides[0])
		}
		// The old process is gone: nobody hears, nobody sends.
		old := p.sides[0]
		p.sides[0] = newSession(p.now, config(func(c *Config) { c.Passive = true }), 5000, p.rand)
		p.run(time.Duration(1+p.rand.IntN(18)) * time.Second)
		c := p.random()
		c.Adopt = time.Second
		p.sides[0] = newSession(p.now, c, 5001, p.rand)
		p.flying = nil
		for p.sides[0].state != Up && len(p.flying) == 0 {
			p.run(ms)
		}
		f := p.flying[0]
		if f.your != old.local || !p.sides[0].adoptable(p.now, &f.packet) {
			t.Fatalf("seed %d: not to be adopted: %+v", seed, f)
		}
		p.flying = nil
		out, send = p.sides[0].adopt(p.now, p.now, &f.packet)
		p.send(0, out, send)
		p.run(30 * time.Second)
		p.are(Up)
		if p.sides[1].downs != downs || p.sides[0].detection() != p.sides[1].remoteDetection() {
			t.Errorf("seed %d: the neighbour noticed: %+v", seed, p.sides[1])
		}
	}
}

// A neighbour may say whatever it likes.
func FuzzSession(f *testing.F) {
	f.Add([]byte{0, 0x40, 3, 0, 1, 2, 200, 0x80, 3, 9, 9, 9})
	f.Add([]byte{1, 0xe0, 1, 255, 0, 255, 3, 0xd0, 5, 1, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		b := newBench(t, func(c *Config) {
			if len(script) > 0 {
				c.Passive, c.Adopt = script[0]&1 != 0, time.Duration(script[0]&2)*time.Second
			}
		})
		unit := [...]time.Duration{0, time.Microsecond, 10 * ms, 300 * ms, time.Second, time.Hour, longest}
		for ; len(script) >= 6; script = script[6:] {
			p := packet{
				my: their, your: mine, state: State(script[1] >> 6), poll: script[1]&bitPoll != 0, final: script[1]&bitFinal != 0,
				demand: script[1]&bitDemand != 0, multiplier: max(1, script[2]), diag: Diag(script[2] & 0x1f),
				desiredMinTx: unit[int(script[3])%len(unit)], requiredMinRx: unit[int(script[4])%len(unit)],
			}
			switch script[0] % 8 {
			case 0:
				if b.adoptable(b.now, &p) {
					b.adopt(b.now, b.now, &p)
				}
			case 1:
				b.configure(b.now, config(func(c *Config) { c.Transmit = max(leastInterval, p.desiredMinTx); c.Multiplier = p.multiplier }))
			case 2:
				b.setCover(b.now, p.requiredMinRx)
			case 3:
				b.disable(b.now)
			case 4:
				b.enable(b.now)
			case 5:
				b.session.wake(b.now)
			default:
				b.hear(p)
			}
			start := b.now
			span := time.Duration(script[5]) * 4 * ms
			if sent := b.wait(span); len(sent) > int(span/(7*ms))+2 {
				t.Fatalf("%d packets in %v: %v", len(sent), b.now.Sub(start), sent)
			}
			if b.state == Up && b.polling && b.told != b.wanted() && b.next().IsZero() {
				t.Fatalf("nothing will end the poll: %+v", b.session)
			}
		}
	})
}
