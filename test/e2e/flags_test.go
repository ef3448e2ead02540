// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// The programs run on the machine itself: they give up before they open anything.
var _ = DescribeTable("A wrong command line ends a program with status 1 and one line that says", onLab,
	func(ctx SpecContext, program, says string, args ...string) {
		garbage := filepath.Join(GinkgoT().TempDir(), "kubeconfig")
		Expect(os.WriteFile(garbage, []byte("kind: [Config\n"), 0o600)).To(Succeed())
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "GARBAGE", garbage)
		}
		cmd := exec.CommandContext(ctx, filepath.Join(binDir, program), args...)
		cmd.Env = []string{} // outside any Pod
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		exit, ok := errors.AsType[*exec.ExitError](err)
		Expect(ok).To(BeTrue(), "%v", err)
		Expect(exit.ExitCode()).To(Equal(1))
		Expect(stdout.String()).To(BeEmpty())
		Expect(stderr.String()).To(And(HavePrefix(program+": "), ContainSubstring(says), HaveSuffix("\n")))
		Expect(strings.Count(stderr.String(), "\n")).To(Equal(1), stderr.String())
	},
	func(program, says string, args ...string) string {
		return says + ": " + program + " " + strings.Join(args, " ")
	},
	Entry(nil, cluster.Controller, "flag provided but not defined: -colour", "--colour=blue"),
	Entry(nil, cluster.Controller, `invalid boolean value "perhaps"`, "--leader-elect=perhaps"),
	Entry(nil, cluster.Controller, "--workers must be at least 1", "--workers=0"),
	Entry(nil, cluster.Controller, "--load-balancer-class must not be empty", "--load-balancer-class="),
	Entry(nil, cluster.Controller, `unexpected argument "start"`, "start"),
	Entry(nil, cluster.Controller, "loud", "--zap-log-level=loud"),
	Entry(nil, cluster.Controller, "no such file", "--kubeconfig=/nonexistent"),
	Entry(nil, cluster.Controller, "error loading config file", "--kubeconfig=GARBAGE"),
	Entry(nil, cluster.Controller, "give --kubeconfig outside a cluster"),
	Entry(nil, cluster.Speaker, "flag provided but not defined: -colour", "--node-name=n", "--colour=blue"),
	Entry(nil, cluster.Speaker, `unexpected argument "start"`, "--node-name=n", "start"),
	Entry(nil, cluster.Speaker, "Give --node-name or set NODE_NAME"),
	Entry(nil, cluster.Speaker, "loud", "--node-name=n", "--zap-log-level=loud"),
	Entry(nil, cluster.Speaker, "no such file", "--node-name=n", "--kubeconfig=/nonexistent"),
	Entry(nil, cluster.Speaker, "error loading config file", "--node-name=n", "--kubeconfig=GARBAGE"),
	Entry(nil, cluster.Speaker, "give --kubeconfig outside a cluster", "--node-name=n"),
)
