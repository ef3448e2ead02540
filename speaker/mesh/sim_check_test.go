// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// twoBound is how long two MACs may answer for an address among nodes that
	// can tell each other, by at most one between.
	twoBound = 1 * s
	// answerBound is how long an address may go unanswered after a change,
	// where there is a node that could answer.
	answerBound = 1500 * ms
	// cutBound is added to it while some nodes can't hear each other though
	// they are on one network: claims then come by those between, and are
	// given time.
	cutBound = 2 * s
	// reasonBound is how long ago a node's trouble may be to be the reason for
	// which its address moves: who stands in does so for 10 s.
	reasonBound = 13 * s
)

// checker looks at a world again and again.
type checker struct {
	w          *sim
	failed     string
	lastChange int64
	judging    bool

	addrs map[netip.Addr]*checked
	noNew bool
}

// checked is what is remembered of an address.
type checked struct {
	a          *simAddress
	two        map[[2]int]int64
	unanswered map[int]int64
	owner      *simNode // of the highest term
	term       int64
	recorded   int64
	before     *simNode // when the checks began
	moves      int
}

func (c *checker) init(w *sim) {
	c.w = w
	c.addrs = map[netip.Addr]*checked{}
	for _, a := range w.api.addresses {
		c.add(a)
	}
}

func (c *checker) add(a *simAddress) {
	k := &checked{a: a, two: map[[2]int]int64{}, unanswered: map[int]int64{}}
	if a.record.Term > 0 {
		k.owner, k.term = c.w.byName(a.record.Node), a.record.Term
	}
	c.addrs[a.addr] = k
}

func (c *checker) fail(format string, args ...any) {
	if c.failed == "" {
		c.failed = fmt.Sprintf("%.3f s: %s", float64(c.w.now)/1e9, fmt.Sprintf(format, args...))
		c.w.log("BROKEN: %s", c.failed)
	}
}

func (c *checker) begin() {
	c.judging = true
	c.lastChange = c.w.now
	for _, k := range c.addrs {
		k.before = k.owner
		k.moves = 0
	}
}

// look checks what goes on, every 25 ms.
func (c *checker) look() {
	for _, a := range c.w.api.sorted() {
		k := c.addrs[a.addr]
		if a.record.Term < k.recorded {
			c.fail("the recorded term of %v fell from %d to %d", a.addr, k.recorded, a.record.Term)
		}
		k.recorded = a.record.Term
		c.lookAtTwo(k)
		c.lookForAnswer(k)
	}
	c.w.after(25*ms, c.look)
}

// answer is the MAC with which a node answers for an address.
func (n *simNode) answer(a *simAddress) (link.MAC, bool) {
	if !n.running() || !n.carrier[a.segment] || n.unfit {
		return link.MAC{}, false
	}
	ans := n.answers[a.addr]
	if len(ans.Interfaces) > 0 {
		if slices.Contains(n.silent, ifaceName(a.segment)) {
			return link.MAC{}, false
		}
		return n.mac(a.segment), true
	}
	mac, ok := ans.As[ifaceName(a.segment)]
	return mac, ok
}

// tell says that what one of two nodes says gets to the other. To who only
// stands in nobody relays: it claims nothing that could be contradicted.
func (c *checker) tell(a, b *simNode, k *checked) bool {
	w, segment := c.w, k.a.segment
	both := func(a, b *simNode) bool { return w.connected(a, b, segment) && w.connected(b, a, segment) }
	if both(a, b) {
		return true
	}
	if a.answers[k.a.addr].For != "" || b.answers[k.a.addr].For != "" {
		return false
	}
	for _, x := range w.nodes {
		if x != a && x != b && x.running() && x.synced >= 0 && w.now-x.synced > s && both(a, x) && both(x, b) {
			return true
		}
	}
	return false
}

