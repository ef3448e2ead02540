// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

// Reasons of a BGPPeer's condition, beside those that a Speaker gives for a
// session that is held.
const (
	reasonPeerEstablished  = "Established"     // every session that is expected is established
	reasonPeerDown         = "NotEstablished"  // a session is not, and the message has its last error
	reasonPeerInvalid      = "InvalidSelector" // the selector can't be read, and selects nothing
	reasonPeerNoNode       = "NoNode"          // there is no node that it selects
	reasonPeerNoSpeaker    = "NoSpeaker"       // no speaker has told of a node that it selects
	reasonPeerNoBFDProfile = "NoBFDProfile"    // there is no such BFDProfile: the sessions are established without BFD
)

// Reasons of events about a BGPPeer.
const (
	eventSessionEstablished = "SessionEstablished"
	eventSessionLost        = "SessionLost"
)

func (c *Controller) peerEvents() toolscache.ResourceEventHandlerFuncs {
	changed := func() { c.config.Add(request(nodesChanged)) }
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() },
		UpdateFunc: func(before, after any) {
			b, a := before.(*v1alpha1.BGPPeer), after.(*v1alpha1.BGPPeer)
			switch {
			case b.Generation != a.Generation || b.UID != a.UID || !maps.Equal(b.Labels, a.Labels):
				changed()
			case !equality.Semantic.DeepEqual(b.Status, a.Status):
				c.config.Add(request(peersChanged)) // somebody may have edited it
			}
		},
		DeleteFunc: func(any) { changed() },
	}
}

// reconcilePeers takes a change of sessions, and of what they are expected by.
func (c *Controller) reconcilePeers(ctx context.Context) error {
	changed, err := c.readSessions(ctx)
	if err != nil {
		return err
	}
	if changed {
		c.enqueueHolders(c.ledger.known(), true)
	}
	return c.tellPeers(ctx)
}

// sessions are the BGP sessions that are established, as Speakers tell. Nobody
// changes one.
type sessions map[sessionKey]families

type sessionKey struct{ node, peer string }

// families are those that a session, or one of several, carries.
type families struct{ ipv4, ipv6 bool }

func (f families) has(addr netip.Addr) bool { return addr.Is4() && f.ipv4 || addr.Is6() && f.ipv6 }

// readSessions takes the sessions from the cache, and reports whether other ones
// are established than before. What a node that is not Ready told last is old.
func (c *Controller) readSessions(ctx context.Context) (changed bool, err error) {
	var speakers v1alpha1.SpeakerList
	if err := c.client.List(ctx, &speakers); err != nil {
		return false, err
	}
	on, now := c.terrain.Load(), sessions{}
	for i := range speakers.Items {
		speaker := &speakers.Items[i]
		for _, s := range speaker.Status.BGP {
			if s.State != v1alpha1.BGPEstablished || !on.ready(speaker.Name) {
				continue
			}
			key := sessionKey{speaker.Name, s.Peer}
			f := now[key]
			f.ipv4 = f.ipv4 || slices.Contains(s.Families, v1alpha1.BGPFamilyIPv4)
			f.ipv6 = f.ipv6 || slices.Contains(s.Families, v1alpha1.BGPFamilyIPv6)
			now[key] = f
		}
	}
	before := c.sessions.Swap(&now)
	if before != nil {
		err = c.tellSessions(ctx, *before, now)
	}
	return before == nil || !maps.Equal(*before, now), err
}

// tellSessions has events say which sessions are established now, or no longer.
func (c *Controller) tellSessions(ctx context.Context, before, now sessions) error {
	tell := func(from, to sessions, kind, reason, text string) error {
		for key := range from {
			if _, is := to[key]; is {
				continue
			}
			var peer v1alpha1.BGPPeer
			if err := c.client.Get(ctx, client.ObjectKey{Name: key.peer}, &peer); client.IgnoreNotFound(err) != nil {
				return err
			} else if err == nil {
				c.teller.tell(&peer, kind, reason, fmt.Sprintf(text, key.node))
			}
		}
		return nil
	}
	return errors.Join(
		tell(now, before, corev1.EventTypeNormal, eventSessionEstablished, "the session of node %s is established"),
		tell(before, now, corev1.EventTypeWarning, eventSessionLost, "the session of node %s is established no longer"),
	)
}

// ready tells whether there is such a node and its kubelet is heard.
func (t *terrain) ready(name string) bool {
	return slices.ContainsFunc(t.nodes, func(n plan.Node) bool { return n.Name == name && n.Ready })
}

// carry tells whether a node that announces the address has a session with a
// peer that it goes to.
func (s *sessions) carry(a *plan.Address, nodes []plan.Node) bool {
	if s == nil || len(*s) == 0 {
		return false
	}
	for i := range nodes {
		does, _ := plan.BGP(a, &nodes[i], nodes)
		if slices.ContainsFunc(does.Peers(), func(peer string) bool { return (*s)[sessionKey{nodes[i].Name, peer}].has(a.Addr) }) {
			return true
		}
	}
	return false
}

