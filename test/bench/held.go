// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

var (
	serviceWrites = []string{"services", "services/status"}
	// kinds are all that the controller writes to, but its lease and its events.
	kinds = append([]string{"loadbalancerips", "loadbalancerips/status", "loadbalancerippools/status"}, serviceWrites...)
)

// editPool edits the pool that all Services have their addresses from.
func (b *bench) editPool(ctx context.Context) error {
	first, _ := cluster.PoolRange(0)
	for _, edit := range []struct {
		what string
		do   func(*v1alpha1.LoadBalancerIPPoolSpec)
	}{
		{"another priority", func(s *v1alpha1.LoadBalancerIPPoolSpec) { s.Priority = 10 }},
		{"a range more", func(s *v1alpha1.LoadBalancerIPPoolSpec) { s.Addresses = append(s.Addresses, "192.0.2.0/24") }},
		{"256 that are held excluded", func(s *v1alpha1.LoadBalancerIPPoolSpec) {
			s.Exclude = append(s.Exclude, v1alpha1.AddressRange(netip.PrefixFrom(first.Addr(), 24).String()))
		}},
	} {
		if _, err := b.awaitRest(ctx, 0); err != nil {
			return err
		}
		used, err := b.usages()
		if err != nil {
			return err
		}
		before, err := b.writes(ctx)
		if err != nil {
			return err
		}
		p := &v1alpha1.LoadBalancerIPPool{}
		if err := b.lab.API.Get(ctx, client.ObjectKey{Name: namespace}, p); err != nil {
			return err
		}
		base := p.DeepCopy()
		edit.do(&p.Spec)
		start := time.Now()
		if err := b.lab.API.Patch(ctx, p, client.MergeFrom(base)); err != nil {
			return err
		}
		if err := cluster.Poll(ctx, "the pool's status is that of its spec", func(ctx context.Context) error {
			if err := b.lab.API.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
				return err
			}
			ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.PoolReady)
			if ready == nil || ready.ObservedGeneration != p.Generation {
				return fmt.Errorf("generation %d, status %+v", p.Generation, ready)
			}
			return nil
		}); err != nil {
			return err
		}
		taken := time.Since(start)
		rest, err := b.awaitRest(ctx, 0)
		if err != nil {
			return err
		}
		after, err := b.writes(ctx)
		if err != nil {
			return err
		}
		now, err := b.usages()
		if err != nil {
			return err
		}
		n := after.since(before)
		fmt.Println("the pool edited:", edit.what)
		report.Row("taken after", "%8.2f s", taken.Seconds())
		report.Row("at rest after", "%8.2f s", rest.Sub(start).Seconds())
		report.Row("controller", "%8.2f s of CPU time", (now[b.controller.Name].CPU - used[b.controller.Name].CPU).Seconds())
		for _, what := range kinds {
			report.Row("writes, "+what, "%8d", n[what])
		}
		b.Promise(n.of(serviceWrites...) == 0, "the pool's edit (%s) caused %d writes of Services", edit.what, n.of(serviceWrites...))
	}
	return nil
}

// restart stops the controller as an upgrade does, and starts it again with nothing to do.
func (b *bench) restart(ctx context.Context) error {
	if _, err := b.awaitRest(ctx, 0); err != nil {
		return err
	}
	if _, err := b.usages(); err != nil {
		return err
	}
	before, err := b.writes(ctx)
	if err != nil {
		return err
	}
	told, err := b.told(ctx)
	if err != nil {
		return err
	}
	if err := b.controller.Stop(cluster.StopGrace); err != nil {
		return err
	}
	start := time.Now()
	if err := b.controller.Start(); err != nil {
		return err
	}
	if err := cluster.Poll(ctx, "the controller is ready", func(ctx context.Context) error {
		_, err := b.ask(ctx, probePort, "/readyz")
		return err
	}); err != nil {
		return err
	}
	ready := time.Since(start)
	rest, err := b.awaitRest(ctx, b.count)
	if err != nil {
		return err
	}
	after, err := b.writes(ctx)
	if err != nil {
		return err
	}
	n := after.since(before)
	tells, err := b.told(ctx)
	if err != nil {
		return err
	}
	used, err := b.usages()
	if err != nil {
		return err
	}
	fmt.Println("the controller restarted, nothing to do")
	report.Row("ready after", "%8.2f s", ready.Seconds())
	report.Row("every Service looked at after", "%8.2f s", rest.Sub(start).Seconds())
	report.Row("controller", "%8.2f s of CPU time %5d MB peak", used[b.controller.Name].CPU.Seconds(), used[b.controller.Name].Peak>>20)
	report.Row("writes", "%8d", n.of(kinds...))
	report.Row("events about Services", "%8d", tells-told)
	b.Promise(ready < readyWithin, "the controller was ready %s after its start", ready)
	b.Promise(n.of(kinds...) == 0 && tells == told, "a restart caused writes: %v, and %d events", n, tells-told)
	return nil
}

// told is how many events there are about Services.
func (b *bench) told(ctx context.Context) (int, error) {
	list, err := b.kube.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	return len(list.Items), nil
}
