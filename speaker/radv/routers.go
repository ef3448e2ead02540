// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// maxRouters bounds those of a link. Who was heard first stays.
	maxRouters = 8
	// hold is how long a router counts that is no longer heard: three times
	// the interval of routers that were not told to advertise more often, and
	// as long as the longest interval that there may be. Nothing is lost by
	// it: whether a router is alive is for BGP and BFD to find out, and a
	// session must not end because advertisements do.
	hold = 3 * 600 * time.Second
	// replacedAfter is the shortest silence after which a router can have
	// been replaced.
	replacedAfter = 30 * time.Second
)

// routers are those heard on a link, by their link-local addresses.
type routers map[netip.Addr]router

type router struct {
	mac   link.MAC // zero if it doesn't tell
	heard time.Time
}

// hear notes an advertisement. It tells whether the routers are others than
// before, and whether there was room.
//
// A router that gave itself another address takes the place of its former self:
// that has the same Ethernet address, and says nothing from one
// advertisement of the new address to the next. Its lifetime is never looked
// at: it tells whether the router is a default router, which those that only
// speak BGP need not be.
func (r routers) hear(from netip.Addr, mac link.MAC, now time.Time) (changed, room bool) {
	before, known := r[from]
	if !known && len(r) >= maxRouters {
		return false, false
	}
	r[from] = router{mac: mac, heard: now}
	if !known {
		return true, true
	}
	if mac != (link.MAC{}) {
		maps.DeleteFunc(r, func(other netip.Addr, o router) bool {
			gone := o.mac == mac && o.heard.Before(before.heard) && now.Sub(o.heard) >= replacedAfter
			changed = changed || gone
			return gone
		})
	}
	return changed, true
}

// expire forgets who has not been heard for long, and tells whether there was
// one.
func (r routers) expire(now time.Time) bool {
	n := len(r)
	maps.DeleteFunc(r, func(_ netip.Addr, o router) bool { return now.Sub(o.heard) >= hold })
	return len(r) < n
}

// next returns when one expires, the zero Time if there is none.
func (r routers) next() (at time.Time) {
	for _, o := range r {
		at = earlier(at, o.heard.Add(hold))
	}
	return at
}

func (r routers) addrs() []netip.Addr {
	return slices.SortedFunc(maps.Keys(r), netip.Addr.Compare)
}
