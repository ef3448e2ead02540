// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// freshInterval is the time from one fresh client to the next, freshTimeout what it gives its only datagram. Its kernel
// asks for the address three times, 1 s apart.
const (
	freshInterval = 100 * time.Millisecond
	freshTimeout  = 3500 * time.Millisecond
)

// FreshResult is what fresh clients met.
type FreshResult struct {
	Clients, Lost int
	Longest       time.Duration // until the answer came; freshTimeout for one that was lost
}

// String is for people.
func (r FreshResult) String() string {
	return fmt.Sprintf("%d of %d fresh clients lost, the longest waited %s", r.Lost, r.Clients, r.Longest.Round(time.Millisecond))
}

// Fresh is a row of clients whose kernel does not know who has an address: one after the other asks the LAN, as any
// client does, and sends a datagram.
type Fresh struct {
	stop, stopped chan struct{}
	result        FreshResult
	err           error
}

// StartFresh starts the first client. Forget makes the dialer's kernel forget who has the address. The caller must Stop it.
func StartFresh(from Dialer, target netip.AddrPort, forget func() error) *Fresh {
	f := &Fresh{stop: make(chan struct{}), stopped: make(chan struct{})}
	go f.run(from, target, forget)
	return f
}

func (f *Fresh) run(from Dialer, target netip.AddrPort, forget func() error) {
	defer close(f.stopped)
	ticker := time.NewTicker(freshInterval)
	defer ticker.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-ticker.C:
		}
		f.err = errors.Join(f.err, forget())
		started := time.Now()
		_, err := ask(from, "udp", target, freshTimeout)
		took := time.Since(started)
		f.result.Clients++
		if err != nil {
			f.result.Lost++
			took = freshTimeout
		}
		f.result.Longest = max(f.result.Longest, took)
	}
}

// Stop waits for the last client and tells what they met.
func (f *Fresh) Stop() (FreshResult, error) {
	close(f.stop)
	<-f.stopped
	return f.result, f.err
}
