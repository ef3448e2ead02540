// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/router"
)

// variant is what a lab's routers are, and whether they watch the nodes by BFD.
type variant struct {
	kind    router.Kind
	routers int
	bfd     bool
}

func (v variant) String() string {
	return fmt.Sprintf("%s, %d routers, BFD %s", v.kind, v.routers, onOff(v.bfd))
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// bgp measures rows on labs with several sorts of routers.
func bgp(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var c common
	c.add(flags)
	var names []string
	for _, r := range bgpRows {
		names = append(names, r.name)
	}
	only := flags.String("rows", strings.Join(names, ","), "which rows of "+strings.Join(names, ", "))
	kinds := flags.String("kinds", string(router.FRR)+","+string(router.BIRD), "whose programs the routers run")
	numbers := flags.String("routers", "1,2", "how many routers the labs have")
	bfd := flags.String("bfd", "on,off", "whether routers watch nodes")
	nodes := flags.Int("nodes", 3, "how many nodes the labs have")
	runs := flags.Int("runs", 20, "of each row")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for name := range strings.SplitSeq(*only, ",") {
		if !slices.Contains(names, name) {
			return fmt.Errorf("unknown row %q: want %s", name, strings.Join(names, ", "))
		}
	}
	wanted := slices.DeleteFunc(slices.Clone(bgpRows), func(r bgpRow) bool { return !slices.Contains(strings.Split(*only, ","), r.name) })
	var variants []variant
	for kind := range strings.SplitSeq(*kinds, ",") {
		for number := range strings.SplitSeq(*numbers, ",") {
			n, err := strconv.Atoi(number)
			if err != nil || n < 1 {
				return fmt.Errorf("routers: %q is no number of them", number)
			}
			for watched := range strings.SplitSeq(*bfd, ",") {
				if watched != onOff(true) && watched != onOff(false) {
					return fmt.Errorf("bfd: %q: want %s or %s", watched, onOff(true), onOff(false))
				}
				variants = append(variants, variant{kind: router.Kind(kind), routers: n, bfd: watched == onOff(true)})
			}
		}
	}
	random := c.random()
	var results []bgpResult
	var failed error
	for _, v := range variants {
		measured, err := measureBGP(ctx, c, *nodes, v, wanted, *runs, random)
		results = append(results, measured...)
		if failed = errors.Join(failed, err); ctx.Err() != nil {
			break // what is measured is told all the same
		}
	}
	if !printBGP(os.Stdout, results, *runs) {
		failed = errors.Join(failed, errBroken)
	}
	return failed
}

// measureBGP does all runs of the rows on a lab with such routers, and on a new one after a run that did not end well.
func measureBGP(ctx context.Context, c common, nodes int, v variant, wanted []bgpRow, runs int, random *rand.Rand) (results []bgpResult, err error) {
	var s *bgpScene
	end := func() error {
		if s == nil {
			return nil
		}
		defer func() { s = nil }()
		return s.close()
	}
	defer func() { err = errors.Join(err, end()) }()
	for _, r := range wanted {
		bounds, ok := r.promise(v)
		if !ok {
			continue
		}
		res, began, failed := bgpResult{row: r, variant: v, bounds: bounds}, time.Now(), 0
		for i := 0; i < runs && failed < mostFailed; i++ {
			if s == nil {
				if s, err = newBGPScene(ctx, c, nodes, v); err != nil {
					return append(results, res), fmt.Errorf("%s: %w", v, err)
				}
			}
			outcomes, err := r.run(ctx, s, random)
			for _, o := range outcomes {
				fmt.Fprintf(c.log(), "%s, %s, run %d: %+v\n", r.title, v, i+1, o)
			}
			res.outcomes = append(res.outcomes, outcomes...)
			if ctx.Err() != nil {
				return append(results, res), ctx.Err()
			}
			if err != nil {
				failed++
				fmt.Fprintf(os.Stderr, "%s, %s, run %d: %v\n", r.title, v, i+1, err)
				if err := end(); err != nil {
					return append(results, res), err
				}
			}
		}
		results = append(results, res)
		fmt.Fprintf(os.Stderr, "%s, %s: %s\n", r.title, v, time.Since(began).Round(time.Second))
	}
	return results, nil
}
