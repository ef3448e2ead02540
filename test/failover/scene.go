// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

const (
	namespace = "default"
	// servicePort is the port of every Service.
	servicePort = 80
	// patience is for what must come about before and after a measurement.
	patience = time.Minute
	// settled is how long every address must have one answerer before the next thing is done to it, and rollCall the time
	// between two questions for each of them.
	settled  = 500 * time.Millisecond
	rollCall = 100 * time.Millisecond
	// grown is for how long a speaker runs before the next thing is done: one that has just started judges nobody.
	grown = 4 * time.Second
)

// scene is a lab with Fairlead and Services whose backend is behind the router, where nothing is ever done to it.
type scene struct {
	lab     *cluster.Lab
	product *cluster.Product
	prober  *cluster.Host // asks by raw frames
	fresh   *cluster.Host // forgets whom it asked
	addrs   []netip.Addr  // of all Services and families
	names   map[netip.Addr]string
	started map[string]time.Time // when each node's speaker last did
}

// newScene starts a lab and waits until every address is answered.
func newScene(ctx context.Context, c common, nodes, services int) (s *scene, err error) {
	lab, err := cluster.Start(ctx, cluster.Config{
		Name: fmt.Sprintf("failover-%d-%d", os.Getpid(), nodes), Nodes: nodes, Family: c.families, Log: c.log(),
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lab.Close())
		}
	}()
	s = &scene{lab: lab, names: map[netip.Addr]string{}, started: map[string]time.Time{}}
	if s.prober, err = lab.AddClient(); err != nil {
		return nil, err
	}
	if s.fresh, err = lab.AddClient(); err != nil {
		return nil, err
	}
	if _, err := lab.StartBackend(ctx, lab.Far); err != nil {
		return nil, err
	}
	if s.product, err = lab.Install(ctx, c.install); err != nil {
		return nil, err
	}
	for _, n := range lab.Nodes {
		s.started[n.Name()] = time.Now()
	}
	if err := s.createServices(ctx, services); err != nil {
		return nil, err
	}
	_, err = s.steady(ctx)
	return s, err
}

func (s *scene) createServices(ctx context.Context, count int) error {
	v4, v6 := cluster.PoolRange(0)
	pool := &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}
	for _, p := range []struct {
		of, is netip.Prefix
	}{{prefixOf(s.lab.Client.IPv4), v4}, {prefixOf(s.lab.Client.IPv6), v6}} {
		if p.of.IsValid() {
			pool.Spec.Addresses = append(pool.Spec.Addresses, v1alpha1.AddressRange(p.is.String()))
		}
	}
	if err := s.lab.API.Create(ctx, pool); err != nil {
		return err
	}
	g, creating := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range count {
		g.Go(func() error {
			svc := s.lab.Service(namespace, fmt.Sprintf("web-%d", i), "")
			if err := s.lab.API.Create(creating, svc); err != nil {
				return err
			}
			return s.lab.CreateSlicesTo(creating, client.ObjectKeyFromObject(svc), s.lab.Far)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return await(ctx, "every Service has its addresses", func(ctx context.Context) error {
		list := &corev1.ServiceList{}
		if err := s.lab.API.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return err
		}
		s.addrs = nil
		for _, svc := range list.Items {
			if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
				continue
			}
			if len(svc.Status.LoadBalancer.Ingress) < len(pool.Spec.Addresses) {
				return fmt.Errorf("%s has %v", svc.Name, svc.Status.LoadBalancer.Ingress)
			}
			for _, ingress := range svc.Status.LoadBalancer.Ingress {
				addr, err := netip.ParseAddr(ingress.IP)
				if err != nil {
					return err
				}
				s.addrs = append(s.addrs, addr)
			}
		}
		return nil
	})
}

func prefixOf(a netip.Addr) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

func await(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return cluster.Poll(ctx, what, check)
}

// owner is who has an address: by the frames that answer for it, and by its record.
type owner struct {
	node string
	term int64
}

