// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// DefaultLoadBalancerClass is the spec.loadBalancerClass that is served unless
// a flag names another.
const DefaultLoadBalancerClass = "fairlead.dev/lb"

// Annotations of a Service.
const (
	// AnnotationAddresses asks for addresses by number: a comma-separated
	// list, at most one per family.
	AnnotationAddresses = "fairlead.dev/addresses"
	// AnnotationPool asks for an address of this pool, also of one with
	// autoAssign false.
	AnnotationPool = "fairlead.dev/pool"
	// AnnotationSharingKey lets Services with the same key and disjoint ports
	// share an address.
	AnnotationSharingKey = "fairlead.dev/sharing-key"
	// AnnotationSharingNamespaces lists other namespaces whose Services may
	// share the address, "*" for all; each side must name the other.
	AnnotationSharingNamespaces = "fairlead.dev/sharing-namespaces"
)

// Condition types of a Service.
const (
	// ServiceAllocated says whether every address that the Service wants is
	// bound to it, or one of two where its ipFamilyPolicy is content with that.
	ServiceAllocated = "fairlead.dev/Allocated"
	// ServiceAnnounced says whether a node has claimed every one of them.
	ServiceAnnounced = "fairlead.dev/Announced"
)
