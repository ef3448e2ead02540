// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"math/big"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/fairlead-lb/fairlead/ipam"
)

var (
	poolAddresses = prometheus.NewDesc("fairlead_pool_addresses",
		"Addresses of a pool by family and state: capacity, allocated (bound or reserved), available and quarantined.", []string{"pool", "family", "state"}, nil)
	servicesWaiting = prometheus.NewDesc("fairlead_services_waiting",
		"Services that lack an address that they want.", nil, nil)
	addressConflicts = prometheus.NewDesc("fairlead_address_conflicts",
		"Addresses that a host outside the cluster has, too.", nil, nil)
)

// collector reads the ledger when it is scraped, so that nothing has to keep
// the numbers current.
type collector struct{ c *Controller }

func registerMetrics(c *Controller) error { return metrics.Registry.Register(collector{c}) }

func (m collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- poolAddresses
	ch <- servicesWaiting
	ch <- addressConflicts
}

func (m collector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(servicesWaiting, prometheus.GaugeValue, float64(m.c.ledger.countWaiting()))
	ch <- prometheus.MustNewConstMetric(addressConflicts, prometheus.GaugeValue, float64(m.c.ledger.countConflicts()))
	for _, pool := range m.c.pools.names() {
		m.c.ledger.mu.Lock()
		stats, ok := m.c.ledger.alloc.Stats(pool)
		quarantined := map[ipam.Family]int64{}
		for _, addr := range m.c.ledger.quarantinedLocked(pool) {
			quarantined[ipam.FamilyOf(addr)]++
		}
		m.c.ledger.mu.Unlock()
		if !ok {
			continue
		}
		collectFamily(ch, pool, ipam.IPv4, stats.IPv4, quarantined[ipam.IPv4])
		collectFamily(ch, pool, ipam.IPv6, stats.IPv6, quarantined[ipam.IPv6])
	}
}

func collectFamily(ch chan<- prometheus.Metric, pool string, family ipam.Family, u ipam.Usage, quarantined int64) {
	if u.Capacity == nil || u.Capacity.Sign() == 0 {
		return
	}
	for _, state := range []struct {
		name  string
		count *big.Int
	}{{"capacity", u.Capacity}, {"allocated", u.Allocated}, {"available", u.Available}, {"quarantined", big.NewInt(quarantined)}} {
		v, _ := new(big.Float).SetInt(state.count).Float64()
		ch <- prometheus.MustNewConstMetric(poolAddresses, prometheus.GaugeValue, v, pool, family.String(), state.name)
	}
}
