// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// flowInterval is the time between two requests on one of many connections.
const flowInterval = 200 * time.Millisecond

// FlowResult is what became of long TCP connections.
type FlowResult struct {
	Opened, Exchanges int
	Broken            int           // ended by somebody else than the client
	Stalled           time.Duration // the longest that a connection waited for an answer
}

// String is for people.
func (r FlowResult) String() string {
	return fmt.Sprintf("%d of %d connections broken, %d exchanges, the longest took %s", r.Broken, r.Opened, r.Exchanges, r.Stalled.Round(time.Millisecond))
}

// Flows are long TCP connections to a lab backend that ask for its host name again and again. One that breaks is not
// opened again.
type Flows struct {
	conns   []net.Conn
	running sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	result  FlowResult
}

// StartFlows opens that many connections from the dialer's place, all at once. The caller must Stop them.
func StartFlows(ctx context.Context, from Dialer, target netip.AddrPort, count int) (*Flows, error) {
	f := &Flows{conns: make([]net.Conn, count), result: FlowResult{Opened: count}}
	var opening errgroup.Group
	for i := range f.conns {
		opening.Go(func() (err error) {
			f.conns[i], err = from.DialContext(ctx, "tcp", target.String())
			return err
		})
	}
	if err := opening.Wait(); err != nil {
		f.Stop()
		return nil, fmt.Errorf("opening %d connections to %s: %w", count, target, err)
	}
	for i, conn := range f.conns {
		// Spread, so that they don't all ask in the same moment.
		f.running.Go(func() { f.run(conn, flowInterval*time.Duration(i)/time.Duration(count)) })
	}
	return f, nil
}

func (f *Flows) run(conn net.Conn, after time.Duration) {
	reader := bufio.NewReader(conn)
	timer := time.NewTimer(after)
	defer timer.Stop()
	for range timer.C {
		asked := time.Now()
		err := exchange(conn, reader)
		f.mu.Lock()
		if f.result.Stalled = max(f.result.Stalled, time.Since(asked)); err == nil {
			f.result.Exchanges++
		}
		if err != nil && !f.stopped && !errors.Is(err, os.ErrDeadlineExceeded) {
			f.result.Broken++
		}
		over := err != nil || f.stopped
		f.mu.Unlock()
		if over {
			return
		}
		timer.Reset(flowInterval)
	}
}

func exchange(conn net.Conn, reader *bufio.Reader) error {
	if _, err := io.WriteString(conn, "GET /hostname HTTP/1.1\r\nHost: lab\r\n\r\n"); err != nil {
		return err
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return errors.Join(err, response.Body.Close())
}

// Stop closes the connections and tells what became of them.
func (f *Flows) Stop() FlowResult {
	f.mu.Lock()
	f.stopped = true
	f.mu.Unlock()
	for _, conn := range f.conns {
		if conn != nil {
			_ = conn.Close() // a broken one fails; that is counted already
		}
	}
	f.running.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.result
}
