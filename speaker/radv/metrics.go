// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are by interface.
type metrics struct {
	sent, received, dropped, failed *prometheus.CounterVec
	routers                         *prometheus.GaugeVec
}

// counters are the metrics of one interface.
type counters struct {
	sent, received map[kind]prometheus.Counter
	drop           func(reason)
	failed         prometheus.Counter
	routers        prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) metrics {
	f := promauto.With(reg)
	return metrics{
		sent: f.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_radv_sent_total", Help: "Router advertisements and solicitations sent.",
		}, []string{"interface", "message"}),
		received: f.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_radv_received_total", Help: "Valid router advertisements and solicitations received.",
		}, []string{"interface", "message"}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_radv_dropped_total", Help: "Router advertisements and solicitations ignored, by what is wrong with them.",
		}, []string{"interface", "reason"}),
		failed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_radv_send_errors_total", Help: "Router advertisements and solicitations that the interface did not take.",
		}, []string{"interface"}),
		routers: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fairlead_radv_routers", Help: "Routers known by their advertisements.",
		}, []string{"interface"}),
	}
}

func (m metrics) of(name string) counters {
	c := counters{
		sent: map[kind]prometheus.Counter{}, received: map[kind]prometheus.Counter{},
		drop:    func(why reason) { m.dropped.WithLabelValues(name, string(why)).Inc() },
		failed:  m.failed.WithLabelValues(name),
		routers: m.routers.WithLabelValues(name),
	}
	for _, k := range [...]kind{solicitation, advertisement} {
		c.sent[k] = m.sent.WithLabelValues(name, k.String())
		c.received[k] = m.received.WithLabelValues(name, k.String())
	}
	return c
}
