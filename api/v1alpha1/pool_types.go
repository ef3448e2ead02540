// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AddressRange is a CIDR ("192.0.2.0/24"), an inclusive range
// ("192.0.2.10-192.0.2.20") or a single IP.
//
// The order of an IPv6 range can't be compared in CEL; a reversed one makes
// the pool Ready=False.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=79
// +kubebuilder:validation:XValidation:rule="self.contains('/') ? isCIDR(self) : (self.contains('-') ? (self.split('-').size() == 2 && isIP(self.split('-')[0]) && isIP(self.split('-')[1])) : isIP(self))",message="must be a CIDR (192.0.2.0/24), a range (192.0.2.10-192.0.2.20) or a single IP address, without spaces"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="has bits set to the right of the prefix length: write the first address of the network, or a range or single IP for part of it"
// +kubebuilder:validation:XValidation:rule="!(self.contains('-') && self.split('-').size() == 2 && isIP(self.split('-')[0]) && isIP(self.split('-')[1])) || ip(self.split('-')[0]).family() == ip(self.split('-')[1]).family()",message="both ends of a range must be of the same address family"
// +kubebuilder:validation:XValidation:rule="!self.matches('^[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+-[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+$') || !isIP(self.split('-')[0]) || !isIP(self.split('-')[1]) || int(self.split('-')[0].split('.')[0]) * 16777216 + int(self.split('-')[0].split('.')[1]) * 65536 + int(self.split('-')[0].split('.')[2]) * 256 + int(self.split('-')[0].split('.')[3]) <= int(self.split('-')[1].split('.')[0]) * 16777216 + int(self.split('-')[1].split('.')[1]) * 65536 + int(self.split('-')[1].split('.')[2]) * 256 + int(self.split('-')[1].split('.')[3])",message="the range is reversed: write the lower address first"
type AddressRange string

// LoadBalancerIPPoolSpec says which addresses may be given to which Services.
type LoadBalancerIPPoolSpec struct {
	// Addresses that the pool holds, IPv4 and IPv6 alike. Entries that overlap
	// are a union. At most 128 entries; one entry may be as large as a /0.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	Addresses []AddressRange `json:"addresses"`

	// Exclude lists addresses that are never handed out, not even when asked
	// for by number.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=128
	Exclude []AddressRange `json:"exclude,omitempty"`

	// AutoAssign false keeps the pool for Services that name it, or one of its
	// addresses.
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`

	// AvoidBuggyIPs keeps IPv4 addresses that end in .0 or .255 from being
	// handed out by themselves. They can still be asked for by number.
	// +optional
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`

	// Priority orders pools: higher first. Pools of equal priority are used in
	// the order of their names.
	// +optional
	// +kubebuilder:default=0
	Priority int32 `json:"priority,omitempty"`

	// ServiceSelector restricts the pool to Services with these labels. Absent
	// means every Service.
	// +optional
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`

	// NamespaceSelector restricts the pool to Services whose namespace has
	// these labels. Absent means every namespace. Both selectors must match.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`

	// Disabled keeps every address that is held and gives out no new one.
	// +optional
	Disabled bool `json:"disabled,omitempty"`

	// MaxPerNamespace limits how many addresses of this pool the Services of
	// one namespace may hold. Absent means no limit.
	// +optional
	// +kubebuilder:validation:Minimum=1
	MaxPerNamespace *int32 `json:"maxPerNamespace,omitempty"`

	// ReuseAfter is how long a released address rests before it is forgotten.
	// While it rests it goes back to the Service of the same namespace and
	// name, and to others only when nothing fresher is left; resting never
	// makes a pool exhausted.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.size() > 0 && self.matches('^([0-9]{1,6}([.][0-9]+)?h)?([0-9]{1,6}([.][0-9]+)?m)?([0-9]{1,6}([.][0-9]+)?s)?([0-9]{1,6}([.][0-9]+)?ms)?$')",message="must be a duration such as 30s, 10m or 1h30m, with at most six digits before each unit"
	ReuseAfter *metav1.Duration `json:"reuseAfter,omitempty"`
}

// AddressCount counts the addresses of one family. The numbers are strings
// because an IPv6 pool may hold more than 2^64.
type AddressCount struct {
	// Capacity is how many addresses the pool could hand out when empty.
	Capacity string `json:"capacity"`
	// Allocated is how many are bound to Services or reserved.
	Allocated string `json:"allocated"`
	// Available is how many could be handed out now, unless the pool is
	// disabled; resting ones count, quarantined ones don't.
	Available string `json:"available"`
}

// LoadBalancerIPPoolStatus is written by the controller.
type LoadBalancerIPPoolStatus struct {
	// IPv4 counts; absent when the pool holds no IPv4 address.
	// +optional
	IPv4 *AddressCount `json:"ipv4,omitempty"`
	// IPv6 counts; absent when the pool holds no IPv6 address.
	// +optional
	IPv6 *AddressCount `json:"ipv6,omitempty"`
	// Conditions: Ready, Overlaps, Exhausted, Conflicts.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// LoadBalancerIPPool is a set of addresses that Services of type LoadBalancer
// may get. A pool alone is enough: its addresses are also announced, unless an
// advertisement says otherwise.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=lbpool,categories=fairlead
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="IPv4 used",type=string,JSONPath=`.status.ipv4.allocated`
// +kubebuilder:printcolumn:name="IPv4 free",type=string,JSONPath=`.status.ipv4.available`
// +kubebuilder:printcolumn:name="IPv6 used",type=string,JSONPath=`.status.ipv6.allocated`
// +kubebuilder:printcolumn:name="IPv6 free",type=string,JSONPath=`.status.ipv6.available`,priority=1
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Priority",type=integer,JSONPath=`.spec.priority`,priority=1
// +kubebuilder:printcolumn:name="Auto",type=boolean,JSONPath=`.spec.autoAssign`,priority=1
// +kubebuilder:printcolumn:name="Disabled",type=boolean,JSONPath=`.spec.disabled`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type LoadBalancerIPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec LoadBalancerIPPoolSpec `json:"spec"`
	// +optional
	Status LoadBalancerIPPoolStatus `json:"status,omitempty"`
}

// LoadBalancerIPPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type LoadBalancerIPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LoadBalancerIPPool `json:"items"`
}

// Condition types and reasons of a pool.
const (
	// PoolReady is False when a field can't be used; the rest of the pool, and
	// every address already held, goes on.
	PoolReady = "Ready"
	// PoolOverlaps is True when another pool holds some of the same addresses.
	PoolOverlaps = "Overlaps"
	// PoolExhausted is True when a family has no address left to hand out.
	PoolExhausted = "Exhausted"
	// PoolConflicts is True while addresses are quarantined because hosts
	// outside the cluster have them.
	PoolConflicts = "Conflicts"
)
