// SPDX-License-Identifier: Apache-2.0

package ipam

// A weight says in which of the counts of its subtree an entry takes part. The counts come in pairs, for pools that use
// any address and for pools that avoid buggy ones, so that either kind finds its first free address by counting.
type weight uint8

const (
	taken     weight = iota // held or resting, unless it is never chosen automatically anyway
	takenNice               // the same, unless it is buggy
	held                    // bound, reserved, quarantined or foreign, unless it is never chosen automatically anyway
	heldNice                // the same, unless it is buggy
	allocated               // bound or reserved
	weights
)

// A view is how a pool looks at addresses, and offsets the paired weights.
type view uint8

const (
	anyAddress  view = 0
	niceAddress view = 1 // not a buggy one
)

// index has an entry for every address of a family that has a Holding or is foreign.
type index struct {
	family Family
	tree   tree[entry]
	avoid  [2]avoidance // by view
}

func newIndex(f Family) *index {
	x := &index{family: f, tree: tree[entry]{pull: pullEntry}}
	x.setAvoid(nil)
	return x
}

// pullEntry sums up the subtree of n.
func pullEntry(n *node[entry]) {
	e := &n.value
	for w := range weights {
		e.count[w] = uint32(e.weighs >> w & 1)
	}
	e.oldest = [2]*node[entry]{}
	if e.reusable() {
		for v := range e.oldest {
			if e.has(taken + weight(v)) {
				e.oldest[v] = n
			}
		}
	}
	for _, child := range [...]*node[entry]{n.left, n.right} {
		if child == nil {
			continue
		}
		for w := range weights {
			e.count[w] += child.value.count[w]
		}
		for v, o := range child.value.oldest {
			e.oldest[v] = older(e.oldest[v], o)
		}
	}
}

// older returns the entry that has rested longer, the lower address if both have been released at once.
func older(a, b *node[entry]) *node[entry] {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	if c := a.value.restsSince().Compare(b.value.restsSince()); c < 0 || c == 0 && a.key.less(b.key) {
		return a
	}
	return b
}

func counted(n *node[entry], w weight) uint64 {
	if n == nil {
		return 0
	}
	return uint64(n.value.count[w])
}

// below counts the entries of weight w that are lower than key.
func (x *index) below(w weight, key uint128) (sum uint64) {
	for n := x.tree.root; n != nil; {
		if n.key.less(key) {
			sum += counted(n, w) - counted(n.right, w)
			n = n.right
		} else {
			n = n.left
		}
	}
	return sum
}

// count counts the entries of weight w in s.
func (x *index) count(w weight, s span) uint64 {
	n := x.below(w, s.to) - x.below(w, s.from)
	if last := x.tree.find(s.to); last != nil && last.value.has(w) {
		n++
	}
	return n
}

// firstFresh returns the lowest address in s that has no entry and is not avoided.
//
// Whether everything from s.from up to an entry is blocked can be told by counting, and holds for no later entry once it
// fails for one. So one walk down the tree finds the last entry that ends the blocked addresses at the start of s.
func (x *index) firstFresh(s span, v view) (uint128, bool) {
	w, avoid := taken+weight(v), &x.avoid[v]
	entriesBefore, avoidedBefore := x.below(w, s.from), avoid.below(s.from)
	first, smaller := s.from, uint64(0)
	for n := x.tree.root; n != nil; {
		if s.to.less(n.key) {
			n = n.left
			continue
		}
		upTo := smaller + counted(n.left, w)
		if !n.key.less(s.from) {
			blocked := avoid.below(n.key).sub(avoidedBefore).plus(upTo - entriesBefore)
			if blocked != n.key.sub(s.from) {
				n = n.left
				continue
			}
			if n.key == s.to {
				return uint128{}, false
			}
			first = n.key.plus(1)
		}
		smaller = smaller + counted(n, w) - counted(n.right, w)
		n = n.right
	}
	first, ok := avoid.skip(first)
	return first, ok && !s.to.less(first)
}

// longestResting returns the entry in s that may be given to anybody and was released first, or nil.
func (x *index) longestResting(s span, v view) *node[entry] {
	return oldestIn(x.tree.root, &s.from, &s.to, v)
}

// oldestIn looks at the entries of a subtree from from to to, where nil is no bound.
func oldestIn(n *node[entry], from, to *uint128, v view) *node[entry] {
	switch {
	case n == nil:
		return nil
	case from == nil && to == nil:
		return n.value.oldest[v]
	case from != nil && n.key.less(*from):
		return oldestIn(n.right, from, to, v)
	case to != nil && to.less(n.key):
		return oldestIn(n.left, from, to, v)
	}
	best := older(oldestIn(n.left, from, nil, v), oldestIn(n.right, nil, to, v))
	if n.value.reusable() && n.value.has(taken+weight(v)) {
		best = older(best, n)
	}
	return best
}

// setAvoid replaces the avoided spans, which are sorted, disjoint and not adjacent.
func (x *index) setAvoid(spans []span) {
	before := x.avoid[anyAddress].spans
	x.avoid[anyAddress] = newAvoidance(spans, false)
	x.avoid[niceAddress] = newAvoidance(spans, x.family == IPv4)
	var keys []uint128
	for _, list := range [][]span{before, spans} {
		for _, s := range list {
			x.tree.ascend(s.from, s.to, func(n *node[entry]) bool {
				keys = append(keys, n.key)
				return true
			})
		}
	}
	for _, key := range keys {
		x.tree.update(key, func(e *entry) { x.weigh(key, e) })
	}
}

// weigh sets the weights of the entry at key.
func (x *index) weigh(key uint128, e *entry) {
	set := func(w weight, on bool) {
		if on {
			e.weighs |= 1 << w
		}
	}
	e.weighs = 0
	for v := range x.avoid {
		choosable := !x.avoid[v].has(key)
		set(taken+weight(v), choosable)
		set(held+weight(v), choosable && (e.foreign || e.state != Resting))
	}
	set(allocated, e.state == Bound || e.state == Reserved)
}
