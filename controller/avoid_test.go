// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// nodeAt is a Node with these addresses.
func nodeAt(name string, addresses ...string) *corev1.Node {
	n := testNode(name)
	for i, a := range addresses {
		kind := corev1.NodeInternalIP
		if i%2 == 1 {
			kind = corev1.NodeExternalIP
		}
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: a})
	}
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
	return n
}

// speakerOf is a Speaker with an interface for each argument: its addresses and,
// with "via" before them, its gateways.
func speakerOf(node string, interfaces ...string) *v1alpha1.Speaker {
	s := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: node}}
	for i, text := range interfaces {
		link := v1alpha1.Interface{Name: fmt.Sprint("eth", i), MAC: "02:00:00:00:00:01", Up: true}
		addresses, gateways, _ := strings.Cut(text, "via")
		for a := range strings.FieldsSeq(addresses) {
			link.Addresses = append(link.Addresses, v1alpha1.InterfaceAddress(a))
		}
		for gw := range strings.FieldsSeq(gateways) {
			link.Gateways = append(link.Gateways, v1alpha1.Gateway(gw))
		}
		s.Status.Interfaces = append(s.Status.Interfaces, link)
	}
	return s
}

func TestAvoid(t *testing.T) {
	for name, tt := range map[string]struct {
		nodes    []*corev1.Node
		speakers []*v1alpha1.Speaker
		own      string // addresses and their nodes
		others   string
	}{
		"nothing is known": {},
		"a Node's addresses of every kind": {
			nodes: []*corev1.Node{nodeAt("n1", "192.0.2.11", "198.51.100.11", "2001:db8::11")},
			own:   "192.0.2.11=n1 198.51.100.11=n1 2001:db8::11=n1",
		},
		"a subnet has a network and a broadcast address": {
			nodes: []*corev1.Node{nodeAt("n1")}, speakers: []*v1alpha1.Speaker{speakerOf("n1", "192.0.2.75/26 via 192.0.2.65")},
			own: "192.0.2.75=n1", others: "192.0.2.64 192.0.2.65 192.0.2.127",
		},
		"an IPv6 subnet has an anycast address": {
			nodes: []*corev1.Node{nodeAt("n1")}, speakers: []*v1alpha1.Speaker{speakerOf("n1", "2001:db8::11/64 via fe80::1 2001:db8::1")},
			own: "2001:db8::11=n1", others: "2001:db8:: 2001:db8::1 fe80::1",
		},
		"the smallest subnets have no such addresses": {
			nodes:    []*corev1.Node{nodeAt("n1")},
			speakers: []*v1alpha1.Speaker{speakerOf("n1", "192.0.2.1/31 192.0.2.9/32", "2001:db8::1/127 2001:db8::9/128")},
			own:      "192.0.2.1=n1 192.0.2.9=n1 2001:db8::1=n1 2001:db8::9=n1",
		},
		"the next have": {
			nodes: []*corev1.Node{nodeAt("n1")}, speakers: []*v1alpha1.Speaker{speakerOf("n1", "192.0.2.1/30 2001:db8::1/126")},
			own: "192.0.2.1=n1 2001:db8::1=n1", others: "192.0.2.0 192.0.2.3 2001:db8::",
		},
		"everything is no subnet": {
			nodes: []*corev1.Node{nodeAt("n1")}, speakers: []*v1alpha1.Speaker{speakerOf("n1", "192.0.2.1/0 2001:db8::1/0")},
			own: "192.0.2.1=n1 2001:db8::1=n1",
		},
		"what several nodes tell counts once": {
			nodes: []*corev1.Node{nodeAt("n2", "192.0.2.12"), nodeAt("n1", "192.0.2.11")},
			speakers: []*v1alpha1.Speaker{
				speakerOf("n2", "192.0.2.12/24 via 192.0.2.1", "172.17.0.1/16"), speakerOf("n1", "192.0.2.11/24 via 192.0.2.1 192.0.2.2", "172.17.0.1/16"),
			},
			own: "172.17.0.1=n1 192.0.2.11=n1 192.0.2.12=n2", others: "172.17.0.0 172.17.255.255 192.0.2.0 192.0.2.1 192.0.2.2 192.0.2.255",
		},
		"the Speaker of a Node that is gone tells nothing": {
			nodes: []*corev1.Node{nodeAt("n1", "192.0.2.11")}, speakers: []*v1alpha1.Speaker{speakerOf("n2", "192.0.2.12/24 via 192.0.2.1")},
			own: "192.0.2.11=n1",
		},
		"what is no address is passed over": {
			nodes:    []*corev1.Node{nodeAt("n1", "host.example", "::ffff:192.0.2.11", "127.0.0.1", "0.0.0.0", "fe80::1%eth0")},
			speakers: []*v1alpha1.Speaker{speakerOf("n1", "192.0.2.300/24 192.0.2.12 via 192.0.2.1/24 gateway")},
			own:      "192.0.2.11=n1 fe80::1=n1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var nodes []corev1.Node
			for _, n := range tt.nodes {
				nodes = append(nodes, *n)
			}
			var speakers []v1alpha1.Speaker
			for _, s := range tt.speakers {
				speakers = append(speakers, *s)
			}
			got := avoid(nodes, speakers)
			own := map[string]string{}
			for pair := range strings.FieldsSeq(tt.own) {
				addr, node, _ := strings.Cut(pair, "=")
				own[addr] = node
			}
			gotOwn := map[string]string{}
			for addr, node := range got.nodes {
				gotOwn[addr.String()] = node
			}
			if diff := cmp.Diff(own, gotOwn); diff != "" {
				t.Errorf("addresses of nodes (-want +got):\n%s", diff)
			}
			var others []string
			for _, r := range got.ranges {
				if r.From() != r.To() {
					t.Errorf("a range of several: %s", r)
				}
				others = append(others, r.From().String())
			}
			if s := strings.Join(others, " "); s != tt.others {
				t.Errorf("others are %s, want %s", s, tt.others)
			}
		})
	}
}

