// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// Classes says which Services are served.
type Classes struct {
	// Class is the spec.loadBalancerClass that is served.
	Class string
	// Default serves Services without a class, too.
	Default bool
}

// Serves reports whether svc is of type LoadBalancer and of a class that is served.
func (c Classes) Serves(svc *corev1.Service) bool {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false
	}
	if svc.Spec.LoadBalancerClass == nil {
		return c.Default
	}
	return *svc.Spec.LoadBalancerClass == c.Class
}

// contract is what a Service asks for, read from its spec and annotations alone.
type contract struct {
	request ipam.Request
	// partial says that one of two families is better than none.
	partial bool
	// invalid is why the request can't be read. Nothing is given then.
	invalid *ipam.Refusal
}

// readContract reads what svc asks for. The pools that admit it are not known
// here: request.Pools and request.Have are for the caller to fill.
func readContract(svc *corev1.Service) contract {
	c := contract{
		request: ipam.Request{
			Service:           ref(svc),
			PoolNamed:         svc.Annotations[v1alpha1.AnnotationPool],
			SharingKey:        svc.Annotations[v1alpha1.AnnotationSharingKey],
			SharingNamespaces: splitList(svc.Annotations[v1alpha1.AnnotationSharingNamespaces]),
			Ports:             portsOf(svc),
			Backend:           backendOf(svc),
		},
		partial: svc.Spec.IPFamilyPolicy == nil || *svc.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack,
	}
	for _, f := range svc.Spec.IPFamilies {
		switch f {
		case corev1.IPv4Protocol:
			c.request.Families = append(c.request.Families, ipam.IPv4)
		case corev1.IPv6Protocol:
			c.request.Families = append(c.request.Families, ipam.IPv6)
		}
	}
	c.request.Addresses, c.invalid = requestedAddresses(svc)
	if c.invalid == nil {
		for _, a := range c.request.Addresses {
			if !slices.Contains(c.request.Families, ipam.FamilyOf(a)) {
				c.invalid = &ipam.Refusal{
					Reason:  ipam.FamilyNotRequested,
					Address: a,
					Family:  ipam.FamilyOf(a),
					Message: fmt.Sprintf("%s was asked for, but the Service is not of family %s: add it to spec.ipFamilies or ask for an address of a family that is there", a, ipam.FamilyOf(a)),
				}
				break
			}
		}
	}
	return c
}

// requestedAddresses reads the addresses asked for by number, from the
// annotation and from spec.loadBalancerIP, which is deprecated in Kubernetes
// but still honoured. Both may be given if they don't contradict each other.
func requestedAddresses(svc *corev1.Service) ([]netip.Addr, *ipam.Refusal) {
	var asked []netip.Addr
	if text, ok := svc.Annotations[v1alpha1.AnnotationAddresses]; ok {
		var err error
		if asked, err = ipam.ParseAddresses(text); err != nil {
			return nil, invalidAddress("annotation "+v1alpha1.AnnotationAddresses, err)
		}
	}
	text := svc.Spec.LoadBalancerIP
	if text == "" {
		return asked, nil
	}
	one, err := ipam.ParseAddresses(text)
	if err != nil || len(one) != 1 {
		if err == nil {
			err = fmt.Errorf("%q is more than one address: name the others in the annotation %s", text, v1alpha1.AnnotationAddresses)
		}
		return nil, invalidAddress("spec.loadBalancerIP", err)
	}
	for _, a := range asked {
		if ipam.FamilyOf(a) == ipam.FamilyOf(one[0]) {
			if a == one[0] {
				return asked, nil
			}
			return nil, &ipam.Refusal{
				Reason:  ipam.InvalidAddress,
				Address: a,
				Family:  ipam.FamilyOf(a),
				Message: fmt.Sprintf("annotation %s asks for %s and spec.loadBalancerIP for %s: remove one of them", v1alpha1.AnnotationAddresses, a, one[0]),
			}
		}
	}
	return append(asked, one[0]), nil
}

func invalidAddress(where string, err error) *ipam.Refusal {
	message := err.Error()
	if parse, ok := errors.AsType[*ipam.ParseError](err); ok {
		message = parse.Message
	}
	return &ipam.Refusal{Reason: ipam.InvalidAddress, Message: where + ": " + message}
}

func ref(svc *corev1.Service) ipam.ServiceRef {
	return ipam.ServiceRef{Namespace: svc.Namespace, Name: svc.Name, UID: string(svc.UID)}
}

func portsOf(svc *corev1.Service) []ipam.Port {
	ports := make([]ipam.Port, 0, len(svc.Spec.Ports))
	for _, p := range svc.Spec.Ports {
		ports = append(ports, ipam.Port{Protocol: ipam.Protocol(p.Protocol), Number: uint16(p.Port)})
	}
	return ports
}

// backendOf names the set of endpoints that decides which nodes may answer.
// With externalTrafficPolicy Local that is what the selector selects in the
// namespace; a Service without a selector has a set of its own.
func backendOf(svc *corev1.Service) string {
	if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return ""
	}
	if len(svc.Spec.Selector) == 0 {
		return "service " + svc.Namespace + "/" + svc.Name
	}
	return "pods " + svc.Namespace + "/" + labels.Set(svc.Spec.Selector).String()
}

func splitList(s string) []string {
	var out []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// shown returns the addresses that the Service's status shows, and whether it
// shows anything else, such as a hostname.
func shown(svc *corev1.Service) (addrs []netip.Addr, others bool) {
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			addrs = append(addrs, a.Unmap())
		} else {
			others = true
		}
	}
	return addrs, others
}