// tellPeers writes the status of BGPPeers that changed.
func (c *Controller) tellPeers(ctx context.Context) error {
	var peers v1alpha1.BGPPeerList
	if err := c.client.List(ctx, &peers); err != nil || len(peers.Items) == 0 {
		return err
	}
	var speakers v1alpha1.SpeakerList
	var profiles v1alpha1.BFDProfileList
	if err := errors.Join(c.client.List(ctx, &speakers), c.client.List(ctx, &profiles)); err != nil {
		return err
	}
	slices.SortFunc(speakers.Items, func(a, b v1alpha1.Speaker) int { return cmp.Compare(a.Name, b.Name) })
	on := c.terrain.Load()
	var failed []error
	for i := range peers.Items {
		obj := &peers.Items[i]
		at := slices.IndexFunc(on.advertising.BGPPeers(), func(p plan.BGPPeer) bool { return p.Name == obj.Name })
		if at < 0 {
			continue // it is read in a moment, and then comes back
		}
		t := on.tally(obj, on.advertising.BGPPeers()[at].Nodes, speakers.Items)
		hasProfile := slices.ContainsFunc(profiles.Items, func(p v1alpha1.BFDProfile) bool { return p.Name == obj.Spec.BFDProfile })
		updated := obj.DeepCopy()
		updated.Status.Sessions = &t.count
		cond := t.condition(obj, hasProfile)
		cond.LastTransitionTime, cond.ObservedGeneration = metav1.NewTime(c.now()), obj.Generation
		meta.SetStatusCondition(&updated.Status.Conditions, cond)
		failed = append(failed, c.patchStatus(ctx, obj, updated, equality.Semantic.DeepEqual(obj.Status, updated.Status)))
	}
	return errors.Join(failed...)
}

// sessionTally is what nodes tell of their sessions with a peer.
type sessionTally struct {
	count           v1alpha1.SessionCount
	selected, heard int // nodes
	// worst is the first session that is not established, of worstNode.
	worst     *v1alpha1.BGPSession
	worstNode string
	// partial says what the first session that is established lacks.
	partial string
}

// tally counts the sessions with a peer. The Speakers are sorted.
func (t *terrain) tally(obj *v1alpha1.BGPPeer, selected map[string]struct{}, speakers []v1alpha1.Speaker) sessionTally {
	sum := sessionTally{selected: len(selected)}
	for i := range speakers {
		speaker := &speakers[i]
		if _, is := selected[speaker.Name]; !is {
			continue
		}
		sum.heard++
		told := int32(0)
		for j := range speaker.Status.BGP {
			s := &speaker.Status.BGP[j]
			if s.Peer != obj.Name {
				continue
			}
			told++
			switch {
			case !t.ready(speaker.Name):
				sum.down(speaker.Name, &v1alpha1.BGPSession{Neighbor: s.Neighbor, LastError: "the node is not Ready, and what it told last is old"})
			case s.State == v1alpha1.BGPEstablished:
				sum.count.Established++
				if s.Reason != "" && sum.partial == "" {
					sum.partial = "; of node " + speaker.Name + " a part is missing: " + s.LastError
				}
			default:
				sum.down(speaker.Name, s)
			}
		}
		if told == 0 {
			sum.down(speaker.Name, &v1alpha1.BGPSession{LastError: "its speaker has told of none yet"})
		}
		sum.count.Expected += max(told, 1)
	}
	return sum
}

func (t *sessionTally) down(node string, s *v1alpha1.BGPSession) {
	// That a session is held is somebody's to change, so it is told first.
	if t.worst == nil || t.worst.Reason == "" && s.Reason != "" {
		t.worst, t.worstNode = s, node
	}
}

// condition returns the condition of a peer.
func (t *sessionTally) condition(obj *v1alpha1.BGPPeer, hasProfile bool) metav1.Condition {
	cond := metav1.Condition{Type: v1alpha1.BGPPeerReady, Status: metav1.ConditionFalse}
	_, invalid := kube.PeerNodes(obj)
	switch {
	case invalid != nil:
		cond.Reason, cond.Message = reasonPeerInvalid, invalid.Error()+"; until it is corrected it selects nothing"
	case t.selected == 0:
		cond.Reason, cond.Message = reasonPeerNoNode, "spec.nodeSelector selects no node that there is"
		if obj.Spec.NodeSelector == nil {
			cond.Message = "there is no node"
		}
	case t.heard == 0:
		cond.Reason, cond.Message = reasonPeerNoSpeaker, "no speaker has told of a node that it selects"
	case t.worst != nil:
		with := ""
		if t.worst.Neighbor != "" {
			with = " with " + t.worst.Neighbor
		}
		cond.Reason = cmp.Or(t.worst.Reason, reasonPeerDown)
		cond.Message = fmt.Sprintf("%d of %d sessions are established; that of node %s%s is not: %s",
			t.count.Established, t.count.Expected, t.worstNode, with, cmp.Or(t.worst.LastError, "it is being begun"))
	case obj.Spec.BFDProfile != "" && !hasProfile:
		cond.Reason, cond.Message = reasonPeerNoBFDProfile, "there is no BFDProfile "+obj.Spec.BFDProfile+": the sessions are established without BFD"
	default:
		cond.Status, cond.Reason, cond.Message = metav1.ConditionTrue, reasonPeerEstablished, "every session is established"+t.partial
	}
	cond.Message = brief(cond.Message)
	return cond
}
