// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

func configFlags(flags *flag.FlagSet) *cluster.Config {
	cfg := &cluster.Config{Log: os.Stderr}
	flags.StringVar(&cfg.Name, "name", "default", "which lab")
	flags.IntVar(&cfg.Nodes, "nodes", 3, fmt.Sprintf("how many nodes, 1 to %d", cluster.MaxNodes))
	flags.StringVar((*string)(&cfg.ProxyMode), "proxy-mode", string(cluster.NFTables), "kube-proxy's mode: nftables or iptables")
	flags.StringVar((*string)(&cfg.Family), "family", string(cluster.Dual), "IPv4, IPv6 or Dual")
	flags.StringVar((*string)(&cfg.Gateway), "router", "", "the LAN's router speaks BGP: FRR or BIRD")
	flags.BoolVar(&cfg.SecondLAN, "second-lan", false, "nodes and the client have an eth1 on another LAN")
	flags.DurationVar(&cfg.NodeGrace, "node-grace", 4*time.Second, "from a node's last heartbeat to NotReady")
	return cfg
}

// up starts this program again as the lab's supervisor, in the background, and returns when the lab is up.
func up(ctx context.Context, flags *flag.FlagSet, args []string) error {
	cfg := configFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("up: unexpected argument %q", flags.Arg(0))
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the own program: %w", err)
	}
	supervisor := exec.Command(self, append([]string{"supervise"}, args...)...)
	supervisor.Stderr = os.Stderr
	supervisor.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// While it starts, the supervisor ends when this pipe does: a person who gives up leaves nothing behind.
	leash, err := supervisor.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	readiness, err := supervisor.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	if err := supervisor.Start(); err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = leash.Close() })
	defer stop()
	word, err := io.ReadAll(readiness)
	if err != nil || string(word) != readyWord {
		// It has said why on the terminal.
		return errors.Join(errors.New("the lab did not start"), ctx.Err(), supervisor.Wait())
	}
	name := ""
	if cfg.Name != "default" {
		name = " --name " + cfg.Name
	}
	fmt.Printf(`The lab is running.
  go run ./test/lab kubectl%[1]s -- get nodes
  go run ./test/lab exec%[1]s client -- ip neigh
  go run ./test/lab install%[1]s
  go run ./test/lab status%[1]s
  go run ./test/lab down%[1]s
`, name)
	return nil
}

const readyWord = "ready\n"

// supervise has the lab until SIGTERM.
func supervise(ctx context.Context, flags *flag.FlagSet, args []string) error {
	cfg := configFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		// The error is as good as the end: nobody waits any more.
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	lab, err := cluster.Start(starting, *cfg)
	if err != nil {
		return err
	}
	if err := detach(lab); err != nil {
		return errors.Join(err, lab.Close())
	}
	<-ctx.Done()
	return lab.Close()
}

// detach says that the lab is up and turns from the terminal to a log file.
func detach(lab *cluster.Lab) error {
	log, err := os.OpenFile(filepath.Join(lab.Dir, "logs", "lab.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if _, err := os.Stdout.WriteString(readyWord); err != nil {
		return fmt.Errorf("whoever started the lab is gone: %w", err)
	}
	for _, fd := range []int{1, 2} {
		if err := syscall.Dup3(int(log.Fd()), fd, 0); err != nil {
			return fmt.Errorf("turning to the log: %w", err)
		}
	}
	return nil
}

// down ends the process that has the lab, which may also be a test, and sweeps.
func down(ctx context.Context, flags *flag.FlagSet, args []string) error {
	name := nameFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	const grace = 20 * time.Second
	term, kill := false, time.Now().Add(grace)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := cluster.Sweep(*name)
		var running *cluster.RunningError
		if !errors.As(err, &running) {
			return err
		}
		if running.PID > 0 {
			sig := syscall.Signal(0)
			if !term {
				sig, term = syscall.SIGTERM, true
			} else if time.Now().After(kill) {
				sig = syscall.SIGKILL
			}
			// It may have ended since: the next sweep will tell.
			_ = syscall.Kill(running.PID, sig)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
