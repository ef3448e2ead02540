// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// inBothFamilies are the entries of a table whose body says something of layer 2, which has to hold for either family.
var inBothFamilies = []TableEntry{Entry("IPv4", corev1.IPv4Protocol), Entry("IPv6", corev1.IPv6Protocol)}

// at is an address of the scene of a family, counted from 1.
func (s *scene) at(f corev1.IPFamily, i int) netip.Addr {
	if f == corev1.IPv6Protocol {
		return s.v6(i)
	}
	return s.v4(i)
}

// addLAN makes the pool lan, with the first nine addresses of each family.
func (s *scene) addLAN(ctx context.Context, edits ...func(*v1alpha1.LoadBalancerIPPool)) {
	GinkgoHelper()
	s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))}, edits...)
}

// of is an edit for a Service of one family alone.
func of(f corev1.IPFamily) func(*corev1.Service) {
	return families(corev1.IPFamilyPolicySingleStack, f)
}

// dual is an edit for a Service of both families.
var dual = families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol)

// others are the nodes but for these.
func others(but ...*cluster.Node) []*cluster.Node {
	return slices.DeleteFunc(slices.Clone(lab.Nodes), func(n *cluster.Node) bool { return slices.Contains(but, n) })
}

// reaches checks that TCP and UDP come from the client through an address to a backend.
func reaches(ctx context.Context, addr netip.Addr, backend string) {
	GinkgoHelper()
	for what, ask := range map[string]func() (string, error){
		"TCP": func() (string, error) { return hostname(ctx, netip.AddrPortFrom(addr, 80)) },
		"UDP": func() (string, error) { return datagram(ctx, lab.Client, addr, "hostname") },
	} {
		Eventually(ctx, ask).Should(Equal(backend), "%s through %s", what, addr)
	}
}

// hostname is what a backend says its name is when the client asks. It gives up soon: kube-proxy may have rules for the
// address only by the next time.
func hostname(ctx context.Context, target netip.AddrPort) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return lab.Client.Get(ctx, "http://"+target.String()+"/hostname")
}

// onlooker asks the LAN every 20 ms who has some addresses, which tells everybody who ever answers, and talks to them by UDP
// every 10 ms from one client, which tells what a user would notice.
type onlooker struct {
	cold   *wire.ColdProbe
	warm   map[netip.Addr]*wire.Probe
	result map[netip.Addr]wire.Result // nil before the end
}

// lookOn has somebody look on until the spec ends. All addresses must be answered already; with backends, traffic must get
// through as well, and is watched.
func lookOn(ctx context.Context, backends bool, addrs ...netip.Addr) *onlooker {
	GinkgoHelper()
	o := &onlooker{warm: map[netip.Addr]*wire.Probe{}}
	DeferCleanup(o.end)
	cold, err := wire.StartColdProbe(lab.Client.Namespace, lab.Client.Interface, wire.ColdInterval, addrs...)
	Expect(err).NotTo(HaveOccurred())
	o.cold = cold
	for _, addr := range addrs {
		Eventually(ctx, func() []wire.Resolution { return cold.Answers(addr) }).ShouldNot(BeEmpty(), "%s should be answered", addr)
		if backends {
			// Its first question of a neighbour takes its time.
			Eventually(ctx, func() error {
				_, err := datagram(ctx, lab.Client, addr, "hostname")
				return err
			}).Should(Succeed())
			o.warm[addr] = wire.StartProbe(lab.Client, "udp", netip.AddrPortFrom(addr, 80))
		}
	}
	return o
}

// end ends the asking; the rest is to read what was seen.
func (o *onlooker) end() {
	GinkgoHelper()
	if o.result != nil || o.cold == nil {
		return
	}
	o.result = map[netip.Addr]wire.Result{}
	for addr, p := range o.warm {
		o.result[addr] = p.Stop()
	}
	Expect(o.cold.Stop()).To(Succeed())
}

// answerers are the MACs that have answered for an address, in the order of their first answers, one that came back again.
func (o *onlooker) answerers(addr netip.Addr) []string {
	var macs []string
	for _, a := range o.cold.Answers(addr) {
		macs = append(macs, a.MAC.String())
	}
	return slices.Compact(macs)
}

// sawNothing ends the asking and checks that nobody but a node has answered, that it always did, and that nothing was lost.
func (o *onlooker) sawNothing(addr netip.Addr, node *cluster.Node) {
	GinkgoHelper()
	o.end()
	Expect(o.answerers(addr)).To(Equal([]string{node.MAC.String()}), "only %s should ever answer for %s", node.Name(), addr)
	if r, ok := o.result[addr]; ok {
		Expect(r.Lost).To(BeZero(), "%s: %s", addr, r)
	}
}

// together bounds how long two nodes may answer for an address while it goes from one to the other.
const together = time.Second

// sawMoves ends the asking and checks that these nodes have answered for an address, one after the other, and no others.
func (o *onlooker) sawMoves(addr netip.Addr, nodes ...*cluster.Node) {
	GinkgoHelper()
	o.end()
	var want, got []string
	for _, n := range nodes {
		want = append(want, n.MAC.String())
	}
	// While both answer, each question has two answers.
	for _, stretch := range wire.Stretches(o.cold.Answers(addr), together) {
		got = append(got, stretch.MAC.String())
	}
	Expect(got).To(Equal(want), "of %s", addr)
	o.sawNoTwo(addr)
}

// sawNoTwo ends the asking and checks that no two nodes have answered for longer than an address takes to go.
func (o *onlooker) sawNoTwo(addr netip.Addr) {
	GinkgoHelper()
	o.end()
	Expect(wire.LongestTogether(o.cold.Answers(addr), answerTime)).To(BeNumerically("<", together), "of %s", addr)
}
