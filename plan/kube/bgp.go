// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
)

// BGPAdvertisement is a BGPAdvertisement as it is used.
type BGPAdvertisement struct {
	*plan.BGPAdvertisement
	Selection
}

// wellKnown communities by name, as IANA has them.
var wellKnown = map[v1alpha1.Community]uint32{
	"graceful-shutdown":   65535 << 16,
	"accept-own":          65535<<16 | 1,
	"no-llgr":             65535<<16 | 7,
	"blackhole":           65535<<16 | 666,
	"no-export":           65535<<16 | 65281,
	"no-advertise":        65535<<16 | 65282,
	"no-export-subconfed": 65535<<16 | 65283,
	"no-peer":             65535<<16 | 65284,
}

// readBGP resolves what is about BGP.
func (a *Advertising) readBGP(o Objects) {
	peerLabels := make(map[string]labels.Set, len(o.Peers))
	for _, p := range o.Peers {
		peerLabels[p.Name] = p.Labels
		a.peers = append(a.peers, plan.BGPPeer{
			Name: p.Name, Nodes: selected(peerNodes(p), o.Nodes),
			NoIPv4: !hasFamily(p, v1alpha1.BGPFamilyIPv4), NoIPv6: !hasFamily(p, v1alpha1.BGPFamilyIPv6),
		})
	}
	slices.SortFunc(a.peers, func(a, b plan.BGPPeer) int { return cmp.Compare(a.Name, b.Name) })
	for _, ad := range o.BGP {
		a.bgp = append(a.bgp, readBGPAdvertisement(ad, o.Nodes, peerLabels))
	}
	slices.SortFunc(a.bgp, func(a, b BGPAdvertisement) int { return cmp.Compare(a.Name, b.Name) })
}

// hasFamily tells whether a peer is told addresses of the family.
func hasFamily(p *v1alpha1.BGPPeer, f v1alpha1.BGPFamily) bool {
	return len(p.Spec.Families) == 0 || slices.Contains(p.Spec.Families, f)
}

// peerNodes returns what selects the nodes of a peer. A selector that can't be
// read selects none.
func peerNodes(p *v1alpha1.BGPPeer) labels.Selector {
	s, err := PeerNodes(p)
	if err != nil {
		return labels.Nothing()
	}
	return s
}

// PeerNodes returns what selects the nodes of a peer, or why that can't be read.
func PeerNodes(p *v1alpha1.BGPPeer) (labels.Selector, error) {
	if p.Spec.NodeSelector == nil {
		return labels.Everything(), nil
	}
	s, err := metav1.LabelSelectorAsSelector(p.Spec.NodeSelector)
	if err != nil {
		return nil, fmt.Errorf("spec.nodeSelector: %w", err)
	}
	return s, nil
}

func readBGPAdvertisement(obj *v1alpha1.BGPAdvertisement, nodes, peers map[string]labels.Set) BGPAdvertisement {
	spec := &obj.Spec
	ad := BGPAdvertisement{
		BGPAdvertisement: &plan.BGPAdvertisement{
			Name:             obj.Name,
			LocalPref:        number(spec.LocalPref),
			MED:              number(spec.MED),
			Prepend:          uint8(spec.ASPathPrepend),
			Length4:          int(value(spec.AggregationLength, 32)),
			Length6:          int(value(spec.AggregationLengthV6, 128)),
			RequireEndpoints: value(spec.RequireEndpoints, true),
		},
		Selection: readSelection(spec.Pools, spec.PoolSelector, spec.ServiceSelector),
	}
	ad.Nodes = selected(ad.read("nodeSelector", spec.NodeSelector, labels.Everything()), nodes)
	absent := labels.Nothing()
	if len(spec.Peers) == 0 {
		absent = labels.Everything()
	}
	ad.Peers = selected(ad.read("peerSelector", spec.PeerSelector, absent), peers)
	for _, name := range spec.Peers {
		if _, there := peers[name]; there {
			ad.Peers[name] = struct{}{}
		}
	}
	for _, c := range spec.Communities {
		standard, large, err := parseCommunity(c)
		switch {
		case err != nil:
			ad.Invalid = append(ad.Invalid, fmt.Errorf("spec.communities: %w", err))
		case large != nil:
			ad.Large = append(ad.Large, *large)
		default:
			ad.Communities = append(ad.Communities, standard)
		}
	}
	slices.Sort(ad.Communities)
	ad.Communities = slices.Compact(ad.Communities)
	slices.SortFunc(ad.Large, func(a, b [3]uint32) int { return slices.Compare(a[:], b[:]) })
	ad.Large = slices.Compact(ad.Large)
	return ad
}

