// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/internal/due"
)

const (
	// reopen is the least time between attempts to open a socket.
	reopen = time.Second
	// stalled is how late a timer is when the process was stopped, or the
	// machine too busy to know what goes on.
	stalled = 50 * time.Millisecond
	// portTries is how many source ports are tried: others may have some.
	portTries = 16
	// longestLeave is how long a neighbour is told that a session ends, even if
	// it would like to be told slowly.
	longestLeave = 10 * time.Second
	// missing is the index of an interface that isn't there.
	missing = -1
)

// Manager has the sessions of this process. Its methods may be called from any
// goroutine.
type Manager struct {
	log     logr.Logger
	changed func(Status)
	network network
	rand    *rand.Rand
	receive func(*datagram) // deliver, made once
	stats   stats

	mu              sync.Mutex
	closed          bool
	endpoints       map[Key]*endpoint
	byDiscriminator map[uint32]*endpoint
	byPeer          map[peer]*endpoint
	receivers       map[place]receiver
	closing         []receiver // wait for whoever reads, and so for the lock
	due             due.Queue[*endpoint]
	timer           *time.Timer
	armed           time.Time
	// changes are the sessions whose news changed has yet to be told.
	changes []*endpoint
	telling bool
	// cover is what Park asked for, and parked is closed when all have it.
	cover  time.Duration
	parked chan struct{}
}

// endpoint is a session with its socket.
type endpoint struct {
	*session
	Config
	place place

	sender    sender // nil if it can't be opened
	source    uint16 // port, 0 before the first
	index     int    // of the interface, 0 for any, or missing
	tried     time.Time
	unopened  string // why there is no socket
	unsent    string // why the last packet was not taken
	buffer    [packetLength]byte
	told      news
	queued    bool      // in changes
	gone      time.Time // when it is forgotten, zero if it is wanted
	forgotten bool
	count     counts
}

// news is what changed is called for.
type news struct {
	state       State
	remoteState State
	downs       uint64
	trouble     string
}

// peer is what the first packet of a session is recognised by.
type peer struct {
	place         place
	remote, local netip.Addr
	index         int
}

