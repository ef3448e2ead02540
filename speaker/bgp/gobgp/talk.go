// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

const (
	// subcodeBFDDown is of a Cease (RFC 9384).
	subcodeBFDDown = 10
	// lastWords is how long a router may take to take a notification, and then
	// to close the connection.
	lastWords = time.Second
	// benefit is how long what the router has sent may take to be read after
	// the hold time is over: it may be that this process was stopped.
	benefit = 100 * time.Millisecond
)

// talk is a connection with a router.
type talk struct {
	net.Conn
	session  bgp.Session
	observer bgp.Observer
	closing  sync.Once

	// writing is held for each write.
	writing sync.Mutex
	// ceased says that we have sent a notification: nothing follows it.
	ceased bool

	negotiated
}

func (t *talk) local() netip.Addr {
	return t.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
}

func (t *talk) close() { t.closing.Do(func() { _ = t.Conn.Close() }) }

// send writes messages, as many as there are.
func (t *talk) send(messages ...*packet.BGPMessage) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.ceased {
		return errCeased
	}
	hold := t.session.HoldTime
	if err := t.SetWriteDeadline(time.Now().Add(hold)); err != nil {
		return lost(err)
	}
	var buf []byte
	for i, m := range messages {
		b, err := m.Serialize()
		if err != nil {
			return fmt.Errorf("write a message: %w", err)
		}
		buf = append(buf, b...)
		if len(buf) < 1<<16 && i < len(messages)-1 {
			continue
		}
		if _, err := t.Write(buf); err != nil {
			return lost(err)
		}
		buf = buf[:0]
	}
	return nil
}

// errCeased says that we have sent a notification already.
var errCeased = errors.New("the session is over")

// The ends of a connection of which the router does not say why.
var (
	errClosed = errors.New("the router closed the connection without a word")
	errBroken = errors.New("the router reset the connection")
)

// spoken is a notification of the router.
type spoken struct{ bgp.Notification }

func (s *spoken) Error() string { return s.String() }

// lost says what it means that a connection broke.
func lost(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("the router took nothing during the hold time")
	case errors.Is(err, syscall.ECONNRESET):
		return errBroken
	}
	// The ports are other ones each time, and no other cause.
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("the connection broke: %w", err)
}

// notify sends a notification, the last message.
func (t *talk) notify(n bgp.Notification, data []byte) {
	// Whoever reads or writes meanwhile may set other deadlines.
	defer time.AfterFunc(2*lastWords, t.close).Stop()
	// Who is writing just now need not wait for the router any more.
	_ = t.SetWriteDeadline(time.Now().Add(lastWords))
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.ceased {
		return
	}
	t.ceased = true
	b, err := packet.NewBGPNotificationMessage(n.Code, n.Subcode, data).Serialize()
	if err != nil {
		return
	}
	_ = t.SetWriteDeadline(time.Now().Add(lastWords))
	if _, err := t.Write(b); err != nil {
		return
	}
	n.Sent = true
	t.observer.Notified(n)
	// A connection that is closed with something unread is reset, and the
	// router may not read the notification.
	if tcp, ok := t.Conn.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_ = t.SetReadDeadline(time.Now().Add(lastWords))
		_, _ = io.Copy(io.Discard, t.Conn)
	}
}

// cease ends the session.
func (t *talk) cease(subcode uint8) {
	t.notify(bgp.Notification{Code: packet.BGP_ERROR_CEASE, Subcode: subcode}, nil)
	t.close()
}

// fault is what the router did wrong. It gets a notification of it.
type fault struct {
	bgp.Notification
	data  []byte
	words string
}

func (f *fault) Error() string { return f.words }

