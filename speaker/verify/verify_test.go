// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

var (
	vip      = netip.MustParseAddr("192.0.2.10")
	owner    = link.MAC{2, 0, 0, 0, 0, 1}
	stranger = link.MAC{2, 0, 0, 0, 0, 0x99}
	claim    = Claim{Addr: vip, Node: "n1", Term: 1, MAC: owner, Interface: "eth0"}
)

// lan is a Machine on a LAN whose hosts answer as the test says.
type lan struct {
	t       *testing.T
	m       *Machine
	now     time.Time
	answers []link.MAC
	asks    []time.Time
	log     []string
}

func newLAN(t *testing.T, answers ...link.MAC) *lan {
	return &lan{t: t, m: New(rand.New(rand.NewPCG(1, 1))), now: time.Unix(1000, 0), answers: answers}
}

func (l *lan) drain() {
	for {
		out := l.m.Output()
		for _, s := range out.Suspects {
			l.log = append(l.log, fmt.Sprintf("suspect %s %s", s.Addr, s.Node))
		}
		for _, a := range out.Cleared {
			l.log = append(l.log, "cleared "+a.String())
		}
		for _, r := range out.Results {
			l.log = append(l.log, text(r))
		}
		for _, r := range out.Checked {
			l.log = append(l.log, "checked "+text(r))
		}
		if len(out.Asks) == 0 {
			return
		}
		for _, a := range out.Asks {
			l.asks = append(l.asks, l.now)
			for _, mac := range l.answers {
				l.m.Answered(l.now, a.Interface, a.Addr, mac)
			}
		}
	}
}

func text(r Result) string {
	return [...]string{"?", "answered", "silent", "other"}[r.State] + " " + r.Addr.String() + " " + r.MAC.String()
}

func (l *lan) wait(d time.Duration) {
	for until := l.now.Add(d); ; {
		l.drain()
		next := l.m.Next()
		if next.IsZero() || next.After(until) {
			l.now = until
			return
		}
		if next.After(l.now) {
			l.now = next
		}
		l.m.Tick(l.now)
	}
}

func (l *lan) saw(want ...string) {
	l.t.Helper()
	l.drain()
	if !slices.Equal(l.log, want) {
		l.t.Errorf("told\n%s\nwant\n%s", strings.Join(l.log, "\n"), strings.Join(want, "\n"))
	}
	l.log = nil
}

func (l *lan) set(change ...func(*Claim)) {
	c := claim
	for _, f := range change {
		f(&c)
	}
	l.m.Set(l.now, c)
}

const (
	answered = "answered 192.0.2.10 02:00:00:00:00:01"
	silent   = "silent 192.0.2.10 00:00:00:00:00:00"
	other    = "other 192.0.2.10 02:00:00:00:00:99"
	suspect  = "suspect 192.0.2.10 n1"
	cleared  = "cleared 192.0.2.10"
)

func TestClaimIsVerifiedAndThenNowAndThen(t *testing.T) {
	l := newLAN(t, owner)
	l.set()
	l.wait(settle)
	l.saw(answered)
	l.wait(59 * time.Minute)
	l.saw()
	if n := len(l.asks); n < 45 || n > 80 {
		t.Errorf("asked %d times in an hour", n)
	}
	l.wait(3 * time.Minute)
	l.saw(answered) // the record is not to look as if nobody asked any more
}

func TestNoAnswerThreeTimesIsASuspicion(t *testing.T) {
	l := newLAN(t)
	l.set()
	l.wait(settle + rounds*roundTime - 1)
	l.saw()
	l.wait(1)
	l.saw(suspect, silent)
	if len(l.asks) != rounds {
		t.Errorf("asked %d times", len(l.asks))
	}
	l.wait(suspectInterval + rounds*roundTime)
	l.saw(suspect) // as long as it holds
	l.answers = []link.MAC{owner}
	l.wait(suspectInterval)
	l.saw(cleared, answered)
}

func TestOneOrTwoLostAnswersAreNothing(t *testing.T) {
	l := newLAN(t)
	l.set()
	l.wait(settle + (rounds-1)*roundTime - 1)
	l.answers = []link.MAC{owner}
	l.wait(1)
	l.saw(answered)
}

