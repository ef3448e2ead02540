// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
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
	"k8s.io/apimachinery/pkg/types"
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

	number int       // on its node, from 1
	uid    types.UID // empty until the object exists

	mu    sync.Mutex
	ready bool
}

// maxPods is what fits in the last byte of a Pod's address.
const maxPods = 250

const container = "backend"

// StartPod starts a backend on the node and creates its Pod object, Running and Ready.
func (n *Node) StartPod(ctx context.Context, namespace, name string, labels map[string]string) (*Pod, error) {
	p := &Pod{Node: n, Key: client.ObjectKey{Namespace: namespace, Name: name}, ready: true}
	if err := n.adopt(p); err != nil {
		return nil, err
	}
	if err := p.start(ctx, labels); err != nil {
		return nil, errors.Join(err, p.Delete(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// adopt gives a Pod the lowest number that is free on the node, and its addresses.
func (n *Node) adopt(p *Pod) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pods[p.Key.String()] != nil {
		return fmt.Errorf("%s has a Pod %s", n.Name(), p.Key)
	}
	taken := map[int]bool{}
	for _, other := range n.pods {
		taken[other.number] = true
	}
	for p.number = 1; taken[p.number]; p.number++ {
	}
	if p.number > maxPods {
		return fmt.Errorf("%s has no address left for Pod %s", n.Name(), p.Key)
	}
	p.IPv4, p.IPv6 = podAddrs(n.lab.cfg.Family, n.number, p.number)
	n.pods[p.Key.String()] = p
	return nil
}

// start makes the Pod's object, namespace and process.
func (p *Pod) start(ctx context.Context, labels map[string]string) error {
	n := p.Node
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Key.Namespace, Name: p.Key.Name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: n.Name(),
			Containers: []corev1.Container{{
				Name: container, Image: "agnhost",
				Ports: []corev1.ContainerPort{
					{Name: "http", ContainerPort: BackendPort, Protocol: corev1.ProtocolTCP},
					{Name: "udp", ContainerPort: BackendPort, Protocol: corev1.ProtocolUDP},
				},
			}},
		},
	}
	object, err := n.lab.Kube.CoreV1().Pods(p.Key.Namespace).Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("creating Pod %s: %w", p.Key, err)
	}
	p.uid = object.UID
	if p.Namespace, err = addNamespace(n.lab.box, "pod/"+p.Key.String()); err != nil {
		return err
	}
	if err := wirePod(n, p.Namespace, p.link(), p.IPv4, p.IPv6); err != nil {
		return err
	}
	p.Process, err = p.Namespace.Start(sandbox.Command{
		Name: p.Namespace.Name(), Path: n.lab.programs[binaries.Agnhost],
		Args:     backendArgs(),
		Hostname: p.Key.Name, Log: n.lab.LogFile(p.Namespace.Name()),
	})
	if err != nil {
		return err
	}
	self := &Host{Namespace: p.Namespace, Interface: Interface, IPv4: p.IPv4, IPv6: p.IPv6}
	if err := p.Process.Await(ctx, "Pod "+p.Key.String()+" answers", func(ctx context.Context) error {
		return self.okStatus(ctx, BackendPort, "/hostname")
	}); err != nil {
		return err
	}
	return p.writeStatus(ctx)
}

func backendArgs() []string {
	return []string{"netexec", fmt.Sprintf("--http-port=%d", BackendPort), fmt.Sprintf("--udp-port=%d", BackendPort)}
}

// link is the name of the node's end of the Pod's wire.
func (p *Pod) link() string { return fmt.Sprintf("pod%d", p.number) }

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

// Terminate deletes the Pod as a rollout does: the object stays, terminating, and the process goes on answering, until
// Delete. A kubelet would give it the grace period.
func (p *Pod) Terminate(ctx context.Context) error {
	if err := p.Node.lab.Kube.CoreV1().Pods(p.Key.Namespace).Delete(ctx, p.Key.Name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("terminating Pod %s: %w", p.Key, err)
	}
	return nil
}

