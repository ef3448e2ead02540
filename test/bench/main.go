// SPDX-License-Identifier: Apache-2.0

// Command bench gives many Services addresses at once in a lab, lets the controller go through what it meets later, and
// prints how long that takes and what it costs. It fails if a bound that Fairlead promises is broken.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

const (
	namespace = "bench"
	// nodes is how many nodes there are.
	nodes = 3
	// atOnce is how many requests of the bench itself are under way at a time.
	atOnce = 16
	// patience is for one phase: all share the machine, and it may be a busy one.
	patience = 15 * time.Minute
)

// What Fairlead promises for 5,000 Services.
const (
	mostWrites  = 5 // per Service
	readyWithin = 5 * time.Second
	mostMemory  = 150 << 20
)

func main() {
	count := flag.Int("services", 5000, "how many Services to create")
	flag.Parse()
	report.Run("bench", func(ctx context.Context) error { return run(ctx, *count) })
}

// bench is a lab with Fairlead and what has been seen of it.
type bench struct {
	report.Promises
	lab        *cluster.Lab
	kube       kubernetes.Interface
	controller *sandbox.Process
	count      int
	peak       int64 // of the controller's memory
}

func run(ctx context.Context, count int) (err error) {
	lab, err := cluster.Start(ctx, cluster.Config{Name: fmt.Sprintf("bench-%d", os.Getpid()), Nodes: nodes, Family: cluster.IPv4, NodeGrace: 20 * time.Second, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	product, err := lab.Install(ctx, cluster.InstallOptions{})
	if err != nil {
		return err
	}
	config := lab.RESTConfig()
	config.ContentType = runtime.ContentTypeProtobuf // what is measured is not this client
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	b := &bench{lab: lab, kube: kube, controller: product.Controllers[0], count: count}
	if err := errors.Join(lab.CreateNamespace(ctx, namespace), lab.API.Create(ctx, pool())); err != nil {
		return err
	}
	fmt.Printf("%d Services without node ports, %d nodes, a pool of a /16\n", count, nodes)
	for _, phase := range []func(context.Context) error{b.create, b.editPool, b.restart, b.remove} {
		ctx, cancel := context.WithTimeout(ctx, patience)
		err := phase(ctx)
		cancel()
		if err != nil {
			return err
		}
	}
	fmt.Printf("the controller's peak of memory      %8d MB\n", b.peak>>20)
	b.Promise(b.peak < mostMemory, "the controller needed %d MB of memory", b.peak>>20)
	return b.Broken()
}

// pool is the whole LAN but what the lab itself has of it.
func pool() *v1alpha1.LoadBalancerIPPool {
	hosts := netip.PrefixFrom(cluster.LAN4.Addr(), 20)
	return &v1alpha1.LoadBalancerIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec: v1alpha1.LoadBalancerIPPoolSpec{
			Addresses: []v1alpha1.AddressRange{v1alpha1.AddressRange(cluster.LAN4.String())},
			Exclude:   []v1alpha1.AddressRange{v1alpha1.AddressRange(hosts.String())},
		},
	}
}
