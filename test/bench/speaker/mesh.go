// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/fairlead-lb/fairlead/test/bench/report"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// leastHellos is how many hellos per second each of the others has to send: 10, but for the clock's grain.
const leastHellos = 8

// mesh measures what it costs to hear others, which know what the speaker claims.
func (b *bench) mesh(how string, claims int, sizes []int) func(context.Context) error {
	return func(ctx context.Context) error {
		fmt.Printf("a speaker in a mesh, %s\n", how)
		for _, nodes := range sizes {
			if err := b.meshOf(ctx, nodes, how, claims); err != nil {
				return err
			}
		}
		return nil
	}
}

func (b *bench) meshOf(ctx context.Context, nodes int, how string, claims int) (err error) {
	c, err := newCrowd(ctx, b, nodes-1)
	if err != nil {
		return err
	}
	defer func() {
		if failed := c.close(); err == nil {
			err = failed
		}
	}()
	if err := cluster.Poll(ctx, "all are heard", func(ctx context.Context) error {
		if n, err := b.metric(ctx, "fairlead_mesh_peers"); err != nil || n != nodes-1 {
			return fmt.Errorf("%d of %d: %w", n, nodes-1, err)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := cluster.Poll(ctx, "all know the speaker's addresses", func(context.Context) error {
		if n := c.know(b.node.Name(), claims); n != nodes-1 {
			return fmt.Errorf("%d of %d do", n, nodes-1)
		}
		return nil
	}); err != nil {
		return err
	}
	if !pause(ctx, lull) {
		return ctx.Err()
	}
	before, sent, said := c.heard.Load(), c.sent.Load(), c.hellos.Load()
	speaker, kernel, err := b.spent(ctx, b.window)
	if err != nil {
		return err
	}
	// The bound means nothing if the others speak too seldom.
	if least := uint64(float64(nodes-1) * b.window.Seconds() * leastHellos); c.hellos.Load()-said < least {
		b.Promise(false, "the machine is too busy: %d others said hello %d times in %s", nodes-1, c.hellos.Load()-said, b.window)
		return nil
	}
	rate := func(n uint64) float64 { return float64(n) / b.window.Seconds() }
	report.Row(fmt.Sprintf("%d nodes", nodes), "%8.2f %% of a core, and %.2f %% in the kernel; %.0f packets in and %.0f out per second",
		100*speaker, 100*kernel, rate(c.sent.Load()-sent), rate(c.heard.Load()-before)/float64(nodes-1))
	b.Promise(nodes != meshNodes || speaker+kernel < mostMesh, "a mesh of %d nodes, %s, took %.2f %% of a core", nodes, how, 100*(speaker+kernel))
	return nil
}
