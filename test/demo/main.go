// SPDX-License-Identifier: Apache-2.0

// Command demo shows Fairlead at work: a Service gets an address, a client on the LAN learns its MAC and is answered,
// the cable of the node that answers is pulled and another takes the address over.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

const patience = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

type demo struct {
	lab  *cluster.Lab
	addr netip.Addr
}

func run(ctx context.Context) (err error) {
	heading("A Kubernetes cluster of three nodes on one LAN, in network namespaces of this machine")
	lab, err := cluster.Start(ctx, cluster.Config{Name: fmt.Sprintf("demo-%d", os.Getpid()), Nodes: 3, Family: cluster.IPv4, Log: os.Stdout})
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, "\nWhat the programs said last:")
			for _, name := range []string{"fairlead-controller-1", "fairlead-speaker-node1", "fairlead-speaker-node2", "fairlead-speaker-node3"} {
				fmt.Fprintf(os.Stderr, "--- %s\n%s", name, tail(lab.LogFile(name), 15))
			}
			fmt.Fprintln(os.Stderr, "\nTo look around in a lab that stays: make lab-up, then go run ./test/lab status")
		}
		if closing := lab.Close(); err == nil {
			err = closing
		}
	}()

	d := &demo{lab: lab}
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"Install Fairlead with Helm", d.install},
		{"A backend on every node, a pool of addresses, a Service of type LoadBalancer", d.apply},
		{"What the cluster says", d.show},
		{"What a client on the LAN sees", d.ask},
		{"The cable of the node that answers is pulled", d.failover},
	} {
		heading(step.title)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(step.title), err)
		}
	}
	heading("Done; cleaning up")
	return nil
}

func (d *demo) install(ctx context.Context) error {
	product, err := d.lab.Install(ctx, cluster.InstallOptions{})
	if err != nil {
		return err
	}
	fmt.Printf("%d controller, %d speakers\n", len(product.Controllers), len(product.Speakers))
	return nil
}

func (d *demo) apply(ctx context.Context) error {
	if _, err := d.lab.StartBackends(ctx, "default", "web"); err != nil {
		return err
	}
	v4, _ := cluster.PoolRange(0)
	first := v4.Addr().Next()
	manifests := fmt.Sprintf(`apiVersion: fairlead.dev/v1alpha1
kind: LoadBalancerIPPool
metadata:
  name: lan
spec:
  addresses: [%q]
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  type: LoadBalancer
  selector: {app: web}
  ports:
    - {name: http, port: 80, targetPort: %d}
`, first.String()+"-"+first.Next().Next().String(), cluster.BackendPort)
	fmt.Println(strings.TrimSpace(manifests))
	if _, err := d.lab.KubectlInput(ctx, manifests, "apply", "-f", "-"); err != nil {
		return err
	}
	return d.await(ctx, "the Service to be announced", func(ctx context.Context) error {
		svc := &corev1.Service{}
		if err := d.lab.API.Get(ctx, client.ObjectKey{Namespace: "default", Name: "web"}, svc); err != nil {
			return err
		}
		for _, cond := range svc.Status.Conditions {
			if cond.Type == v1alpha1.ServiceAnnounced && cond.Status == "True" {
				var err error
				d.addr, err = netip.ParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
				return err
			}
		}
		return fmt.Errorf("conditions: %v", svc.Status.Conditions)
	})
}

func (d *demo) show(ctx context.Context) error {
	// The counts of a pool are written once a second.
	if err := d.await(ctx, "the pool to count the address", func(ctx context.Context) error {
		pool := &v1alpha1.LoadBalancerIPPool{}
		if err := d.lab.API.Get(ctx, client.ObjectKey{Name: "lan"}, pool); err != nil {
			return err
		}
		if pool.Status.IPv4 == nil || pool.Status.IPv4.Allocated != "1" {
			return fmt.Errorf("status: %+v", pool.Status)
		}
		return nil
	}); err != nil {
		return err
	}
	out, err := d.lab.Kubectl(ctx, "get", "svc,lbip,lbpool")
	fmt.Print(out)
	return err
}

