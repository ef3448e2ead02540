// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
)

// deadman is how long answers go on when the loop does not. It is as long as
// it takes the others to miss this speaker.
const deadman = 300 * time.Millisecond

// wire is what the responder and the transport were told.
type wire struct {
	segments []link.Link
	// stale says that the segments, or what failed, must be told to them.
	stale bool
	// deaf says that the transport can't use a segment.
	deaf bool

	wants map[netip.Addr]l2.Want
	// changes are what the responder was not told yet of wants.
	changes map[netip.Addr]l2.Want
	// doubtful are wants of addresses that another host may have.
	doubtful map[netip.Addr]l2.Want
	failed   map[l2.Place]error
	// since is when the node began to answer for each address of its own.
	since map[netip.Addr]time.Time
	// held are claims that are made when they are on record.
	held map[netip.Addr]mesh.Claim
	// touched are the addresses for which what is recorded and told may differ.
	touched map[netip.Addr]struct{}
}

func newWire() wire {
	return wire{
		wants: map[netip.Addr]l2.Want{}, changes: map[netip.Addr]l2.Want{}, doubtful: map[netip.Addr]l2.Want{}, since: map[netip.Addr]time.Time{},
		held: map[netip.Addr]mesh.Claim{}, touched: map[netip.Addr]struct{}{},
	}
}

func (w *wire) touch(addr netip.Addr) { w.touched[addr] = struct{}{} }

// touches is how many touched addresses are looked at in one step: it must not
// take so long that it looks like a stall.
const touches = 1000

// takeTouched returns some addresses that were touched, which are done with then.
func (w *wire) takeTouched() []netip.Addr {
	if len(w.touched) == 0 {
		return nil
	}
	taken := make([]netip.Addr, 0, min(len(w.touched), touches))
	for addr := range w.touched {
		if len(taken) == touches {
			return taken
		}
		taken = append(taken, addr)
		delete(w.touched, addr)
	}
	w.touched = map[netip.Addr]struct{}{} // it may have been all
	return taken
}

// again has everything told once more.
func (w *wire) again() { w.stale = true }

// failing tells whether it needs to be.
func (w *wire) failing() bool { return w.deaf || len(w.failed) > 0 }

func (w *wire) setSegments(segments []link.Link) {
	if !slices.EqualFunc(segments, w.segments, link.Link.Equal) {
		w.segments, w.stale = segments, true
	}
}

// index returns the index of an interface.
func (w *wire) index(name string) (int, bool) {
	for i := range w.segments {
		if w.segments[i].Name == name {
			return w.segments[i].Index, true
		}
	}
	return 0, false
}

func (w *wire) name(index int) string {
	for i := range w.segments {
		if w.segments[i].Index == index {
			return w.segments[i].Name
		}
	}
	return ""
}

// want takes how an address is to be answered.
func (a *Agent) want(now time.Time, ans mesh.Answer) {
	w := &a.wire
	delete(w.doubtful, ans.Addr)
	want := l2.Want{Interfaces: slices.Concat(ans.Interfaces, slices.Sorted(maps.Keys(ans.As))), As: ans.As}
	if len(ans.Interfaces) > 0 && !a.mayAnnounce(now, ans) {
		w.doubtful[ans.Addr] = want
		want = l2.Want{}
	}
	w.want(ans.Addr, want)
}

// want makes a want that of an address: none if it has no interfaces.
func (w *wire) want(addr netip.Addr, want l2.Want) {
	if len(want.Interfaces) > 0 {
		w.wants[addr] = want
	} else {
		delete(w.wants, addr)
	}
	w.changes[addr] = want
	w.touch(addr)
}

// answer has the responder answer as it is wanted. All is told anew where less
// would not tell what can't be used.
func (a *Agent) answer(all bool) {
	w := &a.wire
	if !all && len(w.failed) == 0 {
		all = len(w.changes) > 0 && !a.responder.Update(w.changes)
	} else {
		all = all || len(w.changes) > 0
	}
	if len(w.changes) > 0 {
		w.changes = map[netip.Addr]l2.Want{} // it may have been all
	}
	if !all {
		return
	}
	failed := a.responder.Set(w.segments, w.wants)
	a.tellFailures(failed)
	if !maps.EqualFunc(failed, w.failed, func(a, b error) bool { return a.Error() == b.Error() }) {
		w.failed = failed
		for addr := range w.wants {
			w.touch(addr)
		}
	}
}

// do does what the machine says.
func (a *Agent) do(now time.Time, out mesh.Output) {
	w := &a.wire
	stale := w.stale
	if stale {
		w.deaf = !a.transport.Set(w.segments)
		w.stale = false
	}
	for _, f := range out.Frames {
		a.transport.Send(f.Interface, f.To, f.Sparing, f.Payload)
	}
	for _, ans := range out.Answers {
		a.want(now, ans)
	}
	a.guard(now)
	a.responder.Silence(out.Silent)
	a.answer(stale)
	if a.view.complete() && len(out.Silent) == 0 && !out.More {
		a.ready.Store(true)
	}
	for _, addr := range out.Probe {
		a.check(now, addr)
	}
	// Not before: a process that was stopped and goes on must not answer until
	// the machine has noticed.
	a.responder.AnswerUntil(now.Add(deadman))
	for _, name := range out.Refresh {
		a.responder.Refresh(name)
	}
	for _, addr := range out.Announce {
		a.responder.Announce(addr)
	}
	for _, q := range out.Asks {
		name := w.name(q.Interface)
		a.sightings.ask(question{name, q.Addr}, now)
		if err := a.responder.Ask(name, q.Addr, q.MAC, false); err != nil {
			a.log.V(1).Info("Can't ask for a node", "interface", name, "address", q.Addr, "reason", err.Error())
		}
	}
	for _, r := range out.Record {
		w.touch(r.Addr)
		if r.Held {
			w.held[r.Addr] = r.Claim
		}
	}
}
