// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// scene is what a spec has to itself: a namespace, addresses, and what it makes of them.
type scene struct {
	number     int
	namespace  string
	namespaces []string // its own and others that it made
	pools      []string
	backends   []interface{ Delete(context.Context) error }
	away       []func(context.Context) // undoes what a spec did to the cluster
	ranges     func(i int) (v4, v6 netip.Prefix)
}

// current is the scene of the running spec, nil for one that needs none. The report of a failure tells about it.
var current *scene

var scenes int

// newScene gives every spec of the container in which it is called a scene, and checks afterwards that it left nothing.
func newScene() *scene {
	return newSceneIn(func(i int) (v4, v6 netip.Prefix) { return poolRange(i) })
}

// newSceneIn does so with addresses of other ranges, of which there are as many.
func newSceneIn(ranges func(i int) (v4, v6 netip.Prefix)) *scene {
	s := &scene{}
	BeforeEach(func(ctx SpecContext) {
		*s = scene{number: scenes, namespace: fmt.Sprintf("scene-%d", scenes), ranges: ranges}
		scenes++
		current = s
		s.addNamespace(ctx, s.namespace, nil)
		DeferCleanup(s.clear)
	})
	return s
}

// prefix is a /24 and a /96 that no other scene uses. They come round again when all have been used: who had them before
// has left nothing.
func (s *scene) prefix() (v4, v6 netip.Prefix) {
	const perRange = 16 // a range is at least a /20 and an /80
	v4, v6 = s.ranges(s.number / perRange % poolRanges)
	b4, b6 := v4.Masked().Addr().As4(), v6.Masked().Addr().As16()
	b4[2] += byte(s.number % perRange)
	b6[11] = byte(s.number % perRange)
	return netip.PrefixFrom(netip.AddrFrom4(b4), 24), netip.PrefixFrom(netip.AddrFrom16(b6), 96)
}

// v4 is an IPv4 address of the scene, counted from 1 as a person would.
func (s *scene) v4(i int) netip.Addr {
	p, _ := s.prefix()
	b := p.Addr().As4()
	b[3] = byte(i)
	return netip.AddrFrom4(b)
}

// v6 is an IPv6 address of the scene.
func (s *scene) v6(i int) netip.Addr {
	_, p := s.prefix()
	b := p.Addr().As16()
	b[15] = byte(i)
	return netip.AddrFrom16(b)
}

func between(from, to netip.Addr) string { return from.String() + "-" + to.String() }

func objectKey(namespace, name string) client.ObjectKey {
	return client.ObjectKey{Namespace: namespace, Name: name}
}

// addNamespace makes a namespace that goes with the scene.
func (s *scene) addNamespace(ctx context.Context, name string, labels map[string]string) {
	GinkgoHelper()
	Expect(api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})).To(Succeed())
	s.namespaces = append(s.namespaces, name)
	// The namespace is of no use before its ServiceAccount is there.
	Eventually(ctx, func() error {
		return api.Get(ctx, objectKey(name, "default"), &corev1.ServiceAccount{})
	}).Should(Succeed())
}

// addPool makes a pool for the scene's namespaces, and waits until the controller knows it: otherwise a Service that comes
// next might be told at first that there is none.
func (s *scene) addPool(ctx context.Context, name string, addresses []string, edits ...func(*v1alpha1.LoadBalancerIPPool)) *v1alpha1.LoadBalancerIPPool {
	GinkgoHelper()
	p := &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: s.poolName(name)}}
	for _, a := range addresses {
		p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(a))
	}
	p.Spec.NamespaceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: slices.Clone(s.namespaces)},
	}}
	for _, edit := range edits {
		edit(p)
	}
	Expect(api.Create(ctx, p)).To(Succeed())
	s.pools = append(s.pools, p.Name)
	s.awaitObserved(ctx, name)
	return p
}

func (s *scene) poolName(name string) string { return s.namespace + "-" + name }

