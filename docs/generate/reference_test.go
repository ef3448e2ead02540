// SPDX-License-Identifier: Apache-2.0

package main

import (
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
	for _, path := range append(paths, filepath.Join("..", "architecture.md"), filepath.Join("..", "..", "README.md")) {
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

var (
	link    = regexp.MustCompile(`\]\(([^)]+)\)`)
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
		for _, m := range link.FindAllStringSubmatch(text, -1) {
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
