// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// TestALab goes through what a lab can do, on one lab of two dual-stack nodes. The parts leave it as they found it.
func TestALab(t *testing.T) {
	l := start(t, cluster.Config{Name: labName("dual"), Nodes: 2, KeepState: os.Getenv("LAB_KEEP") != ""})
	pods, err := l.StartBackends(t.Context(), "default", "web")
	if err != nil {
		t.Fatal(err)
	}
	svc := l.Service("default", "web", "web")
	create(t, l, svc)
	if err := l.AwaitEndpoints(t.Context(), client.ObjectKeyFromObject(svc), 2); err != nil {
		t.Fatal(err)
	}
	part := func(name string, f func(*testing.T, *cluster.Lab, *corev1.Service, []*cluster.Pod)) {
		t.Run(name, func(t *testing.T) { f(t, l, svc, pods) })
	}
	part("the client reaches both backends by either family's node port of either node", nodePortsAnswer)
	part("a node that gets an ingress address's frames answers them, for the client and for far", ingressAnswers)
	part("an EndpointSlice made by hand is served", handMadeSlices)
	part("a backend behind the router is reached by either family, warm, fresh and for long", backendOutside)
	part("a Pod that is not ready gets nothing", unreadyPod)
	part("a namespace goes with its Pods, and their addresses are used again", namespaceGoes)
	part("a terminating Pod still serves", terminating)
	part("a node without heartbeat becomes NotReady and comes back with its Pods", heartbeat)
	part("a deleted node is gone until it registers again", deleteNode)
	part("a pulled cable takes the carrier, and the probe measures the dark time", unplug)
	part("a cut cable keeps the carrier and passes no frame", cut)
	part("what is lost one way, or between two, is lost there alone", loseOneWay)
	part("two hosts that answer for one address are both seen", twoAnswer)
	part("a capture on a port tells announcements from questions", capture)
	part("a killed kube-proxy is missed only by new Services", killProxy)
	part("a kube-proxy that panics on its way up is started again, once", panickingProxy)
	part("the chart's programs run with its arguments and rights", install)
	part("a machine that loses its power is silent, and serves again when it has it back", power)
	part("another process asks for the status and breaks things", remote)
}

func nodePortsAnswer(t *testing.T, l *cluster.Lab, svc *corev1.Service, _ []*cluster.Pod) {
	for _, n := range l.Nodes {
		for _, addr := range []netip.Addr{n.IPv4, n.IPv6} {
			for _, want := range []string{"web-node1", "web-node2"} {
				awaitAnswer(t, l.Client, addr, nodePorts(svc, "http")[0], want)
			}
		}
	}
	probe := wire.StartProbe(l.Client, "udp", netip.AddrPortFrom(l.Nodes[0].IPv4, nodePorts(svc, "udp")[0]))
	if err := probe.AwaitAnswers(t.Context(), 20); err != nil {
		t.Error(err)
	}
	if r := probe.Stop(); len(r.Answers) != 2 {
		t.Errorf("by UDP: %s, want answers of both backends", r)
	}
}

func ingressAnswers(t *testing.T, l *cluster.Lab, svc *corev1.Service, _ []*cluster.Pod) {
	pool4, pool6 := cluster.PoolRange(0)
	addrs := []netip.Addr{pool4.Addr().Next(), pool6.Addr().Next()}
	setIngress(t, l, svc, addrs...)
	for _, addr := range addrs {
		for _, asker := range []*cluster.Host{l.Client, l.Router} {
			if err := asker.SetNeighbour(addr, l.Nodes[1].MAC); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := asker.SetNeighbour(addr, nil); err != nil {
					t.Error(err)
				}
			}()
		}
		if mac, err := l.Client.Neighbour(addr); err != nil || !bytes.Equal(mac, l.Nodes[1].MAC) {
			t.Errorf("the client's neighbour %s is %s, %v", addr, mac, err)
		}
		for _, from := range []*cluster.Host{l.Client, l.Far} {
			awaitAnswer(t, from, addr, 80, "web-node1")
			awaitAnswer(t, from, addr, 80, "web-node2")
		}
	}
}

func handMadeSlices(t *testing.T, l *cluster.Lab, _ *corev1.Service, pods []*cluster.Pod) {
	svc := l.Service("default", "by-hand", "")
	create(t, l, svc)
	if err := l.CreateSlices(t.Context(), client.ObjectKeyFromObject(svc), pods[1]); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []netip.Addr{l.Nodes[0].IPv4, l.Nodes[0].IPv6} {
		awaitAnswer(t, l.Client, addr, nodePorts(svc, "http")[0], "web-node2")
	}
	remove(t, l, svc)
}

