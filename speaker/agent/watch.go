// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/conflict"
	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
	"github.com/fairlead-lb/fairlead/speaker/preflight"
	"github.com/fairlead-lb/fairlead/speaker/record"
	"github.com/fairlead-lb/fairlead/speaker/verify"
)

const (
	// lookAround is between two looks at who is heard.
	lookAround = time.Second
	// introduction is how long other speakers have to be heard after a start
	// before it is told that they are not.
	introduction = 5 * time.Second
	// reviews is for how many addresses at a time it is found out whether this
	// node verifies them: others wait for the loop.
	reviews = 200
)

// watch finds out what other hosts, and other nodes, do with addresses.
type watch struct {
	seen      Seen
	conflicts *conflict.Machine
	verifies  *verify.Machine
	started   time.Time
	looked    time.Time
	// living are the speakers that are heard and synced.
	living map[string]bool
	// reviewing are the addresses of which it may have changed who verifies
	// them.
	reviewing []netip.Addr
	segments  []preflight.Segment // last told
	// mute are the addresses that nobody answered for, with their owners.
	mute map[netip.Addr]string
}

func newWatch(seen Seen) watch {
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	return watch{seen: seen, conflicts: conflict.New(r), verifies: verify.New(r), started: time.Now(), mute: map[netip.Addr]string{}}
}

// next returns the earlier of a time and when there is something to do here.
func (w *watch) next(t time.Time) time.Time {
	for _, n := range [...]time.Time{w.conflicts.Next(), w.verifies.Next()} {
		if !n.IsZero() && n.Before(t) {
			t = n
		}
	}
	return t
}

// setCluster tells which hosts are no strangers.
func (a *Agent) setCluster(now time.Time, segments []link.Link) {
	macs := map[link.MAC]struct{}{}
	for _, l := range a.view.links {
		macs[l.MAC] = struct{}{}
	}
	for _, s := range a.view.state.Speakers {
		for _, i := range s.Status.Interfaces {
			if mac, err := net.ParseMAC(i.MAC); err == nil && len(mac) == len(link.MAC{}) {
				macs[link.MAC(mac)] = struct{}{}
			}
		}
	}
	a.watch.conflicts.SetCluster(now, macs)
	nodes := map[string][]netip.Addr{}
	for _, p := range a.view.peers(segments) {
		for _, e := range p.Endpoints {
			if name := a.wire.name(e.Interface); name != "" {
				nodes[name] = append(nodes[name], e.Addr)
			}
		}
	}
	a.watch.conflicts.SetNodes(nodes)
}

// mayAnnounce tells whether an address of the node can be announced now. One
// that nobody has announced before has to be asked for first: another host may
// have it.
func (a *Agent) mayAnnounce(now time.Time, ans mesh.Answer) bool {
	is := a.view.state.Addresses[ans.Addr].Record
	claim, _ := a.machine.Claim(ans.Addr)
	a.watch.conflicts.Set(now, conflict.Address{
		Addr: ans.Addr, Interfaces: ans.Interfaces,
		First:    is.Claim == nil && claim.Term == 1,
		Recorded: record.InConflict(is.Status),
	})
	return a.watch.conflicts.MayAnnounce(ans.Addr)
}

// observe passes on what was seen of addresses.
func (a *Agent) observe(now time.Time, seen []l2.Sighting) {
	for _, s := range seen {
		kind := conflict.Claim
		switch {
		case s.Probe:
			kind = conflict.Probe
		case s.Reply:
			kind = conflict.Answer
			a.watch.verifies.Answered(now, s.Interface, s.Addr, s.MAC)
		}
		a.watch.conflicts.Sight(now, conflict.Sighting{Interface: s.Interface, Addr: s.Addr, MAC: s.MAC, Kind: kind})
	}
}

// guard does what is due about conflicts.
func (a *Agent) guard(now time.Time) {
	a.lookAround(now)
	w := &a.watch
	w.conflicts.Tick(now)
	out := w.conflicts.Output(now)
	for _, q := range out.Asks {
		a.ask(q.Interface, q.Addr, q.Probe)
	}
	for _, addr := range out.Free {
		if want, ok := a.wire.doubtful[addr]; ok {
			delete(a.wire.doubtful, addr)
			a.wire.want(addr, want)
		}
	}
	for _, addr := range out.Defend {
		a.responder.Announce(addr)
	}
	for _, r := range out.Reports {
		if c := r.Conflict; c != nil {
			a.log.Info("Another host has an address", "address", r.Addr, "mac", c.MAC, "interface", c.Interface, "announced", c.Announced)
		} else {
			a.log.Info("No other host has the address any more", "address", r.Addr)
		}
		w.seen.Conflict(r)
	}
	for _, p := range out.Proxies {
		a.log.Info("A host answers for the addresses of others: it is taken for a proxy", "mac", p.MAC, "interface", p.Interface, "addresses", p.Addrs)
	}
}

// verify has other nodes' addresses verified: those that were touched, and a few
// more.
func (a *Agent) verify(now time.Time, touched []netip.Addr) {
	w := &a.watch
	for _, addr := range touched {
		a.review(now, addr)
	}
	n := min(len(w.reviewing), reviews)
	for _, addr := range w.reviewing[:n] {
		a.review(now, addr)
	}
	w.reviewing = w.reviewing[n:]
	w.verifies.Tick(now)
	out := w.verifies.Output()
	for _, q := range out.Asks {
		a.ask(q.Interface, q.Addr, false)
	}
	for _, r := range out.Results {
		w.seen.Verified(r)
	}
	a.tellMute(out)
	for _, s := range out.Suspects {
		a.machine.Suspect(now, s.Addr)
	}
	for _, r := range out.Checked {
		if r.State != verify.Answered {
			a.machine.Confirm(now, r.Addr)
		}
	}
}

