// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/internal/due"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// maxReceived is how much of a frame is read. A neighbour message may have
	// any number of options, all of which its checksum covers; those that there
	// are make it half as long.
	maxReceived = ndpSlot - slotHeader
	// maxSent is the longest frame that is sent: a neighbour message with one
	// option.
	maxSent = offICMP + offOptions + optMACLen
	// maxAge is how old a request may be. Who asks again within a second has
	// by then asked again, and perhaps been answered by another node.
	maxAge = 300 * time.Millisecond
	// readRetry is the wait after an error that the kernel should not give.
	readRetry = time.Second
)

// wire is one family on one interface.
type wire struct {
	port   *port
	family Family
	mac    link.MAC
	conn   Conn
	groups *groups // for IPv6
	count  counters
	table  table

	stop context.CancelFunc
	done sync.WaitGroup
}

// newWire takes the connection over.
func newWire(p *port, f Family, conn Conn, count counters) *wire {
	ctx, cancel := context.WithCancel(context.Background())
	w := &wire{port: p, family: f, mac: p.mac, conn: conn, count: count, table: newTable(), stop: cancel}
	w.done.Go(func() { w.receive(ctx) })
	return w
}

// close falls silent and waits for the goroutines to end.
func (w *wire) close() {
	w.table.clear()
	w.count.addresses.Set(0)
	w.stop()
	if err := w.conn.Close(); err != nil {
		w.port.log.Error(err, "Can't close packet socket", "family", w.family)
	}
	w.done.Wait()
	if w.groups != nil {
		w.groups.close()
	}
}

// own answers for the address from now on.
func (w *wire) own(addr netip.Addr, as answerAs) {
	if w.table.own(addr, as) && w.groups != nil {
		w.groups.add(solicitedNode(addr))
	}
}

// drop answers for the address no more.
func (w *wire) drop(addr netip.Addr) {
	if w.table.drop(addr) && w.groups != nil {
		w.groups.remove(solicitedNode(addr))
	}
}

// failure is why not all of it can be used.
func (w *wire) failure() error {
	if w.groups == nil {
		return nil
	}
	return w.groups.failure()
}

// settle is called after any number of changes.
func (w *wire) settle() {
	if w == nil {
		return
	}
	w.count.addresses.Set(float64(w.table.size()))
	if w.groups != nil {
		w.groups.poke()
	}
}

// receive answers requests until ctx is done.
func (w *wire) receive(ctx context.Context) {
	in, out := make([]byte, maxReceived), make([]byte, 0, maxSent)
	for {
		n, at, err := w.conn.Receive(in)
		switch {
		case err == nil:
			w.handle(in[:n], at, out)
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, unix.ENETDOWN):
			// Said once when the interface goes down. If it comes up again
			// before anybody looked, the switch may still have forgotten us.
			w.port.announceAllAgain()
		default:
			w.port.log.Error(err, "Can't read from packet socket, trying again", "family", w.family)
			if !due.Wait(ctx, readRetry) {
				return
			}
		}
		if n := w.conn.Dropped(); n > 0 {
			w.count.dropped.Add(float64(n))
		}
	}
}

// handle does with a frame what is to be done; out is scratch space.
func (w *wire) handle(frame []byte, at time.Time, out []byte) {
	now := time.Now()
	// By the wall clock, which is all that the kernel tells. A step of it
	// between the two readings costs one answer.
	age := max(0, now.Sub(at))
	w.port.received(now.Add(-age))
	w.count.received.Inc()
	m, ok := parse(w.family, frame, w.mac)
	if !ok {
		w.count.malformed.Inc()
		return
	}
	if m.claimed.IsValid() && w.table.concerns(m.claimed, now) {
		w.port.sighted(Sighting{Interface: w.port.name, Addr: m.claimed, MAC: m.claimedMAC, At: at, Reply: m.reply})
	}
	if !m.target.IsValid() {
		return
	}
	if m.asker.IsUnspecified() && w.table.wonders(m.target, now) {
		w.port.sighted(Sighting{Interface: w.port.name, Addr: m.target, MAC: m.askerMAC, At: at, Probe: true})
	}
	w.count.requests.Inc()
	// The lock is held until the answer is sent: there is none for what was
	// withdrawn.
	w.table.mu.RLock()
	defer w.table.mu.RUnlock()
	as, owned := w.table.owned[m.target]
	switch {
	case !owned:
	case age > maxAge || !w.port.deadman.alive(now) || as.ours() && w.port.silent.Load():
		w.count.late.Inc()
	case w.send(w.answer(out, m, as)):
		w.count.replies.Inc()
	}
}

func (w *wire) answer(out []byte, m message, as answerAs) []byte {
	if as.ours() {
		as.mac = w.mac
	}
	return appendAnswer(out, w.family, m, w.mac, as.mac)
}

// send reports success. A frame that the interface doesn't take is only
// counted: neighbours ask again, and announcements are repeated.
func (w *wire) send(frame []byte) bool {
	if err := w.conn.Send(frame); err != nil {
		w.count.errors.Inc()
		return false
	}
	return true
}
