// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
)

// The ASes of the nodes and of the routers beside them.
const (
	nodesASN = 64600
	torsASN  = 64512
)

// passwordSecret is the Secret that speakers may read, passwordSecrets says so to the chart.
const (
	passwordSecret  = "e2e-bgp"
	passwordSecrets = "speaker.bgp.passwordSecrets={" + passwordSecret + "}"
)

// stack is the families of a spec: those of its Services, and so of the routes. Sessions are between addresses of the first.
type stack []corev1.IPFamily

// inAllStacks are the entries of a table whose body has to hold for either family, and for both at once.
var inAllStacks = []TableEntry{
	Entry("IPv4", stack{corev1.IPv4Protocol}),
	Entry("IPv6", stack{corev1.IPv6Protocol}),
	Entry("both families", stack{corev1.IPv4Protocol, corev1.IPv6Protocol}),
}

// service is an edit for a Service of these families.
func (k stack) service(svc *corev1.Service) {
	policy := corev1.IPFamilyPolicySingleStack
	if len(k) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	families(policy, k...)(svc)
}

// addrs are the i-th addresses of the scene of these families.
func (k stack) addrs(s *scene, i int) (addrs []netip.Addr) {
	for _, f := range k {
		addrs = append(addrs, s.at(f, i))
	}
	return addrs
}

// addressOf is a host's address of a family.
func addressOf(h *cluster.Host, f corev1.IPFamily) netip.Addr {
	if f == corev1.IPv6Protocol {
		return h.IPv6
	}
	return h.IPv4
}

