// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/binaries"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// Status is what a running lab tells another process of the same user.
type Status struct {
	Name       string
	PID        int // of the process that has the lab
	Dir        string
	Kubeconfig string // works inside the lab only
	ProxyMode  ProxyMode
	Family     Family
	Path       []string // folders of kubectl, helm and the other programs
	Hosts      []HostStatus
	Processes  []ProcessStatus
}

// HostStatus tells where a host is and how to enter it.
type HostStatus struct {
	Name       string
	Namespace  string // file for setns(2), valid while the lab runs
	IPv4, IPv6 netip.Addr
	MAC        string
}

// ProcessStatus tells what a process of the lab does.
type ProcessStatus struct {
	Name  string
	PID   int
	State sandbox.State
	Log   string
}

// Status describes the lab as it is now.
func (l *Lab) Status() Status {
	s := Status{
		Name: l.cfg.Name, PID: os.Getpid(), Dir: l.Dir, Kubeconfig: l.Kubeconfig(),
		ProxyMode: l.cfg.ProxyMode, Family: l.cfg.Family,
	}
	for _, name := range []string{binaries.Kubectl, binaries.Helm, binaries.Etcd} {
		s.Path = append(s.Path, filepath.Dir(l.programs[name]))
	}
	for _, h := range l.hosts() {
		s.Hosts = append(s.Hosts, HostStatus{Name: h.Name(), Namespace: h.Path(), IPv4: h.IPv4, IPv6: h.IPv6, MAC: h.MAC.String()})
	}
	for _, p := range l.box.Processes() {
		s.Processes = append(s.Processes, ProcessStatus{Name: p.Name, PID: p.PID(), State: p.State(), Log: p.Log})
	}
	return s
}

// hosts are all machines of the lab.
func (l *Lab) hosts() []*Host {
	all := []*Host{l.Control, l.Router, l.Client, l.Far}
	for _, n := range l.Nodes {
		all = append(all, n.Host)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	all = slices.Concat(all, l.controllerHosts, l.moreClients)
	for _, r := range l.routers {
		if r.Host.Namespace != l.Router.Namespace {
			all = append(all, r.Host)
		}
	}
	return all
}

// Host finds a machine of the lab by name, or by that of its port on the second LAN (node1-2); nil if there is none.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.hosts() {
		if h.Name() == name {
			return h
		}
		if h.Second != nil && h.Second.port == name {
			return h.Second
		}
	}
	return nil
}

// Node finds a node by name, nil if there is none.
func (l *Lab) Node(name string) *Node {
	for _, n := range l.Nodes {
		if n.Name() == name {
			return n
		}
	}
	return nil
}

// Process finds a process of the lab by name, nil if there is none: "etcd", "kube-apiserver", "kube-controller-manager",
// "kube-proxy/node1", "pod/namespace/name", "fairlead-controller-1", "fairlead-speaker-node1".
func (l *Lab) Process(name string) *sandbox.Process { return l.box.Process(name) }

var hostActions = map[string]func(context.Context, *Host) error{
	"unplug": func(_ context.Context, h *Host) error { return h.Unplug() },
	"plug":   func(_ context.Context, h *Host) error { return h.Plug() },
	"cut":    func(ctx context.Context, h *Host) error { return h.Cut(ctx) },
	"mute":   func(ctx context.Context, h *Host) error { return h.Mute(ctx) },
	"deafen": func(ctx context.Context, h *Host) error { return h.Deafen(ctx) },
	"heal":   func(ctx context.Context, h *Host) error { return h.Heal(ctx) },
}

var nodeActions = map[string]func(context.Context, *Node) error{
	"delete-node":      func(ctx context.Context, n *Node) error { return n.Delete(ctx) },
	"register-node":    func(ctx context.Context, n *Node) error { return n.Register(ctx) },
	"stop-heartbeat":   func(_ context.Context, n *Node) error { n.StopHeartbeat(); return nil },
	"resume-heartbeat": func(_ context.Context, n *Node) error { n.ResumeHeartbeat(); return nil },
	"power-off":        func(_ context.Context, n *Node) error { return n.PowerOff() },
	"power-on":         func(ctx context.Context, n *Node) error { return n.PowerOn(ctx) },
	"drain":            func(ctx context.Context, n *Node) error { return n.Drain(ctx) },
	"undrain":          func(ctx context.Context, n *Node) error { return n.Undrain(ctx) },
	"restart-speaker":  func(ctx context.Context, n *Node) error { return n.lab.RestartSpeaker(ctx, n) },
}

