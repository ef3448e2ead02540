// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command says how to start a process.
type Command struct {
	Name     string   // unique within the sandbox; the process is found by it
	Path     string   // the program
	Args     []string // without the program's name
	Env      []string // added to the maker's environment
	Log      string   // file that standard output and error are appended to
	Hostname string   // in a UTS namespace of its own, if not empty
}

// State is what a Process is doing.
type State string

// The states of a Process.
const (
	Running State = "running"
	Paused  State = "paused"
	Exited  State = "exited"
)

// Process is a program running in a Namespace. Its methods may be called from any goroutine.
type Process struct {
	Command
	namespace *Namespace

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has been waited for
	err    error         // why it ended, valid once exited is closed
	paused bool
}

// Start starts a process in the namespace. A process of the same name that has exited is replaced.
func (n *Namespace) Start(c Command) (*Process, error) {
	s := n.sandbox
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.processes[c.Name]; old != nil && old.State() != Exited {
		return nil, fmt.Errorf("sandbox: a process %s is running", c.Name)
	}
	p := &Process{Command: c, namespace: n}
	if err := p.Start(); err != nil {
		return nil, err
	}
	s.processes[c.Name] = p
	return p, nil
}

// Start starts the process again after it has exited.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		select {
		case <-p.exited:
		default:
			return fmt.Errorf("sandbox: process %s is running", p.Name)
		}
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("sandbox: log of %s: %w", p.Name, err)
	}
	defer log.Close() // the child has its own copy
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := p.namespace.launch(cmd, p.Hostname); err != nil {
		return fmt.Errorf("sandbox: starting %s: %w", p.Name, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited, p.err, p.paused = cmd, exited, nil, false
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(exited)
	}()
	return nil
}

// launch starts cmd in the network namespace, in the sandbox's PID namespace and, if hostname is not empty, in a UTS
// namespace of its own that has this host name.
func (n *Namespace) launch(cmd *exec.Cmd, hostname string) error {
	cmd.Dir = "/"
	// A session of its own keeps the terminal's Ctrl-C away: the maker decides the order in which things end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return onThread([]string{"net", "pid_for_children", "uts"}, func() error {
		if err := n.enter(); err != nil {
			return err
		}
		if err := unix.Setns(int(n.sandbox.pidNS.Fd()), unix.CLONE_NEWPID); err != nil {
			return fmt.Errorf("entering the PID namespace: %w", err)
		}
		if hostname != "" {
			if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
				return fmt.Errorf("unshare UTS: %w", err)
			}
			if err := unix.Sethostname([]byte(hostname)); err != nil {
				return fmt.Errorf("setting the host name: %w", err)
			}
		}
		return cmd.Start()
	})
}

// PID is the process id as the maker sees it, that of the last run if it has exited.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Namespace is where the process runs.
func (p *Process) Namespace() *Namespace { return p.namespace }

// State tells whether the process runs, is paused, or has exited.
func (p *Process) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.exited:
		return Exited
	default:
	}
	if p.paused {
		return Paused
	}
	return Running
}

// Done is closed when the present run of the process has ended.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

// Err says why the process ended: nil while it runs and after exit status 0.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends a signal. It is an error if the process has exited.
func (p *Process) Signal(sig os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("sandbox: sending %v to %s: %w", sig, p.Name, err)
	}
	switch sig {
	case syscall.SIGSTOP:
		p.paused = true
	case syscall.SIGCONT:
		p.paused = false
	}
	return nil
}

// Kill ends the process at once with SIGKILL and returns when it is gone.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	p.awaitExit()
	return nil
}

// Pause freezes the process with SIGSTOP.
func (p *Process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on with SIGCONT.
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// Stop asks the process to end with SIGTERM and returns when it has. After the grace it is killed, which is an error.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.Done():
		return nil
	case <-timer.C:
		return errors.Join(fmt.Errorf("sandbox: %s did not end within %s of SIGTERM", p.Name, grace), p.Kill())
	}
}

// Restart stops the process as Stop does, if it runs, and starts it again.
func (p *Process) Restart(grace time.Duration) error {
	if err := p.Stop(grace); err != nil {
		return err
	}
	return p.Start()
}

func (p *Process) awaitExit() { <-p.Done() }

// Run runs a command in the namespace to its end and returns its standard output. The error holds its standard error.
func (n *Namespace) Run(ctx context.Context, name string, args ...string) (string, error) {
	return n.RunInput(ctx, "", name, args...)
}

// RunInput is Run with a standard input.
func (n *Namespace) RunInput(ctx context.Context, input, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := n.launch(cmd, ""); err != nil {
		return "", fmt.Errorf("in %s: %s: %w", n.name, cmd, err)
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("in %s: %s: %w: %s", n.name, cmd, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// DialContext opens a connection from inside the namespace. The address must be numeric: there is no resolver in there.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() error {
		var err error
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
