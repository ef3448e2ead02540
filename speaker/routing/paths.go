// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/fairlead-lb/fairlead/speaker/bfd"
	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// adoptTime is how long a session of BFD listens after a restart for a router
// that is still Up with the process before.
const adoptTime = time.Second

// Paths watches the paths to routers by BFD.
type Paths struct {
	log     logr.Logger
	adopt   time.Duration
	manager PathManager

	mu      sync.Mutex
	of      map[bfd.Key]bgp.Key
	downs   map[bfd.Key]uint64 // how often each was told to have gone down
	changed func(bgp.Key, bgp.BFDState)
}

// PathManager has the sessions of BFD.
type PathManager interface {
	Set([]bfd.Config) error
}

var _ bgp.BFD = &Paths{}

// NewPaths returns Paths that do nothing before Connect. Preserved says that the
// process was restarted, and routers may be Up with the one before.
func NewPaths(log logr.Logger, preserved bool) *Paths {
	p := &Paths{log: log, downs: map[bfd.Key]uint64{}}
	if preserved {
		p.adopt = adoptTime
	}
	return p
}

// Connect says who has the sessions, and whom to tell of their states.
func (p *Paths) Connect(manager PathManager, changed func(bgp.Key, bgp.BFDState)) {
	p.manager, p.changed = manager, changed
}

// Set implements bgp.BFD.
func (p *Paths) Set(sessions []bgp.BFDSession) {
	configs := make([]bfd.Config, 0, len(sessions))
	of := make(map[bfd.Key]bgp.Key, len(sessions))
	for _, s := range sessions {
		// The manager has no zones in the keys that it tells: the interface says it.
		key := bfd.Key{Remote: s.Neighbor.WithZone(""), Local: s.Local.WithZone(""), VRF: s.Interface, Multihop: s.MultiHop}
		if s.Neighbor.Zone() != "" {
			key.Interface, key.VRF = s.Interface, ""
		}
		configs = append(configs, bfd.Config{
			Key:     key,
			Timers:  bfd.Timers{Transmit: s.Profile.Transmit, Receive: s.Profile.Receive, Multiplier: s.Profile.Multiplier},
			Passive: s.Profile.Passive, MinimumTTL: s.Profile.MinimumTTL, Adopt: p.adopt,
		})
		of[key] = s.Key
	}
	p.mu.Lock()
	p.of = of
	maps.DeleteFunc(p.downs, func(key bfd.Key, _ uint64) bool { _, wanted := of[key]; return !wanted })
	p.mu.Unlock()
	if err := p.manager.Set(configs); err != nil {
		p.log.Error(err, "Some paths can't be watched by BFD")
	}
}

// State takes what a session of BFD is in now.
func (p *Paths) State(s bfd.Status) {
	state := bgp.BFDDown
	switch {
	case s.RemoteState == bfd.AdminDown && s.State != bfd.Up, s.State == bfd.AdminDown:
		state = bgp.BFDAdminDown
	case s.State == bfd.Init:
		state = bgp.BFDInit
	case s.State == bfd.Up:
		state = bgp.BFDUp
	}
	p.mu.Lock()
	key, ok := p.of[s.Key]
	unseen := ok && state == bgp.BFDUp && s.Downs > p.downs[s.Key]
	if ok {
		p.downs[s.Key] = s.Downs
	}
	p.mu.Unlock()
	if unseen {
		p.changed(key, bgp.BFDDown) // it was, for a moment
	}
	if ok {
		p.changed(key, state)
	}
}
