// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const port = 7475

// station is a network namespace with a Transport.
type station struct {
	ns        netns.NsHandle
	h         *netlink.Handle
	transport *Transport
	heard     chan Datagram
	links     []link.Link
}

// newStations returns two stations that share as many segments as there are
// names of interfaces. On the i-th they have the addresses 192.0.2+i.1 and .2.
func newStations(t *testing.T, interfaces ...string) [2]*station {
	t.Helper()
	var out [2]*station
	for i := range out {
		s := &station{heard: make(chan Datagram, 100)}
		s.within(func() {
			var err error
			if s.ns, err = netns.New(); err != nil {
				t.Fatalf("make a network namespace (as root): %v", err)
			}
			// Link-local addresses are usable at once.
			for _, name := range []string{"accept_dad", "dad_transmits"} {
				if err := writeSysctl("net/ipv6/conf/default/" + name); err != nil {
					t.Fatal(err)
				}
			}
		})
		t.Cleanup(func() { s.ns.Close() })
		var err error
		if s.h, err = netlink.NewHandleAt(s.ns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.h.Close)
		s.transport = New(logr.Discard(), prometheus.NewRegistry(), port, func(d Datagram) {
			d.Payload = append([]byte(nil), d.Payload...)
			s.heard <- d
		})
		t.Cleanup(s.transport.Close)
		out[i] = s
	}
	for i, name := range interfaces {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: name, PeerNamespace: netlink.NsFd(out[1].ns)}
		veth.Name = name
		if err := out[0].h.LinkAdd(veth); err != nil {
			t.Fatal(err)
		}
		for j, s := range out {
			l, err := s.h.LinkByName(name)
			if err != nil {
				t.Fatal(err)
			}
			ip := netip.AddrFrom4([4]byte{192, 0, byte(2 + i), byte(1 + j)})
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(24, 32)}}
			if err := s.h.AddrAdd(l, addr); err != nil {
				t.Fatal(err)
			}
			if err := s.h.LinkSetUp(l); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range out {
		for _, name := range interfaces {
			s.links = append(s.links, s.await(t, name))
		}
	}
	return out
}

// await returns the interface when it is up and has both its addresses.
func (s *station) await(t *testing.T, name string) link.Link {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l, err := s.h.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := s.h.AddrList(l, unix.AF_UNSPEC)
		if err != nil {
			t.Fatal(err)
		}
		tentative := slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
		if l.Attrs().OperState == netlink.OperUp && len(addrs) == 2 && !tentative {
			out := link.Link{Index: l.Attrs().Index, Name: name, MAC: link.MAC(l.Attrs().HardwareAddr), Up: true, ARP: true}
			for _, a := range addrs {
				ones, _ := a.Mask.Size()
				ip, _ := netip.AddrFromSlice(a.IP)
				out.Prefixes = append(out.Prefixes, netip.PrefixFrom(ip.Unmap(), ones))
			}
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %v with %v", name, l.Attrs().OperState, addrs)
		}
	}
}

// within runs f in the namespace, or, before there is one, on a thread that
// comes back to its own.
func (s *station) within(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := netns.Get()
	if err != nil {
		panic(err)
	}
	defer old.Close()
	defer func() {
		if err := netns.Set(old); err != nil {
			panic(err) // the thread must not serve other tests
		}
	}()
	if s.ns != 0 {
		if err := netns.Set(s.ns); err != nil {
			panic(err)
		}
	}
	f()
}

func (s *station) set(t *testing.T, links ...link.Link) {
	t.Helper()
	s.within(func() {
		if !s.transport.Set(links) {
			t.Error("an interface can't be used")
		}
	})
}

// next returns the next datagram that was heard.
func (s *station) next(t *testing.T) Datagram {
	t.Helper()
	select {
	case d := <-s.heard:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was heard")
		return Datagram{}
	}
}

