// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	ms    = time.Millisecond
	mine  = 7
	their = 9
)

var begin = time.Unix(1000, 0)

func config(change func(*Config)) Config {
	c := Config{Timers: Timers{Transmit: 100 * ms, Receive: 200 * ms, Multiplier: 3}}
	if change != nil {
		change(&c)
	}
	return c
}

// bench is a session by itself, with a clock.
type bench struct {
	*testing.T
	*session
	now time.Time
}

func newBench(t *testing.T, change func(*Config)) *bench {
	return &bench{t, newSession(begin, config(change), mine, rand.New(rand.NewPCG(1, 2))), begin}
}

// from is a packet of the neighbour.
func from(s State, change func(*packet)) packet {
	p := packet{state: s, multiplier: 5, my: their, your: mine, desiredMinTx: 300 * ms, requiredMinRx: 50 * ms}
	if change != nil {
		change(&p)
	}
	return p
}

// hear returns the answer to a packet as text.
func (b *bench) hear(p packet) string {
	b.Helper()
	out, send, _ := b.receive(b.now, b.now, &p)
	if !send {
		return ""
	}
	return text(out)
}

// up takes the session Up and through the poll sequence that follows.
func (b *bench) up() *bench {
	b.Helper()
	b.hear(from(Init, nil))
	b.hear(from(Up, func(p *packet) { p.final = true }))
	b.is(Up, NoDiagnostic)
	b.tick(b.now)
	return b
}

// wait lets time go by, and returns what was sent and how long after the start.
func (b *bench) wait(d time.Duration) (sent []string) {
	b.Helper()
	end := b.now.Add(d)
	for start, again := b.now, 0; ; {
		at := b.next()
		if at.IsZero() || at.After(end) {
			b.now = end
			return sent
		}
		// To go Down, and to say so when a neighbour may be told, are two steps.
		if again++; at.After(b.now) {
			again = 0
		}
		if again > 2 {
			b.Fatalf("it is due at %v again and again", at)
		}
		b.now = latest(b.now, at)
		if out, send := b.tick(b.now); send {
			sent = append(sent, fmt.Sprintf("%v: %s", b.now.Sub(start).Round(ms), text(out)))
		}
	}
}

func (b *bench) is(s State, d Diag) {
	b.Helper()
	if b.state != s || b.diag != d {
		b.Errorf("it is %v (%v), want %v (%v)", b.state, b.diag, s, d)
	}
}

func (b *bench) want(got, want string) {
	b.Helper()
	if got != want {
		b.Errorf("got %q, want %q", got, want)
	}
}

func text(p packet) string {
	s := p.state.String()
	if p.diag != NoDiagnostic {
		s += fmt.Sprintf("/%d", p.diag)
	}
	if p.poll {
		s += " P"
	}
	if p.final {
		s += " F"
	}
	return s + fmt.Sprintf(" %d->%d tx %v rx %v x%d", p.my, p.your, p.desiredMinTx, p.requiredMinRx, p.multiplier)
}

// The state machine of RFC 5880, section 6.2 and 6.8.6.
func TestTransitions(t *testing.T) {
	for _, test := range []struct {
		in   State
		hear State
		want State
		diag Diag
	}{
		{Down, AdminDown, Down, NoDiagnostic},
		{Down, Down, Init, NoDiagnostic},
		{Down, Init, Up, NoDiagnostic},
		{Down, Up, Down, NoDiagnostic},
		{Init, AdminDown, Down, NeighborSignalled},
		{Init, Down, Init, NoDiagnostic},
		{Init, Init, Up, NoDiagnostic},
		{Init, Up, Up, NoDiagnostic},
		{Up, AdminDown, Down, NeighborSignalled},
		{Up, Down, Down, NeighborSignalled},
		{Up, Init, Up, NoDiagnostic},
		{Up, Up, Up, NoDiagnostic},
		{AdminDown, AdminDown, AdminDown, AdministrativeDown},
		{AdminDown, Down, AdminDown, AdministrativeDown},
		{AdminDown, Init, AdminDown, AdministrativeDown},
		{AdminDown, Up, AdminDown, AdministrativeDown},
	} {
		t.Run(fmt.Sprintf("%v hears %v", test.in, test.hear), func(t *testing.T) {
			b := newBench(t, nil)
			switch test.in {
			case Init:
				b.hear(from(Down, nil))
			case Up:
				b.up()
			case AdminDown:
				b.up().disable(b.now)
			}
			b.now = b.now.Add(10 * ms)
			answer := b.hear(from(test.hear, nil))
			b.is(test.want, test.diag)
			changed := test.in != test.want
			if (answer != "") != changed {
				t.Errorf("the answer is %q", answer)
			}
			if changed && b.since != b.now {
				t.Errorf("since %v", b.since)
			}
		})
	}
}

