// SPDX-License-Identifier: Apache-2.0

// Package ipam decides which address of which pool a Service gets, and says why when it gets none.
//
// It is pure: plain data in, plain data out, with no clock, logger, socket or Kubernetes type. An [Allocator] mirrors
// the LoadBalancerIP objects of the cluster; [Allocator.Choose] and [Allocator.Check] only ask it, so that the
// controller and a person who wants an explanation get the same answer from the same function. What the controller
// then creates in the API server is the truth, and comes back through [Allocator.Put].
//
// # Order of choice
//
// For each family that a Service wants and does not have yet:
//
//  1. the address it asked for by number, and no other;
//  2. an address reserved for it by name, then one reserved for its namespace, the lowest first. An administrator made
//     the reservation, so pool selectors, disabled pools and quotas do not matter; a pool that the Service itself names
//     does;
//  3. with a sharing key, the lowest address of that key which admits it, in a pool that admits it;
//  4. the address it released last, while that rests;
//  5. by falling priority: the lowest fresh address of the first pool (by name) of that priority which has one, and
//     when no pool of the priority has a fresh one, the address of that priority which has rested longest.
//
// Steps 3, 4 and 5 pass over quarantined addresses. Steps 4 and 5 look only at pools with AutoAssign, or at the pool
// that the Service names. A Service that wants both
// families gets them from one pool if one pool can give both, even where another pool has a higher priority.
//
// # Order of refusal
//
// Of several reasons against one address the one is told that will change last: it is no address of a Service, or not of
// its families; it is a node's; no pool gives it to the Service, or only beyond the quota; another load balancer shows
// it; it is reserved for somebody else; those who hold it don't share it.
//
// # Cost
//
// The addresses of a family live in one balanced tree that is ordered by address and carries sums of its subtrees, so
// the first free address of a range, the number of free addresses in it, and the one that rested longest are each found
// in O(log n) of the addresses held, however large the pool. A query looks at each range of each pool that it concerns.
// The addresses of one sharing key are tried in order, after a check on whether any of them can have the ports free.
package ipam
