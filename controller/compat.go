// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// Peer is another load balancer whose annotations of Services can be
// understood, too, so that manifests need not be changed on the day of a move.
type Peer string

// The peers whose annotations are known.
const (
	MetalLB Peer = "metallb"
	Cilium  Peer = "cilium"
	KubeVIP Peer = "kube-vip"
)

// vocabulary lists the annotations that ask for each thing, those that are
// followed rather than others first.
type vocabulary struct {
	addresses, pool, sharingKey, sharingNamespaces []string
}

var ours = vocabulary{
	addresses:         []string{v1alpha1.AnnotationAddresses},
	pool:              []string{v1alpha1.AnnotationPool},
	sharingKey:        []string{v1alpha1.AnnotationSharingKey},
	sharingNamespaces: []string{v1alpha1.AnnotationSharingNamespaces},
}

// A peer's own older names come after its present ones.
var theirs = map[Peer]vocabulary{
	MetalLB: {
		addresses:  []string{"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"},
		pool:       []string{"metallb.io/address-pool", "metallb.universe.tf/address-pool"},
		sharingKey: []string{"metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"},
	},
	Cilium: {
		addresses:         []string{"lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"},
		sharingKey:        []string{"lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"},
		sharingNamespaces: []string{"lbipam.cilium.io/sharing-cross-namespace", "io.cilium/lb-ipam-sharing-cross-namespace"},
	},
	KubeVIP: {
		addresses: []string{"kube-vip.io/loadbalancerIPs"},
	},
}

// ParsePeers reads a comma list of peers. Where the annotations of two
// contradict each other, those of the first are followed.
func ParsePeers(s string) ([]Peer, error) {
	var peers []Peer
	for _, item := range splitList(s) {
		p := Peer(item)
		if _, ok := theirs[p]; !ok {
			return nil, fmt.Errorf("%q is not known: name any of %s, %s and %s", item, MetalLB, Cilium, KubeVIP)
		}
		if slices.Contains(peers, p) {
			return nil, fmt.Errorf("%q is named twice", item)
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// understanding returns our own vocabulary followed by those of peers.
func understanding(peers []Peer) vocabulary {
	v := ours
	for _, p := range peers {
		v.addresses = slices.Concat(v.addresses, theirs[p].addresses)
		v.pool = slices.Concat(v.pool, theirs[p].pool)
		v.sharingKey = slices.Concat(v.sharingKey, theirs[p].sharingKey)
		v.sharingNamespaces = slices.Concat(v.sharingNamespaces, theirs[p].sharingNamespaces)
	}
	return v
}

// statement is a value that a Service gives to something, and where it does.
type statement struct{ where, text string }

// statements returns what svc says under these annotations, without what is
// blank.
func statements(svc *corev1.Service, annotations []string) []statement {
	var out []statement
	for _, name := range annotations {
		if text := strings.TrimSpace(svc.Annotations[name]); text != "" {
			out = append(out, statement{"annotation " + name, text})
		}
	}
	return out
}

// follow returns the first of the statements, in a canonical form, and what is
// to be said of those that say something else.
func follow(all []statement, canonical func(string) string) (text string, contradictions []string) {
	for i, s := range all {
		switch c := canonical(s.text); {
		case i == 0:
			text = c
		case c != text:
			contradictions = append(contradictions, contradiction(s, all[0], s.text, all[0].text))
		}
	}
	return text, contradictions
}

// contradiction says that one statement is not followed because of another.
func contradiction(ignored, followed statement, says, butSays any) string {
	return fmt.Sprintf("%s says %q and is not followed, because %s says %q: remove one of them",
		ignored.where, fmt.Sprint(says), followed.where, fmt.Sprint(butSays))
}
