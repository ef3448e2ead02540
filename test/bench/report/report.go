// SPDX-License-Identifier: Apache-2.0

// Package report prints what a bench measures, and keeps the promises that are broken.
package report

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Run is a bench's main: it exits with 1 if run fails, whose context ends when the program is interrupted.
func Run(name string, run func(context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Row prints one figure.
func Row(what, format string, args ...any) {
	fmt.Printf("  %-40s "+format+"\n", append([]any{what}, args...)...)
}

// Promises are what Fairlead promises. The zero value is ready to be used.
type Promises struct{ broken []error }

// Promise takes note of a promise unless it was kept.
func (p *Promises) Promise(kept bool, otherwise string, args ...any) {
	if !kept {
		p.broken = append(p.broken, fmt.Errorf(otherwise, args...))
	}
}

// Broken tells of all that were not kept.
func (p *Promises) Broken() error { return errors.Join(p.broken...) }
