// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeys(t *testing.T) {
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]string{
		"":                          "",
		file("0123456789abcdef \n"): "0123456789abcdef",
		file("0123456789abcdef\n\n  fedcba98765432100"): "0123456789abcdef,fedcba98765432100",
	} {
		if keys, err := readKeys(path); string(bytes.Join(keys, []byte(","))) != want || err != nil {
			t.Errorf("%s: %q, %v", path, keys, err)
		}
	}
	for path, want := range map[string]string{
		file("0123456789abcdef\n0123456789abcde\n"): "has 15 bytes",
		file(" \n"):    "has no key",
		"/nonexistent": "--mesh-key-file: ",
	} {
		if keys, err := readKeys(path); keys != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v", path, keys, err)
		}
	}
}
