// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/test/lab/binaries"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// AddClient plugs one more client into the LAN: client2, client3, ...
func (l *Lab) AddClient() (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.addHost(fmt.Sprintf("client%d", len(l.moreClients)+2), clientGroup, byte(len(l.moreClients)+2))
	if err != nil {
		return nil, err
	}
	l.moreClients = append(l.moreClients, h)
	return h, nil
}

// StartBackend starts a backend on a host that is no node, where nothing that happens to a node concerns it.
func (l *Lab) StartBackend(ctx context.Context, h *Host) (*sandbox.Process, error) {
	name := "backend/" + h.Name()
	p, err := h.Start(sandbox.Command{
		Name: name, Path: l.programs[binaries.Agnhost], Args: backendArgs(), Hostname: h.Name(), Log: l.LogFile(name),
	})
	if err != nil {
		return nil, err
	}
	return p, p.Await(ctx, "the backend on "+h.Name()+" answers", func(ctx context.Context) error {
		return h.okStatus(ctx, BackendPort, "/hostname")
	})
}

// CreateSlicesTo writes EndpointSlices by hand for a Service without selector, one per family, to the backend on a host.
func (l *Lab) CreateSlicesTo(ctx context.Context, svc client.ObjectKey, h *Host) error {
	for i, a := range perFamily(l.cfg.Family, h.IPv4, h.IPv6) {
		if err := l.createSlice(ctx, svc, i, []discoveryv1.Endpoint{{Addresses: []string{a.String()}}}); err != nil {
			return err
		}
	}
	return nil
}

// createSlice makes the slice of a Service's i-th family, with endpoints that are ready.
func (l *Lab) createSlice(ctx context.Context, svc client.ObjectKey, i int, endpoints []discoveryv1.Endpoint) error {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: fmt.Sprintf("%s-by-hand-%d", svc.Name, i),
			Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
		},
		AddressType: perFamily(l.cfg.Family, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)[i],
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("http"), Port: ptr.To[int32](BackendPort), Protocol: ptr.To(corev1.ProtocolTCP)},
			{Name: ptr.To("udp"), Port: ptr.To[int32](BackendPort), Protocol: ptr.To(corev1.ProtocolUDP)},
		},
		Endpoints: endpoints,
	}
	for i := range slice.Endpoints {
		slice.Endpoints[i].Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)}
	}
	if _, err := l.Kube.DiscoveryV1().EndpointSlices(svc.Namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating an EndpointSlice of %s: %w", svc, err)
	}
	return nil
}