func (c *checker) lookAtTwo(k *checked) {
	type answerer struct {
		n   *simNode
		mac link.MAC
	}
	var all []answerer
	for _, n := range c.w.nodes {
		if mac, ok := n.answer(k.a); ok {
			all = append(all, answerer{n, mac})
		}
	}
	seen := map[[2]int]bool{}
	for i, x := range all {
		for _, y := range all[i+1:] {
			if x.mac == y.mac || x.n.group[k.a.segment] != y.n.group[k.a.segment] || !c.tell(x.n, y.n, k) {
				continue
			}
			id := [2]int{x.n.i, y.n.i}
			seen[id] = true
			if k.two[id] == 0 {
				k.two[id] = c.w.now
			} else if c.judging && c.w.now-k.two[id] > twoBound {
				c.fail("%v is answered by %s with %v and by %s with %v since %.3f s", k.a.addr,
					x.n.name, x.mac, y.n.name, y.mac, float64(k.two[id])/1e9)
			}
		}
	}
	for id := range k.two {
		if !seen[id] {
			delete(k.two, id)
		}
	}
}

func (c *checker) lookForAnswer(k *checked) {
	seg := k.a.segment
	for group := range 2 {
		since, able, answered := int64(1)<<62, false, false
		for _, n := range c.w.nodes {
			if n.group[seg] == group && !answered {
				_, answered = n.answer(k.a)
			}
		}
		for _, n := range c.w.nodes {
			if answered || n.group[seg] != group {
				continue
			}
			if t, ok := c.able(n, k); ok {
				able = true
				since = min(since, t)
			}
		}
		switch {
		case answered || !able || !c.judging:
			delete(k.unanswered, group)
		case k.unanswered[group] == 0:
			k.unanswered[group] = c.w.now
		default:
			if from := max(k.unanswered[group], c.lastChange, since); c.w.now-from > c.bound() {
				c.tellViews(k)
				c.fail("%v is answered by nobody in part %d since %.3f s", k.a.addr, group, float64(from)/1e9)
			}
		}
	}
}

// tellViews logs what each speaker knows of an address.
func (c *checker) tellViews(k *checked) {
	for _, n := range c.w.nodes {
		if !n.running() {
			continue
		}
		e := n.m.addrs[k.a.addr]
		if e == nil {
			c.w.log("%s doesn't know %v", n.name, k.a.addr)
			continue
		}
		best, _ := n.m.Claim(e.addr)
		c.w.log("%s in part %d: best %v mute %v held by %s, reachable %v, able %v, successor %v, mine %v, patience %v", n.name,
			n.group[k.a.segment], best, e.best.mute, e.holder.name, n.m.reachable, n.m.able(), e.successor, e.mine, e.had().yielded.next.Sub(epoch))
		c.w.log("    on %v, review %v, place %d", e.on, e.holder.review.Sub(epoch), e.place())
		for _, p := range n.m.order {
			for _, l := range p.links {
				c.w.log("    %s on %s: %v, finding %d, heard %v, via %v, asks %d", p.name, l.on.Name, l.state(), l.verdict.finding,
					l.last.Sub(epoch), l.via.Sub(epoch), l.ask.n)
			}
		}
	}
}

func (c *checker) bound() int64 {
	for _, from := range c.w.cut {
		if slices.Contains(from, true) {
			return answerBound + cutBound
		}
	}
	return answerBound
}

// able tells whether a node could answer for an address, and since when it
// may judge.
func (c *checker) able(n *simNode, k *checked) (int64, bool) {
	if !n.running() || n.synced < 0 || !n.carrier[k.a.segment] || n.unfit || n.leaving != Stay {
		return 0, false
	}
	e := n.m.addrs[k.a.addr]
	if e == nil || !e.known {
		return 0, false
	}
	if c.alone(n, k.a.segment) && n.api && !c.w.api.down && e.best.by != n.m.self {
		return 0, false // of nodes that hear nobody the record chooses one
	}
	since := n.m.started.Sub(epoch).Nanoseconds() + int64(youth)
	if e.best.by == nil {
		since = max(since, e.proposedAt.Sub(epoch).Nanoseconds()+int64(proposalTime))
	}
	if e.holder != n.m.self && e.holder != n.m.nobody {
		if !e.holder.present(c.w.time(), e) {
			// It claimed though nobody here hears it: it is given time.
			since = max(since, e.patience(false).Sub(epoch).Nanoseconds())
		}
		heard := false
		for _, l := range e.holder.links {
			heard = heard || !l.heard().IsZero()
		}
		if !heard {
			since += int64(coldStart)
		}
	}
	return since, true
}

