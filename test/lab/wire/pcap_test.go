// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFramesComeOutOfAPcapFileAsTheyWentIn(t *testing.T) {
	want := []Frame{
		{At: time.Unix(1000, 123456789), Data: []byte("first frame")},
		{At: time.Unix(1001, 0), Data: bytes.Repeat([]byte{7}, 1500)},
	}
	var file bytes.Buffer
	if err := WritePcap(&file, want); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	var got []Frame
	if err := ReadPcap(bytes.NewReader(whole), func(f Frame) { got = append(got, Frame{f.At, slices.Clone(f.Data)}) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	huge := slices.Clone(whole)
	huge[pcapFileHeader+11] = 0xff
	for name, broken := range map[string][]byte{
		"an empty file": nil, "another format": make([]byte, 100), "cut short": whole[:len(whole)-1], "a frame too long": huge,
	} {
		if err := ReadPcap(bytes.NewReader(broken), func(Frame) {}); err == nil || !strings.Contains(err.Error(), "pcap") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestARecordingHasQuestionsAndAnswers(t *testing.T) {
	a, _ := pair(t)
	path := filepath.Join(t.TempDir(), "a.pcap")
	r, err := StartRecording(a, "eth0", path)
	if err != nil {
		t.Fatal(err)
	}
	targets := []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fd00::2")}
	for _, target := range targets {
		if _, err := Ask(t.Context(), a, "eth0", target, 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	asked, answered := map[netip.Addr]int{}, map[netip.Addr]int{}
	if err := ReadPcap(file, func(f Frame) {
		if m, ok := ParseResolution(f); ok && m.Answer {
			answered[m.Addr]++
		} else if ok {
			asked[m.Addr]++
		}
	}); err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if asked[target] != 1 || answered[target] != 1 {
			t.Errorf("%s was asked for %d times and answered %d times", target, asked[target], answered[target])
		}
	}
}
