// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/go-logr/logr"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
	"google.golang.org/protobuf/types/known/anypb"
)

// speaker is a server of GoBGP: one session, or all that listen on one socket.
type speaker struct {
	log    *logger
	server *server.BgpServer
	// identity is zero if the server was not started or is stopped.
	identity  identity
	listening bool
	// sessions are those of passive peers. It belongs to the Backend.
	sessions int
}

// identity is what all sessions of a server have in common.
type identity struct {
	asn      uint32
	routerID netip.Addr
}

func newSpeaker(log logr.Logger) *speaker {
	l := newLogger(log)
	s := &speaker{log: l, server: server.NewBgpServer(server.LoggerOption(l))}
	go s.server.Serve()
	return s
}

// starting is held for writing while a server starts: GoBGP then writes
// variables of the whole program that all servers read when they look at paths.
// It writes the same values each time. What a server does by itself meanwhile
// can't be kept apart from that, so servers are started as seldom as possible.
var starting sync.RWMutex

// start makes the server be somebody, and listen if there is a socket. It
// accepts no route but its own.
func (s *speaker) start(id identity, on *socket) error {
	if s.identity == id && on == nil {
		return nil
	}
	s.stop()
	ctx := context.Background()
	g := &api.Global{
		Asn: id.asn, RouterId: id.routerID.String(), ListenPort: -1,
		Families: []uint32{familyIPv4, familyIPv6, familyVPNv4, familyVPNv6, familyTargets},
	}
	if on != nil {
		g.ListenPort, g.ListenAddresses, g.BindToDevice = int32(on.port), []string{on.own.String()}, on.device
	}
	starting.Lock()
	err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: g})
	starting.Unlock()
	if err != nil {
		return err
	}
	s.identity, s.listening = id, on != nil
	own := &api.Policy{Name: "own", Statements: []*api.Statement{{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT},
	}}}
	if err := s.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: own}); err != nil {
		return fmt.Errorf("add the import policy: %w", err)
	}
	if err := s.server.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_IMPORT, Policies: []*api.Policy{own}, DefaultAction: api.RouteAction_REJECT,
	}}); err != nil {
		return fmt.Errorf("assign the import policy: %w", err)
	}
	return nil
}

// clear lets go of the routes and of the socket, when the last session is over.
func (s *speaker) clear() {
	// It succeeds on a server that was started, and on another there is nothing.
	_ = s.server.DeletePath(context.Background(), &api.DeletePathRequest{})
	if s.listening {
		s.stop()
	}
}

func (s *speaker) stop() {
	// It succeeds with every request that isn't nil.
	_ = s.server.StopBgp(context.Background(), &api.StopBgpRequest{})
	s.identity, s.listening = identity{}, false
}

// addVRF makes a table of its own for the routes of one neighbour: they are
// told apart by a route distinguisher, and that neighbour alone imports their
// route target. Neither is ever on the wire.
func (s *speaker) addVRF(name string, id uint32) error {
	rd, err := anypb.New(&api.RouteDistinguisherTwoOctetASN{Admin: 0, Assigned: id})
	if err != nil {
		return err
	}
	rt, err := anypb.New(&api.TwoOctetAsSpecificExtended{IsTransitive: true, SubType: 2, Asn: 0, LocalAdmin: id})
	if err != nil {
		return err
	}
	return s.server.AddVrf(context.Background(), &api.AddVrfRequest{Vrf: &api.Vrf{
		Name: name, Id: id, Rd: rd, ImportRt: []*anypb.Any{rt}, ExportRt: []*anypb.Any{rt},
	}})
}

// deleteVRF also forgets the routes in it.
func (s *speaker) deleteVRF(name string) {
	_ = s.server.DeleteVrf(context.Background(), &api.DeleteVrfRequest{Name: name}) // it is there, and no neighbour has it any more
}