// Delete removes the Pod object, ends its process, and frees its addresses.
func (p *Pod) Delete(ctx context.Context) error {
	n := p.Node
	if p.uid != "" {
		err := n.lab.Kube.CoreV1().Pods(p.Key.Namespace).Delete(ctx, p.Key.Name, metav1.DeleteOptions{
			GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(p.uid)),
		})
		// Someone else's Pod of the same name is a conflict: ours is gone as well.
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("deleting Pod %s: %w", p.Key, err)
		}
	}
	if p.Process != nil {
		if err := p.Process.Kill(); err != nil {
			return err
		}
	}
	if p.Namespace != nil {
		// The kernel takes its time to dismantle a namespace; the next Pod may want the link's name at once.
		if link, err := n.Netlink().LinkByName(p.link()); err == nil {
			if err := n.Netlink().LinkDel(link); err != nil {
				return fmt.Errorf("link of Pod %s: %w", p.Key, err)
			}
		}
		if err := n.lab.box.RemoveNamespace(p.Namespace); err != nil {
			return fmt.Errorf("namespace of Pod %s: %w", p.Key, err)
		}
	}
	n.mu.Lock()
	delete(n.pods, p.Key.String())
	n.mu.Unlock()
	return nil
}

// DeleteNamespace deletes a namespace with the Pods that the lab runs in it, which no kubelet would ever finish off, and
// returns when it is gone.
func (l *Lab) DeleteNamespace(ctx context.Context, name string) error {
	for _, n := range l.Nodes {
		for _, p := range n.Pods() {
			if p.Key.Namespace != name {
				continue
			}
			if err := p.Delete(ctx); err != nil {
				return err
			}
		}
	}
	namespaces := l.Kube.CoreV1().Namespaces()
	if err := namespaces.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting namespace %s: %w", name, err)
	}
	return Poll(ctx, "namespace "+name+" is gone", func(ctx context.Context) error {
		ns, err := namespaces.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, c := range ns.Status.Conditions {
			if c.Status == corev1.ConditionTrue && c.Type == corev1.NamespaceContentRemaining {
				return errors.New(c.Message)
			}
		}
		return errors.New("it is terminating")
	})
}

func (p *Pod) writeStatus(ctx context.Context) error {
	pods := p.Node.lab.Kube.CoreV1().Pods(p.Key.Namespace)
	p.mu.Lock()
	ready := p.ready
	p.mu.Unlock()
	status := p.Node.podStatus(container, ready, perFamily(p.Node.lab.cfg.Family, p.IPv4, p.IPv6))
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

// podStatus is what a kubelet writes for a Pod that runs on the node.
func (n *Node) podStatus(container string, isReady bool, addrs []netip.Addr) corev1.PodStatus {
	ready := corev1.ConditionFalse
	if isReady {
		ready = corev1.ConditionTrue
	}
	now := metav1.Now()
	status := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &now, ContainerStatuses: []corev1.ContainerStatus{{
		Name: container, Ready: isReady, Started: ptr.To(true),
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
	}}}
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now}
		if t == corev1.ContainersReady || t == corev1.PodReady {
			c.Status = ready
		}
		status.Conditions = append(status.Conditions, c)
	}
	for _, a := range perFamily(n.lab.cfg.Family, n.IPv4, n.IPv6) {
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: a.String()})
	}
	for _, a := range addrs {
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	status.HostIP, status.PodIP = status.HostIPs[0].IP, status.PodIPs[0].IP
	return status
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
	for i := range perFamily(l.cfg.Family, 4, 6) {
		var endpoints []discoveryv1.Endpoint
		for _, p := range pods {
			endpoints = append(endpoints, discoveryv1.Endpoint{
				Addresses: []string{perFamily(l.cfg.Family, p.IPv4, p.IPv6)[i].String()}, NodeName: ptr.To(p.Node.Name()),
			})
		}
		if err := l.createSlice(ctx, svc, i, endpoints); err != nil {
			return err
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
