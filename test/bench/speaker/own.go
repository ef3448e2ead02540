// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/bench/load"
	"github.com/fairlead-lb/fairlead/test/bench/meter"
	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

const (
	// samples is how many of the addresses are asked for on the wire.
	samples = 30
	// sampling is between two questions for each of them.
	sampling = 50 * time.Millisecond
	// asking is between two questions whether the speaker is ready.
	asking = 20 * time.Millisecond
	// looking is between two looks at the speaker's metrics while it announces: they cost it something.
	looking = 500 * time.Millisecond
	// quiet is for how long nothing may be announced when the burst is over.
	quiet = 2 * time.Second
	// idle is how long the speaker is watched when all is done.
	idle        = 10 * time.Second
	metricsPort = 7473
	probePort   = 7474
)

// pool is all of the LAN that nobody has.
func pool() *v1alpha1.LoadBalancerIPPool {
	p := &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	for i := range cluster.PoolRanges {
		v4, v6 := cluster.PoolRange(i)
		p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(v4.String()), v1alpha1.AddressRange(v6.String()))
	}
	return p
}

// own gives the node its addresses, and starts the speaker as often as wanted.
func (b *bench) own(ctx context.Context) error {
	if err := b.speaker.Stop(cluster.StopGrace); err != nil {
		return err
	}
	addrs, err := b.load(ctx)
	if err != nil {
		return err
	}
	for range b.starts {
		if !pause(ctx, lull) { // the API server has other things to do after so many writes
			return ctx.Err()
		}
		if err := b.restart(ctx, addrs); err != nil {
			return err
		}
	}
	return nil
}

// restart starts the speaker anew, and measures how it comes to own its addresses.
func (b *bench) restart(ctx context.Context, addrs []netip.Addr) error {
	if err := b.speaker.Stop(cluster.StopGrace); err != nil {
		return err
	}
	var asked []netip.Addr
	for i := range samples {
		asked = append(asked, addrs[i*(len(addrs)-1)/(samples-1)])
	}
	probe, err := wire.StartColdProbe(b.lab.Client.Namespace, b.lab.Client.Interface, sampling, asked...)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := b.speaker.Start(); err != nil {
		return errors.Join(err, probe.Stop())
	}
	var answered, told time.Time
	g, await := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		answered, err = b.awaitAnswers(await, probe, asked)
		return err
	})
	g.Go(func() (err error) {
		told, err = b.awaitReady(await)
		return err
	})
	if err := errors.Join(g.Wait(), probe.Stop()); err != nil {
		return err
	}
	ready := max(answered.Sub(start), told.Sub(start))
	if err := b.awaitMetric(ctx, "fairlead_l2_addresses", len(addrs)); err != nil {
		return err
	}
	if err := b.awaitMetric(ctx, "fairlead_l2_groups", b.v6); err != nil {
		return err
	}
	joined := time.Since(start)
	atReady, _, err := b.usage()
	if err != nil {
		return err
	}
	announced, err := b.awaitAnnounced(ctx)
	if err != nil {
		return err
	}
	all, kernel, err := b.usage()
	if err != nil {
		return err
	}
	if !pause(ctx, lull) {
		return ctx.Err()
	}
	atRest, kernelAtRest, err := b.spent(ctx, idle)
	if err != nil {
		return err
	}
	last, _, err := b.usage()
	if err != nil {
		return err
	}
	fmt.Printf("a speaker that owns %d IPv4 and %d IPv6 addresses, restarted\n", b.v4, b.v6)
	report.Row("all answered, and ready, after", "%8.2f s", ready.Seconds())
	report.Row("all multicast groups joined after", "%8.2f s", joined.Seconds())
	report.Row("all announced after", "%8.2f s", announced.Sub(start).Seconds())
	report.Row("CPU time until joined", "%8.2f s", atReady.CPU.Seconds())
	report.Row("CPU time of announcing", "%8.2f s, and %.2f s in the kernel", (all.CPU - atReady.CPU).Seconds(), kernel.Seconds())
	report.Row("CPU at rest", "%8.2f %% of a core, and %.2f %% in the kernel", 100*atRest, 100*kernelAtRest)
	// What a limit has to leave room for: the program's file is in memory once for all that run it, or not at all.
	own := last.Peak - last.File
	report.Row("peak of memory", "%8.1f MB, and %.1f MB of the program's file", float64(own)/(1<<20), float64(last.File)/(1<<20))
	b.Promise(ready < readyWithin, "all addresses were answered %s after the start", ready)
	b.Promise(own < mostMemory, "the speaker needed %d MB of memory", own>>20)
	return nil
}

