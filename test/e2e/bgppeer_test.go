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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
)

// fromAnyAS is an edit for routers that take a node of whichever AS but their own.
var fromAnyAS = eachNeighbor(func(n *router.Neighbor) { n.ASN = 0 })

// putSecret makes, or makes anew, a Secret with a password that speakers may read. It goes with the scene.
func (s *scene) putSecret(ctx context.Context, kind corev1.SecretType, password string) {
	GinkgoHelper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: cluster.SystemNamespace, Name: passwordSecret},
		Type:       kind, StringData: map[string]string{corev1.BasicAuthPasswordKey: password},
	}
	remove := func(ctx context.Context) {
		GinkgoHelper()
		Expect(client.IgnoreNotFound(api.Delete(ctx, secret.DeepCopy()))).To(Succeed())
	}
	remove(ctx)
	s.afterwards(remove)
	Expect(api.Create(ctx, secret)).To(Succeed())
}

func withPassword(p *v1alpha1.BGPPeerSpec) {
	p.PasswordSecretRef = &v1alpha1.PasswordSecret{Name: passwordSecret}
}

// addProfile makes a BFDProfile that goes with the scene, and is an edit for peers that name it.
func (s *scene) addProfile(ctx context.Context, spec v1alpha1.BFDProfileSpec) func(*v1alpha1.BGPPeerSpec) {
	GinkgoHelper()
	profile := &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}, Spec: spec}
	Expect(api.Create(ctx, profile)).To(Succeed())
	s.afterwards(func(ctx context.Context) { Expect(api.Delete(ctx, profile)).To(Succeed()) })
	return func(p *v1alpha1.BGPPeerSpec) { p.BFDProfile = profile.Name }
}

func seconds(n int) *metav1.Duration {
	return &metav1.Duration{Duration: time.Duration(n) * time.Second}
}

func milliseconds(n int) *metav1.Duration {
	return &metav1.Duration{Duration: time.Duration(n) * time.Millisecond}
}

