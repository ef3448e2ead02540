// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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

func program(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = []string{asProgram + "=1"}
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	return cmd, stderr
}

// kubeconfig writes one for an API server that isn't there.
func kubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err := os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://%s"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
`, freePort(t)), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// freePort returns an address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// env is an environment with a node's name.
func env(node string) func(string) string {
	return func(name string) string {
		return map[string]string{"NODE_NAME": node, "POD_NAME": "speaker", "POD_NAMESPACE": "system"}[name]
	}
}

func TestFlags(t *testing.T) {
	f, err := parse(nil, env("a"), io.Discard)
	if f.meshPort != 7475 || f.meshUnicast || f.meshKeyFile != "" || f.pod.String() != "system/speaker" {
		t.Errorf("by default: %+v", f)
	}
	if err != nil || f.nodeName != "a" || f.metricsAddress != ":7473" || f.probeAddress != ":7474" || f.kubeconfig != "" {
		t.Errorf("by default: %+v, %v", f, err)
	}
	f, err = parse([]string{"--node-name=b", "--metrics-bind-address=0", "--health-probe-bind-address=:1", "--kubeconfig=k", "--zap-log-level=debug", "--mesh-port=1", "--mesh-unicast", "--mesh-key-file=m"}, env("a"), io.Discard)
	if err != nil || f.nodeName != "b" || f.metricsAddress != "0" || f.probeAddress != ":1" || f.kubeconfig != "k" || f.meshPort != 1 || !f.meshUnicast || f.meshKeyFile != "m" {
		t.Errorf("given: %+v, %v", f, err)
	}
	var help strings.Builder
	if _, err := parse([]string{"--help"}, env(""), &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-node-name") {
		t.Errorf("help: %v, %q", err, help.String())
	}
}

func TestWhatIsWrongIsToldInOneLine(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("garbage: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"an unknown flag":             {[]string{"--nope"}, "flag provided but not defined: -nope"},
		"a wrong value":               {[]string{"--zap-log-level=loud"}, `invalid log level "loud"`},
		"an argument":                 {[]string{"--node-name=a", "up"}, `unexpected argument "up"`},
		"a port that is none":         {[]string{"--node-name=a", "--mesh-port=65536"}, "--mesh-port 65536 is no UDP port"},
		"no node name":                {[]string{"--kubeconfig", kubeconfig(t)}, "Give --node-name or set NODE_NAME"},
		"no kubeconfig":               {[]string{"--node-name=a"}, "give --kubeconfig outside a cluster"},
		"a kubeconfig that is absent": {[]string{"--node-name=a", "--kubeconfig=/nonexistent"}, "/nonexistent: no such file or directory"},
		"a kubeconfig that is none":   {[]string{"--node-name=a", "--kubeconfig", bad}, "error loading config file"},
		"an address that is none":     {[]string{"--node-name=a", "--kubeconfig", kubeconfig(t), "--metrics-bind-address=nowhere"}, "--metrics-bind-address: "},
		"a port that is taken":        {[]string{"--node-name=a", "--kubeconfig", kubeconfig(t), "--metrics-bind-address=0", "--health-probe-bind-address", taken.Addr().String()}, "--health-probe-bind-address: "},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, stderr := program(tt.args...)
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("ended with %v", err)
			}
			lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
			if len(lines) != 1 || !strings.HasPrefix(lines[0], "fairlead-speaker: ") || !strings.Contains(lines[0], tt.want) {
				t.Errorf("said %q", stderr)
			}
		})
	}
}

// Without an API server the program lives, isn't ready, and ends at once when
// told to.
func TestTheProgramWithoutAnAPIServer(t *testing.T) {
	probes, metrics := freePort(t), freePort(t)
	cmd, stderr := program("--node-name=a", "--kubeconfig", kubeconfig(t), "--metrics-bind-address", metrics, "--health-probe-bind-address", probes)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer cmd.Process.Kill()

	get := func(url string) (int, string) {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			resp, err := http.Get(url)
			if err == nil {
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp.StatusCode, string(body)
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	if code, body := get("http://" + probes + "/healthz"); code != 200 {
		t.Errorf("healthz: %d %s", code, body)
	}
	if code, body := get("http://" + probes + "/readyz"); code != 503 || !strings.Contains(body, "not known yet") {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, body := get("http://" + metrics + "/metrics"); code != 200 || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: %d %s", code, body)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("ended with %v: %s", err, stderr)
		}
	case <-time.After(3 * time.Second):
		t.Error("still there 3 s after SIGTERM")
	}
}

func TestProbesAndMetrics(t *testing.T) {
	ready, alive := false, true
	probes := probeHandler(func() bool { return alive }, func() bool { return ready })
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "fairlead_test", Help: "x"}))
	for _, tt := range []struct {
		name, path string
		handler    http.Handler
		ready      bool
		code       int
		body       string
	}{
		{"alive before ready", "/healthz", probes, false, 200, "ok"},
		{"hanging", "/healthz", probes, true, 503, "the loop hangs"},
		{"not ready", "/readyz", probes, false, 503, "not known yet"},
		{"ready", "/readyz", probes, true, 200, "ok"},
		{"nothing else", "/", probes, true, 404, ""},
		{"metrics", "/metrics", metricsHandler(registry), true, 200, "fairlead_test 0"},
	} {
		ready, alive = tt.ready, tt.name != "hanging"
		w := httptest.NewRecorder()
		tt.handler.ServeHTTP(w, httptest.NewRequest("GET", tt.path, nil))
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
	}
}