// steady waits until nothing is wrong and nothing is going on any more: every node is Ready, every speaker is ready and no
// longer new, and every address has for a while been answered by one MAC, by itself, and by the record's.
func (s *scene) steady(ctx context.Context) (owners map[netip.Addr]owner, err error) {
	if err := await(ctx, "all nodes and speakers are ready", s.ready); err != nil {
		return nil, err
	}
	probe, err := wire.StartColdProbe(s.prober.Namespace, cluster.Interface, rollCall, s.addrs...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, probe.Stop()) }()
	err = await(ctx, "every address is answered by its owner", func(ctx context.Context) error {
		if owners, err = s.records(ctx); err != nil {
			return err
		}
		for _, addr := range s.addrs {
			node, err := s.answerer(probe.Answers(addr))
			if err != nil {
				return fmt.Errorf("%s: %w", addr, err)
			}
			if owners[addr].node != node {
				return fmt.Errorf("%s is answered by %s and recorded as that of %q", addr, node, owners[addr].node)
			}
		}
		return s.ready(ctx)
	})
	return owners, err
}

// answerer is the node that alone has answered for a while.
func (s *scene) answerer(answers []wire.Resolution) (string, error) {
	since := time.Now().Add(-settled)
	recent := slices.DeleteFunc(answers, func(r wire.Resolution) bool { return r.At.Before(since) })
	if len(recent) < 4 { // of five
		return "", fmt.Errorf("%d answers in %s", len(recent), settled)
	}
	for _, r := range recent {
		if r.MAC != recent[0].MAC {
			return "", fmt.Errorf("%s and %s answer", s.nodeOf(r.MAC), s.nodeOf(recent[0].MAC))
		}
		if r.Relayed() {
			return "", fmt.Errorf("%s stands in for %s", s.nodeOf(r.From), s.nodeOf(r.MAC))
		}
	}
	return s.nodeOf(recent[0].MAC), nil
}

// nodeOf names the node that has a MAC.
func (s *scene) nodeOf(mac wire.MAC) string {
	for _, n := range s.lab.Nodes {
		if wire.MACOf(n.MAC) == mac {
			return n.Name()
		}
	}
	return mac.String()
}

// records are the claims on record, by address.
func (s *scene) records(ctx context.Context) (map[netip.Addr]owner, error) {
	list := &v1alpha1.LoadBalancerIPList{}
	if err := s.lab.API.List(ctx, list); err != nil {
		return nil, err
	}
	owners := map[netip.Addr]owner{}
	for _, ip := range list.Items {
		addr, err := netip.ParseAddr(ip.Spec.Address)
		if err != nil {
			return nil, err
		}
		if l2 := ip.Status.L2; l2 != nil {
			owners[addr] = owner{node: l2.Node, term: l2.Term}
		}
	}
	return owners, nil
}

// ready checks that every Node is Ready, and every speaker is and is no longer new.
func (s *scene) ready(ctx context.Context) error {
	for _, n := range s.lab.Nodes {
		if age := time.Since(s.started[n.Name()]); age < grown {
			return fmt.Errorf("the speaker of %s has run for %s", n.Name(), age)
		}
	}
	nodes := &corev1.NodeList{}
	if err := s.lab.API.List(ctx, nodes); err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if len(n.Spec.Taints) > 0 {
			return fmt.Errorf("%s has taints %v", n.Name, n.Spec.Taints)
		}
	}
	var g errgroup.Group
	for _, n := range s.lab.Nodes {
		g.Go(func() error { return s.lab.SpeakerReady(ctx, n) })
	}
	return g.Wait()
}

// restart restarts a speaker in one of three ways and takes note of when.
func (s *scene) restart(n *cluster.Node, how func() error) error {
	err := how()
	s.started[n.Name()] = time.Now()
	return err
}

// owning are the nodes that have at least one address of each family, in order.
func owning(owners map[netip.Addr]owner) []string {
	families := map[bool]bool{}
	has := map[string]map[bool]bool{}
	for addr, o := range owners {
		families[addr.Is4()] = true
		if has[o.node] == nil {
			has[o.node] = map[bool]bool{}
		}
		has[o.node][addr.Is4()] = true
	}
	maps.DeleteFunc(has, func(_ string, of map[bool]bool) bool { return len(of) < len(families) })
	return slices.Sorted(maps.Keys(has))
}
