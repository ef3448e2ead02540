// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

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
		contradicted      string
	}{
		"nothing is asked for by number":            {},
		"the field alone":                           {field: "192.0.2.7", want: []string{"192.0.2.7"}},
		"the annotation alone":                      {annotation: "192.0.2.7", want: []string{"192.0.2.7"}},
		"both say the same":                         {annotation: "192.0.2.7", field: "192.0.2.7", want: []string{"192.0.2.7"}},
		"one of each family":                        {annotation: "2001:db8::7", field: "192.0.2.7", families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, want: []string{"2001:db8::7", "192.0.2.7"}},
		"a list of both families":                   {annotation: "192.0.2.7, 2001:db8::7", families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, want: []string{"192.0.2.7", "2001:db8::7"}},
		"the annotation is followed, not the field": {annotation: "192.0.2.7", field: "192.0.2.8", want: []string{"192.0.2.7"}, contradicted: "spec.loadBalancerIP"},
		"nobody's address":                          {annotation: "0.0.0.0", reason: ipam.InvalidAddress, says: "not the address of anybody"},
		"not an address":                            {field: "web.example.com", reason: ipam.InvalidAddress, says: `spec.loadBalancerIP: "web.example.com" is not an IP address`},
		"two addresses in the field":                {field: "192.0.2.7,2001:db8::7", reason: ipam.InvalidAddress, says: "more than one address"},
		"two of a family":                           {annotation: "192.0.2.7,192.0.2.8", reason: ipam.InvalidAddress, says: "at most one address of a family"},
		"not a family of the Service":               {field: "2001:db8::7", reason: ipam.FamilyNotRequested, says: "add it to spec.ipFamilies"},
	} {
		t.Run(name, func(t *testing.T) {
			svc := &corev1.Service{Spec: corev1.ServiceSpec{LoadBalancerIP: tc.field, IPFamilies: tc.families}}
			if tc.families == nil {
				svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
			}
			if tc.annotation != "" {
				svc.Annotations = map[string]string{v1alpha1.AnnotationAddresses: tc.annotation}
			}
			c := understanding(nil).read(svc)
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
				if got := strings.Join(c.contradictions, "; "); (got != "") != (tc.contradicted != "") || !strings.HasPrefix(got, tc.contradicted) {
					t.Errorf("contradictions %q, want %q", got, tc.contradicted)
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

func TestAnnotationsOfPeers(t *testing.T) {
	type notes = map[string]string
	for name, tc := range map[string]struct {
		peers        string
		annotations  notes
		field        string
		addresses    string
		pool, key    string
		namespaces   string
		contradicted string
		reason       ipam.Reason
	}{
		"are not read unless they are asked to be": {
			annotations: notes{"metallb.io/loadBalancerIPs": "192.0.2.7", "kube-vip.io/loadbalancerIPs": "192.0.2.8", "lbipam.cilium.io/ips": "192.0.2.9"},
			addresses:   "[]",
		},
		"of MetalLB": {
			peers:       "metallb",
			annotations: notes{"metallb.io/loadBalancerIPs": "192.0.2.7,2001:db8::7", "metallb.io/address-pool": "lan", "metallb.io/allow-shared-ip": "dns"},
			addresses:   "[192.0.2.7 2001:db8::7]", pool: "lan", key: "dns",
		},
		"of MetalLB's first days": {
			peers:       "metallb",
			annotations: notes{"metallb.universe.tf/loadBalancerIPs": "192.0.2.7", "metallb.universe.tf/address-pool": "lan", "metallb.universe.tf/allow-shared-ip": "dns"},
			addresses:   "[192.0.2.7]", pool: "lan", key: "dns",
		},
		"of Cilium": {
			peers:       "cilium",
			annotations: notes{"lbipam.cilium.io/ips": "192.0.2.7", "lbipam.cilium.io/sharing-key": "dns", "lbipam.cilium.io/sharing-cross-namespace": "*"},
			addresses:   "[192.0.2.7]", key: "dns", namespaces: "*",
		},
		"of Cilium's first days": {
			peers:       "cilium",
			annotations: notes{"io.cilium/lb-ipam-ips": "192.0.2.7", "io.cilium/lb-ipam-sharing-key": "dns", "io.cilium/lb-ipam-sharing-cross-namespace": "a,b"},
			addresses:   "[192.0.2.7]", key: "dns", namespaces: "a b",
		},
		"of kube-vip": {
			peers:       "kube-vip",
			annotations: notes{"kube-vip.io/loadbalancerIPs": "192.0.2.7"},
			addresses:   "[192.0.2.7]",
		},
		"that ask for DHCP are refused": {
			peers:       "kube-vip",
			annotations: notes{"kube-vip.io/loadbalancerIPs": "0.0.0.0"},
			reason:      ipam.InvalidAddress,
		},
		"come after our own, which they may not contradict": {
			peers: "metallb",
			annotations: notes{
				v1alpha1.AnnotationAddresses: "192.0.2.1", "metallb.io/loadBalancerIPs": "192.0.2.7",
				v1alpha1.AnnotationPool: "ours", "metallb.io/address-pool": "theirs",
				v1alpha1.AnnotationSharingKey: "ours", "metallb.io/allow-shared-ip": "theirs",
			},
			addresses: "[192.0.2.1]", pool: "ours", key: "ours",
			contradicted: `annotation metallb.io/loadBalancerIPs says "192.0.2.7" and is not followed, because annotation fairlead.dev/addresses says "192.0.2.1": remove one of them; ` +
				`annotation metallb.io/address-pool says "theirs" and is not followed, because annotation fairlead.dev/pool says "ours": remove one of them; ` +
				`annotation metallb.io/allow-shared-ip says "theirs" and is not followed, because annotation fairlead.dev/sharing-key says "ours": remove one of them`,
		},
		"may add a family": {
			peers:       "metallb",
			annotations: notes{v1alpha1.AnnotationAddresses: "192.0.2.1", "metallb.io/loadBalancerIPs": "2001:db8::7"},
			addresses:   "[192.0.2.1 2001:db8::7]",
		},
		"come after the Service's own field": {
			peers: "kube-vip", field: "192.0.2.1",
			annotations:  notes{"kube-vip.io/loadbalancerIPs": "192.0.2.7"},
			addresses:    "[192.0.2.1]",
			contradicted: `annotation kube-vip.io/loadbalancerIPs says "192.0.2.7" and is not followed, because spec.loadBalancerIP says "192.0.2.1": remove one of them`,
		},
		"that contradict each other are followed in the order of the flag": {
			peers:        "cilium,metallb",
			annotations:  notes{"metallb.io/loadBalancerIPs": "192.0.2.7", "lbipam.cilium.io/ips": "192.0.2.9"},
			addresses:    "[192.0.2.9]",
			contradicted: `annotation metallb.io/loadBalancerIPs says "192.0.2.7" and is not followed, because annotation lbipam.cilium.io/ips says "192.0.2.9": remove one of them`,
		},
		"that can't be read are told, and no more where ours can": {
			peers:        "metallb",
			annotations:  notes{v1alpha1.AnnotationAddresses: "192.0.2.1", "metallb.io/loadBalancerIPs": "web"},
			addresses:    "[192.0.2.1]",
			contradicted: `annotation metallb.io/loadBalancerIPs: "web" is not an IP address`,
		},
		"that can't be read are refused where nothing else is said": {
			peers:       "metallb",
			annotations: notes{"metallb.io/loadBalancerIPs": "web"},
			reason:      ipam.InvalidAddress,
		},
		"with what is no namespace are refused": {
			peers:       "cilium",
			annotations: notes{"lbipam.cilium.io/sharing-cross-namespace": "b;c"},
			reason:      ipam.InvalidNamespace,
		},
		"with what is no namespace are told, and no more where ours has some": {
			peers:       "cilium",
			annotations: notes{v1alpha1.AnnotationSharingNamespaces: "a", "lbipam.cilium.io/sharing-cross-namespace": "b;c"},
			addresses:   "[]", namespaces: "a",
			contradicted: `annotation lbipam.cilium.io/sharing-cross-namespace says "b;c" and is not followed`,
		},
		"may list the namespaces in another order": {
			peers:       "cilium",
			annotations: notes{v1alpha1.AnnotationSharingNamespaces: "a, b", "lbipam.cilium.io/sharing-cross-namespace": "b,a"},
			addresses:   "[]", namespaces: "a b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			peers, err := ParsePeers(tc.peers)
			if err != nil {
				t.Fatal(err)
			}
			svc := &corev1.Service{Spec: corev1.ServiceSpec{LoadBalancerIP: tc.field, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}}}
			svc.Annotations = tc.annotations
			c := understanding(peers).read(svc)
			if tc.reason != "" {
				if c.invalid == nil || c.invalid.Reason != tc.reason {
					t.Errorf("refusal %+v, want %s", c.invalid, tc.reason)
				}
				return
			}
			if c.invalid != nil {
				t.Fatalf("refused: %+v", c.invalid)
			}
			got := fmt.Sprint(c.request.Addresses, c.request.PoolNamed, c.request.SharingKey, strings.Join(c.request.SharingNamespaces, " "))
			if want := fmt.Sprint(tc.addresses, tc.pool, tc.key, tc.namespaces); got != want {
				t.Errorf("asks for %s, want %s", got, want)
			}
			if got := strings.Join(c.contradictions, "; "); !strings.HasPrefix(got, tc.contradicted) || tc.contradicted == "" && got != "" {
				t.Errorf("contradictions %s\nwant %s", got, tc.contradicted)
			}
		})
	}
}

func TestParsePeers(t *testing.T) {
	if got, err := ParsePeers(" kube-vip, metallb "); err != nil || !slices.Equal(got, []Peer{KubeVIP, MetalLB}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, wrong := range []string{"openelb", "metallb,metallb", "metallb cilium"} {
		if got, err := ParsePeers(wrong); err == nil {
			t.Errorf("%q is read as %v", wrong, got)
		}
	}
}

func FuzzReadContract(f *testing.F) {
	f.Add("192.0.2.1", "2001:db8::1", "a, b", "192.0.2.2", " k")
	f.Add("::ffff:192.0.2.1", "fe80::1%eth0", ",,", "0.0.0.0", "")
	words := understanding([]Peer{MetalLB, Cilium, KubeVIP})
	f.Fuzz(func(t *testing.T, annotation, field, namespaces, peers, key string) {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{LoadBalancerIP: field, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}}}
		svc.Annotations = map[string]string{
			v1alpha1.AnnotationAddresses: annotation, v1alpha1.AnnotationSharingNamespaces: namespaces,
			"kube-vip.io/loadbalancerIPs": peers, "metallb.io/allow-shared-ip": key, "lbipam.cilium.io/sharing-key": annotation,
		}
		c := words.read(svc)
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
		// Without the peers' annotations no more is asked for, and nothing else.
		for _, name := range []string{"kube-vip.io/loadbalancerIPs", "metallb.io/allow-shared-ip", "lbipam.cilium.io/sharing-key"} {
			delete(svc.Annotations, name)
		}
		own := understanding(nil).read(svc)
		if own.invalid == nil && !slices.Equal(c.request.Addresses[:len(own.request.Addresses)], own.request.Addresses) {
			t.Errorf("peers made %v of %v", c.request.Addresses, own.request.Addresses)
		}
	})
}

func TestMessageFitsIntoAnEventWhateverIsQuoted(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 200_000), strings.Repeat("プ", 60_000)} {
		for _, annotation := range []string{v1alpha1.AnnotationAddresses, v1alpha1.AnnotationPool} {
			w := newWorld(t, testPool("lan", "192.0.2.0/28"), testService("web", func(svc *corev1.Service) {
				svc.Annotations = map[string]string{annotation: text}
			}))
			w.reconcile("web")
			message := condition(w.service("web"), v1alpha1.ServiceAllocated).Message
			if len(message) > 1024 || !utf8.ValidString(message) {
				t.Errorf("%s: a message of %d bytes: %.40q...", annotation, len(message), message)
			}
			if !strings.Contains(message, "write one such as") && !strings.Contains(message, "name another one") {
				t.Errorf("%s: the message doesn't say what to do: %q", annotation, message)
			}
		}
	}
}

func TestWhatNoServiceCanHaveIsNotGiven(t *testing.T) {
	w := newWorld(t, testPool("all", "0.0.0.0/0", "::/0"), testService("any", dual(corev1.IPFamilyPolicyRequireDualStack)))
	w.reconcile("any")
	w.shows("any", "::2", "1.0.0.0")

	for _, addr := range []string{"0.0.0.1", "127.0.0.1", "169.254.1.1", "224.0.0.1", "239.1.1.1", "255.255.255.255", "::1", "fe80::1", "ff02::1"} {
		w := newWorld(t, testPool("lan", v1alpha1.AddressRange(addr)), testService("asks", asking(addr)), testService("takes"))
		for _, name := range []string{"asks", "takes"} {
			w.edit(name, func(svc *corev1.Service) {
				if strings.Contains(addr, ":") {
					svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
				}
			})
			w.reconcile(name)
			w.shows(name)
		}
		w.refused("asks", ipam.InvalidAddress)
		if p := w.c.pools.get("lan"); p.ready.Reason != reasonInvalidAddresses {
			t.Errorf("a pool of %s is %s", addr, p.ready.Reason)
		}
		w.refused("takes", ipam.FamilyNotInPool)
	}
}
