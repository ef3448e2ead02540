// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/mdlayher/ndp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

var (
	ourMAC    = link.MAC{2, 0, 0, 0, 0, 1}
	routerMAC = link.MAC{2, 0, 0, 0, 0, 2}
	ourAddr   = netip.MustParseAddr("fe80::1")
	routerLL  = netip.MustParseAddr("fe80::2")
)

// raw returns a message with that type and room for its header, and with
// options behind it.
func raw(k kind, options ...byte) []byte {
	header := make([]byte, lenAdvertisement)
	if k == solicitation {
		header = header[:lenSolicitation]
	}
	header[0] = byte(k)
	return append(header, options...)
}

var sourceMAC = append([]byte{optSourceLinkLayer, 1}, routerMAC[:]...)

func TestParse(t *testing.T) {
	withCode := raw(advertisement)
	withCode[offCode] = 1
	for name, tt := range map[string]struct {
		payload []byte
		from    string // fe80::2 if empty
		hops    int    // 255 if 0
		want    message
		reason  reason
	}{
		"an advertisement needs no options":     {payload: raw(advertisement), want: message{kind: advertisement}},
		"nor does a solicitation":               {payload: raw(solicitation), want: message{kind: solicitation}},
		"the sender's Ethernet address is read": {payload: raw(advertisement, sourceMAC...), want: message{advertisement, routerMAC}},
		"it need not be the first option": {
			payload: raw(advertisement, append([]byte{5, 1, 0, 0, 0, 0, 5, 220}, sourceMAC...)...), want: message{advertisement, routerMAC},
		},
		"an address that is not Ethernet's tells nothing": {
			payload: raw(advertisement, append([]byte{optSourceLinkLayer, 2}, make([]byte, 14)...)...), want: message{kind: advertisement},
		},
		"what is in options that are not ours doesn't matter": {
			payload: raw(advertisement, 25, 1, 1, 2, 3, 4, 5, 6, 31, 1, 255, 255, 255, 255, 255, 255), want: message{kind: advertisement},
		},
		"a host without an address may solicit": {payload: raw(solicitation), from: "::", want: message{kind: solicitation}},
		"one with a global address too":         {payload: raw(solicitation), from: "2001:db8::1", want: message{kind: solicitation}},

		"nothing":                                 {payload: nil, reason: reasonShort},
		"a solicitation that is cut off":          {payload: raw(solicitation)[:7], reason: reasonShort},
		"an advertisement that is cut off":        {payload: raw(advertisement)[:15], reason: reasonShort},
		"another type":                            {payload: raw(136), reason: reasonType},
		"a code that means nothing":               {payload: withCode, reason: reasonCode},
		"an advertisement from beyond the link":   {payload: raw(advertisement), hops: 254, reason: reasonHops},
		"a solicitation from beyond the link":     {payload: raw(solicitation), hops: 64, reason: reasonHops},
		"a router that has a global address only": {payload: raw(advertisement), from: "2001:db8::1", reason: reasonSource},
		"a router without an address":             {payload: raw(advertisement), from: "::", reason: reasonSource},
		"a group can't send":                      {payload: raw(solicitation), from: "ff02::1", reason: reasonSource},
		"an option of no length":                  {payload: raw(advertisement, 5, 0, 0, 0, 0, 0, 0, 0), reason: reasonOptions},
		"an option that is cut off":               {payload: raw(advertisement, 5, 2, 0, 0, 0, 0, 0, 0), reason: reasonOptions},
		"an option without a length":              {payload: raw(solicitation, 5), reason: reasonOptions},
		"an Ethernet address of no address":       {payload: raw(solicitation, sourceMAC...), from: "::", reason: reasonOptions},
	} {
		t.Run(name, func(t *testing.T) {
			p := packet{from: routerLL, hopLimit: hopLimit, payload: tt.payload}
			if tt.from != "" {
				p.from = netip.MustParseAddr(tt.from)
			}
			if tt.hops != 0 {
				p.hopLimit = tt.hops
			}
			if got, why := parse(p); got != tt.want || why != tt.reason {
				t.Errorf("%+v for %q, want %+v for %q", got, why, tt.want, tt.reason)
			}
		})
	}
}

