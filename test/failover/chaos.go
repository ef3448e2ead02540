// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-lb/fairlead/test/failover/check"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// What chaos may cost.
const (
	mostUnanswered = 1500 * time.Millisecond
	// chaosInterval is the time between two questions for one address of 50.
	chaosInterval = 100 * time.Millisecond
)

// scheduleFile is what was done, in the folder that has a pcap file of each asker.
const scheduleFile = "schedule.json"

// chaos cuts links and pauses speakers at random, records what hosts are answered, and checks the records.
func chaos(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var c common
	c.add(flags)
	length := flags.Duration("for", 10*time.Minute, "how long")
	nodes := flags.Int("nodes", 6, "how many nodes")
	services := flags.Int("services", 50, "how many Services")
	dir := flags.String("dir", "", "folder for the schedule and the captures; a new one if empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		var err error
		if *dir, err = os.MkdirTemp("", "fairlead-chaos-"); err != nil {
			return err
		}
	}
	if *nodes < 2 || *length < 2*mostCalm {
		return fmt.Errorf("chaos: %d nodes for %s: want at least 2, for %s", *nodes, *length, 2*mostCalm)
	}
	random := c.random()
	s, err := newScene(ctx, c, *nodes, *services)
	if err != nil {
		return err
	}
	var names []string
	for _, n := range s.lab.Nodes {
		names = append(names, n.Name())
	}
	askers := []*cluster.Host{s.prober, s.fresh}
	steps := scheduleOf(random, *length, names, []string{s.prober.Name(), s.fresh.Name(), s.lab.Control.Name(), s.lab.Router.Name(), "controller1"})
	fmt.Printf("%d addresses, %d nodes, %d changes in %s; the captures are in %s\n", len(s.addrs), *nodes, len(steps), *length, *dir)
	if err := errors.Join(s.record(ctx, askers, steps, *length, *dir), s.lab.Close()); err != nil {
		return err
	}
	return report(os.Stdout, *dir)
}

// checkAgain checks the folder of an earlier chaos.
func checkAgain(_ context.Context, flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("check: want the folder of an earlier chaos")
	}
	return report(os.Stdout, flags.Arg(0))
}

// record goes through the steps while the askers ask, and leaves the schedule and the captures in a folder.
func (s *scene) record(ctx context.Context, askers []*cluster.Host, steps []step, length time.Duration, dir string) (err error) {
	done := check.Schedule{Nodes: map[string]wire.MAC{}, Askers: map[string]wire.MAC{}, Addrs: s.addrs, Every: chaosInterval}
	for _, n := range s.lab.Nodes {
		done.Nodes[n.Name()] = wire.MACOf(n.MAC)
	}
	for _, h := range askers {
		done.Askers[h.Name()] = wire.MACOf(h.MAC)
		recording, err := wire.StartRecording(h.Namespace, cluster.Interface, captureFile(dir, h.Name()))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, recording.Close()) }()
		probe, err := wire.StartColdProbe(h.Namespace, cluster.Interface, chaosInterval, s.addrs...)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, probe.Stop()) }()
	}
	if err := sleep(ctx, chaosInterval); err != nil {
		return err
	}
	began := time.Now()
	done.Changes = []check.Change{{At: began, What: "the beginning"}}
	paused := map[string]bool{}
	for _, step := range steps {
		if err := sleep(ctx, step.after-time.Since(began)); err != nil {
			return err
		}
		change := check.Change{At: time.Now(), What: step.what, Losses: step.losses(), Paused: step.paused()}
		if err := s.apply(ctx, change, paused); err != nil {
			return err
		}
		done.Changes = append(done.Changes, change)
		fmt.Printf("%7.1f s: %s\n", change.At.Sub(began).Seconds(), step.what)
	}
	if err := sleep(ctx, length-time.Since(began)); err != nil {
		return err
	}
	done.End = time.Now()
	return writeSchedule(dir, done)
}

func writeSchedule(dir string, s check.Schedule) error {
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, scheduleFile), append(text, '\n'), 0o644)
}

// apply makes the LAN as a change has it. Those that are paused now are kept in paused.
func (s *scene) apply(ctx context.Context, change check.Change, paused map[string]bool) error {
	var losses []cluster.Loss
	for _, l := range change.Losses {
		losses = append(losses, cluster.Loss(l))
	}
	if err := s.lab.SetLosses(ctx, losses...); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, name := range change.Paused {
		wanted[name] = true
	}
	for _, n := range s.lab.Nodes {
		name := n.Name()
		switch {
		case wanted[name] && !paused[name]:
			if err := s.speaker(n).Pause(); err != nil {
				return err
			}
		case !wanted[name] && paused[name]:
			if err := s.speaker(n).Resume(); err != nil {
				return err
			}
		}
		paused[name] = wanted[name]
	}
	return nil
}

func captureFile(dir, host string) string { return filepath.Join(dir, host+".pcap") }

// report checks a folder and tells what was found. It fails if a bound is broken.
func report(out io.Writer, dir string) error {
	schedule, seen, err := read(dir)
	if err != nil {
		return err
	}
	r := check.Check(schedule, seen)
	fmt.Fprintf(out, "\n%d changes, %d addresses, %d hosts asked %d questions and got %d answers, %d of them of one who stood in\n",
		len(schedule.Changes)-1, len(schedule.Addrs), len(schedule.Askers), r.Questions, r.Answers, r.Relayed)
	for _, list := range []struct {
		what     string
		findings []check.Finding
		bound    time.Duration
	}{{"answered by two in one segment, longest", r.Together, mostTogether}, {"unanswered after a change, longest", r.Unanswered, mostUnanswered}} {
		fmt.Fprintf(out, "%s (bound %s s):\n", list.what, seconds(list.bound))
		for _, f := range list.findings {
			fmt.Fprintln(out, "  "+f.String())
		}
		if len(list.findings) > 0 && list.findings[0].For > list.bound {
			err = errBroken
		}
	}
	if r.Strangers > 0 {
		fmt.Fprintf(out, "%d answers with a MAC of no node\n", r.Strangers)
		err = errBroken
	}
	if r.Answers == 0 {
		return errors.New("the captures have no answer")
	}
	return err
}

func read(dir string) (schedule check.Schedule, seen check.Exchange, err error) {
	text, err := os.ReadFile(filepath.Join(dir, scheduleFile))
	if err != nil {
		return schedule, nil, err
	}
	if err := json.Unmarshal(text, &schedule); err != nil {
		return schedule, nil, fmt.Errorf("%s: %w", scheduleFile, err)
	}
	asked := map[netip.Addr]bool{}
	for _, addr := range schedule.Addrs {
		asked[addr] = true
	}
	seen = check.Exchange{}
	for host, mac := range schedule.Askers {
		file, err := os.Open(captureFile(dir, host))
		if err != nil {
			return schedule, nil, err
		}
		err = wire.ReadPcap(file, func(f wire.Frame) {
			if r, ok := wire.ParseResolution(f); ok && asked[r.Addr] && (r.Answer && r.To == mac || !r.Answer && r.From == mac) {
				seen[host] = append(seen[host], r)
			}
		})
		if err := errors.Join(err, file.Close()); err != nil {
			return schedule, nil, err
		}
	}
	return schedule, seen, nil
}
