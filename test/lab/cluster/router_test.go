// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
)

const routersASN, firstNodeASN = 64512, 64600

var watched = &router.BFD{}

// speakAs has a node announce prefixes by a BIRD of its own, in the place of a speaker, and answer with its name at their
// addresses, port 80.
func speakAs(t *testing.T, l *cluster.Lab, node *cluster.Node, asn uint32, prefixes []netip.Prefix, neighbors ...router.Neighbor) *router.Router {
	t.Helper()
	addAddresses(t, node.Host, prefixes)
	var listener net.Listener
	if err := node.Do(func() (err error) {
		listener, err = net.Listen("tcp", ":80")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, node.Name())
			_ = conn.Close()
		}
	}()
	place := router.Place{
		Namespace: node.Namespace, Name: node.Name(), Dir: filepath.Join(l.Dir, "routers", node.Name()), Log: l.LogFile,
	}
	r, err := router.Start(t.Context(), router.BIRD, place, router.Config{
		ASN: asn, ID: node.IPv4, Networks: prefixes, Neighbors: neighbors,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func addAddresses(t *testing.T, h *cluster.Host, prefixes []netip.Prefix) {
	t.Helper()
	lo, err := h.Netlink().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range prefixes {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Bits())}}
		if err := h.Netlink().AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
	}
}

// answers are the names that answer 20 connections.
func answers(from *cluster.Host, addr netip.Addr) (map[string]bool, error) {
	names := map[string]bool{}
	for range 20 {
		name, err := func() (string, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			conn, err := from.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, 80).String())
			if err != nil {
				return "", err
			}
			defer conn.Close()
			name, err := io.ReadAll(conn)
			return string(name), err
		}()
		if err != nil {
			return nil, err
		}
		names[name] = true
	}
	return names, nil
}

func awaitAnswers(t *testing.T, from *cluster.Host, prefixes []netip.Prefix, wanted ...string) {
	t.Helper()
	for _, p := range prefixes {
		eventually(t, fmt.Sprintf("%v answer %s at %s", wanted, from.Name(), p.Addr()), func() error {
			names, err := answers(from, p.Addr())
			if got := slices.Sorted(maps.Keys(names)); err == nil && !slices.Equal(got, wanted) {
				err = fmt.Errorf("%v answer", got)
			}
			return err
		})
	}
}

// awaitWatched waits until BFD is up between a router and the nodes, so that it can go down.
func awaitWatched(t *testing.T, r *cluster.Router, nodes []*cluster.Node) {
	t.Helper()
	for _, n := range nodes {
		for _, a := range []netip.Addr{n.IPv4, n.IPv6} {
			eventually(t, fmt.Sprintf("%s watches %s", r.Name(), a), func() error {
				s, err := r.BGP.Session(t.Context(), a)
				if err == nil && (s.BFD == nil || s.BFD.State != "Up") {
					err = fmt.Errorf("BFD is %+v", s.BFD)
				}
				return err
			})
		}
	}
}

