// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// source is a Go file.
type source struct {
	file *ast.File
	set  *token.FileSet
}

// parse reads a Go file; text is its content if it is not to be read from disk.
func parse(path string, text any) (source, error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
	return source{f, set}, err
}

// constant is a named string, with what its comment says it means.
type constant struct {
	name, value, meaning string
	pos                  token.Pos
}

// documented returns the constants with this prefix, each of which has to have
// a comment.
func (s source) documented(prefix string) ([]constant, error) {
	all := slices.DeleteFunc(s.constants(), func(c constant) bool { return !strings.HasPrefix(c.name, prefix) })
	if len(all) == 0 {
		return nil, fmt.Errorf("no string constant begins with %q", prefix)
	}
	for _, c := range all {
		if c.meaning == "" {
			return nil, fmt.Errorf("%s: %s has no comment: say what it means", s.set.Position(c.pos), c.name)
		}
	}
	return all, nil
}

// constants returns the file's constants that are string literals.
func (s source) constants() (found []constant) {
	for _, d := range s.file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			continue
		}
		for _, spec := range decl.Specs {
			spec := spec.(*ast.ValueSpec)
			if len(spec.Names) != 1 || len(spec.Values) != 1 {
				continue
			}
			value, ok := literal(spec.Values[0])
			if !ok {
				continue
			}
			c := constant{name: spec.Names[0].Name, value: value, meaning: spec.Doc.Text(), pos: spec.Pos()}
			if c.meaning == "" {
				c.meaning = spec.Comment.Text()
			}
			if c.meaning == "" && len(decl.Specs) == 1 {
				c.meaning = decl.Doc.Text()
			}
			c.meaning = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(c.meaning, c.name), ":"), " ")
			found = append(found, c)
		}
	}
	return found
}

// literal returns the value of a string literal.
func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(lit.Value)
	return value, err == nil
}

// constantTable says what constants mean. The prefix "" is written "*".
func constantTable(path, prefix string) (string, error) {
	s, err := parse(path, nil)
	if err != nil {
		return "", err
	}
	all, err := s.documented(strings.TrimSuffix(prefix, "*"))
	if err != nil {
		return "", err
	}
	var rows [][]string
	for _, c := range all {
		rows = append(rows, []string{code(c.value), sentence(c.meaning)})
	}
	return table([]string{"Value", "Meaning"}, rows), nil
}

// refusals says of each reason what it means, and what its messages say is to
// be done: they are "what is in the way: what to do".
func refusals(path string) (string, error) {
	s, err := parse(path, nil)
	if err != nil {
		return "", err
	}
	return s.refusals()
}

var placeholder = regexp.MustCompile(`%[a-z]`)

func (s source) refusals() (string, error) {
	reasons, err := s.documented("")
	if err != nil {
		return "", err
	}
	todo := map[string][]string{}
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "refuse" || len(call.Args) < 5 {
			return true
		}
		reason, ok := call.Args[0].(*ast.Ident)
		if !ok {
			return true
		}
		if format, ok := literal(call.Args[4]); ok {
			_, do, _ := strings.Cut(format, ": ")
			do = sentence(placeholder.ReplaceAllString(do, "…"))
			if !slices.Contains(todo[reason.Name], do) {
				todo[reason.Name] = append(todo[reason.Name], do)
			}
		}
		return true
	})
	var rows [][]string
	for _, r := range reasons {
		do := strings.Join(todo[r.name], "<br>")
		if do == "" {
			return "", fmt.Errorf("no message of %s says what to do", r.name)
		}
		rows = append(rows, []string{code(r.value), sentence(r.meaning), do})
	}
	return table([]string{"Reason", "Meaning", "What to do"}, rows), nil
}

// annotations says which annotations of peers mean the same as ours. File has
// the variables ours and theirs, names has the constants of ours.
func annotations(file, names string) (string, error) {
	f, err := parse(file, nil)
	if err != nil {
		return "", err
	}
	n, err := parse(names, nil)
	if err != nil {
		return "", err
	}
	return f.annotations(n)
}

func (s source) annotations(names source) (string, error) {
	value := map[string]string{}
	for _, s := range []source{s, names} {
		for _, c := range s.constants() {
			value[c.name] = c.value
		}
	}
	ours := map[string]string{} // by field of a vocabulary
	for field, list := range elements(s.variable("ours")) {
		for _, name := range items(list) {
			if sel, ok := name.(*ast.SelectorExpr); ok {
				ours[field] = value[sel.Sel.Name]
			}
		}
	}
	var rows [][]string
	for peer, vocabulary := range elements(s.variable("theirs")) {
		for field, list := range elements(vocabulary) {
			var alike []string
			for _, e := range items(list) {
				if name, ok := literal(e); ok {
					alike = append(alike, code(name))
				}
			}
			if value[peer] == "" || ours[field] == "" || len(alike) == 0 {
				return "", fmt.Errorf("%s of %s is not understood", field, peer)
			}
			rows = append(rows, []string{code(value[peer]), strings.Join(alike, ", then "), code(ours[field])})
		}
	}
	if len(rows) == 0 {
		return "", errors.New("there is no variable theirs with annotations")
	}
	return table([]string{"With", "the annotation", "means the same as"}, rows), nil
}

// variable returns the value of a variable of the file, nil if there is none.
func (s source) variable(name string) (value ast.Expr) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Names) == 1 && len(v.Values) == 1 && v.Names[0].Name == name {
			value = v.Values[0]
		}
		return value == nil
	})
	return value
}

// items are what a literal is made of.
func items(e ast.Expr) []ast.Expr {
	if lit, ok := e.(*ast.CompositeLit); ok {
		return lit.Elts
	}
	return nil
}

// elements yields the keys, which are names, and the values of a literal.
func elements(e ast.Expr) iter.Seq2[string, ast.Expr] {
	return func(yield func(string, ast.Expr) bool) {
		for _, e := range items(e) {
			kv, ok := e.(*ast.KeyValueExpr)
			if !ok {
				continue
			}
			if key, ok := kv.Key.(*ast.Ident); ok && !yield(key.Name, kv.Value) {
				return
			}
		}
	}
}

// metrics lists those whose name and help stand side by side: as the first two
// arguments of a call, or as Name and Help of a literal.
func metrics(path string) (string, error) {
	s, err := parse(path, nil)
	if err != nil {
		return "", err
	}
	return s.metrics()
}

func (s source) metrics() (string, error) {
	var rows [][]string
	add := func(name, help ast.Expr) {
		n, ok := literal(name)
		if !ok || !strings.HasPrefix(n, "fairlead_") {
			return
		}
		if h, ok := literal(help); ok {
			rows = append(rows, []string{code(n), h})
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if len(n.Args) >= 2 {
				add(n.Args[0], n.Args[1])
			}
		case *ast.CompositeLit:
			field := maps.Collect(elements(n))
			add(field["Name"], field["Help"])
		}
		return true
	})
	if len(rows) == 0 {
		return "", errors.New("no metric has its name and help side by side")
	}
	return table([]string{"Metric", "Meaning"}, rows), nil
}
