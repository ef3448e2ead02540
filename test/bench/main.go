// SPDX-License-Identifier: Apache-2.0

// Command bench creates many Services at once in a lab and prints how long they wait for their addresses and what that
// costs the API server.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

const (
	namespace = "bench"
	// creators is how many Services are being created at a time.
	creators = 16
	patience = 3 * time.Minute
)

func main() {
	count := flag.Int("services", 1000, "how many Services to create")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *count); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, count int) (err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	lab, err := cluster.Start(ctx, cluster.Config{Name: fmt.Sprintf("bench-%d", os.Getpid()), Nodes: 3, Family: cluster.IPv4, NodeGrace: 20 * time.Second, Log: os.Stderr, Scheme: scheme})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	if _, err := lab.Install(ctx, cluster.InstallOptions{}); err != nil {
		return err
	}
	if err := lab.CreateNamespace(ctx, namespace); err != nil {
		return err
	}
	v4, _ := cluster.PoolRange(0)
	pool := &v1alpha1.LoadBalancerIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec:       v1alpha1.LoadBalancerIPPoolSpec{Addresses: []v1alpha1.AddressRange{v1alpha1.AddressRange(v4.String())}},
	}
	if err := lab.API.Create(ctx, pool); err != nil {
		return err
	}

	config := lab.RESTConfig()
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf // what is measured is not this client
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	idle := map[string]time.Duration{}
	for _, p := range lab.Status().Processes {
		if idle[p.Name], _, err = usage(p.PID); err != nil {
			return err
		}
	}
	before, err := writes(ctx, kube)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := createAndAwait(ctx, kube, count)
	if err != nil {
		return err
	}
	// Events come last.
	var after map[string]int
	if err := cluster.Poll(ctx, "the events", func(ctx context.Context) (err error) {
		if after, err = writes(ctx, kube); err == nil && after["events"]-before["events"] < count {
			err = fmt.Errorf("%d of %d", after["events"]-before["events"], count)
		}
		return err
	}); err != nil {
		return err
	}

	fmt.Printf("%d Services at once, 3 nodes, allocateLoadBalancerNodePorts: false\n", count)
	fmt.Printf("  created after                    %8.2f s\n", r.created.Seconds())
	fmt.Printf("  all have an address after        %8.2f s\n", r.allocated.Seconds())
	fmt.Printf("  all announced after              %8.2f s\n", r.announced.Seconds())
	fmt.Printf("  from creation to address         %8.0f ms p50 %8.0f ms p99\n", ms(quantile(r.lag, 0.5)), ms(quantile(r.lag, 0.99)))
	fmt.Printf("  distinct addresses               %8d\n", r.distinct)
	fmt.Printf("  API writes per Service\n")
	total := 0
	for _, what := range written {
		n := after[what] - before[what]
		total += n
		fmt.Printf("    %-30s %8.2f\n", what, float64(n)/float64(count))
	}
	fmt.Printf("    %-30s %8.2f\n", "all", float64(total)/float64(count))
	fmt.Printf("  CPU time meanwhile, and peak memory\n")
	for _, p := range lab.Status().Processes {
		cpu, peak, err := usage(p.PID)
		if err != nil {
			return err
		}
		fmt.Printf("    %-30s %8.2f s %5d MB\n", p.Name, (cpu - idle[p.Name]).Seconds(), peak>>20)
	}
	if r.distinct != count {
		return fmt.Errorf("%d Services have %d distinct addresses", count, r.distinct)
	}
	return nil
}

// result is what the watch saw; times are since the first creation began.
type result struct {
	created, allocated, announced time.Duration
	lag                           []time.Duration
	distinct                      int
}

