// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// ProbeInterval is the time between two probes, and so the resolution of a dark time.
const ProbeInterval = 10 * time.Millisecond

// probeTimeout is when a probe counts as lost. It is below the kernel's first repetition of a lost SYN after 1 s, which
// would make a probe succeed that no network answered.
const probeTimeout = 500 * time.Millisecond

// Dialer opens connections from where the probe is to start; a sandbox.Namespace is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Result is what a Probe found.
type Result struct {
	Sent, Lost int
	// First is when the first of the lost was sent.
	First time.Time
	// Dark is the longest time from the sending of a lost probe to the sending of the next answered one, or to the last
	// probe if none was answered since.
	Dark    time.Duration
	Answers map[string]int // by the host name that answered
}

// String is for people.
func (r Result) String() string {
	return fmt.Sprintf("%d of %d probes lost, dark for %s, answers %v", r.Lost, r.Sent, r.Dark.Round(time.Millisecond), r.Answers)
}

// Probe asks a lab backend for its host name every ProbeInterval, each time from a new port.
type Probe struct {
	dialer  Dialer
	network string
	target  netip.AddrPort
	stop    chan struct{}
	stopped chan struct{}
	record  record
}

// StartProbe starts probing from the dialer's place. The network is "tcp", for a whole HTTP exchange, or "udp". The caller
// must Stop it.
func StartProbe(from Dialer, network string, target netip.AddrPort) *Probe {
	p := &Probe{dialer: from, network: network, target: target, stop: make(chan struct{}), stopped: make(chan struct{})}
	go p.run()
	return p
}

// Stop ends the probing, waits for the last answers, and tells what was found.
func (p *Probe) Stop() Result { return p.StopSince(time.Time{}) }

// StopSince is Stop, and tells of the probes that were sent from a time on.
func (p *Probe) StopSince(from time.Time) Result {
	close(p.stop)
	<-p.stopped
	return p.record.between(from, time.Now())
}

// AwaitAnswers waits until that many probes in a row, all sent from now on, are answered.
func (p *Probe) AwaitAnswers(ctx context.Context, n int) error {
	if err := p.record.await(ctx, p.record.length(), n); err != nil {
		return fmt.Errorf("waiting for %s to answer %d probes in a row: %w", p.target, n, err)
	}
	return nil
}

func (p *Probe) run() {
	defer close(p.stopped)
	var pending sync.WaitGroup
	defer pending.Wait()
	ticker := time.NewTicker(ProbeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
		}
		i := p.record.begin(time.Now())
		pending.Go(func() {
			// Why a probe was lost does not matter: the result counts.
			answer, _ := ask(p.dialer, p.network, p.target, probeTimeout)
			p.record.end(i, answer)
		})
	}
}

// ask gets the host name of whoever answers at an address.
func ask(d Dialer, network string, target netip.AddrPort, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := d.DialContext(ctx, network, target.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if network == "udp" {
		if _, err := io.WriteString(conn, "hostname"); err != nil {
			return "", err
		}
		buf := make([]byte, 256)
		n, err := conn.Read(buf)
		return strings.TrimSpace(string(buf[:n])), err
	}
	if _, err := io.WriteString(conn, "GET /hostname HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	reply, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	header, body, ok := strings.Cut(string(reply), "\r\n\r\n")
	if !ok || !strings.Contains(header, " 200 ") {
		return "", errors.New("no answer of status 200")
	}
	return strings.TrimSpace(body), nil
}
