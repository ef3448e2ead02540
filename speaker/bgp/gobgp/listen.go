// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// acceptRetry is the wait after an error that the kernel should not give.
const acceptRetry = time.Second

// socket is where passive sessions listen.
type socket struct {
	own    netip.Addr
	port   uint16
	device string
}

// listener hands the connections of routers to the sessions with them.
type listener struct {
	*net.TCPListener

	mu       sync.Mutex
	sessions map[netip.Addr]chan net.Conn
}

// listen has the connections of the session's router sent to the channel, until
// leave is called.
func (b *Backend) listen(s bgp.Session, accepted chan net.Conn) (leave func(), err error) {
	on := socket{s.Source, s.Port, s.BindInterface}
	if !on.own.IsValid() {
		on.own = netip.IPv4Unspecified()
		if s.Neighbor.Is6() {
			on.own = netip.IPv6Unspecified()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.listeners[on]
	if l == nil {
		if l, err = newListener(on, b.ports()[on.port]); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", netip.AddrPortFrom(on.own, on.port), err)
		}
		b.listeners[on] = l
		go l.serve()
	}
	if s.Password != "" {
		if err := l.sign(s.Neighbor, s.Password); err != nil {
			b.settle(on)
			return nil, fmt.Errorf("set the password of %s: %w", s.Neighbor, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[s.Neighbor] = accepted
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		l.mu.Lock()
		delete(l.sessions, s.Neighbor)
		l.mu.Unlock()
		if s.Password != "" {
			_ = l.sign(s.Neighbor, "") // it was set
		}
		b.settle(on)
	}, nil
}

// ports are those that there are listeners on.
func (b *Backend) ports() map[uint16]bool {
	out := map[uint16]bool{}
	for on := range b.listeners {
		out[on.port] = true
	}
	return out
}

// settle closes a socket that nobody uses any more.
func (b *Backend) settle(on socket) {
	l := b.listeners[on]
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) == 0 {
		_ = l.Close()
		delete(b.listeners, on)
	}
}

// newListener listens on a port that others of this process have already, with
// other addresses or devices, if it is shared. One of another program is always
// an error: SO_REUSEPORT would divide the connections between the two.
func newListener(on socket, shared bool) (*listener, error) {
	network := "tcp6"
	if on.own.Is4() {
		network = "tcp4"
	}
	lc := net.ListenConfig{Control: control(options{ttl: maxTTL, device: on.device, reusePort: shared})}
	lc.SetMultipathTCP(false) // it knows neither passwords nor TTLs
	l, err := lc.Listen(context.Background(), network, netip.AddrPortFrom(on.own, on.port).String())
	if err != nil {
		return nil, err
	}
	tcp := l.(*net.TCPListener)
	raw, err := tcp.SyscallConn()
	if err == nil {
		err = options{reusePort: true}.set(raw, on.own.Is4())
	}
	if err != nil {
		_ = tcp.Close()
		return nil, err
	}
	return &listener{TCPListener: tcp, sessions: map[netip.Addr]chan net.Conn{}}, nil
}

func (l *listener) serve() {
	for {
		c, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(acceptRetry)
			continue
		}
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		l.mu.Lock()
		hand(l.sessions[from], c)
		l.mu.Unlock()
	}
}

// hand leaves a connection for a session, in place of the last one if that is
// not taken yet: the router has given it up. Nobody expects it if there is no
// session.
func hand(accepted chan net.Conn, c net.Conn) {
	select {
	case old := <-accepted:
		_ = old.Close()
	default:
	}
	select {
	case accepted <- c:
	default:
		_ = c.Close()
	}
}
