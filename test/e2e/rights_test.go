// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// actingAs is a client with a token of a ServiceAccount of ours, bound to a Node as that of a Pod on it is, or to none.
func actingAs(ctx context.Context, account, node string) client.Client {
	GinkgoHelper()
	request := &authenticationv1.TokenRequest{}
	if node != "" {
		n := &corev1.Node{}
		Expect(api.Get(ctx, objectKey("", node), n)).To(Succeed())
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}
	}
	token, err := kube.CoreV1().ServiceAccounts(cluster.SystemNamespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	Expect(err).NotTo(HaveOccurred())
	config := rest.AnonymousClientConfig(lab.RESTConfig())
	config.Dial, config.BearerToken = lab.RESTConfig().Dial, token.Status.Token
	c, err := client.New(config, client.Options{Scheme: api.Scheme(), Mapper: api.RESTMapper()})
	Expect(err).NotTo(HaveOccurred())
	return c
}

var _ = Describe("A speaker's rights", onLab, func() {
	s := newScene()

	// write has a client change the status of a LoadBalancerIP that nobody announces.
	write := func(ctx context.Context, as client.Client, change func(*v1alpha1.LoadBalancerIPStatus)) error {
		GinkgoHelper()
		ip := s.ip(ctx, s.v4(1))
		base := ip.DeepCopy()
		change(&ip.Status)
		return as.Status().Patch(ctx, ip, client.MergeFrom(base))
	}
	claimOf := func(node string, term int64) func(*v1alpha1.LoadBalancerIPStatus) {
		return func(status *v1alpha1.LoadBalancerIPStatus) {
			status.L2 = &v1alpha1.L2Claim{Node: node, Term: term, Since: metav1.Now()}
		}
	}
	claimFor := func(node string) func(*v1alpha1.LoadBalancerIPStatus) { return claimOf(node, 1) }
	forbidden := func(err error, message string) {
		GinkgoHelper()
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(message)))
	}

	BeforeEach(func(ctx SpecContext) { s.reserve(ctx, s.v4(1), s.namespace, "later") })

	It("are to claim for its own node, and no other", func(ctx SpecContext) {
		speaker := actingAs(ctx, cluster.Speaker, "node1")
		forbidden(write(ctx, speaker, claimFor("node2")), "a speaker may claim only for its own node, which is node1")
		Expect(write(ctx, speaker, claimFor("node1"))).To(Succeed())
		forbidden(write(ctx, speaker, func(status *v1alpha1.LoadBalancerIPStatus) { status.L2 = nil }), "only for its own node")
		forbidden(write(ctx, speaker, claimOf("node2", 2)), "only for its own node")
	})

	It("are to claim with a higher term what another node has claimed", func(ctx SpecContext) {
		const message = "a claim on record gives way only to one of a higher term"
		first, second := actingAs(ctx, cluster.Speaker, "node1"), actingAs(ctx, cluster.Speaker, "node2")
		Expect(write(ctx, first, claimOf("node1", 2))).To(Succeed())
		Expect(write(ctx, first, claimOf("node1", 2))).To(Succeed(), "it may be on another interface now")
		for _, term := range []int64{1, 2} {
			Expect(write(ctx, second, claimOf("node2", term))).To(MatchError(ContainSubstring(message)))
		}
		Expect(write(ctx, first, claimOf("node1", 1))).To(MatchError(ContainSubstring(message)))
		Expect(write(ctx, second, claimOf("node2", 1<<48+1))).To(MatchError(ContainSubstring("less than or equal to")))
		Expect(write(ctx, second, claimOf("node2", 3))).To(Succeed())
	})

	It("are none with a token that is not bound to a node", func(ctx SpecContext) {
		speaker := actingAs(ctx, cluster.Speaker, "")
		forbidden(write(ctx, speaker, claimFor("node1")), "must be bound to its node")
	})

	It("leave conditions to the controller", func(ctx SpecContext) {
		speaker := actingAs(ctx, cluster.Speaker, "node1")
		forbidden(write(ctx, speaker, func(status *v1alpha1.LoadBalancerIPStatus) {
			meta.SetStatusCondition(&status.Conditions, metav1.Condition{Type: v1alpha1.PoolMismatch, Status: metav1.ConditionTrue, Reason: "Lie"})
		}), "are the controller's")
	})

	It("are to tell who else has an address that its own node is to announce", func(ctx SpecContext) {
		conflict := func(by string) func(*v1alpha1.LoadBalancerIPStatus) {
			return func(status *v1alpha1.LoadBalancerIPStatus) {
				status.Conflict = &v1alpha1.Conflict{By: by, MAC: "02:00:00:00:00:99", At: metav1.Now()}
				meta.SetStatusCondition(&status.Conditions, metav1.Condition{
					Type: v1alpha1.AddressConflict, Status: metav1.ConditionTrue, Reason: v1alpha1.ConflictProbeAnswered,
				})
			}
		}
		over := func(status *v1alpha1.LoadBalancerIPStatus) {
			status.Conflict = nil
			meta.SetStatusCondition(&status.Conditions, metav1.Condition{
				Type: v1alpha1.AddressConflict, Status: metav1.ConditionFalse, Reason: v1alpha1.ConflictOver,
			})
		}
		mine, other := actingAs(ctx, cluster.Speaker, "node1"), actingAs(ctx, cluster.Speaker, "node2")
		forbidden(write(ctx, mine, conflict("node1")), "a speaker may tell of a conflict only if its own node, which is node1,")
		Expect(write(ctx, mine, claimFor("node1"))).To(Succeed())
		forbidden(write(ctx, mine, conflict("node2")), "only of what it saw itself")
		Expect(write(ctx, mine, conflict("node1"))).To(Succeed())
		forbidden(write(ctx, other, over), "a speaker may tell of a conflict only if its own node, which is node2,")
		Expect(write(ctx, mine, over)).To(Succeed())
	})

	It("are to verify what another node has claimed", func(ctx SpecContext) {
		verified := func(by string, status metav1.ConditionStatus) func(*v1alpha1.LoadBalancerIPStatus) {
			return func(s *v1alpha1.LoadBalancerIPStatus) {
				reason := v1alpha1.VerifiedNoAnswer
				if s.Verified = nil; status == metav1.ConditionTrue {
					reason = v1alpha1.VerifiedAnswered
					s.Verified = &v1alpha1.Verification{By: by, MAC: "02:00:00:00:00:01", At: metav1.Now()}
				}
				meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.AddressVerified, Status: status, Reason: reason})
			}
		}
		owner, backup := actingAs(ctx, cluster.Speaker, "node1"), actingAs(ctx, cluster.Speaker, "node2")
		forbidden(write(ctx, backup, verified("node2", metav1.ConditionTrue)), "only what another node than its own, which is node2, has claimed")
		Expect(write(ctx, owner, claimFor("node1"))).To(Succeed())
		forbidden(write(ctx, owner, verified("node1", metav1.ConditionTrue)), "only what another node than its own, which is node1, has claimed")
		forbidden(write(ctx, backup, verified("node3", metav1.ConditionTrue)), "only say what it saw itself")
		Expect(write(ctx, backup, verified("node2", metav1.ConditionTrue))).To(Succeed())
		Expect(write(ctx, backup, verified("node2", metav1.ConditionFalse))).To(Succeed())
		forbidden(write(ctx, owner, verified("node1", metav1.ConditionTrue)), "only what another node")
	})

	It("are to tell of its own node, and no other", func(ctx SpecContext) {
		tell := func(as client.Client, node string) error {
			GinkgoHelper()
			speaker := toldOf(ctx, node)
			base := speaker.DeepCopy()
			speaker.Status.Interfaces[0].Gateways = []v1alpha1.Gateway{"192.0.2.1"}
			return as.Status().Patch(ctx, speaker, client.MergeFrom(base), client.DryRunAll)
		}
		speaker := actingAs(ctx, cluster.Speaker, "node1")
		forbidden(tell(speaker, "node2"), "a speaker may write only the Speaker of its own node, which is node1")
		forbidden(tell(actingAs(ctx, cluster.Speaker, ""), "node1"), "must be bound to its node")
		Expect(tell(speaker, "node1")).To(Succeed())

		reach := func(as client.Client, node string) error {
			GinkgoHelper()
			speaker := toldOf(ctx, node)
			base := speaker.DeepCopy()
			speaker.Spec.Endpoints = []v1alpha1.Endpoint{{Interface: "eth0", Address: "192.0.2.1"}}
			return as.Patch(ctx, speaker, client.MergeFrom(base), client.DryRunAll)
		}
		forbidden(reach(speaker, "node2"), "a speaker may write only the Speaker of its own node, which is node1")
		Expect(reach(speaker, "node1")).To(Succeed())
	})

	It("are to make the Speaker of its own node, as that Node's", func(ctx SpecContext) {
		object := func(name string, owners ...string) *v1alpha1.Speaker {
			speaker := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: name}}
			for _, owner := range owners {
				n := &corev1.Node{}
				Expect(api.Get(ctx, objectKey("", owner), n)).To(Succeed())
				speaker.OwnerReferences = append(speaker.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: owner, UID: n.UID})
			}
			return speaker
		}
		dry := client.DryRunAll
		toldOf(ctx, "node1")
		speaker := actingAs(ctx, cluster.Speaker, "node1")
		forbidden(speaker.Create(ctx, object("another", "node1"), dry), "only the Speaker of its own node")
		forbidden(speaker.Create(ctx, object("node1"), dry), "must be owned by its Node alone")
		forbidden(speaker.Create(ctx, object("node1", "node2"), dry), "must be owned by its Node alone")
		forbidden(speaker.Create(ctx, object("node1", "node1", "node2"), dry), "must be owned by its Node alone")
		// Nothing but that it is there already speaks against its own.
		err := speaker.Create(ctx, object("node1", "node1"), dry)
		Expect(apierrors.IsAlreadyExists(err)).To(BeTrue(), "%v", err)
	})

	It("end there", func(ctx SpecContext) {
		speaker := actingAs(ctx, cluster.Speaker, "node1")
		ip := s.ip(ctx, s.v4(1))
		ip.Spec.Owner = "node1"
		forbidden(speaker.Update(ctx, ip), "cannot update")
		forbidden(speaker.Delete(ctx, ip), "cannot delete")
		forbidden(speaker.List(ctx, &corev1.SecretList{}), "cannot list")
		own := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
		forbidden(speaker.Delete(ctx, own), "cannot delete")
		forbidden(speaker.Patch(ctx, own, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"ownerReferences":null}}`))), "must be owned by its Node alone")
		svc := s.addService(ctx, "web")
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: s.v4(9).String()}}
		forbidden(speaker.Status().Update(ctx, svc), "cannot update")
	})

	It("and the controller's end where nothing of ours is written", func(ctx SpecContext) {
		controller := actingAs(ctx, cluster.Controller, "")
		svc := s.addService(ctx, "web")
		base := svc.DeepCopy()
		svc.Labels = map[string]string{"changed": "yes"}
		forbidden(controller.Patch(ctx, svc, client.MergeFrom(base)), "cannot patch")
		forbidden(controller.Delete(ctx, svc), "cannot delete")
		forbidden(controller.List(ctx, &corev1.SecretList{}), "cannot list")
		forbidden(controller.Delete(ctx, &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}), "cannot delete")
	})
})
