// SPDX-License-Identifier: Apache-2.0

package due

import (
	"context"
	"time"
)

// Wait reports whether the time went by before ctx was done.
func Wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
