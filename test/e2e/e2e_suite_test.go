// SPDX-License-Identifier: Apache-2.0

// Package e2e tells what Fairlead does for a cluster, and checks it on one: with the programs and the chart as they are
// installed, through a real API server and real packets.
//
// Specs labelled "lab" stop programs, take nodes away or look at frames, which only the lab lets them do. All others use
// nothing but the API and can run against any cluster.
package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

const (
	// patience is how long a spec waits for what should take well under a second: a busy machine is no bug.
	patience = 15 * time.Second
	// steadily is how long a spec looks on where nothing is to happen.
	steadily = 700 * time.Millisecond
)

// The cluster under test, as every kind of cluster has it.
var (
	api  client.Client        // as administrator, reading without a cache
	kube kubernetes.Interface // as administrator
	// restConfig is for further clients of the administrator.
	restConfig func() *rest.Config
	// poolRange is the i-th range, of poolRanges, that nothing in the cluster's network uses.
	poolRange  func(i int) (v4, v6 netip.Prefix)
	poolRanges int
)

// onLab marks specs that need the lab itself, which they find in lab.
var (
	onLab = Label("lab")
	lab   *site
)

// binDir holds the programs under test. $FAIRLEAD_E2E_BIN names a folder with programs that are built already; otherwise
// they are built from the tree.
var binDir string

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	EnforceDefaultTimeoutsWhenUsingContexts()
	SetDefaultEventuallyTimeout(patience)
	SetDefaultEventuallyPollingInterval(50 * time.Millisecond)
	SetDefaultConsistentlyDuration(steadily)
	SetDefaultConsistentlyPollingInterval(50 * time.Millisecond)
	RunSpecs(t, "Fairlead")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	binDir = os.Getenv("FAIRLEAD_E2E_BIN")
	if binDir == "" {
		binDir = GinkgoT().TempDir()
	}
	lab = startSite(ctx, cluster.Config{Name: "e2e", Nodes: 3}, passwordSecrets)
	api, kube, restConfig = lab.API, lab.Kube, lab.RESTConfig
	poolRange, poolRanges = cluster.PoolRange, cluster.PoolRanges
})

// site is a lab with Fairlead installed.
type site struct {
	*cluster.Lab
	product *cluster.Product
	tors    []*cluster.Router // of specs of BGP
}

// sites are the labs that run, the newest last.
var sites []*site

// startSite starts a lab, which ends with the node of the spec tree that calls this, and installs Fairlead with values set.
func startSite(ctx context.Context, cfg cluster.Config, set ...string) *site {
	GinkgoHelper()
	// Several suites may run on one machine.
	cfg.Name = fmt.Sprintf("%s-%d", cfg.Name, os.Getpid())
	cfg.Log = GinkgoWriter
	started, err := cluster.Start(ctx, cfg)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(started.Close)
	s := &site{Lab: started}
	sites = append(sites, s)
	DeferCleanup(func() { sites = slices.DeleteFunc(sites, func(o *site) bool { return o == s }) })
	product, err := started.Install(ctx, cluster.InstallOptions{BinDir: binDir, Set: set})
	Expect(err).NotTo(HaveOccurred())
	s.product = product
	return s
}
