// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
)

// advertise makes an L2Advertisement for the pool lan that goes with the scene.
func (s *scene) advertise(ctx context.Context, edit func(*v1alpha1.L2AdvertisementSpec)) {
	GinkgoHelper()
	s.advertiseNamed(ctx, s.namespace, edit)
}

// advertiseAs makes one more, with a name of its own.
func (s *scene) advertiseAs(ctx context.Context, name string, edit func(*v1alpha1.L2AdvertisementSpec)) {
	GinkgoHelper()
	s.advertiseNamed(ctx, s.namespace+"-"+name, edit)
}

func (s *scene) advertiseNamed(ctx context.Context, name string, edit func(*v1alpha1.L2AdvertisementSpec)) {
	GinkgoHelper()
	ad := &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}}
	ad.Spec.Pools = []string{s.poolName("lan")}
	edit(&ad.Spec)
	Expect(api.Create(ctx, ad)).To(Succeed())
	s.afterwards(func(ctx context.Context) { Expect(client.IgnoreNotFound(api.Delete(ctx, ad))).To(Succeed()) })
	s.awaitAdvertisement(ctx, name)
}

// awaitAdvertisement waits until the controller works with its present spec.
func (s *scene) awaitAdvertisement(ctx context.Context, name string) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		ad := &v1alpha1.L2Advertisement{}
		g.Expect(api.Get(ctx, objectKey("", name), ad)).To(Succeed())
		g.Expect(ad.Status.Conditions).To(ContainElement(HaveField("ObservedGeneration", ad.Generation)))
	}).Should(Succeed())
}

// editAdvertisement changes it.
func (s *scene) editAdvertisement(ctx context.Context, edit func(*v1alpha1.L2AdvertisementSpec)) {
	GinkgoHelper()
	ad := &v1alpha1.L2Advertisement{}
	Expect(api.Get(ctx, objectKey("", s.namespace), ad)).To(Succeed())
	base := ad.DeepCopy()
	edit(&ad.Spec)
	Expect(api.Patch(ctx, ad, client.MergeFrom(base))).To(Succeed())
	s.awaitAdvertisement(ctx, s.namespace)
}

// advertisement waits for its condition.
func (s *scene) advertisement(ctx context.Context, status metav1.ConditionStatus, reason string) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		ad := &v1alpha1.L2Advertisement{}
		g.Expect(api.Get(ctx, objectKey("", s.namespace), ad)).To(Succeed())
		c := meta.FindStatusCondition(ad.Status.Conditions, v1alpha1.L2AdvertisementReady)
		g.Expect(c).To(And(HaveField("Status", status), HaveField("Reason", reason), HaveField("ObservedGeneration", ad.Generation)))
	}).Should(Succeed())
}

// mark edits a Node until the scene ends.
func (s *scene) mark(ctx context.Context, node string, edit, undo func(*corev1.Node)) {
	GinkgoHelper()
	change := func(ctx context.Context, f func(*corev1.Node)) {
		GinkgoHelper()
		n := &corev1.Node{}
		Expect(api.Get(ctx, objectKey("", node), n)).To(Succeed())
		base := n.DeepCopy()
		f(n)
		Expect(api.Patch(ctx, n, client.MergeFrom(base))).To(Succeed())
	}
	change(ctx, edit)
	s.afterwards(func(ctx context.Context) { change(ctx, undo) })
}

var _ = Describe("Placement", func() {
	s := newScene()

	It("moves the addresses of a node that is drained, and not back", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		addr, first := s.announced(ctx, "web")
		s.mark(ctx, first.Name(),
			func(n *corev1.Node) { metav1.SetMetaDataAnnotation(&n.ObjectMeta, v1alpha1.AnnotationDrain, "true") },
			func(n *corev1.Node) { delete(n.Annotations, v1alpha1.AnnotationDrain) })
		Eventually(ctx, func() string { return s.owner(ctx, addr).Name() }).ShouldNot(Equal(first.Name()))
		second := s.owner(ctx, addr)
		answers(ctx, addr, second)
		s.mark(ctx, first.Name(),
			func(n *corev1.Node) { delete(n.Annotations, v1alpha1.AnnotationDrain) }, func(*corev1.Node) {})
		Consistently(ctx, func() string { return s.owner(ctx, addr).Name() }).Should(Equal(second.Name()))
	})

	It("follows an L2Advertisement, which says what it lacks", func(ctx SpecContext) {
		const label = "e2e.fairlead.dev/edge"
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.advertise(ctx, func(ad *v1alpha1.L2AdvertisementSpec) {
			ad.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{label: s.namespace}}
		})
		s.advertisement(ctx, metav1.ConditionFalse, "NoNode")
		s.addService(ctx, "web")
		Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAnnounced) }).Should(And(
			HaveField("Reason", controller.ReasonNoEligibleNode), HaveField("Message", ContainSubstring("is selected by L2Advertisement "+s.namespace))))
		s.mark(ctx, "node2",
			func(n *corev1.Node) { metav1.SetMetaDataLabel(&n.ObjectMeta, label, s.namespace) },
			func(n *corev1.Node) { delete(n.Labels, label) })
		s.advertisement(ctx, metav1.ConditionTrue, "Ready")
		addr, owner := s.announced(ctx, "web")
		Expect(owner.Name()).To(Equal("node2"))

		// What is announced stays where it is if nobody else may have it.
		s.editAdvertisement(ctx, func(ad *v1alpha1.L2AdvertisementSpec) { ad.Interfaces = []v1alpha1.InterfacePattern{"nic7"} })
		s.advertisement(ctx, metav1.ConditionFalse, "NoInterface")
		Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAnnounced) }).Should(And(
			HaveField("Status", metav1.ConditionTrue), HaveField("Reason", controller.ReasonNotSelected)))
		answers(ctx, addr, owner)
	})
})
