// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"net/netip"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/bfd"
	"github.com/fairlead-lb/fairlead/speaker/bgp"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// What BFD says of a path with a zone finds the session.
func TestStatesOfUnnumberedPaths(t *testing.T) {
	s, err := sandbox.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	node, err := s.AddNamespace("node")
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan bgp.Key, 10)
	p := NewPaths(logr.Discard(), false)
	manager := bfd.New(logr.Discard(), prometheus.NewRegistry(), p.State)
	t.Cleanup(manager.Close)
	p.Connect(manager, func(k bgp.Key, _ bgp.BFDState) { told <- k })
	// That there is no such interface is told by the session's state.
	router := netip.MustParseAddr("fe80::1%eth0")
	want := bgp.Key{Peer: "tor", Neighbor: router}
	if err := node.Do(func() error {
		p.Set([]bgp.BFDSession{{Key: want, Neighbor: router, Local: netip.MustParseAddr("fe80::2"), Interface: "eth0"}})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-told:
		if got != want {
			t.Errorf("the state is told of %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("the state is told of nobody")
	}
}
