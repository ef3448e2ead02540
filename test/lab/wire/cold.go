// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// ColdInterval is the time between two questions of a ColdProbe for one address.
const ColdInterval = 20 * time.Millisecond

// ColdProbe asks the LAN for addresses again and again, as a client does that has never heard of them, and logs everyone
// who answers. Its methods may be called from any goroutine.
type ColdProbe struct {
	questions []question
	conns     map[uint16]*packet.Conn // by protocol
	interval  time.Duration
	stop      chan struct{}
	running   sync.WaitGroup

	mu      sync.Mutex
	answers map[netip.Addr][]Resolution
	err     error
}

// StartColdProbe starts asking from a host, for each target once per interval, spread over it. The caller must Stop it.
func StartColdProbe(n *sandbox.Namespace, iface string, interval time.Duration, targets ...netip.Addr) (*ColdProbe, error) {
	p := &ColdProbe{conns: map[uint16]*packet.Conn{}, interval: interval, stop: make(chan struct{}), answers: map[netip.Addr][]Resolution{}}
	for _, target := range targets {
		q, err := questionFor(n, iface, target)
		if err == nil && p.conns[q.protocol] == nil {
			p.conns[q.protocol], err = listen(n, iface, int(q.protocol))
		}
		if err != nil {
			p.close()
			return nil, fmt.Errorf("%s asking for %s: %w", n.Name(), target, err)
		}
		p.questions = append(p.questions, q)
		p.answers[target] = nil
	}
	for _, conn := range p.conns {
		p.running.Go(func() { p.listen(conn) })
	}
	p.running.Go(p.ask)
	return p, nil
}

func (p *ColdProbe) close() {
	for _, conn := range p.conns {
		if conn != nil {
			p.failed(conn.Close())
		}
	}
}

// ask closes the connections at its end, which ends their listeners.
func (p *ColdProbe) ask() {
	defer p.close()
	ticker := time.NewTicker(p.interval / time.Duration(len(p.questions)))
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
		}
		q := p.questions[i%len(p.questions)]
		// A host whose own link is down asks in vain.
		_, _ = p.conns[q.protocol].WriteTo(q.frame, &packet.Addr{HardwareAddr: q.to})
	}
}

func (p *ColdProbe) listen(conn *packet.Conn) {
	own := MAC(p.questions[0].own)
	buf := make([]byte, 65536)
	for {
		n, at, err := receive(conn, buf)
		if err != nil {
			select {
			case <-p.stop:
			default:
				p.failed(err)
			}
			return
		}
		r, ok := ParseResolution(Frame{At: at, Data: buf[:n]})
		if !ok || !r.Answer || r.To != own {
			continue
		}
		p.mu.Lock()
		if list, asked := p.answers[r.Addr]; asked {
			p.answers[r.Addr] = append(list, r)
		}
		p.mu.Unlock()
	}
}

func (p *ColdProbe) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = errors.Join(p.err, err)
}

// Answers are the answers for an address so far, oldest first.
func (p *ColdProbe) Answers(addr netip.Addr) []Resolution {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.answers[addr])
}

// Stop ends the asking. The error is what made it end before, if something did.
func (p *ColdProbe) Stop() error {
	close(p.stop)
	p.running.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// LongestGap is the longest time between from and to without an answer of a MAC that works.
func LongestGap(answers []Resolution, from, to time.Time, works func(MAC) bool) time.Duration {
	last, longest := from, time.Duration(0)
	for _, a := range answers {
		if a.At.Before(from) || a.At.After(to) || !works(a.MAC) {
			continue
		}
		longest, last = max(longest, a.At.Sub(last)), a.At
	}
	return max(longest, to.Sub(last))
}

// Stretch is a time during which a MAC answered, without a pause longer than a certain one.
type Stretch struct {
	MAC         MAC
	First, Last time.Time
}

// Stretches sorts answers for one address into stretches, in the order of their beginning.
func Stretches(answers []Resolution, pause time.Duration) []Stretch {
	var all []Stretch
	open := map[MAC]int{}
	for _, a := range answers {
		i, ok := open[a.MAC]
		if !ok || a.At.Sub(all[i].Last) > pause {
			i = len(all)
			open[a.MAC] = i
			all = append(all, Stretch{MAC: a.MAC, First: a.At, Last: a.At})
		}
		all[i].Last = a.At
	}
	return all
}

// LongestTogether is the longest time that two MACs answered for one address at once.
func LongestTogether(answers []Resolution, pause time.Duration) time.Duration {
	all := Stretches(answers, pause)
	longest := time.Duration(0)
	for i, a := range all {
		for _, b := range all[i+1:] {
			if a.MAC == b.MAC || b.First.After(a.Last) {
				continue
			}
			end := a.Last
			if b.Last.Before(end) {
				end = b.Last
			}
			longest = max(longest, end.Sub(b.First))
		}
	}
	return longest
}
