// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/mesh"
	"github.com/fairlead-lb/fairlead/speaker/source"
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
		time.Sleep(time.Minute)
		s.wantAnswers(false)
		if s.Ready() {
			t.Error("ready without links")
		}
		s.SetLinks([]link.Link{s.eth0()})
		time.Sleep(time.Second)
		s.wantAnswers(true)
		if !s.Ready() {
			t.Error("not ready")
		}
	}, proposed("a"))
}

func TestABurstIsTakenTogether(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		a.sync()
		synctest.Wait()
		before := a.lookCount()
		for range 1000 {
			a.poke()
			time.Sleep(time.Millisecond)
		}
		if n := a.lookCount() - before; n < 15 || n > 21 {
			t.Errorf("looked %d times in a second", n)
		}
	}, proposed("a"))
}

func TestAnAnnouncementDoesNotWaitForTheAPIServer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.refuse = func() error { return errors.New("connection refused") }
		a := w.run("a")
		a.sync()
		time.Sleep(time.Second)
		a.wantAnswers(true)
		time.Sleep(10 * time.Minute)
		a.wantAnswers(true)
		w.wantClaim("", 0)
		w.setRefuse(nil)
		time.Sleep(maxBackoff)
		w.wantClaim("a", 1)
		if since := w.claim().Since; !since.Equal(&metav1.Time{Time: w.start}) {
			t.Errorf("it began to answer at %v, recorded is %v", w.start, since)
		}
	}, proposed("a"))
}

func TestANodeThatIsNotReadyKeepsItsAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.run("a"), w.run("b")
		w.settle()
		w.nodes["a"] = plan.Node{Name: "a", Alive: true}
		w.propose("b")
		w.settle()
		a.wantAnswers(true)
		b.wantAnswers(false)
		w.wantTries(0)
	}, claimedBy("a", 7))
}

func TestAnOwnerHandsOverWhenItsSuccessorHasClaimed(t *testing.T) {
	for name, node := range map[string]*plan.Node{
		"its Node is gone": nil,
		"it is drained":    {Name: "a", Alive: true, Ready: true, Draining: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a, b := w.run("a"), w.run("b")
				w.settle()
				if delete(w.nodes, "a"); node != nil {
					w.nodes["a"] = *node
				}
				w.settle()
				a.wantAnswers(true) // nobody else does
				b.wantAnswers(false)
				w.propose("b")
				a.sync()
				a.wantAnswers(true)
				b.sync()
				b.wantAnswers(true)
				a.wantAnswers(false) // it heard of that, whatever the API says
				w.wantClaim("b", 8)
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

// grown is a time after which speakers judge each other.
const grown = 5 * time.Second

func TestADeadNodeIsReplacedAtOnce(t *testing.T) {
	for name, refuse := range map[string]error{
		"with the API server":    nil,
		"without the API server": errors.New("connection refused"),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a, b, c := w.run("a"), w.run("b"), w.run("c")
				w.settle()
				time.Sleep(grown)
				w.setRefuse(refuse)
				a.unplug()
				time.Sleep(500 * time.Millisecond)
				if b.answers(vip) == c.answers(vip) {
					t.Errorf("b answers: %v, c answers: %v", b.answers(vip), c.answers(vip))
				}
				w.setRefuse(nil)
				time.Sleep(2 * maxBackoff)
				if claim := w.claim(); claim.Term != 8 || claim.Node == "a" {
					t.Errorf("recorded is %+v", claim)
				}
			}, claimedBy("a", 7))
		})
	}
}

func TestOthersStandInForASpeakerThatCrashedAndMoveNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.run("a"), w.run("b"), w.run("c")
		w.settle()
		time.Sleep(grown)
		a.crash()
		time.Sleep(500 * time.Millisecond)
		if x, y := b.answersAs(vip), c.answersAs(vip); x != a.mac && y != a.mac || b.answers(vip) || c.answers(vip) {
			t.Errorf("b answers as %v, c as %v", x, y)
		}
		again := w.restart(a)
		w.settle()
		again.wantAnswers(true)
		b.wantAnswers(false)
		c.wantAnswers(false)
		if as := [2]link.MAC{b.answersAs(vip), c.answersAs(vip)}; as != ([2]link.MAC{}) {
			t.Errorf("others still stand in: %v", as)
		}
		w.wantClaim("a", 7)
		w.wantTries(0)
	}, claimedBy("a", 7))
}

func TestALeaverAnswersUntilItIsFollowed(t *testing.T) {
	for name, refuse := range map[string]error{
		"with the API server":    nil,
		"without the API server": errors.New("connection refused"),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				a, b, c := w.run("a"), w.run("b"), w.run("c")
				w.settle()
				w.setRefuse(refuse)
				if !a.CanLeave() {
					t.Error("nobody could follow a")
				}
				a.Leave(mesh.Drain)
				for range 100 {
					synctest.Wait()
					if n := a.Remaining(); (n == 1) != a.answers(vip) {
						t.Errorf("a says that %d are left and answers: %v", n, a.answers(vip))
					}
					if !a.answers(vip) && !b.answers(vip) && !c.answers(vip) {
						t.Error("nobody answers")
					}
					time.Sleep(10 * time.Millisecond)
				}
				a.wantAnswers(false)
			}, claimedBy("a", 7))
		})
	}
}