func backendOutside(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	if _, err := l.StartBackend(t.Context(), l.Far); err != nil {
		t.Fatal(err)
	}
	svc := l.Service("default", "outside", "")
	create(t, l, svc)
	if err := l.CreateSlicesTo(t.Context(), client.ObjectKeyFromObject(svc), l.Far); err != nil {
		t.Fatal(err)
	}
	node := l.Nodes[1]
	for _, addr := range []netip.Addr{node.IPv4, node.IPv6} {
		awaitAnswer(t, l.Client, addr, nodePorts(svc, "http")[0], "far")
		flows, err := wire.StartFlows(t.Context(), l.Client, netip.AddrPortFrom(addr, nodePorts(svc, "http")[0]), 5)
		if err != nil {
			t.Fatal(err)
		}
		udp := netip.AddrPortFrom(addr, nodePorts(svc, "udp")[0])
		forgotten := make(chan struct{}, 1000)
		fresh := wire.StartFresh(l.Client, udp, func() error {
			forgotten <- struct{}{}
			return l.Client.SetNeighbour(addr, nil)
		})
		probe := wire.StartProbe(l.Router, "udp", udp)
		if err := probe.AwaitAnswers(t.Context(), 10); err != nil {
			t.Error(err)
		}
		<-forgotten
		<-forgotten
		if r, err := fresh.Stop(); err != nil || r.Lost > 0 || r.Clients < 2 {
			t.Errorf("%s: %s, %v", addr, r, err)
		}
		if r := flows.Stop(); r.Broken > 0 || r.Exchanges < 5 {
			t.Errorf("%s: %s", addr, r)
		}
		probe.Stop()
	}
	remove(t, l, svc)
}

func unreadyPod(t *testing.T, l *cluster.Lab, svc *corev1.Service, pods []*cluster.Pod) {
	if err := pods[0].SetReady(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := pods[0].SetReady(t.Context(), true); err != nil {
			t.Error(err)
		}
		if err := l.AwaitEndpoints(t.Context(), client.ObjectKeyFromObject(svc), 2); err != nil {
			t.Error(err)
		}
	}()
	if err := l.AwaitEndpoints(t.Context(), client.ObjectKeyFromObject(svc), 1); err != nil {
		t.Fatal(err)
	}
	extra, err := l.Nodes[0].StartPod(t.Context(), "default", "extra", map[string]string{"app": "extra"})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(l.Nodes[0].Pods()); got != 2 {
		t.Errorf("node1 has %d Pods, want 2", got)
	}
	if err := extra.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if got := len(l.Nodes[0].Pods()); got != 1 || extra.Process.State() != sandbox.Exited {
		t.Errorf("after deletion node1 has %d Pods and the process is %s", got, extra.Process.State())
	}
}

func namespaceGoes(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	var first []netip.Addr
	for range 2 {
		if err := l.CreateNamespace(t.Context(), "goes"); err != nil {
			t.Fatal(err)
		}
		pods, err := l.StartBackends(t.Context(), "goes", "x")
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = []netip.Addr{pods[0].IPv4, pods[1].IPv6}
		} else if first[0] != pods[0].IPv4 || first[1] != pods[1].IPv6 {
			t.Errorf("addresses %s and %s, want those that were freed: %v", pods[0].IPv4, pods[1].IPv6, first)
		}
		if _, err := l.Nodes[0].StartPod(t.Context(), "goes", "x-node1", nil); err == nil {
			t.Error("a second Pod of the same name was started")
		}
		if err := l.DeleteNamespace(t.Context(), "goes"); err != nil {
			t.Fatal(err)
		}
	}
}

