// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/bench/load"
	"github.com/fairlead-lb/fairlead/test/bench/meter"
	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
)

// looking is between two looks at a router, which take it something.
const looking = 2 * time.Millisecond

// announce starts the speaker, and measures how its routes come to the routers.
func (b *bench) announce(ctx context.Context) error {
	fmt.Printf("a speaker that announces %d addresses to two FRR routers\n", b.routes)
	start := time.Now()
	if err := b.speaker.Start(); err != nil {
		return err
	}
	type seen struct{ established, full time.Time }
	by := make([]seen, len(b.routers))
	g, gctx := errgroup.WithContext(ctx)
	for i, r := range b.routers {
		g.Go(func() error {
			// The time before the look at which it was first established, and the time after the first at which all was there:
			// it was no longer than that.
			last := start
			return b.watch(gctx, r, func(s router.Session) bool {
				if !s.Established() {
					last = time.Now()
					return false
				}
				if by[i].established.IsZero() {
					by[i].established = last
				}
				by[i].full = time.Now()
				return s.IPv4.Prefixes == b.routes
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, t := range by {
		took := t.full.Sub(t.established)
		report.Row(fmt.Sprintf("router %d: Established after", i+1), "%8.2f s", t.established.Sub(start).Seconds())
		report.Row("  all routes in its table, from then on", "%8.2f s", took.Seconds())
		b.Promise(took < fullWithin, "router %d had the full table %s after Established", i+1, took)
	}
	return pause(ctx, lull)
}

// add adds Services one by one, and measures how long each takes to both routers' tables.
func (b *bench) add(ctx context.Context) error {
	var took []time.Duration
	before, err := meter.UsageOf(b.speaker.PID())
	if err != nil {
		return err
	}
	for i := range b.added {
		d, err := b.addOne(ctx, b.routes+i)
		if err != nil {
			return err
		}
		took = append(took, d)
		if err := pause(ctx, lull/4); err != nil {
			return err
		}
	}
	after, err := meter.UsageOf(b.speaker.PID())
	if err != nil {
		return err
	}
	slices.Sort(took)
	median, longest := took[len(took)/2], took[len(took)-1]
	report.Row("one Service more in both tables after", "%8.1f ms at the median, %.1f ms at most, of %d", ms(median), ms(longest), len(took))
	report.Row("CPU time for each of these", "%8.1f ms", ms(after.CPU-before.CPU)/float64(len(took)))
	b.Promise(median < addedWithin, "one Service more was in both tables only after %s", median)
	return nil
}

// addOne returns how long after the API server had the address it was in the last router's table.
func (b *bench) addOne(ctx context.Context, i int) (time.Duration, error) {
	svc, err := b.make.Service(ctx, i)
	if err != nil {
		return 0, err
	}
	if _, err := b.make.Bind(ctx, b.addrs[i], svc); err != nil {
		return 0, err
	}
	start := time.Now()
	prefix := netip.PrefixFrom(b.addrs[i], b.addrs[i].BitLen())
	for _, r := range b.routers {
		for {
			paths, err := r.BGP.Paths(ctx, prefix)
			if err != nil {
				return 0, err
			}
			if len(paths) > 0 {
				break
			}
			if err := pause(ctx, looking); err != nil {
				return 0, err
			}
		}
	}
	return time.Since(start), nil
}

// resync has the speaker hear of much that is no news to routers, and counts what it tells them.
func (b *bench) resync(ctx context.Context) error {
	before, err := b.updates(ctx)
	if err != nil {
		return err
	}
	if err := b.touch(ctx); err != nil {
		return err
	}
	if err := b.makeAnother(ctx); err != nil {
		return err
	}
	// It has to connect anew, and to learn what it missed.
	api := b.lab.Process("kube-apiserver")
	if err := api.Kill(); err != nil {
		return err
	}
	if err := api.Start(); err != nil {
		return err
	}
	if err := cluster.Poll(ctx, "the API server is back", func(ctx context.Context) error {
		_, err := b.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return err
	}); err != nil {
		return err
	}
	// Events come in order: who has heard of this address has heard of all before. It is one UPDATE to each.
	if _, err := b.addOne(ctx, b.routes+b.added); err != nil {
		return err
	}
	if err := pause(ctx, lull); err != nil {
		return err
	}
	after, err := b.updates(ctx)
	if err != nil {
		return err
	}
	for i := range after {
		extra := after[i] - before[i] - 1
		report.Row(fmt.Sprintf("UPDATEs to router %d without news", i+1), "%8d", extra)
		b.Promise(extra == 0, "router %d got %d UPDATEs without news", i+1, extra)
	}
	return nil
}

// touch edits Services, EndpointSlices and addresses in ways that concern no router.
func (b *bench) touch(ctx context.Context) error {
	patch := []byte(`{"metadata":{"annotations":{"example.com/touched":"yes"}}}`)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(load.AtOnce)
	for i := range b.touched {
		g.Go(func() error {
			name := fmt.Sprintf("bench-%05d", i)
			if _, err := b.kube.CoreV1().Services(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				return err
			}
			_, err := b.kube.DiscoveryV1().EndpointSlices(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		})
	}
	g.Go(func() error {
		_, err := b.kube.CoreV1().Nodes().Patch(ctx, b.node.Name(), types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	return g.Wait()
}

// makeAnother makes another pool, an advertisement of it, and a Node that announces the same.
func (b *bench) makeAnother(ctx context.Context) error {
	meta := metav1.ObjectMeta{Name: "another"}
	if err := b.lab.API.Create(ctx, &v1alpha1.LoadBalancerIPPool{ObjectMeta: meta, Spec: v1alpha1.LoadBalancerIPPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}}}); err != nil {
		return err
	}
	if err := b.lab.API.Create(ctx, &v1alpha1.BGPAdvertisement{ObjectMeta: meta, Spec: v1alpha1.BGPAdvertisementSpec{Pools: []string{meta.Name}}}); err != nil {
		return err
	}
	return b.lab.API.Create(ctx, &corev1.Node{ObjectMeta: meta})
}

// updates are how many UPDATEs each router has had from the node.
func (b *bench) updates(ctx context.Context) ([]int, error) {
	var counts []int
	for _, r := range b.routers {
		s, err := r.BGP.Session(ctx, b.node.IPv4)
		if err != nil {
			return nil, err
		}
		counts = append(counts, s.Updates)
	}
	return counts, nil
}

// watch looks at a router's session with the node until enough says so. There may be none yet.
func (b *bench) watch(ctx context.Context, r *cluster.Router, enough func(router.Session) bool) error {
	for {
		sessions, err := r.BGP.Sessions(ctx)
		if err != nil {
			return err
		}
		var s router.Session
		if i := slices.IndexFunc(sessions, func(s router.Session) bool { return s.Neighbor == b.node.IPv4 }); i >= 0 {
			s = sessions[i]
		}
		if enough(s) {
			return nil
		}
		if err := pause(ctx, looking); err != nil {
			return err
		}
	}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// pause waits, or fails when ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