// speak stores a Speaker's status and shows it to the Controller.
func (w *world) speak(s *v1alpha1.Speaker) {
	w.t.Helper()
	w.create(s.DeepCopy())
	w.nodesChanged()
}

func (w *world) nodesChanged() {
	w.t.Helper()
	if err := w.c.reconcileNodes(w.ctx()); err != nil {
		w.t.Fatal(err)
	}
}

// work empties the queues of addresses, Services and pools.
func (w *world) work() {
	w.t.Helper()
	for w.c.addresses.Len()+w.c.services.Len()+w.c.config.Len() > 0 {
		for w.c.addresses.Len() > 0 {
			req, _ := w.c.addresses.Get()
			if _, err := w.c.reconcileAddress(w.ctx(), req); err != nil {
				w.t.Fatal(err)
			}
			w.c.addresses.Done(req)
		}
		w.sync()
		w.reconcile()
	}
}

// free is how many IPv4 addresses a pool's status says are left.
func (w *world) free(pool string) string {
	w.t.Helper()
	if _, err := w.c.reconcilePoolStatus(w.ctx(), request(pool)); err != nil {
		w.t.Fatal(err)
	}
	p := &v1alpha1.LoadBalancerIPPool{}
	if err := w.api.Get(w.ctx(), client.ObjectKey{Name: pool}, p); err != nil {
		w.t.Fatal(err)
	}
	return p.Status.IPv4.Available
}

func TestAPoolOverTheNodesSubnetGivesNothingThatTheNetworkUses(t *testing.T) {
	w := newWorld(t, nodeAt("n1", "192.0.2.2"), speakerOf("n1", "192.0.2.2/29 via 192.0.2.1"), testPool("lan", "192.0.2.0/29"))
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprint("web-", i))
		w.create(testService(names[i]))
	}
	w.reconcile(names...)
	var got []string
	for _, ip := range w.addresses() {
		got = append(got, ip.Name)
	}
	if s := strings.Join(got, " "); s != "192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6" {
		t.Errorf("given are %s", s)
	}
	w.refused("web-7", ipam.PoolExhausted)
	w.create(testService("router", asking("192.0.2.1")), testService("node", asking("192.0.2.2")))
	w.reconcile("router", "node")
	w.shows("router", "192.0.2.1")
	w.refused("node", ipam.NodeAddress)
}

