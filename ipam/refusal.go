// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

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
	InvalidNamespace   Reason = "InvalidNamespace"   // what it would share with cannot be the name of a namespace
	FamilyNotRequested Reason = "FamilyNotRequested" // the Service is not of the address's family
	NodeAddress        Reason = "NodeAddress"        // a node of the cluster has it
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

// One function for each case, so that all that is said to people stands on this page.

func refuse(reason Reason, f Family, addr netip.Addr, pool, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Family: f, Address: addr, Pool: pool, Message: fmt.Sprintf(format, args...)}
}

func (q *query) refuseInvalid(addr netip.Addr) *Refusal {
	what, write := "the zero address", "an address such as 192.0.2.1 or 2001:db8::1"
	switch {
	case addr.Zone() != "":
		what, write = addr.String()+", which has a zone", addr.WithZone("").String()
	case addr.Is4In6():
		what, write = addr.String()+", which is an IPv4 address written as IPv6", addr.Unmap().String()
	}
	return refuse(InvalidAddress, FamilyOf(addr), addr, "", "Service %s asks for %s: write %s.", q.req.Service, what, write)
}

// RefuseNamespace refuses a name that cannot be the name of a namespace to share with, and says where it stands.
func RefuseNamespace(where, name string) *Refusal {
	return refuse(InvalidNamespace, 0, netip.Addr{}, "",
		"In %s, %q is not the name of a namespace: write names with commas between them, or %s for all.", where, name, AllNamespaces)
}

func (q *query) refuseSecond(first, second netip.Addr) *Refusal {
	return refuse(InvalidAddress, FamilyOf(second), second, "",
		"Service %s asks for %s and %s: it can have one %s address, so keep one of them.",
		q.req.Service, first, second, FamilyOf(second))
}

func (q *query) refuseFamilyOf(addr netip.Addr) *Refusal {
	return refuse(FamilyNotRequested, FamilyOf(addr), addr, "",
		"%s is an %s address and Service %s has no %s in its ipFamilies: ask for an address of its family, or add the family.",
		addr, FamilyOf(addr), q.req.Service, FamilyOf(addr))
}

func (q *query) refuseNode(addr netip.Addr, node string) *Refusal {
	return refuse(NodeAddress, FamilyOf(addr), addr, "",
		"%s is the address of node %s, which Service %s would take off the network: ask for another address.", addr, node, q.req.Service)
}

func refuseForeign(addr netip.Addr, owner ServiceRef) *Refusal {
	return refuse(ForeignAddress, FamilyOf(addr), addr, "",
		"%s is in the status of Service %s, where something else put it: ask for another address, or free it there.", addr, owner)
}

func refuseReserved(addr netip.Addr, r Reservation) *Refusal {
	return refuse(AddressReserved, FamilyOf(addr), addr, "",
		"%s is reserved for %s: ask for another address, or change reservedFor of LoadBalancerIP %s.", addr, r, ObjectName(addr))
}

func refuseInUse(addr netip.Addr, holders []Holder) *Refusal {
	return refuse(AddressInUse, FamilyOf(addr), addr, "",
		"%s is held by %s: ask for another address, or give every Service on it the same annotation fairlead.dev/sharing-key.",
		addr, listHolders(holders))
}

func (q *query) refuseKey(addr netip.Addr, holders []Holder, key string) *Refusal {
	return refuse(SharingKeyMismatch, FamilyOf(addr), addr, "",
		"%s is held by %s under the sharing key %q and Service %s has %q: use the same key, or another address.",
		addr, listHolders(holders), key, q.req.Service, q.req.SharingKey)
}

// refuseHolder says why the Service cannot be on addr with one that has the same sharing key, or nil if it can.
func (q *query) refuseHolder(addr netip.Addr, other Holder) *Refusal {
	f, me, them := FamilyOf(addr), q.req.Service, other.Service
	switch {
	case me.Namespace != them.Namespace && !agrees(q.req.SharingNamespaces, them.Namespace):
		return refuse(SharingNotAgreed, f, addr, "",
			"%s is held by Service %s of another namespace: add %s to the annotation fairlead.dev/sharing-namespaces of Service %s.",
			addr, them, them.Namespace, me)
	case me.Namespace != them.Namespace && !agrees(other.SharingNamespaces, me.Namespace):
		return refuse(SharingNotAgreed, f, addr, "",
			"%s is held by Service %s, which does not share with namespace %s: add that to its annotation fairlead.dev/sharing-namespaces.",
			addr, them, me.Namespace)
	case q.req.Backend != other.Backend:
		return refuse(BackendMismatch, f, addr, "",
			"%s is held by Service %s, whose traffic other nodes may have to answer: give both externalTrafficPolicy Cluster, or Local with the same selector.",
			addr, them)
	}
	var clash []string
	for _, p := range q.req.Ports {
		if slices.Contains(other.Ports, p) {
			clash = append(clash, fmt.Sprintf("%s %d", p.Protocol, p.Number))
		}
	}
	if len(clash) == 0 {
		return nil
	}
	return refuse(PortClash, f, addr, "", "Service %s has %s on %s: use other ports, or another address.",
		them, list(clash, "and"), addr)
}

func agrees(namespaces []string, namespace string) bool {
	return slices.Contains(namespaces, namespace) || slices.Contains(namespaces, AllNamespaces)
}

