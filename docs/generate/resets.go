// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"go/ast"
	"strings"
)

// resets says of each field of a BGPPeer whether a change ends the session, and
// why. File has the variable Fields: names, whether, why.
func resets(path string) (string, error) {
	s, err := parse(path, nil)
	if err != nil {
		return "", err
	}
	return s.resets()
}

func (s source) resets() (string, error) {
	var rows [][]string
	for _, e := range items(s.variable("Fields")) {
		field := items(e)
		if len(field) < 3 {
			return "", errors.New("an element of Fields is not understood")
		}
		names, isName := literal(field[0])
		why, isWhy := literal(field[2])
		whether, isBool := field[1].(*ast.Ident)
		if !isName || !isWhy || !isBool {
			return "", errors.New("an element of Fields is not understood")
		}
		answer, ok := map[string]string{"true": "yes", "false": "no"}[whether.Name]
		if !ok {
			return "", fmt.Errorf("%s of Fields is neither true nor false", names)
		}
		if !strings.Contains(names, " ") || strings.Contains(names, ",") {
			names = "`" + strings.ReplaceAll(names, ", ", "`, `") + "`"
		}
		rows = append(rows, []string{names, answer, sentence(why)})
	}
	if len(rows) == 0 {
		return "", errors.New("there is no variable Fields with elements")
	}
	return table([]string{"Another", "begins the session anew", "because"}, rows), nil
}
