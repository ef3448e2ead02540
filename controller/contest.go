// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fieldOwner is our name among an object's field managers.
const fieldOwner = "fairlead-controller"

// contest is what becomes of what we show in a Service. Another writer that
// overwrites it once is corrected at once: it may be a slip. One that goes on
// is named, and answered less and less often, for it may never tire.
type contest struct {
	// lost counts how often in a row what we wrote was overwritten.
	lost int
	// last is when that was seen last.
	last time.Time
	// writer is who did it, empty if that can't be told.
	writer string
}

const (
	// lostOnPurpose is how often makes it more than a slip.
	lostOnPurpose   = 3
	maxContestPause = 5 * time.Minute
	// contestRest is how long, at least, what we show has to stand for the
	// contest to be over.
	contestRest = time.Minute
)

// on reports whether another writer means it.
func (t contest) on() bool { return t.lost >= lostOnPurpose }

// pause is how long after the last loss what we show is not written again.
func (t contest) pause() time.Duration {
	if !t.on() {
		return 0
	}
	return min(time.Second<<min(t.lost-lostOnPurpose, 16), maxContestPause)
}

// overAt is when the contest is over if nothing else happens.
func (t contest) overAt() time.Time { return t.last.Add(max(2*t.pause(), contestRest)) }

// text says who keeps doing what, and what to do.
func (t contest) text() string {
	who := "another client"
	if t.writer != "" {
		who = t.writer
	}
	return fmt.Sprintf("%s keeps changing status.loadBalancer of the Service: give it a spec.loadBalancerClass that only one of the two load balancers serves, or stop the other", who)
}

// follow takes note of whether what we last showed in the Service still
// stands.
func (c *Controller) follow(ctx context.Context, svc *corev1.Service) (contest, error) {
	t, overwritten := c.ledger.contest(svc, c.now())
	if !overwritten {
		return t, nil
	}
	current := &corev1.Service{}
	if err := c.live.Get(ctx, client.ObjectKeyFromObject(svc), current); err != nil {
		return t, err
	}
	writer := statusWriter(current.ManagedFields)
	if writer == fieldOwner {
		return c.ledger.lostContest(svc, t), nil // another replica, with news that this one has yet to see
	}
	if now := c.now(); now.After(t.overAt()) {
		t = contest{lost: 1, last: now, writer: writer}
	} else {
		t = contest{lost: t.lost + 1, last: now, writer: writer}
	}
	return c.ledger.lostContest(svc, t), nil
}

// statusWriter returns the field manager that wrote status.loadBalancer last,
// or nothing if that can't be told: whoever removes a field owns nothing.
func statusWriter(managers []metav1.ManagedFieldsEntry) string {
	var last metav1.ManagedFieldsEntry
	for _, m := range managers {
		if m.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Status map[string]json.RawMessage `json:"f:status"`
		}
		if json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		if _, ok := fields.Status["f:loadBalancer"]; !ok {
			continue
		}
		// Of those that own the field, whoever was there before is the loser.
		if last.Manager == "" || m.Time != nil && (last.Time == nil || last.Time.Before(m.Time) || last.Time.Equal(m.Time) && last.Manager == fieldOwner) {
			last = m
		}
	}
	return last.Manager
}

// contest returns what is known of the contest about a Service, and whether
// what we last wrote there is found overwritten for the first time.
func (l *ledger) contest(svc *corev1.Service, now time.Time) (t contest, overwritten bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]
	if s == nil || s.uid != svc.UID {
		return contest{}, false
	}
	if s.stands && !sameShown(svc, s.shown) {
		return s.contest, true
	}
	if s.contest.lost > 0 && !now.Before(s.contest.overAt()) {
		s.contest = contest{}
	}
	return s.contest, false
}

// lostContest records the state of a contest after what we wrote was
// overwritten, which is counted once.
func (l *ledger) lostContest(svc *corev1.Service, t contest) contest {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]; s != nil && s.uid == svc.UID {
		s.contest, s.stands = t, false
	}
	return t
}

// onlyOurs returns those of the addresses in a Service's status that may be
// ours: all if this controller never saw it as it should be, else those that it
// showed then.
func (l *ledger) onlyOurs(svc *corev1.Service, addrs []netip.Addr) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]
	if s == nil || s.uid != svc.UID || !s.seen {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !slices.Contains(s.shown, a) })
}