func terminating(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	if _, err := l.Nodes[0].StartPod(t.Context(), "missing", "x", nil); err == nil || len(l.Nodes[0].Pods()) != 1 {
		t.Errorf("a Pod in a namespace that is not there: %v, and node1 has %d Pods, want 1", err, len(l.Nodes[0].Pods()))
	}
	pod, err := l.Nodes[0].StartPod(t.Context(), "default", "last", map[string]string{"app": "last"})
	if err != nil {
		t.Fatal(err)
	}
	svc := l.Service("default", "last", "last")
	create(t, l, svc)
	awaitAnswer(t, l.Client, l.Nodes[1].IPv4, nodePorts(svc, "http")[0], "last")
	if err := pod.Terminate(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its endpoint is terminating and serving", func() error {
		slices, err := l.Kube.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=last"})
		if err != nil {
			return err
		}
		for _, s := range slices.Items {
			for _, e := range s.Endpoints {
				if ptr.Deref(e.Conditions.Terminating, false) && ptr.Deref(e.Conditions.Serving, false) {
					return nil
				}
			}
		}
		return fmt.Errorf("%+v", slices.Items)
	})
	awaitAnswer(t, l.Client, l.Nodes[1].IPv4, nodePorts(svc, "http")[0], "last")
	if err := pod.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	remove(t, l, svc)
}

func heartbeat(t *testing.T, l *cluster.Lab, svc *corev1.Service, _ []*cluster.Pod) {
	ready := func() corev1.ConditionStatus {
		node, err := l.Kube.CoreV1().Nodes().Get(t.Context(), "node2", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status
			}
		}
		return ""
	}
	l.Nodes[1].StopHeartbeat()
	stopped := time.Now()
	eventually(t, "node2 is not Ready", func() error { return want(ready(), corev1.ConditionUnknown) })
	if after := time.Since(stopped); after < 3*time.Second {
		t.Errorf("NotReady after %s, before the grace of 4 s and a heartbeat before", after)
	}
	if err := l.AwaitEndpoints(t.Context(), client.ObjectKeyFromObject(svc), 1); err != nil {
		t.Error(err)
	}
	l.Nodes[1].ResumeHeartbeat()
	eventually(t, "node2 is Ready", func() error { return want(ready(), corev1.ConditionTrue) })
	if err := l.AwaitEndpoints(t.Context(), client.ObjectKeyFromObject(svc), 2); err != nil {
		t.Error(err)
	}
}

func deleteNode(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	// By kubectl, behind the lab's back: its heartbeat must not bring the node back.
	if _, err := l.Kubectl(t.Context(), "delete", "node", "node2"); err != nil {
		t.Fatal(err)
	}
	if err := l.Nodes[1].Delete(t.Context()); err == nil {
		t.Error("a Node was deleted twice")
	}
	select {
	case <-l.Nodes[1].Proxy.Done():
	case <-time.After(10 * time.Second):
		t.Error("kube-proxy of a deleted node goes on: Register need not restart it any more")
	}
	nodes, err := l.Kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Errorf("%d nodes, %v, want one", len(nodes.Items), err)
	}
	if err := l.Nodes[1].Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	node, err := l.Kube.CoreV1().Nodes().Get(t.Context(), "node2", metav1.GetOptions{})
	if err != nil || len(node.Spec.Taints) > 0 {
		t.Errorf("node2 is back with taints %v, %v", node.Spec.Taints, err)
	}
	if state := l.Nodes[1].Proxy.State(); state != sandbox.Running {
		t.Errorf("its kube-proxy is %s", state)
	}
}

