// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	// sharedServices is how many Services all nodes announce. Flows go to one of them.
	sharedServices = 3
)

// bgpScene is a lab with Fairlead and Services that every node, or one alone, announces to every router. Their backend is on a host of the
// LAN, where nothing is ever done to it.
type bgpScene struct {
	variant
	lab     *cluster.Lab
	product *cluster.Product
	echo    *wire.Echo
	routers []*cluster.Router
	shared  []netip.Addr                 // that all nodes announce
	single  map[netip.Addr]*cluster.Node // that one does, by whom
}

// newBGPScene starts a lab and waits until every router uses every node.
func newBGPScene(ctx context.Context, c common, nodes int, v variant) (_ *bgpScene, err error) {
	name := fmt.Sprintf("failover-%d-%s-%d-%s", os.Getpid(), strings.ToLower(string(v.kind)), v.routers, onOff(v.bfd))
	lab, err := cluster.Start(ctx, cluster.Config{Name: name, Nodes: nodes, Family: c.families, Log: c.log()})
	if err != nil {
		return nil, err
	}
	s := &bgpScene{variant: v, lab: lab, single: map[netip.Addr]*cluster.Node{}}
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
	if err := s.steady(ctx); err != nil {
		return nil, err
	}
	if err := s.forwarded(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// forwarded waits until kube-proxy forwards what goes to every address. A flow that begins before it does may be remembered
// by the kernel as one to be left alone, for as long as it goes on.
func (s *bgpScene) forwarded(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	for _, addr := range slices.Concat(s.shared, slices.Collect(maps.Keys(s.single))) {
		probe := wire.StartProbe(s.lab.Far, "udp", netip.AddrPortFrom(addr, servicePort))
		err := probe.AwaitAnswers(ctx, warm)
		probe.Stop()
		if err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
	}
	return nil
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

// createServices makes those that all nodes announce, and one for each node that it announces alone.
func (s *bgpScene) createServices(ctx context.Context) error {
	if err := s.createPool(ctx, "shared", 0); err != nil {
		return err
	}
	for i := range sharedServices {
		addrs, err := s.createService(ctx, fmt.Sprintf("web-%d", i), "shared")
		if err != nil {
			return err
		}
		s.shared = append(s.shared, addrs...)
	}
	for i, n := range s.lab.Nodes {
		name := "only-" + n.Name()
		if err := s.createPool(ctx, name, i+1); err != nil {
			return err
		}
		if err := s.lab.API.Create(ctx, &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BGPAdvertisementSpec{
			Pools: []string{name}, NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelHostname: n.Name()}},
		}}); err != nil {
			return err
		}
		addrs, err := s.createService(ctx, name, name)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			s.single[a] = n
		}
	}
	return nil
}

func (s *bgpScene) createPool(ctx context.Context, name string, number int) error {
	v4, v6 := cluster.RoutedRange(number)
	pool := &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if s.lab.Client.IPv4.IsValid() {
		pool.Spec.Addresses = append(pool.Spec.Addresses, v1alpha1.AddressRange(v4.String()))
	}
	if s.lab.Client.IPv6.IsValid() {
		pool.Spec.Addresses = append(pool.Spec.Addresses, v1alpha1.AddressRange(v6.String()))
	}
	return s.lab.API.Create(ctx, pool)
}

