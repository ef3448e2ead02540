// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

func TestCachesKeepWhatIsRead(t *testing.T) {
	t.Run("of a Service all but its history", func(t *testing.T) {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
			Annotations:   map[string]string{v1alpha1.AnnotationAddresses: "192.0.2.1", corev1.LastAppliedConfigAnnotation: "{}"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		}}
		if _, err := strip(svc); err != nil {
			t.Fatal(err)
		}
		if len(svc.Annotations) != 1 || svc.Annotations[v1alpha1.AnnotationAddresses] == "" || svc.ManagedFields != nil {
			t.Errorf("left %+v", svc.ObjectMeta)
		}
	})
	t.Run("of endpoints what placement looks at", func(t *testing.T) {
		es := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Ports:      []discoveryv1.EndpointPort{{Port: new(int32(80))}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.0.0.1"}, NodeName: new("n1"), Conditions: discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}},
				{Addresses: []string{"10.0.0.2"}, NodeName: new("n2"), Conditions: discoveryv1.EndpointConditions{Ready: new(true)}},
			},
		}
		before := kube.Endpoints(es)
		if _, err := stripEndpoints(es); err != nil {
			t.Fatal(err)
		}
		if after := kube.Endpoints(es); !slices.Equal(before, after) || kube.ServiceOf(es).Name != "web" {
			t.Errorf("endpoints of %s are %v, were %v", kube.ServiceOf(es), after, before)
		}
		if es.Ports != nil || es.Endpoints[0].Addresses != nil {
			t.Errorf("left %+v", es)
		}
	})
	t.Run("of a Node what placement looks at", func(t *testing.T) {
		node := &corev1.Node{Status: corev1.NodeStatus{
			Images:     []corev1.ContainerImage{{SizeBytes: 1}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}}
		if _, err := stripNode(node); err != nil {
			t.Fatal(err)
		}
		if !kube.Node(node).Ready || node.Status.Images != nil {
			t.Errorf("left %+v", node.Status)
		}
	})
	t.Run("of a deletion that the watch missed all", func(t *testing.T) {
		missed := toolscache.DeletedFinalStateUnknown{Key: "default/web"}
		for _, transform := range []toolscache.TransformFunc{strip, stripNode, stripEndpoints} {
			if got, err := transform(missed); err != nil || got != missed {
				t.Errorf("made of it %v, %v", got, err)
			}
		}
	})
}
