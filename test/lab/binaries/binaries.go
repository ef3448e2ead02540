// SPDX-License-Identifier: Apache-2.0

// Package binaries builds the programs a lab runs, from the Go module proxy into a per-user cache.
//
// Each upstream project has a module of its own in a folder below this one, so that the product's go.mod stays clean. A
// cache folder is named after everything that shapes a program: module version, go.mod and go.sum, flags, compiler.
package binaries

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// The programs, by file name.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Proxy             = "kube-proxy"
	Kubectl           = "kubectl"
	Agnhost           = "agnhost"
	Helm              = "helm"
)

// module is an upstream project: where its build module is and what comes out of it.
type module struct {
	dir      string // below this package's folder
	path     string // of the Go module whose version names the cache folder
	stamps   []string
	programs []program
}

type program struct{ name, pkg, coldHint string }

var modules = []module{
	{dir: "etcd", path: "go.etcd.io/etcd/server/v3", programs: []program{
		{Etcd, "go.etcd.io/etcd/server/v3", "1 to 4 minutes"},
	}},
	{dir: "kubernetes", path: "k8s.io/kubernetes", stamps: []string{
		"k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion",
	}, programs: []program{
		{APIServer, "k8s.io/kubernetes/cmd/kube-apiserver", "about 5 minutes"},
		{ControllerManager, "k8s.io/kubernetes/cmd/kube-controller-manager", "1 to 2 minutes"},
		{Proxy, "k8s.io/kubernetes/cmd/kube-proxy", "half a minute"},
		{Kubectl, "k8s.io/kubernetes/cmd/kubectl", "half a minute"},
		{Agnhost, "k8s.io/kubernetes/test/images/agnhost", "half a minute"},
	}},
	{dir: "helm", path: "helm.sh/helm/v4", programs: []program{
		{Helm, "helm.sh/helm/v4/cmd/helm", "1 to 2 minutes"},
	}},
}

// Set is a complete set of built programs.
type Set map[string]string // file name -> path

// Ensure builds what the cache lacks and returns the paths of all programs. repo is the root of the Fairlead repository;
// progress goes to log, and nothing when everything is there. Concurrent callers, also of other processes, build once.
func Ensure(ctx context.Context, repo string, log io.Writer) (Set, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("binaries: finding the cache: %w", err)
	}
	return ensure(ctx, filepath.Join(repo, "test", "lab", "binaries"), filepath.Join(cache, "fairlead", "lab"), modules, log)
}

func ensure(ctx context.Context, source, cache string, modules []module, log io.Writer) (Set, error) {
	set, missing := Set{}, false
	plans := make([]plan, len(modules))
	for i, m := range modules {
		p, err := m.plan(source, cache)
		if err != nil {
			return nil, err
		}
		plans[i] = p
		for _, prog := range m.programs {
			set[prog.name] = filepath.Join(p.out, prog.name)
			missing = missing || !exists(set[prog.name])
		}
	}
	if !missing {
		return set, nil
	}
	unlock, err := lock(ctx, cache, log)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for i, m := range modules {
		for _, prog := range m.programs {
			if exists(set[prog.name]) {
				continue // another process built it while this one waited
			}
			if err := plans[i].build(ctx, prog, log); err != nil {
				return nil, err
			}
		}
	}
	return set, nil
}

// plan is where and how the programs of one module are built.
type plan struct {
	source, out string
	flags       []string
}

func (m module) plan(source, cache string) (plan, error) {
	dir := filepath.Join(source, m.dir)
	gomod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return plan{}, fmt.Errorf("binaries: %w", err)
	}
	gosum, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		return plan{}, fmt.Errorf("binaries: %w", err)
	}
	version := requiredVersion(gomod, m.path)
	if version == "" {
		return plan{}, fmt.Errorf("binaries: %s/go.mod does not require %s", m.dir, m.path)
	}
	ldflags := "-s -w"
	for _, stamp := range m.stamps {
		ldflags += fmt.Sprintf(" -X %s=%s", stamp, version)
	}
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags", ldflags}
	h := sha256.New()
	fmt.Fprintln(h, flags, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	h.Write(gomod)
	h.Write(gosum)
	out := filepath.Join(cache, fmt.Sprintf("%s-%s-%x", m.dir, version, h.Sum(nil)[:6]))
	return plan{source: dir, out: out, flags: flags}, nil
}

// requiredVersion finds "path vX.Y.Z" in a go.mod, on a line of a require block or after the word require.
func requiredVersion(gomod []byte, path string) string {
	for line := range bytes.Lines(gomod) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(string(line)), "require "))
		if len(fields) >= 2 && fields[0] == path && strings.HasPrefix(fields[1], "v") {
			return fields[1]
		}
	}
	return ""
}

func (p plan) build(ctx context.Context, prog program, log io.Writer) error {
	if err := os.MkdirAll(p.out, 0o755); err != nil {
		return fmt.Errorf("binaries: %w", err)
	}
	partial := filepath.Join(p.out, prog.name+".partial")
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, p.flags...), "-o", partial, prog.pkg)...)
	cmd.Dir = p.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	what := fmt.Sprintf("building %s (once; with an empty Go build cache %s)", prog.name, prog.coldHint)
	if err := runWithProgress(cmd, what, log); err != nil {
		return fmt.Errorf("binaries: building %s: %w", prog.name, err)
	}
	// A rename is atomic: nobody ever runs half a program.
	if err := os.Rename(partial, filepath.Join(p.out, prog.name)); err != nil {
		return fmt.Errorf("binaries: %w", err)
	}
	return nil
}

// runWithProgress runs cmd and says every ten seconds how long it has been at it. The error ends with the command's output.
func runWithProgress(cmd *exec.Cmd, what string, log io.Writer) error {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	started := time.Now()
	fmt.Fprintf(log, "lab: %s\n", what)
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			fmt.Fprintf(log, "lab: %s: %s\n", what, time.Since(started).Round(time.Second))
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%w\n%s", err, tail(output.String(), 20))
			}
			fmt.Fprintf(log, "lab: %s: done in %s\n", what, time.Since(started).Round(100*time.Millisecond))
			return nil
		}
	}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// lock takes the cache's file lock, which the kernel releases should the holder die.
func lock(ctx context.Context, cache string, log io.Writer) (unlock func(), err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("binaries: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("binaries: %w", err)
	}
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for told := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("binaries: locking the cache: %w", err), f.Close())
		}
		if !told {
			fmt.Fprintln(log, "lab: waiting for another process that builds the lab's programs")
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-ticker.C:
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
