// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"
	"testing"
)

func TestPatterns(t *testing.T) {
	for name, tt := range map[string]struct {
		patterns            Patterns
		iface               string
		onSubnet, elsewhere bool
	}{
		"without patterns the network decides":         {nil, "eth0", true, false},
		"a name allows it whatever its networks":       {Patterns{"eth0"}, "eth0", true, true},
		"another name does not":                        {Patterns{"eth1"}, "eth0", false, false},
		"a part of a name does not":                    {Patterns{"eth"}, "eth0", false, false},
		"a star stands for any characters":             {Patterns{"bond*"}, "bond0.100", true, false},
		"a star stands for none, too":                  {Patterns{"eth0*"}, "eth0", true, false},
		"what is written out stands beside a star":     {Patterns{"eth*", "eth0"}, "eth0", true, true},
		"a question mark stands for one":               {Patterns{"eth?"}, "eth10", false, false},
		"one of several is enough":                     {Patterns{"eth1", "eth0"}, "eth0", true, true},
		"an exclusion wins, whatever the order":        {Patterns{"!eth0", "eth*"}, "eth0", false, false},
		"an exclusion of another leaves it":            {Patterns{"eth*", "!eth1"}, "eth0", true, false},
		"exclusions alone leave the network to decide": {Patterns{"!docker*", "!eth1"}, "eth0", true, false},
		"and exclude":                        {Patterns{"!docker*", "!eth?"}, "eth0", false, false},
		"what can't be read matches nothing": {Patterns{"eth["}, "eth[", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.patterns.Allow(tt.iface, true); got != tt.onSubnet {
				t.Errorf("on the network: %v", got)
			}
			if got := tt.patterns.Allow(tt.iface, false); got != tt.elsewhere {
				t.Errorf("elsewhere: %v", got)
			}
			if got := tt.patterns.Names(tt.iface); got != tt.elsewhere {
				t.Errorf("named: %v", got)
			}
		})
	}
}

// ad selects nodes, with a weight of 0.
func ad(name, interfaces string, nodes ...string) Advertisement {
	a := Advertisement{Name: name, Nodes: map[string]int{}}
	if interfaces != "" {
		a.Interfaces = Patterns{interfaces}
	}
	for _, n := range nodes {
		a.Nodes[n] = 0
	}
	return a
}

func scope(ads ...Advertisement) func(*Address) {
	return func(a *Address) { a.Scope = NewScope(ads...) }
}

var (
	onLAN   = Link{Name: "eth0", Up: true, ARP: true, NDP: true, Prefixes: []netip.Prefix{lan, lan6}}
	second  = Link{Name: "eth1", Up: true, ARP: true, NDP: true, Prefixes: []netip.Prefix{lan}}
	offLAN  = Link{Name: "eth2", Up: true, ARP: true, NDP: true, Prefixes: []netip.Prefix{far}}
	offDown = Link{Name: "eth3", ARP: true, NDP: true}
)

func TestAdvertisementsSayWhere(t *testing.T) {
	all := links(onLAN, second, offLAN, offDown)
	for name, tt := range map[string]struct {
		address    Address
		interfaces []string
		reason     Reason
		message    string
	}{
		"without one, on its network":                            {address: address(), interfaces: []string{"eth0", "eth1"}},
		"one that says nothing restricts nothing":                {address: address(scope(ad("x", "", "a"))), interfaces: []string{"eth0", "eth1"}},
		"one that names an interface":                            {address: address(scope(ad("x", "eth1", "a"))), interfaces: []string{"eth1"}},
		"one that names an interface on another network":         {address: address(scope(ad("x", "eth2", "a"))), interfaces: []string{"eth2"}},
		"one that matches interfaces means those on its network": {address: address(scope(ad("x", "eth*", "a"))), interfaces: []string{"eth0", "eth1"}},
		"one that matches interfaces on other networks only": {
			address: address(scope(ad("x", "eth[23]", "a"))),
			reason:  NoInterfaceSelected, message: "no interface of node a may announce 192.0.2.50 by L2Advertisement x",
		},
		"one that excludes an interface":                  {address: address(scope(ad("x", "!eth0", "a"))), interfaces: []string{"eth1"}},
		"two are a union of interfaces":                   {address: address(scope(ad("x", "eth1", "a"), ad("y", "eth2", "a"))), interfaces: []string{"eth1", "eth2"}},
		"two, one of which says nothing, are a union too": {address: address(scope(ad("x", "", "a"), ad("y", "eth2", "a"))), interfaces: []string{"eth0", "eth1", "eth2"}},
		"an exclusion is that of one alone":               {address: address(scope(ad("x", "!eth0", "a"), ad("y", "eth0", "a"))), interfaces: []string{"eth0", "eth1"}},
		"one for another node doesn't count":              {address: address(scope(ad("x", "eth1", "a"), ad("y", "eth2", "b"))), interfaces: []string{"eth1"}},
		"none for the node": {
			address: address(scope(ad("y", "", "b"), ad("x", "", "c"))),
			reason:  NodeNotSelected, message: "node a is not selected by L2Advertisements x, y",
		},
		"none for its Services": {
			address: address(scope()),
			reason:  NotAdvertised, message: "L2Advertisements select the pool of 192.0.2.50, but none of them a Service that holds it",
		},
		"no such interface": {
			address: address(scope(ad("x", "eth9", "a"))),
			reason:  NoInterfaceSelected, message: "no interface of node a may announce 192.0.2.50 by L2Advertisement x",
		},
		"the interfaces on its network are excluded": {
			address: address(scope(ad("x", "!eth*", "a"))),
			reason:  NoInterfaceSelected, message: "no interface of node a may announce 192.0.2.50 by L2Advertisement x",
		},
		"the interface that is named is down": {
			address: address(scope(ad("x", "eth3", "a"))),
			reason:  LinkDown, message: "interface eth3 of node a could announce 192.0.2.50, but it is down",
		},
		"IPv6 too": {address: Address{Addr: v6, Services: address().Services, Scope: NewScope(ad("x", "eth*", "a"), ad("y", "eth2", "a"))}, interfaces: []string{"eth0", "eth2"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := node("a", all)
			ok, reason, message := Eligible(tt.address, n)
			if ok != (tt.reason == "") || reason != tt.reason || message != tt.message {
				t.Errorf("got %v %q %q", ok, reason, message)
			}
			if got := Interfaces(&tt.address, &n); !slices.Equal(got, tt.interfaces) {
				t.Errorf("interfaces %v, want %v", got, tt.interfaces)
			}
		})
	}
}