func number(p *int64) *uint32 {
	if p == nil {
		return nil
	}
	n := uint32(*p)
	return &n
}

// parseCommunity returns a standard or, if it is not nil, a large community.
func parseCommunity(c v1alpha1.Community) (standard uint32, large *[3]uint32, err error) {
	if n, known := wellKnown[c]; known {
		return n, nil, nil
	}
	text, isLarge := strings.CutPrefix(string(c), "large:")
	parts, bits := 2, 16
	if isLarge {
		parts, bits = 3, 32
	}
	var n [3]uint32
	words := strings.Split(text, ":")
	if len(words) != parts {
		return 0, nil, fmt.Errorf("%q is no community", c)
	}
	for i, w := range words {
		v, err := strconv.ParseUint(w, 10, bits)
		if err != nil {
			return 0, nil, fmt.Errorf("%q is no community", c)
		}
		n[i] = uint32(v)
	}
	if isLarge {
		return 0, &n, nil
	}
	return n[0]<<16 | n[1], nil, nil
}

// equalBGP tells whether two say the same of BGP.
func (a *Advertising) equalBGP(b *Advertising) bool {
	return slices.EqualFunc(a.peers, b.peers, func(x, y plan.BGPPeer) bool {
		return x.Name == y.Name && x.NoIPv4 == y.NoIPv4 && x.NoIPv6 == y.NoIPv6 && maps.Equal(x.Nodes, y.Nodes)
	}) &&
		slices.EqualFunc(a.bgp, b.bgp, func(x, y BGPAdvertisement) bool {
			return x.Name == y.Name && maps.Equal(x.Nodes, y.Nodes) && maps.Equal(x.Peers, y.Peers) &&
				slices.Equal(x.Communities, y.Communities) && slices.Equal(x.Large, y.Large) &&
				same(x.LocalPref, y.LocalPref) && same(x.MED, y.MED) && x.Prepend == y.Prepend &&
				x.Length4 == y.Length4 && x.Length6 == y.Length6 && x.RequireEndpoints == y.RequireEndpoints && x.equal(&y.Selection)
		})
}

func same[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// AllBGP returns the BGPAdvertisements, by name.
func (a *Advertising) AllBGP() []BGPAdvertisement { return a.bgp }

// BGPPeers returns the peers, by name.
func (a *Advertising) BGPPeers() []plan.BGPPeer { return a.peers }

// HasPeer tells whether a node that an advertisement selects has a peer that it
// selects.
func (a *Advertising) HasPeer(ad *BGPAdvertisement) bool {
	return slices.ContainsFunc(a.peers, func(p plan.BGPPeer) bool {
		return has(ad.Peers, p.Name) && anyOf(p.Nodes, func(node string) bool { return has(ad.Nodes, node) })
	})
}

// Contradictions returns what other advertisements say differently of addresses
// that are this one's, too. That two select Services of which none is both's is
// known only if their selectors say so: different ones are taken to.
func (a *Advertising) Contradictions(ad *BGPAdvertisement) (all []plan.Contradiction) {
	for i := range a.bgp {
		if other := &a.bgp[i]; other.Name != ad.Name && a.meet(ad, other) {
			all = append(all, plan.Contradict(ad.BGPAdvertisement, other.BGPAdvertisement)...)
		}
	}
	return all
}

// meet tells whether two advertisements select addresses of one pool for one
// peer of one node.
func (a *Advertising) meet(x, y *BGPAdvertisement) bool {
	if s, o := x.services, y.services; !s.Empty() && !o.Empty() && !sameSelector(s, o) {
		return false
	}
	pool := false
	for name := range a.pools {
		pool = pool || a.SelectsPool(&x.Selection, name) && a.SelectsPool(&y.Selection, name)
	}
	return pool && slices.ContainsFunc(a.peers, func(p plan.BGPPeer) bool {
		return has(x.Peers, p.Name) && has(y.Peers, p.Name) && anyOf(p.Nodes, func(node string) bool { return has(x.Nodes, node) && has(y.Nodes, node) })
	})
}

func has(set map[string]struct{}, name string) bool {
	_, in := set[name]
	return in
}

func anyOf(set map[string]struct{}, is func(string) bool) bool {
	for name := range set {
		if is(name) {
			return true
		}
	}
	return false
}