// read reads a message during a time. It returns a fault for what isn't one,
// and the cause for a notification.
func (t *talk) read(wait time.Duration) (kind uint8, body []byte, err error) {
	defer func() {
		if f := (*fault)(nil); errors.As(err, &f) {
			t.notify(f.Notification, f.data)
		}
	}()
	head, err := t.fill(packet.BGP_HEADER_LENGTH, wait)
	if err != nil {
		return 0, nil, err
	}
	for _, b := range head[:16] {
		if b != 0xff {
			return 0, nil, refuse(packet.BGP_ERROR_MESSAGE_HEADER_ERROR, packet.BGP_ERROR_SUB_CONNECTION_NOT_SYNCHRONIZED, nil)
		}
	}
	length, kind := int(binary.BigEndian.Uint16(head[16:])), head[18]
	least, known := leastLength[kind]
	switch {
	case length < packet.BGP_HEADER_LENGTH || length > packet.BGP_MAX_MESSAGE_LENGTH || known && length < least:
		return 0, nil, refuse(packet.BGP_ERROR_MESSAGE_HEADER_ERROR, packet.BGP_ERROR_SUB_BAD_MESSAGE_LENGTH, head[16:18])
	case !known:
		return 0, nil, refuse(packet.BGP_ERROR_MESSAGE_HEADER_ERROR, packet.BGP_ERROR_SUB_BAD_MESSAGE_TYPE, head[18:19])
	}
	if body, err = t.fill(length-packet.BGP_HEADER_LENGTH, wait); err != nil {
		return 0, nil, err
	}
	if kind == packet.BGP_MSG_NOTIFICATION {
		n := notification(body)
		t.observer.Notified(n)
		return 0, nil, &spoken{n}
	}
	return kind, body, nil
}

var leastLength = map[uint8]int{
	packet.BGP_MSG_OPEN: 29, packet.BGP_MSG_UPDATE: 23, packet.BGP_MSG_NOTIFICATION: 21, packet.BGP_MSG_KEEPALIVE: 19, packet.BGP_MSG_ROUTE_REFRESH: 23,
}

func refuse(code, subcode uint8, data []byte) *fault {
	n := bgp.Notification{Code: code, Subcode: subcode, Sent: true}
	return &fault{n, data, n.String()}
}

// fill reads so many bytes.
func (t *talk) fill(n int, wait time.Duration) ([]byte, error) {
	if err := t.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, lost(err)
	}
	b := make([]byte, n)
	got, err := io.ReadFull(t.Conn, b)
	if errors.Is(err, os.ErrDeadlineExceeded) && t.SetReadDeadline(time.Now().Add(benefit)) == nil {
		_, err = io.ReadFull(t.Conn, b[got:])
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(packet.BGP_ERROR_HOLD_TIMER_EXPIRED, 0, nil)
	case err != nil:
		return nil, lost(err)
	}
	return b, nil
}

// notification reads one. What it says beyond the codes is for people if it is
// a shutdown (RFC 9003).
func notification(body []byte) bgp.Notification {
	n := bgp.Notification{Code: body[0], Subcode: body[1]}
	text := body[2:]
	shutdown := n.Subcode == packet.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN || n.Subcode == packet.BGP_ERROR_SUB_ADMINISTRATIVE_RESET
	if n.Code == packet.BGP_ERROR_CEASE && shutdown && len(text) > 0 {
		n.Text = string(text[1:min(len(text), 1+int(text[0]))])
	}
	return n
}

// receive reads until the session is over. Nothing of the router's table is
// kept, or even looked at: this node needs no route of it.
func (t *talk) receive(refresh chan bgp.Families) error {
	for {
		kind, body, err := t.read(t.holdTime)
		if err != nil {
			return err
		}
		switch kind {
		case packet.BGP_MSG_OPEN:
			f := refuse(packet.BGP_ERROR_FSM_ERROR, 3, []byte{kind})
			t.notify(f.Notification, f.data)
			return f
		case packet.BGP_MSG_ROUTE_REFRESH:
			f := bgp.Families{
				IPv4: binary.BigEndian.Uint16(body) == packet.AFI_IP && body[3] == packet.SAFI_UNICAST,
				IPv6: binary.BigEndian.Uint16(body) == packet.AFI_IP6 && body[3] == packet.SAFI_UNICAST,
			}
			select {
			case waiting := <-refresh:
				f.IPv4, f.IPv6 = f.IPv4 || waiting.IPv4, f.IPv6 || waiting.IPv6
			default:
			}
			refresh <- f // there is room: nobody else sends
		}
	}
}
