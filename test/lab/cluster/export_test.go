// SPDX-License-Identifier: Apache-2.0

package cluster

import "context"

func (n *Node) AwaitProxy(ctx context.Context) error { return n.awaitProxy(ctx) }
