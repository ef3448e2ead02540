// SPDX-License-Identifier: Apache-2.0

// Command bgp measures in a lab how a speaker announces many addresses to two routers. It prints that, and fails if a bound
// that Fairlead promises is broken.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/bench/load"
	"github.com/fairlead-lb/fairlead/test/bench/meter"
	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

const (
	namespace = "bench"
	// patience is for all of it: the machine may be a busy one.
	patience = 20 * time.Minute
	// lull is how long a speaker is given to come to rest before it is measured.
	lull = 2 * time.Second
)

// What Fairlead promises.
const (
	fullWithin  = 3 * time.Second
	addedWithin = 50 * time.Millisecond
	mostMemory  = 150 << 20
)

type options struct{ routes, added, touched int }

func main() {
	var o options
	flag.IntVar(&o.routes, "routes", 10_000, "how many addresses the speaker announces")
	flag.IntVar(&o.added, "added", 20, "how many Services to add then, one by one")
	flag.IntVar(&o.touched, "touched", 200, "how many Services to edit in ways that are no news to routers")
	flag.Parse()
	report.Run("bgp bench", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return run(ctx, o)
	})
}

// bench is a lab with one node, its speaker and two routers.
type bench struct {
	report.Promises
	options
	lab     *cluster.Lab
	node    *cluster.Node
	kube    kubernetes.Interface
	make    load.Maker
	speaker *sandbox.Process
	routers []*cluster.Router
	// addrs are those to announce first, and then those to add.
	addrs []netip.Addr
}

func run(ctx context.Context, o options) (err error) {
	lab, err := cluster.Start(ctx, cluster.Config{Name: fmt.Sprintf("bench-bgp-%d", os.Getpid()), Nodes: 1, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	b := &bench{options: o, lab: lab, node: lab.Nodes[0]}
	for _, phase := range []func(context.Context) error{b.prepare, b.load, b.announce, b.add, b.resync, b.usage} {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	return b.Broken()
}

// prepare installs the product, and leaves its objects alone: they are not the controller's.
func (b *bench) prepare(ctx context.Context) error {
	product, err := b.lab.Install(ctx, cluster.InstallOptions{})
	if err != nil {
		return err
	}
	b.speaker = product.Speakers[b.node.Name()]
	for _, p := range []*sandbox.Process{b.speaker, product.Controllers[0]} {
		if err := p.Stop(cluster.StopGrace); err != nil {
			return err
		}
	}
	config := b.lab.RESTConfig()
	config.ContentType = runtime.ContentTypeProtobuf
	if b.kube, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	b.make = load.Maker{Kube: b.kube, API: b.lab.API, Namespace: namespace, Pool: namespace, Node: b.node.Name()}
	if err := b.lab.CreateNamespace(ctx, namespace); err != nil {
		return err
	}
	for i, place := range []cluster.RouterPlace{cluster.Gateway, cluster.Beside} {
		r, err := b.lab.AddRouter(ctx, cluster.RouterConfig{Kind: router.FRR, Place: place, BGP: router.Config{
			ASN: 64512, Neighbors: []router.Neighbor{{Range: cluster.LAN4, Passive: true}},
		}})
		if err != nil {
			return err
		}
		b.routers = append(b.routers, r)
		if err := b.lab.API.Create(ctx, &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("router%d", i+1)}, Spec: v1alpha1.BGPPeerSpec{
			LocalASN: ptr.To[int64](64500), PeerASN: "64512", PeerAddress: r.IPv4.String(),
		}}); err != nil {
			return err
		}
	}
	return nil
}

// load makes the Services with addresses that the speaker is to find.
func (b *bench) load(ctx context.Context) error {
	pool := &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	want := b.routes + b.added + 1
	for i := 0; i < cluster.PoolRanges && len(b.addrs) < want; i++ {
		p, _ := cluster.RoutedRange(i)
		pool.Spec.Addresses = append(pool.Spec.Addresses, v1alpha1.AddressRange(p.String()))
		for a := p.Addr(); p.Contains(a) && len(b.addrs) < want; a = a.Next() {
			b.addrs = append(b.addrs, a)
		}
	}
	if len(b.addrs) < want {
		return fmt.Errorf("there are only %d addresses", len(b.addrs))
	}
	if err := b.lab.API.Create(ctx, pool); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(load.AtOnce)
	for i, a := range b.addrs[:b.routes] {
		g.Go(func() error {
			svc, err := b.make.Service(ctx, i)
			if err != nil {
				return err
			}
			_, err = b.make.Bind(ctx, a, svc)
			return err
		})
	}
	return g.Wait()
}

// usage tells what all that took.
func (b *bench) usage(context.Context) error {
	u, err := meter.UsageOf(b.speaker.PID())
	if err != nil {
		return err
	}
	// What a limit has to leave room for: the program's file is in memory once for all that run it, or not at all.
	own := u.Peak - u.File
	report.Row("peak of memory", "%8.1f MB, and %.1f MB of the program's file", float64(own)/(1<<20), float64(u.File)/(1<<20))
	report.Row("CPU time of all that", "%8.2f s", u.CPU.Seconds())
	b.Promise(own < mostMemory, "the speaker needed %d MB of memory", own>>20)
	return nil
}
