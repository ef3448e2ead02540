// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"math/big"
	"net/netip"
	"time"

	"go4.org/netipx"
)

// Family is an address family. The zero value is no family.
type Family uint8

// The address families. Their text form is that of a Service's spec.ipFamilies.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of addr, or zero for the zero Addr. An IPv4-mapped IPv6 address is IPv6.
func FamilyOf(addr netip.Addr) Family {
	switch {
	case addr.Is4():
		return IPv4
	case addr.Is6():
		return IPv6
	}
	return 0
}

func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "unknown family"
}

// ServiceRef names a Service. Two references with the same namespace and name mean the same Service, whatever their
// UIDs: one cluster never has both at a time, and a Service that is restored from a backup comes back with another UID.
type ServiceRef struct {
	Namespace string
	Name      string
	UID       string
}

func (s ServiceRef) String() string { return s.Namespace + "/" + s.Name }

func (s ServiceRef) same(other ServiceRef) bool {
	return s.Namespace == other.Namespace && s.Name == other.Name
}

// Protocol is a transport protocol, spelled as in a Service's ports.
type Protocol string

// The protocols that a Service port may have.
const (
	TCP  Protocol = "TCP"
	UDP  Protocol = "UDP"
	SCTP Protocol = "SCTP"
)

// Port is one port of a Service on its address.
type Port struct {
	Protocol Protocol
	Number   uint16
}

// Pool is what the allocator needs to know of a LoadBalancerIPPool. Selectors are not here: the caller evaluates them
// and names the pools that admit a Service in [Request.Pools].
type Pool struct {
	Name string

	// Ranges are the addresses of the pool, of either family; where they overlap they are a union. An invalid range
	// counts as empty.
	Ranges []netipx.IPRange

	// Exclude is taken out of Ranges. What it covers is not in the pool.
	Exclude []netipx.IPRange

	// AutoAssign says whether a Service may get an address without naming the pool or the address.
	AutoAssign bool

	// AvoidBuggyIPs leaves IPv4 addresses that end in .0 or .255 to those who ask for them by number.
	AvoidBuggyIPs bool

	// Disabled pools keep what is held and give nothing new, neither by number nor by sharing.
	Disabled bool

	// Priority orders pools, higher first. Equal priorities go by name, and share their resting addresses.
	Priority int32

	// MaxPerNamespace limits how many addresses of this pool the Services of one namespace may hold, both families
	// together; a shared address counts once for each namespace on it. Zero is no limit.
	MaxPerNamespace int
}

// State is what a Holding amounts to.
type State uint8

// The states of a Holding.
const (
	Bound       State = iota + 1 // at least one Service holds it
	Reserved                     // nobody holds it, and it waits for somebody
	Quarantined                  // nobody holds it; a host that is none of ours has it, so only who asks for it by number gets it
	Resting                      // nobody holds it; it was released and may be given again
)

func (s State) String() string {
	switch s {
	case Bound:
		return "Bound"
	case Reserved:
		return "Reserved"
	case Quarantined:
		return "Quarantined"
	case Resting:
		return "Resting"
	}
	return "unknown state"
}

// Holding is the state of one address, as its LoadBalancerIP object says.
type Holding struct {
	Address netip.Addr

	// Pool is the pool it was given from. The pool may since have lost the address, or be gone.
	Pool string

	// Holders are the Services on the address; more than one share it.
	Holders []Holder

	// SharingKey is the key under which others may join, or empty.
	SharingKey string

	// ReservedFor keeps the address for a Service or a namespace; nil if it is for anybody.
	ReservedFor *Reservation

	// Released says who held it last; nil if nobody did or it is not known.
	Released *Released

	// Quarantined says that a host outside the cluster has the address.
	Quarantined bool
}

// State returns Bound if the address has holders, else Reserved if it is reserved, else Quarantined if it is that, else
// Resting.
func (h Holding) State() State {
	switch {
	case len(h.Holders) > 0:
		return Bound
	case h.ReservedFor != nil:
		return Reserved
	case h.Quarantined:
		return Quarantined
	}
	return Resting
}

// Holder is one Service on an address. Ports, Backend and SharingNamespaces decide who may join it.
type Holder struct {
	Service ServiceRef
	Ports   []Port

	// Backend is empty for externalTrafficPolicy Cluster, and a canonical form of the selector for Local: nodes answer
	// for an address or they don't, so Services with different sets of answering nodes cannot share one.
	Backend string

	// SharingNamespaces are the other namespaces whose Services may be on the same address, or AllNamespaces.
	SharingNamespaces []string
}

// AllNamespaces among the SharingNamespaces names every namespace.
const AllNamespaces = "*"

// Reservation says for whom an address is kept: a Service, or with an empty Name any Service of the Namespace.
type Reservation struct {
	Namespace string
	Name      string
}

func (r Reservation) String() string {
	if r.Name == "" {
		return "namespace " + r.Namespace
	}
	return "Service " + r.Namespace + "/" + r.Name
}

func (r Reservation) admits(s ServiceRef) bool {
	return r.Namespace == s.Namespace && (r.Name == "" || r.Name == s.Name)
}

// Released says which Service gave an address back, and when. The allocator orders times and never asks what time it is.
type Released struct {
	Namespace string
	Name      string
	At        time.Time
}

// Request is what a Service wants.
type Request struct {
	Service ServiceRef

	// Families are the wanted families, in the order in which they are chosen and answered.
	Families []Family

	// Addresses are the addresses asked for by number, at most one per family. With one of a family that is not wanted,
	// only families that have their own number are chosen.
	Addresses []netip.Addr

	// Pools are the names of the pools whose selectors admit the Service, in any order.
	Pools []string

	// PoolNamed is the pool that the Service asks for, or empty.
	PoolNamed string

	// SharingKey, Ports, Backend and SharingNamespaces are as in [Holding] and [Holder].
	SharingKey        string
	Ports             []Port
	Backend           string
	SharingNamespaces []string

	// Have are the addresses that the Service holds already, also under an earlier UID. Their families are not chosen
	// again.
	Have []netip.Addr
}

// Choice is the answer to a Request: for each wanted family that the Service does not have, either a Pick or a Refusal,
// and a Refusal for an address that is of no wanted family. Whether one of two families is enough is the caller's decision.
type Choice struct {
	Picks    []Pick
	Refusals []Refusal
}

// Pick is one chosen address.
type Pick struct {
	Address netip.Addr

	// Pool is the pool the address is counted in. It is empty only for a reserved address that names no pool and lies
	// in none.
	Pool string

	// Shared says that others hold the address, so that its object gains a holder.
	Shared bool
}

// Usage counts the addresses of one family in a pool. The counts are exact; IPv6 counts exceed 64 bits.
type Usage struct {
	// Capacity is how many addresses the pool has, without the excluded ones.
	Capacity *big.Int

	// Allocated is how many of them are Bound or Reserved, also for another pool that has the same addresses.
	Allocated *big.Int

	// Available is how many can still be given without being asked for by number: neither bound, reserved, quarantined,
	// foreign, nor avoided. Resting addresses are available.
	Available *big.Int
}

// Stats are the counts of a pool.
type Stats struct {
	IPv4, IPv6 Usage
}
