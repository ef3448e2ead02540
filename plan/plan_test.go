// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	v4 = netip.MustParseAddr("192.0.2.50")
	v6 = netip.MustParseAddr("2001:db8::50")

	lan  = netip.MustParsePrefix("192.0.2.1/24")
	lan6 = netip.MustParsePrefix("2001:db8::1/64")
	far  = netip.MustParsePrefix("198.51.100.1/24")
)

// node returns a node that is eligible for v4.
func node(name string, edits ...func(*Node)) Node {
	n := Node{
		Name: name, Alive: true, Ready: true, LinksKnown: true,
		Links: []Link{{Name: "eth0", Up: true, ARP: true, Prefixes: []netip.Prefix{lan, lan6}}},
	}
	for _, edit := range edits {
		edit(&n)
	}
	return n
}

func links(links ...Link) func(*Node) { return func(n *Node) { n.Links = links } }

func dead(n *Node)         { n.Alive, n.Ready = false, false }
func notReady(n *Node)     { n.Ready = false }
func draining(n *Node)     { n.Draining = true }
func excluded(n *Node)     { n.Excluded = true }
func cordoned(n *Node)     { n.Cordoned = true }
func noNetwork(n *Node)    { n.NetworkUnavailable = true }
func mute(n *Node)         { n.Mute = true }
func unknownLinks(n *Node) { n.Links, n.LinksKnown = nil, false }

// address returns v4, held by a Service with policy Cluster.
func address(edits ...func(*Address)) Address {
	a := Address{Addr: v4, Services: []Service{{Namespace: "default", Name: "web"}}}
	for _, edit := range edits {
		edit(&a)
	}
	return a
}

func claim(node string, term int64) func(*Address) {
	return func(a *Address) { a.Claim = Claim{Node: node, Term: term} }
}
func proposed(node string) func(*Address) { return func(a *Address) { a.Proposed = node } }
func unbound(a *Address)                  { a.Services = nil }

// local replaces the Services: one argument per Service, which lists its
// endpoints by node: "a" is ready, "a-" terminating but serving, "a!" neither,
// and "*" as a name is an endpoint without a node.
func local(services ...string) func(*Address) {
	return func(a *Address) {
		a.Services = nil
		for i, list := range services {
			s := Service{Namespace: "default", Name: fmt.Sprintf("local-%d", i), Local: true}
			for _, f := range strings.Fields(list) {
				e := Endpoint{Node: strings.TrimRight(f, "-!"), Ready: true, Serving: true}
				switch f[len(f)-1] {
				case '-':
					e.Ready, e.Terminating = false, true
				case '!':
					e.Ready, e.Serving = false, false
				}
				if e.Node == "*" {
					e.Node = ""
				}
				s.Endpoints = append(s.Endpoints, e)
			}
			a.Services = append(a.Services, s)
		}
	}
}

func andCluster(a *Address) {
	a.Services = append(a.Services, Service{Namespace: "default", Name: "web"})
}

