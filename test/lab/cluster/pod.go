// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/test/lab/binaries"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// BackendPort is where every Pod of the lab answers, on TCP by HTTP and on UDP: /hostname and "hostname" say its name,
// /clientip and "clientip" whom it sees asking.
const BackendPort = 8080

// Pod is a backend behind a node: a process in a namespace of its own, and a Pod object that says so.
type Pod struct {
	*sandbox.Namespace
	Process    *sandbox.Process
	Node       *Node
	IPv4, IPv6 netip.Addr // invalid if the lab lacks the family
	Key        client.ObjectKey

	mu    sync.Mutex
	ready bool
}

// StartPod starts a backend on the node and creates its Pod object, Running and Ready.
func (n *Node) StartPod(ctx context.Context, namespace, name string, labels map[string]string) (*Pod, error) {
	n.mu.Lock()
	n.made++
	number := n.made
	n.mu.Unlock()
	if number > 250 {
		return nil, fmt.Errorf("%s has no address left for Pod %s/%s", n.Name(), namespace, name)
	}
	p := &Pod{Node: n, Key: client.ObjectKey{Namespace: namespace, Name: name}, ready: true}
	p.IPv4, p.IPv6 = podAddrs(n.lab.cfg.Family, n.number, number)

	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: n.Name(),
			Containers: []corev1.Container{{
				Name: "backend", Image: "agnhost",
				Ports: []corev1.ContainerPort{
					{Name: "http", ContainerPort: BackendPort, Protocol: corev1.ProtocolTCP},
					{Name: "udp", ContainerPort: BackendPort, Protocol: corev1.ProtocolUDP},
				},
			}},
		},
	}
	if _, err := n.lab.Kube.CoreV1().Pods(namespace).Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("creating Pod %s: %w", p.Key, err)
	}
	var err error
	if p.Namespace, err = addPodNamespace(n.lab.box, n, "pod/"+p.Key.String(), fmt.Sprintf("pod%d", number), p.IPv4, p.IPv6); err != nil {
		return nil, err
	}
	p.Process, err = p.Namespace.Start(sandbox.Command{
		Name: p.Namespace.Name(), Path: n.lab.programs[binaries.Agnhost],
		Args:     []string{"netexec", fmt.Sprintf("--http-port=%d", BackendPort), fmt.Sprintf("--udp-port=%d", BackendPort)},
		Hostname: name, Log: n.lab.LogFile(p.Namespace.Name()),
	})
	if err != nil {
		return nil, err
	}
	self := &Host{Namespace: p.Namespace, IPv4: p.IPv4, IPv6: p.IPv6}
	if err := n.lab.awaitProcess(ctx, p.Process, "Pod "+p.Key.String()+" answers", func(ctx context.Context) error {
		return self.okStatus(ctx, BackendPort, "/hostname")
	}); err != nil {
		return nil, err
	}
	if err := p.writeStatus(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.pods[p.Key.String()] = p
	n.mu.Unlock()
	return p, nil
}

// Pods lists the node's Pods by name.
func (n *Node) Pods() []*Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	var pods []*Pod
	for _, key := range slices.Sorted(maps.Keys(n.pods)) {
		pods = append(pods, n.pods[key])
	}
	return pods
}

// SetReady writes the Pod's Ready condition, as a kubelet does after a probe. The process goes on either way.
func (p *Pod) SetReady(ctx context.Context, ready bool) error {
	p.mu.Lock()
	p.ready = ready
	p.mu.Unlock()
	return p.writeStatus(ctx)
}

// Delete removes the Pod object, ends its process, and frees its namespace.
func (p *Pod) Delete(ctx context.Context) error {
	p.Node.mu.Lock()
	delete(p.Node.pods, p.Key.String())
	p.Node.mu.Unlock()
	err := p.Node.lab.Kube.CoreV1().Pods(p.Key.Namespace).Delete(ctx, p.Key.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting Pod %s: %w", p.Key, err)
	}
	if err := p.Process.Kill(); err != nil {
		return err
	}
	return p.Node.lab.box.RemoveNamespace(p.Namespace)
}

