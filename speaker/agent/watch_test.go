// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/preflight"
	"github.com/fairlead-lb/fairlead/speaker/verify"
)

func TestANewAddressIsAskedForFirst(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.runWithoutLinks("a")
		a.stranger = link.MAC{2, 9, 9, 9, 9, 9}
		a.SetLinks([]link.Link{a.eth0()})
		a.sync()
		time.Sleep(5 * time.Second)
		a.wantAnswers(false)
		w.wantClaim("", 0)
		if len(a.conflicts) != 1 || a.conflicts[0].Conflict == nil || a.conflicts[0].Conflict.MAC != a.stranger {
			t.Errorf("told %+v", a.conflicts)
		}
		a.mu.Lock()
		a.stranger = link.MAC{}
		a.mu.Unlock()
		time.Sleep(2 * time.Minute)
		a.wantAnswers(true)
		w.settle()
		w.wantClaim("a", 1)
	}, proposed("a"))
}

func TestWhoTakesOverDoesNotAsk(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, _ := w.run("a"), w.run("b"), w.run("c")
		w.settle()
		time.Sleep(grown)
		b.stranger = link.MAC{2, 9, 9, 9, 9, 9}
		a.unplug()
		time.Sleep(time.Second)
		for _, s := range w.speakers[1:] {
			if s.answers(vip) {
				return
			}
		}
		t.Error("nobody answers")
	}, claimedBy("a", 7))
}

func TestTheFirstBackupVerifies(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.run("a"), w.run("b"), w.run("c")
		w.settle()
		time.Sleep(2 * time.Minute)
		if len(a.verified) != 0 || len(b.verified)+len(c.verified) != 1 {
			t.Fatalf("a told %v, b %v, c %v", a.verified, b.verified, c.verified)
		}
		got := append(b.verified, c.verified...)[0]
		if got.Addr != vip || got.State != verify.Answered || got.MAC != a.mac {
			t.Errorf("told %+v", got)
		}
	}, claimedBy("a", 7))
}

// That an owner is heard doesn't mean that it answers. Two others have to agree
// before it is replaced.
func TestAMuteOwnerIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b, c := w.run("a"), w.run("b"), w.run("c")
		w.settle()
		a.mu.Lock()
		a.mute = true
		a.mu.Unlock()
		time.Sleep(3 * time.Minute)
		if !b.answers(vip) && !c.answers(vip) {
			t.Error("nobody has replaced it")
		}
		if a.Remaining() != 0 {
			t.Error("a does not know")
		}
	}, claimedBy("a", 7))
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.run("a"), w.run("b")
		w.settle()
		a.mu.Lock()
		a.mute = true
		a.mu.Unlock()
		time.Sleep(3 * time.Minute)
		b.wantAnswers(false) // its word alone is not enough
		if n := len(b.verified); n == 0 || b.verified[n-1].State != verify.NoAnswer {
			t.Errorf("b told %+v", b.verified)
		}
		a.mu.Lock()
		a.mute = false
		a.mu.Unlock()
		time.Sleep(time.Minute)
		b.mu.Lock()
		defer b.mu.Unlock()
		var said []string
		for _, line := range b.logged {
			if strings.Contains(line, "owner") {
				said = append(said, line)
			}
		}
		if len(said) != 2 || !strings.Contains(said[0], "does not answer") || !strings.Contains(said[1], "answers again") {
			t.Errorf("b logged %q", said)
		}
	}, claimedBy("a", 7))
}

func TestWhoIsHeardIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.run("a"), w.run("b")
		w.settle()
		time.Sleep(introduction + lookAround)
		want := []preflight.Segment{{Interface: "eth0", Heard: []string{"b"}, NotHeard: []string{"c"}}}
		if told := a.heard(); !slices.EqualFunc(told, want, preflight.Segment.Equal) {
			t.Errorf("told %+v", told)
		}
		b.unplug()
		time.Sleep(2 * lookAround)
		want = []preflight.Segment{{Interface: "eth0", NotHeard: []string{"b", "c"}}}
		if told := a.heard(); !slices.EqualFunc(told, want, preflight.Segment.Equal) {
			t.Errorf("told %+v", told)
		}
	}, claimedBy("a", 7))
}

func TestInterfacesThatCarryNothingAreToldToo(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.run("a")
		w.settle()
		a.SetLinks([]link.Link{a.eth0(), {Index: 9, Name: "kube-ipvs0"}})
		synctest.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.links) != 2 || !slices.Equal(a.carriers, []string{"eth0"}) {
			t.Errorf("told %+v, and %v to carry addresses", a.links, a.carriers)
		}
	}, claimedBy("a", 7))
}
