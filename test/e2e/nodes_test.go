// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// onNodes selects nodes by their names.
func onNodes(names ...string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: corev1.LabelHostname, Operator: metav1.LabelSelectorOpIn, Values: names},
	}}
}

func onlyOn(names ...string) func(*v1alpha1.L2AdvertisementSpec) {
	return func(ad *v1alpha1.L2AdvertisementSpec) { ad.NodeSelector = onNodes(names...) }
}

// spread makes Services and counts which nodes announce them, having asked the LAN.
func (s *scene) spread(ctx context.Context, f corev1.IPFamily, names ...string) map[string]int {
	GinkgoHelper()
	for _, name := range names {
		s.addService(ctx, name, of(f))
	}
	counts := map[string]int{}
	for _, name := range names {
		addr, owner := s.announced(ctx, name)
		answers(ctx, addr, owner)
		counts[owner.Name()]++
	}
	return counts
}

// goes waits until another node than before has claimed an address and alone answers.
func (s *scene) goes(ctx context.Context, addr netip.Addr, from *cluster.Node) *cluster.Node {
	GinkgoHelper()
	Eventually(ctx, func() string { return s.owner(ctx, addr).Name() }).ShouldNot(Equal(from.Name()))
	to := s.owner(ctx, addr)
	answers(ctx, addr, to)
	return to
}

// remains checks that an address stays with a node for a while.
func (s *scene) remains(ctx context.Context, addr netip.Addr, node *cluster.Node) {
	GinkgoHelper()
	o := lookOn(ctx, false, addr)
	Consistently(ctx, o.answerers).WithArguments(addr).Should(Equal([]string{node.MAC.String()}), "%s should keep %s", node.Name(), addr)
	o.end()
	Expect(s.owner(ctx, addr)).To(BeIdenticalTo(node))
}

// setCondition sets a condition of a Node until the scene ends.
func (s *scene) setCondition(ctx context.Context, node string, kind corev1.NodeConditionType) {
	GinkgoHelper()
	change := func(ctx context.Context, more ...corev1.NodeCondition) {
		GinkgoHelper()
		n := &corev1.Node{}
		Expect(api.Get(ctx, objectKey("", node), n)).To(Succeed())
		base := n.DeepCopy()
		kept := []corev1.NodeCondition{}
		for _, c := range n.Status.Conditions {
			if c.Type != kind {
				kept = append(kept, c)
			}
		}
		n.Status.Conditions = append(kept, more...)
		Expect(api.Status().Patch(ctx, n, client.MergeFrom(base))).To(Succeed())
	}
	now := metav1.Now()
	change(ctx, corev1.NodeCondition{Type: kind, Status: corev1.ConditionTrue, Reason: "Spec", LastHeartbeatTime: now, LastTransitionTime: now})
	s.afterwards(func(ctx context.Context) {
		change(ctx)
		Eventually(ctx, func(g Gomega) {
			n := &corev1.Node{}
			g.Expect(api.Get(ctx, objectKey("", node), n)).To(Succeed())
			g.Expect(n.Spec.Taints).To(BeEmpty())
		}).Should(Succeed())
	})
}

func drain(n *corev1.Node) {
	metav1.SetMetaDataAnnotation(&n.ObjectMeta, v1alpha1.AnnotationDrain, "true")
}
func undrain(n *corev1.Node) { delete(n.Annotations, v1alpha1.AnnotationDrain) }
func exclude(n *corev1.Node) {
	metav1.SetMetaDataLabel(&n.ObjectMeta, corev1.LabelNodeExcludeBalancers, "")
}
func include(n *corev1.Node)  { delete(n.Labels, corev1.LabelNodeExcludeBalancers) }
func cordon(n *corev1.Node)   { n.Spec.Unschedulable = true }
func uncordon(n *corev1.Node) { n.Spec.Unschedulable = false }

