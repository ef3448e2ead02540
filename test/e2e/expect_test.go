// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/controller"
	"github.com/fairlead-lb/fairlead/ipam"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// finalizer keeps a Service until its load balancer is gone (KEP-980).
const finalizer = "service.kubernetes.io/load-balancer-cleanup"

// shown are the addresses in a Service's status.
func shown(svc *corev1.Service) []string {
	var addrs []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		addrs = append(addrs, in.IP)
	}
	return addrs
}

func texts(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// objectName is the name of the LoadBalancerIP of an address.
func objectName(addr string) string { return ipam.ObjectName(netip.MustParseAddr(addr)) }

func conditionOf(svc *corev1.Service, kind string) metav1.Condition {
	return ptr.Deref(meta.FindStatusCondition(svc.Status.Conditions, kind), metav1.Condition{})
}

// eventsOf are our events about an object of the scene. The API server has some of its own.
func eventsOf(ctx context.Context, obj client.Object) ([]eventsv1.Event, error) {
	list, err := kube.EventsV1().Events(obj.GetNamespace()).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(e eventsv1.Event) bool {
		return e.Regarding.UID != obj.GetUID() || e.ReportingController != cluster.Controller
	}), nil
}

// served is a Service that shows exactly these addresses, in this order, and says so. There may be more families that it
// wants.
func (s *scene) served(ctx context.Context, name string, addrs ...netip.Addr) {
	GinkgoHelper()
	s.servedIn(ctx, s.namespace, name, addrs...)
}

func (s *scene) servedIn(ctx context.Context, namespace, name string, addrs ...netip.Addr) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) { checkServed(ctx, g, namespace, name, addrs) }).Should(Succeed())
}

// stays is served, now and for a while.
func (s *scene) stays(ctx context.Context, name string, addrs ...netip.Addr) {
	GinkgoHelper()
	Consistently(ctx, func(g Gomega) { checkServed(ctx, g, s.namespace, name, addrs) }).Should(Succeed())
}

func checkServed(ctx context.Context, g Gomega, namespace, name string, addrs []netip.Addr) {
	svc := &corev1.Service{}
	g.Expect(api.Get(ctx, objectKey(namespace, name), svc)).To(Succeed())
	g.Expect(shown(svc)).To(Equal(texts(addrs)), "%+v", svc.Status)
	allocated := conditionOf(svc, v1alpha1.ServiceAllocated)
	g.Expect(allocated.Status).To(Equal(metav1.ConditionTrue), "%+v", allocated)
	g.Expect(svc.Finalizers).To(ContainElement(finalizer))
	for _, in := range svc.Status.LoadBalancer.Ingress {
		g.Expect(in.IPMode).To(HaveValue(Equal(corev1.LoadBalancerIPModeVIP)))
	}
	for _, addr := range addrs {
		ip, err := getIP(ctx, addr)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(holders(ip)).To(ContainElement(string(svc.UID)))
	}
}

// holders are the UIDs of the Services that an address is bound to.
func holders(ip *v1alpha1.LoadBalancerIP) []string {
	var uids []string
	for _, b := range ip.Spec.Services {
		uids = append(uids, string(b.UID))
	}
	return uids
}

// refused is a Service that has nothing and says why, in its condition and in a Warning event.
func (s *scene) refused(ctx context.Context, name string, reason ipam.Reason) metav1.Condition {
	GinkgoHelper()
	return s.refusedIn(ctx, s.namespace, name, reason)
}

func (s *scene) refusedIn(ctx context.Context, namespace, name string, reason ipam.Reason) metav1.Condition {
	GinkgoHelper()
	var allocated metav1.Condition
	Eventually(ctx, func(g Gomega) {
		svc := &corev1.Service{}
		g.Expect(api.Get(ctx, objectKey(namespace, name), svc)).To(Succeed())
		allocated = conditionOf(svc, v1alpha1.ServiceAllocated)
		g.Expect(allocated.Status).To(Equal(metav1.ConditionFalse), "%+v", svc.Status)
		g.Expect(allocated.Reason).To(Equal(string(reason)), allocated.Message)
		g.Expect(allocated.Message).NotTo(BeEmpty())
		g.Expect(conditionOf(svc, v1alpha1.ServiceAnnounced).Reason).To(Equal(controller.ReasonNotAllocated))
		g.Expect(shown(svc)).To(BeEmpty())
		g.Expect(svc.Finalizers).To(BeEmpty())
		events, err := eventsOf(ctx, svc)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(events).To(ContainElement(And(
			HaveField("Type", corev1.EventTypeWarning), HaveField("Reason", string(reason)), HaveField("Note", allocated.Message))))
	}).Should(Succeed())
	return allocated
}

// rests is an address that nobody holds and that somebody has released.
func (s *scene) rests(ctx context.Context, addr netip.Addr) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		ip, err := getIP(ctx, addr)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(ip.Spec.Services).To(BeEmpty())
		g.Expect(ip.Spec.Released).NotTo(BeNil())
	}).Should(Succeed())
}

// A failure of a spec tells what the cluster and the programs have to say.
var _ = JustAfterEach(func(ctx SpecContext) {
	if !CurrentSpecReport().Failed() {
		return
	}
	if current != nil && api != nil {
		AddReportEntry("the scene", current.describe(ctx), ReportEntryVisibilityFailureOrVerbose)
	}
	if len(sites) > 0 {
		AddReportEntry("the programs", sites[len(sites)-1].tails(40), ReportEntryVisibilityFailureOrVerbose)
	}
})

// describe tells what there is of the scene.
func (s *scene) describe(ctx context.Context) string {
	var b strings.Builder
	for _, ns := range s.namespaces {
		var list corev1.ServiceList
		if err := api.List(ctx, &list, client.InNamespace(ns)); err != nil {
			fmt.Fprintln(&b, err)
		}
		for i := range list.Items {
			svc := &list.Items[i]
			fmt.Fprintf(&b, "Service %s/%s uid %s finalizers %v annotations %v shows %v\n", ns, svc.Name, svc.UID, svc.Finalizers, svc.Annotations, shown(svc))
			for _, c := range svc.Status.Conditions {
				fmt.Fprintf(&b, "  %s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
			}
			events, err := eventsOf(ctx, svc)
			if err != nil {
				fmt.Fprintln(&b, err)
			}
			for _, e := range events {
				fmt.Fprintf(&b, "  event %s %s: %s\n", e.Type, e.Reason, e.Note)
			}
		}
	}
	ips, err := s.ips(ctx)
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	for _, ip := range ips {
		fmt.Fprintf(&b, "LoadBalancerIP %s spec %+v l2 %+v\n", ip.Name, ip.Spec, ip.Status.L2)
	}
	return b.String()
}

// tails are the last lines of what the product's programs said.
func (s *site) tails(lines int) string {
	var b strings.Builder
	if s.product == nil {
		return "" // their installation has told why it failed
	}
	var names []string
	for _, p := range s.product.Controllers {
		names = append(names, p.Name)
	}
	for _, n := range s.Nodes {
		names = append(names, s.product.Speakers[n.Name()].Name)
	}
	for _, name := range names {
		data, err := os.ReadFile(s.LogFile(name))
		all := strings.SplitAfter(string(data), "\n")
		fmt.Fprintf(&b, "--- %s (%s)\n%s", name, s.Process(name).State(), strings.Join(all[max(0, len(all)-lines-1):], ""))
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}