func createAndAwait(ctx context.Context, kube kubernetes.Interface, count int) (result, error) {
	// An informer, not a watch: the API server ends a watch that is too slow.
	factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().Services().Informer()
	updates := make(chan *corev1.Service, 8*count)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { updates <- obj.(*corev1.Service) },
		UpdateFunc: func(_, obj any) { updates <- obj.(*corev1.Service) },
	}); err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	var mu sync.Mutex
	begun := map[string]time.Time{}
	start := time.Now()
	var r result
	var g errgroup.Group
	g.Go(func() error {
		var creating errgroup.Group
		creating.SetLimit(creators)
		for i := range count {
			creating.Go(func() error {
				svc := service(i)
				mu.Lock()
				begun[svc.Name] = time.Now()
				mu.Unlock()
				_, err := kube.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{})
				return err
			})
		}
		err := creating.Wait()
		r.created = time.Since(start)
		return err
	})

	addresses := map[string]netip.Addr{}
	seen := map[netip.Addr]struct{}{}
	announced := map[string]struct{}{}
	for len(announced) < count {
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("%d of %d Services have an address, %d are announced: %w", len(addresses), count, len(announced), ctx.Err())
		case svc := <-updates:
			if len(svc.Status.LoadBalancer.Ingress) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
			if err != nil {
				return r, err
			}
			if was, ok := addresses[svc.Name]; !ok {
				mu.Lock()
				r.lag = append(r.lag, time.Since(begun[svc.Name]))
				mu.Unlock()
				addresses[svc.Name] = addr
				seen[addr] = struct{}{}
				r.allocated = time.Since(start)
			} else if was != addr {
				return r, fmt.Errorf("%s moved from %s to %s", svc.Name, was, addr)
			}
			if isTrue(svc, v1alpha1.ServiceAnnounced) {
				announced[svc.Name] = struct{}{}
				r.announced = time.Since(start)
			}
		}
	}
	r.distinct = len(seen)
	return r, g.Wait()
}

func isTrue(svc *corev1.Service, condition string) bool {
	return slices.ContainsFunc(svc.Status.Conditions, func(c metav1.Condition) bool {
		return c.Type == condition && c.Status == metav1.ConditionTrue
	})
}

// service asks for no node ports: there are 2,768 of them.
func service(i int) *corev1.Service {
	no := false
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%05d", i)},
		Spec: corev1.ServiceSpec{
			Type:                          corev1.ServiceTypeLoadBalancer,
			AllocateLoadBalancerNodePorts: &no,
			Ports:                         []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
}

// written are the writes that a Service causes, as "resource/subresource" of the API server's own count.
var written = []string{"loadbalancerips", "services/status", "loadbalancerips/status", "events", "loadbalancerippools/status"}

var requestTotal = regexp.MustCompile(`^apiserver_request_total\{(.*)\} ([0-9.e+]+)$`)
var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// writes reads from the API server's metrics how often each resource was written.
func writes(ctx context.Context, kube kubernetes.Interface) (map[string]int, error) {
	data, err := kube.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for lines := bufio.NewScanner(strings.NewReader(string(data))); lines.Scan(); {
		m := requestTotal.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		labels := map[string]string{}
		for _, l := range label.FindAllStringSubmatch(m[1], -1) {
			labels[l[1]] = l[2]
		}
		switch labels["verb"] {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE":
		default:
			continue
		}
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return nil, err
		}
		what := labels["resource"]
		if sub := labels["subresource"]; sub != "" {
			what += "/" + sub
		}
		counts[what] += int(n)
	}
	return counts, nil
}

// usage returns a process's CPU time and its peak of resident memory in bytes.
func usage(pid int) (cpu time.Duration, peak int64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// proc(5): after the name in parentheses, utime and stime are the 12th and 13th field, in ticks of 10 ms.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, i := range []int{11, 12} {
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, 0, err
		}
		cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return cpu, kb << 10, err
		}
	}
	return cpu, 0, errors.New("no VmHWM in the process's status")
}

func quantile(d []time.Duration, q float64) time.Duration {
	slices.Sort(d)
	return d[int(q*float64(len(d)-1))]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