func TestASessionComesUp(t *testing.T) {
	b := newBench(t, nil)
	b.want(fmt.Sprint(b.wait(0)), "[0s: Down 7->0 tx 1s rx 200ms x3]")
	b.want(b.hear(from(Down, func(p *packet) { p.your = 0 })), "Init 7->9 tx 1s rx 200ms x3")
	b.want(b.hear(from(Up, nil)), "Up P 7->9 tx 100ms rx 200ms x3")
	b.want(b.hear(from(Up, func(p *packet) { p.final = true })), "")
	if got := b.wait(100 * ms); len(got) != 1 || got[0][len("100ms: "):] != "Up 7->9 tx 100ms rx 200ms x3" && got[0][len("99ms: "):] != "Up 7->9 tx 100ms rx 200ms x3" {
		t.Error(got)
	}
}

// RFC 5880, section 6.8.7.
func TestWhenPacketsAreSent(t *testing.T) {
	gaps := func(b *bench, d time.Duration, feed packet) (gaps []time.Duration) {
		last := b.sent
		for end := b.now.Add(d); b.now.Before(end); {
			b.hear(feed)
			b.wait(10 * ms)
			if b.sent != last {
				gaps = append(gaps, b.sent.Sub(last))
				last = b.sent
			}
		}
		return gaps
	}
	for _, test := range []struct {
		name        string
		config      func(*Config)
		neighbour   func(*packet)
		least, most time.Duration
	}{
		{"as wanted", nil, nil, 75 * ms, 100 * ms},
		{"as the neighbour can", nil, func(p *packet) { p.requiredMinRx = 400 * ms }, 300 * ms, 400 * ms},
		{"10 % before the detection time if none may be lost", func(c *Config) { c.Multiplier = 1 }, nil, 75 * ms, 90 * ms},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, test.config).up()
			feed := from(Up, test.neighbour)
			b.hear(feed)
			seen := gaps(b, 60*time.Second, feed)[1:]
			low, high := seen[0], seen[0]
			for _, g := range seen {
				low, high = min(low, g), max(high, g)
			}
			if low < test.least || high > test.most || high-low < (test.most-test.least)*3/4 {
				t.Errorf("between %v and %v, want %v and %v", low, high, test.least, test.most)
			}
		})
	}
	for _, test := range []struct {
		name  string
		bench func() *bench
		feed  packet
	}{
		{"nothing to a neighbour that wants nothing", func() *bench { return newBench(t, nil).up() }, from(Up, func(p *packet) { p.requiredMinRx = 0 })},
		{"nothing to a neighbour that demands", func() *bench { return newBench(t, nil).up() }, from(Up, func(p *packet) { p.demand = true })},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := test.bench()
			b.hear(test.feed)
			if got := gaps(b, 5*time.Second, test.feed); len(got) != 0 {
				t.Errorf("packets after %v", got)
			}
			if got := b.hear(from(Up, func(p *packet) { *p = test.feed; p.poll = true })); got == "" {
				t.Error("a poll is not answered")
			}
		})
	}
	t.Run("not more than one a second before it is Up", func(t *testing.T) {
		if got := newBench(t, nil).wait(10 * time.Second); len(got) < 10 || len(got) > 14 {
			t.Error(got)
		}
	})
	t.Run("nothing from the passive side before it hears", func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.Passive = true })
		if got := b.wait(time.Minute); len(got) != 0 {
			t.Error(got)
		}
		b.want(b.hear(from(Down, func(p *packet) { p.your = 0 })), "Init 7->9 tx 1s rx 200ms x3")
		if got := b.wait(1400 * ms); len(got) != 1 {
			t.Errorf("then it sent %v", got)
		}
	})
	t.Run("polls although the neighbour demands", func(t *testing.T) {
		b := newBench(t, nil).up()
		b.hear(from(Up, func(p *packet) { p.demand = true }))
		b.wait(200 * ms)
		out, send := b.configure(b.now, config(func(c *Config) { c.Transmit = 50 * ms }))
		if !send || !out.poll {
			t.Fatalf("%v %v", send, out)
		}
		if got := b.wait(60 * ms); len(got) != 1 {
			t.Errorf("it polled again by %v", got)
		}
	})
}

