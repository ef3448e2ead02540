// SPDX-License-Identifier: Apache-2.0

// Package examples_test runs the router configurations that the documentation shows.
package examples_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

const (
	page = "../../docs/bgp-routers.md"
	// patience is for one thing to come about, on a busy machine.
	patience = 90 * time.Second
)

// cable is the name that a cable between a node and the router has at both ends.
const cable = "p2p1"

// inLab has addresses and names of the page be those of a lab.
func inLab(text string) string {
	pool4, pool6 := cluster.RoutedRange(0)
	return strings.NewReplacer(
		"192.0.2.0/24", cluster.LAN4.String(), "192.0.2.1", "10.89.0.1", "2001:db8::/64", cluster.LAN6.String(),
		"203.0.113.0/24", pool4.String(), "2001:db8:113::/64", pool6.String(),
		"eth1", cable, "swp1", cable,
	).Replace(text)
}

var block = regexp.MustCompile("(?ms)^#+ ([^\n]*)$|^```(yaml|frr|bird)\n(.*?)^```$")

// example is a configuration, with the heading above it and the objects that go with it.
type example struct {
	name, objects, config string
	kind                  router.Kind
}

// read returns the examples of the page. What comes before the first BGPPeer is of all.
func read(t *testing.T) (common string, examples []example) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]router.Kind{"frr": router.FRR, "bird": router.BIRD}
	head := map[string]string{}
	heading, objects := "", ""
	for _, m := range block.FindAllStringSubmatch(string(text), -1) {
		switch language, body := m[2], inLab(m[3]); {
		case language == "":
			heading = m[1]
		case language == "yaml" && !strings.Contains(body, "kind: BGPPeer"):
			common += body
		case language == "yaml":
			objects = body
		case objects == "":
			head[language] = body
		default:
			examples = append(examples, example{name: heading, objects: objects, config: head[language] + body, kind: kinds[language]})
		}
	}
	if len(examples) == 0 {
		t.Fatal("there is no example")
	}
	return common, examples
}

// site is a lab with two nodes, and a Service that they announce.
type site struct {
	*cluster.Lab
	addrs  []netip.Addr
	cabled bool
}

func start(t *testing.T, objects string) *site {
	t.Helper()
	l, err := cluster.Start(t.Context(), cluster.Config{Name: fmt.Sprintf("examples-%d", os.Getpid()), Nodes: 2, Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{Lab: l}
	if _, err := l.Install(t.Context(), cluster.InstallOptions{BinDir: os.Getenv("FAIRLEAD_E2E_BIN")}); err != nil {
		t.Fatal(err)
	}
	s.apply(t, objects)
	if _, err := l.StartBackends(t.Context(), "default", "web"); err != nil {
		t.Fatal(err)
	}
	svc := l.Service("default", "web", "web")
	if err := l.API.Create(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Service has its addresses", func(ctx context.Context) error {
		if err := l.API.Get(ctx, client.ObjectKeyFromObject(svc), svc); err != nil {
			return err
		}
		s.addrs = nil
		for _, in := range svc.Status.LoadBalancer.Ingress {
			a, err := netip.ParseAddr(in.IP)
			if err != nil {
				return err
			}
			s.addrs = append(s.addrs, a)
		}
		if len(s.addrs) != 2 {
			return fmt.Errorf("they are %v", s.addrs)
		}
		return nil
	})
	return s
}

func (s *site) apply(t *testing.T, objects string) {
	t.Helper()
	if _, err := s.KubectlInput(t.Context(), objects, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

func (s *site) remove(t *testing.T, objects string) {
	t.Helper()
	if _, err := s.KubectlInput(t.Context(), objects, "delete", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// connect lays a cable from the first node to the router, and has the node answer by it.
func (s *site) connect(t *testing.T) {
	t.Helper()
	if s.cabled {
		return
	}
	s.cabled = true
	end, routerEnd, err := s.Connect(s.Nodes[0].Host, s.Router)
	if err != nil {
		t.Fatal(err)
	}
	if end.Interface != cable || routerEnd.Interface != cable {
		t.Fatalf("the cable's ends are %s and %s", end.Interface, routerEnd.Interface)
	}
	for _, network := range []netip.Prefix{cluster.Far4, cluster.Far6} {
		if err := end.RouteBy(network, routerEnd.IPv6); err != nil {
			t.Fatal(err)
		}
	}
}

func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := cluster.Poll(ctx, what, check); err != nil {
		t.Fatal(err)
	}
}

const leaving = `apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata:
  name: leaving
spec:
  communities: [graceful-shutdown]
`

func TestExamplesOfRouters(t *testing.T) {
	common, examples := read(t)
	s := start(t, common)
	for i, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			nodes := s.Nodes
			if strings.Contains(e.objects, "interface:") {
				s.connect(t)
				nodes = nodes[:1]
			}
			r, err := router.Start(t.Context(), e.kind, router.Place{
				Namespace: s.Router.Namespace, Name: fmt.Sprintf("example%d", i), Dir: filepath.Join(s.Dir, "routers", fmt.Sprint(i)), Log: s.LogFile,
			}, router.Config{Text: e.config})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := r.Stop(); err != nil {
					t.Error(err)
				}
			}()
			s.apply(t, e.objects)
			defer s.remove(t, e.objects)
			eventually(t, "every session is watched by BFD", func(ctx context.Context) error {
				sessions, err := r.Sessions(ctx)
				if err != nil {
					return err
				}
				up := 0
				for _, session := range sessions {
					if session.Established() && session.BFD != nil && session.BFD.State == "Up" {
						up++
					}
				}
				if up < len(nodes) {
					return fmt.Errorf("%d of %+v", up, sessions)
				}
				return nil
			})
			for _, a := range s.addrs {
				s.announced(t, r, a, len(nodes))
			}
			s.apply(t, leaving)
			defer s.remove(t, leaving)
			for _, a := range s.addrs {
				eventually(t, fmt.Sprintf("%s prefers others for %s", r.Kind, a), func(ctx context.Context) error {
					paths, err := r.Paths(ctx, netip.PrefixFrom(a, a.BitLen()))
					if err != nil {
						return err
					}
					for _, p := range paths {
						if p.LocalPref == nil || *p.LocalPref != 0 {
							return fmt.Errorf("there is %+v", p)
						}
					}
					if len(paths) != len(nodes) {
						return fmt.Errorf("there are %+v", paths)
					}
					return nil
				})
			}
		})
	}
}

// announced waits until the router's kernel sends what goes to an address to so many nodes, and the far host gets answers.
func (s *site) announced(t *testing.T, r *router.Router, a netip.Addr, nodes int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s sends what goes to %s to %d nodes", r.Kind, a, nodes), func(ctx context.Context) error {
		hops, err := r.KernelRoute(netip.PrefixFrom(a, a.BitLen()))
		if err == nil && len(hops) != nodes {
			paths, failed := r.Paths(ctx, netip.PrefixFrom(a, a.BitLen()))
			err = fmt.Errorf("it is sent to %v; paths %+v, %v", hops, paths, failed)
		}
		return err
	})
	probe := wire.StartProbe(s.Far, "udp", netip.AddrPortFrom(a, 80))
	defer probe.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := probe.AwaitAnswers(ctx, 10); err != nil {
		t.Errorf("nobody answers for %s: %v", a, err)
	}
}
