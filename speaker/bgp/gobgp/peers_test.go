// SPDX-License-Identifier: Apache-2.0

// The sockets that GoBGP's server listens on are otherwise of MPTCP, which knows
// neither TCP-MD5 nor a TTL.
//
//go:debug multipathtcp=0

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/log"
	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// patience is how long a test waits for what should happen.
const patience = 30 * time.Second

// eventually waits until f has no complaint. It looks often, because what is
// awaited comes from another goroutine of GoBGP.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still after %s: %v", patience, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// host hands out loopback addresses and ports that no other test has.
var host atomic.Uint32

func loopback() netip.Addr {
	n := host.Add(1)
	return netip.AddrFrom4([4]byte{127, 1, byte(n >> 8), byte(n)})
}

// silent is a log of GoBGP that nobody reads.
type silent struct{}

func (silent) Panic(msg string, f log.Fields) { panic(fmt.Sprint(msg, f)) }
func (silent) Fatal(msg string, f log.Fields) { panic(fmt.Sprint(msg, f)) }
func (silent) Error(string, log.Fields)       {}
func (silent) Warn(string, log.Fields)        {}
func (silent) Info(string, log.Fields)        {}
func (silent) Debug(string, log.Fields)       {}
func (silent) SetLevel(log.LogLevel)          {}
func (silent) GetLevel() log.LogLevel         { return log.ErrorLevel }

var (
	ipv4 = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	ipv6 = &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
)

// GoBGP writes variables of the whole program when a server starts, and all
// servers read them. The race detector sees that, so tests take servers that
// were started before any of them had something to do.
var started struct {
	sync.Mutex
	routers []*router
	over6   *router // there is one IPv6 address of the loopback
}

func TestMain(m *testing.M) {
	if router := os.Getenv(childEnv); router != "" {
		if err := beChild(router); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := start(24); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func start(routers int) error {
	for i := range routers + 1 {
		r := &router{BgpServer: server.NewBgpServer(server.LoggerOption(silent{})), addr: loopback(), port: 10179}
		id := r.addr
		if i == routers {
			r.addr, started.over6 = netip.IPv6Loopback(), r
		} else {
			started.routers = append(started.routers, r)
		}
		go r.Serve()
		if err := r.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{
			Asn: 65000, RouterId: id.String(), ListenPort: int32(r.port), ListenAddresses: []string{r.addr.String()},
		}}); err != nil {
			return err
		}
	}
	return nil
}

// router is a server of GoBGP that tells what it gets.
type router struct {
	*server.BgpServer
	addr netip.Addr
	port uint16
	asn  uint32
}

func newRouter(t testing.TB, asn uint32) *router {
	t.Helper()
	started.Lock()
	defer started.Unlock()
	if len(started.routers) == 0 {
		t.Fatal("TestMain starts too few routers")
	}
	r := started.routers[0]
	started.routers = started.routers[1:]
	r.asn = asn
	t.Cleanup(func() {
		r.forget(t)
		started.Lock()
		defer started.Unlock()
		started.routers = append(started.routers, r)
	})
	return r
}

// forget ends all sessions.
func (r *router) forget(t testing.TB) {
	t.Helper()
	ctx := context.Background()
	var peers []string
	err := r.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) { peers = append(peers, p.Conf.NeighborAddress) })
	for _, p := range peers {
		err = errors.Join(err, r.DeletePeer(ctx, &api.DeletePeerRequest{Address: p}))
	}
	if err != nil {
		t.Error(err)
	}
}

// expect makes the router wait for a speaker.
func (r *router) expect(t testing.TB, speaker netip.Addr, asn uint32, edits ...func(*api.Peer)) {
	t.Helper()
	p := &api.Peer{
		Conf:            &api.PeerConf{NeighborAddress: speaker.String(), PeerAsn: asn, LocalAsn: r.asn},
		Transport:       &api.Transport{PassiveMode: true},
		GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: 30, DeferralTime: 5},
		Timers:          &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1}},
	}
	for _, f := range []*api.Family{ipv4, ipv6} {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: f, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		})
	}
	for _, edit := range edits {
		edit(p)
	}
	if err := r.AddPeer(context.Background(), &api.AddPeerRequest{Peer: p}); err != nil {
		t.Fatal(err)
	}
}

// received is a route as a router has it.
type received struct {
	NextHop     string
	Path        []uint32
	Communities []uint32
	Large       [][3]uint32
	LocalPref   uint32
	MED         uint32
	Stale       bool
}