// ofAddress is the prefix that an address is announced by.
func ofAddress(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// newRoutedScene gives every spec a scene with addresses that only routers know a way to, and two routers beside each other
// on the LAN, which are as they were and know no routes when it is over.
func newRoutedScene() *scene {
	meetTors() // before the scene, so that it is cleared first
	return newSceneIn(cluster.RoutedRange)
}

// meetTors has the specs of a container find the routers of the lab as they are at first.
func meetTors() {
	BeforeEach(func(ctx SpecContext) {
		if lab.tors == nil {
			for kind, place := range map[router.Kind]cluster.RouterPlace{router.FRR: cluster.Gateway, router.BIRD: cluster.Beside} {
				r, err := lab.AddRouter(ctx, cluster.RouterConfig{Kind: kind, Place: place, BGP: router.Config{ASN: torsASN}})
				Expect(err).NotTo(HaveOccurred())
				lab.tors = append(lab.tors, r)
			}
			slices.SortFunc(lab.tors, func(a, b *cluster.Router) int { return a.IPv4.Compare(b.IPv4) })
		}
		configureTors(ctx)
		DeferCleanup(func(ctx SpecContext) {
			Expect(lab.SendFarBy(lab.tors[0])).To(Succeed())
			configureTors(ctx)
			for _, r := range lab.tors {
				Eventually(ctx, r.BGP.Table).Should(BeEmpty(), "no route should be left in %s", r.Name())
			}
		})
	})
}

// configureTors has the routers wait for every node by both families, with edits.
func configureTors(ctx context.Context, edits ...func(*router.Config)) {
	GinkgoHelper()
	for _, r := range lab.tors {
		configureTor(ctx, r, edits...)
	}
}

func configureTor(ctx context.Context, r *cluster.Router, edits ...func(*router.Config)) {
	GinkgoHelper()
	c := router.Config{ASN: torsASN, ID: r.IPv4}
	for _, n := range lab.Nodes {
		for _, a := range []netip.Addr{n.IPv4, n.IPv6} {
			c.Neighbors = append(c.Neighbors, router.Neighbor{Address: a, ASN: nodesASN, Passive: true, IPv4: true, IPv6: true})
		}
	}
	for _, edit := range edits {
		edit(&c)
	}
	Expect(r.BGP.Configure(ctx, c)).To(Succeed())
}

// eachNeighbor is an edit of all neighbours of a router.
func eachNeighbor(edit func(*router.Neighbor)) func(*router.Config) {
	return func(c *router.Config) {
		for i := range c.Neighbors {
			edit(&c.Neighbors[i])
		}
	}
}

// addPeer makes a BGPPeer that goes with the scene.
func (s *scene) addPeer(ctx context.Context, name string, address netip.Addr, edits ...func(*v1alpha1.BGPPeerSpec)) {
	GinkgoHelper()
	p := &v1alpha1.BGPPeer{
		ObjectMeta: metav1.ObjectMeta{Name: s.peerName(name), Labels: map[string]string{"name": name}},
		Spec:       v1alpha1.BGPPeerSpec{LocalASN: ptr.To[int64](nodesASN), PeerASN: v1alpha1.PeerASN(fmt.Sprint(torsASN)), PeerAddress: address.String()},
	}
	// A router that is set anew drops who comes too early.
	p.Spec.ConnectTime = &metav1.Duration{Duration: time.Second}
	for _, edit := range edits {
		edit(&p.Spec)
	}
	Expect(api.Create(ctx, p)).To(Succeed())
	s.afterwards(func(ctx context.Context) { Expect(client.IgnoreNotFound(api.Delete(ctx, p))).To(Succeed()) })
}

func (s *scene) peerName(name string) string { return s.namespace + "-" + name }

// addPeers makes a BGPPeer for each router, by the first of the families, for the routes of all.
func (s *scene) addPeers(ctx context.Context, k stack, edits ...func(*v1alpha1.BGPPeerSpec)) {
	GinkgoHelper()
	carrying := func(p *v1alpha1.BGPPeerSpec) {
		p.Families = nil
		for _, f := range k {
			p.Families = append(p.Families, map[corev1.IPFamily]v1alpha1.BGPFamily{
				corev1.IPv4Protocol: v1alpha1.BGPFamilyIPv4, corev1.IPv6Protocol: v1alpha1.BGPFamilyIPv6,
			}[f])
		}
	}
	for _, r := range lab.tors {
		s.addPeer(ctx, r.Name(), addressOf(r.Host, k[0]), append([]func(*v1alpha1.BGPPeerSpec){carrying}, edits...)...)
	}
}

// withPeers is addPeers, and waits for the sessions of all nodes.
func (s *scene) withPeers(ctx context.Context, k stack, edits ...func(*v1alpha1.BGPPeerSpec)) {
	GinkgoHelper()
	s.addPeers(ctx, k, edits...)
	for _, r := range lab.tors {
		established(ctx, r, k[0], lab.Nodes...)
	}
}

func (s *scene) editPeer(ctx context.Context, name string, edit func(*v1alpha1.BGPPeerSpec)) {
	GinkgoHelper()
	p := s.peer(ctx, name)
	base := p.DeepCopy()
	edit(&p.Spec)
	Expect(api.Patch(ctx, p, client.MergeFrom(base))).To(Succeed())
}

func (s *scene) peer(ctx context.Context, name string) *v1alpha1.BGPPeer {
	GinkgoHelper()
	p := &v1alpha1.BGPPeer{}
	Expect(api.Get(ctx, objectKey("", s.peerName(name)), p)).To(Succeed())
	return p
}

func (s *scene) deletePeer(ctx context.Context, name string) {
	GinkgoHelper()
	Expect(api.Delete(ctx, s.peer(ctx, name))).To(Succeed())
}

// peerTells waits for what the condition of a peer says.
func (s *scene) peerTells(ctx context.Context, name string, status metav1.ConditionStatus, reason, message string) {
	GinkgoHelper()
	Eventually(ctx, func() *metav1.Condition {
		return meta.FindStatusCondition(s.peer(ctx, name).Status.Conditions, v1alpha1.BGPPeerReady)
	}).Should(And(Not(BeNil()), HaveField("Status", status), HaveField("Reason", reason), HaveField("Message", ContainSubstring(message))))
}

// sessionTells waits for what a node's Speaker says of the session with a peer.
func (s *scene) sessionTells(ctx context.Context, node *cluster.Node, peer string, says ...OmegaMatcher) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		speaker, err := speakerOf(ctx, node.Name())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(speaker.Status.BGP).To(ContainElement(And(append(says, HaveField("Peer", s.peerName(peer)))...)))
	}).Should(Succeed())
}

// addRouted makes the pool routed, with the first nine addresses of each family.
func (s *scene) addRouted(ctx context.Context, edits ...func(*v1alpha1.LoadBalancerIPPool)) {
	GinkgoHelper()
	s.addPool(ctx, "routed", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))}, edits...)
}

// addBGPAdvertisement makes a BGPAdvertisement for the pool routed that goes with the scene.
func (s *scene) addBGPAdvertisement(ctx context.Context, name string, edit func(*v1alpha1.BGPAdvertisementSpec)) {
	GinkgoHelper()
	ad := &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: s.peerName(name)}}
	ad.Spec.Pools = []string{s.poolName("routed")}
	edit(&ad.Spec)
	Expect(api.Create(ctx, ad)).To(Succeed())
	s.afterwards(func(ctx context.Context) { Expect(client.IgnoreNotFound(api.Delete(ctx, ad))).To(Succeed()) })
}

