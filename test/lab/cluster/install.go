// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/test/lab/binaries"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// What the chart calls its parts. The lab starts a program of the workload's name for each Pod that it would have.
const (
	SystemNamespace = "fairlead-system"
	Controller      = "fairlead-controller"
	Speaker         = "fairlead-speaker"
)

// StopGrace is how long the product's programs may take to end after SIGTERM, as a Pod's terminationGracePeriodSeconds.
const StopGrace = 30 * time.Second

// InstallOptions says what to install. The zero value installs the repository's chart with the programs of its bin folder.
type InstallOptions struct {
	Chart      string   // folder of the chart
	ValueFiles []string // as helm's --values
	Set        []string // as helm's --set
	BinDir     string   // where the programs are; those that are missing are built into it
	Build      bool     // build them even if they are there
}

// Product is Fairlead as it runs in a lab. Its processes are stopped, killed, paused and started by their own methods.
type Product struct {
	Controllers []*sandbox.Process          // one per replica of the Deployment, each on a host of its own
	Speakers    map[string]*sandbox.Process // by node
}

// workload is a Deployment or DaemonSet of the chart as the lab runs it.
type workload struct {
	name     string
	selector string // of its Pods
	spec     corev1.PodSpec
	path     string // of the program
}

// Install installs the chart with Helm, or upgrades the release, and runs what the rendered Deployment and DaemonSet say:
// their arguments, environment, security context, and ServiceAccounts, whose tokens it requests as a kubelet would. A
// speaker runs for the Pod that the DaemonSet controller makes for its node. It returns when the programs' readiness probes succeed. An earlier installation's programs are stopped first.
func (l *Lab) Install(ctx context.Context, opts InstallOptions) (*Product, error) {
	l.installing.Lock()
	defer l.installing.Unlock()
	if opts.Chart == "" {
		opts.Chart = filepath.Join(l.repo, "charts", "fairlead")
	}
	if opts.BinDir == "" {
		opts.BinDir = filepath.Join(l.repo, "bin")
	}
	if err := l.helm(ctx, opts); err != nil {
		return nil, err
	}
	deployment, err := l.Kube.AppsV1().Deployments(SystemNamespace).Get(ctx, Controller, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("the chart's Deployment: %w", err)
	}
	daemonSet, err := l.Kube.AppsV1().DaemonSets(SystemNamespace).Get(ctx, Speaker, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("the chart's DaemonSet: %w", err)
	}
	controller := workload{name: Controller, spec: deployment.Spec.Template.Spec}
	speaker := workload{name: Speaker, selector: metav1.FormatLabelSelector(daemonSet.Spec.Selector), spec: daemonSet.Spec.Template.Spec}
	for _, w := range []*workload{&controller, &speaker} {
		if w.path, err = l.program(ctx, w.name, opts); err != nil {
			return nil, err
		}
	}

	if err := l.stopProduct(); err != nil {
		return nil, err
	}
	if err := l.retireSpeakerPods(ctx); err != nil {
		return nil, err
	}
	l.speaker = speaker
	l.product = &Product{Speakers: map[string]*sandbox.Process{}}
	for i := range int(ptr.Deref(deployment.Spec.Replicas, 1)) {
		if err := l.startController(ctx, controller, i); err != nil {
			return nil, err
		}
	}
	for _, n := range l.Nodes {
		p, err := l.launchSpeaker(ctx, n)
		if err != nil {
			return nil, err
		}
		l.product.Speakers[n.Name()] = p
	}
	ready, ctx := errgroup.WithContext(ctx)
	for i, p := range l.product.Controllers {
		ready.Go(func() error {
			host, err := l.controllerHost(i)
			if err != nil {
				return err
			}
			return l.awaitProbe(ctx, controller, p, host)
		})
	}
	for _, n := range l.Nodes {
		ready.Go(func() error { return l.awaitProbe(ctx, speaker, l.product.Speakers[n.Name()], n.Host) })
	}
	if err := ready.Wait(); err != nil {
		return nil, err
	}
	return l.product, nil
}

func (l *Lab) helm(ctx context.Context, opts InstallOptions) error {
	chart, err := filepath.Abs(opts.Chart)
	if err != nil {
		return fmt.Errorf("the chart: %w", err)
	}
	// Helm is given homes of its own, to leave those of the person who runs the lab alone.
	args := []string{
		"HELM_CACHE_HOME=" + filepath.Join(l.Dir, "helm"), "HELM_CONFIG_HOME=" + filepath.Join(l.Dir, "helm"),
		"HELM_DATA_HOME=" + filepath.Join(l.Dir, "helm"), l.programs[binaries.Helm],
		"upgrade", "--install", "fairlead", chart, "--namespace=" + SystemNamespace, "--create-namespace",
		"--kubeconfig=" + l.Kubeconfig(),
	}
	for _, f := range opts.ValueFiles {
		if f, err = filepath.Abs(f); err != nil {
			return fmt.Errorf("the chart's values: %w", err)
		}
		args = append(args, "--values="+f)
	}
	for _, s := range opts.Set {
		args = append(args, "--set="+s)
	}
	_, err = l.Control.Run(ctx, "env", args...)
	return err
}

