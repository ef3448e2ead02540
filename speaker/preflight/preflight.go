// SPDX-License-Identifier: Apache-2.0

// Package preflight finds what of a node's own network keeps announced addresses from working.
package preflight

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// Reasons of a Speaker's conditions.
const (
	reasonInterfaceUp    = "InterfaceUp"    // an interface that can announce is up
	reasonNoneFits       = "NoneFits"       // no interface resolves addresses by ARP and is on a network
	reasonAllDown        = "AllDown"        // those that could announce are down
	reasonNoIPVS         = "NoIPVS"         // kube-proxy's interface of IPVS mode holds no IPv4 address
	reasonStrict         = "Strict"         // the kernel keeps still about the addresses of Services
	reasonKernelAnswers  = "KernelAnswers"  // the kernel answers ARP for them, on this node as on every other that is set so
	reasonKernelAsks     = "KernelAsks"     // the kernel sends ARP requests in their name, and neighbors believe these
	reasonPacketsPass    = "PacketsPass"    // what clients send to the addresses is let in
	reasonPacketsDropped = "PacketsDropped" // what some clients send is dropped, as the way back to them is by another interface
	reasonNodeAnswers    = "NodeAnswers"    // the kernel answers ARP for the node's own addresses
	reasonNodeSilent     = "NodeSilent"     // the kernel answers ARP for no address
	reasonNoPeers        = "NoPeers"        // no other speaker is known on the networks of this node
	reasonPeersHeard     = "PeersHeard"     // every other speaker is heard on the networks shared with it
	reasonSomeNotHeard   = "SomeNotHeard"   // some others are not heard, as a node that is off isn't
	reasonNobodyHeard    = "NobodyHeard"    // on some network none of the others is heard
	reasonAllWell        = "AllWell"        // nothing is known to be wrong
)

// ofProblem are the types of conditions that tell of a problem, the gravest
// first.
var ofProblem = []string{
	v1alpha1.SpeakerNoInterface,
	v1alpha1.SpeakerStrictARP,
	v1alpha1.SpeakerMeshDown,
	v1alpha1.SpeakerReversePathFiltered,
	v1alpha1.SpeakerARPIgnored,
}

// Node is what matters of a node's network.
type Node struct {
	// Interfaces that can announce addresses.
	Interfaces []Interface
	// IPVS says that kube-proxy's interface of IPVS mode holds IPv4 addresses.
	// The kernel takes these, which are those of all Services, for the node's
	// own.
	IPVS bool
}

// Interface is a network interface.
type Interface struct {
	Name string
	Up   bool
	// Carries says that addresses may be announced on it.
	Carries bool
	// ARPIgnore and ARPAnnounce are the settings that the kernel goes by: the
	// larger of that of the interface and that of all.
	ARPIgnore, ARPAnnounce int
	// Drops are the clients whose packets the reverse path filter drops.
	Drops []Clients
}

// Clients are some of those whose packets come in by an interface.
type Clients string

const (
	Neighbors Clients = "neighbors"
	Others    Clients = "clients of other networks"
)

// Check returns the conditions that a node's own settings give.
func Check(n Node) []metav1.Condition {
	return []metav1.Condition{noInterface(n), strictARP(n), reversePath(n), arpIgnored(n)}
}

func noInterface(n Node) metav1.Condition {
	const kind = v1alpha1.SpeakerNoInterface
	names := n.names(func(Interface) bool { return true })
	switch {
	case len(names) == 0:
		return condition(kind, true, reasonNoneFits, "no interface resolves addresses by ARP and is on a network: the node can announce nothing on layer 2")
	case len(n.names(func(i Interface) bool { return i.Up })) == 0:
		return condition(kind, true, reasonAllDown, fmt.Sprintf("no interface that could announce addresses is up: bring up %s", list(names)))
	}
	return condition(kind, false, reasonInterfaceUp, "an interface that can announce addresses is up")
}

// strictARP looks at what kube-proxy's option of that name sets.
//
// A kernel that answers for every Service on every node makes neighbors pick a
// node at random. Less than 2 in arp_announce lets a node put the address of a
// Service that it does not own in its ARP requests, from a connection that it
// still has; whoever has the owner's MAC in a cache replaces it.
func strictARP(n Node) metav1.Condition {
	const kind = v1alpha1.SpeakerStrictARP
	const do = "set ipvs.strictARP: true in kube-proxy's configuration, or arp_ignore=1 and arp_announce=2 below net.ipv4.conf for all and %[1]s"
	if !n.IPVS {
		return condition(kind, true, reasonNoIPVS, "kube-proxy is not in IPVS mode")
	}
	if names := n.names(func(i Interface) bool { return answersForIPVS(i.ARPIgnore) }); len(names) > 0 {
		return condition(kind, false, reasonKernelAnswers, fmt.Sprintf("kube-proxy is in IPVS mode, and on %[1]s the kernel answers ARP for the addresses of all Services: "+do, list(names)))
	}
	if names := n.names(func(i Interface) bool { return i.ARPAnnounce < 2 }); len(names) > 0 {
		return condition(kind, false, reasonKernelAsks, fmt.Sprintf("kube-proxy is in IPVS mode, and on %[1]s the kernel sends ARP requests in the name of Services' addresses: "+do, list(names)))
	}
	return condition(kind, true, reasonStrict, "the kernel leaves ARP for the addresses of Services to the speaker")
}

