// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// Ask asks the LAN once who has an address, by ARP or by neighbour solicitation, and returns every MAC that says so within
// the wait, each once, in the order of their answers. It takes the whole wait, for the sake of the second answer.
func Ask(ctx context.Context, n *sandbox.Namespace, iface string, target netip.Addr, wait time.Duration) ([]net.HardwareAddr, error) {
	failed := func(err error) error { return fmt.Errorf("%s asking for %s: %w", n.Name(), target, err) }
	q, err := questionFor(n, iface, target)
	if err != nil {
		return nil, failed(err)
	}
	deadline := time.Now().Add(wait)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	macs, err := q.ask(n, iface, deadline)
	if err != nil {
		return nil, failed(err)
	}
	return macs, ctx.Err()
}

// question is how to ask for an address, and who asks.
type question struct {
	target   netip.Addr
	frame    []byte
	own, to  net.HardwareAddr
	protocol uint16
}

// answeredBy finds the MAC in an answer to the question.
func (q question) answeredBy(f Frame) (net.HardwareAddr, bool) {
	r, ok := ParseResolution(f)
	return r.MAC[:], ok && r.Answer && r.Addr == q.target && r.To == MAC(q.own)
}

// questionFor is how a host asks for an address by its interface.
func questionFor(n *sandbox.Namespace, iface string, target netip.Addr) (question, error) {
	ifi, source, err := ownAddress(n, iface, target)
	if err != nil {
		return question{}, err
	}
	if target.Is6() {
		return ndpQuestion(ifi.HardwareAddr, source, target)
	}
	return arpQuestion(ifi.HardwareAddr, source, target)
}

// ask sends a question's frame and collects the answers until the deadline.
func (q question) ask(n *sandbox.Namespace, iface string, deadline time.Time) ([]net.HardwareAddr, error) {
	conn, err := listen(n, iface, int(q.protocol))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := conn.WriteTo(q.frame, &packet.Addr{HardwareAddr: q.to}); err != nil {
		return nil, err
	}
	var answers []net.HardwareAddr
	buf := make([]byte, 65536)
	for {
		size, at, err := receive(conn, buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return answers, nil
		}
		if err != nil {
			return nil, err
		}
		mac, ok := q.answeredBy(Frame{At: at, Data: buf[:size]})
		if ok && !slices.ContainsFunc(answers, func(have net.HardwareAddr) bool { return bytes.Equal(have, mac) }) {
			answers = append(answers, slices.Clone(mac))
		}
	}
}

func arpQuestion(own net.HardwareAddr, source, target netip.Addr) (question, error) {
	request, err := arp.NewPacket(arp.OperationRequest, own, source, make(net.HardwareAddr, 6), target)
	if err != nil {
		return question{}, err
	}
	payload, err := request.MarshalBinary()
	if err != nil {
		return question{}, err
	}
	return newQuestion(target, own, ethernet.Broadcast, EtherTypeARP, payload)
}

// ndpQuestion makes the frame by hand: an ordinary socket takes its zone from the interfaces of the wrong namespace.
func ndpQuestion(own net.HardwareAddr, source, target netip.Addr) (question, error) {
	group, err := ndp.SolicitedNodeMulticast(target)
	if err != nil {
		return question{}, err
	}
	icmp, err := ndp.MarshalMessageChecksum(&ndp.NeighborSolicitation{TargetAddress: target, Options: []ndp.Option{
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: own},
	}}, source, group)
	if err != nil {
		return question{}, err
	}
	header := make([]byte, 8, ipv6Header)
	header[0] = 6 << 4
	binary.BigEndian.PutUint16(header[4:], uint16(len(icmp)))
	header[6], header[7] = icmpv6, ndpHopLimit
	header = append(append(header, source.AsSlice()...), group.AsSlice()...)

	g := group.As16()
	to := net.HardwareAddr{0x33, 0x33, g[12], g[13], g[14], g[15]}
	return newQuestion(target, own, to, EtherTypeIPv6, append(header, icmp...))
}

func newQuestion(target netip.Addr, own, to net.HardwareAddr, etherType uint16, payload []byte) (question, error) {
	frame, err := (&ethernet.Frame{
		Destination: to, Source: own, EtherType: ethernet.EtherType(etherType), Payload: payload,
	}).MarshalBinary()
	return question{target: target, frame: frame, own: own, to: to, protocol: etherType}, err
}

// ownAddress is the interface and its first global address of the target's family.
func ownAddress(n *sandbox.Namespace, iface string, target netip.Addr) (ifi *net.Interface, own netip.Addr, err error) {
	err = n.Do(func() error {
		if ifi, err = net.InterfaceByName(iface); err != nil {
			return err
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Addr().Is4() == target.Is4() && !p.Addr().IsLinkLocalUnicast() {
				own = p.Addr()
				return nil
			}
		}
		return fmt.Errorf("%s has no address of the family of %s", iface, target)
	})
	return ifi, own, err
}
