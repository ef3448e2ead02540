// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// watch looks at the session whenever the log says that something happened.
func (c *conn) watch() {
	defer close(c.done)
	again := time.NewTimer(time.Hour)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-c.poked:
			if wait := c.look(); wait > 0 {
				again.Reset(wait)
			}
		case <-again.C:
			if err := c.add(); err != nil {
				c.observer.Failed(err.Error())
				again.Reset(tooMany)
			}
		}
	}
}

func (c *conn) poke() {
	select {
	case c.poked <- struct{}{}:
	default:
	}
}

// look tells what became of the session. If that is to be begun anew after a
// while, it returns how long.
func (c *conn) look() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.added {
		return 0
	}
	var peer *api.Peer
	if err := c.speaker.server.ListPeer(context.Background(), &api.ListPeerRequest{Address: c.address()}, func(p *api.Peer) { peer = p }); err != nil || peer == nil {
		return 0
	}
	was := c.info
	c.info = c.read(peer)
	if was != c.info {
		c.observer.State(c.info)
	}
	if message := c.wrongASN(peer.State); message != "" {
		return c.pause(message, c.session.ConnectTime)
	}
	if peer.State.AdminState == api.PeerState_PFX_CT {
		return c.pause(fmt.Sprintf("the router sent more than %d routes: let it send none, this node needs none", maxReceived), tooMany)
	}
	switch {
	case c.info.State == bgp.Established && was.State != bgp.Established:
		c.preserved = true
		c.checkNextHop(peer.State)
	case c.info.State != bgp.Established && was.State == bgp.Established:
		// GoBGP would say in the next OPEN message that forwarding was not
		// preserved, and the router would drop the routes that it kept.
		if time.Since(was.Since) < steady {
			return c.pause("", c.session.ConnectTime)
		}
		if err := c.remove(); err == nil {
			err = c.addLocked()
			if err != nil {
				c.observer.Failed(err.Error())
				return c.session.ConnectTime
			}
		}
	case c.info.State < bgp.OpenSent:
		if n := peer.State.GetMessages().GetReceived().GetNotification(); n > c.opened.notifications {
			c.opened.notifications = n
			c.observer.Failed("the router refused our OPEN message with a NOTIFICATION, of which its log says more: most often it expects another ASN of this node, or doesn't know this neighbour")
		}
	}
	return 0
}

// pause leaves the router alone for a while.
func (c *conn) pause(why string, wait time.Duration) time.Duration {
	if err := c.remove(); err != nil {
		c.observer.Failed(err.Error())
	}
	if why != "" {
		c.observer.Failed(why)
	}
	if c.info.State != bgp.Idle {
		c.info = bgp.Info{Since: c.info.Since}
		c.observer.State(c.info)
	}
	return wait
}

// wrongASN says what is wrong with the router's ASN. GoBGP checks those that
// are numbers; for it, an external one is any.
func (c *conn) wrongASN(s *api.PeerState) string {
	open := s.SessionState == api.PeerState_OPENCONFIRM || s.SessionState == api.PeerState_ESTABLISHED
	if open && c.session.PeerType == bgp.External && s.PeerAsn == c.session.LocalASN {
		return fmt.Sprintf("the router has our own ASN %d, and an external one is wanted", s.PeerAsn)
	}
	return ""
}

// read says what a session of GoBGP is like.
func (c *conn) read(p *api.Peer) bgp.Info {
	info := bgp.Info{State: states[p.State.SessionState], Since: c.info.Since}
	if info.State != bgp.Established {
		if c.info.State == bgp.Established || info.Since.IsZero() {
			info.Since = time.Now()
		}
		return info
	}
	if c.info.State != bgp.Established {
		info.Since = time.Now()
	}
	info.ASN = p.State.PeerAsn
	info.RouterID, _ = netip.ParseAddr(p.State.RouterId)
	info.Local, _ = netip.ParseAddr(p.Transport.GetLocalAddress())
	info.Families, info.GracefulRestart = c.negotiated(p.State)
	return info
}

var states = map[api.PeerState_SessionState]bgp.State{
	api.PeerState_IDLE:        bgp.Idle,
	api.PeerState_CONNECT:     bgp.Connect,
	api.PeerState_ACTIVE:      bgp.Active,
	api.PeerState_OPENSENT:    bgp.OpenSent,
	api.PeerState_OPENCONFIRM: bgp.OpenConfirm,
	api.PeerState_ESTABLISHED: bgp.Established,
}

// negotiated returns the families that both sides carry. A router that names
// none carries IPv4 (RFC 4760, section 8).
func (c *conn) negotiated(s *api.PeerState) (f bgp.Families, restart bool) {
	capabilities, err := apiutil.UnmarshalCapabilities(s.RemoteCap)
	if err != nil {
		return c.session.Families, false
	}
	named := false
	for _, capability := range capabilities {
		switch v := capability.(type) {
		case *packet.CapMultiProtocol:
			named = true
			f.IPv4 = f.IPv4 || c.session.Families.IPv4 && v.CapValue == packet.RF_IPv4_UC
			f.IPv6 = f.IPv6 || c.session.Families.IPv6 && v.CapValue == packet.RF_IPv6_UC
		case *packet.CapGracefulRestart:
			restart = true
		}
	}
	if !named {
		f.IPv4 = c.session.Families.IPv4
	}
	return f, restart
}

// checkNextHop tells when the router can't use our IPv4 routes.
func (c *conn) checkNextHop(s *api.PeerState) {
	if !c.info.Families.IPv4 || c.session.Neighbor.Is4() || c.session.NextHop4.IsValid() {
		return
	}
	capabilities, err := apiutil.UnmarshalCapabilities(s.RemoteCap)
	if err != nil {
		return
	}
	for _, capability := range capabilities {
		if _, ok := capability.(*packet.CapExtendedNexthop); ok {
			return
		}
	}
	c.observer.Failed("the router does not take IPv4 routes with an IPv6 next hop (RFC 8950): turn on its extended next hop capability")
}
