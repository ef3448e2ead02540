// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"

	"github.com/fairlead-lb/fairlead/test/lab/binaries"
)

func (n *Node) AwaitProxy(ctx context.Context) error { return n.awaitProxy(ctx) }

// StartNetwork makes a lab's machines and LANs, and no cluster.
func StartNetwork(ctx context.Context, cfg Config) (*Lab, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := binaries.EnsurePackages(ctx, cfg.Log); err != nil {
		return nil, err
	}
	state, err := takeState(cfg.Name)
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: state.dir, cfg: cfg, state: state}
	if err := l.wire(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
