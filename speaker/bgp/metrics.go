// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are by peer and neighbour.
type metrics struct {
	up, routes                                                     *prometheus.GaugeVec
	established, updates, notificationsSent, notificationsReceived *prometheus.CounterVec
}

// counters are the metrics of one session.
type counters struct {
	up, routes                                                     prometheus.Gauge
	established, updates, notificationsSent, notificationsReceived prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	f := promauto.With(r)
	labels := []string{"peer", "neighbor"}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return f.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	return metrics{
		up:                    gauge("fairlead_bgp_session_up", "1 while the session is established, else 0."),
		routes:                gauge("fairlead_bgp_routes_announced", "Routes that the router gets while the session is established."),
		established:           counter("fairlead_bgp_session_established_total", "How often the session was established."),
		updates:               counter("fairlead_bgp_updates_sent_total", "UPDATE messages sent."),
		notificationsSent:     counter("fairlead_bgp_notifications_sent_total", "NOTIFICATION messages sent: we ended the session, or refused it."),
		notificationsReceived: counter("fairlead_bgp_notifications_received_total", "NOTIFICATION messages received: the router ended the session, or refused it."),
	}
}

func (m metrics) of(k Key) counters {
	peer, neighbor := k.Peer, k.Neighbor.String()
	return counters{
		up:                    m.up.WithLabelValues(peer, neighbor),
		routes:                m.routes.WithLabelValues(peer, neighbor),
		established:           m.established.WithLabelValues(peer, neighbor),
		updates:               m.updates.WithLabelValues(peer, neighbor),
		notificationsSent:     m.notificationsSent.WithLabelValues(peer, neighbor),
		notificationsReceived: m.notificationsReceived.WithLabelValues(peer, neighbor),
	}
}

func (m metrics) forget(k Key) {
	peer, neighbor := k.Peer, k.Neighbor.String()
	for _, v := range []interface{ DeleteLabelValues(...string) bool }{
		m.up, m.routes, m.established, m.updates, m.notificationsSent, m.notificationsReceived,
	} {
		v.DeleteLabelValues(peer, neighbor)
	}
}
