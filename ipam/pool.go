// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"math/big"
	"net/netip"

	"go4.org/netipx"
)

// pool is a Pool made ready for questions.
type pool struct {
	Pool
	rank  int // place in the order of choice
	view  view
	spans byFamily[[]span] // what it has: sorted, disjoint, without what is excluded
	whole byFamily[[]span] // the same with what is excluded
}

var families = [...]Family{IPv4, IPv6}

// byFamily is one T for each family.
type byFamily[T any] struct{ v4, v6 T }

func (b *byFamily[T]) of(f Family) *T {
	if f == IPv4 {
		return &b.v4
	}
	return &b.v6
}

func newPool(p Pool) *pool {
	made := &pool{Pool: p, spans: spansOf(p.Ranges, p.Exclude), whole: spansOf(p.Ranges, nil)}
	made.Ranges, made.Exclude = nil, nil // the caller's
	if p.AvoidBuggyIPs {
		made.view = niceAddress
	}
	return made
}

// spansOf returns what is in ranges and not in exclude, by family, sorted, disjoint and not adjacent.
func spansOf(ranges, exclude []netipx.IPRange) (spans byFamily[[]span]) {
	var b netipx.IPSetBuilder
	for _, r := range ranges {
		if r.IsValid() {
			b.AddRange(r)
		}
	}
	for _, r := range exclude {
		if r.IsValid() {
			b.RemoveRange(r)
		}
	}
	set, err := b.IPSet()
	if err != nil {
		panic("ipam: netipx refuses a valid range: " + err.Error())
	}
	for _, r := range set.Ranges() {
		list := spans.of(FamilyOf(r.From()))
		*list = append(*list, span{numberOf(r.From()), numberOf(r.To())})
	}
	return spans
}

func (p *pool) has(addr netip.Addr) bool {
	return spansHave(*p.spans.of(FamilyOf(addr)), numberOf(addr))
}

// excludes says whether addr would be in the pool but for Exclude.
func (p *pool) excludes(addr netip.Addr) bool {
	return spansHave(*p.whole.of(FamilyOf(addr)), numberOf(addr)) && !p.has(addr)
}

// overlaps says whether p and other have an address in common.
func (p *pool) overlaps(other *pool) bool {
	for _, f := range families {
		theirs := *other.spans.of(f)
		for _, s := range *p.spans.of(f) {
			if i := searchSpans(theirs, s.from); i < len(theirs) && !s.to.less(theirs[i].from) {
				return true
			}
		}
	}
	return false
}

// usage counts the addresses of the pool in an index.
func (p *pool) usage(x *index) Usage {
	u := Usage{Capacity: new(big.Int), Allocated: new(big.Int), Available: new(big.Int)}
	for _, s := range *p.spans.of(x.family) {
		size := s.to.sub(s.from).big()
		size.Add(size, big.NewInt(1)) // not before it is big: all of IPv6 is 2^128 addresses
		u.Capacity.Add(u.Capacity, size)
		u.Allocated.Add(u.Allocated, new(big.Int).SetUint64(x.count(allocated, s)))
		u.Available.Add(u.Available, size)
		u.Available.Sub(u.Available, x.avoid[p.view].count(s))
		u.Available.Sub(u.Available, new(big.Int).SetUint64(x.count(held+weight(p.view), s)))
	}
	return u
}
