// SPDX-License-Identifier: Apache-2.0

// Command fairlead-speaker announces a node's share of the addresses.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/fairlead-lb/fairlead/internal/apiserver"
	"github.com/fairlead-lb/fairlead/speaker/agent"
	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
	"github.com/fairlead-lb/fairlead/speaker/mesh/udp"
	"github.com/fairlead-lb/fairlead/speaker/preflight"
	"github.com/fairlead-lb/fairlead/speaker/record"
	"github.com/fairlead-lb/fairlead/speaker/report"
	"github.com/fairlead-lb/fairlead/speaker/source"
	"github.com/fairlead-lb/fairlead/speaker/standing"
)

type flags struct {
	kubeconfig         string
	nodeName           string
	metricsAddress     string
	probeAddress       string
	meshPort           uint
	meshKeyFile        string
	meshUnicast        bool
	meshAcceptUnsigned bool
	stateFile          string
	passwordSecrets    string
	// pod is the Pod that the program runs in; empty if it runs in none.
	pod types.NamespacedName
	zap zap.Options
}

// Garbage is collected seldom while the cluster is read, which is to be fast, and
// often later: nearly all of the heap is what was read, and stays.
const (
	readGCPercent = 100
	gcPercent     = 30
)

// setGCPercent is debug.SetGCPercent unless the environment says.
func setGCPercent(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

func main() {
	setGCPercent(readGCPercent)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f, err := parse(os.Args[1:], os.Getenv, os.Stdout)
	if err == nil {
		err = run(ctx, f)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "fairlead-speaker:", err)
		os.Exit(1)
	}
}

// parse reads the flags and the environment. Asked for help it prints that and
// returns flag.ErrHelp.
func parse(args []string, env func(name string) string, help io.Writer) (flags, error) {
	// What is logged as an error is trouble around us; where in the program it
	// was noticed helps nobody.
	f := flags{
		pod: types.NamespacedName{Namespace: env("POD_NAMESPACE"), Name: env("POD_NAME")},
		zap: zap.Options{StacktraceLevel: zapcore.PanicLevel},
	}
	fs := flag.NewFlagSet("fairlead-speaker", flag.ContinueOnError)
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file; inside a cluster the Pod's ServiceAccount is used without one")
	fs.StringVar(&f.nodeName, "node-name", env("NODE_NAME"), "name of the Node that this speaker is on; $NODE_NAME by default")
	fs.StringVar(&f.metricsAddress, "metrics-bind-address", ":7473", "address of the Prometheus endpoint /metrics; 0 turns it off")
	fs.StringVar(&f.probeAddress, "health-probe-bind-address", ":7474", "address of /healthz and /readyz; 0 turns them off")
	fs.UintVar(&f.meshPort, "mesh-port", 7475, "UDP port on which speakers hear each other; the same on all nodes")
	fs.StringVar(&f.meshKeyFile, "mesh-key-file", "", "file with secrets of at least 16 bytes, one on each line: the first signs what this speaker says to others, and any is accepted from them")
	fs.BoolVar(&f.meshAcceptUnsigned, "mesh-accept-unsigned", false, "accept what other speakers say unsigned, too, until all of them have a key")
	fs.BoolVar(&f.meshUnicast, "mesh-unicast", false, "speak to each known speaker by itself, where the network drops multicast")
	fs.StringVar(&f.stateFile, "state-file", "", "file that keeps what is known of the cluster, so that a speaker which starts while the API server is away can announce; none by default")
	fs.StringVar(&f.passwordSecrets, "bgp-password-secrets", "", "comma-separated names of the Secrets in $POD_NAMESPACE that passwords of BGPPeers may be in")
	f.zap.BindFlags(fs)

	fs.SetOutput(io.Discard) // an error is one line, without the usage
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fs.SetOutput(help)
		fs.PrintDefaults()
		return f, err
	case err != nil:
		return f, err
	case fs.NArg() > 0:
		return f, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case f.meshPort == 0 || f.meshPort > math.MaxUint16:
		return f, fmt.Errorf("--mesh-port %d is no UDP port", f.meshPort)
	case f.passwordSecrets != "" && f.pod.Namespace == "":
		return f, errors.New("which namespace are the Secrets of --bgp-password-secrets in? Set POD_NAMESPACE")
	case f.nodeName == "":
		return f, errors.New("which node is this? Give --node-name or set NODE_NAME")
	}
	return f, nil
}

