// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// panickingProxy puts a program in kube-proxy's place that ends as often as said in the way of a panic.
func panickingProxy(t *testing.T, l *cluster.Lab, _ *corev1.Service, _ []*cluster.Pod) {
	n := l.Nodes[0]
	path := n.Proxy.Path
	restart := func(program string) error {
		if err := n.Proxy.Stop(cluster.StopGrace); err != nil {
			return err
		}
		n.Proxy.Path = program
		if err := n.Proxy.Start(); err != nil {
			return err
		}
		return n.AwaitProxy(t.Context())
	}
	defer func() {
		if err := restart(path); err != nil {
			t.Error(err)
		}
	}()
	panicking := func(times int) string {
		dir := t.TempDir()
		script := filepath.Join(dir, "kube-proxy")
		text := fmt.Sprintf("#!/bin/sh\necho >> %s/runs\n[ $(wc -l < %s/runs) -gt %d ] || exit 2\nexec %s \"$@\"\n", dir, dir, times, path)
		if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return script
	}
	if err := restart(panicking(1)); err != nil {
		t.Errorf("after one panic: %v", err)
	}
	if err := restart(panicking(2)); err == nil {
		t.Error("one that panics each time is said to be healthy")
	}
}
