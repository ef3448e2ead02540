// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// tenure is what has happened since a Service shows an address.
type tenure struct {
	shared   bool // another Service has been on it
	reshaped bool // the Service has changed its ports or its sharing key
}

func tenureKey(svc *corev1.Service, addr string) string { return addr + " " + string(svc.UID) }

// checkTenures takes a change of a Service and finds addresses that it shows no longer and did not give up itself.
func (f *findings) checkTenures(version uint64, svc *corev1.Service, w *world) {
	before := w.services[svc.UID]
	if before == nil {
		before = &corev1.Service{}
	}
	reshaped := svc.Annotations[v1alpha1.AnnotationSharingKey] != before.Annotations[v1alpha1.AnnotationSharingKey] ||
		!equality.Semantic.DeepEqual(svc.Spec.Ports, before.Spec.Ports)
	now := shown(svc)
	for _, addr := range shown(before) {
		key := tenureKey(svc, addr)
		t := w.tenures[key]
		t.reshaped = t.reshaped || reshaped
		if slices.Contains(now, addr) {
			continue
		}
		if !gaveUp(svc, netip.MustParseAddr(addr), t) {
			f.violation("%d: Service %s shows %s no longer and did not ask for that", version, svc.Name, addr)
		}
		delete(w.tenures, key)
	}
	for _, addr := range now {
		if key := tenureKey(svc, addr); w.tenures[key] == nil {
			ip := w.ips[objectName(addr)]
			w.tenures[key] = &tenure{shared: ip != nil && len(ip.Spec.Services) > 1}
		}
	}
}

// noteSharing takes a change of an address.
func (w *world) noteSharing(ip *v1alpha1.LoadBalancerIP) {
	if len(ip.Spec.Services) < 2 {
		return
	}
	for _, b := range ip.Spec.Services {
		if svc := w.services[b.UID]; svc != nil {
			if t := w.tenures[tenureKey(svc, ip.Spec.Address)]; t != nil {
				t.shared = true
			}
		}
	}
}

// gaveUp says whether a Service that shows an address no longer wanted that itself.
func gaveUp(svc *corev1.Service, addr netip.Addr, t *tenure) bool {
	family := familyOf(addr)
	switch {
	case svc.Spec.Type != corev1.ServiceTypeLoadBalancer, svc.DeletionTimestamp != nil, !slices.Contains(svc.Spec.IPFamilies, family):
		return true
	case t.shared && t.reshaped:
		return true // it no longer went with the others there
	}
	asked, err := netip.ParseAddr(svc.Annotations[v1alpha1.AnnotationAddresses])
	return err == nil && asked != addr && familyOf(asked) == family && slices.Contains(shown(svc), asked.String())
}