func (s *scene) editBGPAdvertisement(ctx context.Context, name string, edit func(*v1alpha1.BGPAdvertisementSpec)) {
	GinkgoHelper()
	ad := &v1alpha1.BGPAdvertisement{}
	Expect(api.Get(ctx, objectKey("", s.peerName(name)), ad)).To(Succeed())
	base := ad.DeepCopy()
	edit(&ad.Spec)
	Expect(api.Patch(ctx, ad, client.MergeFrom(base))).To(Succeed())
}

// established waits until a router has sessions with exactly these nodes, by their addresses of a family.
func established(ctx context.Context, r *cluster.Router, f corev1.IPFamily, nodes ...*cluster.Node) {
	GinkgoHelper()
	Eventually(ctx, func() ([]string, error) {
		sessions, err := r.BGP.Sessions(ctx)
		var with []string
		for _, s := range sessions {
			if s.Established() && familyOf(s.Neighbor) == f {
				with = append(with, nodeAt(s.Neighbor))
			}
		}
		return with, err
	}).Should(ConsistOf(namesOf(nodes)), "%s should have sessions by %s", r.Name(), f)
}

func namesOf(nodes []*cluster.Node) []string {
	names := []string{}
	for _, n := range nodes {
		names = append(names, n.Name())
	}
	return names
}

// nodeAt is the name of the node that has an address on the LAN, or the address.
func nodeAt(addr netip.Addr) string {
	for _, n := range lab.Nodes {
		if addr == n.IPv4 || addr == n.IPv6 || addr == linkLocalOf(n.Host) {
			return n.Name()
		}
	}
	return addr.String()
}

// linkLocalOf is the address that a host's kernel makes of its MAC (RFC 4291, appendix A).
func linkLocalOf(h *cluster.Host) netip.Addr {
	m := h.MAC
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// routerWants waits until a router's BGP table leads to a prefix by exactly these nodes, and each path is as it should be.
func routerWants(ctx context.Context, r *cluster.Router, prefix netip.Prefix, nodes []*cluster.Node, each ...OmegaMatcher) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		paths, err := r.BGP.Paths(ctx, prefix)
		g.Expect(err).NotTo(HaveOccurred())
		hops := []string{}
		for _, p := range paths {
			hops = append(hops, nodeAt(p.NextHops[0]))
			g.Expect(nodeAt(p.Neighbor)).To(Equal(nodeAt(p.NextHops[0])), "who tells of the route should be the next hop")
			g.Expect(p).To(And(append(each, HaveField("Stale", false))...))
		}
		g.Expect(hops).To(ConsistOf(namesOf(nodes)))
	}).Should(Succeed(), "%s should be told of %s", r.Name(), prefix)
}

// kernelWants waits until a router's kernel sends what is for a prefix to exactly these nodes.
func kernelWants(ctx context.Context, r *cluster.Router, prefix netip.Prefix, nodes ...*cluster.Node) {
	GinkgoHelper()
	Eventually(ctx, func() ([]string, error) {
		hops, err := r.BGP.KernelRoute(prefix)
		to := []string{}
		for _, h := range hops {
			to = append(to, nodeAt(h.Via))
		}
		return to, err
	}).Should(ConsistOf(namesOf(nodes)), "the kernel of %s should send %s to them", r.Name(), prefix)
}

// routed waits until the tables and the kernels of all routers lead to an address by exactly these nodes.
func routed(ctx context.Context, addr netip.Addr, nodes ...*cluster.Node) {
	GinkgoHelper()
	for _, r := range lab.tors {
		routerWants(ctx, r, ofAddress(addr), nodes)
		kernelWants(ctx, r, ofAddress(addr), nodes...)
	}
}

// announcedBy waits until all routers have been told of an address by exactly these nodes, and each path is as it should be.
func announcedBy(ctx context.Context, addr netip.Addr, nodes []*cluster.Node, each ...OmegaMatcher) {
	GinkgoHelper()
	for _, r := range lab.tors {
		routerWants(ctx, r, ofAddress(addr), nodes, each...)
	}
}

// answersFromFar checks that by each router exactly these backends answer the far host at an address, port 80.
func answersFromFar(ctx context.Context, addr netip.Addr, backends ...string) {
	GinkgoHelper()
	answersFromFarAt(ctx, netip.AddrPortFrom(addr, 80), backends...)
}

func answersFromFarAt(ctx context.Context, target netip.AddrPort, backends ...string) {
	GinkgoHelper()
	for _, r := range lab.tors {
		answersVia(ctx, r, target, backends...)
	}
}

