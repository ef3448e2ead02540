// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"os"
	"testing"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

func TestSmoke(t *testing.T) {
	l, err := cluster.Start(t.Context(), cluster.Config{Name: "smoke", Nodes: 3, Log: os.Stderr, KeepState: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := l.Kubectl(t.Context(), "get", "nodes,pods,svc,leases", "-A", "-o", "wide")
	t.Log(out, err)
}
