// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// fakeKernel has one interface whose name tells how often it was changed.
type fakeKernel struct {
	mu            sync.Mutex
	name          string
	events        chan struct{}
	subscribeErrs []error
	listErrs      []error
	subscribed    int
	listed        int
}

var _ kernel = &fakeKernel{}

func (k *fakeKernel) Subscribe(stop <-chan struct{}) (<-chan struct{}, error) {
	k.subscribed++
	if err := next(&k.subscribeErrs); err != nil {
		return nil, err
	}
	lost, out := make(chan struct{}, 1), make(chan struct{}, 1)
	k.events = lost
	go func() {
		defer close(out)
		for {
			select {
			case <-stop:
				return
			case _, ok := <-lost:
				if !ok {
					return
				}
				select {
				case out <- struct{}{}:
				default:
				}
			}
		}
	}()
	return out, nil
}

func (k *fakeKernel) List() ([]Link, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listed++
	if err := next(&k.listErrs); err != nil {
		return nil, err
	}
	return []Link{{Name: k.name}}, nil
}

func next(errs *[]error) error {
	if len(*errs) == 0 {
		return nil
	}
	err := (*errs)[0]
	*errs = (*errs)[1:]
	return err
}

func (k *fakeKernel) change(name string) {
	k.mu.Lock()
	k.name = name
	k.mu.Unlock()
	k.events <- struct{}{}
}

// watch runs a Watcher in a bubble and returns what it told, joined.
func watch(t *testing.T, k *fakeKernel, script func()) (told string, logs int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var names []string
		log := funcr.New(func(_, _ string) { logs++ }, funcr.Options{})
		w := &Watcher{log: log, kernel: k, notify: func(l []Link) { names = append(names, l[0].Name) }}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		script()
		synctest.Wait()
		cancel()
		err = <-ended
		told = strings.Join(names, " ")
	})
	return told, logs, err
}

func TestWatcher(t *testing.T) {
	errFail := errors.New("no buffer space available")
	for name, tt := range map[string]struct {
		kernel *fakeKernel
		script func(k *fakeKernel)
		told   string
		logs   int
		listed int
		err    error
	}{
		"it tells the interfaces at the start":   {told: "a", listed: 1},
		"it does not ask when nothing happens":   {script: func(*fakeKernel) { time.Sleep(time.Hour) }, told: "a", listed: 1},
		"it tells a change at once":              {script: func(k *fakeKernel) { time.Sleep(time.Second); k.change("b"); synctest.Wait(); k.change("c") }, told: "a b", listed: 2},
		"it lists once for many events":          {script: func(k *fakeKernel) { k.change("b"); k.change("c"); k.change("d"); time.Sleep(time.Second) }, told: "a d", listed: 2},
		"an event without a change is not told":  {script: func(k *fakeKernel) { k.change("a"); time.Sleep(time.Second) }, told: "a", listed: 2},
		"it lists again when events were lost":   {script: func(k *fakeKernel) { k.name = "b"; close(k.events); time.Sleep(time.Second) }, told: "a b", listed: 2},
		"an interrupted listing is listed again": {kernel: &fakeKernel{listErrs: []error{netlink.ErrDumpInterrupted}}, told: "a", listed: 2},
		"it can't start when it can't subscribe": {kernel: &fakeKernel{subscribeErrs: []error{errFail}}, err: errFail},
		"it can't start when it can't list":      {kernel: &fakeKernel{listErrs: []error{errFail}}, listed: 1, err: errFail},
		"later it tries again": {
			script: func(k *fakeKernel) {
				k.subscribeErrs = []error{errFail}
				k.listErrs = []error{errFail}
				k.name = "b"
				close(k.events)
				time.Sleep(time.Minute)
			},
			told: "a b", listed: 3, logs: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := tt.kernel
			if k == nil {
				k = &fakeKernel{}
			}
			k.name = "a"
			told, logs, err := watch(t, k, func() {
				if tt.script != nil {
					tt.script(k)
				}
			})
			if told != tt.told || logs != tt.logs || k.listed != tt.listed || !errors.Is(err, tt.err) {
				t.Errorf("told %q, logged %d, listed %d, error %v; want %q, %d, %d, %v", told, logs, k.listed, err, tt.told, tt.logs, tt.listed, tt.err)
			}
		})
	}
}

// newNamespace returns a network namespace of the test's own.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (as root): %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := netns.Set(old); err != nil {
		t.Fatal(err)
	}
	return ns
}

