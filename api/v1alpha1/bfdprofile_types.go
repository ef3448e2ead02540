// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BFDProfileSpec says how fast BFD finds a dead router (RFC 5880). The router
// has a say in the intervals: of what one side sends at and the other takes,
// the longer one counts.
type BFDProfileSpec struct {
	// ReceiveInterval is the shortest time between packets of the router that
	// the node takes.
	// +optional
	// +kubebuilder:default="300ms"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.size() > 0 && self.matches('^([0-9]{1,2}s)?([0-9]{1,5}ms)?$') && duration(self) >= duration('10ms') && duration(self) <= duration('60s')",message="must be whole milliseconds from 10ms to 60s, such as 300ms or 1s"
	ReceiveInterval *metav1.Duration `json:"receiveInterval,omitempty"`

	// TransmitInterval is the shortest time between packets of the node.
	// +optional
	// +kubebuilder:default="300ms"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.size() > 0 && self.matches('^([0-9]{1,2}s)?([0-9]{1,5}ms)?$') && duration(self) >= duration('10ms') && duration(self) <= duration('60s')",message="must be whole milliseconds from 10ms to 60s, such as 300ms or 1s"
	TransmitInterval *metav1.Duration `json:"transmitInterval,omitempty"`

	// DetectMultiplier is how many packets may be missing before the other side
	// takes the session to be down.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=255
	DetectMultiplier int32 `json:"detectMultiplier,omitempty"`

	// Passive has the node send nothing before the router does.
	// +optional
	Passive bool `json:"passive,omitempty"`

	// MinimumTTL that packets from a router several hops away must have left
	// (RFC 5883). Those of a neighbor must have 255.
	// +optional
	// +kubebuilder:default=254
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	MinimumTTL int32 `json:"minimumTTL,omitempty"`
}

// BFDProfile is how BFD is spoken with the routers whose BGPPeers name it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=lbbfd,categories=fairlead
// +kubebuilder:printcolumn:name="Receive",type=string,JSONPath=`.spec.receiveInterval`
// +kubebuilder:printcolumn:name="Transmit",type=string,JSONPath=`.spec.transmitInterval`
// +kubebuilder:printcolumn:name="Multiplier",type=integer,JSONPath=`.spec.detectMultiplier`
// +kubebuilder:printcolumn:name="Passive",type=boolean,JSONPath=`.spec.passive`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BFDProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	// +kubebuilder:default={}
	Spec BFDProfileSpec `json:"spec,omitempty"`
}

// BFDProfileList is a list of profiles.
//
// +kubebuilder:object:root=true
type BFDProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BFDProfile `json:"items"`
}
