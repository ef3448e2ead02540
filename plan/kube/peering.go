// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// Reason is why a node has no session with a BGPPeer that selects it. It has the
// form of a Kubernetes condition reason.
type Reason string

// Reasons why a session is held down.
const (
	// NoLocalASN: neither the BGPPeer nor the Node says which AS the node is in.
	NoLocalASN Reason = "NoLocalASN"
	// InvalidAnnotation: an annotation of the Node can't be read.
	InvalidAnnotation Reason = "InvalidAnnotation"
	// SecretNotListed: the Secret with the password is not among the chart's
	// speaker.bgp.passwordSecrets, so speakers may not read it.
	SecretNotListed Reason = "SecretNotListed"
	// SecretNotRead: the Secret could not be read yet.
	SecretNotRead Reason = "SecretNotRead"
	// SecretNotFound: there is no such Secret in the namespace of the speakers.
	SecretNotFound Reason = "SecretNotFound"
	// SecretInvalid: the Secret is of another type, or has no usable password.
	SecretInvalid Reason = "SecretInvalid"
)

// Problem is why there is no session, with one sentence for people.
type Problem struct {
	Reason  Reason
	Message string
}

// Password is what a Secret has, or why nothing is known of it.
type Password struct {
	Value   string
	Problem *Problem
}

// NodeBGP is what a Node says of its sessions: its annotations as they are.
type NodeBGP struct{ ASN, RouterID string }

// ReadNodeBGP returns what annotations of a Node say.
func ReadNodeBGP(annotations map[string]string) NodeBGP {
	return NodeBGP{ASN: annotations[v1alpha1.AnnotationBGPASN], RouterID: annotations[v1alpha1.AnnotationBGPRouterID]}
}

// Peer is a BGPPeer as a node is to have a session with it.
type Peer struct {
	Name string
	// Held is why there must be no session; nil if there may be. The other
	// fields are as far as they could be read.
	Held *Problem

	LocalASN uint32
	// PeerASN is 0 for one that is only told to be External or Internal.
	PeerASN            uint32
	External, Internal bool

	// One of these says where the router is.
	Address        netip.Addr
	Interface      string
	DefaultGateway bool

	Port    uint16
	Passive bool
	// SourceAddress and RouterID are invalid if they are not given.
	SourceAddress netip.Addr
	RouterID      netip.Addr
	BindInterface string

	// Whole seconds.
	HoldTime, KeepaliveTime, ConnectTime time.Duration
	// MultiHop is the TTL to a router that is no neighbor, 0 for a neighbor.
	MultiHop uint8
	// TTLSecurityHops is 0 where packets may come from anywhere.
	TTLSecurityHops uint8
	// Password is empty for none.
	Password string
	// BFD is nil for none.
	BFD *BFD

	GracefulRestart bool
	RestartTime     time.Duration
	// LongLivedStaleTime is 0 for none.
	LongLivedStaleTime time.Duration
	IPv4, IPv6         bool
}

// BFD is a BFDProfile.
type BFD struct {
	ReceiveInterval, TransmitInterval time.Duration
	DetectMultiplier                  uint8
	Passive                           bool
	MinimumTTL                        uint8
}

// PeeringObjects are what says which sessions nodes have. Nodes are their
// labels, by name, and Annotations what some say of BGP; Passwords are those of
// the Secrets that speakers may read, by name.
type PeeringObjects struct {
	Peers       []*v1alpha1.BGPPeer
	Profiles    map[string]*v1alpha1.BFDProfile
	Nodes       map[string]labels.Set
	Annotations map[string]NodeBGP
	Passwords   map[string]Password
}

// Peering is which sessions the nodes of a cluster have. Nobody changes one.
type Peering struct{ of PeeringObjects }

// NewPeering returns what the objects say. They must not change afterwards.
func NewPeering(o PeeringObjects) *Peering { return &Peering{o} }

