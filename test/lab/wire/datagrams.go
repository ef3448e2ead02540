// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Datagrams are flows of UDP to an Echo, each from a port of its own that stays: routers that balance by flows send
// all of one the same way. Each flow asks every ProbeInterval.
type Datagrams struct {
	flows   []*datagrams
	stop    chan struct{}
	sending sync.WaitGroup
	hearing sync.WaitGroup
}

// datagrams is one of the flows.
type datagrams struct {
	conn   net.Conn
	record record
}

// StartDatagrams starts that many flows from the dialer's place. The caller must Stop them.
func StartDatagrams(ctx context.Context, from Dialer, target netip.AddrPort, count int) (*Datagrams, error) {
	d := &Datagrams{stop: make(chan struct{})}
	for i := range count {
		conn, err := from.DialContext(ctx, "udp", target.String())
		if err != nil {
			d.Stop()
			return nil, fmt.Errorf("flow %d to %s: %w", i+1, target, err)
		}
		f := &datagrams{conn: conn}
		d.flows = append(d.flows, f)
		d.hearing.Go(f.hear)
		// Spread, so that they don't all ask in the same moment.
		d.sending.Go(func() { f.send(ProbeInterval*time.Duration(i)/time.Duration(count), d.stop) })
	}
	return d, nil
}

// Await waits until that many datagrams in a row of every flow, all sent from now on, are answered.
func (d *Datagrams) Await(ctx context.Context, n int) error {
	from := make([]int, len(d.flows))
	for i, f := range d.flows {
		from[i] = f.record.length()
	}
	for i, f := range d.flows {
		if err := f.record.await(ctx, from[i], n); err != nil {
			return fmt.Errorf("flow %d of %d from %s to %s, %d answers in a row: %w", i+1, len(d.flows), f.conn.LocalAddr(), f.conn.RemoteAddr(), n, err)
		}
	}
	return nil
}

// Stop ends the flows and waits for the last answers.
func (d *Datagrams) Stop() {
	close(d.stop)
	d.sending.Wait()
	for _, f := range d.flows {
		_ = f.conn.Close() // a socket without data fails at nothing
	}
	d.hearing.Wait()
}

// Between tells what each flow met with the datagrams that it sent from a time on and before another. Who answered is not
// known.
func (d *Datagrams) Between(from, to time.Time) []Result {
	results := make([]Result, len(d.flows))
	for i, f := range d.flows {
		results[i] = f.record.between(from, to)
		results[i].Answers = nil
	}
	return results
}

// send asks until stop is closed, and then waits for as long as answers count.
func (f *datagrams) send(after time.Duration, stop <-chan struct{}) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-stop:
		return
	case <-timer.C:
	}
	ticker := time.NewTicker(ProbeInterval)
	defer ticker.Stop()
	oldest := 0
	for {
		now := time.Now()
		number := f.record.begin(now)
		// An error is news of an earlier datagram, or of no way there: this one is lost then.
		_, _ = fmt.Fprint(f.conn, number)
		for ; oldest < number && now.Sub(f.record.sentAt(oldest)) > probeTimeout; oldest++ {
			f.record.end(oldest, "")
		}
		select {
		case <-stop:
			timer.Reset(probeTimeout)
			<-timer.C
			for ; oldest <= number; oldest++ {
				f.record.end(oldest, "")
			}
			return
		case <-ticker.C:
		}
	}
}

// hear takes answers until the socket is closed.
func (f *datagrams) hear() {
	buf := make([]byte, 256)
	for {
		n, err := f.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a router says that there is no way, once for each such datagram
		}
		if number, err := strconv.Atoi(string(buf[:n])); err == nil && time.Since(f.record.sentAt(number)) <= probeTimeout {
			f.record.end(number, "echo")
		}
	}
}
