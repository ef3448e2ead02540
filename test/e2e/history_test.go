// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// change is one write to a Service or a LoadBalancerIP.
type change struct {
	version uint64    // of the whole cluster: both kinds are in one etcd, which counts its writes
	seen    time.Time // when the watch told
	deleted bool
	service *corev1.Service          // or
	ip      *v1alpha1.LoadBalancerIP // this
}

// history is every write to Services and LoadBalancerIPs since it was started, with no gap.
type history struct {
	watches []*toolswatch.RetryWatcher
	running sync.WaitGroup

	mu      sync.Mutex
	changes []change
	gap     error
}

// record starts a history, which a spec that fails reports. What is there already is not in it.
func (s *site) record() (client.WithWatch, *history) {
	GinkgoHelper()
	api, err := client.NewWithWatch(s.RESTConfig(), client.Options{Scheme: s.API.Scheme(), Log: GinkgoLogr})
	Expect(err).NotTo(HaveOccurred())
	h, err := record(api)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		changes, _ := h.stop() // a gap has been told
		if CurrentSpecReport().Failed() {
			AddReportEntry("the history", lines(changes), ReportEntryVisibilityFailureOrVerbose)
		}
	})
	return api, h
}

func record(api client.WithWatch) (*history, error) {
	h := &history{}
	for _, list := range []client.ObjectList{&corev1.ServiceList{}, &v1alpha1.LoadBalancerIPList{}} {
		if err := api.List(context.Background(), list); err != nil {
			return nil, err
		}
		// It goes on where the last watch ended, and fails if that has been forgotten.
		w, err := toolswatch.NewRetryWatcherWithContext(context.Background(), list.GetResourceVersion(), watcherOf{api, list})
		if err != nil {
			return nil, err
		}
		h.watches = append(h.watches, w)
		h.running.Go(func() {
			for event := range w.ResultChan() {
				if err := h.add(event); err != nil {
					h.mu.Lock()
					h.gap = err
					h.mu.Unlock()
				}
			}
		})
	}
	return h, nil
}

// stop ends the recording and returns the changes in the order of their versions, unless some are missing.
func (h *history) stop() ([]change, error) {
	for _, w := range h.watches {
		w.Stop()
	}
	h.running.Wait()
	slices.SortStableFunc(h.changes, func(a, b change) int { return cmp.Compare(a.version, b.version) })
	return h.changes, h.gap
}

func (h *history) add(event watch.Event) error {
	c := change{seen: time.Now(), deleted: event.Type == watch.Deleted}
	switch obj := event.Object.(type) {
	case *corev1.Service:
		c.service = obj
	case *v1alpha1.LoadBalancerIP:
		c.ip = obj
	default:
		return fmt.Errorf("the history has a gap: %s %v", event.Type, event.Object)
	}
	version, err := strconv.ParseUint(event.Object.(metav1.Object).GetResourceVersion(), 10, 64)
	if err != nil {
		return err
	}
	c.version = version
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes = append(h.changes, c)
	return nil
}

// watcherOf watches the kind of a list.
type watcherOf struct {
	api  client.WithWatch
	list client.ObjectList
}

var _ toolscache.WatcherWithContext = watcherOf{}

func (w watcherOf) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return w.api.Watch(ctx, w.list.DeepCopyObject().(client.ObjectList), &client.ListOptions{Raw: &options})
}

// findings are what a history shows.
type findings struct {
	violations []string
	// Longest times for what may be for a moment.
	twoAddresses time.Duration // a Service holds two addresses of a family
	orphaned     time.Duration // an address is bound to a Service that is gone
	unbound      time.Duration // a Service shows an address that is not bound to it
	changes      int
	bound        int // bindings ever made
	shared       int // of them, to an address that had a holder
	reused       int // of them, of an address that another Service had released
}

func (f *findings) violation(format string, args ...any) {
	if len(f.violations) < 20 {
		f.violations = append(f.violations, fmt.Sprintf(format, args...))
	}
}