// The real kernel is seen to tell what the Watcher is built on.
func TestWatcherFollowsRealInterfaces(t *testing.T) {
	before := runtime.NumGoroutine()
	ns := newNamespace(t)
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	told := make(chan []Link, 100)
	w := &Watcher{log: logr.Discard(), kernel: routeNetlink{ns}, notify: func(l []Link) { told <- l }}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()

	// until waits for the state of interface a; nil is none. Its own addresses
	// are those of its prefixes.
	until := func(what string, want *Link) {
		t.Helper()
		var links []Link
		if want != nil {
			for _, p := range want.Prefixes {
				want.Addrs = append(want.Addrs, p.Addr())
			}
		}
		deadline := time.After(10 * time.Second)
		for {
			select {
			case links = <-told:
			case <-deadline:
				t.Fatalf("not told that %s; the last was %v", what, links)
			}
			var got *Link
			for _, l := range links {
				if l.Name == "a" {
					l.Index = 0
					l.NDP = false
					l.Prefixes = slices.DeleteFunc(slices.Clone(l.Prefixes), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
					l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), netip.Addr.IsLinkLocalUnicast)
					if len(l.Prefixes)+len(l.Addrs) == 0 {
						l.Prefixes, l.Addrs = nil, nil
					}
					got = &l
				}
			}
			if cmp.Equal(got, want, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})) {
				return
			}
		}
	}

	// until leaves out what the kernel adds by itself, at a time of its own
	// choosing, and untilLinkLocal waits for it.
	untilLinkLocal := func(want bool) {
		t.Helper()
		var last Link
		deadline := time.After(10 * time.Second)
		for {
			select {
			case links := <-told:
				for _, l := range links {
					if l.Name == "a" {
						last = l
					}
				}
			case <-deadline:
				t.Fatalf("the last was %v with the addresses %v", last, last.Addrs)
			}
			if last.NDP == want && slices.ContainsFunc(last.Addrs, netip.Addr.IsLinkLocalUnicast) == want {
				return
			}
		}
	}

	until("there is nothing", nil)
	mac := MAC{2, 0, 0, 0, 0, 1}
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "b"}
	veth.Name, veth.HardwareAddr = "a", mac[:]
	do(h.LinkAdd(veth))
	a, err := h.LinkByName("a")
	do(err)
	b, err := h.LinkByName("b")
	do(err)
	until("a is there", &Link{Name: "a", MAC: mac, ARP: true})
	do(h.LinkSetUp(a))
	do(h.LinkSetUp(b))
	until("a is up", &Link{Name: "a", MAC: mac, ARP: true, Up: true})
	untilLinkLocal(true)
	addr, err := netlink.ParseAddr("192.0.2.1/24")
	do(err)
	do(h.AddrAdd(a, addr))
	prefixes := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
	until("a has an address", &Link{Name: "a", MAC: mac, ARP: true, Up: true, Prefixes: prefixes})
	gateway := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	route := &netlink.Route{LinkIndex: a.Attrs().Index, Gw: net.ParseIP("192.0.2.254")}
	do(h.RouteAdd(route))
	until("there is a gateway", &Link{Name: "a", MAC: mac, ARP: true, Up: true, Prefixes: prefixes, Gateways: gateway("192.0.2.254")})
	route.Gw = net.ParseIP("192.0.2.253")
	do(h.RouteReplace(route))
	until("the gateway is another", &Link{Name: "a", MAC: mac, ARP: true, Up: true, Prefixes: prefixes, Gateways: gateway("192.0.2.253")})
	do(h.RouteDel(route))
	until("the gateway is gone", &Link{Name: "a", MAC: mac, ARP: true, Up: true, Prefixes: prefixes})
	do(h.RouteAdd(&netlink.Route{Table: 100, Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, MultiPath: []*netlink.NexthopInfo{{LinkIndex: a.Attrs().Index, Gw: net.ParseIP("192.0.2.252")}, {LinkIndex: a.Attrs().Index, Gw: net.ParseIP("192.0.2.251")}}}))
	until("another table has a multipath route", &Link{Name: "a", MAC: mac, ARP: true, Up: true, Prefixes: prefixes, Gateways: append(gateway("192.0.2.251"), gateway("192.0.2.252")...)})
	do(h.RouteAdd(&netlink.Route{LinkIndex: a.Attrs().Index, Gw: net.ParseIP("fe80::1")}))
	until("there is an IPv6 gateway", &Link{Name: "a", MAC: mac, ARP: true, Up: true, Prefixes: prefixes, Gateways: append(append(gateway("192.0.2.251"), gateway("192.0.2.252")...), gateway("fe80::1")...)})
	do(h.LinkSetDown(a))
	untilLinkLocal(false)
	do(h.LinkSetUp(a))
	untilLinkLocal(true)
	do(h.LinkSetDown(a))
	until("the routes went with the interface", &Link{Name: "a", MAC: mac, ARP: true, Prefixes: prefixes})
	do(h.LinkSetUp(a))
	until("a is up again", &Link{Name: "a", MAC: mac, ARP: true, Up: true, Prefixes: prefixes})
	do(h.LinkSetDown(b))
	until("a lost its carrier", &Link{Name: "a", MAC: mac, ARP: true, Prefixes: prefixes})
	do(h.LinkSetUp(b))
	until("a has a carrier", &Link{Name: "a", MAC: mac, ARP: true, Up: true, Prefixes: prefixes})
	mac[5] = 9
	do(h.LinkSetHardwareAddr(a, mac[:]))
	until("a has another MAC", &Link{Name: "a", MAC: mac, ARP: true, Up: true, Prefixes: prefixes})
	do(h.AddrDel(a, addr))
	until("a lost its address", &Link{Name: "a", MAC: mac, ARP: true, Up: true})
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = "br0"
	do(h.LinkAdd(bridge))
	do(h.LinkSetMaster(a, bridge))
	until("a is a port of br0", nil)
	do(h.LinkSetNoMaster(a))
	until("a is on its own", &Link{Name: "a", MAC: mac, ARP: true, Up: true})
	do(h.LinkDel(a))
	until("a is gone", nil)

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run returned %v", err)
	}
	// The library's goroutines end when they see their closed sockets.
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d at the start", runtime.NumGoroutine(), before)
		}
	}
}
