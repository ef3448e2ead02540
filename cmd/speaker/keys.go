// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
)

// minKey is the least length of a key in bytes.
const minKey = 16

// readKeys returns the keys in a file, one on each line, none without a file.
// White space around a key is not part of it.
func readKeys(path string) ([][]byte, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--mesh-key-file: %w", err)
	}
	var keys [][]byte
	for line := range bytes.Lines(content) {
		key := bytes.TrimSpace(line)
		switch {
		case len(key) == 0:
		case len(key) < minKey:
			return nil, fmt.Errorf("--mesh-key-file: a key in %s has %d bytes, and needs %d", path, len(key), minKey)
		default:
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("--mesh-key-file: %s has no key", path)
	}
	return keys, nil
}
