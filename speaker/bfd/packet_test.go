// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPacketOnTheWire(t *testing.T) {
	for _, test := range []struct {
		name string
		wire string
		packet
	}{
		{"the first one of a session", "20400318" + "01020304" + "00000000" + "000f4240" + "000493e0" + "00000000", packet{
			state: Down, multiplier: 3, my: 0x01020304, desiredMinTx: time.Second, requiredMinRx: 300 * time.Millisecond,
		}},
		{"a poll", "20e00518" + "00000001" + "fffffffe" + "00002710" + "ffffffff" + "0000c350", packet{
			state: Up, poll: true, multiplier: 5, my: 1, your: 0xfffffffe,
			desiredMinTx: 10 * time.Millisecond, requiredMinRx: longest, echoMinRx: 50 * time.Millisecond,
		}},
		{"a final of a session that went down", "2152ff18" + "00000001" + "00000002" + "000f4240" + "00000000" + "00000000", packet{
			diag: DetectionExpired, state: Down, final: true, demand: true, multiplier: 255, my: 1, your: 2, desiredMinTx: time.Second,
		}},
		{"the end of a session", "27000318" + "00000001" + "00000002" + "000f4240" + "000f4240" + "00000000", packet{
			diag: AdministrativeDown, state: AdminDown, multiplier: 3, my: 1, your: 2, desiredMinTx: time.Second, requiredMinRx: time.Second,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			wire, err := hex.DecodeString(test.wire)
			if err != nil {
				t.Fatal(err)
			}
			var p packet
			if why := p.decode(wire); why != taken {
				t.Fatalf("dropped: %s", why)
			}
			if diff := cmp.Diff(test.packet, p, cmp.AllowUnexported(packet{})); diff != "" {
				t.Error("decoded (-want +got):\n", diff)
			}
			var b [packetLength]byte
			if p.encode(&b); hex.EncodeToString(b[:]) != test.wire {
				t.Errorf("encoded %x, want %s", b, test.wire)
			}
		})
	}
}

// The checks of RFC 5880, section 6.8.6, that need no session.
func TestPacketsDropped(t *testing.T) {
	good := packet{state: Up, multiplier: 3, my: 1, your: 2}
	for _, test := range []struct {
		name   string
		change func(b []byte) []byte
		want   reason
	}{
		{"nothing", func(b []byte) []byte { return b }, taken},
		{"payload after the packet", func(b []byte) []byte { return append(b, 1, 2, 3) }, taken},
		{"version 0", func(b []byte) []byte { b[0] &= 0x1f; return b }, dropVersion},
		{"version 2", func(b []byte) []byte { b[0] = 2 << 5; return b }, dropVersion},
		{"nothing at all", func([]byte) []byte { return nil }, dropLength},
		{"one byte is missing", func(b []byte) []byte { return b[:23] }, dropLength},
		{"a length below the least", func(b []byte) []byte { b[3] = 23; return b }, dropLength},
		{"a length below the least with authentication", func(b []byte) []byte { b[1] |= bitAuth; b[3] = 25; return append(b, 1, 1) }, dropLength},
		{"a length beyond the payload", func(b []byte) []byte { b[3] = 25; return b }, dropLength},
		{"no multiplier", func(b []byte) []byte { b[2] = 0; return b }, dropMultiplier},
		{"multipoint", func(b []byte) []byte { b[1] |= bitMultipoint; return b }, dropMultipoint},
		{"no own discriminator", func(b []byte) []byte { b[7] = 0; return b }, dropDiscriminator},
		{"Up with nobody", func(b []byte) []byte { b[11] = 0; return b }, dropState},
		{"Init with nobody", func(b []byte) []byte { b[11], b[1] = 0, byte(Init)<<6; return b }, dropState},
		{"Down with nobody", func(b []byte) []byte { b[11], b[1] = 0, byte(Down)<<6; return b }, taken},
		{"AdminDown with nobody", func(b []byte) []byte { b[11], b[1] = 0, 0; return b }, taken},
		{"authentication", func(b []byte) []byte { b[1] |= bitAuth; b[3] = 26; return append(b, 1, 2) }, dropAuth},
		{"independence of the control plane", func(b []byte) []byte { b[1] |= 1 << 3; return b }, taken},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b [packetLength]byte
			good.encode(&b)
			var p packet
			if got := p.decode(test.change(b[:])); got != test.want {
				t.Errorf("dropped for %q, want %q", got, test.want)
			}
		})
	}
}

func FuzzPacket(f *testing.F) {
	var b [packetLength]byte
	(&packet{state: Up, poll: true, multiplier: 3, my: 1, your: 2, desiredMinTx: time.Second}).encode(&b)
	f.Add(b[:])
	f.Add(append(b[:], 1, 2, 3))
	f.Fuzz(func(t *testing.T, wire []byte) {
		var p, again packet
		if p.decode(wire) != taken {
			return
		}
		var b [packetLength]byte
		p.encode(&b)
		if why := again.decode(b[:]); why != taken || p != again {
			t.Errorf("%x is %+v, and encoded and decoded %+v (%s)", wire, p, again, why)
		}
	})
}

func TestNamesOfWhatIsUnknown(t *testing.T) {
	if got := Diag(31).String(); got != "unknown diagnostic" {
		t.Error(got)
	}
	if got := Diag(8).String(); got != "reverse concatenated path down" {
		t.Error(got)
	}
}
