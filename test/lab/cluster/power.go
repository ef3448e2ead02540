// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// PowerOff is what a power cut does to the machine: its link is dead at once, and its programs and Pods end where they
// are. The API is told nothing.
func (n *Node) PowerOff() error {
	for _, h := range n.links() {
		if err := h.Unplug(); err != nil {
			return err
		}
	}
	n.StopHeartbeat()
	for _, p := range n.programs() {
		if err := p.Kill(); err != nil {
			return err
		}
	}
	return nil
}

// PowerOn is the machine's start after PowerOff: a kernel without any rule of kube-proxy's, then what a kubelet starts. It
// returns when all is started; nothing need be ready yet.
func (n *Node) PowerOn(ctx context.Context) error {
	if _, err := n.RunInput(ctx, "flush ruleset\n", "nft", "-f", "-"); err != nil {
		return err
	}
	for _, h := range n.links() {
		if err := h.Plug(); err != nil {
			return err
		}
	}
	n.ResumeHeartbeat()
	for _, p := range n.programs() {
		if err := p.Start(); err != nil {
			return err
		}
	}
	return nil
}

// links are the machine's on all LANs.
func (n *Node) links() []*Host {
	if n.Second == nil {
		return []*Host{n.Host}
	}
	return []*Host{n.Host, n.Second}
}

// programs are the processes of the machine: kube-proxy, its Pods' and the speaker.
func (n *Node) programs() []*sandbox.Process {
	all := []*sandbox.Process{n.Proxy}
	for _, p := range n.Pods() {
		all = append(all, p.Process)
	}
	if speaker := n.lab.Process(Speaker + "-" + n.Name()); speaker != nil {
		all = append(all, speaker)
	}
	return all
}

// Drain annotates the Node so that its addresses move to others.
func (n *Node) Drain(ctx context.Context) error {
	return n.annotate(ctx, v1alpha1.AnnotationDrain, `"true"`)
}

// Undrain takes the annotation off.
func (n *Node) Undrain(ctx context.Context) error {
	return n.annotate(ctx, v1alpha1.AnnotationDrain, "null")
}

func (n *Node) annotate(ctx context.Context, key, value string) error {
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, key, value)
	if _, err := n.lab.Kube.CoreV1().Nodes().Patch(ctx, n.Name(), types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("annotating Node %s: %w", n.Name(), err)
	}
	return nil
}
