// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// avoidance is the addresses that the cluster's own network uses.
type avoidance struct {
	// nodes are the addresses of nodes, with their names. Nobody gets one.
	nodes map[netip.Addr]string
	// ranges are other addresses that nobody gets by himself.
	ranges []netipx.IPRange
}

func (a avoidance) equal(b avoidance) bool {
	return maps.Equal(a.nodes, b.nodes) && slices.Equal(a.ranges, b.ranges)
}

// avoid returns what the network of these nodes uses: the nodes' addresses,
// their gateways, and of each of their subnets the addresses that no host may
// have. The Speaker of a node that is gone tells nothing.
func avoid(nodes []corev1.Node, speakers []v1alpha1.Speaker) avoidance {
	a := avoidance{nodes: map[netip.Addr]string{}}
	own := func(addr netip.Addr, node string) {
		addr = addr.Unmap().WithZone("")
		if addr.IsUnspecified() || addr.IsLoopback() {
			return
		}
		// Several nodes may have one, such as that of a bridge which each has
		// to itself.
		if was, ok := a.nodes[addr]; !ok || node < was {
			a.nodes[addr] = node
		}
	}
	known := map[string]bool{}
	for i := range nodes {
		known[nodes[i].Name] = true
		for _, text := range nodes[i].Status.Addresses {
			if addr, err := netip.ParseAddr(text.Address); err == nil {
				own(addr, nodes[i].Name)
			}
		}
	}
	for i := range speakers {
		s := &speakers[i]
		if !known[s.Name] {
			continue
		}
		for _, link := range s.Status.Interfaces {
			for _, text := range link.Addresses {
				if p, err := netip.ParsePrefix(string(text)); err == nil {
					own(p.Addr(), s.Name)
					a.ranges = append(a.ranges, unusable(p)...)
				}
			}
			for _, text := range link.Gateways {
				if addr, err := netip.ParseAddr(string(text)); err == nil {
					a.ranges = append(a.ranges, netipx.IPRangeFrom(addr, addr))
				}
			}
		}
	}
	slices.SortFunc(a.ranges, func(a, b netipx.IPRange) int {
		return cmp.Or(a.From().Compare(b.From()), a.To().Compare(b.To()))
	})
	a.ranges = slices.Compact(a.ranges)
	return a
}

// unusable returns the addresses of a subnet that no host may have: the network
// and broadcast addresses (RFC 919; a /31 has neither, RFC 3021), and for IPv6
// the subnet-router anycast address (RFC 4291, 2.6.1; a /127 has none, RFC
// 6164). A prefix of zero bits is no subnet.
func unusable(p netip.Prefix) []netipx.IPRange {
	first, last := p.Masked().Addr(), netipx.PrefixLastIP(p)
	switch {
	case p.Bits() == 0 || p.Bits() >= first.BitLen()-1:
		return nil
	case first.Is4():
		return []netipx.IPRange{netipx.IPRangeFrom(first, first), netipx.IPRangeFrom(last, last)}
	}
	return []netipx.IPRange{netipx.IPRangeFrom(first, first)}
}

// readAvoided takes from the cache what the cluster's own network uses. It
// reports whether that is anything else than before.
func (c *Controller) readAvoided(ctx context.Context) (bool, error) {
	var nodes corev1.NodeList
	if err := c.client.List(ctx, &nodes); err != nil {
		return false, err
	}
	var speakers v1alpha1.SpeakerList
	if err := c.client.List(ctx, &speakers); err != nil {
		return false, err
	}
	now := avoid(nodes.Items, speakers.Items)
	if now.equal(c.avoided) {
		return false, nil
	}
	c.avoided = now
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	c.ledger.alloc.SetNodes(now.nodes)
	c.ledger.alloc.SetAvoid(now.ranges)
	return true, nil
}

// reconcileAvoided takes a change of what the cluster's own network uses.
func (c *Controller) reconcileAvoided(ctx context.Context) error {
	before := c.avoided
	changed, err := c.readAvoided(ctx)
	if err != nil || !changed {
		return err
	}
	c.wake()
	for _, pair := range [][2]avoidance{{before, c.avoided}, {c.avoided, before}} {
		for addr, node := range pair[0].nodes {
			if pair[1].nodes[addr] != node {
				var reserved *v1alpha1.Reservation
				if obj := c.ledger.object(addr); obj != nil {
					reserved = obj.Spec.ReservedFor
				}
				c.wakeAsking(addr, reserved)
			}
		}
	}
	for _, name := range c.pools.names() {
		c.countLater(name)
	}
	return nil
}

func (c *Controller) speakerEvents() toolscache.ResourceEventHandlerFuncs {
	changed := func() { c.config.Add(request(nodesChanged)) }
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() },
		UpdateFunc: func(before, after any) {
			if !equality.Semantic.DeepEqual(before.(*v1alpha1.Speaker).Status.Interfaces, after.(*v1alpha1.Speaker).Status.Interfaces) {
				changed()
			}
			if !equality.Semantic.DeepEqual(before.(*v1alpha1.Speaker).Status.BGP, after.(*v1alpha1.Speaker).Status.BGP) {
				c.config.Add(request(peersChanged))
			}
		},
		DeleteFunc: func(any) { changed() },
	}
}
