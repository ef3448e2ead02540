// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// ipvsInterface is where kube-proxy puts the addresses of all Services in IPVS
// mode.
const ipvsInterface = "kube-ipvs0"

// strictFilter is the rp_filter that demands that a packet's sender is reached
// by the interface that it came in by.
const strictFilter = 1

// outside are addresses of nobody (RFC 5737): a node reaches them as it does
// any network that it has no route of its own to.
var outside = []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.1")}

// reader reads a node's settings.
type reader struct {
	// sys is /proc/sys.
	sys fs.FS
	// accepts tells whether the kernel would let in a packet that comes in by
	// an interface for one of the node's own addresses.
	accepts func(iface int, from, to netip.Addr) (bool, error)
}

// read returns what matters of the links. Carriers are those that may carry
// addresses, all that can if it is nil. An interface that went away meanwhile
// is left out.
func (r reader) read(links []link.Link, carriers []string) (Node, error) {
	var n Node
	for _, l := range links {
		if l.Name == ipvsInterface {
			n.IPVS = slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() })
		}
		carries := slices.Contains(carriers, l.Name) || carriers == nil && l.Announces()
		if !l.Announces() && !carries {
			continue
		}
		i, err := r.settings(l.Name)
		if err == nil && carries {
			i.Drops, err = r.drops(l, links)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return Node{}, fmt.Errorf("read the settings of interface %s: %w", l.Name, err)
		}
		i.Name, i.Up, i.Carries = l.Name, l.Up, carries
		n.Interfaces = append(n.Interfaces, i)
	}
	return n, nil
}

func (r reader) settings(name string) (i Interface, err error) {
	if i.ARPIgnore, err = r.setting(name, "arp_ignore"); err == nil {
		i.ARPAnnounce, err = r.setting(name, "arp_announce")
	}
	return i, err
}

// setting returns the value that the kernel goes by.
func (r reader) setting(name, key string) (int, error) {
	value := 0
	for _, name := range []string{"all", name} {
		text, err := fs.ReadFile(r.sys, "net/ipv4/conf/"+name+"/"+key)
		if err != nil {
			return 0, err
		}
		v, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", key, err)
		}
		value = max(value, v)
	}
	return value, nil
}

// drops asks the kernel, which knows its metrics, tables and rules, about a
// sender of either kind.
func (r reader) drops(l link.Link, links []link.Link) ([]Clients, error) {
	filter, err := r.setting(l.Name, "rp_filter")
	if err != nil || filter != strictFilter || !l.Up {
		return nil, err
	}
	own := ownAddresses(append([]link.Link{l}, links...))
	if len(own) == 0 {
		return nil, nil
	}
	var drops []Clients
	ask := func(clients Clients, from netip.Addr) error {
		ok, err := r.accepts(l.Index, from, own[0])
		if err == nil && !ok {
			drops = append(drops, clients)
		}
		return err
	}
	if from, ok := neighbor(l, own); ok {
		if err := ask(Neighbors, from); err != nil {
			return nil, err
		}
	}
	if from, ok := stranger(links); ok {
		if err := ask(Others, from); err != nil {
			return nil, err
		}
	}
	return drops, nil
}

// ownAddresses are the node's IPv4 addresses, those of kube-proxy's interface
// among them: no packet may come from outside with one as its sender.
func ownAddresses(links []link.Link) (own []netip.Addr) {
	for _, l := range links {
		for _, p := range l.Prefixes {
			if p.Addr().Is4() {
				own = append(own, p.Addr())
			}
		}
	}
	return own
}

// neighbor returns an address of another host on the interface's network.
func neighbor(l link.Link, own []netip.Addr) (netip.Addr, bool) {
	for _, p := range l.Prefixes {
		if !p.Addr().Is4() || p.IsSingleIP() {
			continue
		}
		addr := p.Masked().Addr()
		if p.Bits() < 31 { // else there is no network address
			addr = addr.Next()
		}
		for ; p.Contains(addr); addr = addr.Next() {
			if !slices.Contains(own, addr) {
				return addr, true
			}
		}
	}
	return netip.Addr{}, false
}

// stranger returns an address that is reached by a default route, if there is
// one: without it no filter lets such senders in, and nobody could answer them.
func stranger(links []link.Link) (netip.Addr, bool) {
	routed := slices.ContainsFunc(links, func(l link.Link) bool { return slices.ContainsFunc(l.Gateways, netip.Addr.Is4) })
	for _, addr := range outside {
		near := slices.ContainsFunc(links, func(l link.Link) bool {
			return slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
		})
		if routed && !near {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// accepts asks the kernel how it would route such a packet.
func accepts(iface int, from, to netip.Addr) (bool, error) {
	_, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{IifIndex: iface, SrcAddr: from.AsSlice()})
	// Later kernels say EINVAL of whatever they refuse.
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask for the route from %s to %s: %w", from, to, err)
	}
	return true, nil
}
