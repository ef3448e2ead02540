// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// cable joins the connections that are plugged into it. Like a wire it loses
// what comes faster than it is read.
type cable struct {
	mu    sync.Mutex
	plugs []*plug
	sent  int
	// refuses is what opening fails with.
	refuses error
}

type plug struct {
	cable  *cable
	inbox  chan packet
	closed chan struct{}
}

var _ conn = &plug{}

func (c *cable) listen(place) (conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuses != nil {
		return nil, c.refuses
	}
	p := &plug{cable: c, inbox: make(chan packet, 100), closed: make(chan struct{})}
	c.plugs = append(c.plugs, p)
	return p, nil
}

func (p *plug) receive(buf []byte, until time.Time) (packet, error) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-p.closed:
		return packet{}, os.ErrClosed
	case in := <-p.inbox:
		if len(in.payload) > len(buf) {
			return packet{}, errTooLong
		}
		in.payload = buf[:copy(buf, in.payload)]
		return in, nil
	case <-timer.C:
		return packet{}, os.ErrDeadlineExceeded
	}
}

// send reaches the sender too: not every system keeps its own multicasts from
// itself.
func (p *plug) send(b []byte, from, _ netip.Addr) error {
	p.cable.mu.Lock()
	defer p.cable.mu.Unlock()
	select {
	case <-p.closed:
		return os.ErrClosed
	default:
	}
	p.cable.sent++
	p.cable.pass(packet{from: from, hopLimit: hopLimit, payload: bytes.Clone(b)})
	return nil
}

func (c *cable) pass(in packet) {
	for _, p := range c.plugs {
		select {
		case p.inbox <- in:
		default:
		}
	}
}

// hear lets everybody receive an advertisement.
func (c *cable) hear(from netip.Addr, options ...byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pass(packet{from: from, hopLimit: hopLimit, payload: raw(advertisement, options...)})
}

// opened tells how many connections there ever were.
func (c *cable) opened() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.plugs)
}

func (p *plug) close() error {
	close(p.closed)
	return nil
}

// station is an Advertiser on a cable.
type station struct {
	*Advertiser
	reg *prometheus.Registry
	// changes counts the calls.
	changes atomic.Int32
}

func newStation(t *testing.T, c *cable) *station {
	s := &station{reg: prometheus.NewRegistry()}
	s.Advertiser = New(logr.Discard(), s.reg, func() {
		s.changes.Add(1)
		s.Routers() // it may be asked at once
	})
	s.listen = c.listen
	s.random = func() float64 { return 0.5 }
	t.Cleanup(s.Close)
	return s
}

// check lets everything happen that is due now.
func (s *station) check(t *testing.T, what string, changes int, want map[string][]netip.Addr) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, s.Routers(), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
	if got := int(s.changes.Load()); got != changes {
		t.Errorf("%s: %d changes, want %d", what, got, changes)
	}
}

// value returns that of a metric of eth0, with another label if not empty.
func value(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "fairlead_radv_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]bool{}
			for _, l := range m.GetLabel() {
				labels[l.GetValue()] = true
			}
			if labels["eth0"] && (label == "" || labels[label]) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func ethernet(addr netip.Addr, mac link.MAC) link.Link {
	return link.Link{Index: 2, Name: "eth0", MAC: mac, Up: true, ARP: true, NDP: true, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), addr}}
}

func heard(addrs ...netip.Addr) map[string][]netip.Addr {
	return map[string][]netip.Addr{"eth0": addrs}
}

func TestTwoMeetWhoeverComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cable
		a, b := newStation(t, &c), newStation(t, &c)
		a.Set([]link.Link{ethernet(ourAddr, ourMAC)})
		a.check(t, "alone", 0, nil)
		time.Sleep(time.Minute)
		b.Set([]link.Link{ethernet(routerLL, routerMAC)})
		a.check(t, "the first hears the second at once", 1, heard(routerLL))
		time.Sleep(maxAnswerDelay)
		b.check(t, "the second is answered", 1, heard(ourAddr))
		time.Sleep(time.Hour)
		a.check(t, "nothing changes", 1, heard(routerLL))
		b.check(t, "nothing changes", 1, heard(ourAddr))
		a.Close()
		a.check(t, "closed", 2, nil)
		time.Sleep(hold - maxInterval - time.Second)
		b.check(t, "it may only be silent", 1, heard(ourAddr))
		time.Sleep(maxInterval + time.Second)
		b.check(t, "it is gone", 2, nil)
	})
}

func TestSettingTheSameAgainSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cable
		a := newStation(t, &c)
		l := ethernet(ourAddr, ourMAC)
		a.Set([]link.Link{l})
		synctest.Wait()
		sent := c.sent
		if sent != 2 {
			t.Errorf("%d messages at the start", sent)
		}
		for range 10 {
			a.Set([]link.Link{l})
			synctest.Wait()
		}
		l.Gateways = []netip.Addr{routerLL}
		a.Set([]link.Link{l})
		synctest.Wait()
		if c.sent != sent || c.opened() != 1 {
			t.Errorf("%d more messages, on %d connections", c.sent-sent, c.opened())
		}
	})
}

func TestLinksComeAndGo(t *testing.T) {
	up := ethernet(ourAddr, ourMAC)
	down, tentative, anew, otherMAC := up, up, up, up
	down.Up = false
	tentative.Addrs = nil
	anew.Index++
	otherMAC.MAC, otherMAC.Addrs = link.MAC{2, 0, 0, 0, 0, 9}, []netip.Addr{netip.MustParseAddr("fe80::9")}
	for name, tt := range map[string]struct {
		links []link.Link
		kept  bool
		plugs int // ever opened
	}{
		"a link that goes takes its routers along": {links: nil, plugs: 1},
		"so does one that is down":                 {links: []link.Link{down}, plugs: 1},
		"so does one that lost its address":        {links: []link.Link{tentative}, plugs: 1},
		"one that was made anew has none yet":      {links: []link.Link{anew}, plugs: 2},
		"one that has another address keeps its":   {links: []link.Link{otherMAC}, kept: true, plugs: 2},
		"others don't matter":                      {links: []link.Link{up, {Index: 7, Name: "eth7"}}, kept: true, plugs: 1},
		"one that comes beside it is another":      {links: []link.Link{up, {Index: 7, Name: "eth7", Up: true, Addrs: up.Addrs}}, kept: true, plugs: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c cable
				a := newStation(t, &c)
				a.Set([]link.Link{up})
				c.hear(routerLL, sourceMAC...)
				a.check(t, "a router was heard", 1, heard(routerLL))
				if !a.Set(tt.links) {
					t.Error("not all can be used")
				}
				if tt.kept {
					a.check(t, "after", 1, heard(routerLL))
				} else {
					a.check(t, "after", 2, nil)
				}
				if c.opened() != tt.plugs {
					t.Errorf("%d connections, want %d", c.opened(), tt.plugs)
				}
				a.Set([]link.Link{up})
				c.hear(routerLL, sourceMAC...)
				synctest.Wait()
				if got := a.Routers()["eth0"]; len(got) != 1 || got[0] != routerLL {
					t.Errorf("back again: %v", got)
				}
			})
		})
	}
}

func TestALinkThatCanNotBeUsedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cable{refuses: errors.New("no")}
		a := newStation(t, &c)
		var lines []string
		a.log = funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
		for range 2 {
			if a.Set([]link.Link{ethernet(ourAddr, ourMAC)}) {
				t.Error("it can be used")
			}
		}
		if len(lines) != 1 {
			t.Errorf("it is said %d times: %v", len(lines), lines)
		}
		a.log = logr.Discard()
		c.refuses = nil
		if !a.Set([]link.Link{ethernet(ourAddr, ourMAC)}) {
			t.Error("it can't be used")
		}
		c.hear(routerLL)
		a.check(t, "at last", 1, heard(routerLL))
	})
}

func TestWhatIsWrongIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cable
		a := newStation(t, &c)
		a.Set([]link.Link{ethernet(ourAddr, ourMAC)})
		for i := range maxRouters + 2 {
			c.hear(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(0x10 + i)}))
		}
		c.hear(routerLL, 5, 0)
		c.hear(netip.MustParseAddr("2001:db8::1"))
		c.hear(routerLL, make([]byte, maxReceived)...)
		synctest.Wait()
		for why, want := range map[reason]float64{reasonFull: 2, reasonOptions: 1, reasonSource: 1, reasonLong: 1, reasonCode: 0} {
			if got := value(t, a.reg, "dropped_total", string(why)); got != want {
				t.Errorf("%q: %v, want %v", why, got, want)
			}
		}
		if got := value(t, a.reg, "routers", ""); got != maxRouters {
			t.Errorf("%v routers", got)
		}
		a.Close()
		if got := value(t, a.reg, "routers", ""); got != 0 {
			t.Errorf("%v routers after the end", got)
		}
	})
}
