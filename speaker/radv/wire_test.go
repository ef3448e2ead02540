// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// machine is a network namespace.
type machine struct {
	*sandbox.Namespace
	advertiser *Advertiser
	reg        *prometheus.Registry
	changed    chan struct{}
}

// newMachines returns two that nothing joins yet.
func newMachines(t *testing.T) (a, b *machine) {
	t.Helper()
	s, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	var out [2]*machine
	for i, name := range []string{"a", "b"} {
		n, err := s.AddNamespace(name)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = &machine{Namespace: n, changed: make(chan struct{}, 100)}
		// Link-local addresses are usable at once.
		for _, key := range []string{"accept_dad", "dad_transmits"} {
			if err := n.Sysctl("ipv6/conf/default/"+key, "0"); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out[0], out[1]
}

// join joins two machines by eth0.
func join(t *testing.T, a, b *machine) {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(b.FD())}
	veth.Name = "eth0"
	if err := a.Netlink().LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	a.up(t)
	b.up(t)
}

func (m *machine) eth0(t *testing.T) netlink.Link {
	t.Helper()
	l, err := m.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (m *machine) up(t *testing.T) {
	t.Helper()
	if err := m.Netlink().LinkSetUp(m.eth0(t)); err != nil {
		t.Fatal(err)
	}
}

// linkLocal returns the address, waiting for it.
func (m *machine) linkLocal(t *testing.T) netip.Addr {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		addrs, err := m.Netlink().AddrList(m.eth0(t), unix.AF_INET6)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if ip, _ := netip.AddrFromSlice(a.IP); ip.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				return ip
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("eth0 has %v", addrs)
		}
	}
}

// advertise runs an Advertiser on eth0 as the speaker does: fed by what the
// kernel tells of its links, and with the capability NET_RAW only.
func (m *machine) advertise(t *testing.T) {
	t.Helper()
	m.reg = prometheus.NewRegistry()
	m.advertiser = New(logr.Discard(), m.reg, func() { m.changed <- struct{}{} })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- m.Do(func() error {
			restore, err := keepNetRawOnly()
			if err != nil {
				return err
			}
			err = link.NewWatcher(logr.Discard(), func(links []link.Link) {
				links = slices.DeleteFunc(links, func(l link.Link) bool { return l.Name != "eth0" })
				if !m.advertiser.Set(links) {
					// It went between the listing and now: the next tells.
					t.Log("eth0 can't be used")
				}
			}).Run(ctx)
			return errors.Join(err, restore())
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		m.advertiser.Close()
	})
}

// keepNetRawOnly takes all other capabilities from the thread until restored.
func keepNetRawOnly() (restore func() error, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		return nil, err
	}
	few := all
	few[0].Effective, few[1].Effective = 1<<unix.CAP_NET_RAW, 0
	if err := unix.Capset(&header, &few[0]); err != nil {
		return nil, err
	}
	return func() error { return unix.Capset(&header, &all[0]) }, nil
}

// await returns when the machine knows these routers and no others.
func (m *machine) await(t *testing.T, want ...netip.Addr) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		got := m.advertiser.Routers()["eth0"]
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-m.changed:
		case <-timeout:
			t.Fatalf("%s knows %v, want %v", m.Name(), got, want)
		}
	}
}

