// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// watch is what looks at addresses: every sort of client at once, for each.
type watch struct {
	cold    *wire.ColdProbe
	clients []*clients
	stopped bool
}

// clients are those of one address.
type clients struct {
	addr  netip.Addr
	udp   *wire.Probe
	flows *wire.Flows
	fresh *wire.Fresh

	// What they met, when they are stopped.
	warm    wire.Result
	flowed  wire.FlowResult
	freshed wire.FreshResult
}

func (s *scene) watch(ctx context.Context, addrs []netip.Addr) (w *watch, err error) {
	w = &watch{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop(time.Time{}))
		}
	}()
	if w.cold, err = wire.StartColdProbe(s.prober.Namespace, cluster.Interface, wire.ColdInterval, addrs...); err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		target := netip.AddrPortFrom(addr, servicePort)
		c := &clients{addr: addr, udp: wire.StartProbe(s.lab.Client, "udp", target)}
		w.clients = append(w.clients, c)
		if c.flows, err = wire.StartFlows(ctx, s.lab.Client, target, flows/len(addrs)); err != nil {
			return nil, err
		}
		c.fresh = wire.StartFresh(s.fresh, target, func() error { return s.fresh.SetNeighbour(addr, nil) })
	}
	return w, nil
}

// stop ends the probing. Datagrams count that were sent since a time. Later calls do nothing.
func (w *watch) stop(since time.Time) (err error) {
	if w.stopped {
		return nil
	}
	w.stopped = true
	for _, c := range w.clients {
		c.warm = c.udp.StopSince(since)
		if c.flows != nil {
			c.flowed = c.flows.Stop()
		}
		if c.fresh != nil {
			var failed error
			c.freshed, failed = c.fresh.Stop()
			err = errors.Join(err, failed)
		}
	}
	if w.cold != nil {
		err = errors.Join(err, w.cold.Stop())
	}
	return err
}

// awaitWarm waits until all datagrams are answered and nobody but the owner answers.
func (w *watch) awaitWarm(ctx context.Context, owner wire.MAC) error {
	return w.await(ctx, func(m wire.MAC) bool { return m == owner })
}

// awaitOthers waits until all datagrams are answered and the owner does not answer, and gives up in time.
func (w *watch) awaitOthers(ctx context.Context, owner wire.MAC) error {
	return w.await(ctx, func(m wire.MAC) bool { return m != owner })
}

func (w *watch) await(ctx context.Context, by func(wire.MAC) bool) error {
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	for _, c := range w.clients {
		if err := cluster.Poll(ctx, c.addr.String()+" is answered by whom it should be", func(context.Context) error {
			return onlyBy(w.cold.Answers(c.addr), time.Now().Add(-5*wire.ColdInterval), by)
		}); err != nil {
			return err
		}
		if err := c.udp.AwaitAnswers(ctx, warm); err != nil {
			return err
		}
	}
	return nil
}

// onlyBy is nil if there were answers since a time, and all by MACs that are meant.
func onlyBy(answers []wire.Resolution, since time.Time, by func(wire.MAC) bool) error {
	first, _ := slices.BinarySearchFunc(answers, since, func(r wire.Resolution, t time.Time) int { return r.At.Compare(t) })
	for _, r := range answers[first:] {
		if !by(r.MAC) {
			return fmt.Errorf("%s answers", r.MAC)
		}
	}
	if first == len(answers) {
		return errors.New("nobody answers")
	}
	return nil
}

// answeredByOthers waits until every address is answered, and none by the node.
func (s *scene) answeredByOthers(ctx context.Context, n *cluster.Node) (err error) {
	probe, err := wire.StartColdProbe(s.prober.Namespace, cluster.Interface, rollCall, s.addrs...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, probe.Stop()) }()
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	return cluster.Poll(ctx, "others than "+n.Name()+" answer", func(context.Context) error {
		for _, addr := range s.addrs {
			if err := onlyBy(probe.Answers(addr), time.Now().Add(-3*rollCall), func(m wire.MAC) bool { return m != wire.MACOf(n.MAC) }); err != nil {
				return fmt.Errorf("%s: %w", addr, err)
			}
		}
		return nil
	})
}