func (p *Pod) writeStatus(ctx context.Context) error {
	pods := p.Node.lab.Kube.CoreV1().Pods(p.Key.Namespace)
	p.mu.Lock()
	ready := corev1.ConditionFalse
	if p.ready {
		ready = corev1.ConditionTrue
	}
	p.mu.Unlock()
	now := metav1.Now()
	status := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &now}
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now}
		if t == corev1.ContainersReady || t == corev1.PodReady {
			c.Status = ready
		}
		status.Conditions = append(status.Conditions, c)
	}
	for _, a := range perFamily(p.Node.lab.cfg.Family, p.Node.IPv4, p.Node.IPv6) {
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: a.String()})
	}
	for _, a := range perFamily(p.Node.lab.cfg.Family, p.IPv4, p.IPv6) {
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	status.HostIP, status.PodIP = status.HostIPs[0].IP, status.PodIPs[0].IP
	// The controller manager writes to the same object.
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		object, err := pods.Get(ctx, p.Key.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		object.Status = status
		_, err = pods.UpdateStatus(ctx, object, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("writing the status of Pod %s: %w", p.Key, err)
	}
	return nil
}

// StartBackends starts one Pod per node, or on the nodes given, named and labelled app=name, as a Deployment would.
func (l *Lab) StartBackends(ctx context.Context, namespace, name string, nodes ...*Node) ([]*Pod, error) {
	if len(nodes) == 0 {
		nodes = l.Nodes
	}
	var pods []*Pod
	for _, n := range nodes {
		p, err := n.StartPod(ctx, namespace, name+"-"+n.Name(), map[string]string{"app": name})
		if err != nil {
			return nil, err
		}
		pods = append(pods, p)
	}
	return pods, nil
}

// Service is a Service of type LoadBalancer with port 80, TCP and UDP, to the backends of that name in every family the lab
// has. It is not created: the caller may change it first. Without backends (a name of "") it has no selector, for hand-made
// EndpointSlices.
func (l *Lab) Service(namespace, name, backends string) *corev1.Service {
	port := func(name string, p corev1.Protocol) corev1.ServicePort {
		sp := corev1.ServicePort{Name: name, Protocol: p, Port: 80}
		sp.TargetPort.IntVal = BackendPort
		return sp
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeLoadBalancer,
			IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack),
			Ports:          []corev1.ServicePort{port("http", corev1.ProtocolTCP), port("udp", corev1.ProtocolUDP)},
		},
	}
	if backends != "" {
		svc.Spec.Selector = map[string]string{"app": backends}
	}
	return svc
}

// CreateSlices writes EndpointSlices by hand for a Service without selector, one per family, to the Pods given.
func (l *Lab) CreateSlices(ctx context.Context, svc client.ObjectKey, pods ...*Pod) error {
	for i, addressType := range perFamily(l.cfg.Family, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6) {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: svc.Namespace, Name: fmt.Sprintf("%s-by-hand-%d", svc.Name, i),
				Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
			},
			AddressType: addressType,
			Ports: []discoveryv1.EndpointPort{
				{Name: ptr.To("http"), Port: ptr.To[int32](BackendPort), Protocol: ptr.To(corev1.ProtocolTCP)},
				{Name: ptr.To("udp"), Port: ptr.To[int32](BackendPort), Protocol: ptr.To(corev1.ProtocolUDP)},
			},
		}
		for _, p := range pods {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{perFamily(l.cfg.Family, p.IPv4, p.IPv6)[i].String()},
				NodeName:   ptr.To(p.Node.Name()),
				Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
			})
		}
		if _, err := l.Kube.DiscoveryV1().EndpointSlices(svc.Namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("creating an EndpointSlice of %s: %w", svc, err)
		}
	}
	return nil
}

// AwaitEndpoints waits until the EndpointSlices of a Service hold that many ready endpoints in each family.
func (l *Lab) AwaitEndpoints(ctx context.Context, svc client.ObjectKey, want int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return Poll(ctx, fmt.Sprintf("%s has %d endpoints", svc, want), func(ctx context.Context) error {
		list, err := l.Kube.DiscoveryV1().EndpointSlices(svc.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + svc.Name})
		if err != nil {
			return err
		}
		have := map[discoveryv1.AddressType]int{}
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				if ptr.Deref(e.Conditions.Ready, true) {
					have[s.AddressType]++
				}
			}
		}
		for t, n := range have {
			if n != want {
				return fmt.Errorf("%d endpoints of %s", n, t)
			}
		}
		if len(have) == 0 && want > 0 {
			return fmt.Errorf("no endpoints")
		}
		return nil
	})
}