func TestWrongMACIsNoAnswer(t *testing.T) {
	l := newLAN(t, stranger)
	l.set()
	l.wait(settle + rounds*roundTime)
	l.saw(suspect, other)
	// Two answer: the owner does, and the other one is somebody else's business.
	l.answers = []link.MAC{stranger, owner}
	l.wait(suspectInterval)
	l.saw(cleared, answered)
}

func TestAnswerNobodyAskedForIsNone(t *testing.T) {
	l := newLAN(t)
	l.set()
	l.m.Answered(l.now, "eth0", vip, owner)
	l.wait(settle)
	l.m.Answered(l.now, "eth1", vip, owner)
	l.m.Answered(l.now, "eth0", netip.MustParseAddr("192.0.2.11"), owner)
	l.saw()
	l.wait(rounds * roundTime)
	l.saw(suspect, silent)
}

func TestNewClaimIsVerifiedSoon(t *testing.T) {
	for name, change := range map[string]func(*Claim){
		"another node": func(c *Claim) { c.Node, c.MAC = "n2", stranger },
		"another term": func(c *Claim) { c.Term = 2; c.MAC = stranger },
		"another MAC":  func(c *Claim) { c.MAC = stranger },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t, owner)
			l.set()
			l.wait(settle)
			l.saw(answered)
			l.answers = []link.MAC{stranger}
			l.set(change)
			l.wait(settle)
			l.saw("answered 192.0.2.10 02:00:00:00:00:99")
		})
	}
	t.Run("whose node is no longer suspect", func(t *testing.T) {
		l := newLAN(t)
		l.set()
		l.wait(settle + rounds*roundTime)
		l.saw(suspect, silent)
		l.set(func(c *Claim) { c.Node = "n2" })
		l.saw(cleared)
		l.m.Remove(vip)
		l.wait(time.Hour)
		l.saw()
	})
}

func TestRecordIsNotWrittenAgain(t *testing.T) {
	l := newLAN(t, owner)
	l.set(func(c *Claim) { c.Recorded = Result{State: Answered, MAC: owner, At: l.now.Add(-30 * time.Minute)} })
	l.wait(29 * time.Minute)
	l.saw()
	if len(l.asks) == 0 {
		t.Error("nobody asked")
	}
	l.wait(3 * time.Minute)
	l.saw(answered)
	// With a claim of another term the same answer is no news, either.
	l.set(func(c *Claim) { c.Term = 2 })
	l.wait(settle)
	l.saw()
}

// A speaker that was paused has heard nothing, and begins again.
func TestPauseIsNoSilence(t *testing.T) {
	l := newLAN(t)
	l.set()
	l.wait(settle + (rounds-1)*roundTime)
	l.now = l.now.Add(time.Minute)
	l.m.Tick(l.now)
	l.saw()
	l.wait(rounds*roundTime - 1)
	l.saw()
	l.wait(1)
	l.saw(suspect, silent)
}

func TestCheckIsAtOnce(t *testing.T) {
	l := newLAN(t, owner)
	l.set()
	l.wait(settle)
	l.saw(answered)
	l.m.Check(l.now, claim)
	l.wait(0)
	l.saw("checked " + answered)
	l.answers = nil
	l.m.Check(l.now, claim)
	l.wait(rounds * roundTime)
	l.saw(suspect, silent, "checked "+silent)
}

// A third node is asked what it thinks, and that is all.
func TestCheckOfAnothersClaim(t *testing.T) {
	l := newLAN(t)
	l.m.Check(l.now, claim)
	l.wait(rounds * roundTime)
	l.saw("checked " + silent)
	l.answers = []link.MAC{owner}
	l.m.Check(l.now, claim)
	l.wait(time.Hour)
	l.saw("checked " + answered)
	if len(l.m.claims) != 0 || !l.m.Next().IsZero() {
		t.Error("it goes on")
	}
	// Who becomes first backup meanwhile answers the question, and goes on.
	l.answers = nil
	l.m.Check(l.now, claim)
	l.wait(0)
	l.set()
	l.wait(settle + rounds*roundTime)
	l.saw(suspect, silent, "checked "+silent)
}

