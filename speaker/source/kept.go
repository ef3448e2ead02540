// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// kept is in the informers' caches in place of an object of a kind that there
// are many of: a Service, an EndpointSlice and two addresses together take a
// tenth of what their API types would. The embedded metadata is that of no
// object, and the same for all.
type kept struct {
	*metav1.ObjectMeta
	namespace, name, version string
}

var (
	_ metav1.Object  = &kept{}
	_ runtime.Object = &keptService{}
	_ runtime.Object = &slice{}
	_ runtime.Object = &ip{}
)

var none metav1.ObjectMeta

func keep(m *metav1.ObjectMeta) kept {
	return kept{&none, shared(m.Namespace), m.Name, m.ResourceVersion}
}

// GetObjectKind implements runtime.Object.
func (k *kept) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// GetNamespace implements metav1.Object.
func (k *kept) GetNamespace() string { return k.namespace }

// GetName implements metav1.Object.
func (k *kept) GetName() string { return k.name }

// GetResourceVersion implements metav1.Object.
func (k *kept) GetResourceVersion() string { return k.version }

func (k *kept) key() types.NamespacedName {
	return types.NamespacedName{Namespace: k.namespace, Name: k.name}
}

// meta is what was kept of the metadata.
func (k *kept) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: k.namespace, Name: k.name, ResourceVersion: k.version}
}

// shared returns a string that has its memory in common with all equal ones:
// many objects name a few namespaces, nodes, interfaces and pools.
func shared(s string) string { return unique.Make(s).Value() }

// keptService is a Service.
type keptService struct {
	kept
	uid    types.UID // of the API server's alone
	local  bool      // externalTrafficPolicy
	labels packed
}

func keepService(o *corev1.Service) *keptService {
	s := &keptService{kept: keep(&o.ObjectMeta), labels: pack(o.Labels), local: o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal}
	if s.key() == apiServer {
		s.uid = o.UID
	}
	return s
}

// DeepCopyObject implements runtime.Object. Nobody changes what is kept.
func (s *keptService) DeepCopyObject() runtime.Object { return s }

// object is one of which the same is kept. So are those below.
func (s *keptService) object() corev1.Service {
	o := corev1.Service{ObjectMeta: s.meta()}
	o.UID, o.Labels = s.uid, s.labels.set()
	if s.local {
		o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	return o
}

// slice is an EndpointSlice, of a Service or of none.
type slice struct {
	kept
	service   string
	family    discoveryv1.AddressType
	endpoints []plan.Endpoint
}

func keepSlice(o *discoveryv1.EndpointSlice) *slice {
	s := &slice{kept: keep(&o.ObjectMeta), service: kube.ServiceOf(o).Name, family: discoveryv1.AddressType(shared(string(o.AddressType))), endpoints: kube.Endpoints(o)}
	for i := range s.endpoints {
		s.endpoints[i].Node = shared(s.endpoints[i].Node)
	}
	return s
}

func (s *slice) of() types.NamespacedName {
	return types.NamespacedName{Namespace: s.namespace, Name: s.service}
}

// DeepCopyObject implements runtime.Object.
func (s *slice) DeepCopyObject() runtime.Object { return s }

func (s *slice) object() discoveryv1.EndpointSlice {
	o := discoveryv1.EndpointSlice{ObjectMeta: s.meta(), AddressType: s.family}
	o.Labels = map[string]string{discoveryv1.LabelServiceName: s.service}
	for _, e := range s.endpoints {
		endpoint := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: &e.Ready, Serving: &e.Serving, Terminating: &e.Terminating}}
		if e.Node != "" {
			endpoint.NodeName = &e.Node
		}
		o.Endpoints = append(o.Endpoints, endpoint)
	}
	return o
}

// ip is a LoadBalancerIP.
type ip struct {
	kept
	addr     netip.Addr // invalid in what the API server would not admit
	pool     string
	proposed string
	services []types.NamespacedName
	status   v1alpha1.LoadBalancerIPStatus
}

// DeepCopyObject implements runtime.Object.
func (p *ip) DeepCopyObject() runtime.Object { return p }

func keepIP(o *v1alpha1.LoadBalancerIP) *ip {
	p := &ip{
		kept: keep(&o.ObjectMeta), pool: shared(o.Spec.Pool), proposed: shared(o.Spec.Owner),
		status: v1alpha1.LoadBalancerIPStatus{L2: o.Status.L2, Verified: o.Status.Verified, Conflict: o.Status.Conflict},
	}
	p.addr, _ = netip.ParseAddr(o.Spec.Address)
	if c := p.status.L2; c != nil {
		c.Node, c.Interface, c.MAC = shared(c.Node), shared(c.Interface), shared(c.MAC)
	}
	if v := p.status.Verified; v != nil {
		v.By, v.MAC = shared(v.By), shared(v.MAC)
	}
	for _, c := range o.Status.Conditions {
		switch c.Type {
		case v1alpha1.AddressConflict, v1alpha1.AddressVerified:
			c.Message = ""
			p.status.Conditions = append(p.status.Conditions, c)
		}
	}
	if len(o.Spec.Services) > 0 {
		p.services = make([]types.NamespacedName, 0, len(o.Spec.Services))
	}
	for _, b := range o.Spec.Services {
		p.services = append(p.services, types.NamespacedName{Namespace: shared(b.Namespace), Name: b.Name})
	}
	return p
}

// record is the object as the API server has it.
func (p *ip) record() Record {
	return Record{Name: p.name, ResourceVersion: p.version, Claim: p.status.L2, Status: p.status}
}

func (p *ip) object() v1alpha1.LoadBalancerIP {
	o := v1alpha1.LoadBalancerIP{
		ObjectMeta: p.meta(),
		Spec:       v1alpha1.LoadBalancerIPSpec{Address: p.addr.String(), Pool: p.pool, Owner: p.proposed},
		Status:     p.status,
	}
	for _, name := range p.services {
		o.Spec.Services = append(o.Spec.Services, v1alpha1.ServiceBinding{ServiceName: v1alpha1.ServiceName{Namespace: name.Namespace, Name: name.Name}})
	}
	return o
}

// packed are labels as text, which takes a fifth of a map. Neither keys nor
// values have any of the characters that part them.
type packed string

func pack(l labels.Set) packed { return packed(l.String()) }

func (p packed) set() labels.Set {
	l := labels.Set{}
	for pair := range strings.SplitSeq(string(p), ",") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			l[key] = value
		}
	}
	return l
}
