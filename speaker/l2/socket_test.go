// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/mdlayher/packet"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// cable is a pair of real interfaces in a network namespace of the test's own:
// the node's end and the asker's.
type cable struct {
	ns    netns.NsHandle
	h     *netlink.Handle
	node  link.Link
	asker *packet.Conn
}

func newCable(t *testing.T) *cable {
	t.Helper()
	c := &cable{}
	var err error
	c.within(func() { c.ns, err = netns.New() })
	if err != nil {
		t.Fatalf("make a network namespace (as root): %v", err)
	}
	t.Cleanup(func() { c.ns.Close() })
	if c.h, err = netlink.NewHandleAt(c.ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.h.Close)
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "asker", PeerHardwareAddr: askerMAC[:]}
	veth.Name, veth.HardwareAddr = "node", selfMAC[:]
	if err := c.h.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	ends := map[string]netlink.Link{}
	for _, name := range []string{"node", "asker"} {
		l, err := c.h.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.h.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
		ends[name] = l
	}
	// The kernel drops what is sent before it has noticed the carrier.
	for name := range ends {
		c.untilUp(t, name)
	}
	c.node = link.Link{Index: ends["node"].Attrs().Index, Name: "node", MAC: selfMAC, Up: true, ARP: true}
	c.within(func() {
		ifi := &net.Interface{Index: ends["asker"].Attrs().Index, Name: "asker", HardwareAddr: askerMAC[:]}
		c.asker, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.asker.Close() })
	return c
}

func (c *cable) untilUp(t *testing.T, name string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l, err := c.h.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if l.Attrs().OperState == netlink.OperUp {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %v", name, l.Attrs().OperState)
		}
	}
}

// within runs f in the namespace, or, before there is one, on a thread that
// comes back to its own.
func (c *cable) within(f func()) {
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
	if c.ns != 0 {
		if err := netns.Set(c.ns); err != nil {
			panic(err)
		}
	}
	f()
}

func (c *cable) listen(l link.Link) (conn io.ReadWriteCloser, err error) {
	c.within(func() { conn, err = Listen(l) })
	return conn, err
}

func (c *cable) send(t *testing.T, b []byte) {
	t.Helper()
	if _, err := c.asker.WriteTo(b, &packet.Addr{HardwareAddr: b[:6]}); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next ARP frame that the asker sees.
func (c *cable) receive(t *testing.T) []byte {
	t.Helper()
	if err := c.asker.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 200)
	n, _, err := c.asker.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func (c *cable) receiveUnicast(t *testing.T) []byte {
	t.Helper()
	for {
		if b := c.receive(t); b[0]&1 == 0 {
			return b
		}
	}
}

func TestExchangeOnARealWire(t *testing.T) {
	c := newCable(t)
	reg := prometheus.NewRegistry()
	r := New(logr.Discard(), reg, c.listen)
	defer r.Close()
	set(t, r, []link.Link{c.node}, on("node", vip, vip2))
	var seen []string
	for range 4 {
		seen = append(seen, describe(c.receive(t)))
	}
	wantLines(t, seen,
		"gratuitous request: 192.0.2.50 is 1", "gratuitous reply: 192.0.2.50 is 1",
		"gratuitous request: 192.0.2.51 is 1", "gratuitous reply: 192.0.2.51 is 1")
	exchange(t, func(b []byte) { c.send(t, b) }, c.receiveUnicast)
	wantCounts(t, reg)
}

// tagged returns the frame with an 802.1Q tag.
func tagged(vid byte, b []byte) []byte {
	return append(append(append([]byte{}, b[:offEtherType]...), 0x81, 0, 0, vid), b[offEtherType:]...)
}

func TestFramesOfAnotherVLANAreNotSeen(t *testing.T) {
	c := newCable(t)
	r := New(logr.Discard(), prometheus.NewRegistry(), c.listen)
	defer r.Close()
	set(t, r, []link.Link{c.node}, on("node", vip, vip2))
	c.send(t, tagged(5, ask()))
	c.send(t, tagged(0, askFor(vip2)))
	if got, want := describe(c.receiveUnicast(t)), fmt.Sprintf("reply to %v: %v is 1", asker, vip2); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A node's own frames and what the filter drops don't wake the program up.
func TestTheFilterPassesRequestsOnly(t *testing.T) {
	c := newCable(t)
	conn, err := c.listen(c.node)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(gratuitous(selfMAC, vip)[0]); err != nil {
		t.Fatal(err)
	}
	c.send(t, gratuitous(askerMAC, vip)[1])
	c.send(t, ask(put(offEtherType, 8, 0)))
	c.send(t, ask())
	b := make([]byte, maxFrame)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe(b[:n]), fmt.Sprintf("request to %v: %v is 2", vip, asker); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReadingAllocatesNothing(t *testing.T) {
	c := newCable(t)
	conn, err := c.listen(c.node)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := c.asker.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	frame, buf, addrs := askFor(other), make([]byte, maxFrame), manyAddrs(10_000)
	var failed error
	send := func(fd uintptr) bool {
		_, failed = unix.Write(int(fd), frame)
		return true
	}
	allocs := testing.AllocsPerRun(1000, func() {
		if err := raw.Write(send); err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, what := decide(buf[:n], selfMAC, addrs); what != ignore {
			t.Fatal(what)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per ignored request", allocs)
	}
}

func TestARealInterfaceThatFlapsIsAnnouncedAgain(t *testing.T) {
	c := newCable(t)
	r := New(logr.Discard(), prometheus.NewRegistry(), c.listen)
	defer r.Close()
	set(t, r, []link.Link{c.node}, on("node", vip))
	l, err := c.h.LinkByName("node")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * rounds {
		c.receive(t)
	}
	if err := c.h.LinkSetDown(l); err != nil {
		t.Fatal(err)
	}
	if err := c.h.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	// The asker's end lost its carrier too, and says so once.
	var got []byte
	for got == nil {
		b := make([]byte, 200)
		if err := c.asker.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, _, err := c.asker.ReadFrom(b); err == nil {
			got = b[:n]
		} else if !strings.Contains(err.Error(), "network is down") {
			t.Fatal(err)
		}
	}
	if line := describe(got); line != "gratuitous request: 192.0.2.50 is 1" && line != "gratuitous reply: 192.0.2.50 is 1" {
		t.Errorf("got %q", line)
	}
	c.untilUp(t, "asker")
	c.send(t, ask())
	if got, want := describe(c.receiveUnicast(t)), fmt.Sprintf("reply to %v: %v is 1", asker, vip); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAVanishedInterfaceCanBeClosed(t *testing.T) {
	c := newCable(t)
	r := New(logr.Discard(), prometheus.NewRegistry(), c.listen)
	set(t, r, []link.Link{c.node}, on("node", vip))
	l, err := c.h.LinkByName("node")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.h.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	failed := r.Set(nil, on("node", vip))
	if failed["node"] == nil {
		t.Error("an interface that is gone was not reported")
	}
	failed = r.Set([]link.Link{c.node}, on("node", vip))
	if failed["node"] == nil {
		t.Error("a socket was opened on an interface that is gone")
	}
	r.Close()
}