// answersVia does so for one router, by which the far host sends then.
func answersVia(ctx context.Context, r *cluster.Router, target netip.AddrPort, backends ...string) {
	GinkgoHelper()
	Expect(lab.SendFarBy(r)).To(Succeed())
	Eventually(ctx, func() ([]string, error) { return askedFromFar(ctx, target) }).Should(Equal(slices.Sorted(slices.Values(backends))), "%s by %s", target, r.Name())
}

// askedFromFar are those who answer 20 requests of the far host, in order. With three of them, all are among 20 answers but
// once in a thousand times.
func askedFromFar(ctx context.Context, target netip.AddrPort) ([]string, error) {
	who := map[string]bool{}
	for range 20 {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		name, err := lab.Far.Get(ctx, "http://"+target.String()+"/hostname")
		cancel()
		if err != nil {
			return nil, err
		}
		who[name] = true
	}
	return slices.Sorted(maps.Keys(who)), nil
}

// serves checks all that a far client needs: the routes of all routers to an address by these nodes, and the answers.
func serves(ctx context.Context, addr netip.Addr, nodes []*cluster.Node, backends ...string) {
	GinkgoHelper()
	routed(ctx, addr, nodes...)
	answersFromFar(ctx, addr, backends...)
}

// unrouted waits until no router knows a way to an address.
func unrouted(ctx context.Context, addr netip.Addr) {
	GinkgoHelper()
	routed(ctx, addr)
}

// backendNames are the names of the backends web on nodes, all if none are given.
func backendNames(nodes ...*cluster.Node) (names []string) {
	if nodes == nil {
		nodes = lab.Nodes
	}
	for _, n := range nodes {
		names = append(names, "web-"+n.Name())
	}
	return names
}

// life is what another life of the same session would have otherwise: how often it was established, where the router is
// FRR, and since when it is, where it is BIRD.
type life struct {
	number int
	since  time.Time
}

// is tells whether both are one. BIRD counts the time from now, in milliseconds.
func (l life) is(o life) bool {
	return l.number == o.number && l.since.Sub(o.since).Abs() < 50*time.Millisecond
}

// lives are those of the sessions that routers have.
type lives map[string]life

// livesOf are those of sessions that are established with these routers, all if none are given.
func livesOf(ctx context.Context, routers ...*cluster.Router) (lives, error) {
	if routers == nil {
		routers = lab.tors
	}
	l := lives{}
	for _, r := range routers {
		sessions, err := r.BGP.Sessions(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range sessions {
			if !s.Established() {
				continue
			}
			is := life{number: s.Lives}
			if r.BGP.Kind == router.BIRD {
				is.since = s.Since
			}
			l[r.Name()+" "+s.Neighbor.String()] = is
		}
	}
	return l, nil
}

// sessionsLive notes the sessions of routers.
func sessionsLive(ctx context.Context, routers ...*cluster.Router) lives {
	GinkgoHelper()
	l, err := livesOf(ctx, routers...)
	Expect(err).NotTo(HaveOccurred())
	Expect(l).NotTo(BeEmpty())
	return l
}

// changed are the sessions that are in another life now, or in none.
func (l lives) changed(now lives) (sessions []string) {
	for session, was := range l {
		if is, ok := now[session]; !ok || !was.is(is) {
			sessions = append(sessions, session)
		}
	}
	return sessions
}

// goOn checks that the sessions are those of before.
func (l lives) goOn(ctx context.Context, routers ...*cluster.Router) {
	GinkgoHelper()
	now, err := livesOf(ctx, routers...)
	Expect(err).NotTo(HaveOccurred())
	Expect(l.changed(now)).To(BeEmpty(), "before %v, now %v", l, now)
}

// goOnFor checks so for a time.
func (l lives) goOnFor(ctx context.Context, d time.Duration, routers ...*cluster.Router) {
	GinkgoHelper()
	Consistently(ctx, func(g Gomega) {
		now, err := livesOf(ctx, routers...)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(l.changed(now)).To(BeEmpty(), "before %v, now %v", l, now)
	}, d).Should(Succeed())
}

// beginAnew waits until every session is established in another life than before.
func (l lives) beginAnew(ctx context.Context, why string, routers ...*cluster.Router) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		now, err := livesOf(ctx, routers...)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(now).To(HaveLen(len(l)))
		g.Expect(l.changed(now)).To(HaveLen(len(l)), "before %v, now %v", l, now)
	}).Should(Succeed(), why)
}

// tellsOfBGP waits until a Service tells that its addresses are announced by BGP.
func (s *scene) tellsOfBGP(ctx context.Context, name string) {
	GinkgoHelper()
	Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, name), v1alpha1.ServiceAnnounced) }).Should(And(
		HaveField("Status", metav1.ConditionTrue), HaveField("Message", ContainSubstring("by BGP"))), "%s should be announced", name)
}