// program makes sure that a program is built and copies it into the lab's folder: one that is rebuilt must not change
// under a running lab, and a user without rights must be able to run it.
func (l *Lab) program(ctx context.Context, name string, opts InstallOptions) (string, error) {
	bin, err := filepath.Abs(opts.BinDir)
	if err != nil {
		return "", fmt.Errorf("the programs: %w", err)
	}
	path := filepath.Join(bin, name)
	if _, err := os.Stat(path); opts.Build || errors.Is(err, os.ErrNotExist) {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/"+map[string]string{Controller: "controller", Speaker: "speaker"}[name])
		cmd.Dir = l.repo
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("the program %s: %w", name, err)
	}
	dir := filepath.Join(l.Dir, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Never written in place: the old one may be running.
	partial, copied := filepath.Join(dir, name+".partial"), filepath.Join(dir, name)
	if err := errors.Join(os.WriteFile(partial, content, 0o755), os.Rename(partial, copied)); err != nil {
		return "", fmt.Errorf("copying %s: %w", name, err)
	}
	return copied, nil
}

func (l *Lab) stopProduct() error {
	if l.product == nil {
		return nil
	}
	var g errgroup.Group
	for _, p := range l.product.all() {
		g.Go(func() error { return p.Stop(StopGrace) })
	}
	return g.Wait()
}

func (p *Product) all() []*sandbox.Process {
	all := append([]*sandbox.Process(nil), p.Controllers...)
	for _, s := range p.Speakers {
		all = append(all, s)
	}
	return all
}

func (l *Lab) startController(ctx context.Context, w workload, i int) error {
	host, err := l.controllerHost(i)
	if err != nil {
		return err
	}
	token, err := l.token(ctx, w.spec.ServiceAccountName, nil)
	if err != nil {
		return err
	}
	name := w.name + "-" + strconv.Itoa(i+1)
	p, err := l.launch(w, host, name, pod{name: name}, token)
	if err != nil {
		return err
	}
	l.product.Controllers = append(l.product.Controllers, p)
	return nil
}

// controllerHost is the host of the i-th controller; hosts are made as they are needed and stay.
func (l *Lab) controllerHost(i int) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.controllerHosts) <= i {
		number := len(l.controllerHosts) + 1
		h, err := l.addHost(fmt.Sprintf("controller%d", number), 2, byte(number))
		if err != nil {
			return nil, err
		}
		l.controllerHosts = append(l.controllerHosts, h)
	}
	return l.controllerHosts[i], nil
}

func (l *Lab) token(ctx context.Context, account string, bound *authenticationv1.BoundObjectReference) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: ptr.To(int64(24 * time.Hour / time.Second)), BoundObjectRef: bound,
	}}
	answer, err := l.Kube.CoreV1().ServiceAccounts(SystemNamespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("requesting a token for ServiceAccount %s/%s: %w", SystemNamespace, account, err)
	}
	return answer.Status.Token, nil
}

// launch starts a workload's first container as a process of that name on a host.
func (l *Lab) launch(w workload, host *Host, name string, p pod, token string) (*sandbox.Process, error) {
	kubeconfig, err := l.WriteKubeconfig(name, token)
	if err != nil {
		return nil, err
	}
	p.namespace, p.account, p.addr = SystemNamespace, w.spec.ServiceAccountName, host.Addr().String()
	command, env, err := containerCommand(w.spec, p, w.path, kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("workload %s: %w", w.name, err)
	}
	if uid := runAsUser(w.spec); uid != nil && *uid != 0 {
		if err := errors.Join(os.Chown(kubeconfig, int(*uid), -1), checkPassable(l.Dir)); err != nil {
			return nil, fmt.Errorf("workload %s: %w", w.name, err)
		}
	}
	return host.Start(sandbox.Command{Name: name, Path: command[0], Args: command[1:], Env: env, Log: l.LogFile(name)})
}

// awaitProbe waits until the container's readiness probe succeeds, and for nothing if it has none.
func (l *Lab) awaitProbe(ctx context.Context, w workload, p *sandbox.Process, host *Host) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return p.Await(ctx, p.Name+" is ready", func(ctx context.Context) error { return w.probe(ctx, host) })
}

// probe does the readiness probe of the container once. One that has none is ready.
func (w workload) probe(ctx context.Context, host *Host) error {
	probe := w.spec.Containers[0].ReadinessProbe
	if probe == nil || probe.HTTPGet == nil {
		return nil
	}
	url, err := probeURL(w.spec.Containers[0], host.Addr())
	if err != nil {
		return fmt.Errorf("workload %s: %w", w.name, err)
	}
	_, err = host.Get(ctx, url)
	return err
}
