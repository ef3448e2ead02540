// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// create creates all Services at once.
func (b *bench) create(ctx context.Context) error {
	idle, err := b.usages()
	if err != nil {
		return err
	}
	before, err := b.writes(ctx)
	if err != nil {
		return err
	}
	r, err := b.createAndAwait(ctx)
	if err != nil {
		return err
	}
	// Events come last.
	var n writes
	if err := cluster.Poll(ctx, "there is an event for each Service", func(ctx context.Context) error {
		after, err := b.writes(ctx)
		if err != nil {
			return err
		}
		if n = after.since(before); n["events"] < b.count {
			return fmt.Errorf("%d of %d", n["events"], b.count)
		}
		return nil
	}); err != nil {
		return err
	}
	used, err := b.usages()
	if err != nil {
		return err
	}

	fmt.Println("all created at once")
	report.Row("created after", "%8.2f s", r.created.Seconds())
	report.Row("all have an address after", "%8.2f s", r.allocated.Seconds())
	report.Row("all announced after", "%8.2f s", r.announced.Seconds())
	report.Row("from creation to address", "%8.0f ms p50 %8.0f ms p99", ms(quantile(r.lag, 0.5)), ms(quantile(r.lag, 0.99)))
	report.Row("distinct addresses", "%8d", r.distinct)
	total := 0
	for _, what := range caused {
		total += n[what]
		report.Row("writes per Service, "+what, "%8.2f", float64(n[what])/float64(b.count))
	}
	report.Row("writes per Service, all", "%8.2f", float64(total)/float64(b.count))
	for _, name := range names(used) {
		report.Row(name, "%8.2f s of CPU time %5d MB peak", (used[name].CPU - idle[name].CPU).Seconds(), used[name].Peak>>20)
	}
	b.Promise(r.distinct == b.count, "%d Services have %d distinct addresses", b.count, r.distinct)
	b.Promise(total <= mostWrites*b.count, "%d Services caused %d writes", b.count, total)
	return nil
}

// result is what the watch saw; times are since the first creation began.
type result struct {
	created, allocated, announced time.Duration
	lag                           []time.Duration
	distinct                      int
}

func (b *bench) createAndAwait(ctx context.Context) (result, error) {
	// An informer, not a watch: the API server ends a watch that is too slow.
	factory := informers.NewSharedInformerFactoryWithOptions(b.kube, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().Services().Informer()
	updates := make(chan *corev1.Service, 8*b.count)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { updates <- obj.(*corev1.Service) },
		UpdateFunc: func(_, obj any) { updates <- obj.(*corev1.Service) },
	}); err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	var mu sync.Mutex
	begun := map[string]time.Time{}
	start := time.Now()
	var r result
	var g errgroup.Group
	g.Go(func() error {
		var creating errgroup.Group
		creating.SetLimit(atOnce)
		for i := range b.count {
			creating.Go(func() error {
				svc := service(i)
				mu.Lock()
				begun[svc.Name] = time.Now()
				mu.Unlock()
				_, err := b.kube.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{})
				return err
			})
		}
		err := creating.Wait()
		r.created = time.Since(start)
		return err
	})

	addresses := map[string]netip.Addr{}
	seen := map[netip.Addr]struct{}{}
	announced := map[string]struct{}{}
	for len(announced) < b.count {
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("%d of %d Services have an address, %d are announced: %w", len(addresses), b.count, len(announced), ctx.Err())
		case svc := <-updates:
			if len(svc.Status.LoadBalancer.Ingress) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
			if err != nil {
				return r, err
			}
			if was, ok := addresses[svc.Name]; !ok {
				mu.Lock()
				r.lag = append(r.lag, time.Since(begun[svc.Name]))
				mu.Unlock()
				addresses[svc.Name] = addr
				seen[addr] = struct{}{}
				r.allocated = time.Since(start)
			} else if was != addr {
				return r, fmt.Errorf("%s moved from %s to %s", svc.Name, was, addr)
			}
			if isTrue(svc, v1alpha1.ServiceAnnounced) {
				announced[svc.Name] = struct{}{}
				r.announced = time.Since(start)
			}
		}
	}
	r.distinct = len(seen)
	return r, g.Wait()
}

func isTrue(svc *corev1.Service, condition string) bool {
	return slices.ContainsFunc(svc.Status.Conditions, func(c metav1.Condition) bool {
		return c.Type == condition && c.Status == metav1.ConditionTrue
	})
}

// service asks for no node ports: there are 2,768 of them.
func service(i int) *corev1.Service {
	no := false
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%05d", i)},
		Spec: corev1.ServiceSpec{
			Type:                          corev1.ServiceTypeLoadBalancer,
			AllocateLoadBalancerNodePorts: &no,
			Ports:                         []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
}

func quantile(d []time.Duration, q float64) time.Duration {
	slices.Sort(d)
	return d[int(q*float64(len(d)-1))]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
