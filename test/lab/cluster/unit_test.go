// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestPoolRangesAreOnTheirLANAndFreeAndApart(t *testing.T) {
	var used []netip.Prefix
	for group := range byte(4) {
		for number := range byte(17) {
			v4, v6 := lanAddrs(Dual, group, number)
			second4, second6 := secondLANAddrs(Dual, group, number)
			used = append(used, onHost(v4), onHost(v6), onHost(second4), onHost(second6))
		}
	}
	for i := range PoolRanges {
		v4, v6 := PoolRange(i)
		second4, second6 := SecondPoolRange(i)
		for _, p := range []struct{ pool, lan netip.Prefix }{{v4, LAN4}, {v6, LAN6}, {second4, SecondLAN4}, {second6, SecondLAN6}} {
			if p.pool != p.pool.Masked() || !p.lan.Contains(p.pool.Addr()) || p.pool.Bits() <= p.lan.Bits() {
				t.Errorf("range %d: %s is not a network within %s", i, p.pool, p.lan)
			}
			for _, u := range used {
				if u.Overlaps(p.pool) {
					t.Errorf("range %d: %s overlaps %s", i, p.pool, u)
				}
			}
			used = append(used, p.pool)
		}
	}
}

func TestALabThatCannotBeIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		cfg        Config
	}{
		{"a name that is a path", "lab name", Config{Name: "../x"}},
		{"too many nodes", "17 nodes", Config{Nodes: 17}},
		{"a negative number of nodes", "-1 nodes", Config{Nodes: -1}},
		{"an unknown proxy mode", "proxy mode", Config{ProxyMode: "ipvs"}},
		{"an unknown family", "family", Config{Family: "IPv5"}},
		{"a grace shorter than the heartbeat allows", "node grace", Config{NodeGrace: time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Start(t.Context(), tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestTheStateOfALivingLabIsRefusedAndThatOfACrashedOneIsSwept(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s, err := takeState("x")
	if err != nil {
		t.Fatal(err)
	}
	var running *RunningError
	if _, err := takeState("x"); !errors.As(err, &running) || running.PID != os.Getpid() {
		t.Errorf("second taker: %v, want a RunningError of this process", err)
	}
	if err := Sweep("x"); !errors.As(err, &running) {
		t.Errorf("Sweep of a living lab: %v, want a RunningError", err)
	}
	if err := os.WriteFile(s.dir+"/left", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.lock.Close() // as a crash does

	if names, err := List(); err != nil || !cmp.Equal(names, []string{"x"}) {
		t.Errorf("List: %v, %v", names, err)
	}
	if s, err = takeState("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.dir + "/left"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the crashed lab's file is still there: %v", err)
	}
	if err := s.release(false); err != nil {
		t.Fatal(err)
	}
	if err := Sweep("x"); err != nil {
		t.Errorf("Sweep of nothing: %v", err)
	}
	if entries, err := os.ReadDir(stateRoot()); err != nil || len(entries) != 0 {
		t.Errorf("left in the state folder: %v, %v", entries, err)
	}
}

func TestOnlyWhatCrashedLongAgoIsSweptUnasked(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	longAgo := time.Now().Add(-2 * keepCrashed)
	for _, lab := range []struct {
		name         string
		old, crashed bool
	}{{"old-running", true, false}, {"old-crashed", true, true}, {"new-crashed", false, true}} {
		s, err := takeState(lab.name)
		if err != nil {
			t.Fatal(err)
		}
		defer s.lock.Close()
		if lab.crashed {
			s.lock.Close()
		}
		if lab.old {
			if err := os.Chtimes(s.dir, longAgo, longAgo); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweepOld()
	names, err := List()
	if diff := cmp.Diff([]string{"new-crashed", "old-running"}, names); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestAFolderThatIsClosedOrSomebodyElsesIsRefused(t *testing.T) {
	tmp, err := os.MkdirTemp("/tmp", "lab") // the tests' own folders are below a closed one
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	t.Setenv("TMPDIR", tmp)
	if err := makeStateRoot(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		mode os.FileMode
		ok   bool
	}{{0o711, true}, {0o700, false}} {
		if err := os.Chmod(tmp, tt.mode); err != nil {
			t.Fatal(err)
		}
		if err := checkPassable(stateRoot()); (err == nil) != tt.ok {
			t.Errorf("mode %o: %v", tt.mode, err)
		}
	}
	if err := os.Chown(stateRoot(), 65532, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := takeState("x"); err == nil || !strings.Contains(err.Error(), "not a folder of this user") {
		t.Errorf("somebody else's folder: %v", err)
	}
}

func TestExpandFollowsTheContainerReference(t *testing.T) {
	values := map[string]string{"A": "one", "B": "two"}
	for in, want := range map[string]string{
		"":                "",
		"plain":           "plain",
		"--x=$(A)-$(B)":   "--x=one-two",
		"$(UNKNOWN) $(A)": "$(UNKNOWN) one",
		"$$(A)":           "$(A)",
		"cost: 5$":        "cost: 5$",
		"$HOME and $(A":   "$HOME and $(A",
		"$$$(A)":          "$one",
		"$()":             "$()",
	} {
		if got := expand(in, values); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestAContainerRunsAsAProcessWithItsArgumentsEnvironmentAndRights(t *testing.T) {
	p := pod{name: "p-1", namespace: "ns", node: "node1", account: "sa", addr: "10.89.1.1"}
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	for _, tt := range []struct {
		name         string
		spec         corev1.PodSpec
		command, env []string
		err          string
	}{
		{
			name: "plain",
			spec: corev1.PodSpec{Containers: []corev1.Container{{
				Args: []string{"--node=$(NODE)", "-v"},
				Env:  []corev1.EnvVar{field("NODE", "spec.nodeName"), field("IP", "status.hostIP"), {Name: "URL", Value: "http://$(IP)"}},
			}}},
			command: []string{"/prog", "--node=node1", "-v", "--kubeconfig=/k"},
			env:     []string{"NODE=node1", "IP=10.89.1.1", "URL=http://10.89.1.1"},
		},
		{
			name: "root with one capability",
			spec: corev1.PodSpec{Containers: []corev1.Container{{SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr.To(false),
				Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_RAW"}},
			}}}},
			command: []string{"setpriv", "--inh-caps=-all", "--bounding-set=-all,+net_raw", "--no-new-privs", "--", "/prog", "--kubeconfig=/k"},
		},
		{
			name: "a user of the Pod",
			spec: corev1.PodSpec{
				SecurityContext: &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](65532)},
				Containers:      []corev1.Container{{}},
			},
			command: []string{"setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--", "/prog", "--kubeconfig=/k"},
		},
		{
			name: "a variable that needs a kubelet",
			spec: corev1.PodSpec{Containers: []corev1.Container{{Env: []corev1.EnvVar{field("UID", "metadata.uid")}}}},
			err:  "cannot resolve environment variable UID",
		},
		{name: "no container", err: "no container"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			command, env, err := containerCommand(tt.spec, p, "/prog", "/k")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want an error with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.command, command); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.env, env); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheReadinessProbeIsFetchedAsAKubeletWould(t *testing.T) {
	probe := func(host string, port intstr.IntOrString) corev1.Container {
		return corev1.Container{
			Ports:          []corev1.ContainerPort{{Name: "health", ContainerPort: 8081}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Host: host, Path: "/readyz", Port: port}}},
		}
	}
	addr := netip.MustParseAddr("fd89::1:1")
	for want, c := range map[string]corev1.Container{
		"http://[fd89::1:1]:8081/readyz": probe("", intstr.FromString("health")),
		"http://127.0.0.1:9/readyz":      probe("127.0.0.1", intstr.FromInt32(9)),
	} {
		if got, err := probeURL(c, addr); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if got, err := probeURL(probe("", intstr.FromString("other")), addr); err == nil {
		t.Errorf("an unknown port name gave %q", got)
	}
}

func TestLossesBecomeOneRuleEachAndReplaceWhatWas(t *testing.T) {
	const replace = "table bridge losses {}\ndelete table bridge losses\n"
	for _, tt := range []struct {
		name string
		list []Loss
		want string
	}{
		{"none", nil, replace},
		{"some", []Loss{{From: "node1"}, {To: "node2"}, {From: "node1", To: "node2"}}, replace + `table bridge losses {
	chain forward {
		type filter hook forward priority 0;
		iifname "node1" drop
		oifname "node2" drop
		iifname "node1" oifname "node2" drop
	}
}
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, lossRules(tt.list)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAPodOfADaemonSetIsFoundByTheNodeThatItIsMeantFor(t *testing.T) {
	wants := func(node string) *corev1.Affinity {
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
				Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node},
			}}}},
		}}}
	}
	for _, tt := range []struct {
		name string
		spec corev1.PodSpec
		want bool
	}{
		{"it waits for the node", corev1.PodSpec{Affinity: wants("node1")}, true},
		{"it waits for another", corev1.PodSpec{Affinity: wants("node2")}, false},
		{"it is there", corev1.PodSpec{NodeName: "node1", Affinity: wants("node1")}, true},
		{"it is elsewhere", corev1.PodSpec{NodeName: "node2"}, false},
		{"nobody knows", corev1.PodSpec{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := meantFor(&corev1.Pod{Spec: tt.spec}, "node1"); got != tt.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