// New returns a Manager that does nothing before Set. It calls changed with the
// newest Status when the state of a session, or of its neighbour, changes, or
// its trouble: from one goroutine at a time, and not for states that passed
// meanwhile, but Downs counts them. The last one of a session is AdminDown; it
// may be called once more after Close.
func New(log logr.Logger, reg prometheus.Registerer, changed func(Status)) *Manager {
	m := newManager(log, kernel{}, changed, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	reg.MustRegister(m)
	return m
}

func newManager(log logr.Logger, n network, changed func(Status), r *rand.Rand) *Manager {
	m := &Manager{
		log: log, changed: changed, network: n, rand: r,
		stats:           stats{dropped: map[reason]uint64{}},
		endpoints:       map[Key]*endpoint{},
		byDiscriminator: map[uint32]*endpoint{},
		byPeer:          map[peer]*endpoint{},
		receivers:       map[place]receiver{},
	}
	m.receive = m.deliver
	return m
}

// Set makes configs the sessions that are had, and returns an error that names
// those which can't be; the others are. Of two with one Key the quicker counts.
// A session whose timers change goes on. The neighbour of one that is gone is
// told AdminDown. Call it again when interfaces came or went.
func (m *Manager) Set(configs []Config) error {
	m.mu.Lock()
	defer m.unlock()
	if m.closed {
		return errors.New("BFD has ended")
	}
	now := time.Now()
	wanted := map[Key]Config{}
	var errs []error
	for _, c := range configs {
		c, err := c.normal()
		if err != nil {
			errs = append(errs, fmt.Errorf("BFD with %s: %w", c.Remote, err))
			continue
		}
		if other, ok := wanted[c.Key]; ok {
			c = unite(c, other)
		}
		wanted[c.Key] = c
	}
	for key, e := range m.endpoints {
		if _, ok := wanted[key]; !ok && e.gone.IsZero() {
			m.leave(e, now)
		}
	}
	for key, c := range wanted {
		e := m.endpoints[key]
		if e == nil {
			e = m.add(now, c)
		}
		m.resolve(e)
		e.Config, e.gone = c, time.Time{}
		e.enable(now)
		if out, ok := e.configure(now, c); ok {
			m.send(e, now, &out)
		}
		if e.sender == nil {
			m.open(e, now)
		}
		m.settle(e)
	}
	m.shut()
	m.arm()
	return errors.Join(errs...)
}

func (m *Manager) add(now time.Time, c Config) *endpoint {
	e := &endpoint{
		session: newSession(now, c, m.discriminator(), m.rand),
		Config:  c,
		place:   place{c.Remote.Is4(), c.Multihop, c.VRF},
	}
	e.session.cover = m.cover
	e.told = e.news()
	m.endpoints[c.Key] = e
	m.byDiscriminator[e.local] = e
	m.byPeer[e.peer()] = e
	return e
}

// leave has the neighbour told that the session ends, for as long as it would
// take it to notice.
func (m *Manager) leave(e *endpoint, now time.Time) {
	known := e.remote != 0
	if out, ok := e.disable(now); ok {
		m.send(e, now, &out)
	}
	e.gone = now.Add(min(e.remoteDetection(), longestLeave))
	m.settle(e)
	if !known {
		m.forget(e)
	}
}

// resolve looks which interface has the name now, and has the socket opened
// anew if it is another one.
func (m *Manager) resolve(e *endpoint) {
	if e.Interface == "" {
		return
	}
	index, err := m.network.index(e.Interface)
	if err != nil {
		index = missing
	}
	if index == e.index {
		return
	}
	if p := e.peer(); m.byPeer[p] == e {
		delete(m.byPeer, p)
	}
	e.index = index
	m.byPeer[e.peer()] = e
	m.hangUp(e)
	e.tried = time.Time{}
}

func (m *Manager) hangUp(e *endpoint) {
	if e.sender != nil {
		e.sender.close()
		e.sender = nil
	}
}

func (e *endpoint) peer() peer { return peer{e.place, e.Remote, e.Local, e.index} }

// discriminator returns one that no session has.
func (m *Manager) discriminator() uint32 {
	for {
		if d := m.rand.Uint32(); d != 0 && m.byDiscriminator[d] == nil {
			return d
		}
	}
}

// forget ends an endpoint.
func (m *Manager) forget(e *endpoint) {
	m.hangUp(e)
	e.forgotten = true
	delete(m.endpoints, e.Key)
	delete(m.byDiscriminator, e.local)
	if p := e.peer(); m.byPeer[p] == e {
		delete(m.byPeer, p)
	}
	m.due.Remove(e)
}

// open opens what the session sends and receives by, unless that failed just now.
func (m *Manager) open(e *endpoint, now time.Time) {
	if now.Sub(e.tried) < reopen {
		return
	}
	m.resolve(e)
	e.tried = now
	err := m.listen(e.place)
	if err == nil {
		err = m.dial(e)
	}
	m.note(e, &e.unopened, err)
}

// note keeps what is wrong, and logs it if that is new.
func (m *Manager) note(e *endpoint, trouble *string, err error) {
	was := *trouble
	*trouble = ""
	if err == nil {
		return
	}
	if *trouble = err.Error(); *trouble != was {
		m.log.Error(err, "BFD session has trouble, trying again", "peer", e.Remote, "interface", e.Interface)
	}
}

func (m *Manager) listen(p place) error {
	for _, p := range []place{{v4: p.v4, multihop: p.multihop}, p} {
		if m.receivers[p] != nil {
			continue
		}
		r, err := m.network.listen(p, m.ready)
		if err != nil {
			return fmt.Errorf("receive BFD packets: %w", err)
		}
		m.receivers[p] = r
	}
	return nil
}

func (m *Manager) dial(e *endpoint) error {
	if e.index == missing {
		return fmt.Errorf("there is no interface %q", e.Interface)
	}
	var err error
	for range portTries {
		if e.source == 0 {
			e.source = m.source()
		}
		if e.sender, err = m.network.dial(e.Key, e.index, e.source); err == nil {
			return nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
		e.source = 0
	}
	return fmt.Errorf("send BFD packets: %w", err)
}

// source returns a port that no session has.
func (m *Manager) source() uint16 {
	for {
		port := uint16(firstSource + m.rand.IntN(lastSource-firstSource+1))
		used := false
		for _, e := range m.endpoints {
			used = used || e.source == port
		}
		if !used {
			return port
		}
	}
}

// shut has unlock close the receivers that no session needs.
func (m *Manager) shut() {
	needed := map[place]bool{}
	for _, e := range m.endpoints {
		needed[e.place] = true
		needed[place{v4: e.place.v4, multihop: e.place.multihop}] = true
	}
	for p, r := range m.receivers {
		if !needed[p] {
			m.closing = append(m.closing, r)
			delete(m.receivers, p)
		}
	}
}

// unlock is for who may have called shut.
func (m *Manager) unlock() {
	closing := m.closing
	m.closing = nil
	m.mu.Unlock()
	for _, r := range closing {
		r.close()
	}
}

// Park has every neighbour wait for at least cover before it takes silence for
// a failure, and returns when all know that: after it Close leaves them Up for
// the next process to adopt. If ctx is done before, its error says how many
// don't know. Zero takes it back. Call it from one goroutine at a time.
func (m *Manager) Park(ctx context.Context, cover time.Duration) error {
	m.mu.Lock()
	parked := make(chan struct{})
	m.cover, m.parked = cover, parked
	now := time.Now()
	for _, e := range m.endpoints {
		if out, ok := e.setCover(now, cover); ok {
			m.send(e, now, &out)
		}
		m.settle(e)
	}
	m.checkParked()
	m.arm()
	m.mu.Unlock()
	select {
	case <-parked:
		return nil
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Errorf("%d of %d BFD neighbours don't wait for %v: %w", m.uncovered(), len(m.endpoints), cover, ctx.Err())
}

func (m *Manager) uncovered() (n int) {
	for _, e := range m.endpoints {
		if !e.covered() {
			n++
		}
	}
	return n
}

func (m *Manager) checkParked() {
	if m.parked != nil && m.uncovered() == 0 {
		close(m.parked)
		m.parked = nil
	}
}

// Close ends without a word: neighbours notice when their detection time is
// over, or the next process goes on. Set(nil) before it tells them AdminDown.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.unlock()
	m.closed = true
	if m.timer != nil {
		m.timer.Stop()
	}
	for _, e := range m.endpoints {
		m.forget(e)
	}
	m.shut()
}

// Sessions returns what is known of every session that is wanted, in order.
func (m *Manager) Sessions() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Status, 0, len(m.endpoints))
	for _, e := range m.endpoints {
		if e.gone.IsZero() {
			out = append(out, e.status())
		}
	}
	slices.SortFunc(out, func(a, b Status) int {
		return cmp.Or(a.Remote.Compare(b.Remote), cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.VRF, b.VRF),
			a.Local.Compare(b.Local), btoi(a.Multihop)-btoi(b.Multihop))
	})
	return out
}

func (e *endpoint) trouble() string { return cmp.Or(e.unopened, e.unsent) }

func (e *endpoint) status() Status {
	s := Status{
		Key: e.Key, State: e.state, Diag: e.diag, Since: e.since, Downs: e.downs,
		RemoteState: e.remoteState, RemoteDiag: e.remoteDiag,
		LocalDiscriminator: e.local, RemoteDiscriminator: e.remote,
		TransmitInterval: e.transmitInterval(), Trouble: e.trouble(),
	}
	if e.remote != 0 {
		s.Detection, s.RemoteDetection = e.detection(), e.remoteDetection()
	}
	return s
}
