// SPDX-License-Identifier: Apache-2.0

// Package imports tests which package may import which.
package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/fairlead-lb/fairlead/"

type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// list describes the module's packages and all that they depend on.
func list(t *testing.T) map[string]listed {
	t.Helper()
	// The go command keeps a test's result as long as the files that the test
	// itself opened are the same; those that go list reads don't count.
	if err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		_, err = os.ReadFile(path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", module+"...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	packages := map[string]listed{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}

func under(path string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return path == r || strings.HasPrefix(path, r+"/") })
}

func TestImportDirection(t *testing.T) {
	packages := list(t)
	kubernetes := []string{"k8s.io", "sigs.k8s.io"}
	rules := []struct {
		name string
		// of are the packages that the rule is about, except those under but.
		of, but []string
		// direct looks at a package's own imports, else all it depends on count.
		direct bool
		allow  func(listed) bool
	}{
		{
			name: "decisions import the standard library and netipx only, and nothing of it that reads a file or a socket",
			of:   []string{module + "ipam", module + "plan"}, but: []string{module + "plan/kube"}, direct: true,
			allow: func(p listed) bool {
				if p.Standard {
					return !slices.Contains([]string{"net", "os", "io", "log", "log/slog", "syscall", "math/rand", "math/rand/v2", "context"}, p.ImportPath)
				}
				return under(p.ImportPath, "go4.org/netipx")
			},
		},
		{
			name: "announcers know neither Kubernetes nor who calls them",
			of:   []string{module + "speaker/l2", module + "speaker/link", module + "speaker/mesh", module + "speaker/conflict", module + "speaker/verify", module + "speaker/bgp", module + "speaker/radv", module + "speaker/bfd"},
			allow: func(p listed) bool {
				return !under(p.ImportPath, append(kubernetes, module+"api", module+"plan", module+"controller", module+"speaker/agent", module+"speaker/source")...)
			},
		},
		{
			name:  "the controller does not import the speaker",
			of:    []string{module + "controller"},
			allow: func(p listed) bool { return !under(p.ImportPath, module+"speaker") },
		},
		{
			name:  "the speaker does not import the controller",
			of:    []string{module + "speaker"},
			allow: func(p listed) bool { return !under(p.ImportPath, module+"controller") },
		},
		{
			name: "the API imports Kubernetes' API machinery only",
			of:   []string{module + "api"}, direct: true,
			allow: func(p listed) bool { return p.Standard || under(p.ImportPath, "k8s.io/apimachinery", "k8s.io/api") },
		},
		{
			name:   "nobody imports a command",
			of:     []string{strings.TrimSuffix(module, "/")},
			allow:  func(p listed) bool { return !under(p.ImportPath, module+"cmd") },
			direct: true,
		},
		{
			name: "what is shipped does not import the tests' packages",
			of:   []string{strings.TrimSuffix(module, "/")}, but: []string{module + "test"}, direct: true,
			allow: func(p listed) bool { return !under(p.ImportPath, module+"test") },
		},
		{
			name: "only its adapter imports GoBGP",
			of:   []string{strings.TrimSuffix(module, "/")}, but: []string{module + "speaker/bgp/gobgp"}, direct: true,
			allow: func(p listed) bool { return !under(p.ImportPath, "github.com/osrg/gobgp") },
		},
	}
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			for path, p := range packages {
				if !under(path, rule.of...) || under(path, rule.but...) {
					continue
				}
				imports := p.Deps
				if rule.direct {
					imports = p.Imports
				}
				for _, i := range imports {
					if under(i, rule.of...) && i != path && len(rule.of) > 1 {
						continue
					}
					if q, ok := packages[i]; ok && !rule.allow(q) {
						t.Errorf("%s imports %s", path, i)
					}
				}
			}
		})
	}
}

func TestDecisionsReadNoClock(t *testing.T) {
	for _, pkg := range []string{"ipam", "plan", "speaker/conflict", "speaker/verify"} {
		files, err := filepath.Glob(filepath.Join("..", "..", pkg, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no files in %s: %v", pkg, err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "Sleep", "NewTimer", "NewTicker", "Tick"}, sel.Sel.Name) {
					t.Errorf("%s uses time.%s: the caller gives the time", path, sel.Sel.Name)
				}
				return true
			})
		}
	}
}
