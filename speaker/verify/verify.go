// SPDX-License-Identifier: Apache-2.0

// Package verify finds out whether the node that has claimed an address really answers for it.
//
// It is pure: the addresses that this node is the first backup for, the answers from the wire and the time go in; the
// requests to send and what was found come out. Every address is asked for about once a minute, with ordinary requests.
// What isn't answered is asked for twice more, a second apart, and then its owner is suspect: that it is heard by its
// peers doesn't mean that it is heard by the LAN.
package verify

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/internal/due"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// settle is how long a new claim has before it is first asked about, and
	// interval, from three to five quarters of it, the time between two checks.
	settle   = 2 * time.Second
	interval = time.Minute
	// suspectInterval is between two checks while there is no answer.
	suspectInterval = 10 * time.Second
	// rounds without an answer, each so long, make an owner suspect.
	rounds    = 3
	roundTime = time.Second
	// lateTime is how late the end of a round may be seen: whoever was paused
	// for longer has heard nothing meanwhile, and begins again.
	lateTime = 500 * time.Millisecond
	// checksPerSecond bounds the checks that begin, however many addresses
	// there are; with more than fit, each is asked for less often.
	checksPerSecond, checksAtOnce = 100, 10
	// refreshAfter is when an answer is news although nothing has changed, so
	// that the record shows that somebody still asks.
	refreshAfter = time.Hour
)

// State is what a check found.
type State uint8

// The states. The zero State is not to be known.
const (
	// Answered says that the claimed MAC answers.
	Answered State = iota + 1
	// NoAnswer says that nothing does.
	NoAnswer
	// OtherMAC says that something else does, and the claimed MAC doesn't.
	OtherMAC
)

// Claim is an address that another node has claimed, to be verified by this one.
type Claim struct {
	Addr netip.Addr
	// Node that claimed it, the term of its claim, and the MAC that is to
	// answer.
	Node string
	Term int64
	MAC  link.MAC
	// Interface to ask on.
	Interface string
	// Recorded is the last result on record, of whichever node.
	Recorded Result
}

// Result is what was found of an address.
type Result struct {
	Addr  netip.Addr
	State State
	// MAC that answered, for Answered and OtherMAC.
	MAC link.MAC
	At  time.Time
}

// Suspicion says that the node that claims an address doesn't answer for it.
type Suspicion struct {
	Addr      netip.Addr
	Node      string
	Interface string
	Result    Result
}

// Ask is an ordinary request for an address.
type Ask struct {
	Interface string
	Addr      netip.Addr
}

// Output is what is to be done.
type Output struct {
	Asks []Ask
	// Results are those that are to be recorded, because they say something else
	// than the record, or it is old.
	Results []Result
	// Suspects are the owners that didn't answer, each time that they didn't.
	Suspects []Suspicion
	// Checked are what came out where Check was called.
	Checked []Result
	// Cleared are the addresses whose owner was suspect and has answered.
	Cleared []netip.Addr
}

// Machine checks claims in turn. It is not safe for concurrent use.
type Machine struct {
	rand   *rand.Rand
	claims map[netip.Addr]*check
	// begin are the checks to begin, when pace allows; rounds are those that go
	// on, by the end of their round.
	begin, rounds due.Queue[netip.Addr]
	pace          due.Pace
	out           Output
}

// check is a claim and how far its check is.
type check struct {
	Claim
	// round counts the requests of a check that goes on, from 1; 0 is none.
	round int
	// until is when the round ends.
	until time.Time
	// stranger is a MAC that answered and is not the claimed one.
	stranger link.MAC
	suspect  bool
	// asked says that somebody wants to know what comes out; once that nobody
	// else does.
	asked, once bool
}

// New returns a Machine that takes its jitter from r.
func New(r *rand.Rand) *Machine {
	return &Machine{rand: r, claims: map[netip.Addr]*check{}, pace: due.NewPace(checksPerSecond, checksAtOnce)}
}

// Set takes a claim that this node is to verify, or what has changed of one. A
// claim of another node or term is checked soon, and so is one with another MAC.
func (m *Machine) Set(now time.Time, c Claim) {
	known := m.claims[c.Addr]
	switch {
	case known == nil:
		known = &check{Claim: c}
		m.claims[c.Addr] = known
		// What somebody else verified lately may wait its turn.
		if r := c.Recorded; r.State == Answered && r.MAC == c.MAC && now.Sub(r.At) < refreshAfter {
			m.begin.Set(c.Addr, now.Add(settle+time.Duration(m.rand.Int64N(int64(interval)))))
			return
		}
	case !known.once && known.Node == c.Node && known.Term == c.Term && known.MAC == c.MAC && known.Interface == c.Interface:
		return // the record is ours, or that of one who was first backup for a moment
	default:
		m.clear(known)
		if !known.once {
			c.Recorded = known.Recorded // which is newer
		}
		*known = check{Claim: c, asked: known.asked}
		m.rounds.Remove(c.Addr)
	}
	m.begin.Set(c.Addr, now.Add(settle))
}

