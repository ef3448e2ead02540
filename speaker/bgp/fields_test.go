// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTheReferenceHasTheFields(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/bgp-sessions.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("|---|---|---|\n")
	for _, f := range Fields {
		resets := "no"
		if f.Resets {
			resets = "yes"
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", f.Name, resets, f.Why)
	}
	table.WriteString("\n")
	if !strings.Contains(string(page), table.String()) {
		t.Errorf("the page should have\n%s", table.String())
	}
}