// load makes Services with addresses that the node has claimed, as if it had for long, and returns them.
func (b *bench) load(ctx context.Context) ([]netip.Addr, error) {
	var v4s, v6s []netip.Addr
	for i := range cluster.PoolRanges {
		p4, p6 := cluster.PoolRange(i)
		for a := p4.Addr(); p4.Contains(a) && len(v4s) < b.v4; a = a.Next() {
			v4s = append(v4s, a)
		}
		for a := p6.Addr(); i == 0 && len(v6s) < b.v6; a = a.Next() {
			v6s = append(v6s, a)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(load.AtOnce)
	for i, a := range v4s {
		g.Go(func() error {
			svc, err := b.make.Service(ctx, i)
			if err != nil {
				return err
			}
			if err := b.claim(ctx, a, svc); err != nil || i >= len(v6s) {
				return err
			}
			return b.claim(ctx, v6s[i], svc)
		})
	}
	return append(v4s, v6s...), g.Wait()
}

// claim makes an address the Service's and claims it for the node.
func (b *bench) claim(ctx context.Context, addr netip.Addr, svc *corev1.Service) error {
	ip, err := b.make.Bind(ctx, addr, svc)
	if err != nil {
		return err
	}
	claim, err := json.Marshal(map[string]any{"status": map[string]any{"l2": v1alpha1.L2Claim{
		Node: b.node.Name(), Interface: b.node.Interface, MAC: b.node.MAC.String(), Term: 1, Since: metav1.Now(),
	}}})
	if err != nil {
		return err
	}
	return b.lab.API.Status().Patch(ctx, ip, client.RawPatch(types.MergePatchType, claim))
}

// awaitAnswers waits until all that is asked for is answered, and returns since when.
func (b *bench) awaitAnswers(ctx context.Context, probe *wire.ColdProbe, asked []netip.Addr) (last time.Time, err error) {
	err = cluster.Poll(ctx, "every address is answered", func(context.Context) error {
		for _, a := range asked {
			got := probe.Answers(a)
			if len(got) == 0 {
				return fmt.Errorf("nobody answers for %s", a)
			}
			if got[0].At.After(last) {
				last = got[0].At
			}
		}
		return nil
	})
	return last, err
}

// awaitReady waits until the speaker says that it answers for all that is its own, and returns when that was seen.
func (b *bench) awaitReady(ctx context.Context) (seen time.Time, err error) {
	ticker := time.NewTicker(asking)
	defer ticker.Stop()
	for {
		_, err := b.get(ctx, probePort, "/readyz")
		if err == nil {
			return time.Now(), nil
		}
		select {
		case <-ctx.Done():
			return seen, fmt.Errorf("waiting until the speaker is ready: %w", err)
		case <-ticker.C:
		}
	}
}

// get asks the speaker for a page.
func (b *bench) get(ctx context.Context, port uint16, path string) (string, error) {
	return b.node.Get(ctx, "http://"+netip.AddrPortFrom(b.node.Addr(), port).String()+path)
}

// metric asks the speaker for the sum of a metric.
func (b *bench) metric(ctx context.Context, name string) (int, error) {
	page, err := b.get(ctx, metricsPort, "/metrics")
	if err != nil {
		return 0, err
	}
	list, err := meter.Samples(page, name)
	sum := 0.0
	for _, s := range list {
		sum += s.Value
	}
	return int(sum), err
}

// awaitMetric waits until a metric is as it should be.
func (b *bench) awaitMetric(ctx context.Context, name string, want int) error {
	return cluster.Poll(ctx, name+" is "+strconv.Itoa(want), func(ctx context.Context) error {
		got, err := b.metric(ctx, name)
		if err == nil && got != want {
			err = fmt.Errorf("it is %d", got)
		}
		return err
	})
}

// awaitAnnounced waits until nothing is announced any more, but what is repeated for ever, and returns since when.
func (b *bench) awaitAnnounced(ctx context.Context) (since time.Time, err error) {
	was := 0
	err = cluster.Poll(ctx, "all is announced", func(ctx context.Context) error {
		n, err := b.metric(ctx, "fairlead_l2_announcements_sent_total")
		if err != nil {
			return err
		}
		if n != was {
			was, since = n, time.Now()
		}
		if time.Since(since) < quiet {
			pause(ctx, looking)
			return fmt.Errorf("%d announcements, and more", n)
		}
		return nil
	})
	return since, err
}
