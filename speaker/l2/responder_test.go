// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// fakeLAN opens fake sockets and records what is sent on them.
type fakeLAN struct {
	start   time.Time
	refuse  error
	mu      sync.Mutex
	sent    []sentFrame
	sockets map[string]*fakeSocket // the open ones, by interface
}

type sentFrame struct {
	at    time.Duration
	frame []byte
}

type fakeSocket struct {
	lan    *fakeLAN
	link   link.Link
	in     chan any // []byte or error
	closed chan struct{}
}

var _ io.ReadWriteCloser = &fakeSocket{}

func (l *fakeLAN) listen(i link.Link) (io.ReadWriteCloser, error) {
	if l.refuse != nil {
		return nil, l.refuse
	}
	s := &fakeSocket{lan: l, link: i, in: make(chan any), closed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sockets[i.Name] != nil {
		return nil, fmt.Errorf("%s is open already", i.Name)
	}
	l.sockets[i.Name] = s
	return s, nil
}

func (s *fakeSocket) Read(b []byte) (int, error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	case in := <-s.in:
		if err, ok := in.(error); ok {
			return 0, err
		}
		return copy(b, in.([]byte)), nil
	}
}

func (s *fakeSocket) Write(b []byte) (int, error) {
	s.lan.mu.Lock()
	defer s.lan.mu.Unlock()
	s.lan.sent = append(s.lan.sent, sentFrame{time.Since(s.lan.start), slices.Clone(b)})
	return len(b), nil
}

func (s *fakeSocket) Close() error {
	close(s.closed)
	s.lan.mu.Lock()
	defer s.lan.mu.Unlock()
	delete(s.lan.sockets, s.link.Name)
	return nil
}

// take returns what was sent since the last call, one line per frame, after
// everything that is due was done.
func (l *fakeLAN) take() []string {
	var lines []string
	for _, s := range l.takeFrames() {
		lines = append(lines, fmt.Sprintf("%v %v", s.at, describe(s.frame)))
	}
	return lines
}

func (l *fakeLAN) takeFrames() []sentFrame {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := l.sent
	l.sent = nil
	return sent
}

func describe(b []byte) string {
	var e ethernet.Frame
	var p arp.Packet
	if err := errors.Join(e.UnmarshalBinary(b), p.UnmarshalBinary(e.Payload)); err != nil {
		return err.Error()
	}
	kind := "request"
	if p.Operation == arp.OperationReply {
		kind = "reply"
	}
	if p.SenderIP == p.TargetIP {
		return fmt.Sprintf("gratuitous %s: %v is %v", kind, p.SenderIP, p.SenderHardwareAddr[5])
	}
	return fmt.Sprintf("%s to %v: %v is %v", kind, p.TargetIP, p.SenderIP, p.SenderHardwareAddr[5])
}

var (
	eth0 = link.Link{Index: 2, Name: "eth0", MAC: selfMAC, Up: true, ARP: true}
	eth1 = link.Link{Index: 3, Name: "eth1", MAC: link.MAC{2, 0, 0, 0, 0, 8}, Up: true, ARP: true}
	all  = []link.Link{eth0, eth1}
)

func on(name string, addrs ...netip.Addr) map[netip.Addr][]string {
	m := map[netip.Addr][]string{}
	for _, a := range addrs {
		m[a] = []string{name}
	}
	return m
}

// bubble runs a test with a Responder on a fake LAN, at a fake time. That
// every goroutine has ended after Close is checked by synctest.
func bubble(t *testing.T, test func(t *testing.T, r *Responder, lan *fakeLAN)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		lan := &fakeLAN{start: time.Now(), sockets: map[string]*fakeSocket{}}
		r := New(logr.Discard(), prometheus.NewRegistry(), lan.listen)
		defer r.Close()
		test(t, r, lan)
	})
}

func set(t *testing.T, r *Responder, links []link.Link, desired map[netip.Addr][]string) {
	t.Helper()
	if failed := r.Set(links, desired); len(failed) > 0 {
		t.Fatal(failed)
	}
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

func TestAClaimIsAnnouncedThreeTimesAndThenEveryMinute(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(59 * time.Second)
		wantLines(t, lan.take(),
			"0s gratuitous request: 192.0.2.50 is 1", "0s gratuitous reply: 192.0.2.50 is 1",
			"1.1s gratuitous request: 192.0.2.50 is 1", "1.1s gratuitous reply: 192.0.2.50 is 1",
			"2.2s gratuitous request: 192.0.2.50 is 1", "2.2s gratuitous reply: 192.0.2.50 is 1",
		)
		time.Sleep(64 * time.Second)
		wantLines(t, lan.take(),
			"1m2.2s gratuitous request: 192.0.2.50 is 1", "1m2.2s gratuitous reply: 192.0.2.50 is 1",
			"2m2.2s gratuitous request: 192.0.2.50 is 1", "2m2.2s gratuitous reply: 192.0.2.50 is 1",
		)
	})
}

func TestSettingTheSameStateSendsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(10 * time.Second)
		lan.take()
		socket := lan.sockets["eth0"]
		for range 100 {
			set(t, r, all, on("eth0", vip2, vip))
		}
		wantLines(t, lan.take())
		if lan.sockets["eth0"] != socket || len(lan.sockets) != 1 {
			t.Errorf("sockets were opened or closed: %v", slices.Collect(maps.Keys(lan.sockets)))
		}
	})
}

func TestANewAddressLeavesTheOthersAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		lan.take()
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(time.Second)
		wantLines(t, lan.take(), "10s gratuitous request: 192.0.2.51 is 1", "10s gratuitous reply: 192.0.2.51 is 1")
	})
}

func TestARemovedAddressFallsSilentAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(time.Second)
		lan.take()
		set(t, r, all, on("eth0", vip2))
		lan.sockets["eth0"].in <- ask()
		lan.sockets["eth0"].in <- askFor(vip2)
		wantLines(t, lan.take(), "1s reply to 192.0.2.2: 192.0.2.51 is 1")
		time.Sleep(time.Hour)
		for _, line := range lan.take() {
			if strings.Contains(line, vip.String()) {
				t.Errorf("sent %s", line)
			}
		}
	})
}

func TestAnAddressThatCameBackIsNew(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(10 * time.Second)
		set(t, r, all, on("eth0", vip2))
		set(t, r, all, on("eth0", vip, vip2))
		lan.take()
		time.Sleep(time.Second)
		set(t, r, all, on("eth0", vip2))
		set(t, r, all, on("eth0", vip, vip2))
		time.Sleep(1200 * time.Millisecond)
		wantLines(t, lan.take(),
			"11s gratuitous request: 192.0.2.50 is 1", "11s gratuitous reply: 192.0.2.50 is 1",
			"12.1s gratuitous request: 192.0.2.50 is 1", "12.1s gratuitous reply: 192.0.2.50 is 1",
		)
	})
}

func TestAnnouncementsArePaced(t *testing.T) {
	const n = 1000
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", slices.Collect(maps.Keys(manyAddrs(n)))...))
		time.Sleep(20 * time.Second)
		sent := lan.takeFrames()
		if len(sent) != 2*rounds*n {
			t.Fatalf("%d frames", len(sent))
		}
		for i := framesPerSecond; i < len(sent); i++ {
			if sent[i].at-sent[i-framesPerSecond].at < time.Second {
				t.Fatalf("more than %d frames in a second, after %v", framesPerSecond, sent[i].at)
			}
		}
		first := map[string]bool{}
		for _, s := range sent[:2*n] {
			first[describe(s.frame)] = true
		}
		if len(first) != 2*n {
			t.Errorf("the second round began before the first was over: %d of %d", len(first), 2*n)
		}
	})
}

func TestAFreshClaimGoesBeforeRepetitions(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		addrs := slices.Collect(maps.Keys(manyAddrs(1000)))
		set(t, r, all, on("eth0", addrs...))
		time.Sleep(5 * time.Second) // in the second round
		lan.take()
		set(t, r, all, on("eth0", append(addrs, vip)...))
		time.Sleep(10 * time.Millisecond)
		if sent := lan.take(); !slices.ContainsFunc(sent, func(s string) bool { return strings.Contains(s, vip.String()) }) {
			t.Errorf("sent %v", sent)
		}
	})
}

func TestManyAddressesAreRefreshedMoreSlowly(t *testing.T) {
	const n = 5000
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", slices.Collect(maps.Keys(manyAddrs(n)))...))
		time.Sleep(10 * time.Minute)
		lan.take()
		time.Sleep(n * time.Second / refreshRate)
		sent := lan.takeFrames()
		once := map[string]int{}
		for _, s := range sent {
			once[describe(s.frame)]++
		}
		if len(once) < 2*n-4 || len(sent) > 2*n+4 {
			t.Errorf("%d frames for %d addresses, %d different", len(sent), n, len(once))
		}
	})
}

