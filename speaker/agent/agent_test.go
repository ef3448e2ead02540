// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

func TestTheProposedNodeAnswersAndClaims(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.run("a"), w.run("b")
		w.settle()
		a.wantAnswers(true)
		b.wantAnswers(false)
		want := &v1alpha1.L2Claim{Node: "a", Interface: "eth0", MAC: "02:00:00:00:00:01", Term: 1, Since: metav1.NewTime(w.start)}
		if diff := cmp.Diff(want, w.claim()); diff != "" {
			t.Errorf("claim (-want +got):\n%s", diff)
		}
		w.wantTries(1)
	}, proposed("a"))
}

func TestNothingIsAnnouncedBeforeClusterAndLinksAreKnown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := w.runWithoutLinks("a")
		s.poke()
		synctest.Wait()
		s.sync()
		synctest.Wait()
		if n := s.setCount(); n != 0 || s.Ready() {
			t.Errorf("set %d times, ready is %v", n, s.Ready())
		}
		s.SetLinks([]link.Link{eth0})
		s.wantAnswers(true)
		if !s.Ready() {
			t.Error("not ready")
		}
	}, proposed("a"))
}

func TestARestartWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		a.wantAnswers(true)
		w.wantClaim("a", 7)
		w.wantTries(0)
	}, claimedBy("a", 7))
}

func TestAChangedMACIsRecordedUnderTheSameTerm(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		before := w.claim()
		changed := eth0
		changed.MAC[5] = 9
		a.SetLinks([]link.Link{changed})
		w.settle()
		want := before.DeepCopy()
		want.MAC = "02:00:00:00:00:09"
		if diff := cmp.Diff(want, w.claim()); diff != "" {
			t.Errorf("claim (-want +got):\n%s", diff)
		}
		w.wantTries(1)
	}, claimedBy("a", 7))
}

// A cache that lags behind the own write must not make another one.
func TestALaggingCacheMakesNoSecondWrite(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		a.sync()
		for range 100 {
			time.Sleep(time.Second)
			a.poke()
		}
		w.wantClaim("a", 1)
		w.wantTries(1)
	}, proposed("a"))
}

func TestABurstIsTakenTogether(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		a.sync()
		synctest.Wait()
		before := a.setCount()
		for range 1000 {
			a.poke()
			time.Sleep(time.Millisecond)
		}
		if n := a.setCount() - before; n < 15 || n > 21 {
			t.Errorf("set %d times in a second", n)
		}
	}, proposed("a"))
}

func TestAnAnnouncementDoesNotWaitForTheAPIServer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.refuse = func() error { return errors.New("connection refused") }
		a := w.run("a")
		a.sync()
		a.wantAnswers(true)
		time.Sleep(10 * time.Minute)
		a.wantAnswers(true)
		w.wantClaim("", 0)
		w.mu.Lock()
		w.refuse = func() error { return nil }
		w.mu.Unlock()
		time.Sleep(maxBackoff)
		w.wantClaim("a", 1)
		if since := w.claim().Since; !since.Equal(&metav1.Time{Time: w.start}) {
			t.Errorf("it began to answer at %v, recorded is %v", w.start, since)
		}
	}, proposed("a"))
}

func TestABusyClusterDoesNotUndoTheBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.refuse = func() error {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "loadbalancerips"}, vip.String(), errors.New("no"))
		}
		a := w.run("a")
		for range 600 {
			a.sync()
			time.Sleep(100 * time.Millisecond)
		}
		if n := w.tryCount(); n < 5 || n > 15 {
			t.Errorf("%d tries in a minute", n)
		}
	}, proposed("a"))
}

func TestAClaimDecidedOnAnOldObjectIsNotRecorded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.latency = time.Second
		a := w.run("a")
		a.sync()
		synctest.Wait()
		w.propose("b") // while a's write is on its way
		time.Sleep(time.Minute)
		w.wantClaim("", 0)
		w.wantTries(1)
		a.wantAnswers(true) // it knows no better
		b := w.run("b")
		w.settle()
		a.wantAnswers(false)
		b.wantAnswers(true)
		w.wantClaim("b", 1)
	}, proposed("a"))
}

func TestAQueuedWriteIsDroppedWhenAHigherTermIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.refuse = func() error { return errors.New("connection refused") }
		a := w.run("a")
		a.sync()
		time.Sleep(time.Second)
		tries := w.tryCount()
		if err := w.api.Status().Update(context.Background(), func() client.Object {
			var p v1alpha1.LoadBalancerIP
			if err := w.api.Get(context.Background(), client.ObjectKey{Name: vip.String()}, &p); err != nil {
				t.Fatal(err)
			}
			p.Status.L2 = &v1alpha1.L2Claim{Node: "b", Term: 5, Since: metav1.Now()}
			return &p
		}()); err != nil {
			t.Fatal(err)
		}
		a.sync()
		time.Sleep(time.Hour)
		a.wantAnswers(false)
		w.wantTries(tries)
	}, proposed("a"))
}