// A controller that starts knows before its first decision.
func TestFillReadsWhatTheNetworkUses(t *testing.T) {
	w := newWorld(t, nodeAt("n1", "192.0.2.1"), testPool("lan", "192.0.2.0-192.0.2.2"), speakerOf("n1", "192.0.2.1/24"), testService("web"))
	w.c = w.controller()
	if err := w.c.fill(w.ctx()); err != nil {
		t.Fatal(err)
	}
	w.reconcile("web")
	w.shows("web", "192.0.2.2")
}

func TestANodeThatJoinsTakesItsAddressOut(t *testing.T) {
	w := newWorld(t, nodeAt("n1", "192.0.2.11"), testPool("lan", "192.0.2.12-192.0.2.14"), testService("held"))
	w.reconcile("held")
	w.shows("held", "192.0.2.12")
	if n := w.free("lan"); n != "2" {
		t.Errorf("%s left, want 2", n)
	}

	w.create(nodeAt("n2", "192.0.2.13"))
	w.nodesChanged()
	if n := w.free("lan"); n != "1" {
		t.Errorf("%s left with one node more, want 1", n)
	}
	w.create(testService("web"), testService("late"))
	w.reconcile("web", "late")
	w.shows("web", "192.0.2.14")
	w.refused("late", ipam.PoolExhausted)

	// The node that comes to have what a Service holds takes nothing away.
	w.create(nodeAt("n3", "192.0.2.12"))
	w.nodesChanged()
	w.reconcile("held")
	w.shows("held", "192.0.2.12")

	// The node that leaves gives its address to who waits.
	if err := w.api.Delete(w.ctx(), nodeAt("n2")); err != nil {
		t.Fatal(err)
	}
	w.nodesChanged()
	w.work()
	w.shows("late", "192.0.2.13")
}

// Who asks for a node's address is told when that is a node's no more.
func TestTheAddressOfANodeThatLeftCanBeAskedFor(t *testing.T) {
	w := newWorld(t, nodeAt("n1", "192.0.2.11", "198.51.100.11"), testPool("lan", "192.0.2.0/24"),
		testService("web", asking("192.0.2.11")), testService("outside", asking("198.51.100.11")))
	w.reconcile("web", "outside")
	w.refused("web", ipam.NodeAddress)
	w.refused("outside", ipam.NodeAddress)
	if err := w.api.Delete(w.ctx(), nodeAt("n1")); err != nil {
		t.Fatal(err)
	}
	w.nodesChanged()
	w.work()
	w.shows("web", "192.0.2.11")
	w.refused("outside", ipam.AddressNotInPool)
	w.create(nodeAt("n2", "198.51.100.11"))
	w.nodesChanged()
	w.work()
	w.refused("outside", ipam.NodeAddress)
}

// Another load balancer may have it on an interface until it is stopped.
func TestAReservedAddressThatNoNodeHasAnyMoreIsGiven(t *testing.T) {
	w := newWorld(t, nodeAt("n1", "192.0.2.11"), testPool("lan", "198.51.100.1"), testService("holder"), testService("other"), testService("web"),
		&v1alpha1.LoadBalancerIP{
			ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.11"},
			Spec:       v1alpha1.LoadBalancerIPSpec{Address: "192.0.2.11", ReservedFor: &v1alpha1.Reservation{Namespace: "default", Name: "web"}},
		})
	w.reconcile("holder", "other", "web")
	w.refused("web", ipam.PoolExhausted)
	if err := w.api.Delete(w.ctx(), nodeAt("n1")); err != nil {
		t.Fatal(err)
	}
	w.nodesChanged()
	w.work()
	w.shows("web", "192.0.2.11")
	w.refused("other", ipam.PoolExhausted)
}