func TestEligible(t *testing.T) {
	for name, tt := range map[string]struct {
		address Address
		node    Node
		reason  Reason
		message string
	}{
		"a Ready node on the subnet is eligible":              {address: address(), node: node("a")},
		"a node whose links are unknown counts as fitting":    {address: address(), node: node("a", unknownLinks)},
		"a draining node is eligible":                         {address: address(), node: node("a", draining)},
		"an excluded node is eligible":                        {address: address(), node: node("a", excluded)},
		"a cordoned node is eligible":                         {address: address(), node: node("a", cordoned)},
		"a node that is heard is eligible though not Ready":   {address: address(), node: node("a", notReady)},
		"an IPv6 address fits where links are unknown":        {address: Address{Addr: v6, Services: address().Services}, node: node("a", unknownLinks)},
		"one fitting link among others is enough":             {address: address(), node: node("a", links(Link{Name: "x", Prefixes: []netip.Prefix{lan}}, Link{Name: "y", Up: true, ARP: true, Prefixes: []netip.Prefix{far, lan}}))},
		"an unbound address has no eligible node":             {address: address(unbound), node: node("a"), reason: NotBound, message: "no Service holds 192.0.2.50; it is reserved or resting"},
		"a dead node is not eligible":                         {address: address(), node: node("a", dead), reason: NodeNotAlive, message: "there is no node a"},
		"a node without a network is not eligible":            {address: address(), node: node("a", noNetwork), reason: NetworkUnavailable, message: "node a has condition NetworkUnavailable: its pod network is not set up"},
		"a node off the subnet is not eligible":               {address: address(), node: node("a", links(Link{Name: "eth0", Up: true, ARP: true, Prefixes: []netip.Prefix{far}})), reason: NoLinkOnSubnet, message: "no interface of node a has an address on the network of 192.0.2.50"},
		"a node without links is not eligible":                {address: address(), node: node("a", links()), reason: NoLinkOnSubnet, message: "no interface of node a has an address on the network of 192.0.2.50"},
		"a node whose link is down is not eligible":           {address: address(), node: node("a", links(Link{Name: "eth0", ARP: true, Prefixes: []netip.Prefix{lan}})), reason: LinkDown, message: "interface eth0 of node a could announce 192.0.2.50, but it is down"},
		"a link without ARP can't carry IPv4":                 {address: address(), node: node("a", links(Link{Name: "tun0", Up: true, Prefixes: []netip.Prefix{lan}})), reason: FamilyNotAnswered, message: "interface tun0 of node a could announce 192.0.2.50, but ARP is off on it"},
		"a link that is down hides one without ARP":           {address: address(), node: node("a", links(Link{Name: "eth0", ARP: true, Prefixes: []netip.Prefix{lan}}, Link{Name: "tun0", Up: true, Prefixes: []netip.Prefix{lan}})), reason: LinkDown, message: "interface eth0, tun0 of node a could announce 192.0.2.50, but it is down"},
		"an IPv6 address needs IPv6 on the link":              {address: Address{Addr: v6, Services: address().Services}, node: node("a"), reason: FamilyNotAnswered, message: "interface eth0 of node a could announce 2001:db8::50, but IPv6 is off on it"},
		"Local: a node with a ready endpoint is eligible":     {address: address(local("a b")), node: node("a")},
		"Local: a node without an endpoint is not":            {address: address(local("b")), node: node("a"), reason: NoLocalEndpoint, message: "externalTrafficPolicy is Local and node a has no ready endpoint of default/local-0"},
		"Local: an endpoint that isn't ready is none":         {address: address(local("a! b")), node: node("a"), reason: NoLocalEndpoint, message: "externalTrafficPolicy is Local and node a has no ready endpoint of default/local-0"},
		"Local: a terminating one does not do beside a ready": {address: address(local("a- b")), node: node("a"), reason: NoLocalEndpoint, message: "externalTrafficPolicy is Local and node a has no ready endpoint of default/local-0"},
		"Local: terminating ones do if none is ready":         {address: address(local("a- b- c!")), node: node("a")},
		"Local: an endpoint without a node is everywhere":     {address: address(local("* b")), node: node("a")},
		"Local: a terminating one without a node waits":       {address: address(local("*- b")), node: node("a"), reason: NoLocalEndpoint, message: "externalTrafficPolicy is Local and node a has no ready endpoint of default/local-0"},
		"Local: without endpoints no node is eligible":        {address: address(local("")), node: node("a"), reason: NoEndpoints, message: "externalTrafficPolicy is Local and no endpoint of default/local-0 is ready"},
		"shared: a node that serves both is eligible":         {address: address(local("a b", "a c")), node: node("a")},
		"shared: a node that serves one of two is not":        {address: address(local("a b", "a c")), node: node("b"), reason: NoLocalEndpoint, message: "externalTrafficPolicy is Local and node b has no ready endpoint of default/local-0, default/local-1"},
		"shared: two endpoints of one Service are not two":    {address: address(local("a b", "a c c")), node: node("c"), reason: NoLocalEndpoint, message: "externalTrafficPolicy is Local and node c has no ready endpoint of default/local-0, default/local-1"},
		"shared: one Service is enough if nobody serves both": {address: address(local("b", "c")), node: node("c")},
		"shared: none is not enough if nobody serves both":    {address: address(local("b", "c")), node: node("a"), reason: NoLocalEndpoint, message: "externalTrafficPolicy is Local and node a has no ready endpoint of default/local-0, default/local-1"},
		"shared: a Service without endpoints doesn't count":   {address: address(local("a", "")), node: node("a")},
		"shared: a Cluster Service leaves the Local's rule":   {address: address(local("b"), andCluster), node: node("a"), reason: NoLocalEndpoint, message: "externalTrafficPolicy is Local and node a has no ready endpoint of default/local-0"},
		"shared: a Cluster Service alone has endpoints":       {address: address(local(""), andCluster), node: node("a")},
	} {
		t.Run(name, func(t *testing.T) {
			ok, reason, message := Eligible(tt.address, tt.node)
			if ok != (tt.reason == "") || reason != tt.reason || message != tt.message {
				t.Errorf("got %v %q %q\nwant %q %q", ok, reason, message, tt.reason, tt.message)
			}
		})
	}
}

