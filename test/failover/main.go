// SPDX-License-Identifier: Apache-2.0

// Command failover breaks nodes, links and speakers of a lab, measures what the clients of its addresses notice, and fails
// if that is more than Fairlead promises.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

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
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

var errBroken = errors.New("a bound is broken")

// run does what the first argument says, the table if it is a flag or missing.
func run(ctx context.Context, args []string) error {
	verb := "table"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	verbs := map[string]func(context.Context, *flag.FlagSet, []string) error{
		"table": table, "bgp": bgp, "chaos": chaos, "check": checkAgain, "loaded": loaded,
	}
	do, ok := verbs[verb]
	if !ok {
		return fmt.Errorf("unknown command %q: want table, bgp, chaos, check or loaded", verb)
	}
	return do(ctx, flag.NewFlagSet("failover "+verb, flag.ContinueOnError), args)
}

// common are the flags that every lab needs.
type common struct {
	families cluster.Family
	seed     uint64
	verbose  bool
	install  cluster.InstallOptions
}

func (c *common) add(flags *flag.FlagSet) {
	flags.StringVar((*string)(&c.families), "families", string(cluster.Dual), "IPv4, IPv6 or Dual")
	flags.Uint64Var(&c.seed, "seed", uint64(time.Now().UnixNano()), "of what is chosen at random")
	flags.StringVar(&c.install.BinDir, "bin", "", "folder of the programs; the repository's bin if empty")
	flags.StringVar(&c.install.Chart, "chart", "", "folder of the chart; that of the repository if empty")
	flags.BoolVar(&c.verbose, "v", false, "print every run")
}

func (c *common) log() io.Writer {
	if c.verbose {
		return os.Stderr
	}
	return io.Discard
}

func (c *common) random() *rand.Rand {
	fmt.Printf("seed %d\n", c.seed)
	return rand.New(rand.NewPCG(c.seed, 0))
}

// table measures rows on labs of several sizes.
func table(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var c common
	c.add(flags)
	var names, usual []string
	for _, r := range rows {
		if names = append(names, r.name); !r.byName {
			usual = append(usual, r.name)
		}
	}
	only := flags.String("rows", strings.Join(usual, ","), "which rows of "+strings.Join(names, ", "))
	sizes := flags.String("nodes", "3,8", "how many nodes the labs have")
	runs := flags.Int("runs", 20, "of each row")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var wanted []row
	for _, name := range strings.Split(*only, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return fmt.Errorf("unknown row %q: want %s", name, strings.Join(names, ", "))
		}
		wanted = append(wanted, rows[i])
	}
	random := c.random()
	var results []result
	var failed error
	for _, size := range strings.Split(*sizes, ",") {
		nodes, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("nodes: %w", err)
		}
		measured, err := measure(ctx, c, nodes, wanted, *runs, random)
		results = append(results, measured...)
		if failed = err; err != nil {
			break // what is measured is told all the same
		}
	}
	if !printTable(os.Stdout, results, *runs) {
		failed = errors.Join(failed, errBroken)
	}
	return failed
}

// servicesPerNode makes it likely that a node owns an address of each family, whatever was moved before.
const servicesPerNode = 3

// mostFailed is how many runs of a row may fail before the others are left out.
const mostFailed = 3

// measure does all runs of the rows on one lab, and on a new one after a run that did not end well.
func measure(ctx context.Context, c common, nodes int, wanted []row, runs int, random *rand.Rand) (results []result, err error) {
	var s *scene
	end := func() error {
		if s == nil {
			return nil
		}
		defer func() { s = nil }()
		return s.lab.Close()
	}
	defer func() { err = errors.Join(err, end()) }()
	for _, r := range wanted {
		res, began, failed := result{row: r, nodes: nodes}, time.Now(), 0
		for i := 0; i < runs && failed < mostFailed; i++ {
			if s == nil {
				if s, err = newScene(ctx, c, nodes, servicesPerNode*nodes); err != nil {
					return results, err
				}
			}
			outcomes, err := r.run(ctx, s, random, i)
			for _, o := range outcomes {
				fmt.Fprintf(c.log(), "%s, run %d: %+v\n", r.title, i+1, o)
			}
			res.outcomes = append(res.outcomes, outcomes...)
			if ctx.Err() != nil {
				return append(results, res), ctx.Err()
			}
			if err != nil {
				failed++
				fmt.Fprintf(os.Stderr, "%s, %d nodes, run %d: %v\n", r.title, nodes, i+1, err)
				if err := end(); err != nil {
					return results, err
				}
			}
		}
		results = append(results, res)
		fmt.Fprintf(os.Stderr, "%s, %d nodes: %s\n", r.title, nodes, time.Since(began).Round(time.Second))
	}
	return results, nil
}