// String is for people.
func (f findings) String() string {
	return fmt.Sprintf("%d changes; %d bindings, %d of them to a shared address and %d of a rested one; "+
		"longest that a Service held two addresses of a family %s, that an address outlived its Service %s, "+
		"that a Service showed one it did not hold %s",
		f.changes, f.bound, f.shared, f.reused,
		f.twoAddresses.Round(time.Millisecond), f.orphaned.Round(time.Millisecond), f.unbound.Round(time.Millisecond))
}

// world is the cluster between two changes.
type world struct {
	services map[types.UID]*corev1.Service
	ips      map[string]*v1alpha1.LoadBalancerIP
	tenures  map[string]*tenure
	// since when there has been what findings measures.
	twoSince, orphanedSince, unboundSince map[string]time.Time
}

// check plays a history and tells what is wrong with it.
//
// After every single write the holders of an address must be ones that may share it, its name its own, and nobody may show
// an address that another holds and shows with whom it can't be shared. An address that a Service shows stays with it until
// the Service asks for something else. What takes the controllers a moment, it measures.
func check(changes []change, pool []netip.Addr) findings {
	f := findings{changes: len(changes)}
	w := &world{
		services: map[types.UID]*corev1.Service{}, ips: map[string]*v1alpha1.LoadBalancerIP{}, tenures: map[string]*tenure{},
		twoSince: map[string]time.Time{}, orphanedSince: map[string]time.Time{}, unboundSince: map[string]time.Time{},
	}
	for _, c := range changes {
		switch {
		case c.service != nil && c.deleted:
			delete(w.services, c.service.UID)
		case c.service != nil:
			f.checkTenures(c.version, c.service, w)
			w.services[c.service.UID] = c.service
		case c.deleted:
			if len(c.ip.Spec.Services) > 0 {
				f.violation("%d: %s is deleted while %s holds it", c.version, c.ip.Name, c.ip.Spec.Holder)
			}
			delete(w.ips, c.ip.Name)
		default:
			f.checkIP(c.version, c.ip, w.ips[c.ip.Name], pool)
			w.noteSharing(c.ip)
			w.ips[c.ip.Name] = c.ip
		}
		f.measure(c.version, c.seen, w)
	}
	return f
}

// checkIP looks at one state of an address.
func (f *findings) checkIP(version uint64, ip, before *v1alpha1.LoadBalancerIP, pool []netip.Addr) {
	addr, err := netip.ParseAddr(ip.Spec.Address)
	if err != nil || ipam.ObjectName(addr) != ip.Name {
		f.violation("%d: %s is the object of %s", version, ip.Name, ip.Spec.Address)
	}
	if !slices.Contains(pool, addr) {
		f.violation("%d: %s is in no pool", version, addr)
	}
	if before != nil && before.UID != ip.UID {
		f.violation("%d: %s has two objects", version, ip.Name)
	}
	for i, a := range ip.Spec.Services {
		for _, b := range ip.Spec.Services[i+1:] {
			switch {
			case ip.Spec.SharingKey == "":
				f.violation("%d: %s has two holders and no sharing key: %s and %s", version, ip.Name, a.Name, b.Name)
			case a.Namespace != b.Namespace:
				f.violation("%d: %s is held from two namespaces", version, ip.Name)
			case a.UID == b.UID || a.Name == b.Name:
				f.violation("%d: %s is held twice by %s", version, ip.Name, a.Name)
			}
			for _, p := range a.Ports {
				if slices.Contains(b.Ports, p) {
					f.violation("%d: %s has %v of both %s and %s", version, ip.Name, p, a.Name, b.Name)
				}
			}
		}
		if before == nil || !slices.Contains(holders(before), string(a.UID)) {
			f.bound++
			if before != nil && len(before.Spec.Services) > 0 {
				f.shared++
			}
			if before != nil && before.Spec.Released != nil && before.Spec.Released.Service.Name != a.Name {
				f.reused++
			}
		}
	}
}