// alone tells whether a node hears nobody. The hellos of a speaker that doesn't
// know its cluster yet count for nothing.
func (c *checker) alone(n *simNode, segment int) bool {
	for _, o := range c.w.nodes {
		if o != n && o.running() && o.synced >= 0 && c.w.connected(o, n, segment) {
			return false
		}
	}
	return true
}

// claimed is told of each new claim.
func (c *checker) claimed(n *simNode, r Record) {
	k := c.addrs[r.Addr]
	c.w.log("%s claims %v term %d rank %d held %v", n.name, r.Addr, r.Claim.Term, r.Claim.Rank, r.Held)
	if k == nil || r.Claim.Term <= k.term {
		return
	}
	old := k.owner
	k.owner, k.term = n, r.Claim.Term
	if old == n {
		return
	}
	k.moves++
	if !c.judging {
		return
	}
	if c.noNew {
		c.fail("%s claims %v with term %d though nothing happened", n.name, r.Addr, r.Claim.Term)
	}
	if old == nil || old.troubles > 0 || c.w.now-old.disturbed < reasonBound {
		c.veto(n, old, k)
		return
	}
	c.fail("%v moved from %s to %s (term %d) without a reason", r.Addr, old.name, n.name, r.Claim.Term)
}

// veto checks that nobody replaces an owner that works and is heard by one
// whom it hears.
func (c *checker) veto(n, old *simNode, k *checked) {
	w, seg := c.w, k.a.segment
	if old == nil || w.now-c.lastChange < 800*ms || w.now < 3*s || w.api.drained[old.i] ||
		!old.running() || old.synced < 0 || w.now-old.synced < s || old.leaving != Stay || old.unfit || !old.carrier[seg] || w.loss > 0 {
		return
	}
	hears := false
	for _, x := range w.nodes {
		hears = hears || x != old && x.running() && w.connected(x, old, seg)
	}
	if !hears || !w.connected(n, old, seg) && !w.connected(old, n, seg) && old.group[seg] != n.group[seg] {
		return
	}
	for _, x := range w.nodes {
		if x != old && x.running() && x.synced >= 0 && w.now-x.synced > s && w.connected(old, x, seg) && (x == n || w.connected(x, n, seg)) {
			if e := old.m.addrs[k.a.addr]; e != nil && e.best.by == old.m.self {
				c.fail("%s claims %v of %s, which works and is heard by %s", n.name, k.a.addr, old.name, x.name)
			}
		}
	}
}

// still says that from now on nothing may happen.
func (c *checker) still() { c.noNew = true }

// final checks that all agree in the end.
func (c *checker) final() {
	for _, a := range c.w.api.sorted() {
		var who *simNode
		for _, n := range c.w.nodes {
			if !n.running() || n.synced < 0 {
				continue
			}
			if _, ok := n.answer(a); ok {
				if who != nil {
					c.fail("in the end %v is answered by %s and %s", a.addr, who.name, n.name)
				}
				who = n
			}
			best, _ := n.m.Claim(a.addr)
			if best.Node != a.record.Node || best.Term != a.record.Term {
				c.fail("in the end %s knows %v as %v, but recorded is %v", n.name, a.addr, best, a.record)
			}
		}
		k := c.addrs[a.addr]
		if who == nil {
			c.lookForAnswer(k)
			if c.failed == "" {
				continue // its owner was never there
			}
		}
	}
}