var _ = Describe("A BGPPeer", onLab, func() {
	s := newRoutedScene()

	// serve has a Service with a backend on each node, for peers that are there or come.
	serve := func(ctx context.Context, k stack) {
		GinkgoHelper()
		s.addRouted(ctx)
		s.startBackends(ctx, "web")
		s.addService(ctx, "web", selecting("web"), k.service)
	}
	allServe := func(ctx context.Context, k stack) {
		GinkgoHelper()
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, lab.Nodes, backendNames()...)
		}
	}

	DescribeTable("tells how many sessions are established, and Speakers tell of each", func(ctx SpecContext, k stack) {
		s.withPeers(ctx, k)
		for _, r := range lab.tors {
			s.peerTells(ctx, r.Name(), metav1.ConditionTrue, "Established", "every session is established")
			Expect(s.peer(ctx, r.Name()).Status.Sessions).To(Equal(&v1alpha1.SessionCount{Established: 3, Expected: 3}))
			for _, n := range lab.Nodes {
				s.sessionTells(ctx, n, r.Name(),
					HaveField("Neighbor", addressOf(r.Host, k[0]).String()), HaveField("State", v1alpha1.BGPEstablished), HaveField("Families", HaveLen(len(k))))
			}
		}
		serve(ctx, k)
		allServe(ctx, k)

		// One router turns a node away.
		configureTor(ctx, lab.tors[1], func(c *router.Config) {
			c.Neighbors = c.Neighbors[2:]
		})
		name := lab.tors[1].Name()
		s.peerTells(ctx, name, metav1.ConditionFalse, "NotEstablished", "2 of 3 sessions are established; that of node node1 with "+addressOf(lab.tors[1].Host, k[0]).String()+" is not: ")
		Expect(s.peer(ctx, name).Status.Sessions).To(Equal(&v1alpha1.SessionCount{Established: 2, Expected: 3}))
		s.sessionTells(ctx, lab.Nodes[0], name, HaveField("State", Not(Equal(v1alpha1.BGPEstablished))), HaveField("LastError", Not(BeEmpty())))
		for _, addr := range k.addrs(s, 1) {
			routerWants(ctx, lab.tors[1], ofAddress(addr), lab.Nodes[1:])
			routerWants(ctx, lab.tors[0], ofAddress(addr), lab.Nodes)
		}
		configureTor(ctx, lab.tors[1])
		s.peerTells(ctx, name, metav1.ConditionTrue, "Established", "")
		allServe(ctx, k)
	}, inAllStacks)

	DescribeTable("gives its sessions a router ID, and a Node's annotation comes before it", func(ctx SpecContext, k stack) {
		serve(ctx, k)
		s.addPeers(ctx, k, func(p *v1alpha1.BGPPeerSpec) { p.NodeSelector, p.RouterID = onNodes("node1"), "192.0.2.71" })
		identified := func(id string) {
			GinkgoHelper()
			for _, r := range lab.tors {
				established(ctx, r, k[0], lab.Nodes[0])
				show := map[router.Kind]string{router.FRR: "show bgp neighbors", router.BIRD: "show protocols all"}[r.BGP.Kind]
				Eventually(ctx, func() (string, error) { return r.BGP.Command(ctx, show) }).Should(ContainSubstring(id), r.Name())
			}
			for _, addr := range k.addrs(s, 1) {
				serves(ctx, addr, lab.Nodes[:1], backendNames()...)
			}
		}
		identified("192.0.2.71")
		annotate(ctx, s, "node1", v1alpha1.AnnotationBGPRouterID, "192.0.2.72")
		identified("192.0.2.72")
	}, inAllStacks)

	DescribeTable("puts nodes into an AS, and a Node's annotation comes before it", func(ctx SpecContext, k stack) {
		configureTors(ctx, fromAnyAS)
		serve(ctx, k)
		s.withPeers(ctx, k, func(p *v1alpha1.BGPPeerSpec) { p.LocalASN = ptr.To[int64](4200000001) })
		for _, addr := range k.addrs(s, 1) {
			announcedBy(ctx, addr, lab.Nodes, HaveField("ASPath", Equal([]uint32{4200000001})))
		}
		allServe(ctx, k)
		annotate(ctx, s, "node2", v1alpha1.AnnotationBGPASN, "64777")
		for _, addr := range k.addrs(s, 1) {
			announcedBy(ctx, addr, lab.Nodes, WithTransform(func(p router.Path) []uint32 {
				if tellerOf(p) == "node2" {
					return p.ASPath
				}
				return []uint32{64777}
			}, Equal([]uint32{64777})))
		}
		allServe(ctx, k)
		annotate(ctx, s, "node2", v1alpha1.AnnotationBGPASN, "AS1")
		for _, r := range lab.tors {
			s.peerTells(ctx, r.Name(), metav1.ConditionFalse, "InvalidAnnotation", `is "AS1": it must be a number`)
		}
		for _, addr := range k.addrs(s, 1) {
			serves(ctx, addr, others(lab.Nodes[1]), backendNames()...)
		}
	}, inAllStacks)

	DescribeTable("with a password has no session without it, and takes another one live", func(ctx SpecContext, k stack) {
		signed := func(password string) func(*router.Config) {
			return eachNeighbor(func(n *router.Neighbor) {
				if familyOf(n.Address) == k[0] {
					n.Password = password
				}
			})
		}
		configureTors(ctx, signed("first"))
		serve(ctx, k)
		// These have none, and nothing to do with it.
		plain := stack{corev1.IPv6Protocol}
		if k[0] == corev1.IPv6Protocol {
			plain = stack{corev1.IPv4Protocol}
		}
		for _, r := range lab.tors {
			s.addPeer(ctx, "plain-"+r.Name(), addressOf(r.Host, plain[0]))
			established(ctx, r, plain[0], lab.Nodes...)
		}
		others := sessionsLive(ctx)

		s.addPeers(ctx, k, withPassword)
		held := func(reason, message string) {
			GinkgoHelper()
			for _, r := range lab.tors {
				s.peerTells(ctx, r.Name(), metav1.ConditionFalse, reason, message)
				for _, n := range lab.Nodes {
					s.sessionTells(ctx, n, r.Name(), HaveField("State", v1alpha1.BGPHeld), HaveField("Reason", reason))
				}
			}
			others.goOn(ctx)
		}
		joined := func() {
			GinkgoHelper()
			for _, r := range lab.tors {
				established(ctx, r, k[0], lab.Nodes...)
				s.peerTells(ctx, r.Name(), metav1.ConditionTrue, "Established", "")
			}
		}
		held("SecretNotFound", passwordSecret)
		s.putSecret(ctx, corev1.SecretTypeOpaque, "first")
		held("SecretInvalid", string(corev1.SecretTypeBasicAuth))
		s.putSecret(ctx, corev1.SecretTypeBasicAuth, "")
		held("SecretInvalid", "password")
		s.putSecret(ctx, corev1.SecretTypeBasicAuth, "other")
		for _, r := range lab.tors {
			s.peerTells(ctx, r.Name(), metav1.ConditionFalse, "NotEstablished", "another password")
		}
		others.goOn(ctx)
		s.putSecret(ctx, corev1.SecretTypeBasicAuth, "first")
		joined()
		configureTors(ctx, signed("second"))
		s.putSecret(ctx, corev1.SecretTypeBasicAuth, "second")
		joined()
		for _, r := range lab.tors {
			s.deletePeer(ctx, "plain-"+r.Name())
		}
		allServe(ctx, k)
		s.editPeer(ctx, lab.tors[0].Name(), func(p *v1alpha1.BGPPeerSpec) { p.PasswordSecretRef.Name = "not-listed" })
		s.peerTells(ctx, lab.tors[0].Name(), metav1.ConditionFalse, "SecretNotListed", "speaker.bgp.passwordSecrets")
		established(ctx, lab.tors[0], k[0])
	}, inAllStacks[:2])

	DescribeTable("with a BFDProfile has its routers watched, and a new Service doesn't disturb that", func(ctx SpecContext, k stack, spec v1alpha1.BFDProfileSpec, at router.BFD, interval, detection time.Duration) {
		configureTors(ctx, eachNeighbor(func(n *router.Neighbor) { n.BFD = &at }))
		s.withPeers(ctx, k, s.addProfile(ctx, spec))
		watched := func() (ups map[string]time.Time) {
			GinkgoHelper()
			ups = map[string]time.Time{}
			for _, r := range lab.tors {
				for _, n := range lab.Nodes {
					Eventually(ctx, func() (*router.BFDState, error) {
						session, err := r.BGP.Session(ctx, addressOf(n.Host, k[0]))
						return session.BFD, err
					}).Should(And(Not(BeNil()), HaveField("State", "Up"), HaveField("Interval", interval), HaveField("Detection", detection)), "%s watches %s", r.Name(), n.Name())
					s.sessionTells(ctx, n, r.Name(), HaveField("BFD", v1alpha1.BFDUp), HaveField("State", v1alpha1.BGPEstablished))
					speaker, err := speakerOf(ctx, n.Name())
					Expect(err).NotTo(HaveOccurred())
					for _, b := range speaker.Status.BGP {
						ups[n.Name()+" "+b.Neighbor] = b.Since.Time
					}
				}
			}
			return ups
		}
		before, lives := watched(), sessionsLive(ctx)
		serve(ctx, k)
		allServe(ctx, k)
		lives.goOnFor(ctx, steadily)
		Expect(watched()).To(Equal(before))
	}, bfdEntries())

	DescribeTable("may be edited: what routers are told at the start begins that session anew, and all else nothing", func(ctx SpecContext, f corev1.IPFamily) {
		k := stack{f}
		configureTors(ctx, fromAnyAS)
		profile := s.addProfile(ctx, v1alpha1.BFDProfileSpec{})
		serve(ctx, k)
		s.withPeers(ctx, k)
		allServe(ctx, k)
		edited, other := lab.tors[0], lab.tors[1]
		unconcerned := sessionsLive(ctx, other)
		for _, edit := range []struct {
			field  string
			resets bool
			change func(*v1alpha1.BGPPeerSpec)
		}{
			{"connectTime", false, func(p *v1alpha1.BGPPeerSpec) { p.ConnectTime = seconds(2) }},
			{"nodeSelector", false, func(p *v1alpha1.BGPPeerSpec) { p.NodeSelector = onNodes("node1", "node2", "node3") }},
			{"bfdProfile", false, profile},
			{"peerASN", true, func(p *v1alpha1.BGPPeerSpec) { p.PeerASN = v1alpha1.PeerASNExternal }},
			{"localASN", true, func(p *v1alpha1.BGPPeerSpec) { p.LocalASN = ptr.To[int64](64601) }},
			{"holdTime", true, func(p *v1alpha1.BGPPeerSpec) { p.HoldTime = seconds(60) }},
			{"keepaliveTime", true, func(p *v1alpha1.BGPPeerSpec) { p.KeepaliveTime = seconds(10) }},
			{"ebgpMultiHop", true, func(p *v1alpha1.BGPPeerSpec) { p.EBGPMultiHop = ptr.To[int32](2) }},
			{"gracefulRestart", true, func(p *v1alpha1.BGPPeerSpec) { p.GracefulRestart.RestartTime = seconds(90) }},
			{"families", true, func(p *v1alpha1.BGPPeerSpec) { p.Families = nil }},
		} {
			By(edit.field)
			before := sessionsLive(ctx, edited)
			s.editPeer(ctx, edited.Name(), edit.change)
			if edit.resets {
				before.beginAnew(ctx, edit.field+" should begin the sessions anew", edited)
			} else {
				before.goOnFor(ctx, steadily, edited)
			}
			unconcerned.goOn(ctx, other)
		}
		allServe(ctx, k)
	}, inBothFamilies)

	DescribeTable("comes and goes without the others", func(ctx SpecContext, k stack) {
		gateway, second := lab.tors[0], lab.tors[1]
		serve(ctx, k)
		s.addPeer(ctx, second.Name(), addressOf(second.Host, k[0]))
		leads := func(r *cluster.Router) {
			GinkgoHelper()
			for _, addr := range k.addrs(s, 1) {
				routerWants(ctx, r, ofAddress(addr), lab.Nodes)
				kernelWants(ctx, r, ofAddress(addr), lab.Nodes...)
				answersVia(ctx, r, netip.AddrPortFrom(addr, 80), backendNames()...)
			}
		}
		leads(second)
		Expect(gateway.BGP.Table(ctx)).To(BeEmpty())
		of := sessionsLive(ctx, second)
		s.addPeer(ctx, gateway.Name(), addressOf(gateway.Host, k[0]))
		allServe(ctx, k)
		of.goOn(ctx, second)

		of = sessionsLive(ctx, gateway)
		s.deletePeer(ctx, second.Name())
		Eventually(ctx, second.BGP.Table).Should(BeEmpty())
		established(ctx, second, k[0])
		leads(gateway)
		for _, addr := range k.addrs(s, 1) {
			kernelWants(ctx, second, ofAddress(addr))
		}
		of.goOn(ctx, gateway)
	}, inAllStacks)

	DescribeTable("takes a router of whichever AS, or of the nodes' own, and says which it met otherwise", func(ctx SpecContext, k stack) {
		serve(ctx, k)
		s.withPeers(ctx, k, func(p *v1alpha1.BGPPeerSpec) { p.PeerASN = v1alpha1.PeerASNExternal })
		allServe(ctx, k)
		each := func(asn v1alpha1.PeerASN, message string) {
			GinkgoHelper()
			for _, r := range lab.tors {
				s.editPeer(ctx, r.Name(), func(p *v1alpha1.BGPPeerSpec) { p.PeerASN = asn })
			}
			for _, r := range lab.tors {
				if message == "" {
					s.peerTells(ctx, r.Name(), metav1.ConditionTrue, "Established", "")
				} else {
					s.peerTells(ctx, r.Name(), metav1.ConditionFalse, "NotEstablished", message)
				}
			}
		}
		each(v1alpha1.PeerASNInternal, "its ASN is 64512, and our own, 64600, is wanted")
		each("64999", "its ASN is 64512, and 64999 is wanted")
		for _, addr := range k.addrs(s, 1) {
			unrouted(ctx, addr)
		}
		configureTors(ctx, inOwnAS)
		each(v1alpha1.PeerASNExternal, "its ASN is our own, 64600, and another is wanted")
		each(v1alpha1.PeerASNInternal, "")
		for _, addr := range k.addrs(s, 1) {
			announcedBy(ctx, addr, lab.Nodes, HaveField("ASPath", BeEmpty()))
		}
		allServe(ctx, k)
		// The routers know the nodes by another AS.
		configureTors(ctx, eachNeighbor(func(n *router.Neighbor) { n.ASN = 64888 }))
		each("64512", "it expects another ASN of this node")
	}, inAllStacks[:2])

	DescribeTable("keeps its sessions and routes while no speaker hears of the API server", func(ctx SpecContext, k stack) {
		serve(ctx, k)
		s.withPeers(ctx, k)
		allServe(ctx, k)
		lives := sessionsLive(ctx)
		complete := probedFromFar(ctx, k.addrs(s, 1)...)
		s.afterwards(func(ctx context.Context) { Expect(lab.Control.Heal(ctx)).To(Succeed()) })
		for _, n := range lab.Nodes {
			Expect(lab.Control.Part(ctx, n.Host)).To(Succeed())
		}
		const away = 8 * time.Second // far longer than BGP needs to notice anything
		lives.goOnFor(ctx, away)
		for _, addr := range k.addrs(s, 1) {
			routed(ctx, addr, lab.Nodes...)
		}
		Expect(lab.Control.Heal(ctx)).To(Succeed())
		complete()
		lives.goOn(ctx)
		s.addService(ctx, "later", selecting("web"), k.service)
		for _, addr := range k.addrs(s, 2) {
			serves(ctx, addr, lab.Nodes, backendNames()...)
		}
		lives.goOn(ctx)
	}, inAllStacks)
})

