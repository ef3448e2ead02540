// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// echoBuffer is what a socket holds while nobody has time to read it: seconds of datagrams.
const echoBuffer = 16 << 20

// Echo answers datagrams with themselves. It is a backend that loses nothing where a program that waits for the processor
// does, and so what is lost is lost on the way.
type Echo struct {
	conn    net.PacketConn
	running sync.WaitGroup
}

// StartEcho answers on a port of all addresses of a namespace. The caller must Close it.
func StartEcho(n *sandbox.Namespace, port uint16) (*Echo, error) {
	e := &Echo{}
	if err := n.Do(func() (err error) {
		e.conn, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	}); err != nil {
		return nil, fmt.Errorf("echo in %s: %w", n.Name(), err)
	}
	if err := e.enlarge(); err != nil {
		_ = e.conn.Close()
		return nil, fmt.Errorf("echo in %s: buffer: %w", n.Name(), err)
	}
	e.running.Go(func() {
		buf := make([]byte, 2048)
		for {
			size, from, err := e.conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = e.conn.WriteTo(buf[:size], from) // an answer that has no way is lost, as others are
		}
	})
	return e, nil
}

// enlarge gives the socket more than the limit for everybody.
func (e *Echo) enlarge() error {
	raw, err := e.conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, echoBuffer)
	}); err != nil {
		return err
	}
	return set
}

// Close ends it.
func (e *Echo) Close() error {
	err := e.conn.Close()
	e.running.Wait()
	return err
}
