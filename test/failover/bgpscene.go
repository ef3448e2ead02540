// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

const (
	routersASN, nodesASN = 64512, 64600
	bfdInterval          = 100 * time.Millisecond
	bfdMultiplier        = 3
	// holdTime is that of every session, and connectTime how soon a session is tried again.
	holdTime, connectTime = 9 * time.Second, time.Second
	// routedServices is how many Services there are; the flows go to one of them.
	routedServices = 3
)

// bgpScene is a lab with Fairlead and Services that every node announces to every router. Their backend is on a host of the
// LAN, where nothing is ever done to it.
type bgpScene struct {
	variant
	lab     *cluster.Lab
	product *cluster.Product
	echo    *wire.Echo
	routers []*cluster.Router
	addrs   []netip.Addr // of all Services and families
	targets []netip.Addr // one of each family
}

// newBGPScene starts a lab and waits until every router uses every node.
func newBGPScene(ctx context.Context, c common, nodes int, v variant) (s *bgpScene, err error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("failover-%d-%s-%d-%s", os.Getpid(), strings.ToLower(string(v.kind)), v.routers, onOff(v.bfd))
	lab, err := cluster.Start(ctx, cluster.Config{Name: name, Nodes: nodes, Family: c.families, Log: c.log(), Scheme: scheme})
	if err != nil {
		return nil, err
	}
	s = &bgpScene{variant: v, lab: lab}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.echo, err = wire.StartEcho(lab.Client.Namespace, cluster.BackendPort); err != nil {
		return nil, err
	}
	if err := s.addRouters(ctx); err != nil {
		return nil, err
	}
	if s.product, err = lab.Install(ctx, c.install); err != nil {
		return nil, err
	}
	if err := s.createPeers(ctx); err != nil {
		return nil, err
	}
	if err := s.createServices(ctx); err != nil {
		return nil, err
	}
	return s, s.steady(ctx)
}

func (s *bgpScene) close() error {
	var err error
	if s.echo != nil {
		err = s.echo.Close()
	}
	return errors.Join(err, s.lab.Close())
}

// addRouters makes the LAN's gateway a router, and sets others beside it.
func (s *bgpScene) addRouters(ctx context.Context) error {
	for i := range s.variant.routers {
		place := cluster.Beside
		if i == 0 {
			place = cluster.Gateway
		}
		// One session carries both families.
		n := router.Neighbor{Range: cluster.LAN4, Passive: true, IPv4: s.lab.Client.IPv4.IsValid(), IPv6: s.lab.Client.IPv6.IsValid(), HoldTime: holdTime}
		if !n.IPv4 {
			n.Range = cluster.LAN6
		}
		if s.bfd {
			n.BFD = &router.BFD{Interval: bfdInterval, Multiplier: bfdMultiplier}
		}
		r, err := s.lab.AddRouter(ctx, cluster.RouterConfig{
			Kind: s.kind, Place: place, BGP: router.Config{ASN: routersASN, Neighbors: []router.Neighbor{n}},
		})
		if err != nil {
			return err
		}
		s.routers = append(s.routers, r)
	}
	return s.lab.SendFarBy(s.routers...)
}

// createPeers has every node talk to every router.
func (s *bgpScene) createPeers(ctx context.Context) error {
	spec := v1alpha1.BGPPeerSpec{
		LocalASN: ptr.To[int64](nodesASN), PeerASN: v1alpha1.PeerASNExternal,
		HoldTime: &metav1.Duration{Duration: holdTime}, ConnectTime: &metav1.Duration{Duration: connectTime},
	}
	if s.bfd {
		profile := &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Spec: v1alpha1.BFDProfileSpec{
			ReceiveInterval: &metav1.Duration{Duration: bfdInterval}, TransmitInterval: &metav1.Duration{Duration: bfdInterval},
			DetectMultiplier: bfdMultiplier,
		}}
		if err := s.lab.API.Create(ctx, profile); err != nil {
			return err
		}
		spec.BFDProfile = profile.Name
	}
	for _, r := range s.routers {
		peer := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: r.Name()}, Spec: spec}
		peer.Spec.PeerAddress = r.Addr().String()
		if err := s.lab.API.Create(ctx, peer); err != nil {
			return err
		}
	}
	return nil
}

func (s *bgpScene) createServices(ctx context.Context) error {
	v4, v6 := cluster.RoutedRange(0)
	pool := &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: "routed"}}
	for _, p := range []struct {
		of netip.Addr
		is netip.Prefix
	}{{s.lab.Client.IPv4, v4}, {s.lab.Client.IPv6, v6}} {
		if p.of.IsValid() {
			pool.Spec.Addresses = append(pool.Spec.Addresses, v1alpha1.AddressRange(p.is.String()))
		}
	}
	if err := s.lab.API.Create(ctx, pool); err != nil {
		return err
	}
	for i := range routedServices {
		svc := s.lab.Service(namespace, fmt.Sprintf("web-%d", i), "")
		if err := s.lab.API.Create(ctx, svc); err != nil {
			return err
		}
		if err := s.lab.CreateSlicesTo(ctx, client.ObjectKeyFromObject(svc), s.lab.Client); err != nil {
			return err
		}
		if err := await(ctx, svc.Name+" has its addresses", func(ctx context.Context) error {
			if err := s.lab.API.Get(ctx, client.ObjectKeyFromObject(svc), svc); err != nil {
				return err
			}
			if len(svc.Status.LoadBalancer.Ingress) < len(pool.Spec.Addresses) {
				return fmt.Errorf("it has %v", svc.Status.LoadBalancer.Ingress)
			}
			return nil
		}); err != nil {
			return err
		}
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			addr, err := netip.ParseAddr(ingress.IP)
			if err != nil {
				return err
			}
			s.addrs = append(s.addrs, addr)
		}
	}
	s.targets = s.addrs[:len(pool.Spec.Addresses)]
	return nil
}

