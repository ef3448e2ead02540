// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/yaml"
)

const crdFolder = "charts/fairlead/crds"

// crd is what the tables need of a CustomResourceDefinition.
type crd struct {
	Spec struct {
		Names    struct{ Kind string }
		Versions []struct {
			Columns []struct {
				Name, JSONPath string
				Priority       int
			} `json:"additionalPrinterColumns"`
			Schema struct {
				Schema schema `json:"openAPIV3Schema"`
			}
		}
	}
}

type schema struct {
	Description, Type, Format, Pattern string

	Default          json.RawMessage
	Enum             []string
	Minimum, Maximum *int64
	MinLength        *int64
	MaxLength        *int64
	MinItems         *int64
	MaxItems         *int64
	ListType         string                     `json:"x-kubernetes-list-type"`
	IntOrString      bool                       `json:"x-kubernetes-int-or-string"`
	Rules            []struct{ Message string } `json:"x-kubernetes-validations"`

	Required   []string
	Properties map[string]*schema
	Items      *schema
}

func readCRD(folder, kind string) (*crd, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var c crd
		if err := yaml.Unmarshal(text, &c); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if c.Spec.Names.Kind != kind {
			continue
		}
		if n := len(c.Spec.Versions); n != 1 {
			return nil, fmt.Errorf("%s has %d versions: say which one is described", path, n)
		}
		return &c, nil
	}
	return nil, fmt.Errorf("no CRD in %s is of kind %s", folder, kind)
}

// columns is what kubectl get prints.
func columns(folder, kind string) (string, error) {
	c, err := readCRD(folder, kind)
	if err != nil {
		return "", err
	}
	var rows [][]string
	for _, column := range c.Spec.Versions[0].Columns {
		wide := ""
		if column.Priority > 0 {
			wide = "with `-o wide`"
		}
		rows = append(rows, []string{strings.ToUpper(column.Name), code(column.JSONPath), wide})
	}
	return table([]string{"Column", "From", ""}, rows), nil
}

// fields is everything in the spec or the status of a kind. The rules of the
// object as a whole stand with its spec. What is checked of a status is left
// out: nobody applies one.
func fields(folder, kind, part string) (string, error) {
	c, err := readCRD(folder, kind)
	if err != nil {
		return "", err
	}
	root := c.Spec.Versions[0].Schema.Schema
	s := root.Properties[part]
	if s == nil {
		return "", fmt.Errorf("%s has no %s", kind, part)
	}
	var f fieldRows
	if part == "spec" {
		f.addRules("the whole", &root)
	}
	f.addRules(code(part), s)
	if err := f.addProperties(part, s); err != nil {
		return "", err
	}
	header := []string{"Field", "Type", "Meaning", "Default", "Checked when it is applied"}
	if part == "status" {
		header = header[:3]
		for i := range f.rows {
			f.rows[i] = f.rows[i][:3]
		}
	}
	return table(header, f.rows), nil
}

type fieldRows struct{ rows [][]string }

// addRules gives the rules of an object that span its fields a row.
func (f *fieldRows) addRules(name string, s *schema) {
	if len(s.Rules) > 0 {
		f.rows = append(f.rows, []string{name, "object", "", "", checks(s, false)})
	}
}

func (f *fieldRows) addProperties(path string, s *schema) error {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		field := s.Properties[name]
		if err := f.add(path+"."+name, field, slices.Contains(s.Required, name)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fieldRows) add(path string, s *schema, required bool) error {
	switch {
	case s.Description == "":
		return fmt.Errorf("%s has no description: give its Go field a comment", path)
	case strings.HasSuffix(s.Description, "..."):
		return fmt.Errorf("the description of %s was cut off: make the comment of its Go field shorter", path)
	}
	kind, within := describeType(s)
	f.rows = append(f.rows, []string{code(path), kind, s.Description, code(string(s.Default)), checks(s, required)})
	if within == nil {
		return nil
	}
	if s.Type == "array" {
		path += "[]"
	}
	return f.addProperties(path, within)
}

// describeType returns the type of a field in words and, unless these say it
// all, the schema of the object that it is or is a list of.
func describeType(s *schema) (kind string, within *schema) {
	switch {
	case s.Properties["matchLabels"] != nil:
		return "label selector", nil
	case s.Type == "array" && s.Items.Properties["lastTransitionTime"] != nil:
		return "list of conditions", nil
	case s.Type == "array" && s.Items.Type == "object":
		return "list of objects", s.Items
	case s.Type == "array":
		return "list of " + cmp.Or(s.Items.Format, s.Items.Type), nil
	case s.Type == "object":
		return "object", s
	case s.IntOrString:
		return "integer or string", nil
	}
	return cmp.Or(s.Format, s.Type), nil
}

// checks says what the API server refuses.
func checks(s *schema, required bool) string {
	var all []string
	if required {
		all = append(all, "required")
	}
	all = append(all, limits("item", s.MinItems, s.MaxItems)...)
	if s.ListType == "set" {
		all = append(all, "no item twice")
	}
	all = append(all, limits("character", s.MinLength, s.MaxLength)...)
	if s.Minimum != nil {
		all = append(all, fmt.Sprintf("at least %d", *s.Minimum))
	}
	if s.Maximum != nil {
		all = append(all, fmt.Sprintf("at most %d", *s.Maximum))
	}
	if len(s.Enum) > 0 {
		all = append(all, "one of "+strings.Join(s.Enum, ", "))
	}
	if s.Pattern != "" {
		all = append(all, "matches "+code(s.Pattern))
	}
	for _, rule := range s.Rules {
		all = append(all, "“"+rule.Message+"”")
	}
	if s.Type == "array" && s.Items.Type != "object" {
		if each := checks(s.Items, false); each != "" {
			all = append(all, "each: "+each)
		}
	}
	return strings.Join(all, "<br>")
}

func limits(what string, least, most *int64) []string {
	var all []string
	say := func(word string, n int64) {
		plural := "s"
		if n == 1 {
			plural = ""
		}
		all = append(all, fmt.Sprintf("%s %d %s%s", word, n, what, plural))
	}
	if least != nil {
		say("at least", *least)
	}
	if most != nil {
		say("at most", *most)
	}
	return all
}
