// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AnnotationDrain on a Node, with value "true", has its addresses move to other
// nodes. A taint of this key does the same, whatever its effect.
const AnnotationDrain = "fairlead.dev/drain"

// InterfacePattern matches names of interfaces: "*" stands for any characters,
// "?" for any one. After "!" it excludes them.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="self.matches('^!?[A-Za-z0-9._@=+*?-]+$')",message="must be the name of an interface, in which * stands for any characters and ? for any one, or ! and such a name to exclude interfaces"
type InterfacePattern string

// NodePreference makes some nodes the first choice.
type NodePreference struct {
	// Weight is added to that of a node that the selector matches. Of the nodes
	// that are equally fit, new addresses go to the one with the greatest sum.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight"`
	// NodeSelector matches the labels of nodes.
	NodeSelector metav1.LabelSelector `json:"nodeSelector"`
}

// L2AdvertisementSpec says which addresses may be announced on layer 2 by which
// nodes and on which interfaces. What is absent restricts nothing.
type L2AdvertisementSpec struct {
	// Pools that it selects, by name, besides those that poolSelector matches.
	// With neither it selects every pool.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Pools []string `json:"pools,omitempty"`

	// PoolSelector selects pools by their labels, besides those in pools.
	// +optional
	PoolSelector *metav1.LabelSelector `json:"poolSelector,omitempty"`

	// ServiceSelector selects the Services whose addresses may be announced, by
	// their labels. An address that Services share is selected if one of them is.
	// +optional
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`

	// NodeSelector selects the nodes that may announce, by their labels.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// Interfaces that may announce. One that is written out may announce also
	// if the node has no address on the network there; those that a pattern
	// only matches, and all others if there are but exclusions, may if they are
	// on the address's network.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Interfaces []InterfacePattern `json:"interfaces,omitempty"`

	// NodePreferences rank the nodes for addresses that have no owner yet or
	// need another. They move no address that has one.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	NodePreferences []NodePreference `json:"nodePreferences,omitempty"`
}

// L2AdvertisementStatus is written by the controller.
type L2AdvertisementStatus struct {
	// Conditions: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// L2Advertisement restricts where addresses are announced on layer 2. Where
// several select an address they are a union. An address whose pool none
// selects is announced wherever a node has an interface on its network.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=lbl2adv,categories=fairlead
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.pools`
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.spec.interfaces`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type L2Advertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec L2AdvertisementSpec `json:"spec,omitempty"`
	// +optional
	Status L2AdvertisementStatus `json:"status,omitempty"`
}

// L2AdvertisementList is a list of advertisements.
//
// +kubebuilder:object:root=true
type L2AdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Advertisement `json:"items"`
}

// L2AdvertisementReady is False when it selects no pool, no node or no
// interface, or a selector can't be read.
const L2AdvertisementReady = "Ready"
