// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"time"
	"unique"
)

// entry is what an index has for one address: a Holding, foreign claims, or both. Nearly all addresses are held by one
// Service without a sharing key, so that case fits into the entry, and all else is in more.
type entry struct {
	count   [weights]uint32 // sums over the subtree
	weighs  uint8           // a bit for each weight
	state   State           // zero if there is no Holding
	foreign bool
	single  bool            // holder is the one holder
	oldest  [2]*node[entry] // the one of the subtree that has rested longest, by view
	pool    unique.Handle[string]
	holder  compactHolder
	more    *details
}

// compactHolder is a ServiceRef whose UID is a UUID, in 40 bytes and the text of the name.
type compactHolder struct {
	namespace unique.Handle[string]
	name      string
	uid       [16]byte
}

// details is what few Holdings have.
type details struct {
	holders     []Holder
	sharingKey  string
	reserved    *Reservation
	released    *Released
	quarantined bool
}

func (e *entry) has(w weight) bool { return e.weighs>>w&1 != 0 }

// reusable says whether the address rests and nobody shows it.
func (e *entry) reusable() bool { return e.state == Resting && !e.foreign }

// restsSince is the zero time, longest ago, if it is not known.
func (e *entry) restsSince() time.Time {
	if e.more == nil || e.more.released == nil {
		return time.Time{}
	}
	return e.more.released.At
}

func (e *entry) sharingKey() string {
	if e.more == nil {
		return ""
	}
	return e.more.sharingKey
}

func (e *entry) reserved() *Reservation {
	if e.more == nil {
		return nil
	}
	return e.more.reserved
}

func (e *entry) quarantined() bool { return e.more != nil && e.more.quarantined }

// holders calls visit with each holder. Of an address without sharing key they have no more than their Service.
func (e *entry) holders(visit func(Holder) bool) {
	if e.single {
		c := &e.holder
		visit(Holder{Service: ServiceRef{Namespace: c.namespace.Value(), Name: c.name, UID: formatUUID(c.uid)}})
		return
	}
	if e.more != nil {
		for _, h := range e.more.holders {
			if !visit(h) {
				return
			}
		}
	}
}

// namespaces calls visit with each namespace that has a holder, once.
func (e *entry) namespaces(visit func(unique.Handle[string]) bool) {
	if e.single {
		visit(e.holder.namespace)
		return
	}
	if e.state != Bound {
		return
	}
	for i, h := range e.more.holders {
		seen := slices.ContainsFunc(e.more.holders[:i], func(o Holder) bool {
			return o.Service.Namespace == h.Service.Namespace
		})
		if !seen && !visit(unique.Make(h.Service.Namespace)) {
			return
		}
	}
}

// set makes e say what h says, and keeps nothing of h that the caller could change.
func (e *entry) set(h Holding) {
	e.unset()
	e.state = h.State()
	e.pool = unique.Make(h.Pool)
	if len(h.Holders) == 1 && h.SharingKey == "" {
		s := h.Holders[0].Service
		if uid, ok := parseUUID(s.UID); ok {
			e.single, e.holder = true, compactHolder{unique.Make(s.Namespace), s.Name, uid}
		}
	}
	if (e.single || len(h.Holders) == 0) && h.SharingKey == "" && h.ReservedFor == nil && h.Released == nil && !h.Quarantined {
		return
	}
	e.more = &details{sharingKey: h.SharingKey, quarantined: h.Quarantined}
	if !e.single {
		e.more.holders = cloneHolders(h.Holders, h.SharingKey != "")
	}
	if h.ReservedFor != nil {
		r := *h.ReservedFor
		e.more.reserved = &r
	}
	if h.Released != nil {
		r := *h.Released
		e.more.released = &r
	}
}

// unset leaves e without a Holding.
func (e *entry) unset() {
	e.state, e.single, e.holder, e.more, e.pool = 0, false, compactHolder{}, nil, unique.Handle[string]{}
}

// holding is the inverse of set.
func (e *entry) holding(addr netip.Addr) Holding {
	h := Holding{Address: addr, Pool: e.pool.Value(), SharingKey: e.sharingKey()}
	e.holders(func(one Holder) bool {
		h.Holders = append(h.Holders, one)
		return true
	})
	h.Holders = cloneHolders(h.Holders, true)
	h.Quarantined = e.quarantined()
	if e.more != nil && e.more.reserved != nil {
		r := *e.more.reserved
		h.ReservedFor = &r
	}
	if e.more != nil && e.more.released != nil {
		r := *e.more.released
		h.Released = &r
	}
	return h
}

func cloneHolders(holders []Holder, whole bool) []Holder {
	if len(holders) == 0 {
		return nil
	}
	clone := make([]Holder, len(holders))
	for i, h := range holders {
		clone[i].Service = h.Service
		if whole {
			clone[i].Ports = slices.Clone(h.Ports)
			clone[i].Backend = h.Backend
			clone[i].SharingNamespaces = slices.Clone(h.SharingNamespaces)
		}
	}
	return clone
}

// parseUUID reads the form that the API server gives to UIDs, and reports false for any other.
func parseUUID(s string) (uuid [16]byte, ok bool) {
	if len(s) != 36 {
		return uuid, false
	}
	var digits [32]byte
	copy(digits[:8], s[:8])
	copy(digits[8:12], s[9:13])
	copy(digits[12:16], s[14:18])
	copy(digits[16:20], s[19:23])
	copy(digits[20:], s[24:])
	if _, err := hex.Decode(uuid[:], digits[:]); err != nil {
		return uuid, false
	}
	canonical := uuidText(uuid)
	return uuid, string(canonical[:]) == s
}

func formatUUID(uuid [16]byte) string {
	b := uuidText(uuid)
	return string(b[:])
}

func uuidText(uuid [16]byte) (b [36]byte) {
	hex.Encode(b[:8], uuid[:4])
	hex.Encode(b[9:13], uuid[4:6])
	hex.Encode(b[14:18], uuid[6:8])
	hex.Encode(b[19:23], uuid[8:10])
	hex.Encode(b[24:], uuid[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return b
}
