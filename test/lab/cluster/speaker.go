// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// RestartSpeaker restarts the speaker of a node as a rollout of its DaemonSet does: its Pod is deleted, the program gets
// SIGTERM and ends, and a new Pod with a new token follows. It returns when that one is ready. A speaker that has ended
// already is started by it, also on a Node that was deleted and registered again.
//
// By its own methods the process does the same without its Pod: Stop is what a node that shuts down does, and Kill and
// Start are a crash, after which a kubelet starts the container again in the same Pod.
func (l *Lab) RestartSpeaker(ctx context.Context, n *Node) error {
	l.installing.Lock()
	defer l.installing.Unlock()
	if l.product == nil {
		return errors.New("nothing is installed")
	}
	old := n.speakerPod
	if err := l.deleteSpeakerPod(ctx, old, int64(StopGrace.Seconds())); err != nil {
		return err
	}
	if err := l.product.Speakers[n.Name()].Stop(StopGrace); err != nil {
		return err
	}
	if err := l.deleteSpeakerPod(ctx, old, 0); err != nil {
		return err
	}
	p, err := l.launchSpeaker(ctx, n)
	if err != nil {
		return err
	}
	l.product.Speakers[n.Name()] = p
	return l.awaitProbe(ctx, l.speaker, p, n.Host)
}

// SpeakerReady is nil if the readiness probe of the node's speaker succeeds now.
func (l *Lab) SpeakerReady(ctx context.Context, n *Node) error {
	l.installing.Lock()
	w := l.speaker
	l.installing.Unlock()
	if w.spec.Containers == nil {
		return errors.New("nothing is installed")
	}
	return w.probe(ctx, n.Host)
}

// deleteSpeakerPod deletes the Pod if it is still there: with a grace it stays, terminating; without one it is gone.
func (l *Lab) deleteSpeakerPod(ctx context.Context, pod podID, grace int64) error {
	if pod.uid == "" {
		return nil
	}
	err := l.Kube.CoreV1().Pods(SystemNamespace).Delete(ctx, pod.name, metav1.DeleteOptions{
		GracePeriodSeconds: &grace, Preconditions: metav1.NewUIDPreconditions(string(pod.uid)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting Pod %s: %w", pod.name, err)
	}
	return nil
}

// podID is a Pod of the DaemonSet that the lab runs a process for; it has no uid before there is one.
type podID struct {
	name string
	uid  types.UID
}

func (l *Lab) launchSpeaker(ctx context.Context, n *Node) (*sandbox.Process, error) {
	object, err := l.awaitSpeakerPod(ctx, n)
	if err != nil {
		return nil, err
	}
	n.speakerPod = podID{object.Name, object.UID}
	token, err := l.token(ctx, l.speaker.spec.ServiceAccountName, &authenticationv1.BoundObjectReference{
		APIVersion: "v1", Kind: "Pod", Name: object.Name, UID: object.UID,
	})
	if err != nil {
		return nil, err
	}
	p, err := l.launch(l.speaker, n.Host, Speaker+"-"+n.Name(), pod{name: object.Name, node: n.Name()}, token)
	if err != nil {
		return nil, err
	}
	return p, l.writeSpeakerStatus(ctx, n)
}

// awaitSpeakerPod waits for the Pod that the DaemonSet controller makes for the node, and binds it there: the Pod is
// meant for that node alone, and there is no scheduler.
func (l *Lab) awaitSpeakerPod(ctx context.Context, n *Node) (*corev1.Pod, error) {
	pods := l.Kube.CoreV1().Pods(SystemNamespace)
	var found *corev1.Pod
	err := Poll(ctx, "there is a Pod for the speaker of "+n.Name(), func(ctx context.Context) error {
		list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: l.speaker.selector})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp == nil && meantFor(&p, n.Name()) })
		if i < 0 {
			return fmt.Errorf("none of %d", len(list.Items))
		}
		found = &list.Items[i]
		if found.Spec.NodeName != "" {
			return nil
		}
		return pods.Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: found.Name, UID: found.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: n.Name()},
		}, metav1.CreateOptions{})
	})
	return found, err
}

// meantFor tells whether a Pod of a DaemonSet is on the node or is to be: its controller names the node in an affinity.
func meantFor(p *corev1.Pod, node string) bool {
	if p.Spec.NodeName != "" || p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil {
		return p.Spec.NodeName == node
	}
	required := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	return required != nil && slices.ContainsFunc(required.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		return slices.ContainsFunc(t.MatchFields, func(r corev1.NodeSelectorRequirement) bool {
			return r.Key == metav1.ObjectNameField && slices.Equal(r.Values, []string{node})
		})
	})
}

// writeSpeakerStatus says that the Pod of the node's speaker runs, with the node's own addresses.
func (l *Lab) writeSpeakerStatus(ctx context.Context, n *Node) error {
	pods := l.Kube.CoreV1().Pods(SystemNamespace)
	status := n.podStatus(l.speaker.spec.Containers[0].Name, true, perFamily(l.cfg.Family, n.IPv4, n.IPv6))
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		object, err := pods.Get(ctx, n.speakerPod.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		object.Status = status
		_, err = pods.UpdateStatus(ctx, object, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("writing the status of Pod %s: %w", n.speakerPod.name, err)
	}
	return nil
}

// retireSpeakerPods deletes the Pods of an installation that was stopped, once the DaemonSet controller knows the new one:
// those that it makes now are of the new.
func (l *Lab) retireSpeakerPods(ctx context.Context) error {
	if err := Poll(ctx, "the DaemonSet controller has seen the chart", func(ctx context.Context) error {
		d, err := l.Kube.AppsV1().DaemonSets(SystemNamespace).Get(ctx, Speaker, metav1.GetOptions{})
		if err == nil && d.Status.ObservedGeneration < d.Generation {
			err = fmt.Errorf("generation %d of %d", d.Status.ObservedGeneration, d.Generation)
		}
		return err
	}); err != nil {
		return err
	}
	for _, n := range l.Nodes {
		if err := l.deleteSpeakerPod(ctx, n.speakerPod, 0); err != nil {
			return err
		}
	}
	return nil
}
