// SPDX-License-Identifier: Apache-2.0

// Command fairlead-controller gives Services of type LoadBalancer their addresses.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
	"github.com/fairlead-lb/fairlead/internal/apiserver"
)

type flags struct {
	kubeconfig     string
	metricsAddress string
	probeAddress   string
	class          string
	defaultClass   bool
	leaderElect    bool
	leaseNamespace string
	workers        int
	peers          []controller.Peer
	zap            zap.Options
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f, err := parse(os.Args[1:], os.Stdout)
	if err == nil {
		err = run(ctx, f)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "fairlead-controller:", err)
		os.Exit(1)
	}
}

func parse(args []string, out io.Writer) (flags, error) {
	// What is logged as an error is trouble around us; where in the program it
	// was noticed helps nobody.
	f := flags{zap: zap.Options{StacktraceLevel: zapcore.PanicLevel}}
	fs := flag.NewFlagSet("fairlead-controller", flag.ContinueOnError)
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file; inside a cluster the Pod's ServiceAccount is used without one")
	fs.StringVar(&f.metricsAddress, "metrics-bind-address", ":7471", "address of the Prometheus endpoint /metrics; 0 turns it off")
	fs.StringVar(&f.probeAddress, "health-probe-bind-address", ":7472", "address of /healthz and /readyz; 0 turns them off")
	fs.StringVar(&f.class, "load-balancer-class", v1alpha1.DefaultLoadBalancerClass, "spec.loadBalancerClass that is served")
	fs.BoolVar(&f.defaultClass, "default-class", true, "serve Services without a spec.loadBalancerClass, too")
	fs.BoolVar(&f.leaderElect, "leader-elect", true, "work only while holding the lease, so that of several replicas one works")
	fs.StringVar(&f.leaseNamespace, "leader-election-namespace", "", "namespace of the lease; the Pod's own by default")
	fs.IntVar(&f.workers, "workers", 32, "how many Services, and how many addresses, are worked on at once")
	fs.Func("compat-annotations", "comma list of metallb, cilium and kube-vip: load balancers whose annotations of Services are understood, too; ours are followed first, then those of the first in the list", func(s string) (err error) {
		f.peers, err = controller.ParsePeers(s)
		return err
	})
	f.zap.BindFlags(fs)

	// One clear line instead of the usage.
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fs.SetOutput(out)
		fs.PrintDefaults()
		return f, err
	case err != nil:
		return f, err
	case fs.NArg() > 0:
		return f, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case f.class == "":
		return f, fmt.Errorf("--load-balancer-class must not be empty: name the class to serve, such as %s", v1alpha1.DefaultLoadBalancerClass)
	case len(validation.IsQualifiedName(f.class)) > 0:
		return f, fmt.Errorf("--load-balancer-class: no Service can be of class %q: name one such as %s", f.class, v1alpha1.DefaultLoadBalancerClass)
	case f.workers < 1:
		return f, fmt.Errorf("--workers must be at least 1, not %d", f.workers)
	}
	return f, nil
}

func run(ctx context.Context, f flags) error {
	log := zap.New(zap.UseFlagOptions(&f.zap))
	ctrl.SetLogger(log)
	klog.SetLogger(log)

	config, err := apiserver.Config(f.kubeconfig, "fairlead-controller")
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Metrics:                       metricsserver.Options{BindAddress: f.metricsAddress},
		HealthProbeBindAddress:        f.probeAddress,
		LeaderElection:                f.leaderElect,
		LeaderElectionID:              "fairlead-controller",
		LeaderElectionNamespace:       f.leaseNamespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       new(5 * time.Second),
		Cache:                         cacheOptions(),
	})
	if err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	c, err := controller.Add(ctx, mgr, controller.Options{
		Classes: controller.Classes{Class: f.class, Default: f.defaultClass},
		Workers: f.workers,
		Peers:   f.peers,
	})
	if err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("filled", c.Ready); err != nil {
		return err
	}
	return mgr.Start(ctx)
}
