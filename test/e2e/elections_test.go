// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// Others elect by a lease, and lose addresses when it is deleted or can't be renewed. Ours have the mesh: what is on record
// in the API is what they tell, not what makes them.
var _ = Describe("Nobody moves", onLab, func() {
	s := newScene()

	// serve announces a Service of both families, with a backend on a node that doesn't announce it, and returns its
	// addresses and their nodes.
	serve := func(ctx context.Context, name string, edits ...func(*corev1.Service)) map[netip.Addr]*cluster.Node {
		GinkgoHelper()
		s.addService(ctx, name, append([]func(*corev1.Service){selecting("web"), dual}, edits...)...)
		s.announced(ctx, name)
		owners := map[netip.Addr]*cluster.Node{}
		for _, text := range shown(s.service(ctx, name)) {
			addr := netip.MustParseAddr(text)
			Eventually(ctx, func() *v1alpha1.L2Claim { return s.ip(ctx, addr).Status.L2 }).ShouldNot(BeNil())
			owners[addr] = s.owner(ctx, addr)
		}
		Expect(owners).To(HaveLen(2))
		return owners
	}
	addresses := func(owners ...map[netip.Addr]*cluster.Node) (list []netip.Addr) {
		for _, o := range owners {
			for addr := range o {
				list = append(list, addr)
			}
		}
		return list
	}
	// unmoved checks that nobody saw anything of what went on.
	unmoved := func(ctx context.Context, o *onlooker, owners map[netip.Addr]*cluster.Node) {
		GinkgoHelper()
		for addr, owner := range owners {
			s.remains(ctx, addr, owner)
		}
		for addr, owner := range owners {
			o.sawNothing(addr, owner)
		}
	}

	Context("and nothing is lost", func() {
		var owners map[netip.Addr]*cluster.Node
		var o *onlooker
		BeforeEach(func(ctx SpecContext) {
			s.addLAN(ctx)
			s.startBackends(ctx, "web", lab.Nodes[0])
			owners = serve(ctx, "web")
			o = lookOn(ctx, true, addresses(owners)...)
		})

		It("when somebody deletes the claims on record, again and again", func(ctx SpecContext) {
			for range 3 {
				for addr, owner := range owners {
					ip := s.ip(ctx, addr)
					ip.Status = v1alpha1.LoadBalancerIPStatus{}
					Expect(api.Status().Update(ctx, ip)).To(Succeed())
					Eventually(ctx, func() *v1alpha1.L2Claim { return s.ip(ctx, addr).Status.L2 }).Should(
						HaveValue(HaveField("Node", owner.Name())), "the owner should put its claim on record again")
				}
			}
			unmoved(ctx, o, owners)
		})

		It("when somebody blanks the node in the claims, and whom the controller proposed", func(ctx SpecContext) {
			for addr, owner := range owners {
				ip := s.ip(ctx, addr)
				ip.Status.L2.Node = ""
				Expect(api.Status().Update(ctx, ip)).To(MatchError(apierrors.IsInvalid, "refused: a claim gives way only to one of a higher term"))
				ip = s.ip(ctx, addr)
				ip.Spec.Owner = ""
				Expect(api.Update(ctx, ip)).To(Or(Succeed(), MatchError(ContainSubstring("the object has been modified"))))
				Eventually(ctx, func() string { return s.ip(ctx, addr).Status.L2.Node }).Should(Equal(owner.Name()))
			}
			unmoved(ctx, o, owners)
		})

		It("in a storm of events", func(ctx SpecContext) {
			const rounds = 50 // each of six writes, and what comes of them
			for _, n := range lab.Nodes {
				s.mark(ctx, n.Name(), func(*corev1.Node) {}, func(n *corev1.Node) { delete(n.Annotations, "e2e.fairlead.dev/storm") })
			}
			var slices discoveryv1.EndpointSliceList
			Expect(api.List(ctx, &slices, client.InNamespace(s.namespace))).To(Succeed())
			Expect(slices.Items).To(HaveLen(2))
			edited := []client.Object{s.service(ctx, "web"), &slices.Items[0], &slices.Items[1]}
			for i := range rounds {
				node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: lab.Nodes[i%len(lab.Nodes)].Name()}}
				patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"e2e.fairlead.dev/storm":"%d"}}}`, i)
				for _, obj := range append(edited, node) {
					Expect(api.Patch(ctx, obj, client.RawPatch(types.MergePatchType, patch))).To(Succeed())
				}
				// Services come and go, too.
				s.addService(ctx, fmt.Sprint("storm-", i))
				if i > 0 {
					gone := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: fmt.Sprint("storm-", i-1)}}
					Expect(api.Delete(ctx, gone)).To(Succeed())
				}
			}
			unmoved(ctx, o, owners)
		})

		It("when the EndpointSlices are deleted and come again", func(ctx SpecContext) {
			for range 5 {
				Expect(api.DeleteAllOf(ctx, &discoveryv1.EndpointSlice{}, client.InNamespace(s.namespace))).To(Succeed())
				Expect(lab.AwaitEndpoints(ctx, objectKey(s.namespace, "web"), 1)).To(Succeed())
			}
			for addr := range owners {
				reaches(ctx, addr, "web-node1")
			}
			// Without endpoints there is nothing to lose: kube-proxy refuses what comes.
			for addr, owner := range owners {
				s.remains(ctx, addr, owner)
			}
			o.end()
			for addr, owner := range owners {
				Expect(o.answerers(addr)).To(Equal([]string{owner.MAC.String()}))
			}
		})

		It("when a Service that shares the address is deleted", func(ctx SpecContext) {
			s.editService(ctx, "web", sharing("k"))
			sibling := serve(ctx, "sibling", sharing("k"), tcp(443))
			Expect(sibling).To(Equal(owners))
			s.deleteService(ctx, "sibling")
			unmoved(ctx, o, owners)
		})

		It("when the traffic policy goes to Local and back where the endpoints are", func(ctx SpecContext) {
			pods := s.startBackends(ctx, "here")
			s.editService(ctx, "web", selecting("here"))
			Expect(lab.AwaitEndpoints(ctx, objectKey(s.namespace, "web"), len(pods))).To(Succeed())
			for range 5 {
				s.editService(ctx, "web", local)
				s.editService(ctx, "web", remote)
			}
			for addr, owner := range owners {
				s.remains(ctx, addr, owner)
			}
			o.end()
			for addr, owner := range owners {
				Expect(o.answerers(addr)).To(Equal([]string{owner.MAC.String()}))
			}
		})
	})

	It("while the node that answers, and one that doesn't, are cut from the API server for 20 seconds", func(ctx SpecContext) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web", lab.Nodes[0])
		owners := map[netip.Addr]*cluster.Node{}
		for _, name := range []string{"a", "b", "c"} {
			for addr, owner := range serve(ctx, name) {
				owners[addr] = owner
			}
		}
		// Each node announces something, so one that is cut is the owner of this and a bystander to that.
		o := lookOn(ctx, true, addresses(owners)...)
		cut := lab.Nodes[1]
		s.afterwards(func(ctx context.Context) { Expect(lab.Control.Heal(ctx)).To(Succeed()) })
		Expect(lab.Control.Part(ctx, cut.Host)).To(Succeed())
		began := time.Now()
		// What is new is announced meanwhile, also if it was proposed to the node that can't know of it.
		for _, name := range []string{"d", "e", "f"} {
			serve(ctx, name)
		}
		Eventually(ctx, func() time.Duration { return time.Since(began) }).WithTimeout(30 * time.Second).Should(BeNumerically(">", 20*time.Second))
		Expect(lab.Control.Heal(ctx)).To(Succeed())
		unmoved(ctx, o, owners)
	})
})

var _ = Describe("An address goes once, and not back,", onLab, func() {
	s := newScene()

	It("when its node is cut off the LAN for a while, and not when another is", func(ctx SpecContext) {
		s.addLAN(ctx)
		s.addService(ctx, "web", dual)
		v4, owner := s.announced(ctx, "web")
		v6 := netip.MustParseAddr(shown(s.service(ctx, "web"))[1])
		Eventually(ctx, func() *v1alpha1.L2Claim { return s.ip(ctx, v6).Status.L2 }).ShouldNot(BeNil())
		first := map[netip.Addr]*cluster.Node{v4: owner, v6: s.owner(ctx, v6)}
		o := lookOn(ctx, false, v4, v6)

		// The two may have two nodes: one after the other is cut, and healed.
		path := map[netip.Addr][]*cluster.Node{v4: {first[v4]}, v6: {first[v6]}}
		for _, cut := range lab.Nodes {
			s.afterwards(func(ctx context.Context) { Expect(cut.Heal(ctx)).To(Succeed()) })
			Expect(cut.Cut(ctx)).To(Succeed())
			for addr, nodes := range path {
				if nodes[len(nodes)-1] == cut {
					path[addr] = append(nodes, s.goes(ctx, addr, cut))
				}
			}
			Expect(cut.Heal(ctx)).To(Succeed())
			for addr, nodes := range path {
				// Who was cut off doesn't know at once that others hear it again.
				answers(ctx, addr, nodes[len(nodes)-1])
				s.remains(ctx, addr, nodes[len(nodes)-1])
			}
		}
		for addr := range path {
			o.sawNoTwo(addr)
		}
	})

	DescribeTable("when its Local endpoint flaps", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		pods := s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), of(f), local)
		addr, owner := s.announced(ctx, "web")
		Expect(owner).To(BeIdenticalTo(lab.Nodes[0]))
		s.startBackends(ctx, "web", lab.Nodes[1])
		Expect(lab.AwaitEndpoints(ctx, objectKey(s.namespace, "web"), 2)).To(Succeed())
		o := lookOn(ctx, false, addr)
		for range 10 {
			Expect(pods[0].SetReady(ctx, false)).To(Succeed())
			Expect(lab.AwaitEndpoints(ctx, objectKey(s.namespace, "web"), 1)).To(Succeed())
			Expect(pods[0].SetReady(ctx, true)).To(Succeed())
			Expect(lab.AwaitEndpoints(ctx, objectKey(s.namespace, "web"), 2)).To(Succeed())
		}
		Eventually(ctx, s.owner).WithArguments(addr).Should(BeIdenticalTo(lab.Nodes[1]))
		s.remains(ctx, addr, lab.Nodes[1])
		o.sawMoves(addr, lab.Nodes[0], lab.Nodes[1])
	}, inBothFamilies)

	It("at most, while two Local endpoints flap by turns", func(ctx SpecContext) {
		s.addLAN(ctx)
		pods := s.startBackends(ctx, "web", lab.Nodes[0], lab.Nodes[1])
		Expect(pods[1].SetReady(ctx, false)).To(Succeed())
		s.addService(ctx, "web", selecting("web"), local)
		addr, owner := s.announced(ctx, "web")
		Expect(owner).To(BeIdenticalTo(lab.Nodes[0]))
		w, o := s.witness(ctx), lookOn(ctx, false, addr)
		for i := range 6 {
			Expect(pods[(i+1)%2].SetReady(ctx, true)).To(Succeed())
			Expect(pods[i%2].SetReady(ctx, false)).To(Succeed())
			Expect(lab.AwaitEndpoints(ctx, objectKey(s.namespace, "web"), 1)).To(Succeed())
		}
		Eventually(ctx, w.quietFor).Should(BeNumerically(">=", steadily))
		Expect(len(w.claims(addr))).To(BeNumerically("<=", 2), "the next move has to wait: %v", w.claims(addr))
		o.sawNoTwo(addr)
	})
})

// remade deletes the LoadBalancerIP of an address and waits until it is bound again and claimed.
func (s *scene) remade(ctx context.Context, addr netip.Addr) {
	GinkgoHelper()
	before := s.ip(ctx, addr)
	Expect(api.Delete(ctx, before)).To(Succeed())
	Eventually(ctx, func(g Gomega) {
		ip, err := getIP(ctx, addr)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(ip.UID).NotTo(Equal(before.UID))
		g.Expect(ptr.Deref(ip.Status.L2, v1alpha1.L2Claim{}).Node).NotTo(BeEmpty())
	}).Should(Succeed())
}

var _ = Describe("An address whose object is deleted", onLab, func() {
	s := newScene()

	DescribeTable("is answered all the same, by one node at a time", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), of(f))
		addr, first := s.announced(ctx, "web")
		o := lookOn(ctx, true, addr)
		s.remade(ctx, addr)
		now := s.owner(ctx, addr)
		s.remains(ctx, addr, now)
		// The new object knows nothing of the old claim, so that the controller may propose another node.
		if now == first {
			o.sawMoves(addr, first)
		} else {
			o.sawMoves(addr, first, now)
		}
		Expect(o.result[addr].Dark).To(BeNumerically("<", time.Second), "%s", o.result[addr])
	}, inBothFamilies)
})