func TestNothingIsDoneWhenTheNetworkIsAsBefore(t *testing.T) {
	w := newWorld(t, nodeAt("n1", "192.0.2.11"), speakerOf("n1", "192.0.2.11/24"), testPool("lan", "192.0.2.11"), testService("web"))
	w.reconcile("web")
	w.refused("web", ipam.PoolExhausted)
	w.nodesChanged()
	if n := w.c.services.Len() + w.c.addresses.Len() + w.c.config.Len(); n > 0 {
		t.Errorf("%d are looked at again", n)
	}
}

func TestAnAddressIsProposedToANodeOnItsNetwork(t *testing.T) {
	w := newWorld(t, testNode("n1"), testNode("n2"), testNode("n3"), testPool("lan", "192.0.2.0/24"),
		speakerOf("n1", "198.51.100.1/24"), speakerOf("n2", "198.51.100.2/24", "192.0.2.2/24"), speakerOf("n3", "203.0.113.3/24"))
	for i := range 6 {
		w.create(testService(fmt.Sprint("web-", i)))
		w.reconcile(fmt.Sprint("web-", i))
	}
	for _, ip := range w.addresses() {
		if ip.Spec.Owner != "n2" {
			t.Errorf("%s is proposed for %q", ip.Name, ip.Spec.Owner)
		}
	}
}

func TestAnnouncedSaysWhyNoNodeMay(t *testing.T) {
	w := newWorld(t, testNode("n1"), speakerOf("n1", "198.51.100.1/24"), testPool("lan", "192.0.2.8"), testService("web"))
	announced := func(reason, message string) {
		t.Helper()
		if c := condition(w.service("web"), v1alpha1.ServiceAnnounced); c.Status != metav1.ConditionFalse || c.Reason != reason || c.Message != message {
			t.Errorf("condition %+v, want %s: %s", c, reason, message)
		}
	}
	w.reconcile("web")
	w.shows("web", "192.0.2.8")
	announced(ReasonNoEligibleNode, "no node has an interface on the network of 192.0.2.8")
	if owner := w.addresses()[0].Spec.Owner; owner != "" {
		t.Errorf("proposed for %s", owner)
	}

	// A node whose speaker has yet to tell may be the one.
	n2 := testNode("n2")
	n2.CreationTimestamp = metav1.NewTime(w.now)
	w.create(n2)
	w.nodesChanged()
	w.work()
	announced(ReasonAwaitingClaim, "no node has claimed 192.0.2.8 yet")
	if owner := w.addresses()[0].Spec.Owner; owner != "n2" {
		t.Errorf("proposed for %q", owner)
	}
	// If it doesn't tell, that won't help anybody.
	w.now = w.now.Add(settleTime)
	w.nodesChanged()
	w.work()
	announced(ReasonNoEligibleNode, "no node has an interface on the network of 192.0.2.8")
	down := speakerOf("n2", "192.0.2.2/24")
	down.Status.Interfaces[0].Up = false
	w.speak(down)
	w.work()
	announced(ReasonNoEligibleNode, "every interface that could announce 192.0.2.8 is down")
}

func TestNothingIsSaidOfAClaimedAddress(t *testing.T) {
	w := newWorld(t, testNode("n1"), testPool("lan", "192.0.2.8"), testService("web"))
	w.reconcile("web")
	ip := w.addresses()[0]
	ip.Status.L2 = &v1alpha1.L2Claim{Node: "n1", Term: 1, Since: metav1.NewTime(w.now)}
	if err := w.api.Status().Update(w.ctx(), &ip); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.reconcile("web")
	before := w.service("web")
	w.speak(speakerOf("n1", "198.51.100.1/24"))
	w.work()
	after := w.service("web")
	if !meta.IsStatusConditionTrue(after.Status.Conditions, v1alpha1.ServiceAnnounced) || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("%+v, written: %v", after.Status.Conditions, after.ResourceVersion != before.ResourceVersion)
	}
}
