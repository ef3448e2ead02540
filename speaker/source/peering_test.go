// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	fakesource "k8s.io/client-go/tools/cache/testing"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/plan/kube"
)

func bgpPeer(name string, edits ...func(*v1alpha1.BGPPeerSpec)) *v1alpha1.BGPPeer {
	p := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.PeerASN, p.Spec.LocalASN, p.Spec.PeerAddress = "64513", new(int64(64512)), "192.0.2.254"
	for _, edit := range edits {
		edit(&p.Spec)
	}
	return p
}

func withPassword(secret string) func(*v1alpha1.BGPPeerSpec) {
	return func(s *v1alpha1.BGPPeerSpec) { s.PasswordSecretRef = &v1alpha1.PasswordSecret{Name: secret} }
}

// knowing makes a store complete in everything.
func knowing(s *store) *store {
	s.completeBGP()
	return s
}

// What can't be read of BGP must not keep addresses from layer 2, nor let them
// out to peers that an advertisement would keep them from.
func TestLayer2DoesNotWaitForBGP(t *testing.T) {
	c := newCluster(t, logr.Discard())
	c.kinds["*v1alpha1.BGPAdvertisement"].ListError = errors.New("the server could not find the requested resource")
	addr := netip.MustParseAddr("192.0.2.1")
	c.run(node("a"), service("web", false), lbip("192.0.2.1", heldBy("web")), bgpPeer("tor"))
	c.until("the address is there", func(st State) bool {
		if st.Peering != nil || st.PeeringChanged || st.Addresses[addr].BGP != nil {
			t.Errorf("BGP is known: %+v", st)
		}
		return len(st.Addresses) == 1
	})

	other := newCluster(t, logr.Discard()).run(node("a"), service("web", false), lbip("192.0.2.1", heldBy("web")), bgpPeer("tor"))
	other.until("BGP is known", func(st State) bool {
		return st.PeeringChanged && len(st.Peering.Of("a")) == 1 && st.Addresses[addr].BGP != nil
	})
}

func TestWhatMattersToBGPIsAChange(t *testing.T) {
	s := filled(node("a"), service("web", false), lbip("192.0.2.1", heldBy("web")))
	addr := netip.MustParseAddr("192.0.2.1")
	asn := func(asn string) *corev1.Node {
		return node("a", func(n *corev1.Node) { n.Annotations = map[string]string{v1alpha1.AnnotationBGPASN: asn} })
	}
	if change(s, bgpPeer("tor"), false) || change(s, endpointSlice("x", "web", readyOn("a")), false) {
		t.Error("it is told before everything is known")
	}
	knowing(s)
	st, _ := s.state()
	if !st.PeeringChanged || !st.Addresses[addr].Services[0].Backed || st.Addresses[addr].BGP == nil {
		t.Errorf("the first state is %+v", st.Addresses[addr])
	}
	notReady := readyOn("a")
	notReady.Conditions.Ready = new(false)
	ipv6 := endpointSlice("y", "web", readyOn("a"))
	ipv6.AddressType = "IPv6"
	for _, tt := range []struct {
		name    string
		do      func() bool
		told    bool
		changed int // addresses
		peering bool
		backed  bool
	}{
		{"another endpoint", func() bool { return change(s, endpointSlice("x", "web", readyOn("b"), readyOn("a")), false) }, false, 0, false, true},
		{"no ready endpoint", func() bool { return change(s, endpointSlice("x", "web", notReady), false) }, true, 1, false, false},
		{"an endpoint of the other family", func() bool { return change(s, ipv6, false) }, true, 1, false, false},
		{"a slice more", func() bool { return change(s, endpointSlice("z", "web", readyOn("b")), false) }, true, 1, false, true},
		{"and its end", func() bool { return change(s, endpointSlice("z", "web", readyOn("b")), true) }, true, 1, false, false},
		{"a peer's timers", func() bool {
			return change(s, bgpPeer("tor", func(s *v1alpha1.BGPPeerSpec) { s.Passive = true }), false)
		}, true, 0, true, false},
		{"an AS of the node", func() bool { return change(s, asn("64999"), false) }, true, 0, true, false},
		{"the same AS", func() bool { return change(s, asn("64999"), false) }, false, 0, false, false},
		{"a BFDProfile", func() bool { return change(s, &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "f"}}, false) }, true, 0, true, false},
		{"a password", func() bool { return s.setPassword("x", kube.Password{Value: "x"}) }, true, 0, true, false},
		{"what a peer's sessions are", func() bool {
			p := bgpPeer("tor", func(s *v1alpha1.BGPPeerSpec) { s.Passive = true })
			p.ResourceVersion = "2"
			return change(s, p, false)
		}, false, 0, false, false},
		{"a peer's labels", func() bool {
			p := bgpPeer("tor", func(s *v1alpha1.BGPPeerSpec) { s.Passive = true })
			p.Labels = map[string]string{"rack": "1"}
			return change(s, p, false)
		}, true, 0, true, false},
		{"another peer", func() bool { return change(s, bgpPeer("spine"), false) }, true, 1, true, false},
		{"an advertisement", func() bool {
			return change(s, &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, false)
		}, true, 1, false, false},
		{"an advertisement's conditions", func() bool {
			return change(s, &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "x", ResourceVersion: "2"}}, false)
		}, false, 0, false, false},
		{"no peer at all", func() bool { return change(s, bgpPeer("spine"), true) && change(s, bgpPeer("tor"), true) }, true, 1, true, false},
		{"endpoints without a peer", func() bool { return change(s, endpointSlice("x", "web", readyOn("a")), false) }, false, 0, false, false},
		{"a peer again", func() bool { return change(s, bgpPeer("tor"), false) }, true, 1, true, true},
		{"a peer that is made anew while endpoints go", func() bool {
			change(s, bgpPeer("tor"), true)
			change(s, endpointSlice("x", "web", notReady), false)
			return change(s, bgpPeer("tor"), false)
		}, true, 1, true, false},
	} {
		told := tt.do()
		st, _ := s.state()
		if told != tt.told || len(st.Changed) != tt.changed || st.PeeringChanged != tt.peering || st.Addresses[addr].Services[0].Backed != tt.backed {
			t.Errorf("%s: told %v, changed %v, peering %v, backed %v", tt.name, told, st.Changed, st.PeeringChanged, st.Addresses[addr].Services[0].Backed)
		}
	}
}