// Of returns the peers of a node, by name.
func (p *Peering) Of(node string) []Peer {
	set, there := p.of.Nodes[node]
	if !there {
		return nil
	}
	var peers []Peer
	for _, obj := range p.of.Peers {
		if peerNodes(obj).Matches(set) {
			peers = append(peers, p.read(obj, p.of.Annotations[node]))
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	return peers
}

func (p *Peering) read(obj *v1alpha1.BGPPeer, node NodeBGP) Peer {
	spec := &obj.Spec
	peer := Peer{
		Name:            obj.Name,
		PeerASN:         spec.PeerASN.Number(),
		External:        spec.PeerASN == v1alpha1.PeerASNExternal,
		Internal:        spec.PeerASN == v1alpha1.PeerASNInternal,
		Interface:       string(spec.Interface),
		DefaultGateway:  spec.AutoDiscover == v1alpha1.AutoDiscoverDefaultGateway,
		Port:            uint16(cmp.Or(spec.PeerPort, 179)),
		Passive:         spec.Passive,
		BindInterface:   string(spec.BindInterface),
		HoldTime:        duration(spec.HoldTime, 90*time.Second),
		ConnectTime:     duration(spec.ConnectTime, 10*time.Second),
		MultiHop:        uint8(value(spec.EBGPMultiHop, 0)),
		TTLSecurityHops: uint8(value(spec.TTLSecurityHops, 0)),
		GracefulRestart: true,
		RestartTime:     30 * time.Second,
		IPv4:            hasFamily(obj, v1alpha1.BGPFamilyIPv4),
		IPv6:            hasFamily(obj, v1alpha1.BGPFamilyIPv6),
	}
	// The API server admits no other text than addresses and nothing.
	peer.Address, _ = netip.ParseAddr(spec.PeerAddress)
	peer.SourceAddress, _ = netip.ParseAddr(spec.SourceAddress)
	peer.RouterID, _ = netip.ParseAddr(spec.RouterID)
	peer.KeepaliveTime = duration(spec.KeepaliveTime, (peer.HoldTime / 3).Truncate(time.Second))
	if gr := spec.GracefulRestart; gr != nil {
		peer.GracefulRestart = value(gr.Enabled, true)
		peer.RestartTime = duration(gr.RestartTime, peer.RestartTime)
		peer.LongLivedStaleTime = duration(gr.LongLivedStaleTime, 0)
	}
	if profile := p.of.Profiles[spec.BFDProfile]; profile != nil {
		peer.BFD = readBFD(&profile.Spec)
	}
	hold := func(problem *Problem) {
		if peer.Held == nil {
			peer.Held = problem
		}
	}
	if spec.LocalASN != nil {
		peer.LocalASN = uint32(*spec.LocalASN)
	}
	if node.ASN != "" {
		asn, err := parseASN(node.ASN)
		if err != nil {
			hold(&Problem{InvalidAnnotation, fmt.Sprintf("the Node's annotation %s is %q: it must be a number from 1 to 4294967295 except 23456", v1alpha1.AnnotationBGPASN, brief(node.ASN))})
		}
		peer.LocalASN = asn
	}
	if node.RouterID != "" {
		id, err := netip.ParseAddr(node.RouterID)
		if err != nil || !id.Is4() || id.IsUnspecified() {
			hold(&Problem{InvalidAnnotation, fmt.Sprintf("the Node's annotation %s is %q: it must have the form of an IPv4 address and not be 0.0.0.0", v1alpha1.AnnotationBGPRouterID, brief(node.RouterID))})
		}
		peer.RouterID = id
	}
	if peer.LocalASN == 0 {
		hold(&Problem{NoLocalASN, fmt.Sprintf("nothing says which AS the node is in: set spec.localASN of BGPPeer %s, or the Node's annotation %s", obj.Name, v1alpha1.AnnotationBGPASN)})
	}
	if ref := spec.PasswordSecretRef; ref != nil {
		password, listed := p.of.Passwords[ref.Name]
		if !listed {
			password.Problem = &Problem{SecretNotListed, fmt.Sprintf("speakers may not read Secret %s: add its name to the chart's value speaker.bgp.passwordSecrets", ref.Name)}
		}
		if password.Problem != nil {
			hold(password.Problem)
		}
		peer.Password = password.Value
	}
	return peer
}

// brief keeps a quotation from somebody's text short.
func brief(text string) string {
	const most = 40
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// parseASN reads the number of an AS that one can be in.
func parseASN(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err == nil && (n == 0 || n == 23456) {
		err = fmt.Errorf("%d is nobody's", n)
	}
	return uint32(n), err
}

func readBFD(spec *v1alpha1.BFDProfileSpec) *BFD {
	return &BFD{
		ReceiveInterval:  duration(spec.ReceiveInterval, 300*time.Millisecond),
		TransmitInterval: duration(spec.TransmitInterval, 300*time.Millisecond),
		DetectMultiplier: uint8(min(cmp.Or(spec.DetectMultiplier, 3), math.MaxUint8)),
		Passive:          spec.Passive,
		MinimumTTL:       uint8(cmp.Or(spec.MinimumTTL, 254)),
	}
}

func duration(d *metav1.Duration, absent time.Duration) time.Duration {
	if d == nil {
		return absent
	}
	return d.Duration
}

// maxPassword is what TCP_MD5SIG takes.
const maxPassword = 80

// ReadPassword returns the password of a Secret.
func ReadPassword(name, kind string, data map[string][]byte) Password {
	invalid := func(text string) Password {
		return Password{Problem: &Problem{SecretInvalid, fmt.Sprintf("Secret %s %s", name, text)}}
	}
	password := string(data["password"])
	switch {
	case kind != "kubernetes.io/basic-auth":
		return invalid(fmt.Sprintf("is of type %s: it must be of type kubernetes.io/basic-auth", brief(kind)))
	case password == "":
		return invalid("has no entry password, or an empty one")
	case len(password) > maxPassword:
		return invalid(fmt.Sprintf("has a password of %d bytes: TCP-MD5 takes %d at most", len(password), maxPassword))
	}
	return Password{Value: password}
}

// PasswordMissing is what is known of a Secret that isn't there.
func PasswordMissing(name, namespace string) Password {
	return Password{Problem: &Problem{SecretNotFound, fmt.Sprintf("there is no Secret %s in namespace %s", name, namespace)}}
}

// PasswordUnread is what is known of a Secret before it could be read; err is
// nil if nothing went wrong yet.
func PasswordUnread(name string, err error) Password {
	text := "Secret " + name + " has not been read yet"
	if err != nil {
		text += ": " + err.Error()
	}
	return Password{Problem: &Problem{SecretNotRead, text}}
}
