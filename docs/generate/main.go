// SPDX-License-Identifier: Apache-2.0

// Command generate writes the tables of docs/reference from the code that they describe.
//
// A page says where a table goes and what is in it:
//
//	<!-- generated: fields LoadBalancerIP spec -->
//	<!-- end -->
//
// What stands between the two lines is replaced; the rest of a page is prose.
// It is run in the root of the repository, by make generate.
package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

func main() {
	if err := run("docs/reference"); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(folder string) error {
	pages, err := filepath.Glob(filepath.Join(folder, "*.md"))
	if err != nil {
		return err
	}
	if len(pages) == 0 {
		return fmt.Errorf("no page in %s: run this in the root of the repository", folder)
	}
	for _, path := range pages {
		before, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		after, err := rewrite(string(before), generate)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if after == string(before) {
			continue
		}
		if err := os.WriteFile(path, []byte(after), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const (
	begin    = "<!-- generated: "
	beginEnd = " -->"
	end      = "<!-- end -->"
)

// rewrite replaces each generated part of a page by what generate returns for
// the words of its marker.
func rewrite(page string, generate func(words []string) (string, error)) (string, error) {
	var out strings.Builder
	marker := "" // of the part that is being replaced
	for line := range strings.Lines(page) {
		text := strings.TrimSpace(line)
		switch words, isBegin := strings.CutPrefix(text, begin); {
		case isBegin && marker != "":
			return "", fmt.Errorf("%s has no %s", marker, end)
		case isBegin:
			marker = text
			table, err := generate(strings.Fields(strings.TrimSuffix(words, beginEnd)))
			if err != nil {
				return "", fmt.Errorf("%s: %w", marker, err)
			}
			out.WriteString(text + "\n" + table + end + "\n")
		case text == end && marker == "":
			return "", errors.New(end + " ends nothing")
		case text == end:
			marker = ""
		case marker == "":
			out.WriteString(line)
		}
	}
	if marker != "" {
		return "", fmt.Errorf("%s has no %s", marker, end)
	}
	return out.String(), nil
}

// tables are what a marker can ask for, by its first word, with what its other
// words are.
var tables = map[string]struct {
	arguments []string
	make      func(args []string) (string, error)
}{
	"fields":      {[]string{"KIND", "spec|status"}, func(args []string) (string, error) { return fields(crdFolder, args[0], args[1]) }},
	"columns":     {[]string{"KIND"}, func(args []string) (string, error) { return columns(crdFolder, args[0]) }},
	"constants":   {[]string{"FILE", "PREFIX"}, func(args []string) (string, error) { return constantTable(args[0], args[1]) }},
	"refusals":    {[]string{"FILE"}, func(args []string) (string, error) { return refusals(args[0]) }},
	"annotations": {[]string{"FILE", "FILE"}, func(args []string) (string, error) { return annotations(args[0], args[1]) }},
	"flags":       {[]string{"COMMAND"}, func(args []string) (string, error) { return flags(args[0]) }},
	"metrics":     {[]string{"FILE"}, func(args []string) (string, error) { return metrics(args[0]) }},
	"resets":      {[]string{"FILE"}, func(args []string) (string, error) { return resets(args[0]) }},
}

func generate(words []string) (string, error) {
	if len(words) == 0 {
		return "", errors.New("say what is to be generated")
	}
	t, ok := tables[words[0]]
	if !ok {
		return "", fmt.Errorf("%q can't be generated: there are %s", words[0], strings.Join(slices.Sorted(maps.Keys(tables)), ", "))
	}
	if len(words)-1 != len(t.arguments) {
		return "", fmt.Errorf("%s takes %s", words[0], strings.Join(t.arguments, " "))
	}
	return t.make(words[1:])
}

// table renders Markdown.
func table(header []string, rows [][]string) string {
	var out strings.Builder
	line := func(cells []string) {
		for _, c := range cells {
			out.WriteString("| " + strings.ReplaceAll(strings.Join(strings.Fields(c), " "), "|", `\|`) + " ")
		}
		out.WriteString("|\n")
	}
	line(header)
	out.WriteString(strings.Repeat("|---", len(header)) + "|\n")
	for _, r := range rows {
		line(r)
	}
	return out.String()
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// sentence makes a clause one: with a capital letter and a full stop.
func sentence(s string) string {
	if s = strings.TrimSpace(s); s == "" {
		return ""
	}
	first, size := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(first)) + s[size:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}
