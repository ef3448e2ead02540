// SPDX-License-Identifier: Apache-2.0

// Package load makes Services that have addresses, many and fast, in the controller's place.
package load

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// AtOnce is how many requests to have under way at a time.
const AtOnce = 16

// Maker makes objects of one namespace and pool, whose endpoints and addresses are a node's.
type Maker struct {
	Kube                  kubernetes.Interface
	API                   client.Client
	Namespace, Pool, Node string
}

// Service makes the i-th Service, with endpoints.
func (m Maker) Service(ctx context.Context, i int) (*corev1.Service, error) {
	svc, err := m.Kube.CoreV1().Services(m.Namespace).Create(ctx, service(i), metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	_, err = m.Kube.DiscoveryV1().EndpointSlices(m.Namespace).Create(ctx, m.slice(svc), metav1.CreateOptions{})
	return svc, err
}

// service is what a speaker looks at of one of type LoadBalancer. It is headless, because the API server hands out some 20
// cluster IPs a second, and kube-proxy leaves it alone.
func service(i int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name:   fmt.Sprintf("bench-%05d", i),
			Labels: map[string]string{"service.kubernetes.io/service-proxy-name": "none"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone,
			Ports:     []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
}

// slice gives a Service endpoints, as most have.
func (m Maker) slice(svc *corev1.Service) *discoveryv1.EndpointSlice {
	es := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for i := range 3 {
		es.Endpoints = append(es.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.244.1.%d", i+2)},
			NodeName:   ptr.To(m.Node),
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
		})
	}
	return es
}

// Bind makes an address the Service's.
func (m Maker) Bind(ctx context.Context, addr netip.Addr, svc *corev1.Service) (*v1alpha1.LoadBalancerIP, error) {
	ip := &v1alpha1.LoadBalancerIP{
		ObjectMeta: metav1.ObjectMeta{Name: ipam.ObjectName(addr)},
		Spec: v1alpha1.LoadBalancerIPSpec{
			Address: addr.String(), Pool: m.Pool, Owner: m.Node,
			Services: []v1alpha1.ServiceBinding{{
				ServiceName: v1alpha1.ServiceName{Namespace: svc.Namespace, Name: svc.Name}, UID: svc.UID,
				Ports: []v1alpha1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
			}},
		},
	}
	return ip, m.API.Create(ctx, ip)
}
