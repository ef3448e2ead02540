// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// leaks compares what is bound with what Services show, in a cluster that has come to rest. Pool has the addresses that
// could be given.
func leaks(ctx context.Context, api client.Client, namespace string, pool []netip.Addr) error {
	var services corev1.ServiceList
	var ips v1alpha1.LoadBalancerIPList
	if err := errors.Join(api.List(ctx, &services), api.List(ctx, &ips)); err != nil {
		return err
	}
	byUID := map[types.UID]*corev1.Service{}
	showing := map[string]bool{}
	var errs []error
	for i := range services.Items {
		svc := &services.Items[i]
		if svc.Namespace != namespace {
			continue
		}
		byUID[svc.UID] = svc
		for _, a := range shown(svc) {
			showing[a+string(svc.UID)] = true
		}
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer && (len(shown(svc)) > 0 || len(svc.Finalizers) > 0 || len(svc.Status.Conditions) > 0) {
			errs = append(errs, fmt.Errorf("Service %s of type %s has something of ours: %+v", svc.Name, svc.Spec.Type, svc.Status))
		}
	}
	taken := map[string]bool{}
	for _, ip := range ips.Items {
		taken[ip.Spec.Address] = len(ip.Spec.Services) > 0
	}
	for _, ip := range ips.Items {
		for _, b := range ip.Spec.Services {
			switch {
			case byUID[b.UID] == nil:
				errs = append(errs, fmt.Errorf("%s is bound to %s (%s), which is gone", ip.Name, b.Name, b.UID))
			case !showing[ip.Spec.Address+string(b.UID)]:
				errs = append(errs, fmt.Errorf("%s is bound to %s, which does not show it", ip.Name, b.Name))
			}
			delete(showing, ip.Spec.Address+string(b.UID))
		}
	}
	for key := range showing {
		errs = append(errs, fmt.Errorf("%s is shown and not bound", key))
	}
	free := slices.DeleteFunc(slices.Clone(pool), func(a netip.Addr) bool { return taken[a.String()] })
	for _, svc := range byUID {
		if addr, ok := couldHave(svc, free); ok {
			errs = append(errs, fmt.Errorf("Service %s waits and could have %s", svc.Name, addr))
		}
	}
	return errors.Join(errs...)
}

// couldHave returns an address that the Service lacks and that it could be given.
func couldHave(svc *corev1.Service, free []netip.Addr) (netip.Addr, bool) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return netip.Addr{}, false
	}
	asked, err := netip.ParseAddr(svc.Annotations[v1alpha1.AnnotationAddresses])
	asks := err == nil
	if asks && !slices.Contains(svc.Spec.IPFamilies, familyOf(asked)) {
		return netip.Addr{}, false // it contradicts itself
	}
	for _, family := range svc.Spec.IPFamilies {
		if slices.ContainsFunc(shown(svc), func(a string) bool { return familyOf(netip.MustParseAddr(a)) == family }) {
			continue
		}
		i := slices.IndexFunc(free, func(a netip.Addr) bool {
			return familyOf(a) == family && (!asks || familyOf(asked) != family || a == asked)
		})
		if i >= 0 {
			return free[i], true
		}
	}
	return netip.Addr{}, false
}

// deleteServices deletes all Services of a namespace, with which everything of theirs should go.
func deleteServices(ctx context.Context, api client.Client, namespace string, history *history) {
	GinkgoHelper()
	Expect(api.DeleteAllOf(ctx, &corev1.Service{}, client.InNamespace(namespace))).To(Succeed())
	Eventually(func(g Gomega) {
		var left v1alpha1.LoadBalancerIPList
		g.Expect(api.List(ctx, &left)).To(Succeed())
		g.Expect(left.Items).To(BeEmpty(), "what rests should be forgotten after its time")
		g.Expect(history.alive()).To(BeZero())
	}).WithTimeout(30 * time.Second).Should(Succeed())
}