// steady waits until nothing is wrong and nothing is going on any more: nodes and speakers are ready, and every router has
// its sessions and the routes of all nodes, none of them from before a restart, and no others.
func (s *bgpScene) steady(ctx context.Context) error {
	if err := await(ctx, "all nodes and speakers are ready", s.ready); err != nil {
		return err
	}
	for _, r := range s.routers {
		if err := await(ctx, r.Name()+" has its sessions", func(ctx context.Context) error { return s.connected(ctx, r) }); err != nil {
			return err
		}
		if err := await(ctx, r.Name()+" has the routes of all nodes", func(ctx context.Context) error { return s.uses(ctx, r, s.lab.Nodes) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *bgpScene) ready(ctx context.Context) error {
	nodes := &corev1.NodeList{}
	if err := s.lab.API.List(ctx, nodes); err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if len(n.Spec.Taints) > 0 {
			return fmt.Errorf("%s has taints %v", n.Name, n.Spec.Taints)
		}
	}
	for _, n := range s.lab.Nodes {
		if err := s.lab.SpeakerReady(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// connected checks the router's sessions with all nodes.
func (s *bgpScene) connected(ctx context.Context, r *cluster.Router) error {
	for _, n := range s.lab.Nodes {
		session, err := r.BGP.Session(ctx, n.Addr())
		switch {
		case err != nil:
			return err
		case !session.Established():
			return fmt.Errorf("that with %s is %s, %s", n.Name(), session.State, session.LastError)
		case session.Restart.Waiting:
			return fmt.Errorf("%s has not sent all since its restart", n.Name())
		case s.bfd && (session.BFD == nil || session.BFD.State != "Up"):
			return fmt.Errorf("BFD with %s is %+v", n.Name(), session.BFD)
		}
	}
	return nil
}

// uses checks that the router, and its kernel, send what goes to all addresses to these nodes and to no others.
func (s *bgpScene) uses(ctx context.Context, r *cluster.Router, nodes []*cluster.Node) error {
	table, err := r.BGP.Table(ctx)
	if err != nil {
		return err
	}
	paths := map[netip.Prefix]int{}
	for _, p := range table {
		paths[p.Prefix]++
		by := slices.IndexFunc(nodes, func(n *cluster.Node) bool { return n.Addr() == p.Neighbor })
		switch {
		case by < 0:
			return fmt.Errorf("%s by %s", p.Prefix, p.Neighbor)
		case p.Stale:
			return fmt.Errorf("%s by %s is stale", p.Prefix, nodes[by].Name())
		}
	}
	for _, a := range s.addrs {
		prefix := prefixOf(a)
		if paths[prefix] != len(nodes) {
			return fmt.Errorf("%d paths to %s", paths[prefix], prefix)
		}
		hops, err := r.BGP.KernelRoute(prefix)
		if err != nil {
			return err
		}
		if len(hops) != len(nodes) {
			return fmt.Errorf("the kernel's hops to %s are %v", prefix, hops)
		}
		for _, n := range nodes {
			if !slices.ContainsFunc(hops, func(h router.Hop) bool { return h.Via == n.IPv4 || h.Via == n.IPv6 }) {
				return fmt.Errorf("the kernel's hops to %s are %v, without %s", prefix, hops, n.Name())
			}
		}
	}
	if len(paths) != len(s.addrs) {
		return fmt.Errorf("%d prefixes for %d addresses", len(paths), len(s.addrs))
	}
	return nil
}

// forgotten waits until no router uses the node any more.
func (s *bgpScene) forgotten(ctx context.Context, n *cluster.Node, within time.Duration) error {
	others := slices.DeleteFunc(slices.Clone(s.lab.Nodes), func(o *cluster.Node) bool { return o == n })
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for _, r := range s.routers {
		if err := cluster.Poll(ctx, r.Name()+" has forgotten "+n.Name(), func(ctx context.Context) error { return s.uses(ctx, r, others) }); err != nil {
			return err
		}
	}
	return nil
}

// ask starts flows to an address of each family from the far host.
func (s *bgpScene) ask(ctx context.Context) (flows []*wire.Datagrams, err error) {
	for _, target := range s.targets {
		f, err := wire.StartDatagrams(ctx, s.lab.Far, netip.AddrPortFrom(target, servicePort), datagramFlows)
		if err != nil {
			stopAll(flows)
			return nil, err
		}
		flows = append(flows, f)
	}
	return flows, nil
}

func stopAll(flows []*wire.Datagrams) {
	for _, f := range flows {
		f.Stop()
	}
}

// speaker is the present process of a node's speaker.
func (s *bgpScene) speaker(n *cluster.Node) *sandbox.Process { return s.product.Speakers[n.Name()] }