// bfdEntries are what BFDProfiles there are, for each stack, and what routers see of them. They are slow enough not to go
// down while the machine is busy.
func bfdEntries() (entries []TableEntry) {
	for _, stack := range []struct {
		name string
		k    stack
	}{
		{"IPv4", stack{corev1.IPv4Protocol}}, {"IPv6", stack{corev1.IPv6Protocol}}, {"both families", stack{corev1.IPv4Protocol, corev1.IPv6Protocol}},
	} {
		entries = append(entries,
			Entry(fmt.Sprintf("%s, by the defaults", stack.name), stack.k, v1alpha1.BFDProfileSpec{}, router.BFD{}, 300*time.Millisecond, 900*time.Millisecond),
			Entry(fmt.Sprintf("%s, with every field", stack.name), stack.k, v1alpha1.BFDProfileSpec{
				ReceiveInterval: milliseconds(600), TransmitInterval: milliseconds(500), DetectMultiplier: 5, Passive: true, MinimumTTL: 250,
			}, router.BFD{Interval: 200 * time.Millisecond, Multiplier: 4}, 600*time.Millisecond, 2500*time.Millisecond))
	}
	return entries
}

// annotate sets an annotation of a Node until the scene ends.
func annotate(ctx context.Context, s *scene, node, key, value string) {
	GinkgoHelper()
	s.mark(ctx, node,
		func(n *corev1.Node) { metav1.SetMetaDataAnnotation(&n.ObjectMeta, key, value) },
		func(n *corev1.Node) { delete(n.Annotations, key) })
}
