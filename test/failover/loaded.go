// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// loaded keeps every core busy with a compile while nothing is wrong, and counts what speakers did about that.
func loaded(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var c common
	c.add(flags)
	length := flags.Duration("for", 10*time.Minute, "how long")
	nodes := flags.Int("nodes", 6, "how many nodes")
	services := flags.Int("services", 50, "how many Services")
	if err := flags.Parse(args); err != nil {
		return err
	}
	random := c.random()
	s, err := newScene(ctx, c, *nodes, *services)
	if err != nil {
		return err
	}
	err = func() error {
		before, err := s.steady(ctx)
		if err != nil {
			return err
		}
		_, watched, err := s.choose(before, random)
		if err != nil {
			return err
		}
		probe, err := wire.StartColdProbe(s.prober.Namespace, cluster.Interface, chaosInterval, s.addrs...)
		if err != nil {
			return err
		}
		var udp []*wire.Probe
		for _, addr := range watched {
			udp = append(udp, wire.StartProbe(s.lab.Client, "udp", netip.AddrPortFrom(addr, servicePort)))
		}
		compiled, err := compile(ctx, *length)
		for _, p := range udp {
			fmt.Println("datagrams every 10 ms:", p.Stop())
		}
		err = errors.Join(err, probe.Stop())
		if err != nil {
			return err
		}
		after, err := s.records(ctx)
		if err != nil {
			return err
		}
		terms, relayed, changed := int64(0), 0, 0
		for addr, was := range before {
			terms += after[addr].term - was.term
			answers := probe.Answers(addr)
			for i, r := range answers {
				if r.Relayed() {
					relayed++
				}
				if i > 0 && r.MAC != answers[i-1].MAC {
					changed++
				}
			}
		}
		fmt.Printf("%d addresses on %d nodes, %s, %d programs compiled meanwhile: %d claims, %d changes of who answers, %d answers of one who stood in\n",
			len(s.addrs), *nodes, *length, compiled, terms, changed, relayed)
		if terms > 0 || changed > 0 {
			return errBroken
		}
		return nil
	}()
	return errors.Join(err, s.lab.Close())
}

// compile has all cores build this repository's programs from nothing, again and again, and returns how often they did.
func compile(ctx context.Context, length time.Duration) (times int, err error) {
	cache, err := os.MkdirTemp("", "fairlead-compile-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(cache)) }()
	root, err := cluster.RepositoryRoot()
	if err != nil {
		return 0, err
	}
	over, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var g errgroup.Group
	counts := make([]int, runtime.NumCPU())
	for i := range counts {
		g.Go(func() error {
			for {
				cmd := exec.CommandContext(over, "go", "build", "-a", "-o", os.DevNull, "./cmd/speaker")
				cmd.Dir, cmd.Env = root, append(os.Environ(), "GOCACHE="+cache)
				// The compilers that it started end with it.
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
				out, err := cmd.CombinedOutput()
				if over.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					return fmt.Errorf("compiling: %w\n%s", err, out)
				}
				counts[i]++
			}
		})
	}
	err = g.Wait()
	for _, n := range counts {
		times += n
	}
	return times, err
}
