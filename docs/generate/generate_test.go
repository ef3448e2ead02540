// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func parsed(t *testing.T, text string) source {
	t.Helper()
	s, err := parse("file.go", text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func lines(s ...string) string { return strings.Join(s, "\n") + "\n" }

func expect(t *testing.T, got string, err error, want string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func expectError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one with %q", err, want)
	}
}

func TestPage(t *testing.T) {
	stars := func(words []string) (string, error) { return "* " + strings.Join(words, "+") + "\n", nil }
	page := lines("# Title", "<!-- generated: a b -->", "stale", "<!-- end -->", "prose", "<!-- generated: c -->", "<!-- end -->")
	want := lines("# Title", "<!-- generated: a b -->", "* a+b", "<!-- end -->", "prose", "<!-- generated: c -->", "* c", "<!-- end -->")
	got, err := rewrite(page, stars)
	expect(t, got, err, want)
	got, err = rewrite(want, stars)
	expect(t, got, err, want)

	for name, c := range map[string]struct{ page, err string }{
		"a part without an end": {lines("<!-- generated: a -->", "x"), "a --> has no <!-- end -->"},
		"a part within another": {lines("<!-- generated: a -->", "<!-- generated: b -->", "<!-- end -->"), "a --> has no <!-- end -->"},
		"an end of nothing":     {lines("<!-- end -->"), "ends nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rewrite(c.page, stars)
			expectError(t, err, c.err)
		})
	}
}

func TestMarkers(t *testing.T) {
	for marker, want := range map[string]string{
		"tabel x":               `"tabel" can't be generated`,
		"fields LoadBalancerIP": "fields takes KIND spec|status",
		"":                      "say what is to be generated",
		"refusals nowhere.go":   "open nowhere.go",
	} {
		_, err := rewrite(lines("<!-- generated: "+marker+" -->", "<!-- end -->"), generate)
		expectError(t, err, want)
	}
}

func TestConstants(t *testing.T) {
	s := parsed(t, `package p
const (
	// ReasonA: it is a|b.
	ReasonA = "A"
	ReasonB Kind = "B" // it is b
	reasonC = 3
	OtherD = "D"
)
// ReasonE says e.
const ReasonE = "E"
`)
	got, err := s.documented("Reason")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range got {
		all = append(all, c.value+" "+sentence(c.meaning))
	}
	if want := "A It is a|b.,B It is b.,E Says e."; strings.Join(all, ",") != want {
		t.Errorf("got %q, want %q", all, want)
	}
	_, err = s.documented("Other")
	expectError(t, err, "file.go:7:2: OtherD has no comment")
	_, err = s.documented("Unknown")
	expectError(t, err, `no string constant begins with "Unknown"`)
}

func TestRefusals(t *testing.T) {
	const text = `package p
const Full Reason = "Full" // nothing is free
func f() {
	refuse(Full, f, addr, "", "Pool %q is full: add to %q or %s.", a, b, c)
	refuse(Full, f, addr, "", "Both are full: add to %q or %s.", a, b)
	refuse(Full, f, addr, "", "It is full: wait.")
}
`
	got, err := parsed(t, text).refusals()
	expect(t, got, err, lines("| Reason | Meaning | What to do |", "|---|---|---|",
		"| `Full` | Nothing is free. | Add to … or ….<br>Wait. |"))
	_, err = parsed(t, text+`const Gone Reason = "Gone" // it is gone`).refusals()
	expectError(t, err, "no message of Gone says what to do")
}

func TestAnnotations(t *testing.T) {
	names := parsed(t, `package n
const NamePool = "ours/pool"
`)
	const ours = `package p
const Peer1 Peer = "peer1"
var ours = vocabulary{pool: []string{n.NamePool}}
`
	got, err := parsed(t, ours+`var theirs = map[Peer]vocabulary{Peer1: {pool: []string{"new/pool", "old/pool"}}}`).annotations(names)
	expect(t, got, err, lines("| With | the annotation | means the same as |", "|---|---|---|",
		"| `peer1` | `new/pool`, then `old/pool` | `ours/pool` |"))
	_, err = parsed(t, ours+`var theirs = map[Peer]vocabulary{Peer1: {key: []string{"new/key"}}}`).annotations(names)
	expectError(t, err, "key of Peer1 is not understood")
	_, err = parsed(t, ours).annotations(names)
	expectError(t, err, "no variable theirs")
}

