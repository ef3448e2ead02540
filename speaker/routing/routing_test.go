// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
	"github.com/fairlead-lb/fairlead/speaker/bgp"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

// world is a Routing between a cluster and an Announcer that notes what it is
// told.
type world struct {
	*Routing
	nodes []plan.Node
	peers []*v1alpha1.BGPPeer

	changed chan struct{}
	mu      sync.Mutex
	desired []bgp.Desired
	status  []bgp.Status
	looking []string // links on which routers are looked for
	told    []v1alpha1.BGPSession
}

func (w *world) Set(d bgp.Desired) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.desired = append(w.desired, d)
}

func (w *world) Changed() <-chan struct{} { return w.changed }

func (w *world) Status() []bgp.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// neighbors are the world's.
type neighbors struct{ *world }

func (n neighbors) Set(links []link.Link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.looking = nil
	for _, l := range links {
		n.looking = append(n.looking, l.Name)
	}
	return true
}

func (n neighbors) Routers() map[string][]netip.Addr { return nil }

// bubble runs a test in a world of nodes a, which is the own one, and b.
func bubble(t *testing.T, test func(w *world), peers ...*v1alpha1.BGPPeer) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			nodes:   []plan.Node{{Name: "a", Alive: true, Ready: true, LinksKnown: true}, {Name: "b", Alive: true, Ready: true, LinksKnown: true}},
			peers:   peers,
			changed: make(chan struct{}, 1),
		}
		w.Routing = New("a", w, neighbors{w}, func(s []v1alpha1.BGPSession) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = s
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		test(w)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func peer(name string, edits ...func(*v1alpha1.BGPPeerSpec)) *v1alpha1.BGPPeer {
	p := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.LocalASN, p.Spec.PeerASN, p.Spec.PeerAddress = ptr.To[int64](64500), v1alpha1.PeerASNExternal, "192.0.2.254"
	for _, edit := range edits {
		edit(&p.Spec)
	}
	return p
}

// state is one in which these addresses go to every peer.
func (w *world) state(addrs ...string) source.State {
	sets := map[string]labels.Set{}
	for _, n := range w.nodes {
		sets[n.Name] = labels.Set{}
	}
	var names []plan.BGPPeer
	for _, p := range w.peers {
		names = append(names, plan.BGPPeer{Name: p.Name, Nodes: map[string]struct{}{"a": {}, "b": {}}})
	}
	st := source.State{
		Nodes: w.nodes, NodesChanged: true, Addresses: map[netip.Addr]source.Address{},
		Peering: kube.NewPeering(kube.PeeringObjects{Peers: w.peers, Nodes: sets}), PeeringChanged: true,
	}
	scope := plan.NewBGPEverywhere(names)
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		st.Addresses[addr] = source.Address{Address: plan.Address{
			Addr: addr, BGP: scope, Services: []plan.Service{{Namespace: "default", Name: "web", Backed: true}},
		}}
		st.Changed = append(st.Changed, addr)
	}
	return st
}

var eth0 = link.Link{
	Index: 2, Name: "eth0", Up: true, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.254")},
}

// last is what the Announcer was told last, and how often it was.
func (w *world) last() (bgp.Desired, int) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.desired) == 0 {
		return bgp.Desired{}, 0
	}
	return w.desired[len(w.desired)-1], len(w.desired)
}

