// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func strict(name string) Interface {
	return Interface{Name: name, Up: true, ARPIgnore: 1, ARPAnnounce: 2}
}

func with(name string, edit func(*Interface)) Interface {
	i := strict(name)
	edit(&i)
	return i
}

func TestWhatIsFoundIsSaid(t *testing.T) {
	down := func(i *Interface) { i.Up = false }
	for name, tt := range map[string]struct {
		node   Node
		kind   string
		reason string
		says   []string
	}{
		"no interface at all": {Node{}, v1alpha1.SpeakerNoInterface, reasonNoneFits, []string{"no interface resolves"}},
		"all are down": {
			Node{Interfaces: []Interface{with("eth0", down), with("eth1", down)}},
			v1alpha1.SpeakerNoInterface, reasonAllDown, []string{"bring up eth0, eth1"},
		},
		"the kernel answers on one interface": {
			Node{IPVS: true, Interfaces: []Interface{strict("eth0"), with("eth1", func(i *Interface) { i.ARPIgnore = 0 })}},
			v1alpha1.SpeakerStrictARP, reasonKernelAnswers, []string{"on eth1 the kernel answers", "strictARP: true", "net.ipv4.conf for all and eth1"},
		},
		"it asks": {
			Node{IPVS: true, Interfaces: []Interface{with("eth0", func(i *Interface) { i.ARPAnnounce = 1 })}},
			v1alpha1.SpeakerStrictARP, reasonKernelAsks, []string{"on eth0 the kernel sends", "strictARP: true", "net.ipv4.conf for all and eth0"},
		},
		"packets are dropped on two": {
			Node{Interfaces: []Interface{
				with("eth0", func(i *Interface) { i.Carries, i.Drops = true, []Clients{Neighbors, Others} }),
				with("eth1", func(i *Interface) { i.Drops = []Clients{Others} }),
				with("eth2", func(i *Interface) { i.Carries, i.Drops = true, []Clients{Others} }),
			}},
			v1alpha1.SpeakerReversePathFiltered, reasonPacketsDropped,
			[]string{"neighbors and clients of other networks on eth0, clients of other networks on eth2", "rp_filter=2 for IF in eth0, eth2"},
		},
		"the node is silent": {
			Node{Interfaces: []Interface{with("eth0", func(i *Interface) { i.ARPIgnore = 8 })}},
			v1alpha1.SpeakerARPIgnored, reasonNodeSilent, []string{"arp_ignore is 8 for eth0", "arp_ignore=1 for IF in all, eth0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			conditions := Check(tt.node)
			summary := Healthy(conditions)
			for _, c := range conditions {
				if wrong(c) != (c.Type == tt.kind) {
					t.Errorf("%+v", c)
				}
				if c.Type != tt.kind {
					continue
				}
				if c.Reason != tt.reason || summary.Reason != tt.kind || summary.Message != c.Message || !wrong(summary) {
					t.Errorf("%+v, in sum %+v", c, summary)
				}
				for _, s := range tt.says {
					if !strings.Contains(c.Message, s) {
						t.Errorf("%q doesn't say %q", c.Message, s)
					}
				}
			}
		})
	}
}

func TestAllIsWell(t *testing.T) {
	for _, n := range []Node{
		{Interfaces: []Interface{{Name: "eth0", Up: true}}},
		{Interfaces: []Interface{strict("eth0")}, IPVS: true},
		{Interfaces: []Interface{strict("eth0"), with("eth1", func(i *Interface) { i.Up = false })}},
	} {
		conditions := append(Check(n), Mesh(nil))
		if slices.ContainsFunc(conditions, wrong) || wrong(Healthy(conditions)) {
			t.Errorf("%+v: %+v", n, conditions)
		}
	}
}

func TestMesh(t *testing.T) {
	for _, tt := range []struct {
		segments []Segment
		wrong    bool
		reason   string
		says     string
	}{
		{nil, false, reasonNoPeers, ""},
		{[]Segment{{Interface: "eth0"}}, false, reasonNoPeers, ""},
		{[]Segment{{Interface: "eth0", Heard: []string{"b", "c"}}, {Interface: "eth1"}}, false, reasonPeersHeard, ""},
		{[]Segment{{Interface: "eth0", Heard: []string{"b"}, NotHeard: []string{"c"}}}, false, reasonSomeNotHeard, "status.notHeard"},
		{[]Segment{{Interface: "eth0", NotHeard: []string{"b", "c"}}}, true, reasonNobodyHeard, "heard on eth0 (from b, c):"},
		{[]Segment{{Interface: "eth0", Heard: []string{"b", "c"}}, {Interface: "eth1", NotHeard: []string{"b"}}}, true, reasonNobodyHeard, "heard on eth1 (from b):"},
		{[]Segment{{Interface: "eth0", NotHeard: []string{"a", "b", "c", "d", "e", "f", "g"}}}, true, reasonNobodyHeard, "(from a, b, c, d, e and 2 more)"},
	} {
		c := Mesh(tt.segments)
		if wrong(c) != tt.wrong || c.Reason != tt.reason || !strings.Contains(c.Message, tt.says) {
			t.Errorf("%+v: %+v", tt.segments, c)
		}
	}
}

func TestTheGravestProblemComesFirst(t *testing.T) {
	n := Node{IPVS: true, Interfaces: []Interface{{Name: "eth0"}}}
	conditions := append([]metav1.Condition{Mesh([]Segment{{Interface: "eth0", NotHeard: []string{"b"}}})}, Check(n)...)
	conditions = append(conditions, metav1.Condition{Type: "Other", Status: metav1.ConditionTrue, Message: "unknown"})
	c := Healthy(conditions)
	if c.Reason != v1alpha1.SpeakerNoInterface || strings.Count(c.Message, "; ") != 2 || strings.Contains(c.Message, "unknown") {
		t.Errorf("%+v", c)
	}
}

// A message has at most 32768 characters.
func TestMessagesAreShort(t *testing.T) {
	var n Node
	var segments []Segment
	for i := range v1alpha1.MaxSpeakerInterfaces {
		name := fmt.Sprintf("interface-%05d", i)
		n.Interfaces = append(n.Interfaces, Interface{Name: name, Carries: true, Drops: []Clients{Neighbors, Others}})
		segments = append(segments, Segment{Interface: name, NotHeard: slices.Repeat([]string{strings.Repeat("n", 253)}, 1000)})
	}
	n.IPVS = true
	if c := Healthy(append(Check(n), Mesh(segments))); len(c.Message) > 32768/2 {
		t.Errorf("%d characters", len(c.Message))
	}
}
