// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// floodVariable makes the test program a sender of junk, so that what sending
// costs is not taken for what receiving costs.
const floodVariable = "FAIRLEAD_L2_FLOOD"

func TestMain(m *testing.M) {
	if index, err := strconv.Atoi(os.Getenv(floodVariable)); err == nil {
		flood(index)
	}
	os.Exit(m.Run())
}

const floodRate = 50_000

// flood sends floodRate frames per second of every kind that is not to be
// answered until its standard input ends.
func flood(index int) {
	fd := must(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		panic(err)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	frames := junk()
	const most = floodRate / 50 // at once, after it had no turn
	for sent, last := 0, time.Now(); ; time.Sleep(time.Millisecond) {
		due := min(most, int(time.Since(last).Seconds()*floodRate))
		last = time.Now()
		for range due {
			if _, err := unix.Write(fd, frames[sent%len(frames)]); err != nil {
				panic(err)
			}
			sent++
		}
	}
}

func junk() (frames [][]byte) {
	for i := range 64 {
		frames = append(frames,
			askFor(nthAddr(i)), gratuitous(0, otherMAC, nthAddr(i)), gratuitous(1, otherMAC, nthAddr(i)), ask(put(offHWLen, 8)),
			solicitFor(nthAddr6(i)), solicit(put(offHopLimit, 64)), withOptions(250, 0, 0, 0, 0, 0, 0, 0), advertise(allNodes, true, nil))
	}
	return frames
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A flood costs a small part of one core, and who asks meanwhile is answered.
func TestAFloodCostsLittle(t *testing.T) {
	c := newCable(t)
	r, _, reg := c.responder(t)
	set(t, r, []link.Link{c.link}, as("node", selfMAC, append(manyAddrs6(0x10000 + 1000)[0x10000:], vip, vip6)...))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", floodVariable, c.asker.index))
	cmd.Stderr = os.Stderr
	stdin := must(cmd.StdinPipe())
	var err error
	c.asker.within(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	received := func() float64 {
		return counts(t, reg, IPv4)["received_total"] + counts(t, reg, IPv6)["received_total"]
	}
	until(t, "the flood has begun", func() bool { return received() > floodRate/10 })
	n, cpu, start := received(), cpuTime(), time.Now()
	time.Sleep(3 * time.Second)
	elapsed, used := time.Since(start), cpuTime()-cpu
	n = received() - n
	for _, f := range []Family{IPv4, IPv6} {
		got := counts(t, reg, f)
		t.Logf("%v: %v", f, got)
		if got["replies_sent_total"] > 0 || got["malformed_total"] < got["received_total"]/5 || got["requests_received_total"] > got["received_total"]/2 {
			t.Errorf("%v: %v", f, got)
		}
	}
	for f, frame := range map[Family][]byte{IPv4: ask(), IPv6: solicit()} {
		until(t, "a request among the flood is answered", func() bool {
			c.send(t, f, frame)
			time.Sleep(10 * time.Millisecond)
			return counts(t, reg, f)["replies_sent_total"] > 0
		})
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	share := used.Seconds() / elapsed.Seconds()
	t.Logf("%.0f frames/s cost %.1f%% of a core", n/elapsed.Seconds(), 100*share)
	// A third of this without the race detector, on a machine that does nothing else.
	if share > 0.4 {
		t.Errorf("a flood of %d frames/s costs %.1f%% of a core", floodRate, 100*share)
	}
}

// Every neighbour may ask for everything at once, as after a power cut.
func TestABurstIsAnswered(t *testing.T) {
	const n = 10_000
	for f, frames := range map[Family]func(int) []byte{
		IPv4: func(i int) []byte { return askFor(nthAddr(i)) },
		IPv6: func(i int) []byte { return solicitFor(nthAddr6(i)) },
	} {
		t.Run(f.String(), func(t *testing.T) {
			c := newCable(t)
			r, _, reg := c.responder(t)
			addrs, burst := manyAddrs(n), make([][]byte, n)
			if f == IPv6 {
				addrs = manyAddrs6(n)
			}
			for i := range burst {
				burst[i] = frames(i)
			}
			set(t, r, []link.Link{c.link}, as("node", selfMAC, addrs...))
			raw := must(c.askers[f].SyscallConn())
			start := time.Now()
			if err := raw.Write(func(fd uintptr) bool {
				for _, b := range burst {
					if _, err := unix.Write(int(fd), b); err != nil {
						t.Error(err)
					}
				}
				return true
			}); err != nil {
				t.Fatal(err)
			}
			sent := time.Since(start)
			// On a slow machine the last are older than what is answered.
			until(t, "all are handled", func() bool {
				got := counts(t, reg, f)
				return got["replies_sent_total"]+got["requests_too_late_total"] == n
			})
			got := counts(t, reg, f)
			t.Logf("%d requests in %v, %v answered after %v", n, sent, got["replies_sent_total"], time.Since(start))
			if got["dropped_total"] != 0 || got["send_errors_total"] != 0 || got["replies_sent_total"] < n/10 {
				t.Error(got)
			}
		})
	}
}

// A reader that is held up loses nothing of a burst.
func TestARingHoldsABurst(t *testing.T) {
	c := newCable(t)
	conn, err := c.Listen(c.link, IPv4)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const more = 500
	for i := range ringSlots + more {
		c.send(t, IPv4, askFor(nthAddr(i)))
	}
	b := make([]byte, maxReceived)
	for i := range ringSlots {
		n, _, err := conn.Receive(b)
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := parse(IPv4, b[:n], selfMAC); !ok || m.target != nthAddr(i) {
			t.Fatalf("frame %d asks for %v", i, m.target)
		}
	}
	c.send(t, IPv4, ask())
	if _, _, err := conn.Receive(b); err != nil {
		t.Fatal(err)
	}
	if n := conn.Dropped(); n != more {
		t.Errorf("%d were dropped, want %d", n, more)
	}
}

// What a node may cost that owns all addresses.
func TestTenThousandAddresses(t *testing.T) {
	c := newCable(t)
	desired := on("node", append(manyAddrs(10_000), manyAddrs6(0x10000 + 5000)[0x10000:]...)...)
	runtime.GC()
	before := resident(t)
	r, _, _ := c.responder(t)
	start := time.Now()
	set(t, r, []link.Link{c.link}, desired)
	answering := time.Since(start)
	until(t, "all groups are joined", func() bool { return strings.Count(c.groups(t), "ff0200000000000000000001ff01") == 5000 })
	ready := time.Since(start)
	runtime.GC()
	t.Logf("15,000 addresses: answered after %v, in all groups after %v, %d MiB more resident", answering, ready, (resident(t)-before)>>20)
	if answering > 2*time.Second {
		t.Errorf("answered after %v", answering)
	}
	if more := resident(t) - before; more > 40<<20 {
		t.Errorf("%d MiB more resident", more>>20)
	}
	changed := maps.Clone(desired)
	delete(changed, nthAddr(7))
	start = time.Now()
	set(t, r, []link.Link{c.link}, changed)
	t.Logf("a Set of one change took %v", time.Since(start))
}

func resident(t *testing.T) int {
	t.Helper()
	var size, pages int
	if _, err := fmt.Sscan(string(must(os.ReadFile("/proc/self/statm"))), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func benchmarkHandle(b *testing.B, f Family, frame func(i int) []byte) {
	w, _ := aWire(f, func(Sighting) {}, append(manyAddrs(10_000), manyAddrs6(10_000)...)...)
	var frames [1024][]byte
	for i := range frames {
		frames[i] = frame(i)
	}
	out := make([]byte, 0, maxSent)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.handle(frames[i%len(frames)], time.Now(), out)
	}
}

func BenchmarkAnswerARP(b *testing.B) {
	benchmarkHandle(b, IPv4, func(i int) []byte { return askFor(nthAddr(i * 9)) })
}

func BenchmarkIgnoreARP(b *testing.B) {
	benchmarkHandle(b, IPv4, func(i int) []byte { return askFor(nthAddr(10_000 + i)) })
}

func BenchmarkAnswerNDP(b *testing.B) {
	benchmarkHandle(b, IPv6, func(i int) []byte { return solicitFor(nthAddr6(i * 9)) })
}

func BenchmarkIgnoreNDP(b *testing.B) {
	benchmarkHandle(b, IPv6, func(i int) []byte { return solicitFor(nthAddr6(10_000 + i)) })
}

// BenchmarkSetOneOf10000 changes one address among many.
func BenchmarkSetOneOf10000(b *testing.B) {
	lan := &fakeLAN{start: time.Now(), room: 1000, sockets: map[Place]*fakeSocket{}}
	r := New(logr.Discard(), prometheus.NewRegistry(), lan, lan.sighted)
	defer r.Close()
	states := [2]map[netip.Addr]Want{as("eth0", otherMAC, manyAddrs(10_000)...), as("eth0", otherMAC, manyAddrs(10_001)...)}
	r.Set(all, states[0])
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Set(all, states[i%2])
	}
}

// BenchmarkUpdateOneOf10000 does the same without comparing the others.
func BenchmarkUpdateOneOf10000(b *testing.B) {
	lan := &fakeLAN{start: time.Now(), room: 1000, sockets: map[Place]*fakeSocket{}}
	r := New(logr.Discard(), prometheus.NewRegistry(), lan, lan.sighted)
	defer r.Close()
	r.Set(all, as("eth0", otherMAC, manyAddrs(10_000)...))
	states := [2]map[netip.Addr]Want{as("eth0", otherMAC, nthAddr(7)), as("eth1", otherMAC, nthAddr(7))}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Update(states[i%2])
	}
}
