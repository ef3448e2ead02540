// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// remove deletes all Services at once.
func (b *bench) remove(ctx context.Context) error {
	used, err := b.usages()
	if err != nil {
		return err
	}
	before, err := b.writes(ctx)
	if err != nil {
		return err
	}
	services := b.kube.CoreV1().Services(namespace)
	start := time.Now()
	g, deleting := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range b.count {
		g.Go(func() error { return services.Delete(deleting, service(i).Name, metav1.DeleteOptions{}) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	deleted := time.Since(start)
	if err := cluster.Poll(ctx, "all Services are gone", func(ctx context.Context) error {
		left, err := services.List(ctx, metav1.ListOptions{Limit: 1})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%s is there", left.Items[0].Name)
		}
		return err
	}); err != nil {
		return err
	}
	gone := time.Since(start)
	if err := cluster.Poll(ctx, "no address is held", func(ctx context.Context) error {
		held, err := b.held(ctx)
		if err == nil && held > 0 {
			err = fmt.Errorf("%d are held", held)
		}
		return err
	}); err != nil {
		return err
	}
	released := time.Since(start)
	if _, err := b.awaitRest(ctx, 0); err != nil {
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
	held, err := b.held(ctx)
	if err != nil {
		return err
	}
	n := after.since(before)
	fmt.Println("all deleted at once")
	report.Row("deleted after", "%8.2f s", deleted.Seconds())
	report.Row("all gone after", "%8.2f s", gone.Seconds())
	report.Row("all addresses released after", "%8.2f s", released.Seconds())
	report.Row("addresses still held", "%8d", held)
	for _, what := range caused {
		report.Row("writes per Service, "+what, "%8.2f", float64(n[what])/float64(b.count))
	}
	report.Row("controller", "%8.2f s of CPU time %5d MB peak", (now[b.controller.Name].CPU - used[b.controller.Name].CPU).Seconds(), now[b.controller.Name].Peak>>20)
	b.Promise(held == 0, "%d addresses are held by nobody's Service", held)
	return nil
}

// held is how many addresses are bound.
func (b *bench) held(ctx context.Context) (int, error) {
	var list v1alpha1.LoadBalancerIPList
	if err := b.lab.API.List(ctx, &list); err != nil {
		return 0, err
	}
	n := 0
	for _, ip := range list.Items {
		if len(ip.Spec.Services) > 0 {
			n++
		}
	}
	return n, nil
}