// eventually waits for what nobody tells of.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestTwoMeetOnALink(t *testing.T) {
	a, b := newMachines(t)
	join(t, a, b)
	atA, atB := a.linkLocal(t), b.linkLocal(t)
	a.advertise(t)
	// What it sends at first b can't hear.
	eventually(t, "a advertises", func() bool {
		return value(t, a.reg, "sent_total", advertisement.String()) > 0
	})
	begin := time.Now()
	b.advertise(t)
	a.await(t, atB)
	b.await(t, atA)
	t.Logf("met in %v", time.Since(begin))
	if value(t, a.reg, "received_total", solicitation.String()) == 0 {
		t.Error("a was not solicited")
	}
	// The answer went to b alone.
	if n := value(t, b.reg, "dropped_total", string(reasonHops)); n != 0 {
		t.Errorf("b dropped %v", n)
	}

	if err := a.Netlink().LinkSetDown(a.eth0(t)); err != nil {
		t.Fatal(err)
	}
	a.await(t)
	b.await(t)
	a.up(t)
	a.await(t, atB)
	b.await(t, atA)

	if err := a.Netlink().LinkDel(a.eth0(t)); err != nil {
		t.Fatal(err)
	}
	a.await(t)
	b.await(t)
	join(t, a, b)
	anew := a.linkLocal(t)
	if anew == atA {
		t.Fatalf("eth0 has %v again", anew)
	}
	b.await(t, anew)
	a.await(t, b.linkLocal(t))
}

func TestARouterBeyondTheLinkIsNotHeard(t *testing.T) {
	a, b := newMachines(t)
	join(t, a, b)
	from := b.linkLocal(t)
	a.advertise(t)
	eventually(t, "a advertises", func() bool {
		return value(t, a.reg, "sent_total", advertisement.String()) > 0
	})
	b.send(t, &ndp.NeighborAdvertisement{TargetAddress: from}, ndp.HopLimit) // not for us, and not to be read
	b.send(t, &ndp.RouterAdvertisement{}, 64)
	eventually(t, "its advertisement is counted", func() bool {
		return value(t, a.reg, "dropped_total", string(reasonHops)) == 1
	})
	if n := value(t, a.reg, "dropped_total", string(reasonType)); n != 0 {
		t.Errorf("%v messages of others were read", n)
	}
	a.await(t)
	b.send(t, &ndp.RouterAdvertisement{RouterLifetime: 30 * time.Minute}, ndp.HopLimit)
	a.await(t, from)
}

// send sends to everybody on the link by other means than ours.
func (m *machine) send(t *testing.T, message ndp.Message, hops int) {
	t.Helper()
	source := m.linkLocal(t)
	if err := m.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		c, _, err := ndp.Listen(eth0, ndp.LinkLocal)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.WriteTo(message, &ipv6.ControlMessage{HopLimit: hops, Src: source.AsSlice(), IfIndex: eth0.Index}, allNodes)
	}); err != nil {
		t.Fatal(err)
	}
}

// Hosts of the link take the router's way out, not ours.
func TestNobodyRoutesThroughUs(t *testing.T) {
	a, b := newMachines(t)
	if err := b.Sysctl("ipv6/conf/default/accept_ra", "1"); err != nil {
		t.Fatal(err)
	}
	join(t, a, b)
	b.linkLocal(t)
	a.advertise(t)
	eventually(t, "b hears a", func() bool { return b.heardAdvertisements(t) > 0 })
	if routes := b.defaultRoutes(t); len(routes) != 0 {
		t.Errorf("b has the routes %v", routes)
	}
	addrs, err := b.Netlink().AddrList(b.eth0(t), unix.AF_INET6)
	if err != nil || len(addrs) != 1 {
		t.Errorf("b has the addresses %v: %v", addrs, err)
	}

	a.send(t, &ndp.RouterAdvertisement{RouterLifetime: time.Minute}, ndp.HopLimit)
	eventually(t, "b takes a default route from who offers one", func() bool { return len(b.defaultRoutes(t)) == 1 })
}

// heardAdvertisements tells how many the kernel received.
func (m *machine) heardAdvertisements(t *testing.T) (n int) {
	t.Helper()
	if err := m.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev_snmp6/eth0")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "Icmp6InRouterAdvertisements" {
				n, err = strconv.Atoi(f[1])
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func (m *machine) defaultRoutes(t *testing.T) (routes []netlink.Route) {
	t.Helper()
	all, err := m.Netlink().RouteList(m.eth0(t), unix.AF_INET6)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(r netlink.Route) bool {
		if r.Dst == nil {
			return false
		}
		ones, _ := r.Dst.Mask.Size()
		return ones != 0
	})
}