// createService returns the addresses that a Service gets from a pool.
func (s *bgpScene) createService(ctx context.Context, name, pool string) (addrs []netip.Addr, err error) {
	svc := s.lab.Service(namespace, name, "")
	metav1.SetMetaDataAnnotation(&svc.ObjectMeta, v1alpha1.AnnotationPool, pool)
	if err := s.lab.API.Create(ctx, svc); err != nil {
		return nil, err
	}
	if err := s.lab.CreateSlicesTo(ctx, client.ObjectKeyFromObject(svc), s.lab.Client); err != nil {
		return nil, err
	}
	err = await(ctx, name+" has its addresses", func(ctx context.Context) error {
		if err := s.lab.API.Get(ctx, client.ObjectKeyFromObject(svc), svc); err != nil {
			return err
		}
		if len(svc.Status.LoadBalancer.Ingress) < len(svc.Spec.IPFamilies) {
			return fmt.Errorf("it has %v", svc.Status.LoadBalancer.Ingress)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(ingress.IP)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
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
		if err := await(ctx, r.Name()+" has the routes of all nodes", func(ctx context.Context) error { return s.uses(ctx, r, s.lab.Nodes, s.lab.Nodes) }); err != nil {
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

// uses checks that the router, and its kernel, send what goes to addresses to these nodes and to no others: those that are
// shared, and those that one node alone announces.
func (s *bgpScene) uses(ctx context.Context, r *cluster.Router, shared, single []*cluster.Node) error {
	table, err := r.BGP.Table(ctx)
	if err != nil {
		return err
	}
	paths := map[netip.Prefix]int{}
	for _, p := range table {
		paths[p.Prefix]++
		by := slices.IndexFunc(single, func(n *cluster.Node) bool { return n.Addr() == p.Neighbor })
		switch {
		case by < 0:
			return fmt.Errorf("%s by %s", p.Prefix, p.Neighbor)
		case p.Stale:
			return fmt.Errorf("%s by %s is stale", p.Prefix, single[by].Name())
		}
	}
	for _, a := range s.shared {
		if err := s.leadsTo(r, prefixOf(a), paths, shared); err != nil {
			return err
		}
	}
	for a, n := range s.single {
		by := slices.DeleteFunc(slices.Clone(single), func(o *cluster.Node) bool { return o != n })
		if err := s.leadsTo(r, prefixOf(a), paths, by); err != nil {
			return err
		}
	}
	return nil
}

// leadsTo checks that the router has a path by each of these nodes, and its kernel a hop.
func (s *bgpScene) leadsTo(r *cluster.Router, prefix netip.Prefix, paths map[netip.Prefix]int, nodes []*cluster.Node) error {
	hops, err := r.BGP.KernelRoute(prefix)
	if err != nil {
		return err
	}
	if paths[prefix] != len(nodes) || len(hops) != len(nodes) {
		return fmt.Errorf("%s has %d paths and, in the kernel, the hops %v", prefix, paths[prefix], hops)
	}
	for _, n := range nodes {
		if !slices.ContainsFunc(hops, func(h router.Hop) bool { return h.Via == n.IPv4 || h.Via == n.IPv6 }) {
			return fmt.Errorf("the kernel's hops to %s are %v, without %s", prefix, hops, n.Name())
		}
	}
	return nil
}

// forgotten waits until no router uses the node any more or, if it keeps what it alone announces, for nothing else.
func (s *bgpScene) forgotten(ctx context.Context, n *cluster.Node, keeps bool, within time.Duration) error {
	others := slices.DeleteFunc(slices.Clone(s.lab.Nodes), func(o *cluster.Node) bool { return o == n })
	single := others
	if keeps {
		single = s.lab.Nodes
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for _, r := range s.routers {
		if err := cluster.Poll(ctx, r.Name()+" has forgotten "+n.Name(), func(ctx context.Context) error { return s.uses(ctx, r, others, single) }); err != nil {
			return err
		}
	}
	return nil
}

// addressFlows are those to one address.
type addressFlows struct {
	addr netip.Addr
	*wire.Datagrams
}

// ask starts flows from the far host to an address of each family that all nodes announce, or to those that only one does.
func (s *bgpScene) ask(ctx context.Context, single bool) (flows []addressFlows, err error) {
	targets := s.shared[:len(s.shared)/sharedServices]
	count := datagramFlows
	if single {
		targets = slices.SortedFunc(maps.Keys(s.single), netip.Addr.Compare)
		count = (datagramFlows + len(s.lab.Nodes) - 1) / len(s.lab.Nodes)
	}
	for _, target := range targets {
		f, err := wire.StartDatagrams(ctx, s.lab.Far, netip.AddrPortFrom(target, servicePort), count)
		if err != nil {
			stopAll(flows)
			return nil, err
		}
		flows = append(flows, addressFlows{target, f})
	}
	return flows, nil
}

func stopAll(flows []addressFlows) {
	for _, f := range flows {
		f.Stop()
	}
}

// speaker is the present process of a node's speaker.
func (s *bgpScene) speaker(n *cluster.Node) *sandbox.Process { return s.product.Speakers[n.Name()] }