// Who announces goes on until there is a successor, as far as that goes.
func TestAnEditDoesNotSilenceTheClaimant(t *testing.T) {
	for name, tt := range map[string]struct {
		address    Address
		links      []Link
		interfaces []string
	}{
		"its node is no longer selected":              {address(claim("a", 1), scope(ad("x", "", "b"))), []Link{onLAN}, []string{"eth0"}},
		"nor is any Service":                          {address(claim("a", 1), scope()), []Link{onLAN, offLAN}, []string{"eth0"}},
		"its interface is no longer named":            {address(claim("a", 1), scope(ad("x", "eth7", "a"))), []Link{onLAN}, []string{"eth0"}},
		"another of its interfaces is named":          {address(claim("a", 1), scope(ad("x", "eth1", "a"))), []Link{onLAN, second}, []string{"eth1"}},
		"another is named, which is down":             {address(claim("a", 1), scope(ad("x", "eth3", "a"))), []Link{onLAN, offDown}, nil},
		"one that claims nothing has nothing to keep": {address(claim("b", 1), scope(ad("x", "", "b"))), []Link{onLAN}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := node("a", links(tt.links...))
			if got := Interfaces(&tt.address, &n); !slices.Equal(got, tt.interfaces) {
				t.Errorf("interfaces %v, want %v", got, tt.interfaces)
			}
			announced := Compute(Snapshot{Addresses: []Address{tt.address}, Nodes: []Node{n}}, "a").Announce
			if len(announced) != min(len(tt.interfaces), 1) {
				t.Errorf("announced %v", announced)
			}
		})
	}
}

