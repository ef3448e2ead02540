// SPDX-License-Identifier: Apache-2.0

package ipam

// tree is an ordered map from numbers to values: a treap whose priorities are a hash of the key, so that equal contents
// have equal shape whatever happened before. The depth is logarithmic in expectation, and addresses cannot be chosen
// freely enough to spoil that.
type tree[V any] struct {
	root *node[V]
	size int

	// pull recomputes what the value of a node says about its subtree, from the values of its children. It may be nil.
	pull func(*node[V])
}

type node[V any] struct {
	key         uint128
	left, right *node[V]
	value       V
}

// above says whether n belongs nearer to the root than other, which is not nil.
func (n *node[V]) above(other *node[V]) bool {
	p, q := scatter(n.key), scatter(other.key)
	return p > q || p == q && n.key.less(other.key)
}

// scatter makes a priority of a key, with the finalizer of splitmix64.
func scatter(k uint128) uint64 {
	x := k.lo ^ k.hi*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (t *tree[V]) find(key uint128) *node[V] {
	n := t.root
	for n != nil {
		switch c := key.cmp(n.key); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n
		}
	}
	return nil
}

// update calls change with the value at key, a zero value if there was none, and keeps the result.
func (t *tree[V]) update(key uint128, change func(*V)) { t.root = t.updated(t.root, key, change) }

func (t *tree[V]) updated(n *node[V], key uint128, change func(*V)) *node[V] {
	if n == nil {
		n = &node[V]{key: key}
		t.size++
	}
	switch c := key.cmp(n.key); {
	case c < 0:
		n.left = t.updated(n.left, key, change)
		if l := n.left; l.above(n) {
			n.left, l.right = l.right, n
			t.pulled(n)
			n = l
		}
	case c > 0:
		n.right = t.updated(n.right, key, change)
		if r := n.right; r.above(n) {
			n.right, r.left = r.left, n
			t.pulled(n)
			n = r
		}
	default:
		change(&n.value)
	}
	return t.pulled(n)
}

// delete removes key, if it is there.
func (t *tree[V]) delete(key uint128) { t.root = t.deleted(t.root, key) }

func (t *tree[V]) deleted(n *node[V], key uint128) *node[V] {
	if n == nil {
		return nil
	}
	switch c := key.cmp(n.key); {
	case c < 0:
		n.left = t.deleted(n.left, key)
	case c > 0:
		n.right = t.deleted(n.right, key)
	default:
		t.size--
		return t.joined(n.left, n.right)
	}
	return t.pulled(n)
}

// joined makes one subtree of two, the keys of l being smaller than those of r.
func (t *tree[V]) joined(l, r *node[V]) *node[V] {
	switch {
	case l == nil:
		return r
	case r == nil:
		return l
	case l.above(r):
		l.right = t.joined(l.right, r)
		return t.pulled(l)
	default:
		r.left = t.joined(l, r.left)
		return t.pulled(r)
	}
}

func (t *tree[V]) pulled(n *node[V]) *node[V] {
	if t.pull != nil {
		t.pull(n)
	}
	return n
}

// ascend calls visit with the nodes in [from, to], lowest first, until visit returns false. The tree must not change
// meanwhile.
func (t *tree[V]) ascend(from, to uint128, visit func(*node[V]) bool) { t.root.ascend(from, to, visit) }

func (n *node[V]) ascend(from, to uint128, visit func(*node[V]) bool) bool {
	if n == nil {
		return true
	}
	if from.less(n.key) && !n.left.ascend(from, to, visit) {
		return false
	}
	if !n.key.less(from) && !to.less(n.key) && !visit(n) {
		return false
	}
	return !n.key.less(to) || n.right.ascend(from, to, visit)
}
