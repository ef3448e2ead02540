// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"math/big"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// model is the Allocator as one would write it for a universe of a hundred addresses: it looks at each of them for each
// question, and at all that speaks for one address against another.
type model struct {
	universe []netip.Addr // sorted
	pools    []Pool
	avoid    []netipx.IPRange
	nodes    map[netip.Addr]string
	holdings map[netip.Addr]Holding
	foreign  map[netip.Addr]map[string]ServiceRef
}

func contains(ranges []netipx.IPRange, addr netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r netipx.IPRange) bool { return r.Contains(addr) })
}

func (m *model) has(p Pool, addr netip.Addr) bool {
	return contains(p.Ranges, addr) && !contains(p.Exclude, addr)
}

// automatic says whether p may give addr without being asked for it.
func (m *model) automatic(p Pool, addr netip.Addr) bool {
	if addr.Is4() && p.AvoidBuggyIPs {
		if last := addr.As4()[3]; last == 0 || last == 255 {
			return false
		}
	}
	return m.has(p, addr) && !contains(m.avoid, addr) && m.nodes[addr] == ""
}

func (m *model) pool(name string) (Pool, bool) {
	i := slices.IndexFunc(m.pools, func(p Pool) bool { return p.Name == name })
	if i < 0 {
		return Pool{}, false
	}
	return m.pools[i], true
}

// some returns the pools that fit, in the order of choice.
func (m *model) some(fits func(Pool) bool) (found []Pool) {
	for _, p := range m.pools {
		if fits(p) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(p, q Pool) int {
		return cmp.Or(cmp.Compare(q.Priority, p.Priority), cmp.Compare(p.Name, q.Name))
	})
	return found
}

func (m *model) enabled(req Request) []Pool {
	return m.some(func(p Pool) bool { return admits(req, p) && !p.Disabled })
}

func admits(req Request, p Pool) bool {
	return slices.Contains(req.Pools, p.Name) && (req.PoolNamed == "" || req.PoolNamed == p.Name)
}

func (m *model) auto(req Request) []Pool {
	return m.some(func(p Pool) bool {
		return admits(req, p) && !p.Disabled && (p.AutoAssign || req.PoolNamed == p.Name)
	})
}

func inNamespace(h Holding, namespace string) bool {
	return slices.ContainsFunc(h.Holders, func(h Holder) bool { return h.Service.Namespace == namespace })
}

func (m *model) room(req Request, p Pool, picks []Pick) int {
	if p.MaxPerNamespace == 0 {
		return 2
	}
	n := p.MaxPerNamespace
	for _, h := range m.holdings {
		if h.Pool == p.Name && inNamespace(h, req.Service.Namespace) {
			n--
		}
	}
	for _, pick := range picks {
		if pick.Pool == p.Name && !inNamespace(m.holdings[pick.Address], req.Service.Namespace) {
			n--
		}
	}
	return n
}

// released is nothing to one who does not know when.
func released(h Holding) int64 {
	if h.Released == nil {
		return -1 << 62
	}
	return h.Released.At.UnixNano()
}

// candidate is an address that could be picked, with what speaks for it: a smaller rank is better.
type candidate struct {
	pick Pick
	rank []any
}

func better(a, b candidate) int {
	for i := range min(len(a.rank), len(b.rank)) {
		var c int
		switch x := a.rank[i].(type) {
		case int:
			c = cmp.Compare(x, b.rank[i].(int))
		case int64:
			c = cmp.Compare(x, b.rank[i].(int64))
		case string:
			c = cmp.Compare(x, b.rank[i].(string))
		case netip.Addr:
			c = x.Compare(b.rank[i].(netip.Addr))
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// own returns the candidates of a family that follow from the Service and not from a pool.
func (m *model) own(req Request, f Family, picks []Pick) (found []candidate) {
	named, exists := m.pool(req.PoolNamed)
	for _, addr := range m.universe {
		h, held := m.holdings[addr]
		if FamilyOf(addr) != f || !held || len(m.foreign[addr]) > 0 {
			continue
		}
		switch h.State() {
		case Reserved:
			if m.nodes[addr] == "" && h.ReservedFor.admits(req.Service) && (req.PoolNamed == "" || exists && m.has(named, addr)) {
				byNamespace := 0
				if h.ReservedFor.Name == "" {
					byNamespace = 1
				}
				found = append(found, candidate{Pick{addr, m.poolOfReserved(req, addr), false}, []any{1, byNamespace, addr}})
			}
		case Bound:
			onIt := slices.ContainsFunc(h.Holders, func(h Holder) bool { return h.Service.same(req.Service) })
			if req.SharingKey != "" && h.SharingKey == req.SharingKey && !onIt && !h.Quarantined {
				if v := m.check(req, addr, picks); v.reason == "" {
					found = append(found, candidate{Pick{addr, v.pool, true}, []any{2, addr}})
				}
			}
		case Resting:
			r := h.Released
			if r == nil || r.Namespace != req.Service.Namespace || r.Name != req.Service.Name {
				continue
			}
			for _, p := range m.auto(req) {
				if m.automatic(p, addr) && m.room(req, p, picks) >= 1 {
					found = append(found, candidate{Pick{addr, p.Name, false}, []any{3, -released(h), addr}})
					break
				}
			}
		}
	}
	return found
}

func (m *model) poolOfReserved(req Request, addr netip.Addr) string {
	name := cmp.Or(req.PoolNamed, m.holdings[addr].Pool)
	if having := m.some(func(p Pool) bool { return m.has(p, addr) }); name == "" && len(having) > 0 {
		name = having[0].Name
	}
	return name
}

// given returns the candidates of a family in a pool.
func (m *model) given(p Pool, f Family) (found []candidate) {
	for _, addr := range m.universe {
		h, held := m.holdings[addr]
		if FamilyOf(addr) != f || !m.automatic(p, addr) || len(m.foreign[addr]) > 0 {
			continue
		}
		switch {
		case !held:
			found = append(found, candidate{Pick{addr, p.Name, false}, []any{0, p.Name, addr}})
		case h.State() == Resting:
			found = append(found, candidate{Pick{addr, p.Name, false}, []any{1, released(h), addr, p.Name}})
		}
	}
	return found
}

type modelVerdict struct {
	reason Reason
	pool   string
	shared bool
}

func (m *model) choose(req Request) (picks []Pick, refused []Refusal) {
	chosen, reasons := map[Family]Pick{}, map[Family]Refusal{}
	have := func(f Family) bool {
		return slices.ContainsFunc(req.Have, func(a netip.Addr) bool { return FamilyOf(a) == f })
	}
	soFar := func() []Pick {
		var list []Pick
		for _, pick := range chosen {
			list = append(list, pick)
		}
		return list
	}
	var open []Family
	for _, f := range req.Families {
		if have(f) {
			continue
		}
		i := slices.IndexFunc(req.Addresses, func(a netip.Addr) bool { return FamilyOf(a) == f })
		if i >= 0 {
			addr := req.Addresses[i]
			v := m.check(req, addr, soFar())
			if v.reason == "" {
				chosen[f] = Pick{addr, v.pool, v.shared}
			} else {
				reasons[f] = Refusal{Reason: v.reason, Family: f, Address: addr}
			}
		} else if wrong := m.ofNoFamily(req); len(wrong) > 0 {
			reasons[f] = Refusal{Reason: FamilyNotRequested, Family: f, Address: wrong[0]}
		} else if found := m.own(req, f, soFar()); len(found) > 0 {
			chosen[f] = slices.MinFunc(found, better).pick
		} else {
			open = append(open, f)
		}
	}
	if len(open) == 2 {
		var pairs []candidate
		var seconds []Pick
		for _, p := range m.auto(req) {
			first, second := m.given(p, open[0]), m.given(p, open[1])
			if m.room(req, p, soFar()) < 2 || len(first) == 0 || len(second) == 0 {
				continue
			}
			a, b := slices.MinFunc(first, better), slices.MinFunc(second, better)
			resting, since := 0, int64(-1<<63)
			for _, c := range []candidate{a, b} {
				if c.rank[0] == 1 {
					resting++
					since = max(since, c.rank[1].(int64))
				}
			}
			pairs = append(pairs, candidate{a.pick, []any{-int(p.Priority), resting, since, p.Name, len(seconds)}})
			seconds = append(seconds, b.pick)
		}
		if len(pairs) > 0 {
			best := slices.MinFunc(pairs, better)
			chosen[open[0]], chosen[open[1]] = best.pick, seconds[best.rank[4].(int)]
			open = nil
		}
	}
	for _, f := range open {
		home := ""
		for _, addr := range req.Have {
			if h, ok := m.holdings[addr]; ok {
				home = h.Pool
			}
		}
		for _, pick := range soFar() {
			home = pick.Pool
		}
		var found []candidate
		for _, p := range m.auto(req) {
			if m.room(req, p, soFar()) < 1 {
				continue
			}
			for _, c := range m.given(p, f) {
				abroad := 1
				if p.Name == home {
					abroad = 0
				}
				found = append(found, candidate{c.pick, append([]any{abroad, -int(p.Priority)}, c.rank...)})
			}
		}
		if len(found) > 0 {
			chosen[f] = slices.MinFunc(found, better).pick
		} else {
			reasons[f] = Refusal{Reason: m.whyNone(req, f, soFar()), Family: f}
		}
	}
	for _, f := range req.Families {
		if pick, ok := chosen[f]; ok {
			picks = append(picks, pick)
		} else if r, ok := reasons[f]; ok {
			refused = append(refused, r)
		}
	}
	if len(refused) == 0 {
		for _, addr := range m.ofNoFamily(req) {
			refused = append(refused, Refusal{Reason: FamilyNotRequested, Family: FamilyOf(addr), Address: addr})
		}
	}
	return picks, refused
}

// ofNoFamily returns the addresses that are asked for and of no wanted family: one at most in a random request.
func (m *model) ofNoFamily(req Request) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(req.Addresses), func(a netip.Addr) bool { return slices.Contains(req.Families, FamilyOf(a)) })
}

func (m *model) whyNamed(req Request) Reason {
	p, exists := m.pool(req.PoolNamed)
	switch {
	case req.PoolNamed == "":
		return ""
	case !exists:
		return PoolNotFound
	case !slices.Contains(req.Pools, p.Name):
		return PoolNotAdmitted
	case p.Disabled:
		return PoolDisabled
	}
	return ""
}

func (m *model) whyNone(req Request, f Family, picks []Pick) Reason {
	if r := m.whyNamed(req); r != "" {
		return r
	}
	having := slices.DeleteFunc(m.auto(req), func(p Pool) bool {
		return !slices.ContainsFunc(m.universe, func(a netip.Addr) bool { return FamilyOf(a) == f && m.has(p, a) })
	})
	switch {
	case len(m.pools) == 0:
		return NoPool
	case len(m.some(func(p Pool) bool { return admits(req, p) })) == 0:
		return NoMatchingPool
	case len(m.enabled(req)) == 0:
		return PoolDisabled
	case len(m.auto(req)) == 0:
		return NoAutoAssignPool
	case len(having) == 0:
		return FamilyNotInPool
	case slices.ContainsFunc(having, func(p Pool) bool { return m.room(req, p, picks) < 1 }):
		return QuotaExceeded
	}
	return PoolExhausted
}

func (m *model) check(req Request, addr netip.Addr, picks []Pick) modelVerdict {
	h := m.holdings[addr]
	others := slices.DeleteFunc(slices.Clone(h.Holders), func(h Holder) bool { return h.Service.same(req.Service) })
	v := modelVerdict{pool: h.Pool, shared: len(others) > 0}
	if !slices.Contains(req.Families, FamilyOf(addr)) {
		return modelVerdict{reason: FamilyNotRequested}
	}
	if mine := len(others) < len(h.Holders); !mine {
		if m.nodes[addr] != "" {
			return modelVerdict{reason: NodeAddress}
		}
		named, exists := m.pool(req.PoolNamed)
		if h.ReservedFor != nil && h.ReservedFor.admits(req.Service) && (req.PoolNamed == "" || exists && m.has(named, addr)) {
			v.pool = m.poolOfReserved(req, addr)
		} else if v.pool, v.reason = m.poolFor(req, addr, picks); v.reason != "" {
			return v
		}
		switch {
		case len(m.foreign[addr]) > 0:
			v.reason = ForeignAddress
			return v
		case h.ReservedFor != nil && !h.ReservedFor.admits(req.Service):
			v.reason = AddressReserved
			return v
		}
	}
	for _, other := range others {
		if v.reason = m.mayShare(req, h.SharingKey, other); v.reason != "" {
			return v
		}
	}
	return v
}

func (m *model) poolFor(req Request, addr netip.Addr, picks []Pick) (string, Reason) {
	if r := m.whyNamed(req); r != "" {
		return "", r
	}
	all := m.some(func(p Pool) bool { return req.PoolNamed == "" || p.Name == req.PoolNamed })
	having := slices.DeleteFunc(slices.Clone(all), func(p Pool) bool { return !m.has(p, addr) })
	admitted := slices.DeleteFunc(slices.Clone(having), func(p Pool) bool { return !admits(req, p) })
	enabled := slices.DeleteFunc(slices.Clone(admitted), func(p Pool) bool { return p.Disabled })
	switch {
	case len(all) == 0:
		return "", NoPool
	case len(having) == 0 && slices.ContainsFunc(all, func(p Pool) bool { return contains(p.Ranges, addr) }):
		return "", AddressExcluded
	case len(having) == 0:
		return "", AddressNotInPool
	case len(admitted) == 0:
		return "", PoolNotAdmitted
	case len(enabled) == 0:
		return "", PoolDisabled
	}
	if h := m.holdings[addr]; h.State() == Bound {
		own, exists := m.pool(h.Pool)
		if exists && m.room(req, own, picks) < 1 && !inNamespace(h, req.Service.Namespace) {
			return "", QuotaExceeded
		}
		return cmp.Or(h.Pool, enabled[0].Name), ""
	}
	for _, p := range enabled {
		if m.room(req, p, picks) >= 1 {
			return p.Name, ""
		}
	}
	return "", QuotaExceeded
}

func (m *model) mayShare(req Request, key string, other Holder) Reason {
	me, them := req.Service.Namespace, other.Service.Namespace
	switch {
	case key == "" || req.SharingKey == "":
		return AddressInUse
	case key != req.SharingKey:
		return SharingKeyMismatch
	case me != them && !(slices.Contains(req.SharingNamespaces, them) && slices.Contains(other.SharingNamespaces, me)):
		return SharingNotAgreed
	case req.Backend != other.Backend:
		return BackendMismatch
	}
	for _, p := range req.Ports {
		if slices.Contains(other.Ports, p) {
			return PortClash
		}
	}
	return ""
}

func (m *model) usage(p Pool, f Family) Usage {
	var capacity, allocated, available int64
	for _, addr := range m.universe {
		if FamilyOf(addr) != f || !m.has(p, addr) {
			continue
		}
		capacity++
		h, held := m.holdings[addr]
		if held && (h.State() == Bound || h.State() == Reserved) {
			allocated++
		} else if h.State() == Resting && len(m.foreign[addr]) == 0 && m.automatic(p, addr) {
			available++
		}
	}
	return Usage{big.NewInt(capacity), big.NewInt(allocated), big.NewInt(available)}
}