func TestManyAddressesAreAskedForAtAPace(t *testing.T) {
	m := New(rand.New(rand.NewPCG(1, 1)))
	start := time.Unix(1000, 0)
	now, addr, ticks := start, netip.MustParseAddr("10.0.0.0"), 0
	const n = 5000
	for range n {
		addr = addr.Next()
		m.Set(now, Claim{Addr: addr, Node: "n1", Term: 1, MAC: owner, Interface: "eth0"})
	}
	asked, results := map[netip.Addr]int{}, 0
	for now.Sub(start) < 5*time.Minute {
		now = m.Next()
		m.Tick(now)
		ticks++
		out := m.Output()
		if len(out.Asks) > checksAtOnce+1 {
			t.Fatalf("%d requests at once", len(out.Asks))
		}
		for _, a := range out.Asks {
			asked[a.Addr]++
			m.Answered(now, a.Interface, a.Addr, owner)
		}
		results += len(out.Results) + len(m.Output().Results)
	}
	total, least := 0, 1<<30
	for _, times := range asked {
		total, least = total+times, min(least, times)
	}
	if len(asked) != n || total > checksPerSecond*5*60+checksAtOnce || least < 2 {
		t.Errorf("asked for %d addresses %d times, for each at least %d times", len(asked), total, least)
	}
	if results != n {
		t.Errorf("%d results, want one each", results)
	}
}

// Whatever happens in whatever order, a check takes three rounds at most, every
// suspicion follows three requests, and what is suspect is cleared or gone.
func TestInvariants(t *testing.T) {
	suspects := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := New(rand.New(rand.NewPCG(seed, 2)))
		now := time.Unix(1000, 0)
		type known struct {
			unanswered int
			suspect    bool
		}
		all := map[netip.Addr]*known{}
		for range 500 {
			addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(5))})
			switch r.IntN(8) {
			case 0:
				m.Set(now, Claim{Addr: addr, Node: fmt.Sprint("n", r.IntN(2)), Term: int64(r.IntN(2)), MAC: owner, Interface: "eth0"})
				if all[addr] == nil {
					all[addr] = &known{}
				}
			case 1:
				m.Remove(addr)
			case 2:
				m.Check(now, Claim{Addr: addr, Node: "n0", MAC: owner, Interface: "eth0"})
				if all[addr] == nil {
					all[addr] = &known{}
				}
			case 3:
				m.Answered(now, "eth0", addr, owner)
				if all[addr] != nil {
					all[addr].unanswered = 0
				}
			case 4:
				m.Answered(now, "eth0", addr, stranger)
			default:
				now = now.Add(time.Duration(r.IntN(700)) * time.Millisecond)
				m.Tick(now)
			}
			out := m.Output()
			for _, a := range out.Cleared {
				if !all[a].suspect {
					t.Fatalf("seed %d: %s is cleared of nothing", seed, a)
				}
				all[a].suspect = false
			}
			for _, s := range out.Suspects {
				if k := all[s.Addr]; k.unanswered < rounds || m.claims[s.Addr] == nil {
					t.Fatalf("seed %d: %s is suspect after %d requests", seed, s.Addr, k.unanswered)
				} else {
					k.suspect = true
					suspects++
				}
			}
			for _, a := range out.Asks {
				if m.claims[a.Addr] == nil {
					t.Fatalf("seed %d: asked for what is not ours", seed)
				}
				all[a.Addr].unanswered++
			}
			for a, k := range all {
				if c := m.claims[a]; k.suspect != (c != nil && c.suspect) {
					t.Fatalf("seed %d: %s is suspect: %v", seed, a, k.suspect)
				}
			}
			if n := m.begin.Len() + m.rounds.Len(); n != len(m.claims) {
				t.Fatalf("seed %d: %d times for %d claims", seed, n, len(m.claims))
			}
		}
	}
	if suspects == 0 {
		t.Error("nobody was ever suspect")
	}
}
