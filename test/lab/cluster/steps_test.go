// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// asProcess is a client with the credentials that the lab gave to a process.
func asProcess(t *testing.T, l *cluster.Lab, p *sandbox.Process) kubernetes.Interface {
	t.Helper()
	i := slices.IndexFunc(p.Args, func(a string) bool { return strings.HasPrefix(a, "--kubeconfig=") })
	file, err := clientcmd.LoadFromFile(strings.TrimPrefix(p.Args[i], "--kubeconfig="))
	if err != nil {
		t.Fatal(err)
	}
	cfg := l.RESTConfig()
	cfg.BearerToken = file.AuthInfos[p.Name].Token
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

func create(t *testing.T, l *cluster.Lab, svc *corev1.Service) {
	t.Helper()
	if err := l.API.Create(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, l *cluster.Lab, svc *corev1.Service) {
	t.Helper()
	if err := l.API.Delete(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
}

func setIngress(t *testing.T, l *cluster.Lab, svc *corev1.Service, addrs ...netip.Addr) {
	t.Helper()
	svc.Status.LoadBalancer.Ingress = nil
	for _, a := range addrs {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress,
			corev1.LoadBalancerIngress{IP: a.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	if err := l.API.Status().Update(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
}

func nodePorts(svc *corev1.Service, name string) []uint16 {
	var ports []uint16
	for _, p := range svc.Spec.Ports {
		if p.Name == name {
			ports = append(ports, uint16(p.NodePort))
		}
	}
	return ports
}

func operState(t *testing.T, h *cluster.Host) netlink.LinkOperState {
	t.Helper()
	link, err := h.Netlink().LinkByName(cluster.Interface)
	if err != nil {
		t.Fatal(err)
	}
	if state := link.Attrs().OperState; state != netlink.OperLowerLayerDown {
		return state
	}
	return netlink.OperDown
}

func url(addr netip.Addr, port uint16) string {
	return fmt.Sprintf("http://%s/hostname", net.JoinHostPort(addr.String(), fmt.Sprint(port)))
}

// awaitAnswer asks until that backend is the one that answers.
func awaitAnswer(t *testing.T, from *cluster.Host, addr netip.Addr, port uint16, backend string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s answers %s at %s", backend, from.Name(), url(addr, port)), func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		body, err := from.Get(ctx, url(addr, port))
		if err == nil && body != backend {
			err = fmt.Errorf("%s answered", body)
		}
		return err
	})
}

func want[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	return nil
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := cluster.Poll(ctx, what, func(context.Context) error { return check() }); err != nil {
		t.Fatal(err)
	}
}