func TestMetrics(t *testing.T) {
	got, err := parsed(t, `package p
var a = prometheus.NewDesc("fairlead_a", "Counts a.", nil, nil)
var b = opts{Name: "fairlead_b", Help: "Counts b."}
var c = f("other", "help")
`).metrics()
	expect(t, got, err, lines("| Metric | Meaning |", "|---|---|", "| `fairlead_a` | Counts a. |", "| `fairlead_b` | Counts b. |"))
	_, err = parsed(t, `package p`).metrics()
	expectError(t, err, "no metric")
}

func TestResets(t *testing.T) {
	got, err := parsed(t, `package p
var Fields = []Field{
	{"one, two", true, "it is in the OPEN message", nil},
	{"next hop", false, "it isn't"},
}
`).resets()
	expect(t, got, err, lines("| Another | begins the session anew | because |", "|---|---|---|",
		"| `one`, `two` | yes | It is in the OPEN message. |", "| next hop | no | It isn't. |"))
	_, err = parsed(t, `package p
var Fields = []Field{{Name: "one"}}`).resets()
	expectError(t, err, "not understood")
	_, err = parsed(t, `package p`).resets()
	expectError(t, err, "no variable Fields")
}

func TestFlags(t *testing.T) {
	got, err := flagTable("  -x\tshort (default true)\n  -name string\n    \twhat it is\n    \tcalled (default \"it\")\n  -on\n    \tturns it on\n")
	expect(t, got, err, lines("| Flag | Type | Default | Meaning |", "|---|---|---|---|",
		"| `--x` | bool | `true` | short |", "| `--name` | string | `it` | what it is called |", "| `--on` | bool |  | turns it on |"))
	_, err = flagTable("panic: no help\n")
	expectError(t, err, "is not help about a flag")
	_, err = flagTable("  -on\n    \t\n")
	expectError(t, err, "flag `--on` has no help")
}

func TestFields(t *testing.T) {
	const text = `spec:
  names: {kind: Thing}
  versions:
  - additionalPrinterColumns: [{jsonPath: .spec.size, name: Size}, {jsonPath: .spec.parts, name: Parts, priority: 1}]
    schema:
      openAPIV3Schema:
        x-kubernetes-validations: [{message: must be whole, rule: "true"}]
        properties:
          spec:
            required: [size]
            properties:
              size: {type: integer, format: int32, minimum: 1, default: 3, description: How large.}
              parts:
                type: array
                maxItems: 1
                description: What it is made of.
                items: {type: object, properties: {name: {type: string, enum: [a, b], description: NAME}}}
              tags: {type: array, x-kubernetes-list-type: set, description: Tags., items: {type: string, maxLength: 9}}
          status:
            properties: {size: {type: string, maxLength: 9, description: How large it is.}}
`
	write := func(t *testing.T, text string) string {
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "thing.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return folder
	}
	folder := write(t, strings.ReplaceAll(text, "NAME", "Its name."))
	got, err := fields(folder, "Thing", "spec")
	expect(t, got, err, lines(
		"| Field | Type | Meaning | Default | Checked when it is applied |", "|---|---|---|---|---|",
		"| the whole | object |  |  | “must be whole” |",
		"| `spec.parts` | list of objects | What it is made of. |  | at most 1 item |",
		"| `spec.parts[].name` | string | Its name. |  | one of a, b |",
		"| `spec.size` | int32 | How large. | `3` | required<br>at least 1 |",
		"| `spec.tags` | list of string | Tags. |  | no item twice<br>each: at most 9 characters |"))
	got, err = fields(folder, "Thing", "status")
	expect(t, got, err, lines("| Field | Type | Meaning |", "|---|---|---|", "| `status.size` | string | How large it is. |"))
	got, err = columns(folder, "Thing")
	expect(t, got, err, lines("| Column | From |  |", "|---|---|---|", "| SIZE | `.spec.size` |  |", "| PARTS | `.spec.parts` | with `-o wide` |"))

	_, err = fields(folder, "Other", "spec")
	expectError(t, err, "of kind Other")
	_, err = fields(write(t, strings.ReplaceAll(text, "NAME", "''")), "Thing", "spec")
	expectError(t, err, "spec.parts[].name has no description")
	_, err = fields(write(t, strings.ReplaceAll(text, "NAME", "Its name is what...")), "Thing", "spec")
	expectError(t, err, "was cut off")
}
