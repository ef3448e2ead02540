// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are by interface and family.
type metrics struct {
	received, malformed, dropped, requests, late, replies, announcements, asks, errors *prometheus.CounterVec
	addresses, groups                                                                  *prometheus.GaugeVec
}

// counters are the metrics of one place.
type counters struct {
	received, malformed, dropped, requests, late, replies, announcements, asks, errors prometheus.Counter
	addresses, groups                                                                  prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) metrics {
	f := promauto.With(r)
	labels := []string{"interface", "family"}
	counter := func(name, help string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	return metrics{
		received:      counter("fairlead_l2_received_total", "ARP packets, neighbour solicitations and neighbour advertisements received."),
		malformed:     counter("fairlead_l2_malformed_total", "Received packets ignored because they are malformed or come from beyond the link."),
		dropped:       counter("fairlead_l2_dropped_total", "Packets lost because they came faster than they could be read."),
		requests:      counter("fairlead_l2_requests_received_total", "ARP requests and neighbour solicitations received, for any address."),
		late:          counter("fairlead_l2_requests_too_late_total", "Requests for an address of this node that were not answered because they were read too late, or because the speaker had been stalled."),
		replies:       counter("fairlead_l2_replies_sent_total", "ARP replies and solicited neighbour advertisements sent."),
		announcements: counter("fairlead_l2_announcements_sent_total", "Gratuitous ARP packets and unsolicited neighbour advertisements sent."),
		asks:          counter("fairlead_l2_asks_sent_total", "ARP requests and neighbour solicitations sent, to see who answers for an address."),
		errors:        counter("fairlead_l2_send_errors_total", "Packets that the interface did not take."),
		addresses: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fairlead_l2_addresses", Help: "Addresses that are answered for.",
		}, labels),
		groups: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fairlead_l2_groups", Help: "Solicited-node multicast groups that the interface was made a member of.",
		}, labels),
	}
}

func (m metrics) of(p Place) counters {
	name, family := p.Interface, p.Family.String()
	return counters{
		received:      m.received.WithLabelValues(name, family),
		malformed:     m.malformed.WithLabelValues(name, family),
		dropped:       m.dropped.WithLabelValues(name, family),
		requests:      m.requests.WithLabelValues(name, family),
		late:          m.late.WithLabelValues(name, family),
		replies:       m.replies.WithLabelValues(name, family),
		announcements: m.announcements.WithLabelValues(name, family),
		asks:          m.asks.WithLabelValues(name, family),
		errors:        m.errors.WithLabelValues(name, family),
		addresses:     m.addresses.WithLabelValues(name, family),
		groups:        m.groups.WithLabelValues(name, family),
	}
}