// Remove ends the checks of an address: this node is not its first backup any
// more, or nobody claims it.
func (m *Machine) Remove(addr netip.Addr) {
	if c := m.claims[addr]; c != nil {
		m.clear(c)
		delete(m.claims, addr)
		m.begin.Remove(addr)
		m.rounds.Remove(addr)
	}
}

// Check has a claim checked at once, because another node suspects its owner.
// What comes out will be in Checked, and nowhere else unless the claim was Set.
func (m *Machine) Check(now time.Time, claim Claim) {
	c := m.claims[claim.Addr]
	if c == nil {
		c = &check{Claim: claim, once: true}
		m.claims[claim.Addr] = c
	}
	if c.asked = true; c.round == 0 {
		m.begin.Set(claim.Addr, now)
	}
}

// Answered takes an answer to a request, from whichever host.
func (m *Machine) Answered(now time.Time, iface string, addr netip.Addr, mac link.MAC) {
	c := m.claims[addr]
	if c == nil || c.round == 0 || c.Interface != iface {
		return
	}
	if mac != c.MAC {
		c.stranger = mac
		return
	}
	m.clear(c)
	m.rounds.Remove(addr)
	m.found(c, Result{Addr: addr, State: Answered, MAC: mac, At: now}, interval*3/4+time.Duration(m.rand.Int64N(int64(interval/2))))
}

// Tick does what is due.
func (m *Machine) Tick(now time.Time) {
	for {
		addr, ok := m.rounds.Pop(now)
		if !ok {
			break
		}
		switch c := m.claims[addr]; {
		case now.Sub(c.until) > lateTime:
			c.round = 0
			m.ask(now, c)
		case c.round < rounds:
			m.ask(now, c)
		default:
			m.missed(now, c)
		}
	}
	for next := m.begin.Next(); !next.IsZero() && !next.After(now) && m.pace.Take(now); next = m.begin.Next() {
		addr, _ := m.begin.Pop(now)
		m.ask(now, m.claims[addr])
	}
}

func (m *Machine) ask(now time.Time, c *check) {
	c.round++
	m.out.Asks = append(m.out.Asks, Ask{Interface: c.Interface, Addr: c.Addr})
	c.until = now.Add(roundTime)
	m.rounds.Set(c.Addr, c.until)
}

// missed ends a check in which the claimed MAC didn't answer.
func (m *Machine) missed(now time.Time, c *check) {
	r := Result{Addr: c.Addr, State: NoAnswer, At: now}
	if c.stranger != (link.MAC{}) {
		r.State, r.MAC = OtherMAC, c.stranger
	}
	if !c.once {
		c.suspect = true
		m.out.Suspects = append(m.out.Suspects, Suspicion{Addr: c.Addr, Node: c.Node, Interface: c.Interface, Result: r})
	}
	m.found(c, r, suspectInterval)
}

// found ends a check; the next is after some time.
func (m *Machine) found(c *check, r Result, next time.Duration) {
	if c.asked {
		m.out.Checked = append(m.out.Checked, r)
	}
	if c.once {
		m.Remove(c.Addr)
		return
	}
	c.round, c.stranger, c.asked = 0, link.MAC{}, false
	m.begin.Set(c.Addr, r.At.Add(next))
	if was := c.Recorded; was.State == r.State && was.MAC == r.MAC && r.At.Sub(was.At) < refreshAfter {
		return
	}
	c.Recorded = r
	m.out.Results = append(m.out.Results, r)
}

// clear takes a suspicion back.
func (m *Machine) clear(c *check) {
	if c.suspect {
		c.suspect = false
		m.out.Cleared = append(m.out.Cleared, c.Addr)
	}
}

// Next returns when Tick has something to do, the zero time for never.
func (m *Machine) Next() time.Time {
	next := m.begin.Next()
	if pace := m.pace.Next(); !next.IsZero() && pace.After(next) {
		next = pace
	}
	if round := m.rounds.Next(); next.IsZero() || !round.IsZero() && round.Before(next) {
		return round
	}
	return next
}

// Output returns what is to be done, once.
func (m *Machine) Output() Output {
	out := m.out
	m.out = Output{}
	return out
}