func TestAnInterfaceThatCameUpAnnouncesAll(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		set(t, r, all, nil)
		if len(lan.sockets) != 0 {
			t.Errorf("sockets are open: %v", lan.sockets)
		}
		lan.take()
		set(t, r, all, on("eth0", vip))
		wantLines(t, lan.take(), "10s gratuitous request: 192.0.2.50 is 1", "10s gratuitous reply: 192.0.2.50 is 1")
	})
}

func TestAnInterfaceThatWentDownAndUpUnseenAnnouncesAll(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		lan.take()
		lan.sockets["eth0"].in <- error(unix.ENETDOWN)
		wantLines(t, lan.take(), "10s gratuitous request: 192.0.2.50 is 1", "10s gratuitous reply: 192.0.2.50 is 1")
		lan.sockets["eth0"].in <- ask()
		wantLines(t, lan.take(), "10s reply to 192.0.2.2: 192.0.2.50 is 1")
	})
}

func TestAReadErrorDoesNotEndTheAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		lan.take()
		lan.sockets["eth0"].in <- error(unix.EIO)
		time.Sleep(readRetry)
		lan.sockets["eth0"].in <- ask()
		wantLines(t, lan.take(), "1s reply to 192.0.2.2: 192.0.2.50 is 1")
	})
}

func TestAChangedMACIsAnnounced(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		lan.take()
		changed := eth0
		changed.MAC[5] = 7
		set(t, r, []link.Link{changed, eth1}, on("eth0", vip))
		lan.sockets["eth0"].in <- ask()
		got := lan.take()
		slices.Sort(got) // the reply and the announcement are sent at one time
		wantLines(t, got,
			"10s gratuitous reply: 192.0.2.50 is 7", "10s gratuitous request: 192.0.2.50 is 7",
			"10s reply to 192.0.2.2: 192.0.2.50 is 7")
	})
}

func TestAnInterfaceOfTheSameNameIsAnother(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, on("eth0", vip))
		time.Sleep(10 * time.Second)
		lan.take()
		anew := eth0
		anew.Index = 9
		set(t, r, []link.Link{anew}, on("eth0", vip))
		wantLines(t, lan.take(), "10s gratuitous request: 192.0.2.50 is 1", "10s gratuitous reply: 192.0.2.50 is 1")
	})
}

func TestAnAddressMayBeOnTwoInterfaces(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, map[netip.Addr][]string{vip: {"eth0", "eth1"}})
		lan.take()
		lan.sockets["eth0"].in <- ask()
		lan.sockets["eth1"].in <- ask()
		got := lan.take()
		slices.Sort(got)
		wantLines(t, got, "0s reply to 192.0.2.2: 192.0.2.50 is 1", "0s reply to 192.0.2.2: 192.0.2.50 is 8")
	})
}

func TestAnInterfaceThatCantBeUsedIsReportedAndTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		lan.refuse = unix.EPERM
		failed := r.Set(all, on("eth0", vip))
		if !errors.Is(failed["eth0"], unix.EPERM) || len(failed) != 1 {
			t.Errorf("failed: %v", failed)
		}
		failed = r.Set([]link.Link{eth1}, on("eth0", vip))
		if !errors.Is(failed["eth0"], ErrNoInterface) || len(failed) != 1 {
			t.Errorf("failed: %v", failed)
		}
		lan.refuse = nil
		set(t, r, all, on("eth0", vip))
		wantLines(t, lan.take(), "0s gratuitous request: 192.0.2.50 is 1", "0s gratuitous reply: 192.0.2.50 is 1")
	})
}

func TestOnlyIPv4IsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
		set(t, r, all, map[netip.Addr][]string{netip.MustParseAddr("2001:db8::1"): {"eth0"}})
		wantLines(t, lan.take())
		if len(lan.sockets) != 0 {
			t.Errorf("sockets are open: %v", lan.sockets)
		}
	})
}