// secret of the type that passwords are in.
func secret(password string, edits ...func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "fairlead", Name: "tor"}, Type: corev1.SecretTypeBasicAuth}
	s.Data = map[string][]byte{"password": []byte(password)}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

func TestPasswordsAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := map[string]*fakesource.FakeControllerSource{"tor": fakesource.NewFakeControllerSource(), "unread": fakesource.NewFakeControllerSource()}
		secrets := NewSecrets("fairlead", []string{"tor", "unread"}, func(name string) toolscache.ListerWatcher { return api[name] })
		src := New(logr.Discard(), nil, "", secrets, func() {})
		s := src.store
		change(s, node("a"), false)
		change(s, bgpPeer("tor", withPassword("tor")), false)
		change(s, bgpPeer("unread", withPassword("unread")), false)
		s.reach(complete)
		s.completeBGP()
		says := func(what, password string, reasons ...kube.Reason) {
			t.Helper()
			synctest.Wait()
			st, _ := s.state()
			for i, p := range st.Peering.Of("a") {
				var reason kube.Reason
				if p.Held != nil {
					reason = p.Held.Reason
				}
				if reason != reasons[i] || i == 0 && p.Password != password {
					t.Errorf("%s: %s has password %q, held by %+v", what, p.Name, p.Password, p.Held)
				}
			}
		}
		says("before it is asked for", "", kube.SecretNotRead, kube.SecretNotRead)
		api["unread"].ListError = errors.New("secrets \"unread\" is forbidden")
		done := make(chan error)
		go func() { done <- secrets.Run(t.Context()) }()
		says("it isn't there", "", kube.SecretNotFound, kube.SecretNotRead)
		select {
		case <-src.Changed():
		default:
			t.Error("that is not told")
		}
		api["tor"].Add(secret("one"))
		says("it is made", "one", "", kube.SecretNotRead)
		api["tor"].Modify(secret("two"))
		says("it is changed", "two", "", kube.SecretNotRead)
		api["tor"].ListError = errors.New("connection refused")
		api["tor"].ResetWatch()
		time.Sleep(time.Minute)
		says("the API server is away", "two", "", kube.SecretNotRead)
		api["tor"].ListError = nil
		time.Sleep(time.Minute)
		api["tor"].Modify(secret("three", func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }))
		says("it is of another type", "", kube.SecretInvalid, kube.SecretNotRead)
		api["tor"].Delete(secret(""))
		says("it is deleted", "", kube.SecretNotFound, kube.SecretNotRead)
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
			for _, a := range api {
				a.Broadcaster.Shutdown()
			}
		})
	})
}

func TestSessionsAreSavedWithoutTheirPasswords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "state.json")
		c := newClusterWithFile(t, logr.Discard(), file)
		c.source.store.setPassword("tor", kube.Password{Value: "most secret"})
		c.run(node("a"), service("web", false), endpointSlice("web-1", "web", readyOn("a")), lbip("192.0.2.1", heldBy("web")), pool("lan", nil),
			bgpPeer("tor", withPassword("tor"), func(s *v1alpha1.BGPPeerSpec) { s.BFDProfile = "fast" }),
			&v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "public"}, Spec: v1alpha1.BGPAdvertisementSpec{Pools: []string{"lan"}}},
			&v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "fast"}})
		time.Sleep(3 * saveInterval)
		if b, err := os.ReadFile(file); err != nil || strings.Contains(string(b), "most secret") {
			t.Fatalf("the file has %s, %v", b, err)
		}
		before, err := load(file)
		if err != nil {
			t.Fatal(err)
		}
		want := sorted(t, c.source.store)
		tor := &want.Peers["a"][0]
		tor.Password, tor.Held = "", &kube.Problem{Reason: kube.SecretNotRead, Message: "Secret tor has not been read yet"}
		before.setPassword("tor", kube.PasswordUnread("tor", nil))
		if diff := gocmp.Diff(want, sorted(t, before), sameAddr); diff != "" {
			t.Errorf("saved (-want +got):\n%s", diff)
		}
		if a := want.Addresses[0]; a.BGP == nil || !slices.Equal(a.BGP.Advertisements, []string{"public"}) || tor.BFD == nil {
			t.Errorf("compared nothing: %+v", want)
		}
	})
}
