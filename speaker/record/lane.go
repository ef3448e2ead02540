// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

const (
	// writeTimeout ends a write that hangs.
	writeTimeout = 10 * time.Second
	// minBackoff and maxBackoff are between two tries.
	minBackoff, maxBackoff = 100 * time.Millisecond, 10 * time.Second
)

// lane writes one thing after the other.
type lane struct {
	log    logr.Logger
	client Client
	writes *prometheus.CounterVec
	pace   time.Duration

	mu      sync.Mutex
	waiting map[netip.Addr]change
	order   []netip.Addr
	more    chan struct{}
}

func newLane(log logr.Logger, c Client, writes *prometheus.CounterVec, pace time.Duration) *lane {
	return &lane{log: log, client: c, writes: writes, pace: pace, waiting: map[netip.Addr]change{}, more: make(chan struct{}, 1)}
}

// put has something written of an address, instead of what waits to be.
func (l *lane) put(addr netip.Addr, c change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.waiting[addr]; !ok {
		l.order = append(l.order, addr)
	}
	l.waiting[addr] = c
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// take returns what is to be written next.
func (l *lane) take() (netip.Addr, change, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.order) == 0 {
		l.order = nil // let go of the array that a burst has grown
		return netip.Addr{}, nil, false
	}
	addr := l.order[0]
	l.order = l.order[1:]
	c := l.waiting[addr]
	delete(l.waiting, addr)
	return addr, c, true
}

// putBack has something tried again, unless there is something newer.
func (l *lane) putBack(addr netip.Addr, c change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.waiting[addr]; !ok {
		l.order = append(l.order, addr)
		l.waiting[addr] = c
	}
}

func (l *lane) run(ctx context.Context) {
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		addr, change, ok := l.take()
		if !ok {
			select {
			case <-ctx.Done():
			case <-l.more:
			}
			continue
		}
		wait := l.pace
		switch written, err := l.write(ctx, addr, change); {
		case err == nil, apierrors.IsNotFound(err), apierrors.IsForbidden(err):
			// What the policy refuses became another node's to tell between the
			// read and the write.
			result := "needless"
			if written {
				result = "recorded"
			}
			l.writes.WithLabelValues(result).Inc()
			if backoff > 0 {
				l.log.Info("Recording what was seen of addresses again")
			}
			backoff = 0
		case ctx.Err() != nil:
			return // the program ends
		default:
			l.writes.WithLabelValues("failed").Inc()
			l.putBack(addr, change)
			if apierrors.IsConflict(err) {
				break // somebody was faster, and that is no fault
			}
			if backoff == 0 {
				l.log.Error(err, "Can't record what was seen of addresses, trying again")
			}
			backoff = min(max(2*backoff, minBackoff), maxBackoff)
			wait = backoff
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// write reports whether there was something to write.
func (l *lane) write(ctx context.Context, addr netip.Addr, change change) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	obj := &v1alpha1.LoadBalancerIP{}
	if err := l.client.Get(ctx, client.ObjectKey{Name: ipam.ObjectName(addr)}, obj); err != nil {
		return false, fmt.Errorf("read LoadBalancerIP of %s: %w", addr, err)
	}
	updated := obj.DeepCopy()
	if change(updated); equality.Semantic.DeepEqual(obj.Status, updated.Status) {
		return false, nil
	}
	// The list of conditions is written as a whole: nobody else's may be lost.
	patch := client.MergeFromWithOptions(obj, client.MergeFromWithOptimisticLock{})
	if err := l.client.Status().Patch(ctx, updated, patch); err != nil {
		return false, fmt.Errorf("record what was seen of %s: %w", addr, err)
	}
	return true, nil
}
