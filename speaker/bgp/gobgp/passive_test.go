// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// come connects to a passive peer's address.
func (w *wire) come(to netip.Addr, port uint16) (c net.Conn) {
	w.t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(w.addr, 0))}
	eventually(w.t, func() (err error) {
		c, err = d.Dial("tcp", netip.AddrPortFrom(to, port).String())
		return err
	})
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// closed makes sure that a connection is over, long before the hold time is.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection: %v", err)
	}
}

func TestPassivePeersOnOnePortWithAndWithoutAnAddress(t *testing.T) {
	t.Parallel()
	w, any := newWire(t), newWire(t)
	p, q := w.peer("one", 65001), any.peer("any", 65001)
	p.Passive, p.Port = true, 10181
	q.Passive, q.Port, q.Source = true, 10181, netip.Addr{}
	a := newAnnouncer(t, false)
	// One after the other, or the wildcard's socket may take what is for the one
	// that doesn't listen yet.
	a.Set(desired(bgp.PeerRoutes{Peer: p}))
	establish(t, w.come(p.Source, p.Port), 65000)
	a.Set(desired(bgp.PeerRoutes{Peer: p}, bgp.PeerRoutes{Peer: q}))
	establish(t, any.come(loopback(), q.Port), 65000)
	established(t, a, "one", "any")
}

// A router that was begun anew in the middle of the first messages comes again.
func TestANewConnectionReplacesOneThatNeverOpened(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	p := w.peer("tor", 65001)
	p.Passive, p.Port = true, 10182
	a := newAnnouncer(t, false)
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(1)}))
	old := w.come(p.Source, p.Port)
	next[*packet.BGPOpen](t, old)
	c := w.come(p.Source, p.Port)
	closed(t, old)
	establish(t, c, 65000)
	established(t, a, "tor")
}

func TestTheNewestConnectionIsHandedOver(t *testing.T) {
	t.Parallel()
	accepted := make(chan net.Conn, 1)
	for range 2 {
		own, router := net.Pipe()
		hand(accepted, own)
		go func() { _, _ = router.Write([]byte{1}) }()
	}
	if _, err := (<-accepted).Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	own, router := net.Pipe()
	hand(nil, own)
	if _, err := router.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("nobody's connection: %v", err)
	}
}