func TestAnOwnerHandsOverWhenItsSuccessorHasClaimed(t *testing.T) {
	for name, gone := range map[string]bool{"it is not Ready": false, "its Node is gone": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a, b := w.run("a"), w.run("b")
				w.settle()
				w.lose("a", gone)
				w.settle()
				a.wantAnswers(true) // nobody else does
				b.wantAnswers(false)
				w.propose("b")
				a.sync()
				a.wantAnswers(true)
				b.sync()
				b.wantAnswers(true)
				w.wantClaim("b", 8)
				a.wantAnswers(true) // it has not heard of it yet
				a.sync()
				time.Sleep(time.Second)
				a.wantAnswers(false)
				w.nodes["a"] = plan.Node{Name: "a", Alive: true, Ready: true}
				w.settle()
				a.wantAnswers(false) // nothing fails back
				b.wantAnswers(true)
				w.wantClaim("b", 8)
				w.wantTries(1)
			}, claimedBy("a", 7))
		})
	}
}

func TestAnInterfaceThatFailsIsNoClaim(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		a.mu.Lock()
		a.broken = errors.New("operation not permitted")
		a.mu.Unlock()
		a.sync()
		time.Sleep(time.Minute)
		w.wantClaim("", 0)
		a.mu.Lock()
		a.broken = nil
		a.mu.Unlock()
		time.Sleep(retryInterval)
		w.wantClaim("a", 1)
		if since := w.claim().Since; since.Sub(w.start) < time.Minute {
			t.Errorf("it claims to answer since %v", since)
		}
	}, proposed("a"))
}

// An address that is silent because of this node must say so, in one line for
// all, once.
func TestWhatCantBeAnnouncedIsLogged(t *testing.T) {
	addrs, wide := manyProposed(5)
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a") // on another network
		w.settle()
		a.SetLinks([]link.Link{wide})
		w.settle()
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.logged) != 2 || !strings.Contains(a.logged[0], `"reason"="NoLinkOnSubnet" "addresses"=5`) ||
			!strings.Contains(a.logged[1], `"added"=5`) {
			t.Errorf("logged %q", a.logged)
		}
	}, addrs...)
}

func TestALinkThatGoesDownTakesTheAnnouncementWithIt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		down := eth0
		down.Up = false
		a.SetLinks([]link.Link{down})
		a.wantAnswers(false)
		a.SetLinks([]link.Link{eth0})
		time.Sleep(minInterval)
		a.wantAnswers(true)
		w.wantTries(0)
	}, claimedBy("a", 7))
}

// manyProposed returns n addresses that are proposed for node a, and an
// interface for them.
func manyProposed(n int) ([]*v1alpha1.LoadBalancerIP, link.Link) {
	var addrs []*v1alpha1.LoadBalancerIP
	for i := range n {
		addrs = append(addrs, address(netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i % 250)}).String(), "a", nil))
	}
	wide := eth0
	wide.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}
	return addrs, wide
}

// An API server that is in trouble isn't asked once for every address.
func TestFailingWritesPauseTogether(t *testing.T) {
	const n = 100
	addrs, wide := manyProposed(n)
	bubble(t, func(t *testing.T, w *world) {
		w.refuse = func() error { return apierrors.NewUnauthorized("the node is not there") }
		w.latency = time.Millisecond
		a := w.run("a")
		a.SetLinks([]link.Link{wide})
		a.sync()
		time.Sleep(time.Minute)
		before := w.tryCount()
		time.Sleep(time.Minute)
		if n, most := w.tryCount()-before, writers*int(time.Minute/maxBackoff+1); n == 0 || n > most {
			t.Errorf("%d tries in a minute, want at most %d", n, most)
		}
		w.mu.Lock()
		w.refuse = func() error { return nil }
		w.mu.Unlock()
		before = w.tryCount()
		time.Sleep(2 * maxBackoff)
		w.wantTries(before + n)
	}, addrs...)
}

func TestManyClaimsAreWrittenAtOnce(t *testing.T) {
	const n = 320
	addrs, wide := manyProposed(n)
	bubble(t, func(t *testing.T, w *world) {
		w.latency = 10 * time.Millisecond
		a := w.run("a")
		a.SetLinks([]link.Link{wide})
		a.sync()
		time.Sleep(n / writers * w.latency * 11 / 10)
		w.wantTries(n)
		w.settle()
		w.wantTries(n)
	}, addrs...)
}
