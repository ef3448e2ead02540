// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

const (
	// minMovePause is the least time between two unforced moves of an address.
	// It doubles with each up to maxMovePause.
	minMovePause, maxMovePause = 10 * time.Second, 5 * time.Minute
	// restTime without a move makes an address as one that never moved.
	restTime = 2 * maxMovePause
)

// moves is how an address has been moving from node to node.
type moves struct {
	last  time.Time
	pause time.Duration
}

// next is when the address may move again for no better reason than that
// something comes and goes.
func (m moves) next() time.Time { return m.last.Add(m.pause) }

// after returns m after another move.
func (m moves) after(now time.Time) moves {
	if m.pause == 0 || now.Sub(m.last) > restTime {
		return moves{now, minMovePause}
	}
	return moves{now, min(2*m.pause, maxMovePause)}
}

// moved takes note that another owner was proposed for an address.
func (l *ledger) moved(addr netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.objects[addr] != nil {
		l.moves[addr] = l.moves[addr].after(now)
	}
}

// bearer is the node that an address counts for, and while it is on its way to
// another also from where.
type bearer struct{ node, from string }

// bearerOf returns the node that announces the address of a bound object, or is
// about to. Before is the object as it was, and was what that counted for.
//
// A proposal beside a claim is either a move that is under way or what a rescue
// has passed over. It is a move from when it is made until the claimant is
// another.
func bearerOf(before, obj *v1alpha1.LoadBalancerIP, was bearer) bearer {
	if obj == nil || len(obj.Spec.Services) == 0 {
		return bearer{}
	}
	claim := obj.Status.L2
	if claim == nil {
		return bearer{node: obj.Spec.Owner}
	}
	underWay := was.from == claim.Node && was.node == obj.Spec.Owner
	begins := before != nil && before.Status.L2 != nil && before.Status.L2.Node == claim.Node && before.Spec.Owner != obj.Spec.Owner
	if obj.Spec.Owner != "" && obj.Spec.Owner != claim.Node && (underWay || begins) {
		return bearer{node: obj.Spec.Owner, from: claim.Node}
	}
	return bearer{node: claim.Node}
}
