// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// flags lists the flags of a program, which is asked for them.
func flags(command string) (string, error) {
	cmd := exec.Command("go", "run", "./"+command, "--help")
	// What the environment says is not a default.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "NODE_NAME=") })
	cmd.Stderr = os.Stderr
	help, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	return flagTable(string(help))
}

var (
	flagLine    = regexp.MustCompile(`^  -(\S+)(?: (\S+))?(?:\t(.*))?$`)
	flagDefault = regexp.MustCompile(` \(default (.*)\)$`)
)

// flagTable reads what the PrintDefaults of a flag.FlagSet prints.
func flagTable(help string) (string, error) {
	var rows [][]string
	for line := range strings.Lines(help) {
		line = strings.TrimRight(line, "\n")
		if m := flagLine.FindStringSubmatch(line); m != nil {
			kind := m[2]
			if kind == "" {
				kind = "bool"
			}
			rows = append(rows, []string{code("--" + m[1]), kind, "", m[3]})
			continue
		}
		usage, ok := strings.CutPrefix(line, "    \t")
		if !ok || len(rows) == 0 {
			return "", fmt.Errorf("%q is not help about a flag", line)
		}
		last := rows[len(rows)-1]
		last[3] = strings.TrimSpace(last[3] + " " + usage)
	}
	for _, r := range rows {
		if r[3] == "" {
			return "", fmt.Errorf("flag %s has no help", r[0])
		}
		if m := flagDefault.FindStringSubmatch(r[3]); m != nil {
			r[2], r[3] = code(strings.Trim(m[1], `"`)), strings.TrimSuffix(r[3], m[0])
		}
	}
	return table([]string{"Flag", "Type", "Default", "Meaning"}, rows), nil
}
