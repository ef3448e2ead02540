// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/preflight"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

// world is an API server and node a's Reporter, whose view of it follows when
// told to.
type world struct {
	*Reporter
	t       *testing.T
	api     client.WithWatch
	changed chan struct{}
	start   time.Time

	mu     sync.Mutex
	own    source.Own
	synced bool
	refuse error // what writes fail with
	writes []string
	logged []string
}

// bubble runs a test in a world with this Speaker, or with none.
func bubble(t *testing.T, speaker *v1alpha1.Speaker, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		scheme, err := source.Scheme()
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, changed: make(chan struct{}, 1), start: time.Now(), own: source.Own{NodeUID: "node-1"}}
		b := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Speaker{})
		if speaker != nil {
			b.WithObjects(speaker)
		}
		w.api = b.WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
				if err := w.write("create"); err != nil {
					return err
				}
				return c.Create(ctx, obj, opts...)
			},
			Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
				if err := w.write("spec"); err != nil {
					return err
				}
				return c.Patch(ctx, obj, patch, opts...)
			},
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
				if err := w.write("patch"); err != nil {
					return err
				}
				return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
			},
		}).Build()
		w.Reporter = New(funcr.New(func(_, args string) { w.logged = append(w.logged, args) }, funcr.Options{}), "a", w, w.api)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		test(w)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func (w *world) write(what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, what+" at "+time.Since(w.start).String())
	return w.refuse
}

func (w *world) Changed() <-chan struct{} { return w.changed }

func (w *world) Own() (source.Own, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.own, w.synced
}

// sync shows the Reporter what is stored.
func (w *world) sync() {
	synctest.Wait()
	s := w.stored()
	w.set(func() { w.own.Speaker, w.synced = s, true })
	synctest.Wait()
}

// set changes what the Reporter finds.
func (w *world) set(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// stored is what the API server has.
func (w *world) stored() *v1alpha1.Speaker {
	s := &v1alpha1.Speaker{}
	if err := w.api.Get(context.Background(), client.ObjectKey{Name: "a"}, s); client.IgnoreNotFound(err) != nil {
		w.t.Fatal(err)
	} else if err != nil {
		return nil
	}
	return s
}

func (w *world) wantWrites(want ...string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff(want, w.writes); diff != "" {
		w.t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func (w *world) wantAddress(want v1alpha1.InterfaceAddress) {
	w.t.Helper()
	synctest.Wait()
	ip, _, _ := strings.Cut(string(want), "/")
	if s := w.stored(); s == nil || len(s.Status.Interfaces) != 1 || s.Status.Interfaces[0].Addresses[0] != want ||
		len(s.Spec.Endpoints) != 1 || s.Spec.Endpoints[0].Address != ip {
		w.t.Errorf("stored is %+v, want %s", s, want)
	}
}

func at(address string) []link.Link { return []link.Link{ether("eth0", has(address))} }

// with is a Speaker that tells of one address.
func with(address v1alpha1.InterfaceAddress) *v1alpha1.Speaker {
	ip, _, _ := strings.Cut(string(address), "/")
	return &v1alpha1.Speaker{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec:       v1alpha1.SpeakerSpec{Endpoints: []v1alpha1.Endpoint{{Interface: "eth0", Address: ip}}},
		Status: v1alpha1.SpeakerStatus{
			Interfaces: []v1alpha1.Interface{{Name: "eth0", MAC: mac, Up: true, Addresses: []v1alpha1.InterfaceAddress{address}}},
			Conditions: []metav1.Condition{{Type: "Other"}},
		},
	}
}

func TestTheFirstSpeakerIsMadeAtOnce(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.SetLinks(at("192.0.2.1/24"))
		w.sync()
		w.wantAddress("192.0.2.1/24")
		want := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "a", UID: "node-1"}}
		if diff := cmp.Diff(want, w.stored().OwnerReferences); diff != "" {
			t.Errorf("owner (-want +got):\n%s", diff)
		}
		w.sync()
		time.Sleep(time.Hour)
		w.wantWrites("create at 0s", "patch at 0s")
	})
}