// editPool changes a pool's spec, whoever else writes to it meanwhile.
func (s *scene) editPool(ctx context.Context, name string, edit func(*v1alpha1.LoadBalancerIPPoolSpec)) {
	GinkgoHelper()
	p := s.pool(ctx, name)
	base := p.DeepCopy()
	edit(&p.Spec)
	Expect(api.Patch(ctx, p, client.MergeFrom(base))).To(Succeed())
}

func (s *scene) pool(ctx context.Context, name string) *v1alpha1.LoadBalancerIPPool {
	GinkgoHelper()
	p := &v1alpha1.LoadBalancerIPPool{}
	Expect(api.Get(ctx, client.ObjectKey{Name: s.poolName(name)}, p)).To(Succeed())
	return p
}

// awaitObserved waits until the controller works with the pool's present spec.
func (s *scene) awaitObserved(ctx context.Context, name string) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		p := s.pool(ctx, name)
		ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.PoolReady)
		g.Expect(ready).NotTo(BeNil())
		g.Expect(ready.ObservedGeneration).To(Equal(p.Generation))
	}).Should(Succeed())
}

// addService makes a Service of type LoadBalancer. Without an edit that says otherwise it has TCP port 80, one family, and
// nothing behind it.
func (s *scene) addService(ctx context.Context, name string, edits ...func(*corev1.Service)) *corev1.Service {
	GinkgoHelper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{port(corev1.ProtocolTCP, 80)}},
	}
	for _, edit := range edits {
		edit(svc)
	}
	Expect(api.Create(ctx, svc)).To(Succeed())
	return svc
}

func (s *scene) service(ctx context.Context, name string) *corev1.Service {
	GinkgoHelper()
	svc := &corev1.Service{}
	Expect(api.Get(ctx, objectKey(s.namespace, name), svc)).To(Succeed())
	return svc
}

func (s *scene) editService(ctx context.Context, name string, edit func(*corev1.Service)) {
	GinkgoHelper()
	svc := s.service(ctx, name)
	base := svc.DeepCopy()
	edit(svc)
	Expect(api.Patch(ctx, svc, client.MergeFrom(base))).To(Succeed())
}

// deleteService deletes a Service and waits until it is gone, which takes the finalizer's removal.
func (s *scene) deleteService(ctx context.Context, name string) {
	GinkgoHelper()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}}
	Expect(api.Delete(ctx, svc)).To(Succeed())
	Eventually(ctx, func() bool {
		return apierrors.IsNotFound(api.Get(ctx, client.ObjectKeyFromObject(svc), svc))
	}).Should(BeTrue(), "Service %s should go", name)
}

// ip is the LoadBalancerIP of an address.
func (s *scene) ip(ctx context.Context, addr netip.Addr) *v1alpha1.LoadBalancerIP {
	GinkgoHelper()
	ip, err := getIP(ctx, addr)
	Expect(err).NotTo(HaveOccurred())
	return ip
}

func getIP(ctx context.Context, addr netip.Addr) (*v1alpha1.LoadBalancerIP, error) {
	ip := &v1alpha1.LoadBalancerIP{}
	return ip, api.Get(ctx, client.ObjectKey{Name: ipam.ObjectName(addr)}, ip)
}

// reserve keeps an address for a Service, or with an empty name for a namespace, as an administrator does.
func (s *scene) reserve(ctx context.Context, addr netip.Addr, namespace, name string) *v1alpha1.LoadBalancerIP {
	GinkgoHelper()
	ip := &v1alpha1.LoadBalancerIP{
		ObjectMeta: metav1.ObjectMeta{Name: ipam.ObjectName(addr)},
		Spec:       v1alpha1.LoadBalancerIPSpec{Address: addr.String(), ReservedFor: &v1alpha1.Reservation{Namespace: namespace, Name: name}},
	}
	Expect(api.Create(ctx, ip)).To(Succeed())
	return ip
}

