// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// Host is a machine of the lab by one of its links to a LAN: a network namespace and, for most, its eth0.
type Host struct {
	*sandbox.Namespace
	Interface  string     // the link
	IPv4, IPv6 netip.Addr // invalid if the lab lacks the family
	MAC        net.HardwareAddr
	Second     *Host // the same machine by its eth1, on the second LAN; nil if it has none

	port string // the link's other end, on the LAN

	lab *Lab
}

// Interface is the name of every host's link to the LAN, SecondInterface that of a node's and the client's to the second,
// FarInterface that of a router's to the far host's network.
const (
	Interface       = "eth0"
	SecondInterface = "eth1"
	FarInterface    = "far"
)

// Addr is the host's address of the lab's preferred family.
func (h *Host) Addr() netip.Addr {
	if h.IPv4.IsValid() {
		return h.IPv4
	}
	return h.IPv6
}

// Get fetches a URL from inside the host and returns the body of a 200 answer.
func (h *Host) Get(ctx context.Context, url string) (string, error) {
	client := http.Client{
		Transport: &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true},
		Timeout:   5 * time.Second,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("from %s: %w", h.Name(), err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("from %s: %w", h.Name(), err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("from %s: %s: %w", h.Name(), url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("from %s: %s: %s: %s", h.Name(), url, resp.Status, body)
	}
	return string(body), nil
}

// Neighbour is the MAC that the host's kernel has for an address on the LAN, nil if it has none.
func (h *Host) Neighbour(addr netip.Addr) (net.HardwareAddr, error) {
	link, err := h.Netlink().LinkByName(h.Interface)
	if err != nil {
		return nil, fmt.Errorf("neighbours of %s: %w", h.Name(), err)
	}
	entries, err := h.Netlink().NeighList(link.Attrs().Index, netlinkFamily(addr))
	if err != nil {
		return nil, fmt.Errorf("neighbours of %s: %w", h.Name(), err)
	}
	for _, e := range entries {
		if ip, ok := netip.AddrFromSlice(e.IP); ok && ip.Unmap() == addr && len(e.HardwareAddr) > 0 {
			return e.HardwareAddr, nil
		}
	}
	return nil, nil
}

// SetNeighbour pins the MAC of an address in the host's kernel; a nil MAC forgets the entry.
func (h *Host) SetNeighbour(addr netip.Addr, mac net.HardwareAddr) error {
	link, err := h.Netlink().LinkByName(h.Interface)
	if err != nil {
		return fmt.Errorf("neighbours of %s: %w", h.Name(), err)
	}
	entry := &netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: netlinkFamily(addr), State: netlink.NUD_PERMANENT,
		IP: addr.AsSlice(), HardwareAddr: mac,
	}
	if mac == nil {
		if err := h.Netlink().NeighDel(entry); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forgetting neighbour %s of %s: %w", addr, h.Name(), err)
		}
		return nil
	}
	if err := h.Netlink().NeighSet(entry); err != nil {
		return fmt.Errorf("setting neighbour %s of %s: %w", addr, h.Name(), err)
	}
	return nil
}

func netlinkFamily(addr netip.Addr) int {
	if addr.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// CapturePort captures what passes the host's port on the LAN: what the switch gets from it and hands to it. Only the
// EtherTypes given are kept, all if none are.
func (l *Lab) CapturePort(h *Host, etherTypes ...uint16) (*wire.Capture, error) {
	return wire.StartCapture(l.lan, h.port, etherTypes...)
}
