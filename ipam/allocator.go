// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"

	"go4.org/netipx"
)

// Allocator is an index of every address in use and of the pools they come from. The same objects, put in any order,
// make the same Allocator. It is not safe for concurrent use: the caller brings the lock.
type Allocator struct{}

// New returns an Allocator that knows no pool and no address.
func New() *Allocator { return &Allocator{} }

// SetPools replaces all pools. What is held stays as it is, in whatever pool or in none.
func (a *Allocator) SetPools(pools []Pool) { panic("ipam: declared ahead of its code") }

// SetAvoid replaces the addresses that are never chosen automatically, such as those of nodes and gateways and the first and last of a subnet. A Service may still ask for one by number.
func (a *Allocator) SetAvoid(avoid []netipx.IPRange) { panic("ipam: declared ahead of its code") }

// Put sets the state of one address to what its object says, in or outside every pool. An invalid address is ignored.
// Of a Holding without a SharingKey only the names of the holders are kept, for nobody can join them: Get returns it
// without their Ports, Backend and SharingNamespaces.
func (a *Allocator) Put(h Holding) { panic("ipam: declared ahead of its code") }

// Delete forgets the Holding of addr, if there is one: its object is gone.
func (a *Allocator) Delete(addr netip.Addr) { panic("ipam: declared ahead of its code") }

// Get returns the Holding of addr, if there is one.
func (a *Allocator) Get(addr netip.Addr) (Holding, bool) { panic("ipam: declared ahead of its code") }

// PutForeign records that owner, a Service that is not ours, shows addr in its status. As long as anybody does, nobody
// new gets it. It says nothing about the Holding of addr.
func (a *Allocator) PutForeign(addr netip.Addr, owner ServiceRef) {
	panic("ipam: declared ahead of its code")
}

// DeleteForeign takes back what PutForeign recorded for the Service with this UID.
func (a *Allocator) DeleteForeign(addr netip.Addr, uid string) {
	panic("ipam: declared ahead of its code")
}

// Choose answers a Request, in the order that the package documentation gives. It changes nothing: the caller Puts what
// it then creates.
func (a *Allocator) Choose(req Request) Choice { panic("ipam: declared ahead of its code") }

// Check says whether the Service may hold addr, and nil is yes. For a Service that holds it already only the others on
// the address matter (a pool edit takes nothing away), so Check also tells whether it may stay after its ports, key or
// traffic policy changed. For one that does not, it is what Choose says of an address asked for by number.
func (a *Allocator) Check(req Request, addr netip.Addr) *Refusal {
	panic("ipam: declared ahead of its code")
}

// Stats counts the addresses of a pool, and reports false if there is no such pool.
func (a *Allocator) Stats(pool string) (Stats, bool) { panic("ipam: declared ahead of its code") }

// PoolsContaining returns the names of the pools that have addr, disabled ones too, highest priority first and then by
// name.
func (a *Allocator) PoolsContaining(addr netip.Addr) []string {
	panic("ipam: declared ahead of its code")
}

// Overlaps returns the names, sorted, of the other pools that have an address in common with this one.
func (a *Allocator) Overlaps(pool string) []string { panic("ipam: declared ahead of its code") }
