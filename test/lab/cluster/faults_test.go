// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

func loseOneWay(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	other, err := l.AddClient()
	if err != nil {
		t.Fatal(err)
	}
	a, b := l.Nodes[0], l.Nodes[1]
	// hears tells whether a question of one host reaches the other.
	hears := func(from, to *cluster.Host) bool {
		t.Helper()
		c, err := wire.StartCapture(to.Namespace, cluster.Interface, wire.EtherTypeARP)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := wire.Ask(t.Context(), from.Namespace, cluster.Interface, to.IPv4, 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(c.ARP(), func(m wire.ARP) bool { return !m.Reply && bytes.Equal(m.SenderMAC, from.MAC) })
	}
	for _, tt := range []struct {
		name       string
		lose       func() error
		ab, ba, ac bool // whether b hears a, a hears b, and another client hears a
	}{
		{"nothing", func() error { return nil }, true, true, true},
		{"mute", func() error { return a.Mute(t.Context()) }, false, true, false},
		{"deaf", func() error { return a.Deafen(t.Context()) }, true, false, true},
		{"parted", func() error { return a.Part(t.Context(), b.Host) }, false, false, true},
		{"one way between two", func() error { return l.SetLosses(t.Context(), cluster.Loss{From: a.Name(), To: b.Name()}) }, false, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.lose(); err != nil {
				t.Fatal(err)
			}
			if ab, ba, ac := hears(a.Host, b.Host), hears(b.Host, a.Host), hears(a.Host, other); ab != tt.ab || ba != tt.ba || ac != tt.ac {
				t.Errorf("b hears a: %t, a hears b: %t, another hears a: %t; want %t, %t, %t", ab, ba, ac, tt.ab, tt.ba, tt.ac)
			}
			if err := a.Heal(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := l.Losses(); len(left) > 0 {
				t.Errorf("after the heal there are %v", left)
			}
		})
	}
	if err := l.SetLosses(t.Context(), cluster.Loss{From: "nobody"}); err == nil {
		t.Error("a host that is not there was cut")
	}
}

func TestASecondLANIsApartFromTheFirst(t *testing.T) {
	l := start(t, cluster.Config{Name: labName("second"), Nodes: 2, Family: cluster.IPv4, SecondLAN: true})
	client, a, b := l.Client.Second, l.Nodes[0], l.Nodes[1].Second
	answers := func(from, to *cluster.Host) string {
		t.Helper()
		macs, err := wire.Ask(t.Context(), from.Namespace, from.Interface, to.IPv4, 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(macs)
	}
	nobody := "[]"
	if got := answers(client, a.Second); got != fmt.Sprint([]any{a.Second.MAC}) || bytes.Equal(a.Second.MAC, a.MAC) {
		t.Errorf("%s answers for %s, want %s", got, a.Second.IPv4, a.Second.MAC)
	}
	for _, tt := range []struct {
		name                string
		do                  func() error
		first, second, both string // who answers on either LAN, and between the nodes
	}{
		{"cut on the second", func() error { return a.Second.Cut(t.Context()) }, fmt.Sprint([]any{a.MAC}), nobody, nobody},
		{"cut on the first", func() error { return a.Cut(t.Context()) }, nobody, fmt.Sprint([]any{a.Second.MAC}), fmt.Sprint([]any{b.MAC})},
		{"parted on the second", func() error { return l.Do(t.Context(), "part", "node1-2/node2-2") }, fmt.Sprint([]any{a.MAC}), fmt.Sprint([]any{a.Second.MAC}), nobody},
		{"no power", a.PowerOff, nobody, nobody, nobody},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			first, second, both := answers(l.Client, a.Host), answers(client, a.Second), answers(a.Second, b)
			if first != tt.first || second != tt.second || both != tt.both {
				t.Errorf("answers: %s, %s, %s, want %s, %s, %s", first, second, both, tt.first, tt.second, tt.both)
			}
			if err := l.SetLosses(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func power(t *testing.T, l *cluster.Lab, svc *corev1.Service, _ []*cluster.Pod) {
	node := l.Nodes[0]
	target := netip.AddrPortFrom(node.IPv4, nodePorts(svc, "udp")[0])
	if err := node.PowerOff(); err != nil {
		t.Fatal(err)
	}
	for _, p := range append([]*sandbox.Process{node.Proxy, l.Process("fairlead-speaker-node1")}, node.Pods()[0].Process) {
		if p.State() != sandbox.Exited {
			t.Errorf("%s is %s without power", p.Name, p.State())
		}
	}
	if err := node.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	probe := wire.StartProbe(l.Client, "udp", target)
	if err := probe.AwaitAnswers(t.Context(), 10); err != nil {
		t.Error(err)
	}
	probe.Stop()
	if p := l.Process("fairlead-speaker-node1"); p.State() != sandbox.Running {
		t.Errorf("%s is %s with power", p.Name, p.State())
	}
}

// restarted checks that a speaker's restart is that of its Pod: the program finds it terminating when it gets SIGTERM.
func restarted(t *testing.T, l *cluster.Lab, product *cluster.Product) {
	nameOf := func(p *sandbox.Process) string {
		i := slices.IndexFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "POD_NAME=") })
		return strings.TrimPrefix(p.Env[i], "POD_NAME=")
	}
	speakers := l.Kube.CoreV1().Pods(cluster.SystemNamespace)
	old := product.Speakers["node1"]
	object, err := speakers.Get(t.Context(), nameOf(old), metav1.GetOptions{})
	if err != nil || object.Spec.NodeName != "node1" || object.Status.Phase != corev1.PodRunning {
		t.Errorf("the Pod of the speaker of node1 is on %q, %s, %v", object.Spec.NodeName, object.Status.Phase, err)
	}
	deleted := make(chan bool, 1)
	if err := old.Pause(); err != nil {
		t.Fatal(err)
	}
	go func() {
		// SIGTERM waits for the paused program, so its Pod has been deleted by then.
		err := cluster.Poll(t.Context(), "the Pod is terminating", func(ctx context.Context) error {
			o, err := speakers.Get(ctx, object.Name, metav1.GetOptions{})
			if err == nil && o.DeletionTimestamp == nil {
				err = fmt.Errorf("it is %s", o.Status.Phase)
			}
			return err
		})
		deleted <- err == nil && old.State() == sandbox.Paused && old.Resume() == nil
	}()
	if err := l.RestartSpeaker(t.Context(), l.Nodes[0]); err != nil {
		t.Fatal(err)
	}
	if !<-deleted {
		t.Error("the speaker ended before its Pod was deleted")
	}
	again := product.Speakers["node1"]
	if again.State() != sandbox.Running || nameOf(again) == object.Name {
		t.Errorf("after the restart the speaker is %s in Pod %s", again.State(), nameOf(again))
	}
	if _, err := speakers.Get(t.Context(), object.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the old Pod should be gone: %v", err)
	}
}
