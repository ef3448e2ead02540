// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/failover/check"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

func TestASchedulePutsEveryFaultRightInTheEndAndLeavesTimeBetween(t *testing.T) {
	nodes, others := []string{"node1", "node2", "node3"}, []string{"client2", "control"}
	kinds := map[int]bool{}
	for seed := range uint64(200) {
		steps := scheduleOf(rand.New(rand.NewPCG(seed, 0)), 2*time.Minute, nodes, others)
		at := time.Duration(0)
		for i, s := range steps {
			if calm := s.after - at; calm < leastCalm && i < len(steps)-1 || calm < 0 {
				t.Fatalf("seed %d: %s after %s", seed, s.what, calm)
			}
			at = s.after
			if len(s.faults) > faultsAtOnce {
				t.Fatalf("seed %d: %d faults at once", seed, len(s.faults))
			}
			kinds[len(s.losses())] = true
			if len(s.paused()) > 0 {
				kinds[-1] = true
			}
			for _, l := range s.losses() {
				if l.From == l.To {
					t.Fatalf("seed %d: %v", seed, l)
				}
			}
		}
		if last := steps[len(steps)-1]; len(last.faults) > 0 || last.after != 2*time.Minute-mostCalm {
			t.Fatalf("seed %d ends with %v at %s", seed, last.faults, last.after)
		}
	}
	for _, kind := range []int{-1, 0, 1, 2, 8, 12} { // a pause, none, one way, both ways, 1 of 5 split off, 2
		if !kinds[kind] {
			t.Errorf("no schedule has %d losses at a time", kind)
		}
	}
}

func TestASplitHasNodesOnEitherSideAndPartsEverybodyWhoIsNot(t *testing.T) {
	nodes, others := []string{"node1", "node2", "node3"}, []string{"client2"}
	for seed := range uint64(50) {
		f := split(rand.New(rand.NewPCG(seed, 0)), nodes, others)
		reached := []string{"node1"}
		for _, name := range slices.Concat(nodes, others) {
			if name != "node1" && !slices.ContainsFunc(f.losses, func(l check.Loss) bool { return l.From == "node1" && l.To == name }) {
				reached = append(reached, name)
			}
		}
		here := len(slices.DeleteFunc(slices.Clone(reached), func(n string) bool { return slices.Contains(others, n) }))
		if here == len(nodes) {
			t.Errorf("seed %d: %s leaves all nodes together", seed, f.what)
		}
		if want := 2 * len(reached) * (4 - len(reached)); len(f.losses) != want {
			t.Errorf("seed %d: %s loses %d directions, want %d", seed, f.what, len(f.losses), want)
		}
	}
}

// leave writes the folder of a chaos in which node1 answered client2 at some tenths of a second.
func leave(t *testing.T, answered ...int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	began := time.Unix(1000, 0)
	node, client := wire.MAC{2, 0, 0, 0, 0, 1}, wire.MAC{2, 0, 0, 0, 0, 9}
	addr := netip.MustParseAddr("192.0.2.1")
	schedule := check.Schedule{
		Nodes: map[string]wire.MAC{"node1": node}, Askers: map[string]wire.MAC{"client2": client}, Addrs: []netip.Addr{addr},
		Every: chaosInterval, Changes: []check.Change{{At: began, What: "the beginning"}}, End: began.Add(3 * time.Second),
	}
	if err := writeSchedule(dir, schedule); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(captureFile(dir, "client2"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var frames []wire.Frame
	for _, tenth := range answered {
		frames = append(frames, wire.Frame{At: began.Add(time.Duration(tenth) * 100 * ms), Data: arpReply(node, client, addr)})
	}
	if err := wire.WritePcap(file, frames); err != nil {
		t.Fatal(err)
	}
	return dir
}

// arpReply says by hand that the address is at the MAC it is sent from.
func arpReply(from, to wire.MAC, addr netip.Addr) []byte {
	asker := netip.MustParseAddr("192.0.2.9")
	return slices.Concat(to[:], from[:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, from[:], addr.AsSlice(), to[:], asker.AsSlice())
}

func TestTheFolderOfAChaosIsCheckedAgain(t *testing.T) {
	var all []int
	for tenth := range 30 {
		all = append(all, tenth)
	}
	for _, tt := range []struct {
		name     string
		answered []int
		want     []string
		err      error
	}{
		{"answered throughout", all, []string{"got 30 answers", "0.100 s: 192.0.2.1"}, nil},
		{"a gap of less than the bound", slices.Concat(all[:10], all[20:]), []string{"1.100 s: 192.0.2.1, asked for by client2"}, nil},
		{"a gap of more", slices.Concat(all[:5], all[25:]), []string{"2.100 s: 192.0.2.1, asked for by client2"}, errBroken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			if err := report(&out, leave(t, tt.answered...)); !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the report lacks %q:\n%s", want, &out)
				}
			}
		})
	}
	if err := report(io.Discard, leave(t)); err == nil || errors.Is(err, errBroken) {
		t.Errorf("a capture without an answer: %v", err)
	}
	if err := report(io.Discard, t.TempDir()); err == nil {
		t.Error("an empty folder was checked")
	}
}