func TestComposedMessagesAskForNothing(t *testing.T) {
	for _, mac := range []link.MAC{{}, ourMAC} {
		b, err := compose(advertisement, mac)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ndp.ParseMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		ra := m.(*ndp.RouterAdvertisement)
		if ra.RouterLifetime != 0 || ra.ManagedConfiguration || ra.OtherConfiguration || ra.CurrentHopLimit != 0 || ra.ReachableTime != 0 || ra.RetransmitTimer != 0 {
			t.Errorf("hosts are told to change: %+v", ra)
		}
		if slices.ContainsFunc(ra.Options, func(o ndp.Option) bool { return o.Code() != optSourceLinkLayer }) {
			t.Errorf("options %v", ra.Options)
		}
		for _, k := range []kind{solicitation, advertisement} {
			b, err := compose(k, mac)
			if err != nil {
				t.Fatal(err)
			}
			if got, why := parse(packet{ourAddr, hopLimit, b}); got != (message{k, mac}) || why != "" {
				t.Errorf("we read our own %v with %v as %+v, %q", k, mac, got, why)
			}
		}
	}
}

// What a strict reader takes, ours takes, and nothing else than the routers'
// own words comes of it.
func FuzzParse(f *testing.F) {
	f.Add(raw(advertisement, sourceMAC...), routerLL.AsSlice(), hopLimit)
	f.Add(raw(solicitation, sourceMAC...), routerLL.AsSlice(), hopLimit)
	f.Add(raw(solicitation), netip.IPv6Unspecified().AsSlice(), hopLimit)
	f.Add(raw(advertisement, 3, 4, 64, 0xc0), []byte{}, 64)
	f.Fuzz(func(t *testing.T, payload []byte, source []byte, hops int) {
		from, _ := netip.AddrFromSlice(source)
		p := packet{from: from, hopLimit: hops, payload: payload}
		m, why := parse(p)
		if why == "" {
			if hops != hopLimit || len(payload) < lenSolicitation || kind(payload[0]) != m.kind || m.kind == advertisement && !from.IsLinkLocalUnicast() {
				t.Fatalf("took %+v as %+v", p, m)
			}
		}
		strict, err := ndp.ParseMessage(payload)
		if err != nil || hops != hopLimit || payload[offCode] != 0 || !from.IsLinkLocalUnicast() {
			return
		}
		switch strict.(type) {
		case *ndp.RouterAdvertisement, *ndp.RouterSolicitation:
			if why != "" {
				t.Fatalf("dropped %x for %q", payload, why)
			}
		}
	})
}

// Whatever comes, in whatever order, nobody is taken for a router that can't be
// one, and what is remembered is bounded.
func FuzzHandle(f *testing.F) {
	f.Add([]byte("\x02\x86\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x85\x00\x00\x00\x00\x00\x00\x00"), 17)
	f.Add(append([]byte{1}, raw(solicitation, sourceMAC...)...), 17)
	f.Add(append([]byte{9}, raw(advertisement, sourceMAC...)...), 25)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		var c cable
		a := New(logr.Discard(), prometheus.NewRegistry(), func() {})
		a.listen = c.listen
		p, err := a.open(place{2, "eth0"}, identity{ourAddr, ourMAC})
		if err != nil {
			t.Fatal(err)
		}
		p.own = []netip.Addr{ourAddr}
		a.ports[p.at] = p
		size = max(1, size)
		now := start
		for chunk := range slices.Chunk(stream, size) {
			from := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: chunk[0]})
			p.handle(packet{from: from, hopLimit: hopLimit, payload: chunk[1:]}, now)
			now = now.Add(time.Duration(chunk[0]) * time.Second)
			p.expire(now)
		}
		if n := len(p.schedule.answers); n > maxAnswers {
			t.Errorf("%d answers", n)
		}
		got := a.Routers()["eth0"]
		if len(got) > maxRouters || !slices.IsSortedFunc(got, netip.Addr.Compare) || slices.Contains(got, ourAddr) {
			t.Errorf("routers %v", got)
		}
	})
}
