// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/l2"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
)

// metrics are of the mesh: what is answered is counted by the responder.
type metrics struct {
	dropped   *prometheus.CounterVec
	peers     *prometheus.GaugeVec
	standing  prometheus.Gauge
	takeovers prometheus.Counter
	stalls    prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	f := promauto.With(r)
	return metrics{
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_mesh_frames_dropped_total",
			Help: "Frames of other speakers, or parts of them, that were not taken, by reason.",
		}, []string{"reason"}),
		peers: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fairlead_mesh_peers", Help: "Speakers that are heard on an interface.",
		}, []string{"interface"}),
		standing: f.NewGauge(prometheus.GaugeOpts{
			Name: "fairlead_l2_standing_in", Help: "Addresses that are answered with the MAC of another node, whose speaker is away.",
		}),
		takeovers: f.NewCounter(prometheus.CounterOpts{
			Name: "fairlead_l2_takeovers_total", Help: "Addresses that this node began to announce while the claim on record was another node's.",
		}),
		stalls: f.NewCounter(prometheus.CounterOpts{
			Name: "fairlead_mesh_stalls_total", Help: "Times that the speaker found that it had stood still, and was silent until it had looked around.",
		}),
	}
}

// tales is what was logged and counted.
type tales struct {
	// unable are the addresses that the others wait for in vain, by reason.
	unable  map[netip.Addr]plan.Reason
	counts  map[plan.Reason]int
	told    map[plan.Reason]int // what counts was when it was logged
	own     map[netip.Addr]bool // announced as the owner
	stands  map[netip.Addr]bool // answered in the owner's place
	dropped mesh.Drops
	stalls  uint64

	// What is to be logged when no address is touched any more, and when that
	// was last done.
	fresh          map[plan.Reason]plan.Verdict
	added, removed int
	standing       int // as it was logged
	logged         time.Time
}

// logInterval is between two logs of what became of addresses: new ones are
// probed a few at a time.
const logInterval = time.Second

func newTales() tales {
	return tales{
		unable: map[netip.Addr]plan.Reason{}, counts: map[plan.Reason]int{}, told: map[plan.Reason]int{},
		own: map[netip.Addr]bool{}, stands: map[netip.Addr]bool{},
		fresh: map[plan.Reason]plan.Verdict{},
	}
}

// tellFailures logs places that can't be used, once.
func (a *Agent) tellFailures(failed map[l2.Place]error) {
	for place, err := range failed {
		if was := a.wire.failed[place]; was == nil || was.Error() != err.Error() {
			a.log.Error(err, "Can't announce on interface, trying again", "interface", place.Interface, "family", place.Family)
		}
	}
}

// tell counts what has changed, also about addresses that were touched, and logs
// it when there are no more of them, now and then.
func (a *Agent) tell(now time.Time, touched []netip.Addr) {
	t := &a.tales
	a.tellDrops()
	stalls := a.machine.Stalls()
	a.metrics.stalls.Add(float64(stalls - t.stalls))
	t.stalls = stalls
	if len(touched) > 0 {
		a.count(touched)
	}
	if len(a.wire.touched) == 0 && now.Sub(t.logged) >= logInterval && a.logTales() {
		t.logged = now
	}
}

// count counts what has changed about addresses.
func (a *Agent) count(touched []netip.Addr) {
	t := &a.tales
	var snapshot plan.Snapshot
	for _, addr := range touched {
		_, owns := a.answering(addr)
		stands := len(a.wire.wants[addr].As) > 0
		switch {
		case owns && !t.own[addr]:
			t.added++
			t.own[addr] = true
			if was := a.view.state.Addresses[addr].Record.Claim; was != nil && was.Node != a.node {
				a.metrics.takeovers.Inc()
			}
			claim, _ := a.machine.Claim(addr)
			a.log.V(1).Info("Announcing address", "address", addr, "interfaces", a.wire.wants[addr].Interfaces, "term", claim.Term)
		case !owns && t.own[addr]:
			t.removed++
			delete(t.own, addr)
			a.log.V(1).Info("Stopped announcing address", "address", addr)
		}
		if stands {
			t.stands[addr] = true
		} else {
			delete(t.stands, addr)
		}
		if is, ok := a.view.state.Addresses[addr]; ok && !owns {
			is.Claim = plan.Claim{}
			if c, ok := a.machine.Claim(addr); ok {
				is.Claim = plan.Claim{Node: c.Node, Term: c.Term}
			}
			snapshot.Addresses = append(snapshot.Addresses, is.Address)
		}
		if r, ok := t.unable[addr]; ok {
			t.counts[r]--
			delete(t.unable, addr)
		}
	}
	a.metrics.standing.Set(float64(len(t.stands)))
	snapshot.Nodes = a.view.nodes
	for _, v := range plan.Compute(snapshot, a.node).Verdicts {
		if v.Expected {
			t.unable[v.Address] = v.Reason
			t.counts[v.Reason]++
			t.fresh[v.Reason] = v
		}
	}
}

// logTales logs what was counted, and reports whether there was something.
func (a *Agent) logTales() (logged bool) {
	t := &a.tales
	for reason, v := range t.fresh {
		if t.counts[reason] == t.told[reason] {
			continue
		}
		logged = true
		a.log.Info("Can't announce addresses that this node is chosen for", "reason", reason,
			"addresses", t.counts[reason], "one", v.Address, "message", v.Message)
	}
	clear(t.fresh)
	maps.Copy(t.told, t.counts)
	if t.added+t.removed > 0 {
		logged = true
		a.log.Info("Announcements changed", "added", t.added, "removed", t.removed, "addresses", len(t.own))
	}
	t.added, t.removed = 0, 0
	if n := len(t.stands); n != t.standing {
		t.standing, logged = n, true
		a.log.Info("Standing in for speakers that are away", "addresses", n)
	}
	return logged
}

func (a *Agent) tellDrops() {
	drops := a.machine.Drops()
	if drops == a.tales.dropped {
		return
	}
	for reason, n := range drops {
		if more := n - a.tales.dropped[reason]; more > 0 {
			a.metrics.dropped.WithLabelValues(mesh.Drop(reason).String()).Add(float64(more))
		}
	}
	a.tales.dropped = drops
}
