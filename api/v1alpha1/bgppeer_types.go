// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"encoding/json"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a Node may say of its BGP sessions.
const (
	// AnnotationBGPASN on a Node is the number of the AS that it is in, for all
	// its sessions: it comes before the localASN of BGPPeers.
	AnnotationBGPASN = "fairlead.dev/bgp-asn"
	// AnnotationBGPRouterID on a Node is its BGP identifier, in the form of an
	// IPv4 address, for all its sessions: it comes before the routerID of
	// BGPPeers.
	AnnotationBGPRouterID = "fairlead.dev/bgp-router-id"
)

// PeerASN is the AS of a router: its number, or "external" for any but the
// node's own, or "internal" for the node's own.
//
// It is no IntOrString, whose number ends at 2147483647.
//
// +kubebuilder:validation:XIntOrString
// +kubebuilder:validation:Type=""
// +kubebuilder:validation:MaxLength=10
// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 4294967295 && self != 23456 : self == 'external' || self == 'internal'",message="must be a number from 1 to 4294967295 except 23456, or external, or internal"
type PeerASN string

// The words that a PeerASN can be.
const (
	// PeerASNExternal is any AS but the node's own.
	PeerASNExternal PeerASN = "external"
	// PeerASNInternal is the AS of the node.
	PeerASNInternal PeerASN = "internal"
)

// Number returns the number of the AS, 0 if it is a word.
func (a PeerASN) Number() uint32 {
	n, _ := strconv.ParseUint(string(a), 10, 32)
	return uint32(n)
}

// MarshalJSON implements json.Marshaler.
func (a PeerASN) MarshalJSON() ([]byte, error) {
	if n := a.Number(); n != 0 {
		return json.Marshal(n)
	}
	return json.Marshal(string(a))
}

// UnmarshalJSON implements json.Unmarshaler.
func (a *PeerASN) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*a = PeerASN(text)
		return nil
	}
	var n uint32
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("an AS is a number from 1 to 4294967295, external or internal: %w", err)
	}
	*a = PeerASN(strconv.FormatUint(uint64(n), 10))
	return nil
}

// AutoDiscover is a way of finding the router.
//
// +kubebuilder:validation:Enum=DefaultGateway
type AutoDiscover string

// AutoDiscoverDefaultGateway takes the next hops of the node's default routes.
const AutoDiscoverDefaultGateway AutoDiscover = "DefaultGateway"

// BGPFamily is a family of addresses that is announced.
//
// +kubebuilder:validation:Enum=ipv4;ipv6
type BGPFamily string

// The families of addresses.
const (
	// BGPFamilyIPv4 is IPv4 unicast.
	BGPFamilyIPv4 BGPFamily = "ipv4"
	// BGPFamilyIPv6 is IPv6 unicast.
	BGPFamilyIPv6 BGPFamily = "ipv6"
)

// InterfaceName is the name of a network interface.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=15
// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9._@=+-]+$')",message="must be the name of an interface"
type InterfaceName string