func TestAPollIsAnsweredAtOnceAndNotTooOften(t *testing.T) {
	b := newBench(t, nil).up()
	poll := from(Up, func(p *packet) { p.poll = true })
	sent := b.sent
	b.want(b.hear(poll), "Up F 7->9 tx 100ms rx 200ms x3")
	if b.sent != sent {
		t.Error("the Final delays the next packet")
	}
	answers := 0
	for range 10_000 {
		b.now = b.now.Add(100 * time.Microsecond)
		if b.hear(poll) != "" {
			answers++
		}
	}
	if answers < unscheduled || answers > unscheduled+unscheduledBurst {
		t.Errorf("%d of 10000 in a second were answered", answers)
	}
}

// RFC 5880, section 6.8.4.
func TestDetection(t *testing.T) {
	for _, test := range []struct {
		name   string
		packet func(*packet)
		want   time.Duration
	}{
		{"what the neighbour would send counts", nil, 5 * 300 * ms},
		{"what this side can receive counts", func(p *packet) { p.desiredMinTx = 20 * ms }, 5 * 200 * ms},
		{"the neighbour's multiplier counts", func(p *packet) { p.multiplier = 1 }, 300 * ms},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil).up()
			b.hear(from(Up, test.packet))
			b.wait(test.want - time.Microsecond)
			b.is(Up, NoDiagnostic)
			b.want(fmt.Sprint(b.wait(time.Microsecond)), "[0s: Down/1 7->9 tx 1s rx 200ms x3]")
			b.is(Down, DetectionExpired)
			if b.remote != 0 || b.remoteState != Down || b.downs != 1 {
				t.Errorf("the neighbour is still known: %+v", b.session)
			}
		})
	}
	t.Run("what the kernel had is counted from then", func(t *testing.T) {
		b := newBench(t, nil).up()
		p := from(Up, nil)
		b.receive(b.now.Add(time.Second), b.now.Add(500*ms), &p)
		if got := b.deadline(); got != b.now.Add(2*time.Second) {
			t.Errorf("until %v", got.Sub(b.now))
		}
		b.receive(b.now.Add(time.Second), b.now, &p)
		if got := b.deadline(); got != b.now.Add(2*time.Second) {
			t.Errorf("an older one changed it to %v", got.Sub(b.now))
		}
	})
	t.Run("a session that is Init goes Down", func(t *testing.T) {
		b := newBench(t, nil)
		b.hear(from(Down, nil))
		b.wait(1500 * ms)
		b.is(Down, DetectionExpired)
	})
	t.Run("a neighbour that is Down is forgotten", func(t *testing.T) {
		b := newBench(t, nil)
		b.hear(from(AdminDown, nil))
		b.wait(1500 * ms)
		if b.remote != 0 || b.diag != NoDiagnostic {
			t.Errorf("%d, %v", b.remote, b.diag)
		}
	})
	t.Run("after a stall there is time for one more packet, once", func(t *testing.T) {
		b := newBench(t, nil).up()
		b.now = b.now.Add(10 * time.Second)
		b.wake(b.now)
		b.wait(299 * ms)
		b.is(Up, NoDiagnostic)
		b.wake(b.now)
		b.wait(1 * ms)
		b.is(Down, DetectionExpired)
	})
	t.Run("a neighbour that is heard has no use for it", func(t *testing.T) {
		b := newBench(t, nil).up()
		b.wake(b.now.Add(100 * ms))
		b.wait(1499 * ms)
		b.is(Up, NoDiagnostic)
		b.wait(1 * ms)
		b.is(Down, DetectionExpired)
	})
}