// barrier returns when everything that was sent to s before has been heard: a
// last datagram is sent after it on the link.
func (s *station) barrier(t *testing.T, from *station, index int) []Datagram {
	t.Helper()
	from.transport.Send(index, netip.Addr{}, false, []byte("barrier"))
	var out []Datagram
	for range 2 { // once in each family
		for {
			d := s.next(t)
			if string(d.Payload) == "barrier" {
				break
			}
			out = append(out, d)
		}
	}
	return out
}

func TestEverybodyOnTheSegmentHearsBothFamilies(t *testing.T) {
	s := newStations(t, "eth0")
	a, b := s[0], s[1]
	a.set(t, a.links...)
	b.set(t, b.links...)
	a.transport.Send(a.links[0].Index, netip.Addr{}, false, []byte("hello"))
	got := map[bool]Datagram{}
	for range 2 {
		d := b.next(t)
		got[d.From.Is4()] = d
	}
	for v4, from := range map[bool]netip.Addr{true: netip.MustParseAddr("192.0.2.1"), false: linkLocal(a.links[0])} {
		d := got[v4]
		if d.From.WithZone("") != from || d.TTL != 255 || string(d.Payload) != "hello" || d.Interface != b.links[0].Index {
			t.Errorf("heard %+v, want it from %v on interface %d", d, from, b.links[0].Index)
		}
		if d.Age > 5*time.Second {
			t.Errorf("it is %v old", d.Age)
		}
	}
	if len(a.heard) != 0 {
		t.Error("the sender hears itself")
	}
}

// Who has IPv4 needs no IPv6 to hear what is sent sparingly.
func TestOneFamilyIsEnoughToSpare(t *testing.T) {
	s := newStations(t, "eth0")
	a, b := s[0], s[1]
	a.set(t, a.links...)
	b.set(t, b.links...)
	a.transport.Send(a.links[0].Index, netip.Addr{}, true, []byte("hello"))
	if got := b.barrier(t, a, a.links[0].Index); len(got) != 1 || !got[0].From.Is4() {
		t.Errorf("heard %+v, want one by IPv4", got)
	}
	only6 := a.links[0]
	only6.Prefixes = slices.DeleteFunc(slices.Clone(only6.Prefixes), func(p netip.Prefix) bool { return p.Addr().Is4() })
	a.set(t, only6)
	a.transport.Send(only6.Index, netip.Addr{}, true, []byte("hello"))
	if d := b.next(t); d.From.Is4() || string(d.Payload) != "hello" {
		t.Errorf("heard %+v, want it by IPv6", d)
	}
}

