// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// helloModule writes a build module whose one program prints a greeting; it needs no network.
func helloModule(t *testing.T, greeting string) (source string, modules []module) {
	t.Helper()
	source = t.TempDir()
	dir := filepath.Join(source, "hello")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"go.mod":  "module example.org/hello\n\ngo 1.26.0\n\n// example.org/upstream v1.2.3\nrequire example.org/upstream v1.2.3\nreplace example.org/upstream => ./upstream\n",
		"go.sum":  "",
		"main.go": "package main\n\nvar version = \"unset\"\n\nfunc main() { println(\"" + greeting + "\", version) }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "upstream"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "upstream", "go.mod"), []byte("module example.org/upstream\n\ngo 1.26.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return source, []module{{
		dir: "hello", path: "example.org/upstream", stamps: []string{"main.version"},
		programs: []program{{"hello", ".", "an instant"}},
	}}
}

func TestConcurrentCallersBuildAProgramOnce(t *testing.T) {
	source, modules := helloModule(t, "good day")
	cache := t.TempDir()
	logs := make([]bytes.Buffer, 4)
	var wg sync.WaitGroup
	for i := range logs {
		wg.Go(func() {
			if _, err := ensure(t.Context(), source, cache, modules, &logs[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	built := 0
	for i := range logs {
		built += strings.Count(logs[i].String(), "done in")
	}
	if built != 1 {
		t.Errorf("built %d times, want once", built)
	}

	var quiet bytes.Buffer
	set, err := ensure(t.Context(), source, cache, modules, &quiet)
	if err != nil {
		t.Fatal(err)
	}
	if quiet.Len() != 0 {
		t.Errorf("a warm start says %q, want nothing", quiet.String())
	}
	out, err := exec.Command(set["hello"]).CombinedOutput()
	if err != nil || string(out) != "good day v1.2.3\n" {
		t.Errorf("the program says %q, %v", out, err)
	}
}

func TestAnotherGoSumOrFlagGoesToAnotherFolder(t *testing.T) {
	source, modules := helloModule(t, "hello")
	before, err := modules[0].plan(source, "/cache")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(before.out, "/cache/hello-v1.2.3-") {
		t.Errorf("folder %s does not name the module's version", before.out)
	}
	stampless := modules[0]
	stampless.stamps = nil
	if p, err := stampless.plan(source, "/cache"); err != nil || p.out == before.out {
		t.Errorf("other flags go to the same folder %s, %v", p.out, err)
	}
	if err := os.WriteFile(filepath.Join(source, "hello", "go.sum"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if p, err := modules[0].plan(source, "/cache"); err != nil || p.out == before.out {
		t.Errorf("another go.sum goes to the same folder %s, %v", p.out, err)
	}
}

func TestABuildThatFailsTellsTheCompilersWordsAndLeavesNothing(t *testing.T) {
	source, modules := helloModule(t, "hello\"+undefinedName+\"")
	cache := t.TempDir()
	set, err := ensure(t.Context(), source, cache, modules, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "undefinedName") {
		t.Errorf("error %v does not hold the compiler's words", err)
	}
	if set != nil {
		t.Errorf("a set %v came back with the error", set)
	}
	if files, _ := filepath.Glob(filepath.Join(cache, "hello-*", "*")); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	cache := t.TempDir()
	unlock, err := lock(t.Context(), cache, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var log bytes.Buffer
	if _, err := lock(ctx, cache, &log); err == nil {
		t.Error("the lock was taken twice")
	}
	if !strings.Contains(log.String(), "waiting for another process") {
		t.Errorf("said %q", log.String())
	}
}

func TestMissingCommandsNameTheirPackagesOnce(t *testing.T) {
	got := missingPackages(func(command string) bool { return command != "nft" && command != "arping" })
	if diff := cmp.Diff([]string{"iputils-arping", "nftables"}, got); diff != "" {
		t.Error(diff)
	}
	if got := missingPackages(func(string) bool { return true }); got != nil {
		t.Errorf("nothing is missing, got %v", got)
	}
}

func TestOnlyServicesOfPackagesThatAreInstalledAreMasked(t *testing.T) {
	packages := missingPackages(func(string) bool { return false })
	for pkg := range packageUnits {
		if !slices.Contains(packages, pkg) {
			t.Errorf("%s is never installed", pkg)
		}
	}
}

func TestEveryBuildModuleIsWellFormed(t *testing.T) {
	for _, m := range modules {
		if _, err := m.plan(".", "/cache"); err != nil {
			t.Error(err)
		}
	}
}
