// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// sessions returns BGP sessions as a Speaker has them: sorted, no more than fit,
// and with whole seconds, so that they compare with what the API server gives
// back. Those that came to nothing try again and again by turns of the same
// states: as long as they fail for the same reason they stay as they are told.
func sessions(now, told []v1alpha1.BGPSession) []v1alpha1.BGPSession {
	all := make([]v1alpha1.BGPSession, 0, len(now))
	for _, s := range now {
		s.Since = s.Since.Rfc3339Copy()
		s.LastError = strings.ToValidUTF8(s.LastError[:min(len(s.LastError), v1alpha1.MaxSessionError)], "")
		at := slices.IndexFunc(told, func(t v1alpha1.BGPSession) bool { return t.Peer == s.Peer && t.Neighbor == s.Neighbor })
		if at >= 0 && failing(s) && failing(told[at]) && s.LastError == told[at].LastError && s.BFD == told[at].BFD {
			s = told[at]
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b v1alpha1.BGPSession) int {
		return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Neighbor, b.Neighbor))
	})
	return all[:min(len(all), v1alpha1.MaxSpeakerSessions)]
}

// failing tells whether a session is neither established nor held.
func failing(s v1alpha1.BGPSession) bool {
	return s.State != v1alpha1.BGPEstablished && s.State != v1alpha1.BGPHeld
}

// established names the sessions that are.
func established(sessions []v1alpha1.BGPSession) string {
	var names strings.Builder
	for _, s := range sessions {
		if s.State == v1alpha1.BGPEstablished {
			names.WriteString(s.Peer + " " + s.Neighbor + "\n")
		}
	}
	return names.String()
}
