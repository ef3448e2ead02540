// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// TestMain doubles as the command itself.
func TestMain(m *testing.M) {
	if os.Getenv("LAB_TEST_COMMAND") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func lab(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "LAB_TEST_COMMAND=1")
	return cmd
}

// runLab runs the command and wants exit status 0.
func runLab(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := lab(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("lab %v: %v\n%s", args, err, stderr.String())
	}
	return stdout.String()
}

func TestALabIsStartedUsedAndEndedByTheCommand(t *testing.T) {
	name := fmt.Sprintf("--name=test-command-%d", os.Getpid())
	defer func() { _ = lab("down", name).Run() }() // after a failure
	up := runLab(t, "up", name, "--nodes=1", "--family=IPv4", "--proxy-mode=iptables", "--router=BIRD")
	if !strings.Contains(up, "go run ./test/lab kubectl --name") {
		t.Errorf("up does not say how to go on: %s", up)
	}
	if out, err := lab("up", name).CombinedOutput(); err == nil || !strings.Contains(string(out), "is running") {
		t.Errorf("a second up: %v, %s", err, out)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"status", name}, "kube-proxy/node1"},
		{[]string{"status", name}, "router/bird"},
		{[]string{"status"}, "10.89.1.1"},
		{[]string{"kubectl", name, "--", "get", "nodes", "-o", "name"}, "node/node1"},
		{[]string{"kubectl", name, "get", "nodes", "-o", "name"}, "node/node1"},
		{[]string{"exec", name, "node1", "--", "ip", "-br", "addr"}, "10.89.1.1/16"},
		{[]string{"exec", name, "client", "--", "kubectl", "get", "ns", "-o", "name"}, "namespace/default"},
		{[]string{"do", name, "backends", "default/web"}, ""},
		{[]string{"exec", name, "node1", "curl", "-sS", "http://10.244.1.1:8080/hostname"}, "web-node1"},
		{[]string{"kubectl", name, "get", "pods", "web-node1"}, "1/1"},
		{[]string{"probe", name, "--for=300ms", "node1", "10.244.1.1:8080"}, "dark for 0s"},
		{[]string{"probe", name, "--for=300ms", "--network=tcp", "node1", "10.244.1.1:8080"}, "web-node1:"},
		{[]string{"do", name, "pause", "kube-proxy/node1"}, ""},
		{[]string{"status", name}, "paused"},
	} {
		if out := runLab(t, tt.args...); !strings.Contains(out, tt.want) {
			t.Errorf("lab %v: lacks %q:\n%s", tt.args, tt.want, out)
		}
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"exec", name, "nowhere", "true"}, "has no host"},
		{[]string{"do", name, "explode", "node1"}, "unknown action"},
		{[]string{"do", name, "kill"}, "want an action and its target"},
		{[]string{"install", name, "--chart", t.TempDir()}, "Chart.yaml"},
		{[]string{"probe", name, "node1", "nonsense"}, "probe:"},
		{[]string{"probe", name, "--network=icmp", "node1", "10.244.1.1:1"}, "want udp or tcp"},
		{[]string{"dance"}, "unknown command"},
		{[]string{"status", "--name", "nobody-has-this-lab"}, "not running"},
		{[]string{"up", name, "--nodes", "99"}, "99 nodes"},
		{[]string{"up", name, "--router", "a-box"}, "want FRR or BIRD"},
	} {
		out, err := lab(tt.args...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), tt.want) {
			t.Errorf("lab %v: %v, want status 1 and %q:\n%s", tt.args, err, tt.want, out)
		}
	}
	runLab(t, "down", name)
	runLab(t, "down", name) // nothing to end is no error
	if out, err := lab("status", name).CombinedOutput(); err == nil {
		t.Errorf("after down: %s", out)
	}
}

func TestALabWhoseUpIsInterruptedLeavesNothing(t *testing.T) {
	name := fmt.Sprintf("test-interrupted-%d", os.Getpid())
	logs := filepath.Join(os.TempDir(), "fairlead-lab", name, "logs", "kube-apiserver.log")
	defer func() { _ = lab("down", "--name", name).Run() }()
	cmd := lab("up", "--name", name, "--nodes=1")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(logs); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the API server did not start")
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("up ended with %v, want status 1", err)
	}
	names, err := cluster.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if n == name {
			t.Errorf("lab %s is still there", name)
		}
	}
}
