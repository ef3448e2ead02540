// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// settings are files of /proc/sys/net/ipv4/conf, "eth0/arp_ignore" and so on;
// those of all and of eth0 and eth1 that are not given are 0.
func settings(values map[string]string) fstest.MapFS {
	files := fstest.MapFS{}
	for _, i := range []string{"all", "eth0", "eth1"} {
		for _, key := range []string{"arp_ignore", "arp_announce", "rp_filter"} {
			files["net/ipv4/conf/"+i+"/"+key] = &fstest.MapFile{Data: []byte("0\n")}
		}
	}
	for key, value := range values {
		files["net/ipv4/conf/"+key] = &fstest.MapFile{Data: []byte(value + "\n")}
	}
	return files
}

func ether(index int, prefixes ...string) link.Link {
	l := link.Link{Index: index, Name: fmt.Sprint("eth", index), Up: true, ARP: true}
	for _, p := range prefixes {
		l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p))
	}
	return l
}

func leadsTo(l link.Link, gateway string) link.Link {
	l.Gateways = []netip.Addr{netip.MustParseAddr(gateway)}
	return l
}

func ipvs(prefixes ...string) link.Link {
	l := ether(9, prefixes...)
	l.Name, l.ARP, l.Up = ipvsInterface, false, false
	return l
}

func TestRead(t *testing.T) {
	node := []link.Link{leadsTo(ether(0, "10.0.0.1/24"), "10.0.0.2"), ether(1, "10.1.0.1/24")}
	strict := map[string]string{"all/rp_filter": "1"}
	for name, tt := range map[string]struct {
		settings map[string]string
		links    []link.Link
		carriers []string
		want     Node
		asks     string // of the kernel: interface, sender, receiver
	}{
		"the larger value counts": {
			settings: map[string]string{"all/arp_ignore": "1", "eth0/arp_ignore": "2", "all/arp_announce": "2", "eth1/arp_announce": "1"},
			links:    node,
			want: Node{Interfaces: []Interface{
				{Name: "eth0", Up: true, ARPIgnore: 2, ARPAnnounce: 2}, {Name: "eth1", Up: true, ARPIgnore: 1, ARPAnnounce: 2},
			}},
		},
		"kube-proxy's interface": {
			links: []link.Link{ether(0, "10.0.0.1/24"), ipvs("10.96.0.1/32")},
			want:  Node{IPVS: true, Interfaces: []Interface{{Name: "eth0", Up: true}}},
		},
		// The kernel does NDP for addresses of the interface itself alone.
		"kube-proxy's interface without IPv4": {
			links: []link.Link{ether(0, "10.0.0.1/24"), ipvs("2001:db8::1/128")},
			want:  Node{Interfaces: []Interface{{Name: "eth0", Up: true}}},
		},
		"one that announces nothing": {links: []link.Link{ether(0, "10.0.0.1/32")}},
		"unless addresses are on it": {
			links: []link.Link{ether(0, "10.0.0.1/32")}, carriers: []string{"eth0"},
			want: Node{Interfaces: []Interface{{Name: "eth0", Up: true, Carries: true}}},
		},
		"one that went away meanwhile": {links: []link.Link{ether(7, "10.0.0.1/24")}},
		"a strict filter on one that carries nothing": {
			settings: strict, links: node,
			want: Node{Interfaces: []Interface{{Name: "eth0", Up: true}, {Name: "eth1", Up: true}}},
		},
		"a strict filter": {
			settings: strict, links: node, carriers: []string{"eth1"},
			want: Node{Interfaces: []Interface{{Name: "eth0", Up: true}, {Name: "eth1", Up: true, Carries: true, Drops: []Clients{Neighbors, Others}}}},
			asks: "1 10.1.0.2 10.1.0.1, 1 203.0.113.1 10.1.0.1",
		},
		"a loose filter": {
			settings: map[string]string{"all/rp_filter": "1", "eth1/rp_filter": "2"}, links: node, carriers: []string{"eth1"},
			want: Node{Interfaces: []Interface{{Name: "eth0", Up: true}, {Name: "eth1", Up: true, Carries: true}}},
		},
		"neighbors are others than the node, its Services and the network": {
			settings: strict, carriers: []string{"eth0"},
			links: []link.Link{ether(0, "203.0.113.1/24"), ether(1, "203.0.113.2/32"), leadsTo(ipvs("203.0.113.3/32"), "10.9.9.9")},
			want:  Node{IPVS: true, Interfaces: []Interface{{Name: "eth0", Up: true, Carries: true, Drops: []Clients{Neighbors, Others}}}},
			asks:  "0 203.0.113.4 203.0.113.1, 0 198.51.100.1 203.0.113.1",
		},
		"a network of two": {
			settings: strict, links: []link.Link{ether(0, "10.0.0.1/31")}, carriers: []string{"eth0"},
			want: Node{Interfaces: []Interface{{Name: "eth0", Up: true, Carries: true, Drops: []Clients{Neighbors}}}},
			asks: "0 10.0.0.0 10.0.0.1",
		},
		"the address of another interface is asked for if there is none": {
			settings: strict, links: []link.Link{leadsTo(ether(0, "10.0.0.1/24"), "10.0.0.2"), ether(1)}, carriers: []string{"eth1"},
			want: Node{Interfaces: []Interface{{Name: "eth0", Up: true}, {Name: "eth1", Up: true, Carries: true, Drops: []Clients{Others}}}},
			asks: "1 203.0.113.1 10.0.0.1",
		},
		"no IPv4 at all": {
			settings: strict, links: []link.Link{leadsTo(ether(0, "2001:db8::1/64"), "fe80::1")}, carriers: []string{"eth0"},
			want: Node{Interfaces: []Interface{{Name: "eth0", Up: true, Carries: true}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			r := reader{sys: settings(tt.settings), accepts: func(iface int, from, to netip.Addr) (bool, error) {
				asked = append(asked, fmt.Sprint(iface, " ", from, " ", to))
				return false, nil
			}}
			if tt.carriers == nil {
				tt.carriers = []string{}
			}
			got, err := r.read(tt.links, tt.carriers)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if asks := strings.Join(asked, ", "); asks != tt.asks {
				t.Errorf("asked %q, want %q", asks, tt.asks)
			}
		})
	}
}

func TestWhateverCanCarryAddressesDoesUnlessOneSaysWhich(t *testing.T) {
	n, err := reader{sys: settings(nil)}.read([]link.Link{ether(0, "10.0.0.1/24"), ether(1, "10.1.0.1/32")}, nil)
	if diff := cmp.Diff(Node{Interfaces: []Interface{{Name: "eth0", Up: true, Carries: true}}}, n); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestWhatCantBeReadIsTold(t *testing.T) {
	links := []link.Link{ether(0, "10.0.0.1/24")}
	r := reader{sys: settings(map[string]string{"eth0/arp_ignore": "many"})}
	if _, err := r.read(links, nil); err == nil || !strings.Contains(err.Error(), "eth0: arp_ignore: ") {
		t.Error(err)
	}
	refused := errors.New("refused")
	r = reader{sys: settings(map[string]string{"eth0/rp_filter": "1"}), accepts: func(int, netip.Addr, netip.Addr) (bool, error) { return false, refused }}
	if _, err := r.read(links, []string{"eth0"}); !errors.Is(err, refused) {
		t.Error(err)
	}
	r.accepts = func(int, netip.Addr, netip.Addr) (bool, error) { return false, unix.ENODEV }
	if n, err := r.read(links, []string{"eth0"}); err != nil || len(n.Interfaces) > 0 {
		t.Errorf("an interface that went away: %+v, %v", n, err)
	}
}
