// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/speaker/bgp"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

// forgetful is an Announcer that notes nothing.
type forgetful struct{ Announcer }

func (forgetful) Set(bgp.Desired)      {}
func (forgetful) Status() []bgp.Status { return nil }

// BenchmarkOneMore has two peers be told of one more address among ten thousand.
func BenchmarkOneMore(b *testing.B) {
	w := &world{nodes: []plan.Node{{Name: "a", Alive: true, Ready: true}, {Name: "b", Alive: true, Ready: true}}, peers: []*v1alpha1.BGPPeer{peer("one"), peer("two")}}
	r := New("a", forgetful{}, neighbors{w}, func([]v1alpha1.BGPSession) {})
	var addrs []string
	for i := range 10_000 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String())
	}
	st := w.state(addrs...)
	r.SetLinks([]link.Link{eth0})
	r.SetState(st)
	r.announce(time.Now())
	more := netip.MustParseAddr("10.1.0.0")
	one := st.Addresses[netip.MustParseAddr("10.0.0.0")]
	st.NodesChanged, st.PeeringChanged = false, false
	b.ReportAllocs()
	for b.Loop() {
		more = more.Next()
		one.Addr = more
		st.Addresses = map[netip.Addr]source.Address{more: one}
		st.Changed = []netip.Addr{more}
		r.SetState(st)
		r.announce(time.Now())
		st.Addresses, st.Changed, st.Gone = nil, nil, []netip.Addr{more}
		r.SetState(st)
		st.Gone = nil
	}
}