func TestUnowned(t *testing.T) {
	off := node("off", links(Link{Name: "eth0", Up: true, ARP: true, Prefixes: []netip.Prefix{far}}))
	down := node("down", links(Link{Name: "eth0", ARP: true, Prefixes: []netip.Prefix{lan}}))
	tunnel := node("tunnel", links(Link{Name: "tun0", Up: true, Prefixes: []netip.Prefix{lan}}))
	gone, cut := node("gone", dead), node("cut", noNetwork)
	for name, tt := range map[string]struct {
		address Address
		nodes   []Node
		reason  Reason
		message string
	}{
		"a node may own it":              {address: address(), nodes: []Node{gone, off, node("a")}},
		"a node may, as far as is known": {address: address(), nodes: []Node{off, node("a", unknownLinks)}},
		"nodes that nobody told of may":  {address: address(), nodes: []Node{node("a", unknownLinks, mute), node("b", unknownLinks, mute)}},
		"but not beside others":          {address(), []Node{off, node("a", unknownLinks, mute)}, NoLinkOnSubnet, "no node has an interface on the network of 192.0.2.50"},
		"there is no node":               {address(), nil, NodeNotAlive, "there is no node"},
		"all nodes are dead":             {address(), []Node{gone, gone}, NodeNotAlive, "there is no node"},
		"no network is set up":           {address(), []Node{gone, cut}, NetworkUnavailable, "no node has its pod network set up"},
		"all are on other networks":      {address(), []Node{gone, off, cut, off}, NoLinkOnSubnet, "no node has an interface on the network of 192.0.2.50"},
		"a tunnel comes nearest":         {address(), []Node{off, tunnel}, FamilyNotAnswered, "ARP is off on every interface that could announce 192.0.2.50"},
		"an interface that is down":      {address(), []Node{down, tunnel, off}, LinkDown, "every interface that could announce 192.0.2.50 is down"},
		"Services that nobody selects":   {address(scope()), []Node{node("a"), off}, NotAdvertised, "L2Advertisements select the pool of 192.0.2.50, but none of them a Service that holds it"},
		"nodes that nobody selects":      {address(scope(ad("x", "", "z"))), []Node{node("a"), gone}, NodeNotSelected, "no node that could announce 192.0.2.50 is selected by L2Advertisement x"},
		"a selected node off the subnet": {address(scope(ad("x", "", "off"))), []Node{node("a"), off}, NoLinkOnSubnet, "no node selected by L2Advertisement x has an interface on the network of 192.0.2.50"},
		"interfaces that nobody has":     {address(scope(ad("x", "eth7", "a", "off"))), []Node{node("a"), off}, NoInterfaceSelected, "no node selected by L2Advertisement x has an interface that may announce 192.0.2.50 by L2Advertisement x"},
		"IPv6 is off":                    {Address{Addr: v6, Services: address().Services}, []Node{node("a"), gone}, FamilyNotAnswered, "IPv6 is off on every interface that could announce 2001:db8::50"},
		"Local: no endpoint is ready":    {address(local("a!")), []Node{node("a"), off}, NoEndpoints, "externalTrafficPolicy is Local and no endpoint of default/local-0 is ready"},
		"Local: endpoints elsewhere":     {address(local("off")), []Node{off, node("a")}, NoLocalEndpoint, "externalTrafficPolicy is Local and no node that could announce 192.0.2.50 has a ready endpoint of default/local-0"},
		"nobody holds it":                {address(unbound), []Node{node("a")}, NotBound, "no Service holds 192.0.2.50; it is reserved or resting"},
	} {
		t.Run(name, func(t *testing.T) {
			if reason, message := Unowned(tt.address, tt.nodes); reason != tt.reason || message != tt.message {
				t.Errorf("got %q %q\nwant %q %q", reason, message, tt.reason, tt.message)
			}
		})
	}
}