func (q *query) refuseQuota(f Family, addr netip.Addr, full []*pool) *Refusal {
	return refuse(QuotaExceeded, f, addr, full[0].Name,
		"Namespace %s holds as many addresses of pool %s as it may: delete a Service there, or raise maxPerNamespace.",
		q.req.Service.Namespace, listPools(full))
}

// refuseNamed says what is wrong with the pool that the Service names, or nil.
func (q *query) refuseNamed(f Family, addr netip.Addr) *Refusal {
	name := q.req.PoolNamed
	switch {
	case name == "" || len(q.enabled) > 0:
		return nil
	case q.pools[name] == nil:
		return refuse(PoolNotFound, f, addr, name, "Pool %q does not exist: create it, or name another one.", name)
	case len(q.admitted) == 0:
		return refuse(PoolNotAdmitted, f, addr, name,
			"Pool %q does not admit Service %s: change its serviceSelector or namespaceSelector, or name another pool.", name, q.req.Service)
	}
	return refuse(PoolDisabled, f, addr, name,
		"Pool %q is disabled and gives nothing new: enable it, or name another pool.", name)
}

// refusePool says why no pool gives the Service addr.
func (q *query) refusePool(addr netip.Addr) *Refusal {
	f := FamilyOf(addr)
	if r := q.refuseNamed(f, addr); r != nil {
		return r
	}
	// If the Service names a pool, it is the one that had to have the address.
	pools := q.ordered
	if q.req.PoolNamed != "" {
		pools = q.enabled
	}
	if len(pools) == 0 {
		return refuse(NoPool, f, addr, "", "There is no pool: create a LoadBalancerIPPool that has %s.", addr)
	}
	if admitted := q.having(q.admitted, addr); len(admitted) > 0 {
		return refuse(PoolDisabled, f, addr, admitted[0].Name,
			"%s is in pool %s, which is disabled and gives nothing new: enable it, or ask for an address of another pool.", addr, listPools(admitted))
	}
	if having := q.having(pools, addr); len(having) > 0 {
		return refuse(PoolNotAdmitted, f, addr, having[0].Name,
			"%s is in pool %s, which does not admit Service %s: ask for another address, or change serviceSelector or namespaceSelector there.",
			addr, listPools(having), q.req.Service)
	}
	for _, p := range pools {
		if p.excludes(addr) {
			return refuse(AddressExcluded, f, addr, p.Name,
				"Pool %q excludes %s: ask for another address, or take it out of exclude.", p.Name, addr)
		}
	}
	if q.req.PoolNamed != "" {
		return refuse(AddressNotInPool, f, addr, q.req.PoolNamed,
			"Pool %q does not have %s: ask for one of its addresses, name another pool, or add the address.", q.req.PoolNamed, addr)
	}
	return refuse(AddressNotInPool, f, addr, "", "No pool has %s: ask for an address of a pool, or add this one to a pool.", addr)
}

// refuseFamily says why no address of a family could be chosen.
func (q *query) refuseFamily(f Family) *Refusal {
	if r := q.refuseNamed(f, netip.Addr{}); r != nil {
		return r
	}
	var having, full []*pool
	for _, p := range q.auto {
		if len(*p.spans.of(f)) == 0 {
			continue
		}
		having = append(having, p)
		if q.room(p) < 1 {
			full = append(full, p)
		}
	}
	none, s := netip.Addr{}, q.req.Service
	switch {
	case len(q.ordered) == 0:
		return refuse(NoPool, f, none, "", "There is no pool: create a LoadBalancerIPPool with %s addresses of your network.", f)
	case len(q.admitted) == 0:
		return refuse(NoMatchingPool, f, none, "",
			"No pool admits Service %s: change the serviceSelector or namespaceSelector of a pool, or the labels of the Service or its namespace.", s)
	case len(q.enabled) == 0:
		return refuse(PoolDisabled, f, none, q.admitted[0].Name,
			"Pool %s admits Service %s, but is disabled and gives nothing new: enable it, or add a pool.", listPools(q.admitted), s)
	case len(q.auto) == 0:
		return refuse(NoAutoAssignPool, f, none, q.enabled[0].Name,
			"Pool %s has autoAssign off: name it in the annotation fairlead.dev/pool of Service %s, or ask for an address in fairlead.dev/addresses.",
			listPools(q.enabled), s)
	case len(having) == 0:
		return refuse(FamilyNotInPool, f, none, q.auto[0].Name,
			"Pool %s has no %s addresses: add some, or take %s out of the ipFamilies of Service %s.", listPools(q.auto), f, f, s)
	case len(full) > 0:
		return q.refuseQuota(f, none, full)
	}
	return refuse(PoolExhausted, f, none, having[0].Name,
		"Pool %s has no free %s address: add addresses, or delete a Service that holds one.", listPools(having), f)
}

// listHolders names the holders of an address.
func listHolders(holders []Holder) string {
	var names []string
	for _, h := range holders {
		names = append(names, h.Service.String())
	}
	if len(names) == 1 {
		return "Service " + names[0]
	}
	return "Services " + list(names, "and")
}

// listPools quotes the names of pools any of which would do.
func listPools(pools []*pool) string {
	var quoted []string
	for _, p := range pools {
		quoted = append(quoted, strconv.Quote(p.Name))
	}
	return list(quoted, "or")
}

// list joins words as a sentence does, and leaves out what makes it too long to read.
func list(words []string, and string) string {
	const most = 3
	if len(words) > most {
		words = append(slices.Clone(words[:most-1]), fmt.Sprintf("%d more", len(words)-most+1))
	}
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " " + and + " " + words[last]
}
