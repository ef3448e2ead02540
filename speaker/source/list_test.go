// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// listed returns what a lister makes of an answer of the API server.
func listed(t *testing.T, answer http.HandlerFunc) (*metav1.List, error) {
	t.Helper()
	server := httptest.NewServer(answer)
	defer server.Close()
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLister(&rest.Config{Host: server.URL}, scheme)
	if err != nil {
		t.Fatal(err)
	}
	list, err := l.listAddresses(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	return list.(*metav1.List), nil
}

func TestAddressesAreListedAsTheyWouldBeWatched(t *testing.T) {
	want := v1alpha1.LoadBalancerIPList{ListMeta: metav1.ListMeta{ResourceVersion: "77", Continue: "more"}}
	for i := range 3 {
		p := lbip(fmt.Sprintf("192.0.2.%d", i), heldBy("web"), claimed("a", 3))
		p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "fairlead-controller", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}}
		want.Items = append(want.Items, *p)
	}
	got, err := listed(t, func(w http.ResponseWriter, r *http.Request) {
		if path := r.URL.Path; path != "/apis/fairlead.dev/v1alpha1/loadbalancerips" || r.URL.Query().Get("resourceVersion") != "0" {
			t.Errorf("asked for %s", r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(want); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.ResourceVersion != "77" || got.Continue != "more" || len(got.Items) != len(want.Items) {
		t.Fatalf("got %+v", got)
	}
	for i := range want.Items {
		if diff := cmp.Diff(keepIP(&want.Items[i]), got.Items[i].Object, cmp.AllowUnexported(ip{}, kept{}), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("item %d (-watched +listed):\n%s", i, diff)
		}
	}
}

func TestAListThatCantBeReadIsAnError(t *testing.T) {
	for name, body := range map[string]string{
		"empty":                 ``,
		"no object":             `[]`,
		"cut off in an item":    `{"items":[{"metadata":{"na`,
		"cut off between items": `{"items":[{"metadata":{"name":"a"}}`,
		"cut off at the end":    `{"items":[],"metadata":{"resourceVersion":"1"}`,
		"items are no list":     `{"items":{},"metadata":{"resourceVersion":"1"}}`,
		"of no version":         `{"items":[],"metadata":{}}`,
		"of another type":       `{"items":[{"status":{"l2":{"term":"high"}}}],"metadata":{"resourceVersion":"1"}}`,
	} {
		if list, err := readAddresses(strings.NewReader(body)); err == nil {
			t.Errorf("%s: got %+v", name, list)
		}
	}
	if list, err := readAddresses(strings.NewReader(`{"kind":"List","items":null,"metadata":{"resourceVersion":"1"}}`)); err != nil || len(list.Items) != 0 {
		t.Errorf("no items: got %+v, %v", list, err)
	}
}

// Whoever is told no has to know: the standing of the speaker depends on it.
func TestARefusalKeepsItsReason(t *testing.T) {
	_, err := listed(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(apierrors.NewForbidden(v1alpha1.GroupVersion.WithResource("loadbalancerips").GroupResource(), "", context.Canceled).Status())
	})
	if !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
}

func TestOtherKindsAreListedStripped(t *testing.T) {
	c := newCluster(t, logr.Discard())
	fake := c.kind(service("web", false))
	fake.Add(service("web", false))
	l := &lister{}
	informer := l.informer(fake, service("", false), 0, nil)
	go informer.RunWithContext(t.Context())
	<-informer.HasSyncedChecker().Done()
	if got := informer.GetStore().List(); len(got) != 1 {
		t.Errorf("got %v", got)
	} else if _, ok := got[0].(*keptService); !ok {
		t.Errorf("got %T", got[0])
	}
}

func FuzzReadAddresses(f *testing.F) {
	f.Add(`{"kind":"LoadBalancerIPList","items":[{"metadata":{"name":"a"},"spec":{"address":"192.0.2.1"}}],"metadata":{"resourceVersion":"1"}}`)
	f.Fuzz(func(t *testing.T, body string) {
		if list, err := readAddresses(strings.NewReader(body)); err == nil && list.ResourceVersion == "" {
			t.Errorf("no version in %q", body)
		}
	})
}