func (d *demo) ask(ctx context.Context) error {
	if err := d.await(ctx, "an answer", d.curl); err != nil {
		return err
	}
	for range 4 {
		if err := d.curl(ctx); err != nil {
			return err
		}
	}
	return d.neighbour()
}

func (d *demo) curl(ctx context.Context) error {
	url := fmt.Sprintf("http://%s/hostname", d.addr)
	out, err := d.lab.Client.Run(ctx, "curl", "--silent", "--show-error", "--fail", "--max-time", "2", url)
	if err == nil {
		fmt.Printf("client$ curl %s\n%s\n", url, strings.TrimSpace(out))
	}
	return err
}

// neighbour shows which node's MAC the client's kernel has for the address.
func (d *demo) neighbour() error {
	mac, err := d.lab.Client.Neighbour(d.addr)
	if err != nil {
		return err
	}
	for _, n := range d.lab.Nodes {
		if n.MAC.String() == mac.String() {
			fmt.Printf("client$ ip neighbour show %s\n%s lladdr %s   (%s)\n", d.addr, d.addr, mac, n.Name())
			return nil
		}
	}
	return fmt.Errorf("the client has %s for %s, which is no node's MAC", mac, d.addr)
}

func (d *demo) failover(ctx context.Context) error {
	owner, err := d.owner(ctx)
	if err != nil {
		return err
	}
	node := d.lab.Node(owner)
	if node == nil {
		return fmt.Errorf("%s is announced by %q, which is no node of the lab", d.addr, owner)
	}
	probe := wire.StartProbe(d.lab.Client, "tcp", netip.AddrPortFrom(d.addr, 80))
	stopped := false
	defer func() {
		if !stopped {
			probe.Stop()
		}
	}()
	if err := d.await(ctx, "the probe to be answered", func(ctx context.Context) error { return probe.AwaitAnswers(ctx, 20) }); err != nil {
		return err
	}
	fmt.Printf("%s announces %s. The API server will not miss it for a while; the other speakers do.\n", owner, d.addr)
	if err := node.Unplug(); err != nil {
		return err
	}
	// Its backend is out of reach, too. That is not what is shown.
	for _, pod := range node.Pods() {
		if err := pod.Delete(ctx); err != nil {
			return err
		}
	}
	if err := d.await(ctx, "another node to answer", func(ctx context.Context) error { return probe.AwaitAnswers(ctx, 50) }); err != nil {
		return err
	}
	stopped = true
	result := probe.Stop()
	now := owner
	if err := d.await(ctx, "the new claim to be on record", func(ctx context.Context) error {
		if now, err = d.owner(ctx); err == nil && now == owner {
			err = fmt.Errorf("%s is still announced by %s", d.addr, owner)
		}
		return err
	}); err != nil {
		return err
	}
	out, err := d.lab.Kubectl(ctx, "get", "nodes,lbip")
	fmt.Print(out)
	if err != nil {
		return err
	}
	if err := d.curl(ctx); err != nil {
		return err
	}
	if err := d.neighbour(); err != nil {
		return err
	}
	fmt.Printf("\n%s moved from %s to %s; a client that asked every 10 ms was without an answer for %s.\n", d.addr, owner, now, result.Dark.Round(time.Millisecond))
	return nil
}

func (d *demo) owner(ctx context.Context) (string, error) {
	ip := &v1alpha1.LoadBalancerIP{}
	if err := d.lab.API.Get(ctx, client.ObjectKey{Name: d.addr.String()}, ip); err != nil {
		return "", err
	}
	if ip.Status.L2 == nil {
		return "", fmt.Errorf("nobody has claimed %s", d.addr)
	}
	return ip.Status.L2.Node, nil
}

func (d *demo) await(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return cluster.Poll(ctx, what, check)
}

func heading(text string) { fmt.Printf("\n== %s\n", text) }

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error() + "\n"
	}
	all := strings.SplitAfter(string(data), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}
