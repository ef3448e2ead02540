// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// stats are of all sessions, counts of one.
type stats struct {
	dropped map[reason]uint64
	stalls  uint64
}

type counts struct{ received, sent, failed uint64 }

var ofPeer = []string{"peer", "source", "interface", "vrf", "multihop"}

// What is collected is read from the sessions, so that none of it outlives
// them and packets cost no look-up.
var (
	descSessions = prometheus.NewDesc("fairlead_bfd_sessions", "BFD sessions by their state.", []string{"state"}, nil)
	descDropped  = prometheus.NewDesc("fairlead_bfd_packets_dropped_total", "BFD packets received and not heeded, by reason.", []string{"reason"}, nil)
	descStalls   = prometheus.NewDesc("fairlead_bfd_stalls_total", "Times that the process was kept from running for so long that BFD gave its neighbours more time.", nil, nil)
	descUp       = prometheus.NewDesc("fairlead_bfd_session_up", "Whether the session is Up.", ofPeer, nil)
	descDowns    = prometheus.NewDesc("fairlead_bfd_session_downs_total", "How often the session left Up.", ofPeer, nil)
	descReceived = prometheus.NewDesc("fairlead_bfd_packets_received_total", "BFD packets received for the session.", ofPeer, nil)
	descSent     = prometheus.NewDesc("fairlead_bfd_packets_sent_total", "BFD packets sent by the session.", ofPeer, nil)
	descFailed   = prometheus.NewDesc("fairlead_bfd_send_errors_total", "BFD packets that the network did not take.", ofPeer, nil)
)

var _ prometheus.Collector = &Manager{}

// Describe implements prometheus.Collector.
func (m *Manager) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSessions, descDropped, descStalls, descUp, descDowns, descReceived, descSent, descFailed} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Manager) Collect(ch chan<- prometheus.Metric) {
	for _, metric := range m.metrics() {
		ch <- metric
	}
}

// metrics doesn't hold the lock for as long as whoever collects them takes.
func (m *Manager) metrics() (out []prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	add := func(d *prometheus.Desc, kind prometheus.ValueType, v uint64, labels ...string) {
		out = append(out, prometheus.MustNewConstMetric(d, kind, float64(v), labels...))
	}
	var states [Up + 1]uint64
	for _, e := range m.endpoints {
		if !e.gone.IsZero() {
			continue
		}
		states[e.state]++
		source := ""
		if e.Local.IsValid() {
			source = e.Local.String()
		}
		labels := []string{e.Remote.String(), source, e.Interface, e.VRF, strconv.FormatBool(e.Multihop)}
		add(descUp, prometheus.GaugeValue, uint64(btoi(e.state == Up)), labels...)
		add(descDowns, prometheus.CounterValue, e.downs, labels...)
		add(descReceived, prometheus.CounterValue, e.count.received, labels...)
		add(descSent, prometheus.CounterValue, e.count.sent, labels...)
		add(descFailed, prometheus.CounterValue, e.count.failed, labels...)
	}
	for state, n := range states {
		add(descSessions, prometheus.GaugeValue, n, State(state).String())
	}
	for _, why := range reasons {
		add(descDropped, prometheus.CounterValue, m.stats.dropped[why], string(why))
	}
	add(descStalls, prometheus.CounterValue, m.stats.stalls)
	return out
}