func TestOwner(t *testing.T) {
	a, b, c := node("a"), node("b"), node("c")
	for name, tt := range map[string]struct {
		address Address
		nodes   []Node
		owner   string
	}{
		"nobody owns what nobody was proposed for":          {address(), []Node{a, b}, ""},
		"the proposed node owns before the first claim":     {address(proposed("b")), []Node{a, b}, "b"},
		"the claimant keeps it against a new proposal":      {address(claim("a", 3), proposed("b")), []Node{a, b}, "a"},
		"a cordoned claimant keeps it":                      {address(claim("a", 3), proposed("b")), []Node{node("a", cordoned), b}, "a"},
		"a claimant that isn't Ready keeps it":              {address(claim("a", 3), proposed("b")), []Node{node("a", notReady), b}, "a"},
		"a draining claimant gives way to the proposed":     {address(claim("a", 3), proposed("b")), []Node{node("a", draining), b}, "b"},
		"an excluded claimant gives way to the proposed":    {address(claim("a", 3), proposed("b")), []Node{node("a", excluded), node("b", cordoned)}, "b"},
		"a draining claimant gives way to an excluded node": {address(claim("a", 3), proposed("b")), []Node{node("a", draining), node("b", excluded)}, "b"},
		"a draining claimant keeps it from another such":    {address(claim("a", 3), proposed("b")), []Node{node("a", draining), node("b", draining)}, "a"},
		"an excluded claimant keeps it from a draining":     {address(claim("a", 3), proposed("b")), []Node{node("a", excluded), node("b", draining)}, "a"},
		"a draining claimant keeps it from one not Ready":   {address(claim("a", 3), proposed("b")), []Node{node("a", draining), node("b", notReady)}, "a"},
		"a draining claimant keeps it until one is chosen":  {address(claim("a", 3), proposed("a")), []Node{node("a", draining), b}, "a"},
		"a draining claimant keeps it from one off subnet":  {address(claim("a", 3), proposed("b")), []Node{node("a", draining), node("b", links())}, "a"},
		"a dead claimant loses it to the proposed":          {address(claim("a", 3), proposed("b")), []Node{node("a", dead), b}, "b"},
		"a deleted claimant loses it to the proposed":       {address(claim("a", 3), proposed("b")), []Node{b, c}, "b"},
		"a dead claimant that is the proposed owns no more": {address(claim("a", 3), proposed("a")), []Node{node("a", dead), b}, ""},
		"a claimant whose endpoints went loses it":          {address(claim("a", 3), proposed("b"), local("b")), []Node{a, b}, "b"},
		"nobody owns it while no node is eligible":          {address(claim("a", 3), proposed("b"), local("")), []Node{a, b}, ""},
		"nobody owns an unbound address":                    {address(claim("a", 3), proposed("b"), unbound), []Node{a, b}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			owner, ok := Owner(tt.address, tt.nodes)
			if owner != tt.owner || ok != (tt.owner != "") {
				t.Errorf("got %q %v, want %q", owner, ok, tt.owner)
			}
		})
	}
}