// measure keeps how long a state lasts that may be for a moment.
func (f *findings) measure(version uint64, now time.Time, w *world) {
	held := map[string]int{}
	orphans := map[string]bool{}
	for _, ip := range w.ips {
		for _, b := range ip.Spec.Services {
			held[string(b.UID)+string(familyOf(netip.MustParseAddr(ip.Spec.Address)))]++
			if w.services[b.UID] == nil {
				orphans[ip.Name+string(b.UID)] = true
			}
		}
	}
	unbound := map[string]bool{}
	showing := map[string][]*corev1.Service{}
	for _, svc := range w.services {
		for _, text := range shown(svc) {
			showing[text] = append(showing[text], svc)
		}
	}
	for text, services := range showing {
		var bound []string
		if ip := w.ips[objectName(text)]; ip != nil {
			bound = holders(ip)
		}
		isBound := func(svc *corev1.Service) bool { return slices.Contains(bound, string(svc.UID)) }
		for _, svc := range services {
			if isBound(svc) {
				continue
			}
			unbound[text+string(svc.UID)] = true
			for _, other := range services {
				if isBound(other) && !mayShare(svc, other) {
					f.violation("%d: Service %s shows %s, which %s holds and shows", version, svc.Name, text, other.Name)
				}
			}
		}
	}
	f.unbound = max(f.unbound, lasting(now, w.unboundSince, unbound))
	maps.DeleteFunc(held, func(_ string, n int) bool { return n < 2 })
	f.twoAddresses = max(f.twoAddresses, lasting(now, w.twoSince, held))
	f.orphaned = max(f.orphaned, lasting(now, w.orphanedSince, orphans))
}

// mayShare says whether two Services of one namespace may be on one address as they are now.
func mayShare(a, b *corev1.Service) bool {
	key := a.Annotations[v1alpha1.AnnotationSharingKey]
	if key == "" || key != b.Annotations[v1alpha1.AnnotationSharingKey] {
		return false
	}
	return !slices.ContainsFunc(a.Spec.Ports, func(p corev1.ServicePort) bool {
		return slices.ContainsFunc(b.Spec.Ports, func(q corev1.ServicePort) bool { return p.Protocol == q.Protocol && p.Port == q.Port })
	})
}

// lasting notes what is now, and returns how long the longest of what was noted has been.
func lasting[V any](now time.Time, since map[string]time.Time, is map[string]V) (longest time.Duration) {
	for key, start := range since {
		longest = max(longest, now.Sub(start))
		if _, still := is[key]; !still {
			delete(since, key)
		}
	}
	for key := range is {
		if _, known := since[key]; !known {
			since[key] = now
		}
	}
	return longest
}

// String is for people.
func (c change) String() string {
	gone := ""
	if c.deleted {
		gone = " deleted"
	}
	if svc := c.service; svc != nil {
		if svc.DeletionTimestamp != nil {
			gone += " deleting"
		}
		var list []string
		for _, p := range svc.Spec.Ports {
			list = append(list, p.Name)
		}
		allocated := conditionOf(svc, v1alpha1.ServiceAllocated)
		return fmt.Sprintf("%d %s Service %s %.8s %s %v ports %v key %q asks %q shows %v %s%s", c.version, c.seen.Format("05.000"), svc.Name, svc.UID, svc.Spec.Type, svc.Spec.IPFamilies, list,
			svc.Annotations[v1alpha1.AnnotationSharingKey], svc.Annotations[v1alpha1.AnnotationAddresses], shown(svc), allocated.Reason, gone)
	}
	var list []string
	for _, b := range c.ip.Spec.Services {
		list = append(list, fmt.Sprintf("%s %.8s %v", b.Name, b.UID, b.Ports))
	}
	if r := c.ip.Spec.Released; r != nil {
		list = append(list, "released by "+r.Service.Name)
	}
	return fmt.Sprintf("%d %s %s key %q held by %q%s", c.version, c.seen.Format("05.000"), c.ip.Name, c.ip.Spec.SharingKey, list, gone)
}

func lines(changes []change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintln(&b, c)
	}
	return b.String()
}

// alive counts the objects that the history has seen come and not go.
func (h *history) alive() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	alive := map[types.UID]bool{}
	for _, c := range h.changes {
		obj := client.Object(c.service)
		if c.ip != nil {
			obj = c.ip
		}
		if c.deleted {
			delete(alive, obj.GetUID())
		} else {
			alive[obj.GetUID()] = true
		}
	}
	return len(alive)
}