func TestSuccessors(t *testing.T) {
	prefer := func(weights map[string]int) func(*Address) {
		return scope(Advertisement{Name: "x", Nodes: weights})
	}
	for name, tt := range map[string]struct {
		address Address
		nodes   []Node
		want    []string
	}{
		"ranks come in order": {
			address(), []Node{node("mute", func(n *Node) { n.Mute = true }), node("notready", notReady), node("draining", draining), node("excluded", excluded), node("cordoned", cordoned), node("fine")},
			[]string{"fine", "cordoned", "excluded", "draining", "notready", "mute"},
		},
		"the worst rank of a node counts":       {address(), []Node{node("a", notReady), node("b", draining, excluded, cordoned)}, []string{"b", "a"}},
		"the greater weight goes first":         {address(prefer(map[string]int{"a": 1, "b": 50, "c": 7})), []Node{node("a"), node("b"), node("c")}, []string{"b", "c", "a"}},
		"a rank outweighs any weight":           {address(prefer(map[string]int{"a": 100, "b": 0})), []Node{node("a", excluded), node("b")}, []string{"b", "a"}},
		"weights add up":                        {address(scope(Advertisement{Name: "x", Nodes: map[string]int{"a": 30, "b": 50}}, Advertisement{Name: "y", Nodes: map[string]int{"a": 30, "c": 55}})), []Node{node("a"), node("b"), node("c")}, []string{"a", "c", "b"}},
		"who is not eligible is not among them": {address(local("a b")), []Node{node("a"), node("b", noNetwork), node("c"), node("d", links(offLAN))}, []string{"a"}},
		"nor who is not selected":               {address(scope(ad("x", "", "b"))), []Node{node("a"), node("b")}, []string{"b"}},
		"a claim makes no difference":           {address(claim("a", 3), scope(Advertisement{Nodes: map[string]int{"a": 1, "b": 2}})), []Node{node("a"), node("b")}, []string{"b", "a"}},
		"there is none":                         {address(), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Successors(tt.address, tt.nodes); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPlace(t *testing.T) {
	weights := scope(Advertisement{Name: "x", Nodes: map[string]int{"a": 0, "b": 90}})
	for name, tt := range map[string]struct {
		address  Address
		nodes    []Node
		counts   map[string]int
		node     string
		unforced bool
	}{
		"an address that is new gets a node":                         {address: address(), nodes: []Node{node("a")}, node: "a"},
		"it waits if no node will do":                                {address: address(), nodes: []Node{node("a", noNetwork)}},
		"what is proposed stands":                                    {address: address(proposed("a")), nodes: []Node{node("a"), node("b")}, counts: map[string]int{"a": 9}},
		"and stands against a preference":                            {address: address(proposed("a"), weights), nodes: []Node{node("a"), node("b")}},
		"and against a cordon":                                       {address: address(proposed("a")), nodes: []Node{node("a", cordoned), node("b")}},
		"until it is used, it gives way to a node that ranks better": {address: address(proposed("a")), nodes: []Node{node("a", notReady), node("b")}, node: "b", unforced: true},
		"a proposed node that lost its link is replaced":             {address: address(proposed("a")), nodes: []Node{node("a", links()), node("b")}, node: "b", unforced: true},
		"a proposed node that is gone is replaced":                   {address: address(proposed("a")), nodes: []Node{node("b")}, node: "b"},
		"the claimant stays":                                         {address: address(claim("a", 3)), nodes: []Node{node("a"), node("b")}},
		"the claimant stays against a preference":                    {address: address(claim("a", 3), weights), nodes: []Node{node("a"), node("b")}},
		"a claimant that isn't Ready stays":                          {address: address(claim("a", 3)), nodes: []Node{node("a", notReady, cordoned), node("b")}},
		"a rescue is not undone":                                     {address: address(claim("b", 4), proposed("a")), nodes: []Node{node("a"), node("b")}},
		"nor by the proposal of a node that ranks better":            {address: address(claim("b", 4), proposed("a")), nodes: []Node{node("a"), node("b", notReady)}},
		"a draining claimant is followed":                            {address: address(claim("a", 3), proposed("a")), nodes: []Node{node("a", draining), node("b")}, node: "b"},
		"an excluded claimant is followed":                           {address: address(claim("a", 3), proposed("a")), nodes: []Node{node("a", excluded), node("b")}, node: "b"},
		"once is enough":                                             {address: address(claim("a", 3), proposed("b")), nodes: []Node{node("a", draining), node("b"), node("c")}, counts: map[string]int{"b": 5}},
		"not if the follower drains, too":                            {address: address(claim("a", 3), proposed("b")), nodes: []Node{node("a", draining), node("b", draining), node("c")}, node: "c"},
		"a draining claimant stays if all drain":                     {address: address(claim("a", 3), proposed("a")), nodes: []Node{node("a", draining), node("b", draining)}},
		"a draining claimant stays before one not Ready":             {address: address(claim("a", 3), proposed("a")), nodes: []Node{node("a", draining), node("b", notReady)}},
		"the last claimant stays":                                    {address: address(claim("a", 3), proposed("a")), nodes: []Node{node("a", draining)}},
		"a claimant without endpoints is followed":                   {address: address(claim("a", 3), proposed("a"), local("b")), nodes: []Node{node("a"), node("b")}, node: "b", unforced: true},
		"a claimant without endpoints stays if nobody has any":       {address: address(claim("a", 3), proposed("a"), local("")), nodes: []Node{node("a"), node("b")}},
		"a claimant that is no longer selected is followed":          {address: address(claim("a", 3), proposed("a"), scope(ad("x", "", "b"))), nodes: []Node{node("a"), node("b")}, node: "b"},
		"a claimant that is gone is followed":                        {address: address(claim("a", 3), proposed("a")), nodes: []Node{node("b")}, node: "b"},
		"who follows is the one with the fewest":                     {address: address(claim("a", 3), proposed("a")), nodes: []Node{node("a", draining), node("b"), node("c")}, counts: map[string]int{"b": 2, "c": 1}, node: "c"},
		"a node that nobody has told of comes last":                  {address: address(), nodes: []Node{node("a", func(n *Node) { n.Mute = true }), node("b", notReady)}, node: "b"},
		"nobody holds it":                                            {address: address(unbound), nodes: []Node{node("a")}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := Place(tt.address, tt.nodes, tt.counts)
			if want := (Proposal{tt.node, tt.unforced}); got != want && ok || ok != (tt.node != "") {
				t.Errorf("got %+v %v, want %+v", got, ok, want)
			}
		})
	}
}
