// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

func TestClassesServe(t *testing.T) {
	ours, other := v1alpha1.DefaultLoadBalancerClass, "example.com/lb"
	for name, tc := range map[string]struct {
		kind  corev1.ServiceType
		class *string
		deflt bool
		want  bool
	}{
		"our class is served":                              {corev1.ServiceTypeLoadBalancer, &ours, false, true},
		"no class is served by default":                    {corev1.ServiceTypeLoadBalancer, nil, true, true},
		"no class is left alone without --default-class":   {corev1.ServiceTypeLoadBalancer, nil, false, false},
		"another class is left alone":                      {corev1.ServiceTypeLoadBalancer, &other, true, false},
		"our class on a ClusterIP Service means nothing":   {corev1.ServiceTypeClusterIP, &ours, true, false},
		"a NodePort Service without a class is left alone": {corev1.ServiceTypeNodePort, nil, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: tc.kind, LoadBalancerClass: tc.class}}
			if got := (Classes{Class: ours, Default: tc.deflt}).Serves(svc); got != tc.want {
				t.Errorf("Serves = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestReadContractAddresses(t *testing.T) {
	for name, tc := range map[string]struct {
		annotation, field string
		families          []corev1.IPFamily
		want              []string
		reason            ipam.Reason
		says              string
	}{
		"nothing is asked for by number": {},
		"the field alone":                {field: "192.0.2.7", want: []string{"192.0.2.7"}},
		"the annotation alone":           {annotation: "192.0.2.7", want: []string{"192.0.2.7"}},
		"both say the same":              {annotation: "192.0.2.7", field: "192.0.2.7", want: []string{"192.0.2.7"}},
		"one of each family":             {annotation: "2001:db8::7", field: "192.0.2.7", families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, want: []string{"2001:db8::7", "192.0.2.7"}},
		"a list of both families":        {annotation: "192.0.2.7, 2001:db8::7", families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, want: []string{"192.0.2.7", "2001:db8::7"}},
		"they contradict each other":     {annotation: "192.0.2.7", field: "192.0.2.8", reason: ipam.InvalidAddress, says: "remove one of them"},
		"not an address":                 {field: "web.example.com", reason: ipam.InvalidAddress, says: `spec.loadBalancerIP: "web.example.com" is not an IP address`},
		"two addresses in the field":     {field: "192.0.2.7,2001:db8::7", reason: ipam.InvalidAddress, says: "more than one address"},
		"two of a family":                {annotation: "192.0.2.7,192.0.2.8", reason: ipam.InvalidAddress, says: "at most one address of a family"},
		"not a family of the Service":    {field: "2001:db8::7", reason: ipam.FamilyNotRequested, says: "add it to spec.ipFamilies"},
	} {
		t.Run(name, func(t *testing.T) {
			svc := &corev1.Service{Spec: corev1.ServiceSpec{LoadBalancerIP: tc.field, IPFamilies: tc.families}}
			if tc.families == nil {
				svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
			}
			if tc.annotation != "" {
				svc.Annotations = map[string]string{v1alpha1.AnnotationAddresses: tc.annotation}
			}
			c := readContract(svc)
			if tc.reason == "" {
				if c.invalid != nil {
					t.Fatalf("refused: %+v", c.invalid)
				}
				var want []netip.Addr
				for _, a := range tc.want {
					want = append(want, netip.MustParseAddr(a))
				}
				if !slices.Equal(c.request.Addresses, want) {
					t.Errorf("addresses %v, want %v", c.request.Addresses, want)
				}
				return
			}
			if c.invalid == nil || c.invalid.Reason != tc.reason || !strings.Contains(c.invalid.Message, tc.says) {
				t.Errorf("refusal %+v, want %s with %q", c.invalid, tc.reason, tc.says)
			}
		})
	}
}

func TestBackends(t *testing.T) {
	local := func(namespace string, selector map[string]string) *corev1.Service {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, Selector: selector}}
		svc.Namespace, svc.Name = namespace, "web"
		return svc
	}
	cluster := local("a", map[string]string{"app": "web"})
	cluster.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	if backendOf(cluster) != "" {
		t.Error("with policy Cluster every node answers, whatever the selector")
	}
	if backendOf(local("a", map[string]string{"x": "1", "y": "2"})) != backendOf(local("a", map[string]string{"y": "2", "x": "1"})) {
		t.Error("the order of a selector does not matter")
	}
	if backendOf(local("a", map[string]string{"app": "web"})) == backendOf(local("b", map[string]string{"app": "web"})) {
		t.Error("the same selector selects other Pods in another namespace")
	}
	if backendOf(local("a", nil)) == "" {
		t.Error("a Service without selector has endpoints of its own")
	}
}

func FuzzReadContract(f *testing.F) {
	f.Add("192.0.2.1", "2001:db8::1", "a, b")
	f.Add("::ffff:192.0.2.1", "fe80::1%eth0", ",,")
	f.Fuzz(func(t *testing.T, annotation, field, namespaces string) {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{LoadBalancerIP: field, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}}}
		svc.Annotations = map[string]string{v1alpha1.AnnotationAddresses: annotation, v1alpha1.AnnotationSharingNamespaces: namespaces}
		c := readContract(svc)
		if c.invalid != nil {
			if c.invalid.Reason == "" || c.invalid.Message == "" {
				t.Errorf("a refusal without words: %+v", c.invalid)
			}
			return
		}
		seen := map[ipam.Family]bool{}
		for _, a := range c.request.Addresses {
			family := ipam.FamilyOf(a)
			if seen[family] || a.Zone() != "" || a.Is4In6() {
				t.Errorf("addresses %v", c.request.Addresses)
			}
			seen[family] = true
		}
	})
}
