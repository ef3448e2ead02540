// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// asProgram makes the test binary the program itself.
const asProgram = "FAIRLEAD_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestBadInputIsOneLineAndExitStatus1(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"an unknown flag":                {[]string{"--nonsense"}, "flag provided but not defined: -nonsense"},
		"a flag without its value":       {[]string{"--workers"}, "flag needs an argument"},
		"a value that is no number":      {[]string{"--workers=many"}, `invalid value "many"`},
		"no workers":                     {[]string{"--workers=0"}, "--workers must be at least 1, not 0"},
		"no class":                       {[]string{"--load-balancer-class="}, "name the class to serve"},
		"a peer that is not known":       {[]string{"--compat-annotations=metallb,openelb"}, `"openelb" is not known: name any of`},
		"a class that none can be":       {[]string{"--load-balancer-class=my class"}, `no Service can be of class "my class"`},
		"an argument":                    {[]string{"serve"}, `unexpected argument "serve"`},
		"a kubeconfig that is not there": {[]string{"--kubeconfig=/nowhere/kubeconfig"}, "/nowhere/kubeconfig"},
		"no kubeconfig and no cluster":   {nil, "give --kubeconfig outside a cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], tc.args...)
			cmd.Env = []string{asProgram + "=1"}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("ended with %v, want exit status 1", err)
			}
			text := stderr.String()
			if !strings.HasPrefix(text, "fairlead-controller: ") || strings.Count(text, "\n") != 1 || !strings.Contains(text, tc.says) {
				t.Errorf("said %q, want one line with %q", text, tc.says)
			}
		})
	}
}

func TestHelpListsTheFlags(t *testing.T) {
	var help bytes.Buffer
	if _, err := parse([]string{"--help"}, &help); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("parse: %v", err)
	}
	for _, name := range []string{"-kubeconfig", "-load-balancer-class", "-default-class", "-leader-elect", "-compat-annotations", "-metrics-bind-address", "-health-probe-bind-address", "-zap-log-level"} {
		if !strings.Contains(help.String(), name) {
			t.Errorf("the help does not name %s", name)
		}
	}
}
