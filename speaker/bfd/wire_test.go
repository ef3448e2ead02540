// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// station is a network namespace with a Manager.
type station struct {
	*testing.T
	ns      *sandbox.Namespace
	manager *Manager
	changes chan Status
}

// within is the kernel in a namespace, whichever goroutine asks.
type within struct{ ns *sandbox.Namespace }

func (w within) index(name string) (i int, err error) {
	err = w.ns.Do(func() error { i, err = kernel{}.index(name); return err })
	return i, err
}

func (w within) listen(p place, ready func(receiver)) (r receiver, err error) {
	err = w.ns.Do(func() error { r, err = kernel{}.listen(p, ready); return err })
	return r, err
}

func (w within) dial(k Key, index int, source uint16) (s sender, err error) {
	err = w.ns.Do(func() error { s, err = kernel{}.dial(k, index, source); return err })
	return s, err
}

// newStations returns two that are joined by eth0: 192.0.2.1 and .2,
// 2001:db8::1 and ::2, fe80::1 and ::2.
func newStations(t *testing.T) [2]*station {
	t.Helper()
	sb, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Close(); err != nil {
			t.Error(err)
		}
	})
	var out [2]*station
	for i, name := range []string{"left", "right"} {
		ns, err := sb.AddNamespace(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"accept_dad", "dad_transmits"} {
			if err := ns.Sysctl("ipv6/conf/default/"+key, "0"); err != nil {
				t.Fatal(err)
			}
		}
		if err := ns.Sysctl("ipv6/conf/default/addr_gen_mode", "1"); err != nil {
			t.Fatal(err)
		}
		out[i] = &station{T: t, ns: ns}
		out[i].start()
	}
	out[0].join(out[1])
	return out
}

// join makes the wire.
func (s *station) join(other *station) {
	s.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(other.ns.FD())}
	veth.Name = "eth0"
	if err := s.ns.Netlink().LinkAdd(veth); err != nil {
		s.Fatal(err)
	}
	for i, s := range []*station{s, other} {
		for _, prefix := range [][2]string{{"192.0.2.1/24", "192.0.2.2/24"}, {"2001:db8::1/64", "2001:db8::2/64"}, {"fe80::1/64", "fe80::2/64"}} {
			s.address("eth0", prefix[i])
		}
		s.raise("eth0")
	}
}

func (s *station) link(name string) netlink.Link {
	s.Helper()
	l, err := s.ns.Netlink().LinkByName(name)
	if err != nil {
		s.Fatal(err)
	}
	return l
}

func (s *station) address(link, prefix string) {
	s.Helper()
	p := netip.MustParsePrefix(prefix)
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if err := s.ns.Netlink().AddrAdd(s.link(link), addr); err != nil {
		s.Fatal(err)
	}
}

func (s *station) raise(link string) {
	s.Helper()
	if err := s.ns.Netlink().LinkSetUp(s.link(link)); err != nil {
		s.Fatal(err)
	}
}

// start gives the station a new Manager, as a new process would have.
func (s *station) start() {
	changes := make(chan Status, 1000)
	s.changes = changes
	s.manager = newManager(logr.Discard(), within{s.ns}, func(c Status) { changes <- c }, rand.New(rand.NewPCG(rand.Uint64(), 0)))
	s.Cleanup(s.manager.Close)
}

func (s *station) set(configs ...Config) {
	s.Helper()
	if err := s.manager.Set(configs); err != nil {
		s.Fatal(err)
	}
}

// await returns when a session has come to a state.
func (s *station) await(want State) Status {
	s.Helper()
	for deadline := time.After(20 * time.Second); ; {
		select {
		case c := <-s.changes:
			if c.State == want {
				return c
			}
		case <-deadline:
			s.Fatalf("%s: none became %v: %+v", s.ns.Name(), want, s.manager.Sessions())
		}
	}
}

func between(remote string, change func(*Config)) Config {
	c := Config{Key: Key{Remote: netip.MustParseAddr(remote)}, Timers: Timers{Transmit: 50 * ms, Receive: 50 * ms, Multiplier: 20}}
	if change != nil {
		change(&c)
	}
	return c
}

func TestSessionsOverTheKernel(t *testing.T) {
	for _, test := range []struct {
		name    string
		remotes [2]string // of left, and of right
		config  func(*Config)
	}{
		{"IPv4", [2]string{"192.0.2.2", "192.0.2.1"}, nil},
		{"IPv4 on an interface", [2]string{"192.0.2.2", "192.0.2.1"}, func(c *Config) { c.Interface = "eth0" }},
		{"IPv4 multihop", [2]string{"192.0.2.2", "192.0.2.1"}, func(c *Config) { c.Multihop = true }},
		{"IPv6", [2]string{"2001:db8::2", "2001:db8::1"}, nil},
		{"IPv6 link-local", [2]string{"fe80::2%eth0", "fe80::1%eth0"}, nil},
		{"IPv6 multihop", [2]string{"2001:db8::2", "2001:db8::1"}, func(c *Config) { c.Multihop = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStations(t)
			s[0].set(between(test.remotes[0], test.config))
			s[1].set(between(test.remotes[1], func(c *Config) {
				c.Passive = true
				if test.config != nil {
					test.config(c)
				}
			}))
			s[0].await(Up)
			s[1].await(Up)

			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := s[0].manager.Park(ctx, 20*time.Second); err != nil {
				t.Fatal(err)
			}
			was := s[0].manager.Sessions()[0].LocalDiscriminator
			s[0].manager.Close()
			s[0].start()
			s[0].set(between(test.remotes[0], func(c *Config) {
				c.Adopt = 10 * time.Second
				if test.config != nil {
					test.config(c)
				}
			}))
			if c := s[0].await(Up); c.LocalDiscriminator != was || c.Downs != 0 {
				t.Errorf("%d is not adopted: %+v", was, c)
			}
			s[0].set()
			if c := s[1].await(Down); c.Downs != 1 || c.Diag != NeighborSignalled || c.RemoteState != AdminDown {
				t.Errorf("the neighbour saw %+v", c)
			}
		})
	}
}

