// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

func TestSessionsAreTold(t *testing.T) {
	bubble(t, with("192.0.2.1/24"), func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.1/24"))
		tell := func(state v1alpha1.BGPSessionState, lastError string, wait time.Duration) {
			s := v1alpha1.BGPSession{Peer: "tor", Neighbor: "192.0.2.254", State: state, Since: metav1.NewTime(time.Now().Add(time.Millisecond)), LastError: lastError}
			w.SetSessions([]v1alpha1.BGPSession{s})
			time.Sleep(wait)
			w.sync()
		}
		tell(v1alpha1.BGPConnect, "refused", 20*time.Second) // at once: it is the first
		for range 50 {                                       // it tries again and again
			tell(v1alpha1.BGPActive, "refused", time.Second)
			tell(v1alpha1.BGPOpenSent, "refused", time.Second)
		}
		if s := w.stored().Status.BGP[0]; s.State != v1alpha1.BGPConnect || !s.Since.Time.Equal(w.start) {
			t.Errorf("it tells %+v", s)
		}
		tell(v1alpha1.BGPActive, "wrong AS", time.Second)          // at 2m: for another reason
		tell(v1alpha1.BGPEstablished, "wrong AS", 2*time.Second)   // at once: it flipped
		tell(v1alpha1.BGPActive, "hold time is over", time.Second) // so it did again
		tell(v1alpha1.BGPHeld, "no Secret", time.Hour)             // after 10s
		w.wantWrites("patch at 0s", "patch at 2m0s", "patch at 2m1s", "patch at 2m3s", "patch at 2m13s")
		if s := w.stored().Status.BGP; len(s) != 1 || s[0].State != v1alpha1.BGPHeld || s[0].LastError != "no Secret" {
			t.Errorf("it tells %+v", s)
		}
	})
}

func TestSessionsStayUntilTheyAreKnown(t *testing.T) {
	before := with("192.0.2.1/24")
	before.Status.BGP = []v1alpha1.BGPSession{{Peer: "tor", State: v1alpha1.BGPEstablished, Since: metav1.Unix(0, 0)}}
	bubble(t, before, func(w *world) {
		w.sync()
		w.SetLinks(at("192.0.2.2/24"))
		time.Sleep(time.Minute)
		w.sync()
		if s := w.stored().Status.BGP; len(s) != 1 {
			t.Errorf("it tells %+v", s)
		}
		w.SetSessions(nil)
		time.Sleep(time.Minute)
		w.sync()
		if s := w.stored().Status.BGP; len(s) != 0 {
			t.Errorf("it tells %+v", s)
		}
		time.Sleep(time.Minute)
		w.wantWrites("spec at 0s", "patch at 0s", "patch at 1m0s")
	})
}

func TestSessionsFitIntoTheirList(t *testing.T) {
	var many []v1alpha1.BGPSession
	for i := range 2 * v1alpha1.MaxSpeakerSessions {
		many = append(many, v1alpha1.BGPSession{Peer: "p", Neighbor: fmt.Sprint(999 - i), LastError: strings.Repeat("é", v1alpha1.MaxSessionError)})
	}
	got := sessions(many, nil)
	if len(got) != v1alpha1.MaxSpeakerSessions || got[0].Neighbor != many[len(many)-1].Neighbor || len(got[0].LastError) > v1alpha1.MaxSessionError {
		t.Errorf("got %d, the first is %+v", len(got), got[0])
	}
	odd := sessions([]v1alpha1.BGPSession{{LastError: "x" + strings.Repeat("é", v1alpha1.MaxSessionError)}}, nil)[0].LastError
	if strings.ContainsRune(odd, '\uFFFD') || len(odd) != v1alpha1.MaxSessionError-1 {
		t.Errorf("a character was cut: %q", odd)
	}
}
