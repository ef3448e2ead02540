// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
)

// record has the recorder write the claims of the node on addresses, if they are
// not on record.
func (a *Agent) record(now time.Time, touched []netip.Addr) {
	for _, addr := range touched {
		if c, ok := a.claim(now, addr); ok {
			a.recorder.Put(addr, c)
		} else {
			a.recorder.Drop(addr)
		}
	}
}

// claim returns the claim of the node on an address that is to be recorded, if
// the record doesn't say so already. A claim on record keeps its term and time,
// also if the interface or its MAC is another one now.
func (a *Agent) claim(now time.Time, addr netip.Addr) (Claim, bool) {
	w := &a.wire
	is, known := a.view.state.Addresses[addr]
	made, _ := a.machine.Claim(addr)
	if !known || len(is.Services) == 0 {
		delete(w.since, addr)
		delete(w.held, addr)
		return Claim{}, false
	}
	if made.Node != a.node {
		delete(w.held, addr)
		delete(w.since, addr)
		return Claim{}, false
	}
	l, answers := a.answering(addr)
	if !answers && w.held[addr] == made {
		l, answers = a.couldAnswer(addr)
	} else {
		delete(w.held, addr)
	}
	if !answers {
		// It answers nowhere, so there is nothing to be recorded.
		delete(w.since, addr)
		return Claim{}, false
	}
	recorded := is.Record.Claim
	c := v1alpha1.L2Claim{Node: a.node, Interface: l.Name, MAC: l.MAC.String(), Term: made.Term, Since: metav1.NewTime(now)}
	if since, ok := w.since[addr]; ok {
		c.Since = metav1.NewTime(since)
	} else {
		w.since[addr] = now
	}
	switch {
	case recorded == nil || recorded.Node == "" || recorded.Term < c.Term || !mesh.Credible(recorded.Term, c.Term):
		// Whoever blanks the node of a claim has deleted it.
	case recorded.Node != a.node || recorded.Term > c.Term:
		return Claim{}, false // theirs is as good: it is read soon, or was
	default:
		c.Since = recorded.Since
		w.since[addr] = recorded.Since.Time
		if c == *recorded {
			return Claim{}, false
		}
	}
	return Claim{Name: is.Record.Name, ResourceVersion: is.Record.ResourceVersion, L2: c}, true
}

// answering returns the first interface on which the node answers with its own
// MAC.
func (a *Agent) answering(addr netip.Addr) (link.Link, bool) {
	want := a.wire.wants[addr]
	for _, name := range want.Interfaces {
		if _, standing := want.As[name]; !standing {
			if l, ok := a.usable(name, addr); ok {
				return l, true
			}
		}
	}
	return link.Link{}, false
}

// couldAnswer returns the first interface on which the node would answer.
func (a *Agent) couldAnswer(addr netip.Addr) (link.Link, bool) {
	addresses, _ := a.view.addresses([]netip.Addr{addr}, func(netip.Addr) string { return "" })
	for _, m := range addresses {
		for _, name := range m.Interfaces {
			if l, ok := a.usable(name, addr); ok {
				return l, true
			}
		}
	}
	return link.Link{}, false
}

func (a *Agent) usable(name string, addr netip.Addr) (link.Link, bool) {
	if a.wire.failed[l2.Place{Interface: name, Family: l2.FamilyOf(addr)}] != nil {
		return link.Link{}, false
	}
	i := slices.IndexFunc(a.wire.segments, func(l link.Link) bool { return l.Name == name })
	if i < 0 {
		return link.Link{}, false
	}
	return a.wire.segments[i], true
}
