// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a real Kubernetes control plane over network namespaces of one Linux machine: etcd, the API server,
// the controller manager, and nodes with a real kube-proxy and backends, on a LAN with a client and a router.
//
// A lab touches nothing of the machine's own network, and neither its processes nor its namespaces outlive the process that
// has it (package sandbox). What it replaces is small: there is no scheduler, no kubelet and no container, so the lab itself
// writes Node and Pod status, renews leases, and starts backends as plain processes.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/test/lab/binaries"
	"github.com/fairlead-lb/fairlead/test/lab/router"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// ProxyMode is kube-proxy's mode.
type ProxyMode string

// The modes that a lab knows.
const (
	NFTables ProxyMode = "nftables"
	IPTables ProxyMode = "iptables"
)

// MaxNodes is the most nodes that a lab can have.
const MaxNodes = 16

// Config says what lab to start. The zero value is a lab "default" of three dual-stack nodes in nftables mode.
type Config struct {
	Name      string
	Nodes     int // 1 to MaxNodes
	ProxyMode ProxyMode
	Family    Family
	NodeGrace time.Duration // from a node's last heartbeat to NotReady, whole seconds; 4 s
	Log       io.Writer     // progress, for people; nil is silence
	Gateway   router.Kind   // the LAN's router takes routes by BGP from whoever is on the LAN, as AS 64512; not if empty
	SecondLAN bool          // nodes and the client have an eth1 on a LAN of its own
	KeepState bool          // leave the folder with the logs behind on Close
}

func (c *Config) complete() error {
	if c.Name == "" {
		c.Name = "default"
	}
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if c.ProxyMode == "" {
		c.ProxyMode = NFTables
	}
	if c.Family == "" {
		c.Family = Dual
	}
	if c.NodeGrace == 0 {
		c.NodeGrace = 4 * time.Second
	}
	if c.Log == nil {
		c.Log = io.Discard
	}
	if err := checkName(c.Name); err != nil {
		return err
	}
	if c.Nodes < 1 || c.Nodes > MaxNodes {
		return fmt.Errorf("lab %s: %d nodes: want 1 to %d", c.Name, c.Nodes, MaxNodes)
	}
	if c.ProxyMode != NFTables && c.ProxyMode != IPTables {
		return fmt.Errorf("lab %s: proxy mode %q: want %s or %s", c.Name, c.ProxyMode, NFTables, IPTables)
	}
	if c.Family != IPv4 && c.Family != IPv6 && c.Family != Dual {
		return fmt.Errorf("lab %s: family %q: want %s, %s or %s", c.Name, c.Family, IPv4, IPv6, Dual)
	}
	if c.Gateway != "" && c.Gateway != router.FRR && c.Gateway != router.BIRD {
		return fmt.Errorf("lab %s: router %q: want %s or %s", c.Name, c.Gateway, router.FRR, router.BIRD)
	}
	if c.NodeGrace < 2*heartbeatPeriod || c.NodeGrace%time.Second != 0 {
		return fmt.Errorf("lab %s: node grace %s: want whole seconds, at least %s", c.Name, c.NodeGrace, 2*heartbeatPeriod)
	}
	return nil
}

// Lab is a running cluster. Its fields are fixed once Start has returned it.
type Lab struct {
	Dir string // state and logs

	Control *Host // etcd, API server, controller manager
	Nodes   []*Node
	Client  *Host
	Router  *Host
	Far     *Host // behind the router

	Kube kubernetes.Interface // as administrator
	API  client.Client        // as administrator, reading without a cache; for Fairlead's kinds, too

	cfg   Config
	repo  string
	log   logr.Logger
	state *state
	box   *sandbox.Sandbox
	lan   *sandbox.Namespace

	routerFar *Host // the router by its link to the far host's network

	programs binaries.Set
	pki      *pki
	manager  *sandbox.Process
	control  *http.Server // nil until the lab is up

	installing sync.Mutex // held by an installation; guards what follows
	product    *Product
	speaker    workload

	losses losses

	mu              sync.Mutex
	controllerHosts []*Host
	moreClients     []*Host
	routers         []*Router
	cables          int // point-to-point, so far

	closeOnce sync.Once
	closeErr  error
}