func TestNothingIsWrittenBeforeItIsKnown(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.SetLinks(at("192.0.2.1/24"))
		time.Sleep(time.Hour) // nothing is seen of the cluster
		w.set(func() { w.synced, w.own.NodeUID = true, "" })
		time.Sleep(time.Hour) // there is no Node
		w.wantWrites()
	})
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		time.Sleep(time.Hour) // there are no links
		w.wantWrites()
	})
}

func TestARestartWritesNothing(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.1/24"))
		time.Sleep(time.Hour)
		w.wantWrites()
	})
}

func TestManyChangesAreFewWrites(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		for _, address := range []string{"192.0.2.2/24", "192.0.2.3/24", "192.0.2.4/24"} {
			w.SetLinks(at(address))
			time.Sleep(time.Second)
			w.sync()
		}
		w.wantAddress("192.0.2.2/24")
		time.Sleep(minInterval)
		w.sync()
		w.wantAddress("192.0.2.4/24")
		if len(w.stored().Status.Conditions) != 1 {
			t.Error("the conditions are gone")
		}
		w.wantWrites("spec at 0s", "patch at 0s", "spec at 10s", "patch at 10s")
	})
}

func TestAnInterfaceThatGoesUpOrDownIsToldSooner(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		for i := range 10 {
			l := ether("eth0", has("192.0.2.1/24"))
			l.Up = i%2 == 1
			w.SetLinks([]link.Link{l})
			time.Sleep(400 * time.Millisecond)
			w.sync()
		}
		time.Sleep(time.Hour)
		w.wantAddress("192.0.2.1/24")
		if !w.stored().Status.Interfaces[0].Up {
			t.Error("the last state is not told")
		}
		w.wantWrites("patch at 0s", "patch at 1.2s", "patch at 2.4s", "patch at 3.6s")
	})
}

func TestWhatChangedBackIsNotWritten(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.2/24"))
		w.sync()
		w.SetLinks(at("192.0.2.3/24"))
		time.Sleep(time.Second)
		w.SetLinks(at("192.0.2.2/24"))
		time.Sleep(time.Hour)
		w.wantWrites("spec at 0s", "patch at 0s")
	})
}

// What it wrote last may not be seen yet when it changes back.
func TestALaggingViewIsCorrectedOnceItCatchesUp(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.2/24"))
		synctest.Wait()
		w.SetLinks(at("192.0.2.1/24"))
		time.Sleep(time.Minute)
		w.wantAddress("192.0.2.2/24")
		w.sync()
		w.wantAddress("192.0.2.1/24")
		w.wantWrites("spec at 0s", "patch at 0s", "spec at 1m0s", "patch at 1m0s")
	})
}

func TestASpeakerThatSomebodyEditedHeals(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.1/24"))
		time.Sleep(time.Minute)
		s := w.stored()
		s.Status.Interfaces = nil
		if err := w.api.Status().Update(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		s.Spec.Endpoints = nil
		if err := w.api.Update(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		w.sync()
		w.wantAddress("192.0.2.1/24")
		if err := w.api.Delete(context.Background(), w.stored()); err != nil {
			t.Fatal(err)
		}
		w.sync()
		time.Sleep(minInterval)
		w.wantAddress("192.0.2.1/24")
		w.wantWrites("spec at 1m0s", "patch at 1m0s", "create at 1m10s", "patch at 1m10s")
	})
}

// The garbage collector removes the Speaker of a Node that is gone.
func TestANewNodeGetsANewSpeaker(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.1/24"))
		w.set(func() { w.own.NodeUID = "" })
		if err := w.api.Delete(context.Background(), w.stored()); err != nil {
			t.Fatal(err)
		}
		w.sync()
		time.Sleep(time.Hour)
		w.wantWrites()
		w.set(func() { w.own.NodeUID = "node-2" })
		w.wantAddress("192.0.2.1/24")
		if uid := w.stored().OwnerReferences[0].UID; uid != types.UID("node-2") {
			t.Errorf("owned by %s", uid)
		}
	})
}