func TestPropose(t *testing.T) {
	for name, tt := range map[string]struct {
		address Address
		nodes   []Node
		counts  map[string]int
		node    string
	}{
		"no nodes, no proposal":                            {address(), nil, nil, ""},
		"no eligible node, no proposal":                    {address(local("")), []Node{node("a")}, nil, ""},
		"the only eligible node is taken":                  {address(local("b")), []Node{node("a"), node("b")}, map[string]int{"b": 9}, "b"},
		"the node with the fewest addresses is taken":      {address(), []Node{node("a"), node("b"), node("c")}, map[string]int{"a": 2, "b": 1, "c": 2}, "b"},
		"a node without a count has none":                  {address(), []Node{node("a"), node("b")}, map[string]int{"a": 1}, "b"},
		"a cordoned node is passed over":                   {address(), []Node{node("a"), node("b", cordoned)}, map[string]int{"a": 9}, "a"},
		"a cordoned node is better than an excluded one":   {address(), []Node{node("a", excluded), node("b", cordoned)}, map[string]int{"b": 9}, "b"},
		"an excluded node is better than a draining one":   {address(), []Node{node("a", draining), node("b", excluded, cordoned)}, map[string]int{"b": 9}, "b"},
		"a draining node is better than one not Ready":     {address(), []Node{node("a", notReady), node("b", draining, excluded)}, map[string]int{"b": 9}, "b"},
		"the worst rank is better than none":               {address(), []Node{node("a", dead), node("b", notReady, draining, excluded, cordoned)}, nil, "b"},
		"the claimant is not preferred, it isn't eligible": {address(claim("a", 1)), []Node{node("a", dead), node("b")}, nil, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := Propose(tt.address, tt.nodes, tt.counts)
			if got != tt.node || ok != (tt.node != "") {
				t.Errorf("got %q %v, want %q", got, ok, tt.node)
			}
		})
	}
}