// table returns what the router has from a speaker.
func (r *router) table(t testing.TB, speaker netip.Addr, family *api.Family) map[string]received {
	t.Helper()
	out := map[string]received{}
	if err := r.ListPath(context.Background(), &api.ListPathRequest{TableType: api.TableType_ADJ_IN, Name: speaker.String(), Family: family}, func(d *api.Destination) {
		attributes, err := apiutil.UnmarshalPathAttributes(d.Paths[0].Pattrs)
		if err != nil {
			t.Error(err)
			return
		}
		got := received{Stale: d.Paths[0].Stale}
		for _, a := range attributes {
			switch a := a.(type) {
			case *packet.PathAttributeNextHop:
				got.NextHop = a.Value.String()
			case *packet.PathAttributeMpReachNLRI:
				got.NextHop = a.Nexthop.String()
			case *packet.PathAttributeAsPath:
				for _, segment := range a.Value {
					got.Path = append(got.Path, segment.GetAS()...)
				}
			case *packet.PathAttributeCommunities:
				got.Communities = a.Value
			case *packet.PathAttributeLargeCommunities:
				for _, l := range a.Values {
					got.Large = append(got.Large, [3]uint32{l.ASN, l.LocalData1, l.LocalData2})
				}
			case *packet.PathAttributeLocalPref:
				got.LocalPref = a.Value
			case *packet.PathAttributeMultiExitDisc:
				got.MED = a.Value
			}
		}
		out[d.Prefix] = got
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// updates is how many UPDATE messages came from a speaker.
func (r *router) updates(t testing.TB, speaker netip.Addr) uint64 {
	t.Helper()
	var n uint64
	if err := r.ListPeer(context.Background(), &api.ListPeerRequest{Address: speaker.String()}, func(p *api.Peer) { n = p.State.Messages.Received.Update }); err != nil {
		t.Fatal(err)
	}
	return n
}

// peer is a plain one for the router, from an address of its own.
func (r *router) peer(name string, asn uint32) bgp.Peer {
	p := plain(name, asn)
	p.Address, p.Port, p.PeerASN = r.addr, r.port, r.asn
	return p
}

func plain(name string, asn uint32) bgp.Peer {
	return bgp.Peer{
		Name: name, Source: loopback(), LocalASN: asn, RouterID: netip.MustParseAddr("192.0.2.1"),
		HoldTime: 9 * time.Second, KeepaliveTime: 3 * time.Second, ConnectTime: time.Second,
		Families: bgp.Families{IPv4: true}, GracefulRestart: true, RestartTime: 30 * time.Second,
	}
}

func newAnnouncer(t testing.TB, preserved bool) *bgp.Announcer {
	t.Helper()
	a := bgp.New(logr.Discard(), prometheus.NewRegistry(), New(), nil, preserved)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := a.Leave(ctx, false); err != nil {
			t.Error(err)
		}
	})
	return a
}

func desired(peers ...bgp.PeerRoutes) bgp.Desired { return bgp.Desired{Peers: peers} }

func status(a *bgp.Announcer, peer string) bgp.Status {
	for _, s := range a.Status() {
		if s.Key.Peer == peer {
			return s
		}
	}
	return bgp.Status{}
}

func established(t testing.TB, a *bgp.Announcer, peers ...string) {
	t.Helper()
	eventually(t, func() error {
		for _, peer := range peers {
			if s := status(a, peer); s.State != bgp.Established {
				return fmt.Errorf("%s is %s: %s", peer, s.State, s.LastError)
			}
		}
		return nil
	})
}

func routes(n int) []bgp.Route {
	out := make([]bgp.Route, n)
	for i := range out {
		out[i] = bgp.Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)}
	}
	return out
}

// wire is a router of which the test sends and reads each message.
type wire struct {
	t    testing.TB
	l    net.Listener
	addr netip.Addr
	port uint16
}

func newWire(t testing.TB) *wire {
	t.Helper()
	addr := loopback()
	l, err := net.Listen("tcp", net.JoinHostPort(addr.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &wire{t: t, l: l, addr: addr, port: uint16(l.Addr().(*net.TCPAddr).Port)}
}

// accept takes the next connection.
func (w *wire) accept() net.Conn {
	w.t.Helper()
	if err := w.l.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	c, err := w.l.Accept()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *wire) peer(name string, asn uint32) bgp.Peer {
	p := plain(name, asn)
	p.Address, p.Port, p.PeerASN = w.addr, w.port, 65000
	return p
}

// read reads a message.
func read(c net.Conn) (*packet.BGPMessage, error) {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	head := make([]byte, packet.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	h := &packet.BGPHeader{}
	if err := h.DecodeFromBytes(head); err != nil {
		return nil, err
	}
	body := make([]byte, int(h.Len)-len(head))
	if _, err := io.ReadFull(c, body); err != nil {
		return nil, err
	}
	return packet.ParseBGPBody(h, body)
}

// next reads the next message of a kind.
func next[B packet.BGPBody](t testing.TB, c net.Conn) B {
	t.Helper()
	for {
		m, err := read(c)
		if err != nil {
			var none B
			t.Fatalf("waiting for a %T: %v", none, err)
		}
		if b, ok := m.Body.(B); ok {
			return b
		}
	}
}

func write(c net.Conn, m *packet.BGPMessage) error {
	b, err := m.Serialize()
	if err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

// open is the router's OPEN message.
func open(asn uint32, capabilities ...packet.ParameterCapabilityInterface) *packet.BGPMessage {
	capabilities = append(capabilities, packet.NewCapFourOctetASNumber(asn), packet.NewCapMultiProtocol(packet.RF_IPv4_UC))
	return packet.NewBGPOpenMessage(uint16(asn), 90, "192.0.2.99",
		[]packet.OptionParameterInterface{packet.NewOptionParameterCapability(capabilities)})
}

// establish is the router's side of a new session; it returns the speaker's
// OPEN message.
func establish(t testing.TB, c net.Conn, asn uint32, capabilities ...packet.ParameterCapabilityInterface) *packet.BGPOpen {
	t.Helper()
	o := next[*packet.BGPOpen](t, c)
	if err := errors.Join(write(c, open(asn, capabilities...)), write(c, packet.NewBGPKeepAliveMessage())); err != nil {
		t.Fatal(err)
	}
	next[*packet.BGPKeepAlive](t, c)
	return o
}