// PasswordSecret names a Secret.
type PasswordSecret struct {
	// Name of a Secret of type kubernetes.io/basic-auth in the namespace of the
	// speakers. It has to be among the chart's speaker.bgp.passwordSecrets.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// GracefulRestart says what the router is asked to do with routes while a
// speaker restarts (RFC 4724).
//
// +kubebuilder:validation:XValidation:rule="!has(self.enabled) || self.enabled || !has(self.longLivedStaleTime)",message="longLivedStaleTime needs graceful restart: leave it out, or set enabled"
type GracefulRestart struct {
	// Enabled false has the router drop the routes when the session ends.
	// +optional
	// +kubebuilder:default=true
	Enabled *bool `json:"enabled,omitempty"`

	// RestartTime is for how long the router keeps the routes without a
	// session, in whole seconds.
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.size() > 0 && self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && duration(self) >= duration('1s') && duration(self) <= duration('4095s')",message="must be whole seconds from 1s to 4095s, such as 30s or 2m"
	RestartTime *metav1.Duration `json:"restartTime,omitempty"`

	// LongLivedStaleTime is for how long after that it still uses them where it
	// has no other, in whole seconds (RFC 9494). Absent means not at all.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.size() > 0 && self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && duration(self) >= duration('1s') && duration(self) <= duration('16777215s')",message="must be whole seconds from 1s to 4660h, such as 10m or 24h"
	LongLivedStaleTime *metav1.Duration `json:"longLivedStaleTime,omitempty"`
}

// BGPPeerSpec says with which router nodes have a BGP session, and how. All
// fields but nodeSelector are those of the session: another value starts it
// anew, unless the reference says that it doesn't.
//
// +kubebuilder:validation:XValidation:rule="[has(self.peerAddress), has(self.interface), has(self.autoDiscover)].filter(given, given).size() == 1",message="give exactly one of peerAddress, interface and autoDiscover: it says which router is meant"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !has(self.peerAddress) || !isIP(self.sourceAddress) || !isIP(self.peerAddress) || ip(self.sourceAddress).family() == ip(self.peerAddress).family()",message="sourceAddress and peerAddress must be of the same address family"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.sourceAddress)",message="a session over an interface is between its link-local addresses: leave out sourceAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.bindInterface)",message="a session over an interface is bound to that: leave out bindInterface"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.passwordSecretRef)",message="a session over an interface can't have a password, because TCP-MD5 doesn't work with link-local addresses: leave out passwordSecretRef, or use peerAddress"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultiHop) || !has(self.ttlSecurityHops)",message="ebgpMultiHop and ttlSecurityHops contradict each other: give one of them"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultiHop) || has(self.peerAddress)",message="a router that interface or autoDiscover finds is one hop away: leave out ebgpMultiHop"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultiHop) || !(self.peerASN == 'internal' || has(self.localASN) && self.peerASN == self.localASN)",message="ebgpMultiHop is for a router in another AS, and this one is in the same: leave it out"
// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveTime) || !has(self.holdTime) || !self.keepaliveTime.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)$') || !self.holdTime.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)$') || duration(self.keepaliveTime).getSeconds() * 3 <= duration(self.holdTime).getSeconds()",message="keepaliveTime must be at most a third of holdTime"
type BGPPeerSpec struct {
	// NodeSelector selects the nodes that have a session, by their labels.
	// Absent means every node.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// LocalASN is the number of the AS that the nodes are in. A node's own
	// annotation fairlead.dev/bgp-asn comes before it.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:XValidation:rule="self != 23456",message="23456 stands for AS numbers that an old router can't read: it is nobody's"
	LocalASN *int64 `json:"localASN,omitempty"`

	// PeerASN is the AS of the router: a number, external (any but the node's
	// own) or internal (the node's own).
	PeerASN PeerASN `json:"peerASN"`

	// PeerAddress is the router's address.
	// +optional
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLoopback() || ip(self).isLinkLocalUnicast())",message="must be the IPv4 or IPv6 address of a host"
	// +kubebuilder:validation:XValidation:rule="!isIP(self) || ip(self).family() == 4 || !ip(self).isLinkLocalUnicast()",message="an IPv6 link-local address means nothing without its interface: give interface instead"
	PeerAddress string `json:"peerAddress,omitempty"`

	// Interface on whose other end is the router (unnumbered): the session is
	// between the link-local IPv6 addresses there.
	// +optional
	Interface InterfaceName `json:"interface,omitempty"`

	// AutoDiscover DefaultGateway has the next hops of the node's default
	// routes be the routers.
	// +optional
	AutoDiscover AutoDiscover `json:"autoDiscover,omitempty"`

	// PeerPort is the TCP port of the router.
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	PeerPort int32 `json:"peerPort,omitempty"`

	// Passive has the node wait for the router to connect.
	// +optional
	Passive bool `json:"passive,omitempty"`

	// SourceAddress of the session. It has to be an address of the node.
	// +optional
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLoopback() || ip(self).family() == 4 && ip(self).isLinkLocalUnicast())",message="must be an IPv4 or IPv6 address of the node, and not a link-local IPv6 one"
	SourceAddress string `json:"sourceAddress,omitempty"`

	// RouterID is the node's BGP identifier, in the form of an IPv4 address. A
	// node's own annotation fairlead.dev/bgp-router-id comes before it. Absent
	// means an IPv4 address of the node; two nodes must not have the same.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4 && !ip(self).isUnspecified()",message="must have the form of an IPv4 address and not be 0.0.0.0"
	RouterID string `json:"routerID,omitempty"`

	// BindInterface is the interface, or the VRF device, that the session is
	// bound to.
	// +optional
	BindInterface InterfaceName `json:"bindInterface,omitempty"`

	// HoldTime after which a session without a sign of life ends, in whole
	// seconds. The lower one of both sides counts.
	// +optional
	// +kubebuilder:default="90s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.size() > 0 && self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && duration(self) >= duration('3s') && duration(self) <= duration('65535s')",message="must be whole seconds from 3s to 65535s, such as 90s or 3m"
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`

	// KeepaliveTime between signs of life, in whole seconds. Absent means a
	// third of the hold time.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.size() > 0 && self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && duration(self) >= duration('1s') && duration(self) <= duration('21845s')",message="must be whole seconds from 1s to 21845s, such as 30s or 1m"
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// ConnectTime between attempts to connect, in whole seconds.
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.size() > 0 && self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && duration(self) >= duration('1s') && duration(self) <= duration('65535s')",message="must be whole seconds from 1s to 65535s, such as 10s or 2m"
	ConnectTime *metav1.Duration `json:"connectTime,omitempty"`

	// EBGPMultiHop is the TTL of packets to a router in another AS that is
	// several hops away. Absent means that it is a neighbor.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	EBGPMultiHop *int32 `json:"ebgpMultiHop,omitempty"`

	// TTLSecurityHops is how many hops the router is away at most: packets that
	// came farther are dropped (GTSM, RFC 5082). The router must be set so, too.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	TTLSecurityHops *int32 `json:"ttlSecurityHops,omitempty"`

	// PasswordSecretRef names the Secret whose entry password signs the
	// session's segments (TCP-MD5, RFC 2385). While it can't be read there is no
	// session.
	// +optional
	PasswordSecretRef *PasswordSecret `json:"passwordSecretRef,omitempty"`

	// BFDProfile names the BFDProfile by which a dead router is found fast.
	// Absent means no BFD.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	BFDProfile string `json:"bfdProfile,omitempty"`

	// GracefulRestart has the router keep the routes while a speaker restarts.
	// +optional
	// +kubebuilder:default={}
	GracefulRestart *GracefulRestart `json:"gracefulRestart,omitempty"`

	// Families of addresses that are announced, whichever the session's own
	// addresses are of. Absent means both, as far as the router has them, too.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	Families []BGPFamily `json:"families,omitempty"`
}

// SessionCount counts the sessions of all nodes.
type SessionCount struct {
	// Established sessions, as the nodes tell of them.
	Established int32 `json:"established"`
	// Expected sessions: those that the nodes that are selected have or should
	// have.
	Expected int32 `json:"expected"`
}

// BGPPeerStatus is written by the controller, from what Speakers tell.
type BGPPeerStatus struct {
	// Sessions of all nodes that the peer selects.
	// +optional
	Sessions *SessionCount `json:"sessions,omitempty"`
	// Conditions: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPPeer is a router that nodes announce addresses to by BGP. An address goes
// to every peer of a node, unless an advertisement says otherwise.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=lbbgppeer,categories=fairlead
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.peerAddress`
// +kubebuilder:printcolumn:name="ASN",type=string,JSONPath=`.spec.peerASN`
// +kubebuilder:printcolumn:name="Established",type=integer,JSONPath=`.status.sessions.established`
// +kubebuilder:printcolumn:name="Expected",type=integer,JSONPath=`.status.sessions.expected`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interface`,priority=1
// +kubebuilder:printcolumn:name="Discover",type=string,JSONPath=`.spec.autoDiscover`,priority=1
// +kubebuilder:printcolumn:name="Local ASN",type=integer,JSONPath=`.spec.localASN`,priority=1
// +kubebuilder:printcolumn:name="BFD",type=string,JSONPath=`.spec.bfdProfile`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BGPPeerSpec `json:"spec"`
	// +optional
	Status BGPPeerStatus `json:"status,omitempty"`
}

// BGPPeerList is a list of peers.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}

// BGPPeerReady is True while every expected session is established.
const BGPPeerReady = "Ready"
