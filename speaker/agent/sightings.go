// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/l2"
)

// replyTimeout is how long the reply to a question is of interest.
const replyTimeout = time.Second

// maxSightings is how many sightings of addresses wait for the loop. In a flood
// of them one more is nothing new.
const maxSightings = 1024

// sightings are what was seen on the wire until the loop takes it. The answers
// to questions about nodes, for which others wait, find room in any flood.
type sightings struct {
	mu      sync.Mutex
	asked   map[question]time.Time
	replies map[question]l2.Sighting
	others  []l2.Sighting
}

type question struct {
	iface string
	addr  netip.Addr
}

// ask says that a question is about to be asked.
func (r *sightings) ask(q question, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked == nil {
		r.asked, r.replies = map[question]time.Time{}, map[question]l2.Sighting{}
	}
	for old, at := range r.asked {
		if now.Sub(at) > replyTimeout {
			delete(r.asked, old)
		}
	}
	r.asked[q] = now
}

// put takes a sighting, and reports whether the loop is not to wait for its
// turn: it is a reply that was awaited.
func (r *sightings) put(s l2.Sighting) bool {
	q := question{s.Interface, s.Addr}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.asked[q]; ok && s.Reply {
		r.replies[q] = s
		return true
	}
	if len(r.others) < maxSightings {
		r.others = append(r.others, s)
	}
	return false
}

// take returns the replies, and the other sightings, since it was last called.
func (r *sightings) take() (replies, others []l2.Sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.replies {
		replies = append(replies, s)
	}
	clear(r.replies)
	others, r.others = r.others, nil
	return replies, others
}
