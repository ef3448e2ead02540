// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Community is a BGP community: a standard one (65000:100), a large one
// (large:65000:1:2), or a well-known one by its name.
//
// +kubebuilder:validation:MinLength=3
// +kubebuilder:validation:MaxLength=38
// +kubebuilder:validation:XValidation:rule="self in ['graceful-shutdown', 'accept-own', 'no-llgr', 'blackhole', 'no-export', 'no-advertise', 'no-export-subconfed', 'no-peer'] || (self.startsWith('large:') ? self.matches('^large(:(0|[1-9][0-9]{0,9})){3}$') && self.split(':').all(n, n == 'large' || int(n) <= 4294967295) : self.matches('^(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,4})$') && self.split(':').all(n, int(n) <= 65535))",message="must be a community such as 65000:100, a large community such as large:65000:1:2, or one of graceful-shutdown, accept-own, no-llgr, blackhole, no-export, no-advertise, no-export-subconfed, no-peer"
type Community string

// BGPAdvertisementSpec says which addresses are announced to which peers by
// which nodes, and what is told of them. What is absent restricts nothing.
type BGPAdvertisementSpec struct {
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

	// ServiceSelector selects the Services whose addresses are announced, by
	// their labels. An address that Services share is selected if one of them is.
	// +optional
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`

	// NodeSelector selects the nodes that announce, by their labels.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// Peers that are told, by name, besides those that peerSelector matches.
	// With neither every peer of a node is.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Peers []string `json:"peers,omitempty"`

	// PeerSelector selects peers by their labels, besides those in peers.
	// +optional
	PeerSelector *metav1.LabelSelector `json:"peerSelector,omitempty"`

	// Communities that are sent along: standard (65000:100), large
	// (large:65000:1:2) and well-known ones by name (no-export).
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Communities []Community `json:"communities,omitempty"`

	// LocalPref is sent to routers in the node's own AS: the highest wins there.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref *int64 `json:"localPref,omitempty"`

	// MED (multi-exit discriminator): the lowest wins among routes from one AS.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *int64 `json:"med,omitempty"`

	// ASPathPrepend is how many times more the nodes' AS is in the path.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	ASPathPrepend int32 `json:"asPathPrepend,omitempty"`

	// AggregationLength is the length of the prefix that is announced in place
	// of an IPv4 address. Absent means 32, and so does externalTrafficPolicy
	// Local.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	AggregationLength *int32 `json:"aggregationLength,omitempty"`

	// AggregationLengthV6 is the same for IPv6. Absent means 128.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`

	// RequireEndpoints false announces addresses also while no endpoint of
	// their Services takes traffic.
	// +optional
	// +kubebuilder:default=true
	RequireEndpoints *bool `json:"requireEndpoints,omitempty"`
}

// BGPAdvertisementStatus is written by the controller.
type BGPAdvertisementStatus struct {
	// Conditions: Ready, Contradicts.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPAdvertisement restricts to whom addresses are announced by BGP, and says
// what is told of them. Where several select an address they are a union. An
// address whose pool no advertisement selects, be it of layer 2 or BGP, goes
// to every peer of every node.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=lbbgpadv,categories=fairlead
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.pools`
// +kubebuilder:printcolumn:name="Peers",type=string,JSONPath=`.spec.peers`
// +kubebuilder:printcolumn:name="Communities",type=string,JSONPath=`.spec.communities`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Local pref",type=integer,JSONPath=`.spec.localPref`,priority=1
// +kubebuilder:printcolumn:name="MED",type=integer,JSONPath=`.spec.med`,priority=1
// +kubebuilder:printcolumn:name="Prepend",type=integer,JSONPath=`.spec.asPathPrepend`,priority=1
// +kubebuilder:printcolumn:name="Contradicts",type=string,JSONPath=`.status.conditions[?(@.type=="Contradicts")].status`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPAdvertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec BGPAdvertisementSpec `json:"spec,omitempty"`
	// +optional
	Status BGPAdvertisementStatus `json:"status,omitempty"`
}

// BGPAdvertisementList is a list of advertisements.
//
// +kubebuilder:object:root=true
type BGPAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPAdvertisement `json:"items"`
}

// Conditions of a BGPAdvertisement.
const (
	// BGPAdvertisementReady is False when it selects no pool, no node or no
	// peer, or a selector can't be read.
	BGPAdvertisementReady = "Ready"
	// BGPAdvertisementContradicts is True when another one says something else
	// of the same route to the same peer. The one that is first by name counts.
	BGPAdvertisementContradicts = "Contradicts"
)
