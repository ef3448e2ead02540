// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// ReceiveByThread has a thread of the kernel, whose PID it returns, do the receiving for the host's link. Otherwise that is
// done in the name of whoever sends, and what it costs the host can't be told.
func (h *Host) ReceiveByThread(ctx context.Context) (pid int, err error) {
	before, err := threads(h.Interface)
	if err != nil {
		return 0, err
	}
	// A veth is received from by polling, which a thread can do, if it has generic receive offload and its other end
	// segments what it sends.
	for _, set := range []struct {
		on      *sandbox.Namespace
		link    string
		command uint32
		value   uint32
	}{{h.lab.lan, h.port, unix.ETHTOOL_STSO, 0}, {h.Namespace, h.Interface, unix.ETHTOOL_SGRO, 1}} {
		if err := set.on.Do(func() error { return ethtool(set.link, set.command, set.value) }); err != nil {
			return 0, fmt.Errorf("offloads of %s: %w", set.link, err)
		}
	}
	// sysfs shows the namespace of whoever mounts it.
	if _, err := h.Run(ctx, "unshare", "--mount", "sh", "-c",
		"mount -t sysfs sysfs /sys && echo 1 > /sys/class/net/"+h.Interface+"/threaded"); err != nil {
		return 0, fmt.Errorf("have a thread receive for %s: %w", h.Name(), err)
	}
	after, err := threads(h.Interface)
	if err != nil {
		return 0, err
	}
	for pid := range after {
		if !before[pid] {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no thread receives for %s", h.Name())
}

// threads are the PIDs of the kernel's threads that receive for links of a name, in whatever namespace.
func threads(link string) (map[int]bool, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	found := map[int]bool{}
	for _, path := range names {
		comm, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(comm), "napi/"+link+"-") {
			continue // what has ended meanwhile is none
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		found[pid] = true
	}
	return found, nil
}

// ethtool sets a feature of a link of the thread's namespace.
func ethtool(link string, command, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	feature := struct{ command, value uint32 }{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // as long as the kernel's ifreq
	}{data: unsafe.Pointer(&feature)}
	copy(request.name[:], link)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
