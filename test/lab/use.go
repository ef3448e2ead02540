// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

func status(ctx context.Context, flags *flag.FlagSet, args []string) error {
	name := flags.String("name", "", "which lab; all if empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	names := []string{*name}
	if *name == "" {
		var err error
		if names, err = cluster.List(); err != nil {
			return err
		}
		if len(names) == 0 {
			fmt.Println("no lab is running")
		}
	}
	for _, n := range names {
		s, err := cluster.Connect(n).Status(ctx)
		if err != nil && *name == "" {
			fmt.Printf("%s: starting, or left from a crash: \"lab down --name %s\" removes it\n", n, n)
			continue
		}
		if err != nil {
			return err
		}
		printStatus(s)
	}
	return nil
}

func printStatus(s cluster.Status) {
	fmt.Printf("%s: process %d, kube-proxy %s, %s\n  state and logs  %s\n  kubeconfig      %s (inside the lab)\n\n",
		s.Name, s.PID, s.ProxyMode, s.Family, s.Dir, s.Kubeconfig)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  HOST\tIPv4\tIPv6\tMAC")
	for _, h := range s.Hosts {
		v4, v6 := "-", "-"
		if h.IPv4.IsValid() {
			v4 = h.IPv4.String()
		}
		if h.IPv6.IsValid() {
			v6 = h.IPv6.String()
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", h.Name, v4, v6, h.MAC)
	}
	fmt.Fprintln(w, "  \t\t\t\n  PROCESS\tPID\tSTATE\tLOG")
	for _, p := range s.Processes {
		fmt.Fprintf(w, "  %s\t%d\t%s\t%s\n", p.Name, p.PID, p.State, filepath.Base(p.Log))
	}
	_ = w.Flush() // standard output: there is nobody to tell
}

func install(ctx context.Context, flags *flag.FlagSet, args []string) error {
	name := nameFlag(flags)
	var opts cluster.InstallOptions
	flags.StringVar(&opts.Chart, "chart", "", "folder of the chart; that of the repository if empty")
	flags.StringVar(&opts.BinDir, "bin", "", "folder of the programs; the repository's bin if empty")
	flags.BoolVar(&opts.Build, "build", false, "build the programs even if they are there")
	flags.Func("set", "a chart value, as helm's --set; may be repeated", func(s string) error {
		opts.Set = append(opts.Set, s)
		return nil
	})
	flags.Func("values", "a file of chart values, as helm's --values; may be repeated", func(s string) error {
		path, err := filepath.Abs(s)
		opts.ValueFiles = append(opts.ValueFiles, path)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, p := range []*string{&opts.Chart, &opts.BinDir} {
		if *p != "" {
			abs, err := filepath.Abs(*p)
			if err != nil {
				return err
			}
			*p = abs
		}
	}
	return cluster.Connect(*name).Install(ctx, opts)
}

func do(ctx context.Context, flags *flag.FlagSet, args []string) error {
	name := nameFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		flags.Usage()
		return errors.New("do: want an action and its target")
	}
	return cluster.Connect(*name).Do(ctx, flags.Arg(0), flags.Arg(1))
}

func kubectl(ctx context.Context, flags *flag.FlagSet, args []string) error {
	name := nameFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	return become(ctx, *name, "control", append([]string{"kubectl"}, flags.Args()...))
}

func execute(ctx context.Context, flags *flag.FlagSet, args []string) error {
	name := nameFlag(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	command := flags.Args()
	if len(command) == 0 {
		flags.Usage()
		return errors.New("exec: want a host")
	}
	host, command := command[0], command[1:]
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		command = []string{"sh"}
	}
	return become(ctx, *name, host, command)
}

// probe becomes probeHere on a host.
func probe(ctx context.Context, flags *flag.FlagSet, args []string) error {
	name := nameFlag(flags)
	network, duration := probeFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		flags.Usage()
		return errors.New("probe: want a host, and an address with its port")
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the own program: %w", err)
	}
	return become(ctx, *name, flags.Arg(0), []string{
		self, "probe-here", "--network=" + *network, "--for=" + duration.String(), flags.Arg(1),
	})
}

func probeFlags(flags *flag.FlagSet) (network *string, duration *time.Duration) {
	return flags.String("network", "udp", "udp, or tcp for an HTTP exchange"),
		flags.Duration("for", 0, "end after this time; 0 is at Ctrl-C")
}

func probeHere(ctx context.Context, flags *flag.FlagSet, args []string) error {
	network, duration := probeFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	target, err := netip.ParseAddrPort(flags.Arg(0))
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if *network != "udp" && *network != "tcp" {
		return fmt.Errorf("probe: network %q: want udp or tcp", *network)
	}
	if *duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *duration)
		defer cancel()
	}
	p := wire.StartProbe(&net.Dialer{}, *network, target)
	<-ctx.Done()
	fmt.Println(p.Stop())
	return nil
}

// become turns this process into a command inside a host of the lab, with kubectl and a kubeconfig at hand.
func become(ctx context.Context, name, host string, command []string) error {
	s, err := cluster.Connect(name).Status(ctx)
	if err != nil {
		return err
	}
	namespace, known := "", make([]string, 0, len(s.Hosts))
	for _, h := range s.Hosts {
		known = append(known, h.Name)
		if h.Name == host {
			namespace = h.Namespace
		}
	}
	if namespace == "" {
		return fmt.Errorf("lab %s has no host %q: it has %s", name, host, strings.Join(known, ", "))
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("entering %s: %w", host, err)
	}
	env := append(os.Environ(), "KUBECONFIG="+s.Kubeconfig,
		"PATH="+strings.Join(append(s.Path, os.Getenv("PATH")), string(os.PathListSeparator)))
	return syscall.Exec(nsenter, append([]string{"nsenter", "--net=" + namespace, "--"}, command...), env)
}