func TestCompute(t *testing.T) {
	a, b := node("a"), node("b")
	eth0 := []string{"eth0"}
	for name, tt := range map[string]struct {
		address Address
		nodes   []Node
		want    Announcement // of node a; zero for a verdict
		reason  Reason
		message string
		// expected is that of the verdict.
		expected bool
	}{
		"the proposed node announces and claims the first term": {address: address(proposed("a")), nodes: []Node{a, b}, want: Announcement{v4, eth0, 1, false}},
		"the claimant announces its term":                       {address: address(claim("a", 4), proposed("b")), nodes: []Node{a, b}, want: Announcement{v4, eth0, 4, true}},
		"the successor announces the next term":                 {address: address(claim("b", 4), proposed("a")), nodes: []Node{a, node("b", dead)}, want: Announcement{v4, eth0, 5, false}},
		"the successor of a deleted node announces":             {address: address(claim("b", 4), proposed("a")), nodes: []Node{a}, want: Announcement{v4, eth0, 5, false}},
		"a dead claimant answers until it sees a successor":     {address: address(claim("a", 4), proposed("b")), nodes: []Node{node("a", dead), b}, want: Announcement{v4, eth0, 4, true}},
		"a dead node answers no more after that":                {address: address(claim("b", 5), proposed("b")), nodes: []Node{node("a", dead), b}, reason: NodeNotAlive, message: "there is no node a"},
		"a claimant that lost its endpoints answers on":         {address: address(claim("a", 4), proposed("b"), local("b")), nodes: []Node{a, b}, want: Announcement{v4, eth0, 4, true}},
		"the claimant stays if nobody is eligible":              {address: address(claim("a", 4), proposed("a"), local("")), nodes: []Node{a, b}, want: Announcement{v4, eth0, 4, true}},
		"a claimant whose link is down has nothing to announce": {address: address(claim("a", 4)), nodes: []Node{node("a", links(Link{Name: "eth0", ARP: true, Prefixes: []netip.Prefix{lan}})), b}, reason: LinkDown, message: "interface eth0 of node a could announce 192.0.2.50, but it is down", expected: true},
		"a proposed node off the subnet is waited for in vain":  {address: address(proposed("a")), nodes: []Node{node("a", links()), b}, reason: NoLinkOnSubnet, message: "no interface of node a has an address on the network of 192.0.2.50", expected: true},
		"a proposed node is not waited for beside a claimant":   {address: address(proposed("a"), claim("b", 1)), nodes: []Node{node("a", links()), b}, reason: NoLinkOnSubnet, message: "no interface of node a has an address on the network of 192.0.2.50"},
		"a claimant stops when the address is released":         {address: address(claim("a", 4), unbound), nodes: []Node{a, b}, reason: NotBound, message: "no Service holds 192.0.2.50; it is reserved or resting"},
		"a bystander names the claimant":                        {address: address(claim("b", 4)), nodes: []Node{a, b}, reason: OwnedByOther, message: "node b announces 192.0.2.50"},
		"a bystander names the proposed":                        {address: address(proposed("b")), nodes: []Node{a, b}, reason: OwnedByOther, message: "node b is chosen for 192.0.2.50"},
		"a bystander names both in a handover":                  {address: address(proposed("b"), claim("c", 2)), nodes: []Node{a, b}, reason: OwnedByOther, message: "node b takes 192.0.2.50 over from node c"},
		"a bystander waits for a proposal":                      {address: address(claim("c", 2)), nodes: []Node{a, b}, reason: OwnedByOther, message: "node c announces 192.0.2.50"},
		"without claim and proposal nobody announces":           {address: address(), nodes: []Node{a, b}, reason: NoOwner, message: "no eligible node has been chosen for 192.0.2.50 yet"},
		"a node that is not eligible says why, not who is":      {address: address(claim("b", 4), local("b")), nodes: []Node{a, b}, reason: NoLocalEndpoint, message: "externalTrafficPolicy is Local and node a has no ready endpoint of default/local-0"},
		"a node outside the snapshot announces nothing":         {address: address(claim("a", 4)), nodes: []Node{b}, reason: NoLinkOnSubnet, message: "no interface of node a has an address on the network of 192.0.2.50", expected: true},
		"an address is announced on every link that fits": {
			address: address(proposed("a")),
			nodes: []Node{node("a", links(
				Link{Name: "eth2", Up: true, ARP: true, Prefixes: []netip.Prefix{lan}},
				Link{Name: "eth1", Up: true, ARP: true, Prefixes: []netip.Prefix{far}},
				Link{Name: "eth0", Up: true, ARP: true, Prefixes: []netip.Prefix{far, lan}},
				Link{Name: "eth3", Up: true, Prefixes: []netip.Prefix{lan}},
				Link{Name: "eth4", ARP: true, Prefixes: []netip.Prefix{lan}},
			))},
			want: Announcement{v4, []string{"eth0", "eth2"}, 1, false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := Compute(Snapshot{Addresses: []Address{tt.address}, Nodes: tt.nodes}, "a")
			want := Plan{Verdicts: []Verdict{}}
			if tt.reason == "" {
				want.Announce = []Announcement{tt.want}
			} else {
				want.Verdicts = append(want.Verdicts, Verdict{v4, "a", tt.reason, tt.message, tt.expected})
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}