// tellMute logs once for an owner, not each time for each of its addresses.
func (a *Agent) tellMute(out verify.Output) {
	mute := a.watch.mute
	silent := func(node string) bool {
		for _, owner := range mute {
			if owner == node {
				return true
			}
		}
		return false
	}
	for _, addr := range out.Cleared {
		node := mute[addr]
		if delete(mute, addr); !silent(node) {
			a.log.Info("The owner of addresses answers again, or is it no longer", "owner", node)
		}
	}
	for _, s := range out.Suspects {
		if !silent(s.Node) {
			a.log.Info("The owner of an address is heard, but does not answer for it", "address", s.Addr, "owner", s.Node, "interface", s.Interface)
		}
		mute[s.Addr] = s.Node
	}
}

// review finds out whether this node verifies an address, and what becomes of
// conflicts of one that is not its own.
func (a *Agent) review(now time.Time, addr netip.Addr) {
	if _, doubtful := a.wire.doubtful[addr]; !doubtful {
		if _, ok := a.answering(addr); !ok {
			a.watch.conflicts.Remove(addr)
		}
	}
	if c, ok := a.verifiable(addr); ok && a.firstBackup(addr, c.Node) {
		a.watch.verifies.Set(now, c)
	} else {
		a.watch.verifies.Remove(addr)
	}
}

// check asks for an address because another node wants to know.
func (a *Agent) check(now time.Time, addr netip.Addr) {
	if c, ok := a.verifiable(addr); ok {
		a.watch.verifies.Check(now, c)
	}
}

// verifiable returns the claim of another node, if it is on record and can be
// verified by this one.
func (a *Agent) verifiable(addr netip.Addr) (verify.Claim, bool) {
	is, ok := a.view.state.Addresses[addr]
	claim, _ := a.machine.Claim(addr)
	recorded := is.Record.Claim
	if !ok || len(is.Services) == 0 || claim.Node == a.node || recorded == nil || recorded.Node != claim.Node || recorded.Term != claim.Term {
		return verify.Claim{}, false
	}
	mac, err := net.ParseMAC(recorded.MAC)
	l, on := a.couldAnswer(addr)
	if err != nil || len(mac) != len(link.MAC{}) || !on {
		return verify.Claim{}, false
	}
	return verify.Claim{
		Addr: addr, Node: claim.Node, Term: claim.Term, MAC: link.MAC(mac), Interface: l.Name,
		Recorded: record.Verification(addr, is.Record.Status),
	}, true
}

// firstBackup tells whether this node is the first living successor of an owner
// that is heard.
func (a *Agent) firstBackup(addr netip.Addr, owner string) bool {
	if !a.watch.living[owner] {
		return false
	}
	for _, name := range a.view.Successors(addr) {
		switch {
		case name == a.node:
			return true
		case name != owner && a.watch.living[name]:
			return false
		}
	}
	return false
}

// lookAround finds out who is heard.
func (a *Agent) lookAround(now time.Time) {
	w := &a.watch
	if now.Sub(w.looked) < lookAround {
		return
	}
	w.looked = now
	living, heard := map[string]bool{}, map[string]map[string]bool{}
	for _, p := range a.machine.Peers(now) {
		if !p.Heard {
			continue
		}
		living[p.Node] = living[p.Node] || p.State == mesh.Synced
		name := a.wire.name(p.Interface)
		if heard[name] == nil {
			heard[name] = map[string]bool{}
		}
		heard[name][p.Node] = true
	}
	if !maps.Equal(living, w.living) {
		w.living = living
		w.reviewing = a.view.all()
	}
	for _, l := range a.wire.segments {
		a.metrics.peers.WithLabelValues(l.Name).Set(float64(len(heard[l.Name])))
	}
	if !a.view.complete() || now.Sub(w.started) < introduction {
		return
	}
	if segments := a.heardOn(heard); !slices.EqualFunc(segments, w.segments, preflight.Segment.Equal) || w.segments == nil {
		w.segments = segments
		a.tellPeers(segments)
	}
}

// heardOn returns who is heard on each segment of those that the cluster has
// there.
func (a *Agent) heardOn(heard map[string]map[string]bool) []preflight.Segment {
	out := []preflight.Segment{}
	peers := a.view.peers(a.wire.segments)
	for _, l := range a.wire.segments {
		s := preflight.Segment{Interface: l.Name}
		for _, p := range peers {
			there := slices.ContainsFunc(p.Endpoints, func(e mesh.Endpoint) bool { return e.Interface == l.Index })
			switch {
			case heard[l.Name][p.Node]:
				s.Heard = append(s.Heard, p.Node)
			case there:
				s.NotHeard = append(s.NotHeard, p.Node)
			}
		}
		slices.SortFunc(s.Heard, strings.Compare)
		slices.SortFunc(s.NotHeard, strings.Compare)
		out = append(out, s)
	}
	return out
}

// ask asks the wire for an address.
func (a *Agent) ask(name string, addr netip.Addr, probe bool) {
	if err := a.responder.Ask(name, addr, link.MAC{}, probe); err != nil {
		a.log.V(1).Info("Can't ask for an address", "interface", name, "address", addr, "reason", err.Error())
	}
}
