// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

var _ = Describe("What is said of BGP", onLab, Ordered, func() {
	installedWith("bgp-kinds", "speaker.bgp.passwordSecrets={tor-password}")
	s := newScene()

	keep := func(ctx context.Context, obj client.Object) {
		GinkgoHelper()
		Expect(api.Create(ctx, obj)).To(Succeed())
		s.afterwards(func(ctx context.Context) { Expect(api.Delete(ctx, obj)).To(Succeed()) })
	}
	addPeer := func(ctx context.Context, name string) *v1alpha1.BGPPeer {
		GinkgoHelper()
		// Nobody is at that address.
		peer := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BGPPeerSpec{
			LocalASN: ptr.To[int64](4200000000), PeerASN: "external", PeerAddress: "10.89.250.250",
		}}
		keep(ctx, peer)
		return peer
	}

	It("gives speakers the Secrets that the chart names, and no others", func(ctx SpecContext) {
		speaker := actingAs(ctx, cluster.Speaker, "node1")
		for _, name := range []string{"tor-password", "other"} {
			keep(ctx, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: cluster.SystemNamespace, Name: name}, Type: corev1.SecretTypeBasicAuth,
				StringData: map[string]string{"password": "secret"},
			})
		}
		read := &corev1.Secret{}
		Expect(speaker.Get(ctx, objectKey(cluster.SystemNamespace, "tor-password"), read)).To(Succeed())
		list := func(ctx context.Context, name string) error {
			return speaker.List(ctx, &corev1.SecretList{}, client.InNamespace(cluster.SystemNamespace), client.MatchingFields{"metadata.name": name})
		}
		Expect(list(ctx, "tor-password")).To(Succeed())
		Expect(apierrors.IsForbidden(list(ctx, "other"))).To(BeTrue())
		Expect(apierrors.IsForbidden(speaker.List(ctx, &corev1.SecretList{}, client.InNamespace(cluster.SystemNamespace)))).To(BeTrue())
	})

	It("is told by a BGPPeer, of the sessions that nodes should have", func(ctx SpecContext) {
		peer := addPeer(ctx, "tor")
		Eventually(ctx, func(g Gomega) {
			g.Expect(api.Get(ctx, objectKey("", "tor"), peer)).To(Succeed())
			g.Expect(peer.Status.Sessions).To(Equal(&v1alpha1.SessionCount{Established: 0, Expected: 1}))
			g.Expect(meta.FindStatusCondition(peer.Status.Conditions, v1alpha1.BGPPeerReady)).To(And(
				HaveField("Status", metav1.ConditionFalse), HaveField("Message", ContainSubstring("0 of 1 sessions are established; that of node node1"))))
		}).Should(Succeed())
	})

	It("is told by BGPAdvertisements, if they contradict each other", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		addPeer(ctx, "tor")
		contradicts := func(ctx context.Context, name string) (*metav1.Condition, error) {
			ad := &v1alpha1.BGPAdvertisement{}
			err := api.Get(ctx, objectKey("", name), ad)
			return meta.FindStatusCondition(ad.Status.Conditions, v1alpha1.BGPAdvertisementContradicts), err
		}
		for i, name := range []string{"a", "b"} {
			keep(ctx, &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BGPAdvertisementSpec{LocalPref: ptr.To(int64(i))}})
		}
		for _, name := range []string{"a", "b"} {
			Eventually(ctx, contradicts).WithArguments(name).Should(And(Not(BeNil()), HaveField("Status", metav1.ConditionTrue)))
		}
	})

	It("keeps an address from layer 2 whose pool BGPAdvertisements alone select", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		addPeer(ctx, "tor")
		ad := &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "only"}, Spec: v1alpha1.BGPAdvertisementSpec{RequireEndpoints: ptr.To(false)}}
		keep(ctx, ad)
		Eventually(ctx, func(g Gomega) {
			g.Expect(api.Get(ctx, objectKey("", "only"), ad)).To(Succeed())
			g.Expect(meta.IsStatusConditionTrue(ad.Status.Conditions, v1alpha1.BGPAdvertisementReady)).To(BeTrue())
		}).Should(Succeed())
		s.addService(ctx, "web")
		s.served(ctx, "web", s.v4(1))
		Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAnnounced) }).Should(And(
			HaveField("Status", metav1.ConditionFalse), HaveField("Reason", controller.ReasonNoSession)))
		silent(ctx, s.v4(1))
		Expect(s.ip(ctx, s.v4(1)).Spec.Owner).To(BeEmpty())
	})

	It("is read by both programs without being refused anything", func(ctx SpecContext) {
		for _, name := range []string{lab.product.Speakers["node1"].Name, lab.product.Controllers[0].Name} {
			said, err := os.ReadFile(lab.LogFile(name))
			Expect(err).NotTo(HaveOccurred())
			Expect(string(said)).NotTo(Or(ContainSubstring("forbidden"), ContainSubstring("Failed to watch")), name)
		}
	})
})
