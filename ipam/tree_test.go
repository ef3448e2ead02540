// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// depths lists the keys of a subtree in order, with their depths.
func depths[V any](n *node[V], depth int, visit func(key uint128, depth int)) {
	if n != nil {
		depths(n.left, depth+1, visit)
		visit(n.key, depth)
		depths(n.right, depth+1, visit)
	}
}

func TestTreeIsAnOrderedSetWhoseShapeIsItsContents(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	var tr tree[int]
	want := map[uint128]int{}
	shape := func(tr *tree[int]) (list []uint128) {
		depths(tr.root, 0, func(key uint128, depth int) { list = append(list, key, uint128{0, uint64(depth)}) })
		return list
	}
	for i := range 4000 {
		key := uint128{r.Uint64N(2), r.Uint64N(200)}
		if r.IntN(2) == 0 {
			tr.update(key, func(v *int) { *v = i })
			want[key] = i
		} else {
			tr.delete(key)
			delete(want, key)
		}
		if i%50 != 0 {
			continue
		}
		from, to := uint128{r.Uint64N(2), r.Uint64N(200)}, uint128{r.Uint64N(2), r.Uint64N(200)}
		var got, inRange []uint128
		tr.ascend(from, to, func(n *node[int]) bool {
			got = append(got, n.key)
			return len(got) < 60
		})
		for key := range want {
			if !key.less(from) && !to.less(key) {
				inRange = append(inRange, key)
			}
		}
		slices.SortFunc(inRange, uint128.cmp)
		if inRange = inRange[:min(60, len(inRange))]; !slices.Equal(got, inRange) {
			t.Fatalf("step %d: from %v to %v are %v, want %v", i, from, to, got, inRange)
		}
		if tr.size != len(want) {
			t.Fatalf("step %d: size %d, want %d", i, tr.size, len(want))
		}
		var again tree[int]
		for key, v := range want { // in any order
			if n := tr.find(key); n == nil || n.value != v {
				t.Fatalf("step %d: %v has %v, want %d", i, key, n, v)
			}
			again.update(key, func(*int) {})
		}
		if !slices.Equal(shape(&tr), shape(&again)) {
			t.Fatalf("step %d: the shape depends on the order of events", i)
		}
	}
}

func TestTreeStaysShallow(t *testing.T) {
	const n = 1 << 16
	for name, key := range map[string]func(i uint64) uint128{
		"in a row":                    func(i uint64) uint128 { return uint128{0, i} },
		"one in each /64":             func(i uint64) uint128 { return uint128{0x20010db8<<32 + i, 1} },
		"every 256th":                 func(i uint64) uint128 { return uint128{0, i << 8} },
		"with low bits like the high": func(i uint64) uint128 { return uint128{i, i} },
	} {
		t.Run(name, func(t *testing.T) {
			var tr tree[struct{}]
			for i := range uint64(n) {
				tr.update(key(i), func(*struct{}) {})
			}
			deepest := 0
			depths(tr.root, 1, func(_ uint128, depth int) { deepest = max(deepest, depth) })
			if deepest > 4*16 {
				t.Errorf("depth %d for 2^16 keys", deepest)
			}
		})
	}
}

func TestUint128(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	wrap := new(big.Int).Lsh(big.NewInt(1), 128)
	for range 1000 {
		a, b := uint128{r.Uint64N(3), -r.Uint64N(3)}, uint128{-r.Uint64N(3), r.Uint64N(3)}
		sum := new(big.Int).Add(a.big(), b.big())
		if got := a.add(b).big(); got.Cmp(sum.Mod(sum, wrap)) != 0 {
			t.Fatalf("%v + %v = %v", a, b, got)
		}
		diff := new(big.Int).Sub(a.big(), b.big())
		if got := a.sub(b).big(); got.Cmp(diff.Mod(diff, wrap)) != 0 {
			t.Fatalf("%v - %v = %v", a, b, got)
		}
		if c := a.big().Cmp(b.big()); a.cmp(b) != c || a.less(b) != (c < 0) {
			t.Fatalf("%v is not compared with %v as numbers are", a, b)
		}
		if numberOf(a.addr(IPv6)) != a {
			t.Fatalf("%v is another number as an address", a)
		}
	}
	if numberOf(uint128{0, 0xfffefdfc}.addr(IPv4)) != (uint128{0, 0xfffefdfc}) || (uint128{0, 0x0a000001}).addr(IPv4) != netip.MustParseAddr("10.0.0.1") {
		t.Error("an IPv4 address is another number")
	}
}

func TestKeysOfEqualPriorityHaveOneShapeToo(t *testing.T) {
	keys := []uint128{{0, 0}, {1, 0x9e3779b97f4a7c15}, {2, 0x3c6ef372fe94f82a}}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		var tr tree[struct{}]
		for _, i := range order {
			if scatter(keys[i]) != scatter(keys[0]) {
				t.Fatalf("%v has another priority, so nothing is tested", keys[i])
			}
			tr.update(keys[i], func(*struct{}) {})
		}
		var got []int
		depths(tr.root, 0, func(_ uint128, depth int) { got = append(got, depth) })
		if !slices.Equal(got, []int{0, 1, 2}) {
			t.Errorf("put in the order %v the depths are %v", order, got)
		}
	}
}
