// SPDX-License-Identifier: Apache-2.0

package report

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/speaker/link"
	"github.com/fairlead-lb/fairlead/speaker/preflight"
	"github.com/fairlead-lb/fairlead/speaker/source"
)

// state is what the Reporter was told last.
type state struct {
	links  []link.Link
	linked bool // they are known
	// conditions are those of the node's settings, none before they are known.
	conditions []metav1.Condition
	segments   []preflight.Segment
	meshed     bool // they are known
	sessions   []v1alpha1.BGPSession
	sessioned  bool // they are known
}

// desired returns the Speaker as it should be. What is not known yet stays.
func (s *state) desired(own source.Own) *v1alpha1.Speaker {
	want := &v1alpha1.Speaker{}
	if own.Speaker != nil {
		own.Speaker.Status.DeepCopyInto(&want.Status)
	}
	want.Status.Interfaces = interfaces(s.links, own.Interfaces)
	want.Spec.Endpoints = endpoints(s.links, want.Status.Interfaces)
	if s.sessioned {
		want.Status.BGP = sessions(s.sessions, want.Status.BGP)
	}
	found := slices.Clone(s.conditions)
	if s.meshed {
		found = append(found, preflight.Mesh(s.segments))
		want.Status.NotHeard = notHeard(s.segments)
	}
	if len(found) == 0 {
		return want
	}
	for _, c := range found {
		meta.SetStatusCondition(&want.Status.Conditions, c)
	}
	meta.SetStatusCondition(&want.Status.Conditions, preflight.Healthy(want.Status.Conditions))
	return want
}

// notHeard returns the nodes that are not heard on some network.
func notHeard(segments []preflight.Segment) []string {
	var names []string
	for _, s := range segments {
		names = append(names, s.NotHeard...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), v1alpha1.MaxSpeakerNotHeard)]
}

// flipped tells whether an interface is up that was down, a session established
// or a condition true that was not, or the reverse.
func flipped(before, after *v1alpha1.Speaker) bool {
	return established(before.Status.BGP) != established(after.Status.BGP) || slices.ContainsFunc(after.Status.Interfaces, func(a v1alpha1.Interface) bool {
		return slices.ContainsFunc(before.Status.Interfaces, func(b v1alpha1.Interface) bool { return a.Name == b.Name && a.Up != b.Up })
	}) || slices.ContainsFunc(after.Status.Conditions, func(a metav1.Condition) bool {
		b := meta.FindStatusCondition(before.Status.Conditions, a.Type)
		return b == nil || b.Status != a.Status
	})
}