// RFC 5880, section 6.8.3.
func TestTimersChangeByPolls(t *testing.T) {
	final := from(Up, func(p *packet) { p.final = true })
	change := func(b *bench, f func(*Config)) string {
		if out, send := b.configure(b.now, config(f)); send {
			return text(out)
		}
		return ""
	}
	t.Run("rarer packets only after the Final", func(t *testing.T) {
		b := newBench(t, nil).up()
		b.want(change(b, func(c *Config) { c.Transmit = time.Second }), "Up P 7->9 tx 1s rx 200ms x3")
		if b.transmitInterval() != 100*ms {
			t.Errorf("it sends every %v", b.transmitInterval())
		}
		b.hear(final)
		if b.transmitInterval() != time.Second || b.polling {
			t.Errorf("then every %v", b.transmitInterval())
		}
	})
	t.Run("more packets at once", func(t *testing.T) {
		b := newBench(t, nil).up()
		b.want(change(b, func(c *Config) { c.Transmit = 60 * ms }), "Up P 7->9 tx 60ms rx 200ms x3")
		if b.transmitInterval() != 60*ms {
			t.Errorf("it sends every %v", b.transmitInterval())
		}
	})
	t.Run("more packets are expected only after the Final", func(t *testing.T) {
		b := newBench(t, nil).up()
		b.hear(from(Up, func(p *packet) { p.desiredMinTx = 10 * ms }))
		b.want(change(b, func(c *Config) { c.Receive = 50 * ms }), "Up P 7->9 tx 100ms rx 50ms x3")
		if b.detection() != 5*200*ms {
			t.Errorf("the neighbour has %v", b.detection())
		}
		b.hear(from(Up, func(p *packet) { p.desiredMinTx, p.final = 10*ms, true }))
		if b.detection() != 5*50*ms {
			t.Errorf("then %v", b.detection())
		}
	})
	t.Run("fewer packets are expected at once", func(t *testing.T) {
		b := newBench(t, nil).up()
		change(b, func(c *Config) { c.Receive = time.Second })
		if b.detection() != 5*time.Second {
			t.Errorf("the neighbour has %v", b.detection())
		}
	})
	t.Run("no poll for the multiplier, nor for nothing", func(t *testing.T) {
		b := newBench(t, nil).up()
		b.want(change(b, func(c *Config) { c.Multiplier = 9 })+change(b, func(c *Config) { c.Multiplier = 9 }), "")
		if b.polling || b.compose(b.now, false).multiplier != 9 {
			t.Error("the multiplier isn't told")
		}
	})
	t.Run("a change during a poll waits for its Final, and for Finals under way", func(t *testing.T) {
		b := newBench(t, nil).up()
		change(b, func(c *Config) { c.Transmit = 90 * ms })
		b.wait(100 * ms) // a second poll
		b.want(change(b, func(c *Config) { c.Transmit = 80 * ms }), "")
		if b.told.tx != 90*ms {
			t.Errorf("the poll tells %v", b.told)
		}
		b.want(b.hear(final), "")
		b.want(b.hear(final), "")
		if b.polling || b.covered() {
			t.Fatal("the next poll began while a Final may be under way")
		}
		sent := b.wait(100 * ms)
		if !b.polling || b.told.tx != 80*ms {
			t.Fatalf("no second poll: %v", sent)
		}
		b.hear(final)
		if !b.covered() || b.used.tx != 80*ms {
			t.Errorf("after all %v", b.used)
		}
	})
	t.Run("a Final before the poll ends nothing", func(t *testing.T) {
		b := newBench(t, nil).up()
		for b.pace.Take(b.now) {
		}
		b.want(change(b, func(c *Config) { c.Transmit = 90 * ms }), "")
		b.hear(final)
		if !b.polling {
			t.Error("the poll ended")
		}
	})
	t.Run("none while Down", func(t *testing.T) {
		b := newBench(t, nil)
		b.want(change(b, func(c *Config) { c.Receive = 50 * ms }), "")
		if b.told.rx != 50*ms || b.polling {
			t.Errorf("it tells %v", b.told)
		}
	})
}

