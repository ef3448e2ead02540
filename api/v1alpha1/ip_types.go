// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ServiceName names a Service.
type ServiceName struct {
	// Namespace of the Service.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Namespace string `json:"namespace"`
	// Name of the Service.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
}

// ServicePort is a port that a Service occupies on its address.
type ServicePort struct {
	// Protocol of the port.
	// +kubebuilder:validation:Enum=TCP;UDP;SCTP
	Protocol corev1.Protocol `json:"protocol"`
	// Port number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
}

// ServiceBinding is one Service that holds an address.
type ServiceBinding struct {
	ServiceName `json:",inline"`
	// UID of the Service. What is held for a UID decides what is released; a
	// Service of the same name with another UID is bound anew.
	UID types.UID `json:"uid"`
	// Ports that the Service occupies, so that others can share the address
	// without a clash.
	// +optional
	// +listType=atomic
	Ports []ServicePort `json:"ports,omitempty"`
}

// Reservation says for whom an address is held when no Service has it.
type Reservation struct {
	// Namespace whose Services may have the address.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Namespace string `json:"namespace"`
	// Name of the only Service that may have it; absent means any Service of
	// the namespace.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$`
	Name string `json:"name,omitempty"`
}

// Release says who had a resting address last.
type Release struct {
	// Service that had the address last.
	Service ServiceName `json:"service"`
	// At is when the address was released.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|(-|[+])([01][0-9]|2[0-3]):[0-5][0-9])$`
	At metav1.Time `json:"at"`
}

// Quarantine says that a host outside the cluster has the address.
type Quarantine struct {
	// MAC of that host, which answered before any node announced the address.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`
	// At is when the address was quarantined.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|(-|[+])([01][0-9]|2[0-3]):[0-5][0-9])$`
	At metav1.Time `json:"at"`
}

// LoadBalancerIPSpec says who holds the address. The controller writes it, and
// a person who reserves an address: address and reservedFor are enough then.
//
// With services the address is Bound; without, it is Reserved if reservedFor
// is set and else Resting.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.released) && has(self.services) && self.services.size() > 0)",message="an address that Services hold is not released: remove spec.released or spec.services"
// +kubebuilder:validation:XValidation:rule="!has(self.services) || self.services.size() < 2 || (has(self.sharingKey) && self.sharingKey.size() > 0)",message="Services share an address only with a key: to move one here, give all of them the annotation fairlead.dev/sharing-key"
// +kubebuilder:validation:XValidation:rule="!has(self.services) || self.services.size() < 2 || !has(oldSelf.services) || oldSelf.services.size() < 2 || !has(oldSelf.sharingKey) || !has(self.sharingKey) || self.sharingKey == oldSelf.sharingKey",message="the key of Services that share an address can't be changed here: change the annotation fairlead.dev/sharing-key of the Services"
// +kubebuilder:validation:XValidation:rule="has(self.reservedFor) || has(self.released) || (has(self.services) && self.services.size() > 0)",message="say whom the address is kept for: add spec.reservedFor with a namespace, and with a name for one Service alone; to give it up, delete this LoadBalancerIP"
type LoadBalancerIPSpec struct {
	// Address in its canonical text form. It can't be changed.
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be an IP address"
	// +kubebuilder:validation:XValidation:rule="!isIP(self) || ip.isCanonical(self)",message="must be written in its canonical form: no leading zeros, and IPv6 in lower case with its longest run of zeros as '::'"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the address can't be changed: delete this LoadBalancerIP and create another"
	Address string `json:"address"`

	// Pool that the address came from. Empty when a person reserved it outside
	// every pool.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Pool string `json:"pool,omitempty"`

	// Holder says in one line who has the address, for people: the first
	// Service and how many more.
	// +optional
	Holder string `json:"holder,omitempty"`

	// Services that hold the address. More than one only with a sharing key.
	// +optional
	// +listType=map
	// +listMapKey=uid
	// +kubebuilder:validation:MaxItems=1024
	Services []ServiceBinding `json:"services,omitempty"`

	// SharingKey that every Service on this address has.
	// +optional
	SharingKey string `json:"sharingKey,omitempty"`

	// Owner is the node that the controller proposes for announcing the
	// address on layer 2. The node that really does is in status.l2.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Owner string `json:"owner,omitempty"`

	// ReservedFor keeps the address for a Service, or for a namespace, also
	// while no Service holds it.
	// +optional
	ReservedFor *Reservation `json:"reservedFor,omitempty"`

	// Released is set while the address rests.
	// +optional
	Released *Release `json:"released,omitempty"`

	// Quarantined keeps an address that a host outside the cluster has from
	// being given to who doesn't ask for it by number, for an hour.
	// +optional
	Quarantined *Quarantine `json:"quarantined,omitempty"`
}

// L2Claim is written by the node that answers for the address.
//
// +kubebuilder:validation:XValidation:rule="self.term > oldSelf.term || self.term == oldSelf.term && self.node == oldSelf.node || oldSelf.term - self.term > 4294967296",message="a claim on record gives way only to one of a higher term, or one whose term was made up (more than 2^32 higher)"
type L2Claim struct {
	// Node that answers.
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// Interface it answers on.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface,omitempty"`
	// MAC address it answers with.
	// +optional
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac,omitempty"`
	// Term grows by one with every change of the node; the highest wins. Speakers
	// take none above 2^48 from each other either.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=281474976710656
	Term int64 `json:"term"`
	// Since is when this node began to answer.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|(-|[+])([01][0-9]|2[0-3]):[0-5][0-9])$`
	Since metav1.Time `json:"since"`
}

