// SPDX-License-Identifier: Apache-2.0

// Command lab keeps a Kubernetes cluster over network namespaces running for people: start it, look into it, break it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// subcommand is one verb of the command. Its flags are its own; "--name" is everyone's.
type subcommand struct {
	name, args, help string
	run              func(ctx context.Context, flags *flag.FlagSet, args []string) error
	hidden           bool
}

var subcommands []subcommand

func init() {
	subcommands = []subcommand{
		{name: "up", args: "", help: "start a lab and leave it running", run: up},
		{name: "down", args: "", help: "end a lab, and remove what a crashed one left", run: down},
		{name: "status", args: "", help: "list the labs with their hosts and processes", run: status},
		{name: "install", args: "", help: "install the chart with Helm and run the controller and the speakers", run: install},
		{name: "kubectl", args: "-- ARGS...", help: "run kubectl as administrator", run: kubectl},
		{name: "exec", args: "HOST -- COMMAND...", help: "run a command on node1, client, router, far, control, ...", run: execute},
		{name: "probe", args: "HOST ADDRESS:PORT", help: "measure from a host how long a lab backend's address is dark, until Ctrl-C", run: probe},
		{name: "do", args: "ACTION TARGET", help: "break or mend something: " + actions(), run: do},
		{name: "supervise", run: supervise, hidden: true},
		{name: "probe-here", run: probeHere, hidden: true},
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		usage(os.Stderr)
		return flag.ErrHelp
	}
	for _, c := range subcommands {
		if c.name != args[0] {
			continue
		}
		flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
		flags.Usage = func() {
			fmt.Fprintf(flags.Output(), "usage: lab %s [flags] %s\n  %s\n", c.name, c.args, c.help)
			flags.PrintDefaults()
		}
		return c.run(ctx, flags, args[1:])
	}
	if args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(os.Stdout)
		return nil
	}
	usage(os.Stderr)
	return fmt.Errorf("unknown command %q", args[0])
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: go run ./test/lab COMMAND [flags]\n\n")
	for _, c := range subcommands {
		if !c.hidden {
			fmt.Fprintf(w, "  %-28s %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
		}
	}
	fmt.Fprint(w, "\nEvery command takes --name; \"lab COMMAND -h\" lists its flags.\n")
}

func actions() string {
	host, node, process := cluster.Actions()
	return fmt.Sprintf("%s (a host); %s (a node); %s (a process); backends (NAMESPACE/NAME); part (HOST/HOST)",
		strings.Join(host, ", "), strings.Join(node, ", "), strings.Join(process, ", "))
}

func nameFlag(flags *flag.FlagSet) *string { return flags.String("name", "default", "which lab") }