func TestAdminDown(t *testing.T) {
	b := newBench(t, nil).up()
	out, send := b.disable(b.now)
	b.want(text(out), "AdminDown/7 7->9 tx 1s rx 200ms x3")
	if !send || b.downs != 1 {
		t.Error("the neighbour isn't told")
	}
	b.want(b.hear(from(Down, func(p *packet) { p.poll = true })), "")
	b.enable(b.now)
	b.is(Down, NoDiagnostic)
	b.want(b.hear(from(Down, nil)), "Init 7->9 tx 1s rx 200ms x3")
}

// A process parks its sessions, and the next one adopts them.
func TestARestartGoesUnnoticed(t *testing.T) {
	b := newBench(t, nil).up()
	out, send := b.setCover(b.now, 30*time.Second)
	if b.want(text(out), "Up P 7->9 tx 10.000001s rx 200ms x3"); !send || b.covered() || b.transmitInterval() != 100*ms {
		t.Fatalf("%+v", b.session)
	}
	b.hear(from(Up, func(p *packet) { p.final = true }))
	if !b.covered() || b.transmitInterval() != b.told.tx || b.remoteDetection() < 30*time.Second {
		t.Fatalf("%+v", b.session)
	}

	next := newBench(t, func(c *Config) { c.Adopt = time.Second })
	next.local = 70
	if got := next.wait(500 * ms); len(got) != 0 {
		t.Fatalf("it doesn't only listen: %v", got)
	}
	p := from(Up, nil)
	if !next.adoptable(next.now, &p) {
		t.Fatal("the neighbour can't be adopted")
	}
	out, send = next.adopt(next.now, next.now, &p)
	if next.want(text(out), "Up P 7->9 tx 100ms rx 200ms x3"); !send {
		t.Error("the neighbour isn't told the timers")
	}
	next.is(Up, NoDiagnostic)
	if next.detection() != 5*time.Second || next.transmitInterval() != 100*ms {
		t.Errorf("before the Final it waits %v and sends every %v", next.detection(), next.transmitInterval())
	}
	next.hear(from(Up, func(p *packet) { p.final = true }))
	if next.detection() != 1500*ms {
		t.Errorf("after it %v", next.detection())
	}
}

func TestWhatIsNotAdopted(t *testing.T) {
	for name, test := range map[string]struct {
		wait   time.Duration
		packet packet
		before func(*bench)
	}{
		"with no wish to":                 {0, from(Up, nil), nil},
		"too late":                        {1001 * ms, from(Up, nil), nil},
		"a neighbour that is Init":        {0, from(Init, nil), nil},
		"a neighbour that was heard Down": {0, from(Up, nil), func(b *bench) { b.hear(from(Down, nil)) }},
		"a neighbour that named nobody":   {0, from(Up, func(p *packet) { p.your = 0 }), nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(c *Config) {
				if name != "with no wish to" {
					c.Adopt = time.Second
				}
			})
			if test.before != nil {
				test.before(b)
			}
			b.wait(test.wait)
			if b.adoptable(b.now, &test.packet) {
				t.Error("it would be adopted")
			}
		})
	}
}