func TestASpeakerThatIsNotSeenYetIsPatched(t *testing.T) {
	bubble(t, with("192.0.2.9/24"), func(w *world) {
		w.SetLinks(at("192.0.2.1/24"))
		w.set(func() { w.synced = true })
		w.wantAddress("192.0.2.1/24")
	})
}

func TestAFailedWriteIsTriedAgain(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.refuse = errors.New("connection refused")
		w.SetLinks(at("192.0.2.1/24"))
		w.sync()
		time.Sleep(25 * time.Second)
		w.set(func() { w.refuse = nil })
		time.Sleep(minInterval)
		w.wantAddress("192.0.2.1/24")
		w.wantWrites("create at 0s", "create at 10s", "create at 20s", "create at 30s", "patch at 30s")
		if len(w.logged) != 2 || !strings.Contains(w.logged[0], "connection refused") || !strings.Contains(w.logged[1], "again") {
			t.Errorf("logged %q", w.logged)
		}
	})
}

func TestAConditionThatFlipsIsToldSooner(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.1/24"))
		mesh := func(status metav1.ConditionStatus, message string) {
			w.SetConditions([]metav1.Condition{{Type: "Mesh", Status: status, Reason: "Heard", Message: message}})
			time.Sleep(400 * time.Millisecond)
			w.sync()
		}
		mesh(metav1.ConditionTrue, "all")  // at once: it is the first
		mesh(metav1.ConditionFalse, "one") // after 1s
		mesh(metav1.ConditionFalse, "one")
		mesh(metav1.ConditionFalse, "one")
		mesh(metav1.ConditionFalse, "two") // after 10s: only the message is another
		time.Sleep(time.Hour)
		w.sync()
		time.Sleep(time.Hour)
		conditions := w.stored().Status.Conditions
		c := meta.FindStatusCondition(conditions, "Mesh")
		if len(conditions) != 3 || c == nil || c.Message != "two" || !c.LastTransitionTime.Time.Equal(w.start.Add(time.Second)) {
			t.Errorf("conditions %+v", conditions)
		}
		w.wantWrites("patch at 0s", "patch at 1s", "patch at 11s")
	})
}

func TestAnInterfaceThatAnAdvertisementNamesIsTold(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(append(at("192.0.2.1/24"), ether("service0")))
		w.set(func() { w.own.Interfaces = []plan.Patterns{{"service0"}} })
		synctest.Wait()
		if got := w.stored().Status.Interfaces; len(got) != 2 || got[1].Name != "service0" {
			t.Errorf("interfaces %+v", got)
		}
		w.wantWrites("patch at 0s")
	})
}