var _ = Describe("Which node announces", onLab, func() {
	s := newScene()

	DescribeTable("is one that an L2Advertisement selects, also after an edit, and nobody moves who needn't", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.advertise(ctx, onlyOn("node2"))
		Expect(s.spread(ctx, f, "a", "b")).To(Equal(map[string]int{"node2": 2}))

		s.editAdvertisement(ctx, onlyOn("node2", "node3"))
		Expect(s.spread(ctx, f, "c", "d")).To(Equal(map[string]int{"node3": 2}), "the new node should be filled up first")
		for name, node := range map[string]int{"a": 1, "b": 1} {
			addr, _ := s.announced(ctx, name)
			s.remains(ctx, addr, lab.Nodes[node])
		}

		s.editAdvertisement(ctx, onlyOn("node3"))
		for _, name := range []string{"a", "b"} {
			addr, _ := s.announced(ctx, name)
			answers(ctx, addr, lab.Nodes[2])
			Eventually(ctx, s.owner).WithArguments(addr).Should(BeIdenticalTo(lab.Nodes[2]))
		}
	}, inBothFamilies)

	DescribeTable("is none whose network is not set up", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.setCondition(ctx, "node1", corev1.NodeNetworkUnavailable)
		Expect(s.spread(ctx, f, "a", "b")).To(Equal(map[string]int{"node2": 1, "node3": 1}))
		addr, owner := s.announced(ctx, "a")
		s.setCondition(ctx, owner.Name(), corev1.NodeNetworkUnavailable)
		s.goes(ctx, addr, owner)
	}, inBothFamilies)

	DescribeTable("is one that is not excluded from load balancers, if there is one, without anything going back", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), of(f))
		addr, first := s.announced(ctx, "web")
		o := lookOn(ctx, true, addr)
		s.mark(ctx, first.Name(), exclude, include)
		second := s.goes(ctx, addr, first)
		s.mark(ctx, first.Name(), include, include)
		s.remains(ctx, addr, second)
		for _, n := range append(others(second), second) {
			s.mark(ctx, n.Name(), exclude, include)
		}
		s.remains(ctx, addr, second)
		o.sawMoves(addr, first, second)
		Expect(o.result[addr].Lost).To(BeZero(), "the new node should answer before the old one stops: %s", o.result[addr])
		Expect(s.spread(ctx, f, "new")).To(HaveLen(1), "if all are excluded, one of them does")
	}, inBothFamilies)

	DescribeTable("is another while a node is drained, with nothing lost, and the same if all are", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), of(f))
		addr, first := s.announced(ctx, "web")
		o := lookOn(ctx, true, addr)
		s.mark(ctx, first.Name(), drain, undrain)
		second := s.goes(ctx, addr, first)
		for _, n := range others(first, second) {
			s.mark(ctx, n.Name(), drain, undrain)
		}
		s.mark(ctx, second.Name(), drain, undrain)
		s.remains(ctx, addr, second)
		o.sawMoves(addr, first, second)
		Expect(o.result[addr].Lost).To(BeZero(), "%s", o.result[addr])
	}, inBothFamilies)

	DescribeTable("stays the same through a cordon, which only keeps new addresses away", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.addService(ctx, "web", of(f))
		addr, owner := s.announced(ctx, "web")
		s.mark(ctx, owner.Name(), cordon, uncordon)
		Expect(s.spread(ctx, f, "a", "b", "c", "d")).To(And(HaveLen(2), HaveEach(2), Not(HaveKey(owner.Name()))))
		s.remains(ctx, addr, owner)
	}, inBothFamilies)

	DescribeTable("is one for all Services of a shared address, in either family", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web", lab.Nodes[0])
		var shared netip.Addr
		var node *cluster.Node
		for i := range 3 {
			on := func(svc *corev1.Service) {
				svc.Spec.Selector = map[string]string{"app": "web"}
				svc.Spec.Ports = []corev1.ServicePort{port(corev1.ProtocolTCP, int32(80+i))}
			}
			s.addService(ctx, fmt.Sprint("web-", i), of(f), sharing("k"), on)
			addr, owner := s.announced(ctx, fmt.Sprint("web-", i))
			if i == 0 {
				shared, node = addr, owner
			}
			Expect(addr).To(Equal(shared))
			Expect(owner).To(BeIdenticalTo(node))
			Eventually(ctx, hostname).WithArguments(netip.AddrPortFrom(addr, uint16(80+i))).Should(Equal("web-node1"))
		}
		answers(ctx, shared, node)
	}, inBothFamilies)
})
