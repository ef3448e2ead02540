// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// RunningError says that a living process has a lab of that name.
type RunningError struct {
	Name string
	PID  int // of the process that has the lab, 0 if it did not say
}

func (e *RunningError) Error() string {
	return fmt.Sprintf("lab %s is running, process %d has it", e.Name, e.PID)
}

// stateRoot holds a folder and a lock file per lab.
func stateRoot() string { return filepath.Join(os.TempDir(), "fairlead-lab") }

// makeStateRoot makes the root and lets others pass through it, to programs of the product that run without root's
// rights; every file is its own guard. Somebody else's folder of that name is refused.
func makeStateRoot() error {
	if err := os.MkdirAll(stateRoot(), 0o711); err != nil {
		return err
	}
	info, err := os.Lstat(stateRoot())
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; !info.IsDir() || int(owner) != os.Getuid() {
		return fmt.Errorf("%s is not a folder of this user", stateRoot())
	}
	return os.Chmod(stateRoot(), 0o711) // whatever the umask left
}

// checkPassable tells which folder keeps users without root's rights from a path.
func checkPassable(path string) error {
	for dir := path; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&0o001 == 0 {
			return fmt.Errorf("folder %s is closed to users without root's rights: set TMPDIR to one that is open", dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func stateDir(name string) string { return filepath.Join(stateRoot(), name) }

var labName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func checkName(name string) error {
	if !labName.MatchString(name) {
		return fmt.Errorf("lab name %q: want up to 32 lower-case letters, digits and hyphens", name)
	}
	return nil
}

// state is the folder of a lab and the lock that says it is in use. The kernel drops the lock with its holder, so a lock
// that can be taken means that whatever the folder holds is left from a crash.
type state struct {
	dir  string
	lock *os.File
}

// takeState takes the lock of a lab and makes its folder empty.
func takeState(name string) (*state, error) {
	if err := makeStateRoot(); err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	path := stateDir(name) + ".lock"
	for {
		lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lab %s: %w", name, err)
		}
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			pid := readPID(path)
			return nil, errors.Join(&RunningError{Name: name, PID: pid}, lock.Close())
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lab %s: locking: %w", name, err), lock.Close())
		}
		// The last holder removes the file while it holds the lock: what was locked here may be no file any more.
		if !sameFile(lock, path) {
			_ = lock.Close()
			continue
		}
		s := &state{dir: stateDir(name), lock: lock}
		if err := s.fill(); err != nil {
			return nil, errors.Join(fmt.Errorf("lab %s: %w", name, err), s.release(false))
		}
		return s, nil
	}
}

func (s *state) fill() error {
	if err := s.lock.Truncate(0); err != nil {
		return err
	}
	if _, err := s.lock.WriteString(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(s.dir, 0o711), os.Chmod(s.dir, 0o711)); err != nil {
		return err
	}
	return os.Mkdir(filepath.Join(s.dir, "logs"), 0o700)
}

// release removes the folder, unless it is to be kept, and gives the name free.
func (s *state) release(keep bool) error {
	var err error
	if !keep {
		err = os.RemoveAll(s.dir)
	}
	return errors.Join(err, os.Remove(s.lock.Name()), s.lock.Close())
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

func readPID(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// Sweep removes what a crashed lab left behind. Its processes and namespaces are gone already: they die with the process
// that had the lab. It is a *RunningError if that process lives, and no error if there is nothing to remove.
func Sweep(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	s, err := takeState(name)
	if err != nil {
		return err
	}
	return s.release(false)
}

// keepCrashed is how long the logs of a crashed lab are there to be read, unless its name is used again.
const keepCrashed = 24 * time.Hour

// sweepOld removes what labs left behind that crashed long ago: names of test runs are never used again.
func sweepOld() {
	names, err := List()
	if err != nil {
		return // whoever needs the folder will meet the same error and tell it
	}
	for _, name := range names {
		if info, err := os.Stat(stateDir(name)); err == nil && time.Since(info.ModTime()) > keepCrashed {
			_ = Sweep(name) // an old lab that runs is refused
		}
	}
}

// List names the labs that run and those that left something behind.
func List() ([]string, error) {
	entries, err := os.ReadDir(stateRoot())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing labs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".lock"); !slices.Contains(names, name) && checkName(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}