func TestRoutersLeadTheFarHostToTheNodes(t *testing.T) {
	l, err := cluster.StartNetwork(t.Context(), cluster.Config{Name: labName("routers"), Nodes: 2, Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	onLAN := []router.Neighbor{{Range: cluster.LAN4, BFD: watched, Passive: true}, {Range: cluster.LAN6, BFD: watched, Passive: true}}
	var behindNodes []router.Neighbor
	for _, n := range l.Nodes {
		behindNodes = append(behindNodes, router.Neighbor{Address: n.IPv4, MultiHop: 2, Passive: true}, router.Neighbor{Address: n.IPv6, MultiHop: 2, Passive: true})
	}
	add := func(kind router.Kind, place cluster.RouterPlace, neighbors []router.Neighbor) *cluster.Router {
		t.Helper()
		r, err := l.AddRouter(t.Context(), cluster.RouterConfig{Kind: kind, Place: place, BGP: router.Config{ASN: routersASN, Neighbors: neighbors}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	gateway, beside, behind := add(router.FRR, cluster.Gateway, onLAN), add(router.BIRD, cluster.Beside, onLAN), add(router.FRR, cluster.Behind, behindNodes)
	if _, err := l.AddRouter(t.Context(), cluster.RouterConfig{Kind: router.FRR, Place: cluster.Gateway}); err == nil {
		t.Error("the gateway became a router twice")
	}
	if l.Host(beside.Name()) != beside.Host || l.Host(behind.Name()) != behind.Far {
		t.Error("the lab does not know its routers by name")
	}

	pool4, pool6 := cluster.RoutedRange(0)
	shared := []netip.Prefix{netip.PrefixFrom(pool4.Addr().Next(), 32), netip.PrefixFrom(pool6.Addr().Next(), 128)}
	speakers := make([]*router.Router, len(l.Nodes))
	for i, n := range l.Nodes {
		var neighbors []router.Neighbor
		for _, r := range []*cluster.Router{gateway, beside, behind} {
			for _, a := range []netip.Addr{r.IPv4, r.IPv6} {
				neighbor := router.Neighbor{Address: a, ASN: routersASN, BFD: watched}
				if r == behind {
					neighbor.BFD, neighbor.MultiHop = nil, 2
				}
				neighbors = append(neighbors, neighbor)
			}
		}
		speakers[i] = speakAs(t, l, n, firstNodeASN+uint32(i), shared, neighbors...)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, r := range append(speakers, gateway.BGP, beside.BGP, behind.BGP) {
				sessions, err := r.Sessions(context.Background())
				t.Logf("%s: %+v, %v", r.Processes()[0].Name, sessions, err)
			}
		}
	})
	for _, r := range []*cluster.Router{gateway, beside, behind} {
		t.Run("by "+r.Name(), func(t *testing.T) {
			for _, p := range shared {
				tellers := []netip.Addr{l.Nodes[0].IPv4, l.Nodes[1].IPv4}
				if p.Addr().Is6() {
					tellers = []netip.Addr{l.Nodes[0].IPv6, l.Nodes[1].IPv6}
				}
				hops := 2
				if r == behind {
					hops = 1 // the gateway, which both nodes are behind
				}
				eventually(t, fmt.Sprintf("%s is told of %s by both nodes", r.Name(), p), func() error {
					paths, err := r.BGP.Paths(t.Context(), p)
					if err != nil {
						return err
					}
					var got []netip.Addr
					for _, path := range paths {
						if len(path.ASPath) == 1 {
							got = append(got, path.Neighbor)
						}
					}
					if !slices.Equal(got, tellers) {
						return fmt.Errorf("told by %v", got)
					}
					route, err := r.BGP.KernelRoute(p)
					if err == nil && len(route) != hops {
						err = fmt.Errorf("hops %v", route)
					}
					return err
				})
			}
			if err := l.SendFarBy(r); err != nil {
				t.Fatal(err)
			}
			awaitAnswers(t, l.Far, shared, "node1", "node2")
		})
	}
	t.Run("by two routers, and a node is lost", func(t *testing.T) {
		if err := l.SendFarBy(gateway, beside); err != nil {
			t.Fatal(err)
		}
		awaitAnswers(t, l.Far, shared, "node1", "node2")
		for _, r := range []*cluster.Router{gateway, beside} {
			awaitWatched(t, r, l.Nodes)
		}
		if err := l.Nodes[0].Cut(t.Context()); err != nil {
			t.Fatal(err)
		}
		awaitAnswers(t, l.Far, shared, "node2")
		if err := l.Nodes[0].Heal(t.Context()); err != nil {
			t.Fatal(err)
		}
		awaitAnswers(t, l.Far, shared, "node1", "node2")
	})
	t.Run("a node on a cable of its own", func(t *testing.T) {
		node := l.Nodes[1]
		end, routerEnd, err := l.Connect(node.Host, gateway.Host)
		if err != nil {
			t.Fatal(err)
		}
		c := gateway.BGP.Config()
		c.Neighbors = append(c.Neighbors, router.Neighbor{Interface: routerEnd.Interface})
		if err := gateway.BGP.Configure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		single := []netip.Prefix{netip.PrefixFrom(shared[0].Addr().Next(), 32), netip.PrefixFrom(shared[1].Addr().Next(), 128)}
		own := speakers[1].Config()
		own.Networks = append(own.Networks, single...)
		own.Neighbors = []router.Neighbor{{Interface: end.Interface, ASN: routersASN}}
		addAddresses(t, node.Host, single)
		if err := speakers[1].Configure(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		for _, network := range []netip.Prefix{cluster.Far4, cluster.Far6} {
			if err := end.RouteBy(network, routerEnd.IPv6); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.SendFarBy(gateway); err != nil {
			t.Fatal(err)
		}
		awaitAnswers(t, l.Far, single, node.Name())
		for _, p := range single {
			if hops, err := gateway.BGP.KernelRoute(p); err != nil || len(hops) != 1 || hops[0].Interface != routerEnd.Interface {
				t.Errorf("hops %v, %v", hops, err)
			}
		}
	})
}
