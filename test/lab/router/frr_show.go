// SPDX-License-Identifier: Apache-2.0

package router

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

type frrPath struct {
	Stale     bool
	LocalPref *uint32 `json:"locPrf"`
	MED       *uint32 `json:"metric"`
	Local     bool
	Bestpath  struct{ Overall bool }
	ASPath    struct {
		Segments []struct{ List []uint32 }
	}
	Community, LargeCommunity struct{ List []string }
	NextHops                  []struct{ IP netip.Addr }
	Peer                      struct{ PeerID string }
}

func (f frrPath) path(prefix netip.Prefix) (Path, error) {
	p := Path{Prefix: prefix, LocalPref: f.LocalPref, MED: f.MED, Best: f.Bestpath.Overall, Stale: f.Stale}
	for _, s := range f.ASPath.Segments {
		p.ASPath = append(p.ASPath, s.List...)
	}
	if !f.Local {
		var err error
		if p.Neighbor, err = netip.ParseAddr(f.Peer.PeerID); err != nil {
			return Path{}, fmt.Errorf("router: path of %s: %w", prefix, err)
		}
		for _, hop := range f.NextHops {
			p.NextHops = append(p.NextHops, hop.IP)
		}
	}
	return p, p.setCommunities(f.Community.List, f.LargeCommunity.List)
}

// parseFRRPaths reads "show bgp FAMILY unicast PREFIX json", which is empty for a prefix that is not there.
func parseFRRPaths(text string, prefix netip.Prefix) ([]Path, error) {
	var answer struct{ Paths []frrPath }
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, fmt.Errorf("router: paths of %s: %w", prefix, err)
	}
	var paths []Path
	for _, f := range answer.Paths {
		p, err := f.path(prefix)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// parseFRRTable reads "show bgp FAMILY unicast json detail". A prefix's first entry is about the prefix, not a path of it.
func parseFRRTable(text string) ([]Path, error) {
	var answer struct {
		Routes map[netip.Prefix][]frrPath
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, fmt.Errorf("router: the BGP table: %w", err)
	}
	var paths []Path
	for prefix, entries := range answer.Routes {
		for _, f := range entries {
			if len(f.NextHops) == 0 {
				continue
			}
			p, err := f.path(prefix)
			if err != nil {
				return nil, err
			}
			paths = append(paths, p)
		}
	}
	slices.SortStableFunc(paths, func(a, b Path) int { return comparePrefixes(a.Prefix, b.Prefix) })
	return paths, nil
}

type frrNeighborState struct {
	RemoteAS         uint32
	BGPState         string
	EstablishedEpoch int64  `json:"bgpTimerUpEstablishedEpoch"`
	LastReset        string `json:"lastResetDueTo"`
	LastNotification string `json:"lastNotificationReason"`
	HostForeign      string
	Lives            int `json:"connectionsEstablished"`
	Capabilities     struct {
		RestartTimeMsecs int64 `json:"gracefulRestartRemoteTimerMsecs"`
	} `json:"neighborCapabilities"`
	Restart struct {
		RBit        bool
		IPv4Unicast frrFamilyRestart
		IPv6Unicast frrFamilyRestart
	} `json:"gracefulRestartInfo"`
	Families struct {
		IPv4Unicast, IPv6Unicast struct{ AcceptedPrefixCounter int }
	} `json:"addressFamilyInfo"`
	Messages struct {
		Updates int `json:"updatesRecv"`
	} `json:"messageStats"`
}

type frrFamilyRestart struct {
	FBit   bool
	Status struct{ EndOfRIBRecv bool } `json:"endOfRibStatus"`
}

type frrBFD struct {
	Peer           string
	Interface      string
	Status         string
	Uptime         int64
	Transmit       int64 `json:"transmit-interval"`
	Receive        int64 `json:"receive-interval"`
	RemoteTransmit int64 `json:"remote-transmit-interval"`
	RemoteReceive  int64 `json:"remote-receive-interval"`
	RemoteDetect   int64 `json:"remote-detect-multiplier"`
}

func (f frrBFD) state(now time.Time) *BFDState {
	s := &BFDState{
		State:     map[string]string{"up": "Up", "down": "Down", "init": "Init", "shutdown": "AdminDown"}[f.Status],
		Interval:  time.Duration(max(f.Transmit, f.RemoteReceive)) * time.Millisecond,
		Detection: time.Duration(f.RemoteDetect*max(f.Receive, f.RemoteTransmit)) * time.Millisecond,
	}
	if s.State == "Up" {
		s.Since = now.Add(-time.Duration(f.Uptime) * time.Second).Truncate(time.Second)
	}
	return s
}

// parseFRRSessions reads "show bgp neighbors json" and "show bfd peers json". Neighbours over an interface have its name
// for a key.
func parseFRRSessions(neighbors, bfd string, now time.Time) ([]Session, error) {
	var entries map[string]json.RawMessage
	if err := json.Unmarshal([]byte(neighbors), &entries); err != nil {
		return nil, fmt.Errorf("router: neighbours: %w", err)
	}
	var watched []frrBFD
	if err := json.Unmarshal([]byte(bfd), &watched); err != nil {
		return nil, fmt.Errorf("router: BFD peers: %w", err)
	}
	var sessions []Session
	for key, raw := range entries {
		var f frrNeighborState
		if err := json.Unmarshal(raw, &f); err != nil {
			// Beside the neighbours there are a few numbers about all of them.
			continue
		}
		s := Session{
			ASN: f.RemoteAS, State: f.BGPState, LastError: f.LastReset, Updates: f.Messages.Updates, Lives: f.Lives,
			Restart: RestartState{Time: time.Duration(f.Capabilities.RestartTimeMsecs) * time.Millisecond, Restarted: f.Restart.RBit},
			IPv4:    FamilyState{f.Families.IPv4Unicast.AcceptedPrefixCounter, f.Restart.IPv4Unicast.FBit, f.Restart.IPv4Unicast.Status.EndOfRIBRecv},
			IPv6:    FamilyState{f.Families.IPv6Unicast.AcceptedPrefixCounter, f.Restart.IPv6Unicast.FBit, f.Restart.IPv6Unicast.Status.EndOfRIBRecv},
		}
		if f.LastNotification != "" {
			s.LastError += ": " + f.LastNotification
		}
		if s.Established() {
			s.Since = time.Unix(f.EstablishedEpoch, 0)
		}
		address, err := netip.ParseAddr(key)
		if err != nil {
			s.Interface = key
			address, _ = netip.ParseAddr(f.HostForeign) // there is none before it is heard
		}
		s.Neighbor = address
		s.Restart.Waiting = !s.Established() && s.IPv4.Prefixes+s.IPv6.Prefixes > 0
		for _, w := range watched {
			if w.Peer == s.Neighbor.String() && (s.Interface == "" || s.Interface == w.Interface) {
				s.BFD = w.state(now)
			}
		}
		sessions = append(sessions, s)
	}
	sortSessions(sessions)
	return sessions, nil
}
