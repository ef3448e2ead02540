// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	api "github.com/osrg/gobgp/v3/api"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

const (
	// deferral is how long a router may take to send its own table before it
	// gets ours, after a restart (RFC 4724, section 4.1).
	deferral = 5 * time.Second
	// maxReceived is how many routes of a family a router may send. They are
	// rejected, but GoBGP keeps them.
	maxReceived = 20000
	// tooMany is how long a router is left alone that sent more.
	tooMany = time.Minute
	// goodbye is how long a router may take to take a Cease.
	goodbye = 2 * time.Second
	// steady is how long a session lasts that is begun anew at once when it
	// breaks.
	steady = 10 * time.Second
)

// conn is a session.
type conn struct {
	backend  *Backend
	speaker  *speaker
	vrf      string
	observer bgp.Observer
	poked    chan struct{}
	closed   chan struct{}
	done     chan struct{}
	// leaving are the neighbours that were taken away and whose connection isn't
	// closed yet.
	leaving sync.WaitGroup
	// noticed says that a notification told why the session ended.
	noticed atomic.Bool

	mu      sync.Mutex
	session bgp.Session
	// preserved says that the router may keep our routes from before the next
	// OPEN message.
	preserved bool
	// added says that the server has the neighbour.
	added  bool
	info   bgp.Info
	opened opening
}

// opening is what was seen of a session that isn't established yet.
type opening struct {
	notifications uint64
}

func (c *conn) address() string { return c.session.Neighbor.String() }

// Update announces and withdraws routes.
func (c *conn) Update(s bgp.Session, announce []bgp.Route, withdraw []netip.Prefix) error {
	c.mu.Lock()
	c.session = s
	c.mu.Unlock()
	kind := api.TableType_GLOBAL
	if c.vrf != "" {
		kind = api.TableType_VRF
	}
	starting.RLock()
	defer starting.RUnlock()
	ctx := context.Background()
	for _, r := range announce {
		p, err := path(s, r)
		if err != nil {
			return err
		}
		if _, err := c.speaker.server.AddPath(ctx, &api.AddPathRequest{TableType: kind, VrfId: c.vrf, Path: p}); err != nil {
			return fmt.Errorf("announce %s: %w", r.Prefix, err)
		}
	}
	for _, prefix := range withdraw {
		p, err := withdrawal(prefix)
		if err != nil {
			return err
		}
		if err := c.speaker.server.DeletePath(ctx, &api.DeletePathRequest{TableType: kind, VrfId: c.vrf, Path: p}); err != nil {
			return fmt.Errorf("withdraw %s: %w", prefix, err)
		}
	}
	return nil
}

// Reset drops the connection and begins anew.
func (c *conn) Reset() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.remove(), c.addLocked())
}

// Stop ends the session with a Cease.
func (c *conn) Stop() error {
	close(c.closed)
	<-c.done
	c.mu.Lock()
	err := c.remove()
	c.mu.Unlock()
	left := make(chan struct{})
	go func() {
		c.leaving.Wait()
		close(left)
	}()
	select {
	case <-left:
	case <-time.After(goodbye):
		err = errors.Join(err, fmt.Errorf("the router took no Cease for %s", goodbye))
	}
	c.backend.release(c)
	return err
}

func (c *conn) add() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addLocked()
}

func (c *conn) addLocked() error {
	if c.added {
		return nil
	}
	c.opened = opening{}
	if err := c.speaker.server.AddPeer(context.Background(), &api.AddPeerRequest{Peer: neighbour(c.session, c.vrf, c.preserved)}); err != nil {
		return fmt.Errorf("add the neighbour: %w", err)
	}
	c.added = true
	return nil
}

// remove takes the neighbour away: a connected one gets a Cease.
func (c *conn) remove() error {
	if !c.added {
		return nil
	}
	c.added = false
	c.leaving.Add(1)
	if err := c.speaker.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: c.address()}); err != nil {
		c.leaving.Done()
		return fmt.Errorf("delete the neighbour: %w", err)
	}
	return nil
}

// neighbour is the session in GoBGP's terms.
func neighbour(s bgp.Session, vrf string, preserved bool) *api.Peer {
	n := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: s.Neighbor.String(), LocalAsn: s.LocalASN, AuthPassword: s.Password, Vrf: vrf,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: seconds(s.HoldTime), KeepaliveInterval: seconds(s.KeepaliveTime), ConnectRetry: seconds(s.ConnectTime),
		}},
		Transport: &api.Transport{
			LocalAddress: "0.0.0.0", PassiveMode: s.Passive, RemotePort: uint32(s.Port), BindInterface: s.BindInterface,
		},
		// The N-bit (RFC 8538) stays off: a Cease is meant to end the routes.
		GracefulRestart: &api.GracefulRestart{
			Enabled: s.GracefulRestart, RestartTime: uint32(seconds(s.RestartTime)), DeferralTime: uint32(seconds(deferral)),
			LocalRestarting: s.GracefulRestart && preserved, LonglivedEnabled: s.LongLivedTime > 0,
		},
	}
	switch {
	case s.Internal():
		n.Conf.PeerAsn = s.LocalASN
	case s.PeerType == bgp.Numbered:
		n.Conf.PeerAsn = s.PeerASN
	}
	if s.Neighbor.Is6() {
		n.Transport.LocalAddress = "::"
	}
	if s.Source.IsValid() {
		n.Transport.LocalAddress = s.Source.String()
	}
	if s.MultiHop > 0 {
		n.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(s.MultiHop)}
	}
	if s.TTLSecurityHops > 0 {
		n.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(s.TTLSecurityHops)}
	}
	for _, f := range []struct {
		family *api.Family
		wanted bool
	}{{ipv4, s.Families.IPv4}, {ipv6, s.Families.IPv6}} {
		if !f.wanted {
			continue
		}
		n.AfiSafis = append(n.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: f.family, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: s.GracefulRestart}},
			LongLivedGracefulRestart: &api.LongLivedGracefulRestart{Config: &api.LongLivedGracefulRestartConfig{
				Enabled: s.LongLivedTime > 0, RestartTime: uint32(seconds(s.LongLivedTime)),
			}},
			PrefixLimits: &api.PrefixLimit{Family: f.family, MaxPrefixes: maxReceived},
		})
	}
	return n
}

func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }
