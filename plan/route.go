// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Route is a destination as a node announces it to a BGP peer.
type Route struct {
	Prefix netip.Prefix
	// Communities, standard and well-known (RFC 1997), sorted and each once.
	Communities []uint32
	// Large communities (RFC 8092), sorted and each once.
	Large [][3]uint32
	// LocalPref is nil if it is not set; it is sent to internal peers only.
	LocalPref *uint32
	// MED is nil if it is not set.
	MED *uint32
	// Prepend says how many times more the own AS is in the path.
	Prepend uint8
}

// Equal tells whether two routes are in every respect the same.
func (r Route) Equal(o Route) bool {
	return r.Prefix == o.Prefix && r.Prepend == o.Prepend && equal(r.LocalPref, o.LocalPref) && equal(r.MED, o.MED) &&
		slices.Equal(r.Communities, o.Communities) && slices.Equal(r.Large, o.Large)
}

// gracefulShutdown is the community by which a router gives a route up (RFC 8326).
const gracefulShutdown = 65535 << 16

// Leaving returns the route as it is announced before it is withdrawn, so that
// the peer turns to others first (RFC 8326).
func (r Route) Leaving() Route {
	if at, has := slices.BinarySearch(r.Communities, gracefulShutdown); !has {
		r.Communities = slices.Insert(slices.Clone(r.Communities), at, gracefulShutdown)
	}
	r.LocalPref = new(uint32)
	return r
}

// Contradiction is something that advertisements say differently of one route
// to one peer.
type Contradiction struct {
	// Field is localPref, med or asPathPrepend.
	Field string
	// Chosen is the advertisement that counts, the first by name that sets the
	// field; the others are Ignored.
	Chosen  string
	Ignored []string
}

// unite returns what advertisements together say of a prefix: the union of
// their communities and, of all else, what is set. Where they contradict each
// other the first by name counts.
func unite(prefix netip.Prefix, ads []*BGPAdvertisement) (Route, []Contradiction) {
	r := Route{Prefix: prefix}
	if len(ads) == 1 { // as nearly all are; nobody changes what is shared
		ad := ads[0]
		r.Communities, r.Large, r.LocalPref, r.MED, r.Prepend = ad.Communities, ad.Large, ad.LocalPref, ad.MED, ad.Prepend
		return r, nil
	}
	ads = slices.SortedFunc(slices.Values(ads), func(a, b *BGPAdvertisement) int { return cmp.Compare(a.Name, b.Name) })
	for _, ad := range ads {
		r.Communities = append(r.Communities, ad.Communities...)
		r.Large = append(r.Large, ad.Large...)
	}
	slices.Sort(r.Communities)
	r.Communities = slices.Compact(r.Communities)
	slices.SortFunc(r.Large, func(a, b [3]uint32) int { return slices.Compare(a[:], b[:]) })
	r.Large = slices.Compact(r.Large)
	var all []Contradiction
	for _, f := range fields {
		var chosen *uint32
		c := Contradiction{Field: f.name}
		for _, ad := range ads {
			switch v := f.of(ad); {
			case v == nil:
			case chosen == nil:
				chosen, c.Chosen = v, ad.Name
			case *v != *chosen:
				c.Ignored = append(c.Ignored, ad.Name)
			}
		}
		if chosen != nil {
			f.set(&r, *chosen)
		}
		if c.Ignored != nil {
			all = append(all, c)
		}
	}
	return r, all
}

// fields are those that only one advertisement can have its way with.
var fields = []struct {
	name string
	of   func(*BGPAdvertisement) *uint32
	set  func(*Route, uint32)
}{
	{"localPref", func(ad *BGPAdvertisement) *uint32 { return ad.LocalPref }, func(r *Route, v uint32) { r.LocalPref = &v }},
	{"med", func(ad *BGPAdvertisement) *uint32 { return ad.MED }, func(r *Route, v uint32) { r.MED = &v }},
	{"asPathPrepend", func(ad *BGPAdvertisement) *uint32 {
		if ad.Prepend == 0 {
			return nil
		}
		v := uint32(ad.Prepend)
		return &v
	}, func(r *Route, v uint32) { r.Prepend = uint8(v) }},
}

// Contradict returns what two advertisements say differently of the routes that
// are both's.
func Contradict(a, b *BGPAdvertisement) []Contradiction {
	if a.Length4 != b.Length4 && a.Length6 != b.Length6 {
		return nil
	}
	_, all := unite(netip.Prefix{}, []*BGPAdvertisement{a, b})
	return all
}

// Table has the routes of one node: what it announces of single addresses,
// united. One goroutine uses it. Setting an address costs as much as it has
// routes; reading the routes of a peer that changed costs one pass over them.
type Table struct {
	addresses map[netip.Addr]Announced
	peers     map[string]*peerTable
}

// peerTable is what one peer is told.
type peerTable struct {
	origins map[netip.Prefix][]origin
	dirty   map[netip.Prefix]struct{}
	told    Told
	against map[netip.Prefix][]Contradiction
}

// origin is an advertisement by which addresses are announced in a prefix.
type origin struct {
	ad *BGPAdvertisement
	// stay and leave count the addresses.
	stay, leave int
}

// Told are the routes for one peer, by prefix. They never change.
type Told struct {
	Stay []Route
	// Leave are those that another node announces, too, and this one is to give
	// up: as [Route.Leaving] says for a while, then not at all.
	Leave []Route
}

// NewTable returns a Table without routes.
func NewTable() *Table {
	return &Table{addresses: map[netip.Addr]Announced{}, peers: map[string]*peerTable{}}
}

// Set takes what is announced of an address now; nothing if that is empty.
func (t *Table) Set(addr netip.Addr, a Announced) {
	t.count(addr, t.addresses[addr], -1)
	t.count(addr, a, 1)
	if len(a.offers) == 0 {
		delete(t.addresses, addr)
	} else {
		t.addresses[addr] = a
	}
}

func (t *Table) count(addr netip.Addr, a Announced, by int) {
	for _, o := range a.offers {
		prefix := o.ad.prefix(addr, a.Whole)
		for _, name := range o.peers {
			p := t.peers[name]
			if p == nil {
				p = &peerTable{origins: map[netip.Prefix][]origin{}, dirty: map[netip.Prefix]struct{}{}}
				t.peers[name] = p
			}
			p.count(prefix, o.ad, a.Leaving, by)
		}
	}
}

func (p *peerTable) count(prefix netip.Prefix, ad *BGPAdvertisement, leaving bool, by int) {
	p.dirty[prefix] = struct{}{}
	of := p.origins[prefix]
	i := slices.IndexFunc(of, func(o origin) bool { return o.ad == ad })
	if i < 0 {
		i = len(of)
		of = append(of, origin{ad: ad})
	}
	if leaving {
		of[i].leave += by
	} else {
		of[i].stay += by
	}
	if of[i].stay == 0 && of[i].leave == 0 {
		of = slices.Delete(of, i, i+1)
	}
	if len(of) == 0 {
		delete(p.origins, prefix)
	} else {
		p.origins[prefix] = of
	}
}

// Routes returns what each peer is told that is told anything.
func (t *Table) Routes() map[string]Told {
	all := make(map[string]Told, len(t.peers))
	for name, p := range t.peers {
		p.update()
		if len(p.origins) == 0 {
			delete(t.peers, name)
			continue
		}
		all[name] = p.told
	}
	return all
}

// Contradictions returns what advertisements say differently of the routes that
// there are, by peer and prefix. It is up to date after Routes.
func (t *Table) Contradictions() map[string]map[netip.Prefix][]Contradiction {
	all := map[string]map[netip.Prefix][]Contradiction{}
	for name, p := range t.peers {
		if len(p.against) > 0 {
			all[name] = maps.Clone(p.against)
		}
	}
	return all
}

// update works out the routes whose origins changed.
func (p *peerTable) update() {
	if len(p.dirty) == 0 {
		return
	}
	var stay, leave []Route
	dirty := slices.SortedFunc(maps.Keys(p.dirty), netip.Prefix.Compare)
	for _, prefix := range dirty {
		delete(p.against, prefix)
		of := p.origins[prefix]
		if len(of) == 0 {
			continue
		}
		ads := make([]*BGPAdvertisement, 0, 2)
		stays := slices.ContainsFunc(of, func(o origin) bool { return o.stay > 0 })
		for _, o := range of {
			if o.stay > 0 || !stays {
				ads = append(ads, o.ad)
			}
		}
		r, against := unite(prefix, ads)
		if against != nil {
			if p.against == nil {
				p.against = map[netip.Prefix][]Contradiction{}
			}
			p.against[prefix] = against
		}
		if stays {
			stay = append(stay, r)
		} else {
			leave = append(leave, r)
		}
	}
	p.told = Told{Stay: merge(p.told.Stay, stay, dirty), Leave: merge(p.told.Leave, leave, dirty)}
	clear(p.dirty)
}

// merge returns the routes without those that are dirty, and with those that
// are new, which are dirty, too. All are sorted.
func merge(routes, now []Route, dirty []netip.Prefix) []Route {
	out := make([]Route, 0, len(routes)+len(now))
	for _, prefix := range dirty {
		i, found := slices.BinarySearchFunc(routes, prefix, func(r Route, p netip.Prefix) int { return r.Prefix.Compare(p) })
		out = append(out, routes[:i]...)
		if found {
			i++
		}
		routes = routes[i:]
		if len(now) > 0 && now[0].Prefix == prefix {
			out, now = append(out, now[0]), now[1:]
		}
	}
	return append(out, routes...)
}

func equal[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
