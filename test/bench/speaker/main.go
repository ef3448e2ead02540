// SPDX-License-Identifier: Apache-2.0

// Command speaker measures a speaker in a lab: what hearing other speakers costs, and what owning many addresses does. It
// prints that, and fails if a bound that Fairlead promises is broken.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-lb/fairlead/test/bench/load"
	"github.com/fairlead-lb/fairlead/test/bench/meter"
	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

const (
	namespace = "bench"
	// patience is for all of it: the machine may be a busy one.
	patience = 30 * time.Minute
	// lull is how long speaker and API server are given to come to rest before they are measured.
	lull = 5 * time.Second
)

// What Fairlead promises.
const (
	readyWithin = 2 * time.Second
	mostMemory  = 80 << 20
	// mostMesh is the share of a core that a mesh of meshNodes may take.
	mostMesh  = 0.02
	meshNodes = 16
)

// meshes are the sizes of those that are measured, the own node counted. That 99 others learn all claims takes the machine
// too long.
var (
	meshes        = []int{3, meshNodes, 100}
	learnedMeshes = meshes[:2]
)

type options struct {
	v4, v6 int
	starts int
	window time.Duration
}

func main() {
	var o options
	flag.IntVar(&o.v4, "ipv4", 10_000, "how many IPv4 addresses the speaker owns")
	flag.IntVar(&o.v6, "ipv6", 5_000, "how many IPv6 addresses it owns, at most as many as IPv4 ones")
	flag.IntVar(&o.starts, "starts", 1, "how often to start the speaker with them")
	flag.DurationVar(&o.window, "window", 20*time.Second, "how long to measure the CPU time of each mesh")
	flag.Parse()
	report.Run("speaker bench", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return run(ctx, o)
	})
}

// bench is a lab with one node and its speaker.
type bench struct {
	report.Promises
	options
	lab     *cluster.Lab
	node    *cluster.Node
	kube    kubernetes.Interface
	make    load.Maker
	speaker *sandbox.Process
	crowd   *cluster.Host // where simulated speakers are
	link    int           // PID of the thread that receives for the node
}

func run(ctx context.Context, o options) (err error) {
	lab, err := cluster.Start(ctx, cluster.Config{Name: fmt.Sprintf("bench-speaker-%d", os.Getpid()), Nodes: 1, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	b := &bench{options: o, lab: lab, node: lab.Nodes[0]}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, phase := range []func(context.Context) error{b.mesh("no addresses", 0, meshes), b.own, b.mesh("with them", o.v4+o.v6, learnedMeshes)} {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	return b.Broken()
}

// prepare installs the product, and leaves the speaker alone on it: its addresses are not the controller's.
func (b *bench) prepare(ctx context.Context) error {
	var err error
	if b.crowd, err = b.lab.AddClient(); err != nil {
		return err
	}
	if b.link, err = b.node.ReceiveByThread(ctx); err != nil {
		return err
	}
	config := b.lab.RESTConfig()
	config.ContentType = runtime.ContentTypeProtobuf
	if b.kube, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	b.make = load.Maker{Kube: b.kube, API: b.lab.API, Namespace: namespace, Pool: namespace, Node: b.node.Name()}
	product, err := b.lab.Install(ctx, cluster.InstallOptions{})
	if err != nil {
		return err
	}
	b.speaker = product.Speakers[b.node.Name()]
	if err := product.Controllers[0].Stop(cluster.StopGrace); err != nil {
		return err
	}
	return errors.Join(b.lab.CreateNamespace(ctx, namespace), b.lab.API.Create(ctx, pool()))
}

// usage is what the speaker has used, and the kernel in receiving for its node.
func (b *bench) usage() (speaker meter.Usage, kernel time.Duration, err error) {
	speaker, err = meter.UsageOf(b.speaker.PID())
	if err != nil {
		return speaker, 0, err
	}
	kernel, err = meter.Ran(b.link)
	return speaker, kernel, err
}

// spent is which share of a core speaker and kernel use over a time.
func (b *bench) spent(ctx context.Context, window time.Duration) (speaker, kernel float64, err error) {
	start := time.Now()
	before, kernelBefore, err := b.usage()
	if err != nil {
		return 0, 0, err
	}
	if !pause(ctx, window) {
		return 0, 0, ctx.Err()
	}
	after, kernelAfter, err := b.usage()
	took := time.Since(start)
	return float64(after.CPU-before.CPU) / float64(took), float64(kernelAfter-kernelBefore) / float64(took), err
}

// pause reports whether the time went by before ctx was done.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
