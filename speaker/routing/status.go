// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

// report tells the sessions.
func (r *Routing) report() {
	peers, _, _, _, ok := r.snapshot()
	if !ok {
		return
	}
	var sessions []v1alpha1.BGPSession
	held := map[string]time.Time{}
	hold := func(peer, reason, message string) {
		since, ok := r.held[peer]
		if !ok {
			since = time.Now()
		}
		held[peer] = since
		sessions = append(sessions, v1alpha1.BGPSession{
			Peer: peer, State: v1alpha1.BGPHeld, Since: metav1.NewTime(since), Reason: reason, LastError: message,
		})
	}
	for _, p := range peers {
		if p.Held != nil {
			hold(p.Name, string(p.Held.Reason), p.Held.Message)
		}
	}
	for _, st := range r.announcer.Status() {
		if st.Refusal == (bgp.Refusal{}) {
			sessions = append(sessions, session(st))
			continue
		}
		// A peer that has sessions, too, lacks only a part of what it asks for.
		partly := false
		for i := range sessions {
			if s := &sessions[i]; s.Peer == st.Refusal.Peer && s.State != v1alpha1.BGPHeld {
				partly = true
				s.Reason, s.LastError = string(st.Refusal.Reason), st.Refusal.Message
			}
		}
		if !partly {
			hold(st.Refusal.Peer, string(st.Refusal.Reason), st.Refusal.Message)
		}
	}
	r.held = held
	r.tell(sessions)
}

func session(st bgp.Status) v1alpha1.BGPSession {
	s := v1alpha1.BGPSession{
		Peer: st.Key.Peer, Neighbor: st.Key.Neighbor.String(), State: v1alpha1.BGPSessionState(st.State.String()),
		Since: metav1.NewTime(st.Since), BFD: v1alpha1.BFDState(st.BFD.String()), LastError: st.LastError,
	}
	if st.State == bgp.Established {
		if st.Families.IPv4 {
			s.Families = append(s.Families, v1alpha1.BGPFamilyIPv4)
		}
		if st.Families.IPv6 {
			s.Families = append(s.Families, v1alpha1.BGPFamilyIPv6)
		}
	}
	return s
}