var processActions = map[string]func(*sandbox.Process) error{
	"kill":    (*sandbox.Process).Kill,
	"pause":   (*sandbox.Process).Pause,
	"resume":  (*sandbox.Process).Resume,
	"start":   (*sandbox.Process).Start,
	"stop":    func(p *sandbox.Process) error { return p.Stop(StopGrace) },
	"restart": func(p *sandbox.Process) error { return p.Restart(StopGrace) },
}

// Actions names what Do can do, in three sorts: to a host, to a node, to a process.
func Actions() (host, node, process []string) {
	return slices.Sorted(maps.Keys(hostActions)), slices.Sorted(maps.Keys(nodeActions)), slices.Sorted(maps.Keys(processActions))
}

// Do does something to a host, a node or a process by name, starts "backends" named NAMESPACE/NAME on every node, or has
// two hosts "part" that are named HOST/HOST.
func (l *Lab) Do(ctx context.Context, action, target string) error {
	switch first, second, ok := strings.Cut(target, "/"); action {
	case "backends":
		if !ok {
			return fmt.Errorf("backends %q: want NAMESPACE/NAME", target)
		}
		_, err := l.StartBackends(ctx, first, second)
		return err
	case "part":
		a, b := l.Host(first), l.Host(second)
		if !ok || a == nil || b == nil {
			return fmt.Errorf("part %q: want HOST/HOST", target)
		}
		return a.Part(ctx, b)
	}
	if do, ok := hostActions[action]; ok {
		if h := l.Host(target); h != nil {
			return do(ctx, h)
		}
		return fmt.Errorf("no host %q", target)
	}
	if do, ok := nodeActions[action]; ok {
		if n := l.Node(target); n != nil {
			return do(ctx, n)
		}
		return fmt.Errorf("no node %q", target)
	}
	if do, ok := processActions[action]; ok {
		if p := l.Process(target); p != nil {
			return do(p)
		}
		return fmt.Errorf("no process %q", target)
	}
	return fmt.Errorf("unknown action %q", action)
}

func socketPath(name string) string { return filepath.Join(stateDir(name), "control.sock") }

type doRequest struct{ Action, Target string }

// serve answers other processes over a socket in the lab's folder, which only its user can open.
func (l *Lab) serve() error {
	listener, err := net.Listen("unix", socketPath(l.cfg.Name))
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		// An answer that cannot be written has no reader.
		_ = json.NewEncoder(w).Encode(l.Status())
	})
	mux.HandleFunc("POST /do", command(func(ctx context.Context, r doRequest) error { return l.Do(ctx, r.Action, r.Target) }))
	mux.HandleFunc("POST /install", command(func(ctx context.Context, o InstallOptions) error {
		_, err := l.Install(ctx, o)
		return err
	}))
	l.control = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := l.control.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			l.log.Error(err, "control socket failed")
		}
	}()
	return nil
}

func command[T any](do func(context.Context, T) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request T
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := do(r.Context(), request); err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		}
	}
}

// Remote is a lab that another process of the same user has.
type Remote struct {
	name string
	http http.Client
}

// Connect reaches the lab of that name. Whether it runs shows in the first call.
func Connect(name string) *Remote {
	return &Remote{name: name, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socketPath(name))
		},
	}}}
}

// Status asks for the lab's status.
func (r *Remote) Status(ctx context.Context) (Status, error) {
	var s Status
	body, err := r.call(ctx, http.MethodGet, "/status", nil)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("lab %s: its status: %w", r.name, err)
	}
	return s, nil
}

// Do is Lab.Do.
func (r *Remote) Do(ctx context.Context, action, target string) error {
	_, err := r.call(ctx, http.MethodPost, "/do", doRequest{action, target})
	return err
}

// Install is Lab.Install. Paths in the options must be absolute.
func (r *Remote) Install(ctx context.Context, opts InstallOptions) error {
	_, err := r.call(ctx, http.MethodPost, "/install", opts)
	return err
}

func (r *Remote) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", r.name, err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", r.name, err)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("lab %s is not running: %w", r.name, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", r.name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(strings.TrimSpace(string(answer)))
	}
	return answer, nil
}
