// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// TestMain doubles as the programs that tests need beside themselves: the product's, as far as the lab sees it, and a
// process with a lab that is killed.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == cluster.Controller || name == cluster.Speaker:
		standIn()
	case os.Getenv("LAB_TEST_VICTIM") != "":
		victim(os.Getenv("LAB_TEST_VICTIM"))
	default:
		os.Exit(m.Run())
	}
}

// standIn logs what it was given, answers its readiness probe, and ends on SIGTERM.
func standIn() {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		panic(err)
	}
	fmt.Println("args:", os.Args[1:])
	fmt.Println("uid:", os.Getuid())
	fmt.Println(string(status))
	kubeconfig := strings.TrimPrefix(os.Args[len(os.Args)-1], "--kubeconfig=")
	if _, err := os.ReadFile(kubeconfig); err != nil {
		panic(err)
	}
	http.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	go func() { panic(http.ListenAndServe(":8081", nil)) }()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	fmt.Println("terminated")
}

// victim starts a lab, says the pids of its processes, and waits to be killed.
func victim(name string) {
	l, err := cluster.Start(context.Background(), cluster.Config{Name: name, Nodes: 1, Log: os.Stderr})
	if err != nil {
		panic(err)
	}
	for _, p := range l.Status().Processes {
		fmt.Println(p.PID)
	}
	fmt.Println("up")
	select {}
}

// labName is a name of this test run's own: another run, or a person, may have a lab at the same time.
func labName(what string) string { return fmt.Sprintf("test-%s-%d", what, os.Getpid()) }

func start(t *testing.T, cfg cluster.Config) *cluster.Lab {
	t.Helper()
	cfg.Log = os.Stderr
	l, err := cluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

var changesByItself = regexp.MustCompile(`expires \d+sec|valid_lft \S+|preferred_lft \S+`)

// hostNetwork is everything about the network of the machine under the lab.
func hostNetwork(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, command := range []string{
		"ip -d link", "ip addr", "ip route show table all", "ip -6 route show table all", "ip rule", "ip neigh show nud permanent",
		"ip netns list", "nft list ruleset", "iptables-save", "ip6tables-save",
	} {
		args := strings.Fields(command)
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		// Comments carry the time of day.
		for line := range strings.Lines(changesByItself.ReplaceAllString(string(out), "")) {
			if !strings.HasPrefix(line, "#") {
				all.WriteString(command + ": " + line)
			}
		}
	}
	return all.String()
}

func TestTwoLabsRunAtOnceAndTheHostsNetworkNeverChanges(t *testing.T) {
	before := hostNetwork(t)
	configs := []cluster.Config{
		{Name: labName("v4"), Nodes: 1, ProxyMode: cluster.IPTables, Family: cluster.IPv4},
		{Name: labName("v6"), Nodes: 1, ProxyMode: cluster.NFTables, Family: cluster.IPv6},
	}
	labs := make([]*cluster.Lab, len(configs))
	t.Run("start", func(t *testing.T) {
		for i, cfg := range configs {
			t.Run(string(cfg.Family), func(t *testing.T) {
				t.Parallel()
				l, err := cluster.Start(context.Background(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				labs[i] = l
			})
		}
	})
	for i, l := range labs {
		if l == nil {
			t.Fatal("a lab is missing")
		}
		defer l.Close()
		if _, err := cluster.Start(t.Context(), configs[i]); err == nil || !strings.Contains(err.Error(), "is running") {
			t.Errorf("a second lab of the same name: %v, want that it is running", err)
		}
		if _, err := l.StartBackends(t.Context(), "default", configs[i].Name); err != nil {
			t.Fatal(err)
		}
		svc := l.Service("default", "web", configs[i].Name)
		create(t, l, svc)
		for _, port := range nodePorts(svc, "http") {
			awaitAnswer(t, l.Client, l.Nodes[0].Addr(), port, configs[i].Name+"-node1")
		}
	}
	if diff := cmp.Diff(before, hostNetwork(t)); diff != "" {
		t.Errorf("two running labs changed the host's network:\n%s", diff)
	}
	for _, l := range labs {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(l.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", l.Dir, err)
		}
	}
	if diff := cmp.Diff(before, hostNetwork(t)); diff != "" {
		t.Errorf("two closed labs left something in the host's network:\n%s", diff)
	}
}

func TestASigkilledLabLeavesNothingButAFolderThatTheNextStartSweeps(t *testing.T) {
	before := hostNetwork(t)
	name := labName("victim")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LAB_TEST_VICTIM="+name)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for lines := bufio.NewScanner(stdout); lines.Scan() && lines.Text() != "up"; {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	remote := cluster.Connect(name)
	status, err := remote.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if status.PID != cmd.Process.Pid || len(pids) < 4 {
		t.Errorf("lab of process %d with processes %v, want process %d and at least 4", status.PID, pids, cmd.Process.Pid)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() error {
			if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
				return fmt.Errorf("kill: %v", err)
			}
			return nil
		})
	}
	if diff := cmp.Diff(before, hostNetwork(t)); diff != "" {
		t.Errorf("left in the host's network:\n%s", diff)
	}
	if _, err := remote.Status(t.Context()); err == nil {
		t.Error("the killed lab still tells its status")
	}
	if _, err := os.Stat(status.Dir); err != nil {
		t.Errorf("the logs should still be there: %v", err)
	}
	if err := cluster.Sweep(name); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(status.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there after the sweep: %v", status.Dir, err)
	}
}
