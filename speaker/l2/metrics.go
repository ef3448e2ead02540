// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are by interface.
type metrics struct {
	requests, malformed, replies, gratuitous, errors *prometheus.CounterVec
	addresses                                        *prometheus.GaugeVec
}

// counters are the metrics of one interface.
type counters struct {
	requests, malformed, replies, gratuitous, errors prometheus.Counter
	addresses                                        prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) metrics {
	f := promauto.With(r)
	counter := func(name, help string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"interface"})
	}
	return metrics{
		requests:   counter("fairlead_l2_requests_received_total", "ARP requests received, for any address."),
		malformed:  counter("fairlead_l2_malformed_total", "ARP requests ignored because they are malformed."),
		replies:    counter("fairlead_l2_replies_sent_total", "ARP replies sent."),
		gratuitous: counter("fairlead_l2_gratuitous_sent_total", "Gratuitous ARP frames sent."),
		errors:     counter("fairlead_l2_send_errors_total", "ARP frames that the interface did not take."),
		addresses: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fairlead_l2_addresses", Help: "Addresses that are answered for.",
		}, []string{"interface"}),
	}
}

func (m metrics) of(name string) counters {
	return counters{
		requests:   m.requests.WithLabelValues(name),
		malformed:  m.malformed.WithLabelValues(name),
		replies:    m.replies.WithLabelValues(name),
		gratuitous: m.gratuitous.WithLabelValues(name),
		errors:     m.errors.WithLabelValues(name),
		addresses:  m.addresses.WithLabelValues(name),
	}
}
