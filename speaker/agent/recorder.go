// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

const (
	// writers work at once: a node may get a thousand addresses together.
	writers = 16
	// writeTimeout ends a write that hangs.
	writeTimeout = 10 * time.Second
	// minBackoff and maxBackoff are between two tries, of one write and of all
	// together.
	minBackoff, maxBackoff = 100 * time.Millisecond, 10 * time.Second
)

// Claim is a claim to be recorded.
type Claim struct {
	// Name of the LoadBalancerIP.
	Name string
	// ResourceVersion of the object that the claim was decided on. If it
	// changed meanwhile, the claim is not recorded.
	ResourceVersion string
	L2              v1alpha1.L2Claim
}

// Outcome is what became of a try to record.
type Outcome struct {
	// Reachable says that the API server decided, whatever it did.
	Reachable bool
	// Recorded says that it took the claim of Addr.
	Recorded bool
	Addr     netip.Addr
	Claim    Claim
}

// Recorder writes claims into the status of LoadBalancerIPs.
type Recorder struct {
	log    logr.Logger
	client client.StatusClient
	writes *prometheus.CounterVec
	queue  workqueue.TypedDelayingInterface[netip.Addr]
	// tries makes the tries of one write ever rarer.
	tries workqueue.TypedRateLimiter[netip.Addr]

	mu     sync.Mutex
	wanted map[netip.Addr]Claim
	// spent are the resourceVersions that were written against, with success
	// or not: another try would only meet a conflict. The newer object that
	// there must be decides again.
	spent   map[netip.Addr]string
	failing bool
	told    func(Outcome)
	// While the API server takes no write there is none before resume:
	// thousands of addresses must not ask it one by one whether it does again.
	resume  time.Time
	backoff time.Duration
}

// NewRecorder returns a Recorder that does nothing before Run.
func NewRecorder(log logr.Logger, reg prometheus.Registerer, c client.StatusClient) *Recorder {
	return &Recorder{
		log:    log,
		client: c,
		writes: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_claim_writes_total",
			Help: "Writes of claims to the API server, by result: recorded, outdated (another object version decides), failed (is tried again).",
		}, []string{"result"}),
		queue:  workqueue.NewTypedDelayingQueue[netip.Addr](),
		tries:  workqueue.NewTypedItemExponentialFailureRateLimiter[netip.Addr](minBackoff, maxBackoff),
		wanted: map[netip.Addr]Claim{},
		spent:  map[netip.Addr]string{},
	}
}

// Put makes a claim what is to be recorded of an address. It doesn't wait for
// the API server.
func (r *Recorder) Put(addr netip.Addr, c Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, ok := r.wanted[addr]
	r.wanted[addr] = c
	// Against the same object it is written already, or waits its turn: a busy
	// cluster must not undo the backoff.
	if !ok || was.ResourceVersion != c.ResourceVersion || was.L2.Term != c.L2.Term {
		r.queue.Add(addr)
	}
}

// Drop ends the tries to record a claim of the address, if there are any: it
// was recorded, or a better one is known.
func (r *Recorder) Drop(addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.wanted, addr)
	delete(r.spent, addr)
}

// Run writes until ctx is done, and returns nil then. It calls told, from
// several goroutines, after each try. It can be called once.
func (r *Recorder) Run(ctx context.Context, told func(Outcome)) error {
	r.told = told
	var done sync.WaitGroup
	for range writers {
		done.Go(func() {
			for {
				addr, shutdown := r.queue.Get()
				if shutdown {
					return
				}
				r.record(ctx, addr)
				r.queue.Done(addr)
			}
		})
	}
	<-ctx.Done()
	r.queue.ShutDown()
	done.Wait()
	return nil
}

// record writes the claim that is wanted for an address now, if any.
func (r *Recorder) record(ctx context.Context, addr netip.Addr) {
	r.mu.Lock()
	c, ok := r.wanted[addr]
	ok = ok && r.spent[addr] != c.ResourceVersion
	wait := time.Until(r.resume)
	r.mu.Unlock()
	switch {
	case !ok || ctx.Err() != nil:
		r.tries.Forget(addr)
		return
	case wait > 0:
		r.queue.AddAfter(addr, wait)
		return
	}

	err := r.write(ctx, c)
	switch {
	case err == nil:
		r.writes.WithLabelValues("recorded").Inc()
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		r.writes.WithLabelValues("outdated").Inc()
	default:
		r.writes.WithLabelValues("failed").Inc()
		r.failed(ctx, err)
		r.queue.AddAfter(addr, r.tries.When(addr))
		r.told(Outcome{Addr: addr, Claim: c})
		return
	}
	r.tries.Forget(addr)
	r.succeeded(addr, c)
	r.told(Outcome{Reachable: true, Recorded: err == nil, Addr: addr, Claim: c})
}

// failed logs the first failure, and makes all writes pause for longer and
// longer.
func (r *Recorder) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // the program ends
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Writes that were under way together fail together: that counts once.
	if now := time.Now(); !now.Before(r.resume) {
		r.backoff = min(max(2*r.backoff, minBackoff), maxBackoff)
		r.resume = now.Add(r.backoff)
	}
	if !r.failing {
		r.failing = true
		r.log.Error(err, "Can't record claims, announcing goes on and recording is tried again")
	}
}

// succeeded notes that the API server has decided about a claim.
func (r *Recorder) succeeded(addr netip.Addr, c Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.backoff, r.resume = 0, time.Time{}
	if r.failing {
		r.failing = false
		r.log.Info("Recording claims again")
	}
	if now, ok := r.wanted[addr]; ok && now.ResourceVersion == c.ResourceVersion {
		r.spent[addr] = c.ResourceVersion
	}
}

// write records a claim if the object is still the one it was decided on.
func (r *Recorder) write(ctx context.Context, c Claim) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": c.ResourceVersion},
		"status":   map[string]any{"l2": c.L2},
	})
	if err != nil {
		return fmt.Errorf("encode claim of %s: %w", c.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	obj := &v1alpha1.LoadBalancerIP{}
	obj.Name = c.Name
	if err := r.client.Status().Patch(ctx, obj, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("record claim of %s: %w", c.Name, err)
	}
	return nil
}
