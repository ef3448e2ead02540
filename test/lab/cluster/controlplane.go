// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/binaries"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

const apiPort = 6443

// server is the API server's URL on the LAN.
func (l *Lab) server() string {
	return "https://" + netip.AddrPortFrom(l.Control.Addr(), apiPort).String()
}

// startControlPlane starts etcd, the API server and the controller manager and returns when they work.
func (l *Lab) startControlPlane(ctx context.Context) error {
	localhost := perFamily(l.cfg.Family, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback())
	addrs := append(perFamily(l.cfg.Family, l.Control.IPv4, l.Control.IPv6), localhost...)
	addrs = append(addrs, perFamily(l.cfg.Family, firstAddr(Service4), firstAddr(Service6))...)
	var err error
	if l.pki, err = newPKI(l.Dir, addrs); err != nil {
		return err
	}
	if err := l.connect(); err != nil {
		return err
	}
	admin, err := l.WriteKubeconfig("admin", l.pki.adminToken)
	if err != nil {
		return err
	}
	if _, err := l.WriteKubeconfig("kube-proxy", l.pki.proxyToken); err != nil {
		return err
	}

	etcd, err := l.start(l.Control.Namespace, binaries.Etcd, l.programs[binaries.Etcd],
		"--name=lab", "--data-dir="+filepath.Join(l.Dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=lab=http://127.0.0.1:2380")
	if err != nil {
		return err
	}
	if err := etcd.Await(ctx, "etcd is healthy", func(ctx context.Context) error {
		_, err := l.Control.Get(ctx, "http://127.0.0.1:2379/health")
		return err
	}); err != nil {
		return err
	}

	api, err := l.start(l.Control.Namespace, binaries.APIServer, l.programs[binaries.APIServer],
		"--etcd-servers=http://127.0.0.1:2379", fmt.Sprintf("--secure-port=%d", apiPort),
		"--advertise-address="+l.Control.Addr().String(),
		"--service-cluster-ip-range="+join(perFamily(l.cfg.Family, Service4, Service6)),
		"--tls-cert-file="+l.pki.certFile, "--tls-private-key-file="+l.pki.keyFile, "--cert-dir="+l.Dir,
		"--token-auth-file="+l.pki.tokenFile, "--authorization-mode=RBAC", "--anonymous-auth=true",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+l.pki.serviceAccountKeyFile,
		"--service-account-signing-key-file="+l.pki.serviceAccountKeyFile,
		"--allow-privileged", "--profiling=false")
	if err != nil {
		return err
	}
	if err := api.Await(ctx, "the API server is ready", func(ctx context.Context) error {
		return l.Kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}); err != nil {
		return err
	}

	manager, err := l.start(l.Control.Namespace, binaries.ControllerManager, l.programs[binaries.ControllerManager],
		"--kubeconfig="+admin, "--authentication-kubeconfig="+admin, "--authorization-kubeconfig="+admin,
		"--bind-address=127.0.0.1", "--cert-dir="+l.Dir, "--leader-elect=false", "--controllers=*,-node-ipam-controller",
		"--service-account-private-key-file="+l.pki.serviceAccountKeyFile, "--root-ca-file="+l.pki.caFile,
		"--node-monitor-period=500ms", "--node-monitor-grace-period="+l.cfg.NodeGrace.String(),
		"--flex-volume-plugin-dir="+filepath.Join(l.Dir, "flex"), "--profiling=false")
	if err != nil {
		return err
	}
	l.manager = manager
	return nil
}

// awaitControllers waits until the controller manager's controllers do their work.
func (l *Lab) awaitControllers(ctx context.Context) error {
	return l.manager.Await(ctx, "the default ServiceAccount exists", func(ctx context.Context) error {
		_, err := l.Kube.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// RESTConfig is an administrator's access to the API server for the process that has the lab: it opens its connections
// inside the lab. The caller may change it.
func (l *Lab) RESTConfig() *rest.Config { return l.restConfig(l.pki.adminToken) }

func (l *Lab) restConfig(token string) *rest.Config {
	return &rest.Config{
		Host:            l.server(),
		BearerToken:     token,
		TLSClientConfig: rest.TLSClientConfig{CAData: l.pki.ca},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return l.Control.DialContext(ctx, network, address)
		},
		WarningHandler: rest.NoWarnings{},
		QPS:            -1, // the lab's own calls are never what a test wants to slow down
	}
}

func (l *Lab) connect() error {
	var err error
	if l.Kube, err = kubernetes.NewForConfig(l.RESTConfig()); err != nil {
		return fmt.Errorf("making the API client: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return fmt.Errorf("making the API client: %w", err)
	}
	// The client finds out about kinds when it first needs them: there is no server yet.
	if l.API, err = client.New(l.RESTConfig(), client.Options{Scheme: scheme, Log: l.log}); err != nil {
		return fmt.Errorf("making the API client: %w", err)
	}
	return nil
}

// WriteKubeconfig writes a kubeconfig file for programs inside the lab, which reach the API server by the LAN.
func (l *Lab) WriteKubeconfig(name, token string) (path string, err error) {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["lab"] = &clientcmdapi.Cluster{Server: l.server(), CertificateAuthorityData: l.pki.ca}
	cfg.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	cfg.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: name}
	cfg.CurrentContext = "lab"
	path = filepath.Join(l.Dir, name+".kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		return "", fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return path, nil
}

// Kubeconfig is the administrator's kubeconfig for programs inside the lab.
func (l *Lab) Kubeconfig() string { return filepath.Join(l.Dir, "admin.kubeconfig") }

// Kubectl runs kubectl as the administrator and returns its output.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	return l.KubectlInput(ctx, "", args...)
}

// KubectlInput is Kubectl with a standard input, such as for "apply -f -".
func (l *Lab) KubectlInput(ctx context.Context, input string, args ...string) (string, error) {
	return l.Control.RunInput(ctx, input, l.programs[binaries.Kubectl], append([]string{"--kubeconfig=" + l.Kubeconfig()}, args...)...)
}

// CreateNamespace makes a namespace and waits for its default ServiceAccount, without which no Pod can be made in it.
// It is no error if the namespace exists.
func (l *Lab) CreateNamespace(ctx context.Context, name string) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := l.Kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating namespace %s: %w", name, err)
	}
	return Poll(ctx, "namespace "+name+" has its default ServiceAccount", func(ctx context.Context) error {
		_, err := l.Kube.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// start starts a program of the lab, logging to a file of its name.
func (l *Lab) start(n *sandbox.Namespace, name, path string, args ...string) (*sandbox.Process, error) {
	return n.Start(sandbox.Command{Name: name, Path: path, Args: args, Log: l.LogFile(name)})
}

// LogFile is the file that the process of that name writes its output to.
func (l *Lab) LogFile(process string) string {
	return filepath.Join(l.Dir, "logs", strings.ReplaceAll(process, "/", "_")+".log")
}

// Poll is sandbox.Poll.
func Poll(ctx context.Context, what string, check func(context.Context) error) error {
	return sandbox.Poll(ctx, what, check)
}

func join[T fmt.Stringer](list []T) string {
	var b strings.Builder
	for i, v := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(v.String())
	}
	return b.String()
}

// okStatus is nil for an HTTP endpoint that answers 200.
func (h *Host) okStatus(ctx context.Context, port int, path string) error {
	url := fmt.Sprintf("http://%s%s", netip.AddrPortFrom(h.Addr(), uint16(port)), path)
	_, err := h.Get(ctx, url)
	return err
}
