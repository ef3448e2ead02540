// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/link"
)

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

func TestAClaimWhoseNodeWasBlankedIsRecordedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.run("a"), w.run("b")
		w.settle()
		blank := w.claim()
		blank.Node = ""
		w.overwrite(blank)
		w.settle()
		w.wantClaim("a", 7)
		a.wantAnswers(true)
		b.wantAnswers(false)
	}, claimedBy("a", 7))
}

func TestATermThatNobodyCanHaveReachedIsRecordedOver(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		claim := w.claim()
		claim.Node, claim.Term = "b", 1<<48
		w.overwrite(claim)
		w.settle()
		a.wantAnswers(true)
		w.wantClaim("a", 7)
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

// The object changed while the claim was on its way: it is decided anew, and as
// the claim was made it stays.
func TestAClaimDecidedOnAnOldObjectIsRecordedOnTheNewOne(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.latency = time.Second
		a := w.run("a")
		a.sync()
		time.Sleep(500 * time.Millisecond)
		w.propose("b") // while a's write is on its way
		time.Sleep(time.Minute)
		w.wantClaim("", 0)
		w.wantTries(1)
		a.wantAnswers(true)
		b := w.run("b")
		w.settle()
		a.wantAnswers(true)
		b.wantAnswers(false)
		w.wantClaim("a", 1)
		w.wantTries(2)
	}, proposed("a"))
}

func TestAQueuedWriteIsDroppedWhenAHigherTermIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.run("a"), w.run("b")
		w.settle()
		a.wantAnswers(true)
		w.setRefuse(errors.New("connection refused"))
		w.nodes["a"] = plan.Node{Name: "a", Alive: true, Ready: true, Draining: true}
		w.propose("b")
		b.sync() // only b hears of it
		time.Sleep(time.Second)
		b.wantAnswers(true)
		w.setRefuse(nil)
		time.Sleep(time.Minute)
		w.wantClaim("b", 8)
		if n := w.triesOf("a"); n != 0 {
			t.Errorf("a wrote %d times", n)
		}
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
		w.setRefuse(nil)
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
		time.Sleep(time.Second + n/writers*w.latency*11/10)
		w.wantTries(n)
		w.settle()
		w.wantTries(n)
	}, addrs...)
}