// Conflict is written by the node that announces the address, or is to, when it
// sees that a host outside the cluster has it.
type Conflict struct {
	// By is the node that saw it.
	// +kubebuilder:validation:MaxLength=253
	By string `json:"by"`
	// Interface it was seen on.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface,omitempty"`
	// MAC of the other host.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`
	// At is when. While it goes on it is written anew from time to time only.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|(-|[+])([01][0-9]|2[0-3]):[0-5][0-9])$`
	At metav1.Time `json:"at"`
}

// Verification is written by a node that got an answer for the address on the
// wire from another node.
type Verification struct {
	// By is the node that asked.
	// +kubebuilder:validation:MaxLength=253
	By string `json:"by"`
	// MAC that answered.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`
	// At is when.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|(-|[+])([01][0-9]|2[0-3]):[0-5][0-9])$`
	At metav1.Time `json:"at"`
}

// LoadBalancerIPStatus says what the speakers do and see.
type LoadBalancerIPStatus struct {
	// L2 is the claim of the node that announces the address on layer 2.
	// +optional
	L2 *L2Claim `json:"l2,omitempty"`
	// Verified is the last proof that the address answers, if the last attempt
	// to get one did not fail.
	// +optional
	Verified *Verification `json:"verified,omitempty"`
	// Conflict says which other host has the address, while one has.
	// +optional
	Conflict *Conflict `json:"conflict,omitempty"`
	// Conditions: PoolMismatch (by the controller), AddressConflict and
	// Verified (by speakers).
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// LoadBalancerIP is one address in use, named after it: the IPv4 address, or
// the IPv6 address fully expanded with "-" for ":". The uniqueness of names in
// the API server is what makes a double allocation impossible.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=lbip,categories=fairlead
// +kubebuilder:validation:XValidation:rule="!isIP(self.spec.address) || (ip(self.spec.address).family() == 4 ? self.metadata.name == self.spec.address : (self.metadata.name.matches('^([0-9a-f]{4}-){7}[0-9a-f]{4}$') && ip(self.metadata.name.replace('-', ':')) == ip(self.spec.address)))",message="metadata.name must be spec.address itself (IPv4), or for IPv6 the address fully expanded with '-' for ':', as in 2001-0db8-0000-0000-0000-0000-0000-0001"
// +kubebuilder:printcolumn:name="Holder",type=string,JSONPath=`.spec.holder`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.l2.node`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.l2.since`
// +kubebuilder:printcolumn:name="MAC",type=string,JSONPath=`.status.l2.mac`,priority=1
// +kubebuilder:printcolumn:name="Term",type=integer,JSONPath=`.status.l2.term`,priority=1
// +kubebuilder:printcolumn:name="Proposed",type=string,JSONPath=`.spec.owner`,priority=1
// +kubebuilder:printcolumn:name="Reserved",type=string,JSONPath=`.spec.reservedFor.namespace`,priority=1
// +kubebuilder:printcolumn:name="Verified",type=string,JSONPath=`.status.conditions[?(@.type=="Verified")].status`,priority=1
// +kubebuilder:printcolumn:name="Conflict",type=string,JSONPath=`.status.conflict.mac`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type LoadBalancerIP struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec LoadBalancerIPSpec `json:"spec"`
	// +optional
	Status LoadBalancerIPStatus `json:"status,omitempty"`
}

// LoadBalancerIPList is a list of addresses in use.
//
// +kubebuilder:object:root=true
type LoadBalancerIPList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LoadBalancerIP `json:"items"`
}

// PoolMismatch is the condition of a held or reserved address that its pool no
// longer contains. Held, it keeps being announced until a person frees it.
const PoolMismatch = "PoolMismatch"

// Condition types of a LoadBalancerIP that speakers write.
const (
	// AddressConflict is True while a host outside the cluster has the address,
	// too; status.conflict names it.
	AddressConflict = "AddressConflict"
	// AddressVerified says whether another node than the one that announces the
	// address got an answer for it on the wire, with the MAC that is claimed.
	AddressVerified = "Verified"
)

// Reasons of AddressConflict.
const (
	// ConflictProbeAnswered says that the other host answered before a node
	// announced the address, and that none does until the host is gone.
	ConflictProbeAnswered = "ProbeAnswered"
	// ConflictClaimSeen says that the other host claimed the address while a
	// node announced it, and goes on to.
	ConflictClaimSeen = "ClaimSeen"
	// ConflictOver says that the other host has not been seen for a while.
	ConflictOver = "ConflictOver"
)

// Reasons of Verified.
const (
	// VerifiedAnswered says that the node that claims the address answers.
	VerifiedAnswered = "Answered"
	// VerifiedNoAnswer says that nobody answered three requests.
	VerifiedNoAnswer = "NoAnswer"
	// VerifiedOtherMAC says that another answered than the node that claims the
	// address.
	VerifiedOtherMAC = "OtherMAC"
)