// Whatever states were set before, the last alone decides what is answered.
func TestAnyStatesEndInTheLast(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		bubble(t, func(t *testing.T, r *Responder, lan *fakeLAN) {
			var desired map[netip.Addr][]string
			for range 20 {
				desired = map[netip.Addr][]string{}
				for i := range 8 {
					for _, l := range all {
						if rnd.IntN(3) == 0 {
							desired[nthAddr(i)] = append(desired[nthAddr(i)], l.Name)
						}
					}
				}
				set(t, r, all, desired)
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			}
			lan.take()
			for name, s := range lan.sockets {
				for i := range 8 {
					s.in <- askFor(nthAddr(i))
					want := []string(nil)
					if slices.Contains(desired[nthAddr(i)], name) {
						want = []string{fmt.Sprintf("reply to %v: %v is %v", asker, nthAddr(i), s.link.MAC[5])}
					}
					var got []string
					for _, f := range lan.takeFrames() {
						if line := describe(f.frame); strings.HasPrefix(line, "reply") {
							got = append(got, line)
						}
					}
					if !slices.Equal(got, want) {
						t.Errorf("seed %d, %s: got %v, want %v", seed, name, got, want)
					}
				}
			}
			time.Sleep(time.Hour)
			lan.take()
			time.Sleep(minRefresh)
			announced := map[netip.Addr][]string{}
			for _, f := range lan.takeFrames() {
				var p arp.Packet
				if err := p.UnmarshalBinary(f.frame[14:]); err != nil {
					t.Fatal(err)
				}
				for _, l := range all {
					if l.MAC == link.MAC(p.SenderHardwareAddr) && p.Operation == arp.OperationReply {
						announced[p.SenderIP] = append(announced[p.SenderIP], l.Name)
					}
				}
			}
			for _, names := range announced {
				slices.Sort(names)
			}
			if diff := cmp.Diff(desired, announced, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("seed %d: announced (-want +got):\n%s", seed, diff)
			}
		})
	}
}

// counts returns the metrics of an interface by their short names.
func counts(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]float64{}
	for _, f := range families {
		for _, v := range f.GetMetric() {
			m[strings.TrimPrefix(f.GetName(), "fairlead_l2_")] += v.GetCounter().GetValue() + v.GetGauge().GetValue()
		}
	}
	return m
}

// exchange asks a port that owns vip and vip2 everything in frames. A request
// for vip2 after each of them shows by its answer that the one before was
// handled. receive returns what the asker sees next, without broadcasts.
func exchange(t *testing.T, send func([]byte), receive func(t *testing.T) []byte) {
	for _, tt := range frames {
		t.Run(tt.name, func(t *testing.T) {
			send(tt.frame)
			send(askFor(vip2))
			var want, got []string
			to := asker
			if tt.to.IsValid() {
				to = tt.to
			}
			end := fmt.Sprintf("reply to %v: %v is 1", asker, vip2)
			if tt.want == answer {
				want = append(want, fmt.Sprintf("reply to %v: %v is 1", to, vip))
			}
			for {
				line := describe(receive(t))
				if line == end {
					break
				}
				got = append(got, line)
			}
			wantLines(t, got, want...)
		})
	}
}

func wantCounts(t *testing.T, reg *prometheus.Registry) {
	t.Helper()
	got := counts(t, reg)
	var malformedFrames, answers float64
	for _, tt := range frames {
		switch tt.want {
		case malformed:
			malformedFrames++
		case answer:
			answers++
		}
	}
	n := float64(len(frames))
	if got["malformed_total"] != malformedFrames || got["replies_sent_total"] != answers+n || got["addresses"] != 2 ||
		got["gratuitous_sent_total"] < 2 || got["send_errors_total"] != 0 || got["requests_received_total"] < n+answers+malformedFrames {
		t.Errorf("metrics: %v", got)
	}
}

func TestExchangeOnAFakeWire(t *testing.T) {
	reg := prometheus.NewRegistry()
	lan := &fakeLAN{start: time.Now(), sockets: map[string]*fakeSocket{}}
	r := New(logr.Discard(), reg, lan.listen)
	defer r.Close()
	set(t, r, all, on("eth0", vip, vip2))
	next := 0
	exchange(t, func(b []byte) { lan.sockets["eth0"].in <- b }, func(t *testing.T) []byte {
		for deadline := time.Now().Add(10 * time.Second); ; {
			lan.mu.Lock()
			for next < len(lan.sent) {
				f := lan.sent[next].frame
				next++
				if f[0]&1 == 0 {
					lan.mu.Unlock()
					return f
				}
			}
			lan.mu.Unlock()
			if time.Now().After(deadline) {
				t.Fatal("no answer")
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	wantCounts(t, reg)
}
