// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/fairlead-lb/fairlead/test/lab/binaries"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// Node is a host that is a Node of the cluster. It has no kubelet: the lab writes the Node object, its lease and the
// status of its Pods.
type Node struct {
	*Host
	Proxy *sandbox.Process // kube-proxy

	lab    *Lab
	number int // from 1

	speakerPod podID // guarded by Lab.installing

	mu   sync.Mutex
	beat context.CancelFunc // stops the heartbeat, nil before the first
	done chan struct{}      // closed when the heartbeat has stopped
	pods map[string]*Pod    // by namespace/name
}

const (
	heartbeatPeriod = time.Second
	proxyHealthPort = 10256
)

// Register creates the Node object and its lease and starts the heartbeat. A Node that exists is left as it is. After
// Delete it also starts kube-proxy again and returns when the node is ready.
func (n *Node) Register(ctx context.Context) error {
	pods4, pods6 := podCIDRs(n.lab.cfg.Family, n.number)
	var cidrs []string
	for _, p := range perFamily(n.lab.cfg.Family, pods4, pods6) {
		cidrs = append(cidrs, p.String())
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name(), Labels: map[string]string{
			corev1.LabelHostname: n.Name(), corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		}},
		Spec: corev1.NodeSpec{PodCIDR: cidrs[0], PodCIDRs: cidrs},
	}
	_, err := n.lab.Kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating Node %s: %w", n.Name(), err)
	}
	if err := n.renew(ctx); err != nil {
		return err
	}
	n.ResumeHeartbeat()
	if n.Proxy == nil || err != nil {
		return nil // the first time, or the Node existed
	}
	if err := n.Proxy.Restart(StopGrace); err != nil {
		return err
	}
	return n.awaitReady(ctx)
}

// Delete stops the heartbeat and removes the Node object, as an administrator does who takes a machine out. What runs
// on the node goes on, but kube-proxy ends by itself when it sees that, and leaves its rules in place.
func (n *Node) Delete(ctx context.Context) error {
	n.StopHeartbeat()
	if err := n.lab.Kube.CoreV1().Nodes().Delete(ctx, n.Name(), metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("deleting Node %s: %w", n.Name(), err)
	}
	return nil
}

// StopHeartbeat lets the node's lease grow old: after the lab's NodeGrace the controller manager calls it NotReady.
func (n *Node) StopHeartbeat() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.beat == nil {
		return
	}
	n.beat()
	<-n.done
}

// ResumeHeartbeat renews the lease every second again; a node that was found NotReady, and its Pods, become Ready. The
// heartbeat ends by itself when somebody deletes the Node.
func (n *Node) ResumeHeartbeat() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.beat != nil {
		select {
		case <-n.done:
		default:
			return // it goes on already
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	n.beat, n.done = cancel, done
	go func() {
		defer close(done)
		ticker := time.NewTicker(heartbeatPeriod)
		defer ticker.Stop()
		for {
			err := n.renew(ctx)
			if apierrors.IsNotFound(err) {
				return // like a kubelet, which does not make its Node again
			}
			if err != nil && ctx.Err() == nil {
				// A test may have stopped the API server: a kubelet would go on trying too.
				n.lab.log.Info("heartbeat failed", "node", n.Name(), "err", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}()
}

// renew writes the lease, and the Node's status if it is not Ready.
func (n *Node) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// The lease first: a Node that is Ready with an old lease would be found NotReady again.
	if err := n.renewLease(ctx); err != nil {
		return err
	}
	// The server's cache is good enough for a look, but it may not have a Node that was just made.
	node, err := n.lab.Kube.CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		node, err = n.lab.Kube.CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{})
	}
	if err != nil {
		return fmt.Errorf("reading Node %s: %w", n.Name(), err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	if err := n.writeStatus(ctx); err != nil {
		return err
	}
	for _, p := range n.Pods() {
		// A Pod that is being started or was deleted behind the lab's back has no object.
		if err := p.writeStatus(ctx); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// writeStatus makes the node Ready.
func (n *Node) writeStatus(ctx context.Context) error {
	now := metav1.Now()
	condition := func(t corev1.NodeConditionType, s corev1.ConditionStatus, reason string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: t, Status: s, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	addresses := []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: n.Name()}}
	for _, a := range perFamily(n.lab.cfg.Family, n.IPv4, n.IPv6) {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	nodes := n.lab.Kube.CoreV1().Nodes()
	// The controller manager writes to the same object.
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := nodes.Get(ctx, n.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		node.Status.Addresses = addresses
		node.Status.Conditions = []corev1.NodeCondition{
			condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory"),
			condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure"),
			condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID"),
			condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady"),
		}
		_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("writing the status of Node %s: %w", n.Name(), err)
	}
	return nil
}

func (n *Node) renewLease(ctx context.Context) error {
	leases := n.lab.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	seconds := int32(n.lab.cfg.NodeGrace / time.Second)
	name := n.Name()
	patch := fmt.Sprintf(`{"spec":{"renewTime":%q}}`, now.UTC().Format(metav1.RFC3339Micro))
	_, err := leases.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("renewing the lease of %s: %w", name, err)
	}
	return nil
}

// startProxy starts kube-proxy with what a namespace needs beside the usual: it may not touch the machine's conntrack limits.
func (n *Node) startProxy() error {
	var err error
	n.Proxy, err = n.lab.start(n.Namespace, "kube-proxy/"+n.Name(), n.lab.programs[binaries.Proxy],
		"--kubeconfig="+n.lab.Dir+"/kube-proxy.kubeconfig", "--hostname-override="+n.Name(),
		"--proxy-mode="+string(n.lab.cfg.ProxyMode), "--cluster-cidr="+join(perFamily(n.lab.cfg.Family, Pods4, Pods6)),
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--v=2")
	return err
}

// awaitProxy waits until kube-proxy is healthy. One may panic on its way up: it registers its handlers for Nodes while their
// informer is calling them already, without a lock (k8s.io/kubernetes/pkg/proxy/config). A kubelet starts it again then.
func (n *Node) awaitProxy(ctx context.Context) error {
	const panicked = 2 // the exit status of a Go program
	for again := true; ; again = false {
		err := n.Proxy.Await(ctx, "kube-proxy of "+n.Name()+" is healthy", func(ctx context.Context) error {
			return n.okStatus(ctx, proxyHealthPort, "/healthz")
		})
		exit, ended := errors.AsType[*exec.ExitError](n.Proxy.Err())
		if err == nil || !again || !ended || exit.ExitCode() != panicked {
			return err
		}
		n.lab.log.Info("kube-proxy panicked on its way up and is started again", "node", n.Name())
		if err := n.Proxy.Start(); err != nil {
			return err
		}
	}
}

func (n *Node) awaitReady(ctx context.Context) error {
	if err := n.awaitProxy(ctx); err != nil {
		return err
	}
	return Poll(ctx, n.Name()+" is Ready and untainted", func(ctx context.Context) error {
		node, err := n.lab.Kube.CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(node.Spec.Taints) > 0 {
			return fmt.Errorf("taints %v", node.Spec.Taints)
		}
		return nil
	})
}