// answersForIPVS tells whether a kernel with this arp_ignore answers on one
// interface for an address that is on another. 3 excepts addresses of scope
// host only, which kube-proxy's are not; 4 to 7 mean what 0 does.
func answersForIPVS(arpIgnore int) bool {
	return arpIgnore != 1 && arpIgnore != 2 && arpIgnore != 8
}

func reversePath(n Node) metav1.Condition {
	const kind = v1alpha1.SpeakerReversePathFiltered
	var what, which []string
	for _, i := range n.Interfaces {
		if i.Carries && len(i.Drops) > 0 {
			var clients []string
			for _, c := range i.Drops {
				clients = append(clients, string(c))
			}
			what = append(what, fmt.Sprintf("%s on %s", strings.Join(clients, " and "), i.Name))
			which = append(which, i.Name)
		}
	}
	if len(what) == 0 {
		return condition(kind, false, reasonPacketsPass, "the reverse path filter lets in what clients send to the addresses")
	}
	return condition(kind, true, reasonPacketsDropped, fmt.Sprintf(
		"the way back is by another interface, so the kernel drops what is sent to the addresses by %s: set net.ipv4.conf.IF.rp_filter=2 for IF in %s, or route back by the same interface",
		list(what), list(which)))
}

// arpIgnored is about the question that a speaker asks before it takes
// addresses over: a kernel that answers has lost its speaker only.
func arpIgnored(n Node) metav1.Condition {
	const kind = v1alpha1.SpeakerARPIgnored
	names := n.names(func(i Interface) bool { return i.ARPIgnore == 8 })
	if len(names) == 0 {
		return condition(kind, false, reasonNodeAnswers, "the kernel answers ARP for the addresses of the node")
	}
	return condition(kind, true, reasonNodeSilent, fmt.Sprintf(
		"arp_ignore is 8 for %[1]s, so a restart of the speaker looks like the end of the node to the others, which take its addresses: set net.ipv4.conf.IF.arp_ignore=1 for IF in all, %[1]s", list(names)))
}

// Segment is a network of the node that other speakers share, as the API tells.
type Segment struct {
	Interface string
	// Heard and NotHeard are the nodes of these speakers.
	Heard, NotHeard []string
}

// Equal tells whether two segments are the same.
func (s Segment) Equal(o Segment) bool {
	return s.Interface == o.Interface && slices.Equal(s.Heard, o.Heard) && slices.Equal(s.NotHeard, o.NotHeard)
}

// Mesh returns the condition of the hellos between speakers.
func Mesh(segments []Segment) metav1.Condition {
	const kind = v1alpha1.SpeakerMeshDown
	var down []string
	heard, missed := false, false
	for _, s := range segments {
		if len(s.Heard) == 0 && len(s.NotHeard) > 0 {
			down = append(down, fmt.Sprintf("%s (from %s)", s.Interface, list(s.NotHeard)))
		}
		heard, missed = heard || len(s.Heard) > 0, missed || len(s.NotHeard) > 0
	}
	switch {
	case len(down) > 0:
		return condition(kind, true, reasonNobodyHeard, fmt.Sprintf(
			"no other speaker is heard on %s: unless these nodes are off, let UDP to the port of the speakers' mesh pass between the nodes", list(down)))
	case missed:
		return condition(kind, false, reasonSomeNotHeard, "other speakers are heard; status.notHeard names those that are not")
	case heard:
		return condition(kind, false, reasonPeersHeard, "all other speakers on the networks of this node are heard")
	}
	return condition(kind, false, reasonNoPeers, "no other speaker is on the networks of this node")
}

// Healthy sums up the conditions of a Speaker: its reason is the type of the
// gravest problem.
func Healthy(conditions []metav1.Condition) metav1.Condition {
	var types, messages []string
	for _, kind := range ofProblem {
		for _, c := range conditions {
			if c.Type == kind && wrong(c) {
				types, messages = append(types, kind), append(messages, c.Message)
			}
		}
	}
	if len(types) == 0 {
		return condition(v1alpha1.SpeakerHealthy, true, reasonAllWell, "nothing is known to be wrong")
	}
	return condition(v1alpha1.SpeakerHealthy, false, types[0], strings.Join(messages, "; "))
}

// wrong tells whether a condition tells of a problem.
func wrong(c metav1.Condition) bool {
	good := metav1.ConditionFalse
	if c.Type == v1alpha1.SpeakerStrictARP || c.Type == v1alpha1.SpeakerHealthy {
		good = metav1.ConditionTrue
	}
	return c.Status != good
}

func condition(kind string, status bool, reason, message string) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	if status {
		c.Status = metav1.ConditionTrue
	}
	return c
}

func (n Node) names(which func(Interface) bool) (names []string) {
	for _, i := range n.Interfaces {
		if which(i) {
			names = append(names, i.Name)
		}
	}
	return names
}

// list names a few of many.
func list(names []string) string {
	const most = 5
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}
