// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// interval is between two looks at the settings: nothing tells of a change.
	interval = time.Minute
	// minInterval is between two looks, however often links change.
	minInterval = time.Second
)

// Monitor looks at the node's settings again and again.
type Monitor struct {
	log      logr.Logger
	read     func(links []link.Link, carriers []string) (Node, error)
	tell     func([]metav1.Condition)
	problems *prometheus.GaugeVec
	subjects chan subject
}

// subject is what to look at.
type subject struct {
	links    []link.Link
	carriers []string
}

// New returns a Monitor of the network namespace of the process. It calls tell
// from Run with the conditions, at first and when they changed.
func New(log logr.Logger, r prometheus.Registerer, tell func([]metav1.Condition)) *Monitor {
	return &Monitor{
		log: log, read: reader{sys: os.DirFS("/proc/sys"), accepts: accepts}.read, tell: tell,
		problems: promauto.With(r).NewGaugeVec(prometheus.GaugeOpts{
			Name: "fairlead_speaker_preflight_problems", Help: "1 if the settings of the node have a problem of the type, that of the Speaker's condition, and 0 if not.",
		}, []string{"type"}),
		subjects: make(chan subject, 1),
	}
}

// Set tells the node's interfaces, and which of them may carry addresses: all
// that can if carriers is nil. It doesn't wait, and only the last state counts.
// Nothing is looked at before it was called. One goroutine at a time may call
// it.
func (m *Monitor) Set(links []link.Link, carriers []string) {
	select {
	case <-m.subjects:
	default:
	}
	m.subjects <- subject{links, carriers}
}

// Run looks when Set is called, and every minute, until ctx is done, and
// returns nil then.
func (m *Monitor) Run(ctx context.Context) error {
	var now subject
	failing := false
	var told []metav1.Condition
	var last time.Time // look
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case now = <-m.subjects:
		case <-due:
		}
		if wait := time.Until(last.Add(minInterval)); wait > 0 {
			due = time.After(wait)
			continue
		}
		last, due = time.Now(), time.After(interval)
		n, err := m.read(now.links, now.carriers)
		if err != nil && !failing {
			m.log.Error(err, "Can't look at this node's network settings, trying again")
		}
		if failing = err != nil; failing {
			continue
		}
		if found := Check(n); !slices.Equal(told, found) {
			m.report(told, found)
			m.tell(found)
			told = found
		}
	}
}

// report logs and counts what changed.
func (m *Monitor) report(before, after []metav1.Condition) {
	for i, c := range after {
		problem := m.problems.WithLabelValues(c.Type)
		switch {
		case wrong(c):
			problem.Set(1)
			if before == nil || before[i] != c {
				m.log.Info("The network settings of this node are in the way of its addresses", "condition", c.Type, "reason", c.Reason, "message", c.Message)
			}
		default:
			problem.Set(0)
			if before != nil && wrong(before[i]) {
				m.log.Info("The network settings of this node are in the way no longer", "condition", c.Type)
			}
		}
	}
}