// Start starts a lab and returns when its nodes are Ready and their kube-proxies healthy. It builds and installs what is
// missing first. A lab of that name that runs already is a *RunningError; what a crashed one left behind is removed.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab needs root, for its network namespaces")
	}
	repo, err := RepositoryRoot()
	if err != nil {
		return nil, err
	}
	state, err := takeState(cfg.Name)
	if err != nil {
		return nil, err
	}
	sweepOld()
	l := &Lab{Dir: state.dir, cfg: cfg, repo: repo, state: state}
	l.log = funcr.New(func(prefix, args string) { fmt.Fprintln(cfg.Log, "lab:", args) }, funcr.Options{})
	if err := l.boot(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting lab %s: %w", cfg.Name, err), l.Close())
	}
	return l, nil
}

// Close ends every process, and with them the lab's namespaces, and removes its folder. Later calls do nothing.
func (l *Lab) Close() error {
	l.closeOnce.Do(func() {
		if l.control != nil {
			_ = l.control.Close() // its socket goes with the folder
		}
		for _, n := range l.Nodes {
			n.StopHeartbeat()
		}
		if l.box != nil {
			l.closeErr = l.box.Close()
		}
		l.closeErr = errors.Join(l.closeErr, l.state.release(l.cfg.KeepState))
	})
	return l.closeErr
}

// RepositoryRoot finds the Fairlead repository that the working directory is in.
func RepositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		gomod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(gomod), "module github.com/fairlead-lb/fairlead\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("finding the repository: run this inside a clone of github.com/fairlead-lb/fairlead")
		}
	}
}

func (l *Lab) boot(ctx context.Context) error {
	started := time.Now()
	if err := binaries.EnsurePackages(ctx, l.cfg.Log); err != nil {
		return err
	}
	var err error
	if l.programs, err = binaries.Ensure(ctx, l.repo, l.cfg.Log); err != nil {
		return err
	}
	built := time.Now()
	// Far above what a busy machine needs: a lab that hangs should say what it waits for.
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("the lab did not come up in 3 minutes"))
	defer cancel()
	if err := l.wire(); err != nil {
		return err
	}
	if l.cfg.Gateway != "" {
		if err := l.openGateway(ctx); err != nil {
			return err
		}
	}
	if err := l.startControlPlane(ctx); err != nil {
		return err
	}
	var g *errgroup.Group
	g, ctx = errgroup.WithContext(ctx)
	for _, n := range l.Nodes {
		g.Go(func() error {
			if err := n.Register(ctx); err != nil {
				return err
			}
			if err := n.startProxy(); err != nil {
				return err
			}
			return n.awaitReady(ctx)
		})
	}
	g.Go(func() error { return l.awaitControllers(ctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.serve(); err != nil {
		return err
	}
	fmt.Fprintf(l.cfg.Log, "lab: %s is up: %d nodes, kube-proxy %s, %s; %.1f s", l.cfg.Name, l.cfg.Nodes, l.cfg.ProxyMode, l.cfg.Family, time.Since(built).Seconds())
	if prep := built.Sub(started); prep > time.Second {
		fmt.Fprintf(l.cfg.Log, " after %s for programs and packages", prep.Round(time.Second))
	}
	fmt.Fprintln(l.cfg.Log)
	return nil
}

// wire makes the LAN and everything that is plugged into it.
func (l *Lab) wire() error {
	var err error
	if l.box, err = sandbox.New(); err != nil {
		return err
	}
	bridges := []string{bridgeName, farBridgeName}
	if l.cfg.SecondLAN {
		bridges = append(bridges, secondBridgeName)
	}
	if l.lan, err = addLANs(l.box, bridges...); err != nil {
		return err
	}
	if l.Router, err = l.addHost("router", 0, 1); err != nil {
		return err
	}
	if l.Control, err = l.addHost("control", 0, 2); err != nil {
		return err
	}
	if l.Client, err = l.addHost("client", 0, 3); err != nil {
		return err
	}
	if l.Far, err = l.addFar(); err != nil {
		return err
	}
	for i := 1; i <= l.cfg.Nodes; i++ {
		h, err := l.addHost(fmt.Sprintf("node%d", i), 1, byte(i))
		if err != nil {
			return err
		}
		if l.cfg.SecondLAN {
			if err := h.addSecondLink(1, byte(i)); err != nil {
				return err
			}
		}
		l.Nodes = append(l.Nodes, &Node{Host: h, lab: l, number: i, pods: map[string]*Pod{}})
	}
	if l.cfg.SecondLAN {
		if err := l.Client.addSecondLink(0, 3); err != nil {
			return err
		}
	}
	return l.routePods()
}