// ips are the LoadBalancerIPs of the scene's addresses, in their order.
func (s *scene) ips(ctx context.Context) ([]v1alpha1.LoadBalancerIP, error) {
	var list v1alpha1.LoadBalancerIPList
	if err := api.List(ctx, &list); err != nil {
		return nil, err
	}
	v4, v6 := s.prefix()
	own := slices.DeleteFunc(list.Items, func(ip v1alpha1.LoadBalancerIP) bool {
		addr, err := netip.ParseAddr(ip.Spec.Address)
		return err != nil || !v4.Contains(addr) && !v6.Contains(addr)
	})
	return own, nil
}

// afterwards has something undone before the scene is cleared, the last first.
func (s *scene) afterwards(undo func(context.Context)) { s.away = append(s.away, undo) }

// clear removes what the spec made and checks that no address stays bound.
func (s *scene) clear(ctx SpecContext) {
	for _, undo := range slices.Backward(s.away) {
		undo(ctx)
	}
	for _, b := range s.backends {
		Expect(b.Delete(ctx)).To(Succeed())
	}
	for _, ns := range s.namespaces {
		Expect(api.DeleteAllOf(ctx, &corev1.Service{}, client.InNamespace(ns))).To(Succeed())
	}
	Eventually(ctx, func(g Gomega) {
		for _, ns := range s.namespaces {
			var left corev1.ServiceList
			g.Expect(api.List(ctx, &left, client.InNamespace(ns))).To(Succeed())
			g.Expect(left.Items).To(BeEmpty(), "Services should go when they are deleted")
		}
		ips, err := s.ips(ctx)
		g.Expect(err).NotTo(HaveOccurred())
		for _, ip := range ips {
			g.Expect(ip.Spec.Services).To(BeEmpty(), "%s leaked", ip.Name)
		}
	}).Should(Succeed())
	for _, p := range s.pools {
		p := &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: p}}
		Expect(client.IgnoreNotFound(api.Delete(ctx, p))).To(Succeed())
	}
	// What rests would do so for ten minutes.
	ips, err := s.ips(ctx)
	Expect(err).NotTo(HaveOccurred())
	for i := range ips {
		Expect(client.IgnoreNotFound(api.Delete(ctx, &ips[i]))).To(Succeed())
	}
	for _, ns := range s.namespaces {
		Expect(api.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})).To(Succeed())
	}
}

// Edits of a Service.

func port(protocol corev1.Protocol, number int32) corev1.ServicePort {
	return corev1.ServicePort{
		Name: strings.ToLower(string(protocol)) + fmt.Sprint(number), Protocol: protocol, Port: number, TargetPort: intstr.FromInt32(8080),
	}
}

func ports(ports ...corev1.ServicePort) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.Ports = ports }
}

func tcp(number int32) func(*corev1.Service) { return ports(port(corev1.ProtocolTCP, number)) }

func families(policy corev1.IPFamilyPolicy, families ...corev1.IPFamily) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &policy, families }
}

func annotated(key, value string) func(*corev1.Service) {
	return func(svc *corev1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, key, value) }
}

func asking(addrs ...any) func(*corev1.Service) {
	var list []string
	for _, a := range addrs {
		list = append(list, fmt.Sprint(a))
	}
	return annotated(v1alpha1.AnnotationAddresses, strings.Join(list, ","))
}

func all(edits ...func(*corev1.Service)) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		for _, edit := range edits {
			edit(svc)
		}
	}
}

func fromPool(name string) func(*corev1.Service) { return annotated(v1alpha1.AnnotationPool, name) }

func sharing(key string) func(*corev1.Service) {
	return annotated(v1alpha1.AnnotationSharingKey, key)
}

func sharingWith(namespace string) func(*corev1.Service) {
	return annotated(v1alpha1.AnnotationSharingNamespaces, namespace)
}

func ofClass(class string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = &class }
}

func inNamespace(namespace string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Namespace = namespace }
}
