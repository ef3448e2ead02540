// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bounds of a Speaker's lists. What a node has beyond them is left out.
const (
	MaxSpeakerInterfaces  = 128
	MaxInterfaceAddresses = 64
	MaxInterfaceGateways  = 16
	MaxSpeakerEndpoints   = 256
	MaxSpeakerNotHeard    = 64
	MaxSpeakerSessions    = 64
	MaxSessionError       = 512
)

// InterfaceAddress is an address of a node with the length of its network's
// prefix, such as 192.0.2.10/24.
//
// +kubebuilder:validation:MaxLength=43
type InterfaceAddress string

// Gateway is the address of a router.
//
// +kubebuilder:validation:MaxLength=39
type Gateway string

// Interface is a network interface that can announce addresses.
type Interface struct {
	// Name of the interface.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	Name string `json:"name"`
	// MAC address that it answers with.
	// +optional
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac,omitempty"`
	// Up says that it is set up and has a carrier.
	Up bool `json:"up"`
	// IPv6 says that IPv6 is on: without it only IPv4 addresses are announced.
	// +optional
	IPv6 bool `json:"ipv6,omitempty"`
	// Addresses of the node on it, link-local IPv6 ones left out.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Addresses []InterfaceAddress `json:"addresses,omitempty"`
	// Gateways are the next hops of the default routes through it.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Gateways []Gateway `json:"gateways,omitempty"`
}

// Endpoint is where the other speakers reach a speaker on one segment: an
// interface and an address family.
type Endpoint struct {
	// Interface of the node.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface"`
	// Address of the node on it; a link-local one for IPv6 if there is one.
	// +kubebuilder:validation:MaxLength=39
	Address string `json:"address"`
}

// SpeakerSpec says where the speaker is reached.
type SpeakerSpec struct {
	// Endpoints of the speaker, at most one per interface and family. They are
	// for people: speakers that are told to use unicast reach each other at the
	// addresses in status.interfaces, on the networks that they share.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Endpoints []Endpoint `json:"endpoints,omitempty"`
}

// BGPSessionState is what has become of a BGP session (RFC 4271, 8.2.2).
//
// +kubebuilder:validation:Enum=Held;Idle;Connect;Active;OpenSent;OpenConfirm;Established
type BGPSessionState string

// States of a BGP session.
const (
	// BGPHeld is a session that is not begun because of what lastError says.
	BGPHeld BGPSessionState = "Held"
	// BGPIdle is a session between two attempts.
	BGPIdle BGPSessionState = "Idle"
	// BGPConnect is one that connects to the router.
	BGPConnect BGPSessionState = "Connect"
	// BGPActive is one that waits for the router, or for the next attempt.
	BGPActive BGPSessionState = "Active"
	// BGPOpenSent is one that awaits the router's OPEN.
	BGPOpenSent BGPSessionState = "OpenSent"
	// BGPOpenConfirm is one that awaits the router's first KEEPALIVE.
	BGPOpenConfirm BGPSessionState = "OpenConfirm"
	// BGPEstablished is one by which routes are announced.
	BGPEstablished BGPSessionState = "Established"
)

// BFDState is what BFD says of a router (RFC 5880, 4.1).
//
// +kubebuilder:validation:Enum=AdminDown;Down;Init;Up
type BFDState string

// States of a BFD session.
const (
	// BFDAdminDown is a session that one side has turned off.
	BFDAdminDown BFDState = "AdminDown"
	// BFDDown is one whose other side isn't heard.
	BFDDown BFDState = "Down"
	// BFDInit is one whose other side is heard and does not hear.
	BFDInit BFDState = "Init"
	// BFDUp is one whose sides hear each other.
	BFDUp BFDState = "Up"
)

// BGPSession is a session of the node with a router.
type BGPSession struct {
	// Peer is the BGPPeer that the session is for.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Peer string `json:"peer"`
	// Neighbor is the router's address, with the interface after % if it is
	// link-local. It is absent while the router was not found.
	// +optional
	// +kubebuilder:validation:MaxLength=55
	Neighbor string `json:"neighbor,omitempty"`
	// State of the session: Established, or what is in the way of it.
	State BGPSessionState `json:"state"`
	// Since is when it came to be Established, or ceased to be.
	Since metav1.Time `json:"since"`
	// Families that both sides agreed on.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	Families []BGPFamily `json:"families,omitempty"`
	// BFD is the state of the BFD session beside it, if there is to be one.
	// +optional
	BFD BFDState `json:"bfd,omitempty"`
	// Reason why it is held, in the form of a condition's.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`
	// LastError is why it is not established or, if it is, why it was not before.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	LastError string `json:"lastError,omitempty"`
}

// SpeakerStatus is what the speaker sees on its node.
type SpeakerStatus struct {
	// Interfaces that can announce addresses: those that resolve addresses by
	// ARP and are on a network, lead to a gateway, or are named by an
	// L2Advertisement. Those that lead to a gateway come first.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=128
	Interfaces []Interface `json:"interfaces,omitempty"`
	// NotHeard are nodes whose speakers share a network with this one and are
	// not heard on it, sorted.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	NotHeard []string `json:"notHeard,omitempty"`
	// BGP sessions of the node, by peer and neighbor.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	BGP []BGPSession `json:"bgp,omitempty"`
	// Conditions: Healthy, NoInterface, StrictARP, MeshDown,
	// ReversePathFiltered, ARPIgnored. They decide nothing.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Conditions of a Speaker. They decide nothing: the node announces all the same.
const (
	// SpeakerHealthy is False when another condition tells of a problem. The
	// reason is the type of the gravest, the message has those of all.
	SpeakerHealthy = "Healthy"
	// SpeakerNoInterface is True when no interface can announce anything.
	SpeakerNoInterface = "NoInterface"
	// SpeakerStrictARP is False when kube-proxy is in IPVS mode and the kernel
	// answers ARP for the addresses of all Services, on whichever node, or asks
	// in their name.
	SpeakerStrictARP = "StrictARP"
	// SpeakerMeshDown is True when other speakers share a network with this one
	// and none of them is heard on it.
	SpeakerMeshDown = "MeshDown"
	// SpeakerReversePathFiltered is True when the kernel drops what some clients
	// send to the addresses, because the way back to them is by another
	// interface and rp_filter is strict.
	SpeakerReversePathFiltered = "ReversePathFiltered"
	// SpeakerARPIgnored is True when the kernel answers ARP for no address of the
	// node, so that the end of its speaker alone looks like the end of the node.
	SpeakerARPIgnored = "ARPIgnored"
)

// Speaker is what the speaker of a node tells of it. It has the name of the
// Node, which owns it, and is written by that speaker alone: when something
// changed, and seldom.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=lbspeaker,categories=fairlead
// +kubebuilder:printcolumn:name="Healthy",type=string,JSONPath=`.status.conditions[?(@.type=="Healthy")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Healthy")].reason`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.status.interfaces[0].name`
// +kubebuilder:printcolumn:name="Up",type=boolean,JSONPath=`.status.interfaces[0].up`
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.status.interfaces[0].addresses`
// +kubebuilder:printcolumn:name="Gateways",type=string,JSONPath=`.status.interfaces[0].gateways`
// +kubebuilder:printcolumn:name="MAC",type=string,JSONPath=`.status.interfaces[0].mac`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Speaker struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec SpeakerSpec `json:"spec,omitempty"`
	// +optional
	Status SpeakerStatus `json:"status,omitempty"`
}

// SpeakerList is a list of speakers.
//
// +kubebuilder:object:root=true
type SpeakerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Speaker `json:"items"`
}