// A VRF's socket takes what comes from its interfaces. One interface is, to a
// socket, as a VRF of its own.
func TestSessionsOfADevice(t *testing.T) {
	s := newStations(t)
	s[0].set(between("192.0.2.2", func(c *Config) { c.VRF = "eth0" }), between("2001:db8::2", nil))
	s[1].set(between("192.0.2.1", nil), between("2001:db8::1", nil))
	up := map[netip.Addr]bool{}
	for len(up) < 2 {
		up[s[0].await(Up).Remote] = true
	}
}

// The socket is opened anew when the interface is another one, without Set.
func TestAnInterfaceComesBack(t *testing.T) {
	s := newStations(t)
	few := func(c *Config) { c.Multiplier = 3 }
	s[0].set(between("192.0.2.2", func(c *Config) { c.Interface, c.Multiplier = "eth0", 3 }))
	s[1].set(between("192.0.2.1", few))
	s[0].await(Up)
	h := s[0].ns.Netlink()
	if err := h.LinkDel(s[0].link("eth0")); err != nil {
		t.Fatal(err)
	}
	if c := s[0].await(Down); c.Diag != DetectionExpired {
		t.Errorf("%+v", c)
	}
	// The index of a new interface is another one.
	s[0].join(s[1])
	s[0].await(Up)
}

// A speaker doesn't take the packets of another program that does BFD, and says
// so.
func TestAnotherProgramHasThePort(t *testing.T) {
	s := newStations(t)
	s[1].set(between("192.0.2.1", nil))
	var other net.PacketConn
	if err := s[0].ns.Do(func() error {
		// Others do share, and would not notice.
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }), err)
		}}
		var err error
		other, err = lc.ListenPacket(t.Context(), "udp4", ":3784")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s[0].set(between("192.0.2.2", nil))
	if got, want := s[0].manager.Sessions()[0].Trouble, "receive BFD packets: bind to port 3784 of 0.0.0.0: address already in use"; got != want {
		t.Errorf("trouble is %q, want %q", got, want)
	}
	other.Close()
	s[0].await(Up)
}

// What a router passed on may come from anywhere.
func TestAPacketThatPassedARouterIsNotHeard(t *testing.T) {
	s := newStations(t)
	s[0].set(between("192.0.2.2", nil))
	s[0].send(s[1], "192.0.2.2", 254, 3784)
	s[0].send(s[1], "192.0.2.2", 255, 3784)
	s[0].await(Init)
	s[0].manager.mu.Lock()
	defer s[0].manager.mu.Unlock()
	if n := s[0].manager.stats.dropped[dropTTL]; n != 1 {
		t.Errorf("%d were dropped", n)
	}
}

// send sends a first packet to s.
func (s *station) send(from *station, local string, ttl int, port uint16) {
	s.Helper()
	if err := from.ns.Do(func() error {
		fd, err := udp(true, option{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, ttl})
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := bind(fd, "", netip.MustParseAddr(local), 0, 50000); err != nil {
			return err
		}
		var b [packetLength]byte
		(&packet{state: Down, multiplier: 3, my: 1, desiredMinTx: time.Second, requiredMinRx: time.Second}).encode(&b)
		return unix.Sendto(fd, b[:], 0, sockaddr(netip.MustParseAddr("192.0.2.1"), 0, port))
	}); err != nil {
		s.Fatal(err)
	}
}

// The kernel's time is the wall clock's.
func TestSettingTheClockAgesNoPacket(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct{ stamp, want time.Duration }{
		"it waited":                {-20 * ms, -20 * ms},
		"the clock was put on":     {-time.Hour, -50 * ms},
		"the clock was put back":   {time.Hour, 0},
		"it came while we read it": {time.Microsecond, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := &listener{now: now, emptied: now.Add(-50 * ms)}
			ts := unix.NsecToTimespec(now.Add(test.stamp).UnixNano())
			l.heed(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, (*[unsafe.Sizeof(ts)]byte)(unsafe.Pointer(&ts))[:])
			if got := l.d.at.Sub(now); got != test.want {
				t.Errorf("it came %v, want %v", got, test.want)
			}
		})
	}
}

// A packet costs no memory: neither the one received, nor the answer.
func TestPacketsAllocateNothing(t *testing.T) {
	s := newStations(t)
	s[0].set(between("192.0.2.2", nil))
	s[1].set(between("192.0.2.1", nil))
	s[0].await(Up)
	s[1].await(Up)
	a, b := s[0].manager, s[1].manager
	key := Key{Remote: netip.MustParseAddr("192.0.2.2")}
	a.mu.Lock()
	defer a.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	// The timers stand still: this goroutine does what they would.
	ours, theirs := a.endpoints[key], b.endpoints[Key{Remote: netip.MustParseAddr("192.0.2.1")}]
	received := ours.count.received
	now := time.Now()
	allocs := testing.AllocsPerRun(1000, func() {
		now = now.Add(100 * ms)
		b.act(theirs, now)
		a.drain(a.receivers[ours.place])
		a.act(ours, now)
		b.drain(b.receivers[theirs.place])
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	// Those that are limited or not due are few.
	if n := ours.count.received - received; n < 900 {
		t.Errorf("%d packets were received", n)
	}
}
