// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"bufio"
	"context"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// childEnv tells the test's program to be a speaker that has a session with the
// router that it names, and restarts when it is told so.
const childEnv = "FAIRLEAD_TEST_BGP_ROUTER"

func beChild(router string) error {
	at, err := netip.ParseAddrPort(router)
	if err != nil {
		return err
	}
	p := plain("tor", 65001)
	p.Source, p.Address, p.Port, p.PeerASN = netip.Addr{}, at.Addr(), at.Port(), 65000
	a := bgp.New(logr.Discard(), prometheus.NewRegistry(), New(), nil, false)
	a.Set(desired(bgp.PeerRoutes{Peer: p, Routes: routes(1)}))
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	return a.Leave(context.Background(), true)
}

// leaver starts a speaker in a process of its own and returns what tells it to
// leave.
func leaver(t *testing.T, w *wire) io.Writer {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+netip.AddrPortFrom(w.addr, w.port).String())
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := child.Wait(); err != nil {
			t.Errorf("the speaker: %v", err)
		}
	})
	return in
}

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	return inUse()
}

func inUse() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
