// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/ast"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// pages are those that users read, by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "reference", "*.md"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	found := map[string]string{}
	guides, err := filepath.Glob(filepath.Join("..", "*.md"))
	if err != nil || len(guides) == 0 {
		t.Fatalf("no guides: %v", err)
	}
	for _, path := range append(append(paths, guides...), filepath.Join("..", "..", "README.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found[path] = string(text)
	}
	return found
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func TestExamplesAreOfTheirKinds(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	examples := 0
	for path, text := range pages(t) {
		for _, block := range yamlBlock.FindAllStringSubmatch(text, -1) {
			for example := range strings.SplitSeq(block[1], "\n---\n") {
				examples++
				if _, _, err := decoder.Decode([]byte(example), nil, nil); err != nil {
					t.Errorf("%s: %v in\n%s", path, err, example)
				}
			}
		}
	}
	if examples == 0 {
		t.Error("there is no example")
	}
}

// What users meet in objects, Events and metrics is in the reference: every
// reason, everything named in the API, every metric.
func TestNothingIsLeftOut(t *testing.T) {
	var all strings.Builder
	for _, text := range pages(t) {
		all.WriteString(text)
	}
	found := 0
	for _, folder := range []string{"api", "controller", "ipam", "plan", "speaker"} {
		err := filepath.WalkDir(filepath.Join("..", "..", folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			s, err := parse(path, nil)
			if err != nil {
				return err
			}
			var values []string
			for _, c := range s.constants() {
				if folder == "api" || strings.HasPrefix(strings.ToLower(c.name), "reason") {
					values = append(values, c.value)
				}
			}
			ast.Inspect(s.file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.ValueSpec:
					if kind, ok := n.Type.(*ast.Ident); ok && kind.Name == "Reason" {
						for _, e := range n.Values {
							value, _ := literal(e)
							values = append(values, value)
						}
					}
				case *ast.BasicLit:
					if value, _ := literal(n); strings.HasPrefix(value, "fairlead_") {
						values = append(values, value)
					}
				}
				return true
			})
			for _, value := range values {
				found++
				if !strings.Contains(all.String(), code(value)) {
					t.Errorf("%s: %s is not in the reference", path, value)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Error("there is nothing to describe")
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)]+)\)`)
	spans   = regexp.MustCompile("`[^`\n]*`")
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^a-z0-9 -]`)
)

// anchors are what links within a page can point to: its headings, as GitHub
// writes them.
func anchors(page string) map[string]bool {
	found := map[string]bool{"": true}
	for _, h := range heading.FindAllStringSubmatch(page, -1) {
		found[strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return found
}

func TestLinksLeadSomewhere(t *testing.T) {
	for path, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(spans.ReplaceAllString(text, ""), -1) {
			to, err := url.Parse(m[1])
			if err != nil || to.IsAbs() {
				t.Errorf("%s: %s is no link within the repository", path, m[1])
				continue
			}
			target := path
			if to.Path != "" {
				target = filepath.Join(filepath.Dir(path), to.Path)
			}
			if to.Fragment == "" {
				if _, err := os.Stat(target); err != nil {
					t.Errorf("%s: %s: %v", path, m[1], err)
				}
				continue
			}
			page, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
			} else if !anchors(string(page))[to.Fragment] {
				t.Errorf("%s: %s: there is no such heading", path, m[1])
			}
		}
	}
}
