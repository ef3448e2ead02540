// SPDX-License-Identifier: Apache-2.0

package check

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

const every = 100 * time.Millisecond

var (
	begin = time.Unix(1000, 0)
	vip   = netip.MustParseAddr("192.0.2.1")
	macs  = map[string]wire.MAC{"a": {1}, "b": {2}, "c": {3}}
)

// scene is a capture in one picture: a letter per 100 ms for each asker says which nodes answered, '-' that none did, 'x'
// that a and b did; changes are at letters.
type scene struct {
	changes map[int]Change
	seen    map[string]string
}

func (s scene) check() Report {
	schedule := Schedule{Nodes: macs, Askers: map[string]wire.MAC{}, Addrs: []netip.Addr{vip}, Every: every}
	exchange := Exchange{}
	length := 0
	for asker, pattern := range s.seen {
		schedule.Askers[asker] = wire.MAC{9}
		for i, r := range pattern {
			at := begin.Add(time.Duration(i) * every)
			exchange[asker] = append(exchange[asker], wire.Resolution{At: at, Addr: vip})
			who := string(r)
			switch r {
			case '-':
				who = ""
			case 'x':
				who = "ab"
			}
			for _, name := range who {
				mac := macs[string(name)]
				exchange[asker] = append(exchange[asker], wire.Resolution{At: at, Answer: true, Addr: vip, MAC: mac, From: mac})
			}
		}
		length = len(pattern)
	}
	if _, ok := s.changes[0]; !ok {
		schedule.Changes = append(schedule.Changes, Change{At: begin, What: "begin"})
	}
	for i := range length {
		if c, ok := s.changes[i]; ok {
			c.At = begin.Add(time.Duration(i) * every)
			schedule.Changes = append(schedule.Changes, c)
		}
	}
	schedule.End = begin.Add(time.Duration(length) * every)
	return Check(schedule, exchange)
}

func cut(node string) Change {
	return Change{What: "cut " + node, Losses: []Loss{{From: node}, {To: node}}}
}

func first(list []Finding) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return list[0].For
}

func TestTimesAreFoundInHandMadeCaptures(t *testing.T) {
	const ms = time.Millisecond
	apart := Change{What: "a and b part", Losses: []Loss{{From: "a", To: "b"}, {From: "b", To: "a"}}}
	// a and p on one side, b, c and q on the other.
	var split Change
	split.What = "split"
	for _, x := range []string{"a", "p"} {
		for _, y := range []string{"b", "c", "q"} {
			split.Losses = append(split.Losses, Loss{x, y}, Loss{y, x})
		}
	}
	for _, tt := range []struct {
		name                 string
		scene                scene
		together, unanswered time.Duration
	}{
		{"one answers", scene{nil, map[string]string{"p": "aaaaaaaa"}}, 0, 100 * ms},
		{"a gap without a change", scene{nil, map[string]string{"p": "aaa---aaa"}}, 0, 400 * ms},
		{"nobody ever answers", scene{nil, map[string]string{"p": "-----"}}, 0, 500 * ms},
		{"the clock starts with the change", scene{map[int]Change{5: cut("a")}, map[string]string{"p": "aaa-----bbb"}}, 0, 300 * ms},
		{"an answer of a node that is cut off is none", scene{map[int]Change{2: cut("a")}, map[string]string{"p": "aaaaabbb"}}, 0, 300 * ms},
		{"who is cut off from all need not be answered", scene{map[int]Change{2: cut("p")}, map[string]string{"p": "aa----------"}}, 0, 100 * ms},
		{"nor who is left with paused speakers", scene{map[int]Change{2: {What: "all paused", Paused: []string{"a", "b", "c"}}}, map[string]string{"p": "aa----------"}}, 0, 100 * ms},
		{"but who is left with one that is not", scene{map[int]Change{2: {What: "paused", Paused: []string{"a", "b"}}}, map[string]string{"p": "aa------cc"}}, 0, 600 * ms},
		{"a mute node answers in vain", scene{map[int]Change{2: {What: "mute a", Losses: []Loss{{From: "a"}}}}, map[string]string{"p": "aa----bb"}}, 0, 400 * ms},
		{"a deaf node is not there either", scene{map[int]Change{2: {What: "deaf a", Losses: []Loss{{To: "a"}}}}, map[string]string{"p": "aa----bb"}}, 0, 400 * ms},
		{"two answer", scene{nil, map[string]string{"p": "aaxxxxbb"}}, 300 * ms, 100 * ms},
		{"two take turns", scene{nil, map[string]string{"p": "aababbb"}}, 100 * ms, 100 * ms},
		{"two answer that no longer hear each other, but others hear both", scene{map[int]Change{2: apart}, map[string]string{"p": "aaxxxxbb"}}, 300 * ms, 100 * ms},
		{"two answer each its own side", scene{map[int]Change{2: split}, map[string]string{"p": "aaaaaaaa", "q": "aabbbbbb"}}, 0, 100 * ms},
		{"after the heal the clock starts", scene{map[int]Change{2: split, 6: {What: "heal"}}, map[string]string{"p": "aaaaaaxxxa", "q": "aabbbbxxxa"}}, 200 * ms, 100 * ms},
		{"a change elsewhere does not stop it", scene{map[int]Change{4: cut("c")}, map[string]string{"p": "aaxxxxbb"}}, 300 * ms, 100 * ms},
		{"what one asker sees counts", scene{nil, map[string]string{"p": "aaaaaaaa", "q": "aaxxxaaa"}}, 200 * ms, 100 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.scene.check()
			if got := first(r.Together); got != tt.together {
				t.Errorf("two answered for %s, want %s: %v", got, tt.together, r.Together)
			}
			if got := first(r.Unanswered); got != tt.unanswered {
				t.Errorf("none answered for %s, want %s: %v", got, tt.unanswered, r.Unanswered)
			}
		})
	}
}

func TestStrangersRelaysAndExchangesAreCounted(t *testing.T) {
	answer := func(mac, from wire.MAC) wire.Resolution {
		return wire.Resolution{At: begin, Answer: true, Addr: vip, MAC: mac, From: from}
	}
	r := Check(Schedule{
		Nodes: macs, Askers: map[string]wire.MAC{"p": {9}}, Addrs: []netip.Addr{vip}, Every: every,
		Changes: []Change{{At: begin}}, End: begin.Add(time.Second),
	}, Exchange{"p": {{At: begin, Addr: vip}, answer(macs["a"], macs["a"]), answer(macs["a"], macs["b"]), answer(wire.MAC{7}, wire.MAC{7})}})
	if r.Questions != 1 || r.Answers != 3 || r.Relayed != 1 || r.Strangers != 1 {
		t.Errorf("%+v", r)
	}
}

func TestOnlyTheWorstAreKeptLongestFirstAndOneForEachChange(t *testing.T) {
	var list []Finding
	note := func(length int, change, from int64) {
		list = keep(list, Finding{For: time.Duration(length), From: time.Unix(from, 0), Change: Change{At: time.Unix(change, 0)}})
	}
	for i, length := range []int{3, 9, 1, 7, 5, 8, 2} {
		note(length, int64(i), int64(10+i))
	}
	note(6, 1, 99)   // not as long as what is known of that change
	note(0, 50, 99)  // nothing
	note(10, 51, 11) // the 9 went on over a change
	var got []int
	for _, f := range list {
		got = append(got, int(f.For))
	}
	if want := []int{10, 8, 7, 5, 3}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}
