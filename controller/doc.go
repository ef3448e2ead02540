// SPDX-License-Identifier: Apache-2.0

// Package controller gives Services of type LoadBalancer their addresses and proposes the node that announces each.
//
// A Service's address is a LoadBalancerIP object. Creating it is the lock: the API server has one object of a name.
// Every later write of its spec carries the resourceVersion that was read, every delete also the UID, so a controller
// that is wrong about the world is told so by a conflict, reads again and decides again. Only once the address is
// bound does the Service's status show it, in one patch with the finalizer and the condition, and that patch carries
// the Service's resourceVersion for the same reason.
//
// The decisions are package ipam's and plan's; this package reads the cluster, keeps the ledger that they decide on,
// and writes what they say. What is held for a Service's UID decides what is released, never its type or class: the
// API server clears the class and the ingress when the type changes.
package controller