func linkLocal(l link.Link) netip.Addr {
	for _, p := range l.Prefixes {
		if p.Addr().IsLinkLocalUnicast() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

func TestOneStationIsSpokenToAlone(t *testing.T) {
	s := newStations(t, "eth0")
	a, b := s[0], s[1]
	a.set(t, a.links...)
	b.set(t, b.links...)
	for _, to := range []netip.Addr{netip.MustParseAddr("192.0.2.2"), linkLocal(b.links[0])} {
		a.transport.Send(a.links[0].Index, to, false, []byte("you"))
		if d := b.next(t); string(d.Payload) != "you" || d.From.Is4() != to.Is4() || d.TTL != 255 {
			t.Errorf("to %v: heard %+v", to, d)
		}
	}
}

// A datagram to an address of the node that comes in on another interface is
// not the segment's.
func TestAnInterfaceHearsItsOwnSegmentOnly(t *testing.T) {
	s := newStations(t, "eth0", "eth1")
	a, b := s[0], s[1]
	a.set(t, a.links...)
	b.set(t, b.links[0])
	a.transport.Send(a.links[1].Index, netip.Addr{}, false, []byte("wrong"))
	a.transport.Send(a.links[1].Index, netip.MustParseAddr("192.0.3.2"), false, []byte("wrong"))
	if got := b.barrier(t, a, a.links[0].Index); len(got) != 0 {
		t.Errorf("heard %+v", got)
	}
	b.set(t, b.links...)
	a.transport.Send(a.links[1].Index, netip.Addr{}, false, []byte("right"))
	if d := b.next(t); d.Interface != b.links[1].Index {
		t.Errorf("heard %+v", d)
	}
}

func TestAnInterfaceThatIsTakenAwayIsSilent(t *testing.T) {
	s := newStations(t, "eth0", "eth1")
	a, b := s[0], s[1]
	a.set(t, a.links...)
	b.set(t, b.links...)
	b.set(t, b.links[1])
	a.transport.Send(a.links[0].Index, netip.Addr{}, false, []byte("nobody"))
	if got := b.barrier(t, a, a.links[1].Index); len(got) != 0 {
		t.Errorf("heard %+v", got)
	}
	down := b.links[0]
	down.Up = false
	b.set(t, down, b.links[1])
	if got := b.barrier(t, a, a.links[1].Index); len(got) != 0 {
		t.Errorf("heard %+v on an interface that is down", got)
	}
}

func TestWhatIsTooLongIsDropped(t *testing.T) {
	s := newStations(t, "eth0")
	a, b := s[0], s[1]
	a.set(t, a.links...)
	b.set(t, b.links...)
	a.transport.Send(a.links[0].Index, netip.Addr{}, false, make([]byte, MaxPayload+1))
	a.transport.Send(a.links[0].Index, netip.Addr{}, false, make([]byte, MaxPayload))
	got := b.barrier(t, a, a.links[0].Index)
	if len(got) != 2 || len(got[0].Payload) != MaxPayload || len(got[1].Payload) != MaxPayload {
		t.Errorf("heard %d datagrams", len(got))
	}
}

func TestAPortInUseIsReported(t *testing.T) {
	s := newStations(t, "eth0")
	a := s[0]
	var taken *net.UDPConn
	a.within(func() {
		var err error
		if taken, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port}); err != nil {
			t.Fatal(err)
		}
		if a.transport.Set(a.links) {
			t.Error("the port is somebody else's, and nobody said so")
		}
	})
	taken.Close()
	a.set(t, a.links...)
}

func TestFamilies(t *testing.T) {
	prefixes := func(s ...string) (p []netip.Prefix) {
		for _, s := range s {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	for name, tt := range map[string]struct {
		link   link.Link
		v4, v6 bool
	}{
		"both":                      {link.Link{Up: true, ARP: true, Prefixes: prefixes("192.0.2.1/24", "fe80::1/64")}, true, true},
		"IPv4 alone":                {link.Link{Up: true, ARP: true, Prefixes: prefixes("192.0.2.1/24")}, true, false},
		"no link-local address yet": {link.Link{Up: true, ARP: true, Prefixes: prefixes("2001:db8::1/64")}, false, false},
		"down":                      {link.Link{ARP: true, Prefixes: prefixes("192.0.2.1/24", "fe80::1/64")}, false, false},
		"a tunnel":                  {link.Link{Up: true, Prefixes: prefixes("192.0.2.1/24", "fe80::1/64")}, false, false},
		"no address":                {link.Link{Up: true, ARP: true}, false, false},
	} {
		if v4, v6 := families(tt.link); v4 != tt.v4 || v6 != tt.v6 {
			t.Errorf("%s: IPv4 %v, IPv6 %v", name, v4, v6)
		}
	}
}

// writeSysctl turns a setting of the thread's namespace off.
func writeSysctl(name string) error {
	return os.WriteFile("/proc/sys/"+name, []byte("0"), 0o644)
}

// Whoever takes datagrams under a lock may change the interfaces under it.
func TestChangingTheInterfacesWaitsForNoDelivery(t *testing.T) {
	s := newStations(t, "eth0")
	a, b := s[0], s[1]
	delivering, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.transport = New(logr.Discard(), prometheus.NewRegistry(), port, func(Datagram) {
		once.Do(func() { close(delivering) })
		<-goOn
	})
	a.set(t, a.links...)
	b.set(t, b.links...)
	a.transport.Send(a.links[0].Index, netip.Addr{}, false, []byte("hello"))
	<-delivering
	b.set(t)
	b.set(t, b.links...)
	b.transport.Close()
	close(goOn)
}
