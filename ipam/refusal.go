// SPDX-License-Identifier: Apache-2.0

package ipam

import "net/netip"

// Reason says in one CamelCase word why an address was refused. It serves as the reason of a Kubernetes condition.
type Reason string

// The reasons of refusal.
const (
	NoPool             Reason = "NoPool"             // there is no pool at all
	NoMatchingPool     Reason = "NoMatchingPool"     // no pool's selectors admit the Service
	NoAutoAssignPool   Reason = "NoAutoAssignPool"   // the pools that admit it give only to who names them
	PoolNotFound       Reason = "PoolNotFound"       // the pool that it names does not exist
	PoolNotAdmitted    Reason = "PoolNotAdmitted"    // the pool's selectors do not admit it
	PoolDisabled       Reason = "PoolDisabled"       // the pool gives nothing new
	PoolExhausted      Reason = "PoolExhausted"      // the pools have no free address
	FamilyNotInPool    Reason = "FamilyNotInPool"    // the pools have no address of the family
	QuotaExceeded      Reason = "QuotaExceeded"      // the namespace has its full share of the pool
	InvalidAddress     Reason = "InvalidAddress"     // what was asked for cannot be the address of a Service
	FamilyNotRequested Reason = "FamilyNotRequested" // the Service is not of the address's family
	AddressNotInPool   Reason = "AddressNotInPool"   // no pool, or not the named one, has the address
	AddressExcluded    Reason = "AddressExcluded"    // a pool spans the address, and excludes it
	AddressInUse       Reason = "AddressInUse"       // another Service holds it and they do not share
	AddressReserved    Reason = "AddressReserved"    // it is kept for somebody else
	ForeignAddress     Reason = "ForeignAddress"     // a Service that is not ours shows it
	SharingKeyMismatch Reason = "SharingKeyMismatch" // it is shared under another key
	SharingNotAgreed   Reason = "SharingNotAgreed"   // the namespaces have not named each other
	BackendMismatch    Reason = "BackendMismatch"    // the Services would answer from different nodes
	PortClash          Reason = "PortClash"          // another Service on the address has the port
)

// Refusal says why a Service does not get an address. It is an answer, not an error.
type Refusal struct {
	Reason Reason

	// Message is one sentence for the owner of the Service: what is in the way, and what to do.
	Message string

	// Family is the family that goes without.
	Family Family

	// Address is the address concerned, if one was asked for.
	Address netip.Addr

	// Pool is the pool concerned, if it is one.
	Pool string
}
