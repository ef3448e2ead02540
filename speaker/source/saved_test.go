// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	gocmp "github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// until waits for a file to say something.
func untilSaved(t *testing.T, file, what string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if strings.Contains(string(b), what) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the file does not have %s: %s", what, b)
		}
	}
}

func TestAStartWithoutTheAPIServerKnowsWhatWasSaved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	kubernetes := service("kubernetes", false)
	kubernetes.UID = "cluster"
	objects := []client.Object{
		node("a"), service("web", true), endpointSlice("web-1", "web", readyOn("a")), kubernetes,
		lbip("192.0.2.1", heldBy("web"), claimed("a", 3)), lbip("192.0.2.2", heldBy("web")),
		pool("lan", map[string]string{"tier": "1"}), advertisement("lan"),
		speaker("a", func(s *v1alpha1.Speaker) { s.Status.Interfaces = []v1alpha1.Interface{{Name: "eth0"}} }),
	}
	var want seen
	t.Run("it is saved", func(t *testing.T) {
		c := newClusterWithFile(t, logr.Discard(), file).run(objects...)
		c.until("all of it", func(st State) bool { return len(st.Addresses) == 2 && len(st.Speakers) == 1 && !st.Saved })
		untilSaved(t, file, "192.0.2.2")
		untilSaved(t, file, "eth0")
		want = sorted(t, c.source.store)
	})

	// The same file, and nothing of the API server yet.
	c := newClusterWithFile(t, logr.Discard(), file)
	select {
	case <-c.source.Changed():
	default:
		t.Error("nothing has changed")
	}
	st, ok := c.source.State()
	if !ok || !st.Saved || st.Cluster != "cluster" || len(st.Changed) != 2 || !st.NodesChanged || !st.SpeakersChanged || !st.ScopesChanged {
		t.Fatalf("the state is %+v, %v", st, ok)
	}
	saved := sorted(t, c.source.before)
	want.Peers, saved.Peers = nil, nil // BGP may have been read later
	if diff := gocmp.Diff(want, saved, sameAddr); diff != "" {
		t.Errorf("saved (-want +got):\n%s", diff)
	}

	// An address was released meanwhile.
	c.run(node("a"), service("web", true), lbip("192.0.2.1", heldBy("web"), claimed("b", 4)))
	c.until("it is read", func(st State) bool {
		if st.Saved {
			return false
		}
		gone := netip.MustParseAddr("192.0.2.2")
		if !slices.Equal(st.Gone, []netip.Addr{gone}) || len(st.Changed) != 1 || !st.NodesChanged || !st.SpeakersChanged || !st.ScopesChanged {
			t.Errorf("the first state is %+v", st)
		}
		return true
	})
	if st, _ := c.source.State(); len(st.Gone) != 0 || st.NodesChanged {
		t.Errorf("told twice: %+v", st)
	}
}

func TestAFileThatCantBeReadIsToldAndPassedOver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(file, []byte("{\"nodes\":"), 0o600); err != nil {
		t.Fatal(err)
	}
	var logged []string
	c := newClusterWithFile(t, funcr.New(func(_, args string) { logged = append(logged, args) }, funcr.Options{}), file)
	if _, ok := c.source.State(); ok {
		t.Error("there is a state")
	}
	if len(logged) != 1 || !strings.Contains(logged[0], file) {
		t.Errorf("logged %q", logged)
	}
}

func TestAFolderThatCantBeWrittenEndsNothing(t *testing.T) {
	c := newClusterWithFile(t, logr.Discard(), filepath.Join(t.TempDir(), "absent", "state.json")).run(node("a"))
	c.until("the cluster is followed", func(st State) bool { return len(st.Nodes) == 1 })
	c.kinds["*v1.Node"].Add(node("b"))
	c.until("and goes on being", func(st State) bool { return len(st.Nodes) == 2 })
}

func TestWhatWasSavedOutlivesADiskThatIsFull(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	if err := replace(file, []byte("before")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", file+".partial"); err != nil {
		t.Fatal(err)
	}
	if err := replace(file, []byte("after")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the error is %v", err)
	}
	if b, err := os.ReadFile(file); string(b) != "before" || err != nil {
		t.Errorf("the file has %q, %v", b, err)
	}
}
