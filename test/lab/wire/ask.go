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
	ifi, source, err := ownAddress(n, iface, target)
	if err != nil {
		return nil, failed(err)
	}
	newQuestion, etherType := arpQuestion, EtherTypeARP
	if target.Is6() {
		newQuestion, etherType = ndpQuestion, EtherTypeIPv6
	}
	q, err := newQuestion(ifi.HardwareAddr, source, target)
	if err != nil {
		return nil, failed(err)
	}
	deadline := time.Now().Add(wait)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	macs, err := q.ask(n, iface, etherType, deadline)
	if err != nil {
		return nil, failed(err)
	}
	return macs, ctx.Err()
}

// question is how to ask for an address and how to recognise an answer.
type question struct {
	frame  []byte
	to     net.HardwareAddr
	answer func(Frame) (net.HardwareAddr, bool)
}

// ask sends a question's frame and collects the answers until the deadline.
func (q question) ask(n *sandbox.Namespace, iface string, etherType uint16, deadline time.Time) ([]net.HardwareAddr, error) {
	conn, err := listen(n, iface, int(etherType))
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
		size, _, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return answers, nil
		}
		if err != nil {
			return nil, err
		}
		if size < ethernetHeader {
			continue
		}
		mac, ok := q.answer(Frame{Data: buf[:size]})
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
	return newQuestion(own, ethernet.Broadcast, EtherTypeARP, payload, func(f Frame) (net.HardwareAddr, bool) {
		a, ok := parseARP(f)
		return a.SenderMAC, ok && a.Reply && a.SenderIP == target && bytes.Equal(a.To, own)
	})
}

const (
	ipv6Header  = 40
	icmpv6      = 58
	ndpHopLimit = 255 // RFC 4861, section 7.1: proves that no router was passed
)

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
	return newQuestion(own, to, EtherTypeIPv6, append(header, icmp...), func(f Frame) (net.HardwareAddr, bool) {
		ip := f.Data[ethernetHeader:]
		if len(ip) < ipv6Header || ip[6] != icmpv6 {
			return nil, false
		}
		end := ipv6Header + int(binary.BigEndian.Uint16(ip[4:]))
		if len(ip) < end {
			return nil, false
		}
		message, err := ndp.ParseMessage(ip[ipv6Header:end])
		if err != nil {
			return nil, false
		}
		na, ok := message.(*ndp.NeighborAdvertisement)
		if !ok || na.TargetAddress != target || !na.Solicited {
			return nil, false
		}
		for _, o := range na.Options {
			if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == ndp.Target {
				return lla.Addr, true
			}
		}
		return nil, false
	})
}

func newQuestion(from, to net.HardwareAddr, etherType uint16, payload []byte, answer func(Frame) (net.HardwareAddr, bool)) (question, error) {
	frame, err := (&ethernet.Frame{
		Destination: to, Source: from, EtherType: ethernet.EtherType(etherType), Payload: payload,
	}).MarshalBinary()
	return question{frame: frame, to: to, answer: answer}, err
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
