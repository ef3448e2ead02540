// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
	"github.com/fairlead-lb/fairlead/speaker/mesh/udp"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

const (
	meshPort = 7475
	// step is between two looks at who has something to do.
	step = time.Millisecond
)

// crowd are the speakers of other nodes: the machines and transports of real ones, each on an interface of its own. They
// hear the real one by the wire, and each other by memory, or they would keep the machine busy.
type crowd struct {
	host    *cluster.Host
	members []*member
	sent    atomic.Uint64 // packets of members
	hellos  atomic.Uint64 // of members, by one or both families
	heard   atomic.Uint64 // packets of the real speaker, by all members
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu sync.Mutex // guards the machines
}

type member struct {
	link      link.Link
	machine   *mesh.Machine
	transport *udp.Transport
}

// nothing is a policy for a node that no address concerns.
type nothing struct{}

func (nothing) Owner(netip.Addr, string) string { return "" }
func (nothing) Successors(netip.Addr) []string  { return nil }

// newCrowd starts a number of speakers that own nothing.
func newCrowd(ctx context.Context, b *bench, size int) (*crowd, error) {
	svc, err := b.kube.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	c := &crowd{host: b.crowd}
	work, stop := context.WithCancel(context.Background())
	c.stop = stop
	for i := range size {
		m := &member{}
		c.members = append(c.members, m)
		if m.link, err = c.addLink(i); err != nil {
			return nil, errors.Join(err, c.close())
		}
		now := time.Now()
		m.machine = mesh.New(mesh.Config{Node: fmt.Sprintf("peer-%03d", i), Boot: uint64(now.UnixNano())}, nothing{}, now)
		m.machine.SetCluster(now, mesh.ClusterID(string(svc.UID)))
		m.machine.SetSegments(now, []mesh.Segment{{Index: m.link.Index, Name: m.link.Name, MAC: m.link.MAC, Up: true}})
		m.machine.SetAddresses(now, nil, nil)
		m.transport = udp.New(logr.Discard(), prometheus.NewRegistry(), meshPort, func(d udp.Datagram) { c.deliver(m, d) })
		if err := c.host.Do(func() error {
			if !m.transport.Set([]link.Link{m.link}) {
				return fmt.Errorf("%s can't be used", m.link.Name)
			}
			return nil
		}); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	c.done.Go(func() { c.run(work) })
	return c, nil
}

// addLink makes an interface that hears the LAN, but not the others.
func (c *crowd) addLink(i int) (link.Link, error) {
	h := c.host.Netlink()
	parent, err := h.LinkByName(c.host.Interface)
	if err != nil {
		return link.Link{}, err
	}
	name := fmt.Sprintf("peer%d", i)
	// Usable at once, without detection of duplicates.
	if err := c.host.Sysctl("ipv6/conf/default/accept_dad", "0"); err != nil {
		return link.Link{}, err
	}
	macvlan := &netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: parent.Attrs().Index, HardwareAddr: net.HardwareAddr{0x02, 0xfa, 0x1e, 0x09, 0, byte(i + 1)}},
		Mode:      netlink.MACVLAN_MODE_PRIVATE,
	}
	if err := h.LinkAdd(macvlan); err != nil {
		return link.Link{}, err
	}
	lan := cluster.LAN4.Addr().As4()
	lan[2], lan[3] = 9, byte(i+1)
	addr := netip.AddrFrom4(lan)
	if err := h.AddrAdd(macvlan, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(cluster.LAN4.Bits(), 32)}}); err != nil {
		return link.Link{}, err
	}
	if err := h.LinkSetUp(macvlan); err != nil {
		return link.Link{}, err
	}
	return link.Link{
		Index: macvlan.Attrs().Index, Name: name, MAC: link.MAC(macvlan.HardwareAddr), Up: true, ARP: true, NDP: true,
		Prefixes: []netip.Prefix{netip.PrefixFrom(addr, cluster.LAN4.Bits()), netip.MustParsePrefix("fe80::/64")},
	}, nil
}

// close ends all speakers.
func (c *crowd) close() error {
	c.stop()
	c.done.Wait()
	var errs []error
	for _, m := range c.members {
		if m.transport != nil {
			m.transport.Close()
		}
		if m.link.Index != 0 {
			errs = append(errs, c.host.Netlink().LinkDel(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: m.link.Name, Index: m.link.Index}}))
		}
	}
	return errors.Join(errs...)
}

// deliver takes a frame of the real speaker.
func (c *crowd) deliver(m *member, d udp.Datagram) {
	now := time.Now()
	c.heard.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	m.machine.Receive(now, mesh.Packet{Interface: d.Interface, From: d.From.WithZone(""), TTL: d.TTL, At: now.Add(-d.Age), Payload: d.Payload})
}

// know is how many members have been told of all the addresses that a node claims.
func (c *crowd) know(node string, claims int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, m := range c.members {
		for _, p := range m.machine.Peers(now) {
			if p.Node == node && p.Claims == claims {
				n++
			}
		}
	}
	return n
}

// run does what the machines want, until ctx is done. Who starts does so a little after the one before: hellos are spread.
func (c *crowd) run(ctx context.Context) {
	started := time.Now()
	for pause(ctx, step) {
		now := time.Now()
		begun := min(len(c.members), int(now.Sub(started)*time.Duration(len(c.members))/(100*time.Millisecond)))
		c.mu.Lock()
		for _, m := range c.members[:begun] {
			if !m.machine.Next().After(now) {
				m.machine.Tick(now)
				c.send(now, m)
			}
		}
		c.mu.Unlock()
	}
}

// send does with frames what is said. Asks are not made: whoever is not heard owns nothing.
func (c *crowd) send(now time.Time, m *member) {
	for _, f := range m.machine.Output().Frames {
		m.transport.Send(f.Interface, f.To, f.Sparing, f.Payload)
		c.hellos.Add(1)
		if c.sent.Add(1); !f.Sparing {
			c.sent.Add(1)
		}
		for _, o := range c.members {
			if o != m {
				o.machine.Receive(now, mesh.Packet{Interface: o.link.Index, From: m.link.Prefixes[0].Addr(), TTL: 255, At: now, Payload: f.Payload})
			}
		}
	}
}
