// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// TestMain doubles as the program that is killed: it makes a sandbox with one process, says its pid, and waits.
func TestMain(m *testing.M) {
	log := os.Getenv("SANDBOX_TEST_VICTIM")
	if log == "" {
		os.Exit(m.Run())
	}
	s, err := sandbox.New()
	if err != nil {
		panic(err)
	}
	n, err := s.AddNamespace("a")
	if err != nil {
		panic(err)
	}
	p, err := n.Start(sandbox.Command{Name: "sleeper", Path: "sleep", Args: []string{"1000"}, Log: log})
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString(strconv.Itoa(p.PID()) + "\n")
	select {}
}

func newSandbox(t *testing.T) *sandbox.Sandbox {
	t.Helper()
	s, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func addNamespace(t *testing.T, s *sandbox.Sandbox, name string) *sandbox.Namespace {
	t.Helper()
	n, err := s.AddNamespace(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestANamespaceIsApartFromTheHostAndFromOthers(t *testing.T) {
	s := newSandbox(t)
	a, b := addNamespace(t, s, "a"), addNamespace(t, s, "b")

	var listener net.Listener
	if err := a.Do(func() (err error) {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	conn, err := a.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatalf("from the same namespace: %v", err)
	}
	conn.Close()
	if conn, err := b.DialContext(t.Context(), "tcp", listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("another namespace reached the listener")
	}
	if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("the host reached the listener")
	}
	links, err := a.Run(t.Context(), "ip", "-br", "link")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(links, "\n"); lines != 1 {
		t.Errorf("a new namespace has %d links, want the loopback alone:\n%s", lines, links)
	}
}

func TestAProcessIsPausedResumedStoppedAndStartedAgain(t *testing.T) {
	s := newSandbox(t)
	n := addNamespace(t, s, "a")
	log := filepath.Join(t.TempDir(), "log")
	p, err := n.Start(sandbox.Command{
		Name: "p", Path: "sh", Args: []string{"-c", "hostname; echo $$ $MORE; exec sleep 1000"},
		Env: []string{"MORE=more"}, Log: log, Hostname: "own-name",
	})
	if err != nil {
		t.Fatal(err)
	}
	kernelState := func() string {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(stat))[2]
	}
	eventually(t, "the process sleeps", func() bool { return kernelState() == "S" && logHas(log, "more") })
	out, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if want := "own-name\n"; !strings.HasPrefix(string(out), want) {
		t.Errorf("log is %q, want prefix %q", out, want)
	}
	if strings.Contains(string(out), strconv.Itoa(p.PID())) {
		t.Errorf("log %q shows the host's pid %d: the process is not in the PID namespace", out, p.PID())
	}
	if host, _ := os.Hostname(); host == "own-name" {
		t.Error("the maker's own host name changed")
	}

	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process is stopped", func() bool { return kernelState() == "T" })
	if p.State() != sandbox.Paused {
		t.Errorf("state %s after Pause", p.State())
	}
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process goes on", func() bool { return kernelState() == "S" })

	first := p.PID()
	if err := p.Restart(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if p.PID() == first || p.State() != sandbox.Running {
		t.Errorf("after Restart: pid %d (was %d), %s", p.PID(), first, p.State())
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if p.State() != sandbox.Exited || p.Err() == nil {
		t.Errorf("after Kill: %s, %v", p.State(), p.Err())
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
}

func TestARemovedNamespaceCanBeMadeAgainAndForgetsItsProcesses(t *testing.T) {
	s := newSandbox(t)
	for range 2 {
		n := addNamespace(t, s, "a")
		if _, err := s.AddNamespace("a"); err == nil {
			t.Error("two namespaces of one name were made")
		}
		p, err := n.Start(sandbox.Command{Name: "p", Path: "sleep", Args: []string{"1000"}, Log: filepath.Join(t.TempDir(), "log")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Start(p.Command); err == nil {
			t.Error("two running processes of one name were started")
		}
		if s.Process("p") != p {
			t.Error("the process is not found by its name")
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveNamespace(n); err != nil {
			t.Fatal(err)
		}
		if left := s.Processes(); len(left) != 0 {
			t.Errorf("still known: %v", left)
		}
	}
}

func TestStopKillsWhatIgnoresSIGTERMAndSaysSo(t *testing.T) {
	s := newSandbox(t)
	log := filepath.Join(t.TempDir(), "log")
	p, err := addNamespace(t, s, "a").Start(sandbox.Command{
		Name: "deaf", Path: "sh", Args: []string{"-c", "trap '' TERM; echo deaf; while :; do sleep 1000; done"}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process is deaf", func() bool { return logHas(log, "deaf") })
	if err := p.Stop(50 * time.Millisecond); err == nil || p.State() != sandbox.Exited {
		t.Errorf("Stop: %v, the process %s", err, p.State())
	}
	if err := p.Stop(time.Second); err != nil {
		t.Errorf("Stop of an exited process: %v", err)
	}
}

func TestASigkilledMakerLeavesNoProcess(t *testing.T) {
	victim := exec.Command("/proc/self/exe")
	victim.Env = append(os.Environ(), "SANDBOX_TEST_VICTIM="+filepath.Join(t.TempDir(), "log"))
	victim.Stderr = os.Stderr
	stdout, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the sandbox's process should run: %v", err)
	}
	_ = victim.Process.Kill()
	_ = victim.Wait()
	eventually(t, "the sandbox's process is gone", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
}

func logHas(path, text string) bool {
	b, _ := os.ReadFile(path)
	return strings.Contains(string(b), text)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
