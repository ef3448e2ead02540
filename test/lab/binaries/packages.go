// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// commandPackages maps the commands that a lab and its users run to the Debian packages that bring them.
var commandPackages = map[string]string{
	"ip":        "iproute2",
	"nft":       "nftables",     // kube-proxy in nftables mode, and cutting cables
	"iptables":  "iptables",     // kube-proxy in iptables mode
	"conntrack": "conntrack",    // for people who look into a node
	"curl":      "curl",         // for people and the demo
	"ping":      "iputils-ping", // as conntrack
	"arping":    "iputils-arping",
	"ps":        "procps",
	"vtysh":     "frr", // routers
	"birdc":     "bird2",
}

// packageUnits are the services that packages would start on the machine itself. The lab runs their programs in its
// namespaces only, so the units are masked before there is anything to start.
var packageUnits = map[string]string{
	"frr":   "frr.service",
	"bird2": "bird.service",
}

// EnsurePackages installs the Debian packages whose commands are missing. That needs root and apt-get; without them the
// error names the packages.
func EnsurePackages(ctx context.Context, log io.Writer) error {
	packages := missingPackages(func(command string) bool {
		_, err := exec.LookPath(command)
		return err == nil
	})
	if len(packages) == 0 {
		return nil
	}
	list := strings.Join(packages, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("binaries: missing commands; install these packages (names as in Debian): %s", list)
	}
	if err := maskUnits(ctx, packages, log); err != nil {
		return err
	}
	install := func() error {
		return runWithProgress(aptGet(ctx, append([]string{"install", "-y", "--no-install-recommends"}, packages...)...),
			"installing "+list, log)
	}
	first := install()
	if first == nil {
		return nil
	}
	// A fresh machine has no package lists, an old one stale ones.
	if err := runWithProgress(aptGet(ctx, "update"), "updating the package lists", log); err != nil {
		return fmt.Errorf("binaries: apt-get update: %w", errors.Join(err, first))
	}
	if err := install(); err != nil {
		return fmt.Errorf("binaries: apt-get install %s: %w", list, err)
	}
	return nil
}

// maskUnits keeps the services of packages that are about to be installed from ever being started by themselves.
func maskUnits(ctx context.Context, packages []string, log io.Writer) error {
	var units []string
	for _, pkg := range packages {
		if unit := packageUnits[pkg]; unit != "" {
			units = append(units, unit)
		}
	}
	systemctl, err := exec.LookPath("systemctl")
	if err != nil || len(units) == 0 {
		return nil // without systemd nothing starts them
	}
	mask := exec.CommandContext(ctx, systemctl, append([]string{"mask"}, units...)...)
	if err := runWithProgress(mask, "masking "+strings.Join(units, " "), log); err != nil {
		return fmt.Errorf("binaries: masking %s: %w", strings.Join(units, ", "), err)
	}
	return nil
}

func missingPackages(have func(command string) bool) []string {
	var packages []string
	for command, pkg := range commandPackages {
		if !have(command) {
			packages = append(packages, pkg)
		}
	}
	slices.Sort(packages)
	return packages
}

func aptGet(ctx context.Context, args ...string) *exec.Cmd {
	// The lock wait covers an unattended upgrade that runs at the same time.
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return cmd
}