func TestNobodyCanFollowALoneNode(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		if a.CanLeave() {
			t.Error("somebody could")
		}
		b := w.run("b") // its cluster is not known yet
		time.Sleep(time.Second)
		if a.CanLeave() {
			t.Error("b could")
		}
		b.sync()
		time.Sleep(grown)
		if !a.CanLeave() {
			t.Error("b can't")
		}
	}, claimedBy("a", 7))
}

func TestAnInterfaceThatIsGoneIsNotCountedOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, _ := w.run("a"), w.run("b")
		w.settle()
		if got := a.metric("fairlead_mesh_peers"); !slices.Equal(got, []float64{1}) {
			t.Errorf("the peers on each interface are %v", got)
		}
		a.SetLinks([]link.Link{})
		time.Sleep(2 * lookAround)
		if got := a.metric("fairlead_mesh_peers"); len(got) != 0 {
			t.Errorf("the peers on each interface are %v", got)
		}
	}, claimedBy("a", 7))
}

// What a node has saved may be of a cluster that it was in before.
func TestASavedClusterGivesWayToTheRealOne(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.run("a"), w.run("b")
		a.sync()
		b.setState(source.State{
			Saved: true, Cluster: "former", Addresses: map[netip.Addr]source.Address{}, Advertising: kube.NewAdvertising(kube.Objects{}),
			NodesChanged: true, ScopesChanged: true, SpeakersChanged: true,
		})
		time.Sleep(grown)
		if a.CanLeave() {
			t.Error("a hears a speaker of another cluster")
		}
		b.sync()
		time.Sleep(grown)
		if !a.CanLeave() || !b.CanLeave() {
			t.Error("they don't hear each other")
		}
	}, claimedBy("a", 7))
}

// Of two nodes that don't hear each other the record chooses one, and with no
// record to be had both serve.
func TestTwoNodesLeaveItToTheRecord(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.run("a"), w.run("b")
		w.settle()
		time.Sleep(grown)
		w.setLatency(100 * time.Millisecond)
		a.unplug()
		for !b.answers(vip) {
			if c := w.claim(); c.Node == "b" {
				time.Sleep(10 * time.Millisecond)
				b.wantAnswers(true)
				break
			}
			time.Sleep(time.Millisecond)
		}
		w.wantClaim("b", 8)
		a.sync()
		time.Sleep(time.Second)
		a.wantAnswers(false)
	}, claimedBy("a", 7))
}

// A process that was stopped answers nobody before it has looked around.
func TestAnswersEndWithTheLoop(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		a.wantAnswers(true)
		goOn := a.stopLoop()
		time.Sleep(2 * deadman)
		a.wantAnswers(false)
		if !a.Alive() {
			t.Error("given up too soon")
		}
		time.Sleep(hung)
		if a.Alive() {
			t.Error("alive, though the loop has stopped")
		}
		goOn()
		synctest.Wait()
		if !a.Alive() {
			t.Error("not alive, though the loop goes on")
		}
		a.wantAnswers(false)
		time.Sleep(time.Second)
		if got := a.metric("fairlead_mesh_stalls_total"); !slices.Equal(got, []float64{1}) {
			t.Errorf("%v stalls are counted", got)
		}
		a.wantAnswers(true)
	}, claimedBy("a", 7))
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

func TestWhatBecomesOfManyAddressesIsLoggedInFewLines(t *testing.T) {
	const n = touches + 5
	addrs, wide := manyProposed(n)
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a") // on another network
		w.settle()
		a.mu.Lock()
		if len(a.logged) != 1 || !strings.Contains(a.logged[0], fmt.Sprintf(`"reason"="NoLinkOnSubnet" "addresses"=%d`, n)) {
			t.Errorf("logged %.1000q", a.logged)
		}
		a.logged = nil
		a.mu.Unlock()
		a.SetLinks([]link.Link{wide})
		time.Sleep(time.Minute)
		a.mu.Lock()
		defer a.mu.Unlock()
		if last := len(a.logged) - 1; last < 0 || last > 10 || !strings.Contains(a.logged[last], fmt.Sprintf(`"addresses"=%d`, n)) {
			t.Errorf("logged %.1000q", a.logged)
		}
	}, addrs...)
}

func TestALinkThatGoesDownTakesTheAnnouncementWithIt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		down := a.eth0()
		down.Up = false
		a.SetLinks([]link.Link{down})
		a.wantAnswers(false)
		a.SetLinks([]link.Link{a.eth0()})
		time.Sleep(time.Second)
		a.wantAnswers(true)
		w.wantTries(0)
	}, claimedBy("a", 7))
}