// wantConditions checks the conditions that are stored, those of w's own aside.
func (w *world) wantConditions(want map[string]metav1.ConditionStatus) {
	w.t.Helper()
	synctest.Wait()
	got := map[string]metav1.ConditionStatus{}
	for _, c := range w.stored().Status.Conditions {
		if c.Type != "Other" {
			got[c.Type] = c.Status
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("conditions (-want +got):\n%s", diff)
	}
}

func TestWhatIsWrongIsTold(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.1/24"))
		w.SetConditions(preflight.Check(preflight.Node{Interfaces: []preflight.Interface{{Name: "eth0", Up: true, ARPIgnore: 8}}}))
		w.sync()
		found := map[string]metav1.ConditionStatus{
			v1alpha1.SpeakerNoInterface: "False", v1alpha1.SpeakerStrictARP: "True", v1alpha1.SpeakerReversePathFiltered: "False",
			v1alpha1.SpeakerARPIgnored: "True", v1alpha1.SpeakerHealthy: "False",
		}
		w.wantConditions(found)
		since := meta.FindStatusCondition(w.stored().Status.Conditions, v1alpha1.SpeakerARPIgnored).LastTransitionTime
		time.Sleep(3 * time.Second)

		w.SetMesh([]preflight.Segment{{Interface: "eth0", NotHeard: []string{"c", "b"}}, {Interface: "eth1", NotHeard: []string{"b"}}})
		w.sync()
		found[v1alpha1.SpeakerMeshDown] = "True"
		w.wantConditions(found)
		s := w.stored().Status
		if diff := cmp.Diff([]string{"b", "c"}, s.NotHeard); diff != "" {
			t.Errorf("not heard (-want +got):\n%s", diff)
		}
		if meta.FindStatusCondition(s.Conditions, "Other") == nil {
			t.Error("a condition of somebody else is gone")
		}
		if now := meta.FindStatusCondition(s.Conditions, v1alpha1.SpeakerARPIgnored).LastTransitionTime; !now.Equal(&since) {
			t.Errorf("ARPIgnored since %v and %v", since, now)
		}
		if healthy := meta.FindStatusCondition(s.Conditions, v1alpha1.SpeakerHealthy); healthy.Reason != v1alpha1.SpeakerMeshDown {
			t.Errorf("%+v", healthy)
		}
		time.Sleep(3 * time.Second)

		w.SetConditions(preflight.Check(preflight.Node{Interfaces: []preflight.Interface{{Name: "eth0", Up: true}}}))
		w.SetMesh([]preflight.Segment{{Interface: "eth0", Heard: []string{"b", "c"}}})
		w.sync()
		time.Sleep(flipInterval)
		w.sync()
		found[v1alpha1.SpeakerARPIgnored], found[v1alpha1.SpeakerMeshDown], found[v1alpha1.SpeakerHealthy] = "False", "False", "True"
		w.wantConditions(found)
		if n := w.stored().Status.NotHeard; len(n) > 0 {
			t.Errorf("not heard %v", n)
		}
		time.Sleep(time.Hour)
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.writes); n > 4 {
			t.Errorf("%d writes: %v", n, w.writes)
		}
	})
}

func TestWhatIsNotKnownYetStays(t *testing.T) {
	speaker := with("192.0.2.1/24")
	speaker.Status.NotHeard = []string{"b"}
	meta.SetStatusCondition(&speaker.Status.Conditions, preflight.Mesh([]preflight.Segment{{Interface: "eth0", NotHeard: []string{"b"}}}))
	bubble(t, speaker, func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.2/24"))
		w.sync()
		w.wantAddress("192.0.2.2/24")
		w.wantConditions(map[string]metav1.ConditionStatus{v1alpha1.SpeakerMeshDown: "True"})
		w.SetConditions(preflight.Check(preflight.Node{}))
		w.sync()
		time.Sleep(flipInterval)
		w.sync()
		s := w.stored().Status
		if !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.SpeakerMeshDown) || !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.SpeakerNoInterface) || len(s.NotHeard) != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// Only the names that are not heard changed: that can wait.
func TestNamesAloneAreNotToldSooner(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.1/24"))
		for _, name := range []string{"b", "c", "d"} {
			w.SetMesh([]preflight.Segment{{Interface: "eth0", Heard: []string{"a"}, NotHeard: []string{name}}})
			w.sync()
			time.Sleep(time.Second)
			w.sync()
		}
		time.Sleep(time.Hour)
		w.wantWrites("patch at 0s", "patch at 10s")
		if diff := cmp.Diff([]string{"d"}, w.stored().Status.NotHeard); diff != "" {
			t.Errorf("not heard (-want +got):\n%s", diff)
		}
	})
}

func TestNotHeardFitsIntoItsList(t *testing.T) {
	var s preflight.Segment
	for i := range v1alpha1.MaxSpeakerNotHeard + 1 {
		s.NotHeard = append(s.NotHeard, fmt.Sprint("node-", i))
	}
	if n := len(notHeard([]preflight.Segment{s})); n != v1alpha1.MaxSpeakerNotHeard {
		t.Errorf("%d names", n)
	}
}
