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
	"k8s.io/apimachinery/pkg/util/validation"

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
	// contradictions say which parts of the request are not followed because
	// others say something else.
	contradictions []string
}

// read reads what svc asks for. The pools that admit it are not known here:
// request.Pools and request.Have are for decide to fill.
func (v vocabulary) read(svc *corev1.Service) contract {
	same := func(text string) string { return text }
	pool, poolContradictions := follow(statements(svc, v.pool), same)
	key, keyContradictions := follow(statements(svc, v.sharingKey), same)
	_, namespaceContradictions := follow(statements(svc, v.sharingNamespaces), func(text string) string {
		return strings.Join(slices.Sorted(slices.Values(splitList(text))), ",")
	})
	c := contract{
		request: ipam.Request{
			Service:           ref(svc),
			PoolNamed:         pool,
			SharingKey:        key,
			SharingNamespaces: v.holder(svc).SharingNamespaces,
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
	var addressContradictions []string
	c.request.Addresses, addressContradictions, c.invalid = v.requested(svc)
	c.contradictions = slices.Concat(addressContradictions, poolContradictions, keyContradictions, namespaceContradictions)
	if c.invalid == nil {
		c.invalid = v.checkNamespaces(svc)
	}
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

// holder returns what others who share an address need to know.
func (c contract) holder() ipam.Holder {
	return ipam.Holder{Backend: c.request.Backend, SharingNamespaces: c.request.SharingNamespaces}
}

// holder reads what others who share an address with svc need to know of it.
func (v vocabulary) holder(svc *corev1.Service) ipam.Holder {
	h := ipam.Holder{Backend: backendOf(svc)}
	if s := statements(svc, v.sharingNamespaces); len(s) > 0 {
		h.SharingNamespaces = splitList(s[0].text)
	}
	return h
}

// checkNamespaces says which of the namespaces to share with can't be one.
func (v vocabulary) checkNamespaces(svc *corev1.Service) *ipam.Refusal {
	all := statements(svc, v.sharingNamespaces)
	if len(all) == 0 {
		return nil
	}
	for _, name := range splitList(all[0].text) {
		if name != ipam.AllNamespaces && len(validation.IsDNS1123Label(name)) > 0 {
			return ipam.RefuseNamespace(all[0].where, name)
		}
	}
	return nil
}

// requested reads the addresses asked for by number. After our own annotation
// comes spec.loadBalancerIP, which is deprecated in Kubernetes but still
// honoured, then the annotations of peers. Of each family the first that is
// named is followed.
func (v vocabulary) requested(svc *corev1.Service) (addrs []netip.Addr, contradictions []string, invalid *ipam.Refusal) {
	field := statement{"spec.loadBalancerIP", strings.TrimSpace(svc.Spec.LoadBalancerIP)}
	all := statements(svc, v.addresses[:1])
	if field.text != "" {
		all = append(all, field)
	}
	all = append(all, statements(svc, v.addresses[1:])...)

	var by []statement // by which of them each address was asked for
	for _, s := range all {
		parsed, refusal := parseRequested(s, s.where == field.where)
		switch {
		case refusal != nil && len(addrs) == 0:
			return nil, nil, refusal
		case refusal != nil:
			contradictions = append(contradictions, refusal.Message)
		}
		for _, a := range parsed {
			i := slices.IndexFunc(addrs, func(other netip.Addr) bool { return ipam.FamilyOf(other) == ipam.FamilyOf(a) })
			if i < 0 {
				addrs, by = append(addrs, a), append(by, s)
			} else if addrs[i] != a {
				contradictions = append(contradictions, contradiction(s, by[i], a, addrs[i]))
			}
		}
	}
	return addrs, contradictions, nil
}

func parseRequested(s statement, one bool) ([]netip.Addr, *ipam.Refusal) {
	addrs, err := ipam.ParseAddresses(s.text)
	switch {
	case err != nil:
		return nil, invalidAddress(s.where, err)
	case one && len(addrs) != 1:
		return nil, invalidAddress(s.where, fmt.Errorf("%q is more than one address: name the others in the annotation %s", s.text, v1alpha1.AnnotationAddresses))
	}
	for _, a := range addrs {
		if a.IsUnspecified() { // with kube-vip it means DHCP
			return nil, invalidAddress(s.where, fmt.Errorf("%s is not the address of anybody: ask for an address of a pool, or for none to get any; addresses are not asked for by DHCP", a))
		}
		if what := ipam.Special(a); what != "" {
			return nil, invalidAddress(s.where, fmt.Errorf("%s is %s, which no Service can have: ask for an address of a pool", a, what))
		}
	}
	return addrs, nil
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
