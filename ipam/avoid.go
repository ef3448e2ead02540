// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"math/big"
	"sort"
)

// span is the addresses from from to to, both included.
type span struct{ from, to uint128 }

func (s span) has(key uint128) bool { return !key.less(s.from) && !s.to.less(key) }

// searchSpans returns the place of the first of the sorted spans that does not end before key.
func searchSpans(spans []span, key uint128) int {
	return sort.Search(len(spans), func(i int) bool { return !spans[i].to.less(key) })
}

func spansHave(spans []span, key uint128) bool {
	i := searchSpans(spans, key)
	return i < len(spans) && spans[i].has(key)
}

// avoidance is the addresses that are never chosen automatically: those in spans and, where buggy is set, those that
// end in .0 or .255. It never depends on what is held, so counting them takes no tree.
type avoidance struct {
	spans  []span
	before []uint128 // by span: how many addresses those before it have, without the buggy ones where buggy is set
	buggy  bool
}

// newAvoidance makes an avoidance of sorted, disjoint spans.
func newAvoidance(spans []span, buggy bool) avoidance {
	a := avoidance{spans: spans, buggy: buggy}
	var sum uint128
	for _, s := range spans {
		a.before = append(a.before, sum)
		sum = sum.add(a.size(s.from, s.to.plus(1)))
	}
	return a
}

// isBuggy says whether some hosts take the IPv4 address for the network or broadcast address of a class C network.
func isBuggy(key uint128) bool { return key.lo&0xff == 0 || key.lo&0xff == 0xff }

// buggyBelow counts the buggy IPv4 addresses lower than key.
func buggyBelow(key uint128) uint128 {
	n := key.lo >> 8 * 2
	if key.lo&0xff != 0 {
		n++
	}
	return uint128{0, n}
}

// size counts the addresses from from up to, but without, end that are not counted as buggy.
func (a *avoidance) size(from, end uint128) uint128 {
	n := end.sub(from)
	if a.buggy {
		n = n.sub(buggyBelow(end).sub(buggyBelow(from)))
	}
	return n
}

// has says whether key is avoided.
func (a *avoidance) has(key uint128) bool {
	return a.buggy && isBuggy(key) || spansHave(a.spans, key)
}

// below counts the avoided addresses lower than key.
func (a *avoidance) below(key uint128) uint128 {
	var n uint128
	if a.buggy {
		n = buggyBelow(key)
	}
	if len(a.spans) == 0 {
		return n
	}
	// The spans that start before key, the last of which may reach beyond it.
	i := sort.Search(len(a.spans), func(i int) bool { return !a.spans[i].from.less(key) }) - 1
	if i < 0 {
		return n
	}
	n = n.add(a.before[i])
	s := a.spans[i]
	if !s.to.less(key) {
		return n.add(a.size(s.from, key))
	}
	return n.add(a.size(s.from, s.to.plus(1)))
}

// count counts the avoided addresses in s.
func (a *avoidance) count(s span) *big.Int {
	n := a.below(s.to).sub(a.below(s.from)).big()
	if a.has(s.to) {
		n.Add(n, big.NewInt(1))
	}
	return n
}

// skip returns the lowest address from key on that is not avoided, or false if there is none.
func (a *avoidance) skip(key uint128) (uint128, bool) {
	for a.has(key) {
		if i := searchSpans(a.spans, key); i < len(a.spans) && a.spans[i].has(key) {
			key = a.spans[i].to
		}
		if key == maxUint128 {
			return key, false
		}
		key = key.plus(1)
	}
	return key, true
}