// run is a speaker until ctx is done.
func run(ctx context.Context, f flags) error {
	config, err := apiserver.Config(f.kubeconfig, "fairlead-speaker")
	if err != nil {
		return err
	}
	keys, err := readKeys(f.meshKeyFile)
	if err != nil {
		return err
	}
	if err := l2.Check(); err != nil {
		return fmt.Errorf("%w (the capability NET_RAW is needed)", err)
	}
	log := zap.New(zap.UseFlagOptions(&f.zap)).WithValues("node", f.nodeName)
	ctrl.SetLogger(log)
	klog.SetLogger(log)

	scheme, err := source.Scheme()
	if err != nil {
		return err
	}
	api, err := client.New(config, client.Options{Scheme: scheme, Mapper: source.Mapper()})
	if err != nil {
		return fmt.Errorf("make the API client: %w", err)
	}
	var speaker *agent.Agent
	stand := standing.New(log, api, f.nodeName, f.pod, func(refused bool) {
		if refused {
			speaker.Leave(mesh.Ousted)
		} else {
			speaker.Leave(mesh.Stay)
		}
	})
	options, err := source.CacheOptions(config, scheme)
	if err != nil {
		return err
	}
	options.DefaultWatchErrorHandler = stand.WatchError
	informers, err := cache.New(config, options)
	if err != nil {
		return fmt.Errorf("make the cluster's cache: %w", err)
	}

	secrets, err := passwordSecrets(config, f)
	if err != nil {
		return err
	}
	src := source.New(log, informers, f.stateFile, secrets, func() { setGCPercent(gcPercent) })
	self := source.NewSelf(informers, f.nodeName)
	seen := record.New(log, metrics.Registry, api, f.nodeName)
	reporter := report.New(log, f.nodeName, self, api)
	routers := newRouters(log, metrics.Registry, f.nodeName, preserved(ctx), reporter.SetSessions)
	settings := preflight.New(log, metrics.Registry, reporter.SetConditions)
	speaker = agent.New(agent.Options{
		Log:      log,
		Registry: metrics.Registry,
		Mesh: mesh.Config{
			Node: f.nodeName, Boot: uint64(time.Now().UnixNano()),
			Keys: keys, AcceptUnsigned: f.meshAcceptUnsigned, Unicast: f.meshUnicast,
		},
		Source:   src,
		Recorder: agent.NewRecorder(log, metrics.Registry, api),
		Seen:     seen,
		Router:   routers.routing,
		Segments: settings.Set,
		Peers:    reporter.SetMesh,
		Doubt:    stand.Doubt,
		Responder: func(sighted func(l2.Sighting)) agent.Responder {
			return l2.New(log, metrics.Registry, l2.Kernel{}, sighted)
		},
		Transport: func(deliver func(udp.Datagram)) agent.Transport {
			return udp.New(log, metrics.Registry, uint16(f.meshPort), deliver)
		},
	})
	links := link.NewWatcher(log, func(links []link.Link) {
		speaker.SetLinks(links)
		reporter.SetLinks(links)
	})

	servers, err := listen(f, metrics.Registry, speaker.Alive, speaker.Ready)
	if err != nil {
		return err
	}
	// What is asked to end hands over before it does.
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, work := errgroup.WithContext(work)
	for _, part := range []func(context.Context) error{
		abandon(informers.Start), abandon(secrets.Run), src.Run, self.Run, links.Run, stand.Run, speaker.Run, routers.run, seen.Run, reporter.Run, settings.Run, servers.run,
	} {
		g.Go(func() error { return part(work) })
	}
	log.Info("Started")
	select {
	case <-ctx.Done():
		leave(work, log, speaker, routers, stand)
		end()
	case <-work.Done():
	}
	if err := g.Wait(); err != nil {
		return err
	}
	log.Info("Stopped")
	return nil
}

// abandon returns when ctx is done, also if the function doesn't. An informer
// that is waiting to ask an API server which is away ends up to half a minute
// late.
func abandon(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- f(ctx) }()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}
