// SPDX-License-Identifier: Apache-2.0

// Command bfd has two processes keep many BFD sessions with each other. It prints what that costs each of them, and fails if
// a session goes down though nothing was wrong.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/speaker/bfd"
	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

const (
	// patience is for all sessions to come up, on a busy machine.
	patience = time.Minute
	// settling is by how much the two sides may be apart, and for the timers to be agreed on.
	settling = 5 * time.Second
)

func main() {
	o := options{}
	flag.IntVar(&o.sessions, "sessions", 200, "how many sessions")
	flag.DurationVar(&o.interval, "interval", 100*time.Millisecond, "between packets")
	flag.DurationVar(&o.duration, "duration", time.Minute, "how long to look at them")
	flag.IntVar(&o.side, "side", 0, "1 or 2: be one of the two processes (it is started so)")
	flag.Parse()
	run := both
	if o.side != 0 {
		run = one
	}
	report.Run("bfd", func(ctx context.Context) error { return run(ctx, o) })
}

type options struct {
	sessions int
	interval time.Duration
	duration time.Duration
	side     int
}

// address is that of a side in a session.
func address(side, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(side), byte(i / 200), byte(1 + i%200)})
}

// both starts the two processes in namespaces and waits for what they tell.
func both(ctx context.Context, o options) (err error) {
	sb, err := sandbox.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sb.Close()) }()
	var spaces [2]*sandbox.Namespace
	for i := range spaces {
		if spaces[i], err = sb.AddNamespace(strconv.Itoa(i + 1)); err != nil {
			return err
		}
	}
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(spaces[1].FD())}
	veth.Name = "eth0"
	if err := spaces[0].Netlink().LinkAdd(veth); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-bfd")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i, ns := range spaces {
		l, err := ns.Netlink().LinkByName("eth0")
		if err != nil {
			return err
		}
		for n := range o.sessions {
			a := &netlink.Addr{IPNet: &net.IPNet{IP: address(i+1, n).AsSlice(), Mask: net.CIDRMask(8, 32)}}
			if err := ns.Netlink().AddrAdd(l, a); err != nil {
				return err
			}
		}
		if err := ns.Netlink().LinkSetUp(l); err != nil {
			return err
		}
	}
	var processes []*sandbox.Process
	for i, ns := range spaces {
		p, err := ns.Start(sandbox.Command{
			Name: ns.Name(), Path: self, Log: filepath.Join(dir, ns.Name()),
			Args: []string{"--side", strconv.Itoa(i + 1), "--sessions", strconv.Itoa(o.sessions), "--interval", o.interval.String(), "--duration", o.duration.String()},
		})
		if err != nil {
			return err
		}
		processes = append(processes, p)
	}
	return judge(ctx, o, processes)
}

// judge waits for both sides, prints what they tell, and fails if a session went down though nobody was kept from running.
func judge(ctx context.Context, o options, sides []*sandbox.Process) error {
	var downs, stalls uint64
	for _, p := range sides {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.Done():
		}
		said, err := os.ReadFile(p.Log)
		if err = errors.Join(err, p.Err()); err != nil {
			return fmt.Errorf("side %s: %w: %s", p.Name, err, said)
		}
		lines := bytes.Split(bytes.TrimSpace(said), []byte("\n"))
		var r outcome
		if err := json.Unmarshal(lines[len(lines)-1], &r); err != nil {
			return fmt.Errorf("side %s says %s: %w", p.Name, said, err)
		}
		fmt.Printf("%d BFD sessions at %s for %s, side %s\n", o.sessions, o.interval, r.Took.Round(time.Second), p.Name)
		fmt.Printf("  %-34s %8.2f %%\n", "CPU, of one core", 100*r.Used.Seconds()/r.Took.Seconds())
		fmt.Printf("  %-34s %8.0f\n", "packets sent in a second", float64(r.Packets)/r.Took.Seconds())
		fmt.Printf("  %-34s %8d, and %d times it was kept from running\n", "sessions went down", r.Downs, r.Stalls)
		downs, stalls = downs+r.Downs, stalls+r.Stalls
	}
	if downs > 0 && stalls == 0 {
		return fmt.Errorf("%d sessions went down for nothing", downs)
	}
	return nil
}

// outcome is what a side has seen while it was looked at. It is the last line that it prints.
type outcome struct {
	Took, Used             time.Duration
	Downs, Stalls, Packets uint64
}

// one is a side. What is promised is for one core.
func one(ctx context.Context, o options) error {
	runtime.GOMAXPROCS(1)
	reg := prometheus.NewRegistry()
	log := funcr.New(func(prefix, args string) { fmt.Println(prefix, args) }, funcr.Options{})
	m := bfd.New(log, reg, func(bfd.Status) {})
	defer m.Close()
	var configs []bfd.Config
	for i := range o.sessions {
		configs = append(configs, bfd.Config{
			Key:    bfd.Key{Remote: address(3-o.side, i), Local: address(o.side, i)},
			Timers: bfd.Timers{Transmit: o.interval, Receive: o.interval, Multiplier: 3},
		})
	}
	if err := m.Set(configs); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for !allUp(m) {
		if time.Now().After(deadline) {
			return errors.New("the sessions don't come up")
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	if err := wait(ctx, settling); err != nil {
		return err
	}
	stalls, packets, err := counted(reg)
	if err != nil {
		return err
	}
	before, cpu, begin := downs(m), spent(), time.Now()
	if err := wait(ctx, o.duration); err != nil {
		return err
	}
	r := outcome{Took: time.Since(begin), Used: spent() - cpu, Downs: downs(m) - before}
	if r.Stalls, r.Packets, err = counted(reg); err != nil {
		return err
	}
	r.Stalls, r.Packets = r.Stalls-stalls, r.Packets-packets
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	return wait(ctx, settling) // the other side may not be done
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func allUp(m *bfd.Manager) bool {
	for _, s := range m.Sessions() {
		if s.State != bfd.Up {
			return false
		}
	}
	return true
}

func downs(m *bfd.Manager) (n uint64) {
	for _, s := range m.Sessions() {
		n += s.Downs
	}
	return n
}

// spent is the processor time of this process.
func spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic("bfd: getrusage: " + err.Error())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func counted(reg *prometheus.Registry) (stalls, sent uint64, err error) {
	families, err := reg.Gather()
	if err != nil {
		return 0, 0, err
	}
	for _, f := range families {
		for _, metric := range f.Metric {
			switch f.GetName() {
			case "fairlead_bfd_stalls_total":
				stalls += uint64(metric.GetCounter().GetValue())
			case "fairlead_bfd_packets_sent_total":
				sent += uint64(metric.GetCounter().GetValue())
			}
		}
	}
	return stalls, sent, nil
}
