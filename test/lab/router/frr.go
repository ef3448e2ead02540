// SPDX-License-Identifier: Apache-2.0

package router

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

const stopGrace = 10 * time.Second

// frrFolders are where distributions put FRR's daemons.
var frrFolders = []string{"/usr/lib/frr", "/usr/libexec/frr", "/usr/sbin"}

// hideScratch gives a daemon a /var/tmp of its own, where it leaves a folder that is named after its process ID: in a lab
// that is another's too.
const hideScratch = `mount -t tmpfs tmpfs /var/tmp && exec "$0" "$@"`

// frr runs zebra, bfdd and bgpd with all their sockets in the router's own folder.
type frr struct{ Place }

func (f frr) start(ctx context.Context, c Config, again bool) ([]*sandbox.Process, error) {
	if err := f.ownFolder(); err != nil {
		return nil, err
	}
	var processes []*sandbox.Process
	// The others look for zebra when they start, and then not for ten seconds.
	for _, d := range []struct {
		name string
		args []string
	}{
		{"zebra", f.zebraArgs(c)},
		{"bfdd", []string{"--bfdctl", f.file("bfdd.sock")}},
		{"bgpd", nil},
	} {
		path, err := findFRR(d.name)
		if err != nil {
			return processes, err
		}
		process := f.Name + "/" + d.name
		p, err := f.Namespace.Start(sandbox.Command{
			Name: process, Path: "unshare", Hostname: f.Name, Log: f.Log(process),
			Args: append([]string{
				"--mount", "sh", "-c", hideScratch, path,
				"--vty_socket", f.Dir, "-z", f.file("zserv.api"), "-i", f.file(d.name + ".pid"), "-P", "0", "--log", "stdout",
			}, d.args...),
		})
		if err != nil {
			return processes, err
		}
		processes = append(processes, p)
		if err := p.Await(ctx, process+" answers", func(ctx context.Context) error {
			_, err := f.ask(ctx, d.name, "show version")
			return err
		}); err != nil {
			return processes, err
		}
	}
	return processes, f.load(ctx, cmp.Or(c.Text, frrText(frrSections(c))+c.Extra))
}

// zebraArgs have zebra replace IPv6 routes as it does IPv4 ones: else it deletes the old one first, and what comes between
// is lost. A restarter's leaves its routes in the kernel when it ends, and takes them over when it starts.
func (f frr) zebraArgs(c Config) []string {
	args := []string{"--v6-rr-semantics"}
	if c.Restart != Restarter {
		return args
	}
	takeOver := 2 * time.Minute
	if c.RestartTime > 0 {
		takeOver = c.RestartTime
	}
	return append(args, "-r", "-K", strconv.Itoa(int(takeOver/time.Second)))
}

// ownFolder gives the router's folder to the user that the daemons become.
func (f frr) ownFolder() error {
	u, err := user.Lookup("frr")
	if err != nil {
		return fmt.Errorf("the user of FRR's daemons: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return fmt.Errorf("the user of FRR's daemons: %w", err)
	}
	return os.Chown(f.Dir, uid, -1)
}

func findFRR(daemon string) (string, error) {
	for _, dir := range frrFolders {
		if path, err := exec.LookPath(filepath.Join(dir, daemon)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s in %s: is FRR installed?", daemon, strings.Join(frrFolders, ", "))
}

func (f frr) change(ctx context.Context, from, to Config) error {
	return f.load(ctx, frrChange(frrSections(from), frrSections(to))+to.Extra)
}

// load enters lines as a person does, which vtysh hands to the daemons that they are for.
func (f frr) load(ctx context.Context, text string) error {
	path := f.file("load.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return withOutput(f.Namespace.Run(ctx, "vtysh", "--vty_socket", f.Dir, "-f", path))
}

func (f frr) command(ctx context.Context, line string) (string, error) {
	out, err := f.Namespace.Run(ctx, "vtysh", "--vty_socket", f.Dir, "-c", line)
	return out, withOutput(out, err)
}

// withOutput adds what a command said on its standard output to its error: vtysh complains there.
func withOutput(out string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w\n%s", err, strings.TrimSpace(out))
}

func (f frr) sessions(ctx context.Context) ([]Session, error) {
	neighbors, err := f.ask(ctx, "bgpd", "show bgp neighbors json")
	if err != nil {
		return nil, err
	}
	watched, err := f.ask(ctx, "bfdd", "show bfd peers json")
	if err != nil {
		return nil, err
	}
	return parseFRRSessions(neighbors, watched, time.Now())
}

func (f frr) table(ctx context.Context, prefix netip.Prefix) ([]Path, error) {
	if prefix.IsValid() {
		family := "ipv4"
		if prefix.Addr().Is6() {
			family = "ipv6"
		}
		text, err := f.ask(ctx, "bgpd", fmt.Sprintf("show bgp %s unicast %s json", family, prefix))
		if err != nil {
			return nil, err
		}
		return parseFRRPaths(text, prefix)
	}
	var all []Path
	for _, family := range []string{"ipv4", "ipv6"} {
		text, err := f.ask(ctx, "bgpd", "show bgp "+family+" unicast json detail")
		if err != nil {
			return nil, err
		}
		paths, err := parseFRRTable(text)
		if err != nil {
			return nil, err
		}
		all = append(all, paths...)
	}
	return all, nil
}

// ask gives a daemon a command in the way that vtysh does, without the 50 ms that vtysh takes to start.
func (f frr) ask(ctx context.Context, daemon, line string) (string, error) {
	conn, err := dialUnix(ctx, f.file(daemon+".vty"))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	var answer string
	for _, command := range []string{"enable", line} {
		if _, err := conn.Write(append([]byte(command), 0)); err != nil {
			return "", fmt.Errorf("asking %s: %w", daemon, err)
		}
		var status byte
		if answer, status, err = readVTY(reader); err != nil {
			return "", fmt.Errorf("asking %s: %w", daemon, err)
		}
		if status != 0 {
			return "", fmt.Errorf("%s refuses %q: status %d: %s", daemon, command, status, strings.TrimSpace(answer))
		}
	}
	return answer, nil
}

// readVTY reads an answer: text, three zeros and a status.
func readVTY(r *bufio.Reader) (string, byte, error) {
	text, err := r.ReadString(0)
	if err != nil {
		return "", 0, err
	}
	var end [3]byte
	if _, err := io.ReadFull(r, end[:]); err != nil {
		return "", 0, err
	}
	if end[0] != 0 || end[1] != 0 {
		return "", 0, errors.New("the answer does not end as vtysh's protocol has it")
	}
	return text[:len(text)-1], end[2], nil
}

// dialUnix opens a connection that ends with the context.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(stopGrace)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	return conn, conn.SetDeadline(deadline)
}
