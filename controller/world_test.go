// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// world is a Controller over an API server in memory. Its watch is played by
// hand: sync shows the Controller what is stored.
type world struct {
	t      *testing.T
	api    client.WithWatch
	c      *Controller
	events *events.FakeRecorder
	now    time.Time
	writes map[string]int
	// reads are those of the API server itself, past the cache.
	reads int
	// writers are the managers of status.loadBalancer, which the API server in
	// memory keeps no book of.
	writers map[string]string
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), events: events.NewFakeRecorder(1000), writes: map[string]int{}, writers: map[string]string{}}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	w.api = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithStatusSubresource(&corev1.Service{}, &v1alpha1.LoadBalancerIP{}, &v1alpha1.LoadBalancerIPPool{}, &v1alpha1.L2Advertisement{}, &v1alpha1.BGPAdvertisement{}, &v1alpha1.BGPPeer{}).
		WithIndex(&discoveryv1.EndpointSlice{}, endpointsByService, indexEndpointsByService).Build()
	w.c = w.controller()
	w.sync()
	return w
}

// controller makes a Controller that knows nothing yet.
func (w *world) controller() *Controller {
	counted := interceptor.NewClient(w.api, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			w.writes[fmt.Sprintf("create %T", obj)]++
			return c.Create(ctx, obj, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			w.writes[fmt.Sprintf("update %T", obj)]++
			return c.Update(ctx, obj, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			w.writes[fmt.Sprintf("delete %T", obj)]++
			return c.Delete(ctx, obj, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			w.writes[fmt.Sprintf("patch %T", obj)]++
			if svc, ok := obj.(*corev1.Service); ok {
				return w.patchService(ctx, svc)
			}
			return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
		},
	})
	c := &Controller{
		client: counted, live: interceptor.NewClient(w.api, interceptor.Funcs{Get: w.get}), teller: newTeller(w.events, func() bool { return false }),
		opts:   Options{Classes: Classes{Class: v1alpha1.DefaultLoadBalancerClass, Default: true}, Workers: 1},
		words:  understanding(nil),
		now:    func() time.Time { return w.now },
		ledger: newLedger(), pools: &pools{},
		services: newQueue(""), addresses: newQueue(""), poolStatus: newQueue(""), config: newQueue(""),
	}
	w.t.Cleanup(func() {
		for _, q := range []queue{c.services, c.addresses, c.poolStatus, c.config} {
			q.ShutDown()
		}
	})
	return c
}

// patchService does what the API server does with a patch of services/status:
// unlike the one in memory it takes finalizers, too.
func (w *world) patchService(ctx context.Context, svc *corev1.Service) error {
	stored := &corev1.Service{}
	if err := w.api.Get(ctx, client.ObjectKeyFromObject(svc), stored); err != nil {
		return err
	}
	if stored.ResourceVersion != svc.ResourceVersion {
		return apierrors.NewConflict(corev1.Resource("services"), svc.Name, errors.New("the object has been modified"))
	}
	status := svc.Status
	stored.Finalizers = svc.Finalizers
	if err := w.api.Update(ctx, stored); err != nil {
		return err
	}
	if stored.DeletionTimestamp != nil && len(stored.Finalizers) == 0 {
		return nil
	}
	stored.Status = status
	if err := w.api.Status().Update(ctx, stored); err != nil {
		return err
	}
	stored.DeepCopyInto(svc)
	w.writers[svc.Name] = fieldOwner
	return nil
}

// get reads an object with its managers.
func (w *world) get(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	w.reads++
	err := c.Get(ctx, key, obj, opts...)
	if svc, ok := obj.(*corev1.Service); ok && err == nil && w.writers[svc.Name] != "" {
		svc.ManagedFields = []metav1.ManagedFieldsEntry{{
			Manager: w.writers[svc.Name], Operation: metav1.ManagedFieldsOperationUpdate, Subresource: "status",
			FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`),
		}}
	}
	return err
}

func (w *world) ctx() context.Context { return w.t.Context() }

// sync shows the Controller pools, nodes and addresses as stored.
func (w *world) sync() {
	w.t.Helper()
	if _, err := w.c.readPools(w.ctx()); err != nil {
		w.t.Fatal(err)
	}
	if _, _, err := w.c.readTerrain(w.ctx()); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.c.readAvoided(w.ctx()); err != nil {
		w.t.Fatal(err)
	}
	for _, ip := range w.addresses() {
		w.c.ledger.observe(&ip)
	}
}

// editedPools shows the Controller that pools were edited.
func (w *world) editedPools() {
	w.t.Helper()
	if err := w.c.reconcilePools(w.ctx()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, obj := range objects {
		if err := w.api.Create(w.ctx(), obj); err != nil {
			w.t.Fatal(err)
		}
	}
}

// edit changes a stored Service.
func (w *world) edit(name string, f func(*corev1.Service)) {
	w.t.Helper()
	svc := w.service(name)
	status := svc.Status
	f(svc)
	changed := svc.Status
	svc.Status = status
	if err := w.api.Update(w.ctx(), svc); err != nil {
		w.t.Fatal(err)
	}
	svc.Status = changed
	if err := w.api.Status().Update(w.ctx(), svc); err != nil {
		w.t.Fatal(err)
	}
}

// reconcile works on Services by name until nobody is woken any more.
func (w *world) reconcile(names ...string) {
	w.t.Helper()
	for _, name := range names {
		w.c.services.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: name}})
	}
	for w.c.services.Len()+w.c.config.Len() > 0 {
		if w.c.config.Len() > 0 {
			req, _ := w.c.config.Get()
			if _, err := w.c.reconcileConfig(w.ctx(), req); err != nil {
				w.t.Fatalf("reconcile %s: %v", req.Name, err)
			}
			w.c.config.Done(req)
			continue
		}
		req, _ := w.c.services.Get()
		result, err := w.c.reconcileService(w.ctx(), req)
		if err != nil {
			w.t.Fatalf("reconcile %s: %v", req.Name, err)
		}
		w.c.services.Done(req)
		if result.RequeueAfter > 0 {
			w.now = w.now.Add(time.Second)
			w.c.services.Add(req)
		}
	}
}

func (w *world) service(name string) *corev1.Service {
	w.t.Helper()
	svc := &corev1.Service{}
	if err := w.api.Get(w.ctx(), types.NamespacedName{Namespace: "default", Name: name}, svc); err != nil {
		w.t.Fatal(err)
	}
	return svc
}

func (w *world) addresses() []v1alpha1.LoadBalancerIP {
	w.t.Helper()
	var list v1alpha1.LoadBalancerIPList
	if err := w.api.List(w.ctx(), &list); err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

// shows fails unless the Service shows exactly these addresses.
func (w *world) shows(name string, want ...string) {
	w.t.Helper()
	got, _ := shown(w.service(name))
	if fmt.Sprint(got) != "["+strings.Join(want, " ")+"]" {
		w.t.Errorf("%s shows %v, want %v; condition %+v", name, got, want, condition(w.service(name), v1alpha1.ServiceAllocated))
	}
}

// refused fails unless the Service has no address for this reason.
func (w *world) refused(name string, reason ipam.Reason) {
	w.t.Helper()
	if cond := condition(w.service(name), v1alpha1.ServiceAllocated); cond.Status != metav1.ConditionFalse || cond.Reason != string(reason) || cond.Message == "" {
		w.t.Errorf("%s has condition %+v, want %s", name, cond, reason)
	}
}

// told returns the events since it was last called.
func (w *world) told() []string {
	for {
		n, ok := w.c.teller.next()
		if !ok {
			break
		}
		w.c.teller.recorder.Eventf(n.about, nil, n.kind, n.reason, n.action(), "%s", n.message)
	}
	var got []string
	for {
		select {
		case e := <-w.events.Events:
			got = append(got, e)
		default:
			return got
		}
	}
}

func testPool(name string, addresses ...v1alpha1.AddressRange) *v1alpha1.LoadBalancerIPPool {
	return &v1alpha1.LoadBalancerIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.LoadBalancerIPPoolSpec{Addresses: addresses}}
}

func testService(name string, change ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeLoadBalancer,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	for _, f := range change {
		f(svc)
	}
	return svc
}

func testNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
}

func asking(addr string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = addr }
}

func sharing(key string, port int32) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		svc.Annotations = map[string]string{v1alpha1.AnnotationSharingKey: key}
		svc.Spec.Ports[0].Port = port
	}
}

func dual(policy corev1.IPFamilyPolicy) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		svc.Spec.IPFamilyPolicy = &policy
		svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
	}
}

// checkHolders fails if an address has two holders.
func (w *world) checkHolders() {
	w.t.Helper()
	for _, ip := range w.addresses() {
		if len(ip.Spec.Services) > 1 {
			w.t.Errorf("%s is held by %v", ip.Name, ip.Spec.Services)
		}
	}
}

// checkSettled fails unless what Services show is what they hold, each has one
// address, and no address is idle while a Service waits.
func (w *world) checkSettled(capacity int) {
	w.t.Helper()
	var list corev1.ServiceList
	if err := w.api.List(w.ctx(), &list); err != nil {
		w.t.Fatal(err)
	}
	holders := map[string]string{}
	for _, ip := range w.addresses() {
		for _, b := range ip.Spec.Services {
			if was, ok := holders[b.Name]; ok {
				w.t.Errorf("%s holds %s and %s", b.Name, was, ip.Name)
			}
			holders[b.Name] = ip.Name
			if !slices.ContainsFunc(list.Items, func(svc corev1.Service) bool { return svc.Name == b.Name && svc.UID == b.UID }) {
				w.t.Errorf("%s leaked to %s %s", ip.Name, b.Name, b.UID)
			}
		}
	}
	served := 0
	for _, svc := range list.Items {
		if svc.DeletionTimestamp != nil {
			w.t.Errorf("%s is stuck: %v", svc.Name, svc.Finalizers)
		}
		addrs, _ := shown(&svc)
		if len(addrs) == 0 {
			continue
		}
		served++
		if fmt.Sprint(addrs) != "["+holders[svc.Name]+"]" {
			w.t.Errorf("%s shows %v and holds %q", svc.Name, addrs, holders[svc.Name])
		}
	}
	if want := min(capacity, len(list.Items)); served != want {
		w.t.Errorf("%d of %d Services are served, want %d", served, len(list.Items), want)
	}
}