func (w *world) sessions() []v1alpha1.BGPSession {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

func TestNothingIsAnnouncedBeforeAllIsKnown(t *testing.T) {
	bubble(t, func(w *world) {
		partial := w.state("203.0.113.1")
		partial.Partial = true
		w.SetState(partial)
		w.SetLinks([]link.Link{eth0})
		if _, n := w.last(); n != 0 {
			t.Error("announced on a partial state")
		}
		unknown := w.state("203.0.113.1")
		unknown.Peering = nil
		w.SetState(unknown)
		if _, n := w.last(); n != 0 {
			t.Error("announced before it was known to whom")
		}
		known := w.state("203.0.113.1")
		known.Changed, known.NodesChanged, known.PeeringChanged = nil, false, false // it was told above
		w.SetState(known)
		d, _ := w.last()
		if len(d.Peers) != 1 || len(d.Peers[0].Routes) != 1 {
			t.Errorf("got %+v", d)
		}
	}, peer("tor"))
	bubble(t, func(w *world) {
		w.SetState(w.state("203.0.113.1"))
		if _, n := w.last(); n != 0 {
			t.Error("announced before the links were known")
		}
	}, peer("tor"))
}

// What is told before it is known to whom is not lost: after a start with the
// saved state the API server may tell addresses, and which are gone, before it
// tells peers and advertisements.
func TestWhatIsToldBeforeThePeersCounts(t *testing.T) {
	bubble(t, func(w *world) {
		w.SetLinks([]link.Link{eth0})
		w.SetState(w.state("203.0.113.1", "203.0.113.2"))
		if d, _ := w.last(); len(d.Peers) != 1 || len(d.Peers[0].Routes) != 2 {
			t.Fatalf("at first %+v", d)
		}
		unknown := w.state("203.0.113.2", "203.0.113.3")
		unknown.Peering, unknown.PeeringChanged = nil, false
		unknown.Gone = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
		w.SetState(unknown)
		if d, _ := w.last(); len(d.Peers[0].Routes) != 2 {
			t.Errorf("before the peers are known %+v", d.Peers[0].Routes)
		}
		known := w.state("203.0.113.2", "203.0.113.3")
		known.Changed, known.NodesChanged = nil, false // it was told above
		w.SetState(known)
		d, _ := w.last()
		want := []bgp.Route{{Prefix: netip.MustParsePrefix("203.0.113.2/32")}, {Prefix: netip.MustParsePrefix("203.0.113.3/32")}}
		if diff := cmp.Diff(want, d.Peers[0].Routes, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}, peer("tor"))
}

// A node that is excluded, or drained, must not take the traffic of each address
// that is new while others announce it, not even for a moment.
func TestWhatWasNeverAnnouncedIsNotLeft(t *testing.T) {
	bubble(t, func(w *world) {
		w.SetLinks([]link.Link{eth0})
		w.nodes[0].Excluded = true
		w.SetState(w.state("203.0.113.1"))
		if d, _ := w.last(); len(d.Peers) != 1 || len(d.Peers[0].Routes) != 0 {
			t.Errorf("at the start %+v", d)
		}
		w.nodes = slices.Clone(w.nodes)
		w.nodes[0].Excluded = false
		w.SetState(w.state("203.0.113.1"))
		w.last()
		w.nodes = slices.Clone(w.nodes)
		w.nodes[0].Excluded = true
		w.SetState(w.state("203.0.113.1", "203.0.113.2"))
		d, _ := w.last()
		if r := d.Peers[0].Routes; len(r) != 1 || r[0].Prefix.String() != "203.0.113.1/32" || !slices.Contains(r[0].Communities, bgp.GracefulShutdown) {
			t.Errorf("with a new address %+v", r)
		}
		time.Sleep(leaveTime)
		without := w.state("203.0.113.2")
		without.Gone = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
		w.SetState(without)
		w.last()
		w.SetState(w.state("203.0.113.1", "203.0.113.2"))
		if d, _ := w.last(); len(d.Peers[0].Routes) != 0 {
			t.Errorf("after it came back %+v", d.Peers[0].Routes)
		}
	}, peer("tor"))
}

func TestAPeerIsToldWhatItsFieldsAsk(t *testing.T) {
	bubble(t, func(w *world) {
		w.SetLinks([]link.Link{eth0})
		w.SetState(w.state("203.0.113.1", "2001:db8::1"))
		d, _ := w.last()
		want := bgp.PeerRoutes{
			Peer: bgp.Peer{
				Name: "tor", Address: netip.MustParseAddr("192.0.2.254"), Port: 179, LocalASN: 64500, PeerType: bgp.External,
				RouterID: netip.MustParseAddr("192.0.2.1"), HoldTime: 90 * time.Second, KeepaliveTime: 30 * time.Second, ConnectTime: 10 * time.Second,
				Families: bgp.Families{IPv4: true, IPv6: true}, GracefulRestart: true, RestartTime: 30 * time.Second,
			},
			Routes: []bgp.Route{{Prefix: netip.MustParsePrefix("203.0.113.1/32")}, {Prefix: netip.MustParsePrefix("2001:db8::1/128")}},
		}
		if diff := cmp.Diff([]bgp.PeerRoutes{want}, d.Peers, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}, peer("tor"))
}

// A change that is not about routes must give the Announcer the same slice, which it
// need not look at.
func TestRoutesThatStayAreTheSame(t *testing.T) {
	bubble(t, func(w *world) {
		w.SetLinks([]link.Link{eth0})
		w.SetState(w.state("203.0.113.1"))
		before, n := w.last()
		w.SetLinks([]link.Link{eth0, {Name: "veth1"}})
		after, m := w.last()
		if m != n+1 || &before.Peers[0].Routes[0] != &after.Peers[0].Routes[0] {
			t.Errorf("%d calls, %+v and %+v", m-n, before, after)
		}
	}, peer("tor"))
}

// A node that is drained asks routers to prefer the others, and then withdraws.
func TestADrainMarksBeforeItWithdraws(t *testing.T) {
	bubble(t, func(w *world) {
		w.SetLinks([]link.Link{eth0})
		w.SetState(w.state("203.0.113.1"))
		w.last()
		w.nodes = slices.Clone(w.nodes)
		w.nodes[0].Draining = true
		drained := w.state("203.0.113.1")
		w.SetState(drained)
		d, _ := w.last()
		r := d.Peers[0].Routes
		if len(r) != 1 || !slices.Contains(r[0].Communities, bgp.GracefulShutdown) || r[0].LocalPref == nil || *r[0].LocalPref != 0 {
			t.Fatalf("at first %+v", r)
		}
		time.Sleep(leaveTime / 2)
		w.Refresh() // what comes in between must not put it off
		time.Sleep(leaveTime/2 - time.Millisecond)
		if d, _ := w.last(); len(d.Peers[0].Routes) != 1 {
			t.Errorf("withdrawn before time: %+v", d.Peers[0].Routes)
		}
		time.Sleep(time.Millisecond)
		if d, _ := w.last(); len(d.Peers[0].Routes) != 0 {
			t.Errorf("not withdrawn: %+v", d.Peers[0].Routes)
		}
		w.nodes = slices.Clone(w.nodes)
		w.nodes[0].Draining = false
		w.SetState(w.state("203.0.113.1"))
		if d, _ := w.last(); len(d.Peers[0].Routes) != 1 || len(d.Peers[0].Routes[0].Communities) != 0 {
			t.Errorf("after it is over %+v", d.Peers[0].Routes)
		}
	}, peer("tor"))
}

// A node that was taken out of the cluster may be the last that routers can reach,
// so it goes on as the last choice.
func TestANodeThatIsTakenOutIsTheLastChoice(t *testing.T) {
	bubble(t, func(w *world) {
		w.SetLinks([]link.Link{eth0})
		w.SetState(w.state("203.0.113.1", "203.0.113.2", "203.0.113.3"))
		nodes := w.nodes
		w.nodes = nodes[1:]
		out := w.state("203.0.113.1", "203.0.113.2", "203.0.113.4")
		released := out.Addresses[netip.MustParseAddr("203.0.113.2")]
		released.Services = nil
		out.Addresses[released.Addr], out.Gone = released, []netip.Addr{netip.MustParseAddr("203.0.113.3")}
		w.SetState(out)
		time.Sleep(time.Hour)
		d, _ := w.last()
		if len(d.Peers) != 1 || len(d.Peers[0].Routes) != 1 {
			t.Fatalf("announces %+v", d.Peers)
		}
		r := d.Peers[0].Routes[0]
		if r.Prefix.String() != "203.0.113.1/32" || !slices.Contains(r.Communities, bgp.GracefulShutdown) || r.LocalPref == nil || *r.LocalPref != 0 {
			t.Errorf("announces %+v", r)
		}
		w.nodes = nodes
		back := w.state("203.0.113.1", "203.0.113.4")
		back.Changed, back.NodesChanged, back.PeeringChanged = nil, true, false
		w.SetState(back)
		d, _ = w.last()
		if len(d.Peers[0].Routes) != 2 || len(d.Peers[0].Routes[0].Communities) != 0 {
			t.Errorf("once it is back it announces %+v", d.Peers[0].Routes)
		}
	}, peer("tor"))
}

func TestWhatHoldsASessionIsTold(t *testing.T) {
	asnless := peer("asnless", func(s *v1alpha1.BGPPeerSpec) { s.LocalASN = nil })
	bubble(t, func(w *world) {
		w.SetLinks([]link.Link{eth0})
		w.SetState(w.state())
		if d, _ := w.last(); len(d.Peers) != 1 || d.Peers[0].Name != "tor" {
			t.Errorf("a session is begun: %+v", d.Peers)
		}
		since := time.Now().Add(-time.Minute)
		w.mu.Lock()
		w.status = []bgp.Status{
			{Key: bgp.Key{Peer: "tor", Neighbor: netip.MustParseAddr("192.0.2.254")}, Info: bgp.Info{State: bgp.Established, Since: since, Families: bgp.Families{IPv4: true}}, BFD: bgp.BFDUp},
			{Key: bgp.Key{Peer: "tor"}, Refusal: bgp.Refusal{Peer: "tor", Reason: bgp.NoNextHop, Message: "no IPv6 address"}},
			{Key: bgp.Key{Peer: "gone"}, Refusal: bgp.Refusal{Peer: "gone", Reason: bgp.NoNeighbor, Message: "nobody there"}},
		}
		w.mu.Unlock()
		w.changed <- struct{}{}
		got := w.sessions()
		want := []v1alpha1.BGPSession{
			{Peer: "asnless", State: v1alpha1.BGPHeld, Reason: string(kube.NoLocalASN)},
			{Peer: "tor", Neighbor: "192.0.2.254", State: v1alpha1.BGPEstablished, Families: []v1alpha1.BGPFamily{v1alpha1.BGPFamilyIPv4}, BFD: v1alpha1.BFDUp, Reason: "NoNextHop", LastError: "no IPv6 address"},
			{Peer: "gone", State: v1alpha1.BGPHeld, Reason: "NoNeighbor", LastError: "nobody there"},
		}
		want[0].LastError = w.state().Peering.Of("a")[0].Held.Message
		if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(metav1.Time{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		held := got[2].Since
		time.Sleep(time.Minute)
		w.changed <- struct{}{}
		if again := w.sessions()[2].Since; !again.Equal(&held) {
			t.Errorf("held since %v and since %v", held, again)
		}
	}, asnless, peer("tor"))
}

func TestRoutersAreLookedForOnUnnumberedLinks(t *testing.T) {
	p := peer("cable", func(s *v1alpha1.BGPPeerSpec) { s.PeerAddress, s.Interface = "", "eth1" })
	bubble(t, func(w *world) {
		w.SetLinks([]link.Link{eth0, {Name: "eth1"}})
		w.SetState(w.state())
		w.last()
		if !slices.Equal(w.looking, []string{"eth1"}) {
			t.Errorf("on %v", w.looking)
		}
	}, p)
}

func TestRouterID(t *testing.T) {
	addr := netip.MustParseAddr
	for name, tt := range map[string]struct {
		links []link.Link
		want  netip.Addr
	}{
		"of the default route's link": {[]link.Link{{Addrs: []netip.Addr{addr("10.0.0.1")}}, eth0}, addr("192.0.2.1")},
		"of any link":                 {[]link.Link{{Addrs: []netip.Addr{addr("2001:db8::1"), addr("10.0.0.1")}}}, addr("10.0.0.1")},
		"not a loopback address":      {[]link.Link{{Addrs: []netip.Addr{addr("127.0.0.1")}}, {Addrs: []netip.Addr{addr("10.0.0.1")}}}, addr("10.0.0.1")},
	} {
		if got := routerID("a", tt.links); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	only6 := []link.Link{{Addrs: []netip.Addr{addr("2001:db8::1")}}}
	if a, b := routerID("a", only6), routerID("b", only6); a == b || !a.Is4() || a.IsUnspecified() || a != routerID("a", nil) {
		t.Errorf("without IPv4: %s and %s", a, b)
	}
}