func unplug(t *testing.T, l *cluster.Lab, svc *corev1.Service, _ []*cluster.Pod) {
	node := l.Nodes[0]
	probe := wire.StartProbe(l.Client, "tcp", netip.AddrPortFrom(node.IPv4, nodePorts(svc, "http")[0]))
	if err := probe.AwaitAnswers(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if err := node.Unplug(); err != nil {
		t.Fatal(err)
	}
	unplugged := time.Now()
	eventually(t, "the node has no carrier", func() error { return want(operState(t, node.Host), netlink.OperDown) })
	time.Sleep(200 * time.Millisecond) // the outage that is measured
	atLeast := time.Since(unplugged)
	if err := node.Plug(); err != nil {
		t.Fatal(err)
	}
	if err := probe.AwaitAnswers(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	r := probe.Stop()
	if atMost := time.Since(before); r.Dark < atLeast-50*time.Millisecond || r.Dark > atMost {
		t.Errorf("%s, want a dark time of %s to %s", r, atLeast, atMost)
	}
	eventually(t, "the node has its carrier", func() error { return want(operState(t, node.Host), netlink.OperUp) })
}

func cut(t *testing.T, l *cluster.Lab, svc *corev1.Service, _ []*cluster.Pod) {
	node := l.Nodes[0]
	target := netip.AddrPortFrom(node.IPv4, nodePorts(svc, "udp")[0])
	if err := node.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if state := operState(t, node.Host); state != netlink.OperUp {
		t.Errorf("the link of a cut node is %s", state)
	}
	probe := wire.StartProbe(l.Client, "udp", target)
	time.Sleep(200 * time.Millisecond) // long enough for answers that must not come
	if r := probe.Stop(); r.Lost != r.Sent || r.Sent == 0 {
		t.Errorf("through a cut cable: %s", r)
	}
	if macs, err := wire.Ask(t.Context(), l.Client.Namespace, cluster.Interface, node.IPv4, 200*time.Millisecond); err != nil || macs != nil {
		t.Errorf("through a cut cable the node answers ARP: %v, %v", macs, err)
	}
	for range 2 { // the second time does nothing
		if err := node.Heal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	probe = wire.StartProbe(l.Client, "udp", target)
	if err := probe.AwaitAnswers(t.Context(), 10); err != nil {
		t.Error(err)
	}
	probe.Stop()
}

func twoAnswer(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	pool, _ := cluster.PoolRange(1)
	shared := pool.Addr().Next()
	ask := func() []string {
		macs, err := wire.Ask(t.Context(), l.Client.Namespace, cluster.Interface, shared, 200*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, m := range macs {
			all = append(all, m.String())
		}
		slices.Sort(all)
		return all
	}
	if got := ask(); got != nil {
		t.Errorf("%v answer for an address that nobody has", got)
	}
	var want []string
	for _, n := range l.Nodes {
		if _, err := n.Run(t.Context(), "ip", "addr", "add", shared.String()+"/32", "dev", "lo"); err != nil {
			t.Fatal(err)
		}
		want = append(want, n.MAC.String())
	}
	if diff := cmp.Diff(want, ask()); diff != "" {
		t.Error(diff)
	}
	probe, err := wire.StartColdProbe(l.Client.Namespace, cluster.Interface, wire.ColdInterval, shared)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "both have answered for 100 ms", func() error {
		if both := wire.LongestTogether(probe.Answers(shared), 3*wire.ColdInterval); both < 100*time.Millisecond {
			return fmt.Errorf("for %s", both)
		}
		return nil
	})
	if err := probe.Stop(); err != nil {
		t.Error(err)
	}
	for _, n := range l.Nodes {
		if _, err := n.Run(t.Context(), "ip", "addr", "del", shared.String()+"/32", "dev", "lo"); err != nil {
			t.Fatal(err)
		}
	}
}

func capture(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	c, err := l.CapturePort(l.Nodes[0].Host, wire.EtherTypeARP)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	announced := l.Nodes[0].IPv4
	if _, err := l.Nodes[0].Run(t.Context(), "arping", "-A", "-c", "1", "-I", cluster.Interface, announced.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.Ask(t.Context(), l.Client.Namespace, cluster.Interface, announced, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	seen := func(what string, match func(wire.ARP) bool) {
		eventually(t, "the capture has "+what, func() error {
			if !slices.ContainsFunc(c.ARP(), match) {
				return fmt.Errorf("captured: %v", c.ARP())
			}
			return nil
		})
	}
	seen("the announcement", func(a wire.ARP) bool {
		return a.Gratuitous() && a.Reply && a.SenderIP == announced && bytes.Equal(a.SenderMAC, l.Nodes[0].MAC)
	})
	seen("the client's question", func(a wire.ARP) bool {
		return !a.Gratuitous() && !a.Reply && a.TargetIP == announced && bytes.Equal(a.SenderMAC, l.Client.MAC)
	})
	seen("the node's answer", func(a wire.ARP) bool {
		return !a.Gratuitous() && a.Reply && a.SenderIP == announced && bytes.Equal(a.TargetMAC, l.Client.MAC)
	})
}

func killProxy(t *testing.T, l *cluster.Lab, svc *corev1.Service, _ []*cluster.Pod) {
	proxy := l.Nodes[0].Proxy
	if err := proxy.Kill(); err != nil {
		t.Fatal(err)
	}
	awaitAnswer(t, l.Client, l.Nodes[0].IPv4, nodePorts(svc, "http")[0], "web-node2")
	later := l.Service("default", "later", "web")
	create(t, l, later)
	awaitAnswer(t, l.Client, l.Nodes[1].IPv4, nodePorts(later, "http")[0], "web-node1")
	if body, err := l.Client.Get(t.Context(), url(l.Nodes[0].IPv4, nodePorts(later, "http")[0])); err == nil {
		t.Errorf("the node without kube-proxy serves a new Service: %s", body)
	}
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	awaitAnswer(t, l.Client, l.Nodes[0].IPv4, nodePorts(later, "http")[0], "web-node1")
	remove(t, l, later)
}

func install(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	bin := t.TempDir()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{cluster.Controller, cluster.Speaker} {
		if err := os.WriteFile(filepath.Join(bin, name), self, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	opts := cluster.InstallOptions{Chart: "testdata/chart", BinDir: bin}
	product, err := l.Install(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(product.Controllers) != 2 || len(product.Speakers) != 2 {
		t.Fatalf("%d controllers and %d speakers run, want 2 and 2", len(product.Controllers), len(product.Speakers))
	}
	logged := func(p *sandbox.Process, lines ...string) {
		t.Helper()
		log, err := os.ReadFile(p.Log)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if !strings.Contains(string(log), line) {
				t.Errorf("the log of %s lacks %q:\n%s", p.Name, line, log)
			}
		}
	}
	logged(product.Controllers[1], "--pod=fairlead-controller-2", "--greeting=hello", "uid: 65532", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1")
	logged(product.Speakers["node2"], "--node-name=node2", "uid: 0", "CapEff:\t0000000000002000") // CAP_NET_RAW is bit 13

	// The token is the ServiceAccount's, names the node, and has the rights of the chart's RBAC and no others.
	kube := asProcess(t, l, product.Speakers["node2"])
	review, err := kube.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	user := review.Status.UserInfo
	if user.Username != "system:serviceaccount:fairlead-system:fairlead-speaker" ||
		!slices.Equal(user.Extra["authentication.kubernetes.io/node-name"], []string{"node2"}) {
		t.Errorf("the speaker is %+v", user)
	}
	if _, err := kube.CoreV1().Nodes().Get(t.Context(), "node2", metav1.GetOptions{}); err != nil {
		t.Errorf("what the chart allows is refused: %v", err)
	}
	if _, err := kube.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("what the chart does not allow is granted")
	}

	first := product.Speakers["node2"]
	opts.Set = []string{"greeting=goodbye"}
	if product, err = l.Install(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	logged(first, "terminated")
	if first.State() != sandbox.Exited {
		t.Errorf("after an upgrade the old speaker is %s", first.State())
	}
	logged(product.Speakers["node1"], "--greeting=goodbye")
	logged(product.Controllers[0], "--greeting=goodbye")
	restarted(t, l, product)
	opts.Chart = "testdata/missing"
	if _, err := l.Install(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "testdata/missing") {
		t.Errorf("a chart that is not there: %v", err)
	}
}

func remote(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	r := cluster.Connect(l.Status().Name)
	if err := r.Do(t.Context(), "pause", "kube-proxy/node1"); err != nil {
		t.Fatal(err)
	}
	status, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(status.Processes, func(p cluster.ProcessStatus) bool { return p.Name == "kube-proxy/node1" })
	if i < 0 || status.Processes[i].State != sandbox.Paused {
		t.Errorf("after pausing kube-proxy/node1: %+v", status.Processes)
	}
	if err := r.Do(t.Context(), "resume", "kube-proxy/node1"); err != nil {
		t.Error(err)
	}
	for _, drained := range []string{"drain", "undrain"} {
		if err := r.Do(t.Context(), drained, "node1"); err != nil {
			t.Fatal(err)
		}
		node, err := l.Kube.CoreV1().Nodes().Get(t.Context(), "node1", metav1.GetOptions{})
		if _, is := node.Annotations["fairlead.dev/drain"]; err != nil || is != (drained == "drain") {
			t.Errorf("after %s of node1: %v, %v", drained, node.Annotations, err)
		}
	}
	for _, bad := range []struct{ action, target, want string }{
		{"unplug", "node9", `no host "node9"`},
		{"delete-node", "client", `no node "client"`},
		{"kill", "nothing", `no process "nothing"`},
		{"explode", "node1", `unknown action "explode"`},
		{"backends", "web", "want NAMESPACE/NAME"},
		{"part", "node1", "want HOST/HOST"},
	} {
		if err := r.Do(t.Context(), bad.action, bad.target); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s %s: %v, want %q", bad.action, bad.target, err, bad.want)
		}
	}
}
