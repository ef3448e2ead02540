// SPDX-License-Identifier: Apache-2.0

// Package sandbox keeps network namespaces and processes that cannot outlive the process that made them.
//
// Nothing in it needs sweeping after a crash. Every process runs in one PID namespace whose first process, the keeper,
// waits for the end of a pipe that only the maker holds open; when the maker dies, however it dies, the pipe closes, the
// keeper ends, and the kernel kills everything else in the PID namespace. Network namespaces have no name in the file
// system: they exist as long as a process is inside or the maker holds their file, and their links go with them.
package sandbox

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Sandbox is a PID namespace and the network namespaces and processes made in it.
// Its methods may be called from any goroutine.
type Sandbox struct {
	keeper   *exec.Cmd
	lifeline io.Closer
	pidNS    *os.File

	mu        sync.Mutex
	spaces    map[string]*Namespace
	processes map[string]*Process
}

// New makes an empty sandbox. The caller must Close it; the kernel does if the caller dies first.
func New() (*Sandbox, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("sandbox: network namespaces need root")
	}
	// cat is the smallest program that ends when its input does, and as the first process of a PID namespace it is deaf
	// to every signal but SIGKILL and SIGSTOP.
	keeper := exec.Command("cat")
	keeper.Dir = "/"
	keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Setsid: true}
	lifeline, err := keeper.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("sandbox: making the keeper's pipe: %w", err)
	}
	if err := keeper.Start(); err != nil {
		return nil, fmt.Errorf("sandbox: starting the keeper: %w", err)
	}
	s := &Sandbox{keeper: keeper, lifeline: lifeline, spaces: map[string]*Namespace{}, processes: map[string]*Process{}}
	if s.pidNS, err = os.Open(fmt.Sprintf("/proc/%d/ns/pid", keeper.Process.Pid)); err != nil {
		return nil, errors.Join(fmt.Errorf("sandbox: opening the PID namespace: %w", err), s.Close())
	}
	return s, nil
}

// Close kills every process of the sandbox, waits until the last is gone, and lets go of its namespaces.
func (s *Sandbox) Close() error {
	_ = s.lifeline.Close()
	_ = s.keeper.Process.Kill()
	_ = s.keeper.Wait() // it was killed: its exit status says nothing

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		p.awaitExit()
	}
	var errs []error
	for _, n := range s.spaces {
		errs = append(errs, n.close())
	}
	if s.pidNS != nil {
		errs = append(errs, s.pidNS.Close())
	}
	clear(s.spaces)
	clear(s.processes)
	return errors.Join(errs...)
}

// Processes lists the processes ever started and not forgotten, by name.
func (s *Sandbox) Processes() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	byName := slices.Sorted(maps.Keys(s.processes))
	all := make([]*Process, 0, len(byName))
	for _, name := range byName {
		all = append(all, s.processes[name])
	}
	return all
}

// Process finds a process by name, nil if there is none.
func (s *Sandbox) Process(name string) *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.processes[name]
}

// Namespace is a network namespace of a Sandbox.
type Namespace struct {
	name    string
	sandbox *Sandbox
	file    *os.File
	handle  *netlink.Handle
	// entering is held while somebody goes in: a connection that is made in the background may go on while the sandbox
	// is closed, and the number of a closed file may be that of another by then.
	entering sync.RWMutex
	closed   bool
}

// AddNamespace makes a network namespace with its loopback up. Names are unique within a sandbox.
func (s *Sandbox) AddNamespace(name string) (*Namespace, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spaces[name] != nil {
		return nil, fmt.Errorf("sandbox: namespace %s exists", name)
	}
	n := &Namespace{name: name, sandbox: s}
	err := onThread([]string{"net"}, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var err error
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sandbox: making namespace %s: %w", name, err)
	}
	if n.handle, err = netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE); err != nil {
		return nil, errors.Join(fmt.Errorf("sandbox: netlink in namespace %s: %w", name, err), n.file.Close())
	}
	lo, err := n.handle.LinkByName("lo")
	if err == nil {
		err = n.handle.LinkSetUp(lo)
	}
	if err != nil {
		n.handle.Close()
		return nil, errors.Join(fmt.Errorf("sandbox: loopback of namespace %s: %w", name, err), n.file.Close())
	}
	s.spaces[name] = n
	return n, nil
}

// RemoveNamespace forgets a namespace and the processes in it that have exited: with the last one inside, it and its
// links are gone.
func (s *Sandbox) RemoveNamespace(n *Namespace) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.spaces, n.name)
	maps.DeleteFunc(s.processes, func(_ string, p *Process) bool { return p.namespace == n && p.State() == Exited })
	return n.close()
}

func (n *Namespace) close() error {
	n.entering.Lock()
	defer n.entering.Unlock()
	n.closed = true
	n.handle.Close()
	return n.file.Close()
}

// enter takes the thread into the namespace.
func (n *Namespace) enter() error {
	n.entering.RLock()
	defer n.entering.RUnlock()
	if n.closed {
		return fmt.Errorf("sandbox: entering namespace %s: it is gone", n.name)
	}
	if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("sandbox: entering namespace %s: %w", n.name, err)
	}
	return nil
}

// Name is the name the namespace was made with.
func (n *Namespace) Name() string { return n.name }

// Path is a file by which another process of the same user can enter the namespace while the maker lives.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// FD is the namespace's open file, valid until the sandbox is closed.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Netlink configures the links, addresses and routes of the namespace.
func (n *Namespace) Netlink() *netlink.Handle { return n.handle }

// Do calls f on a thread that is in the namespace. Sockets that f opens stay in the namespace for good; goroutines that
// f starts are not in it.
func (n *Namespace) Do(f func() error) error {
	return onThread([]string{"net"}, func() error {
		if err := n.enter(); err != nil {
			return err
		}
		return f()
	})
}

// onThread calls f on a locked thread and then returns that thread to the namespaces (names under /proc/PID/ns) that it
// was in, whatever f did. A thread that cannot be returned would run other goroutines in a wrong namespace: it panics.
func onThread(kinds []string, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, kind := range kinds {
		home, err := os.Open("/proc/thread-self/ns/" + kind)
		if err != nil {
			return fmt.Errorf("sandbox: opening the own %s namespace: %w", kind, err)
		}
		defer func() {
			if err := unix.Setns(int(home.Fd()), 0); err != nil {
				panic(fmt.Sprintf("sandbox: returning to the own %s namespace: %v", kind, err))
			}
			_ = home.Close()
		}()
	}
	return f()
}

// Sysctl writes a setting below /proc/sys/net, such as "ipv4/ip_forward", in the namespace.
func (n *Namespace) Sysctl(key, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644); err != nil {
			return fmt.Errorf("sandbox: in %s: %w", n.name, err)
		}
		return nil
	})
}
