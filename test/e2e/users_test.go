// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// smallPool is the first addresses of the lab's first range, as many of each family, and a pool of them in which they
// rest so shortly that a spec can see them return.
func smallPool(count int) (addrs []netip.Addr, pool *v1alpha1.LoadBalancerIPPool) {
	pool = &v1alpha1.LoadBalancerIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "small"},
		Spec:       v1alpha1.LoadBalancerIPPoolSpec{ReuseAfter: &metav1.Duration{Duration: 2 * time.Second}},
	}
	v4, v6 := cluster.PoolRange(0)
	for _, prefix := range []netip.Prefix{v4, v6} {
		first := prefix.Addr()
		last := first
		for i := range count {
			if i > 0 {
				last = last.Next()
			}
			addrs = append(addrs, last)
		}
		pool.Spec.Addresses = append(pool.Spec.Addresses, v1alpha1.AddressRange(between(first, last)))
	}
	return addrs, pool
}

// users create, change and delete Services without waiting for what comes of it.
type users struct {
	api        client.Client
	namespace  string
	services   int           // how many there are at most
	pool       []netip.Addr  // what they ask for by number
	operations int           // of all together
	pause      time.Duration // of each between two operations
}

func serviceName(i int) string { return fmt.Sprintf("svc-%03d", i) }

// run returns when all is done. What each user does follows from the seed; what comes of it, from all of them.
func (u *users) run(ctx context.Context, seed uint64) error {
	const count = 6
	var begun atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for user := range count {
		r := rand.New(rand.NewPCG(seed, uint64(user)))
		g.Go(func() error {
			tick := time.NewTicker(u.pause)
			defer tick.Stop()
			for begun.Add(1) <= int64(u.operations) {
				// Each has Services of its own.
				name := serviceName(r.IntN(u.services/count)*count + user)
				if err := u.touch(ctx, r, name); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-tick.C:
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// touch makes a Service that does not exist, and changes or deletes one that does.
func (u *users) touch(ctx context.Context, r *rand.Rand, name string) error {
	svc := &corev1.Service{}
	err := u.api.Get(ctx, objectKey(u.namespace, name), svc)
	switch {
	case apierrors.IsNotFound(err):
		svc = &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: name},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: ptr.To(false),
			},
		}
		u.changePorts(r, svc)
		u.changeKey(r, svc)
		u.changeFamilies(r, svc)
		if r.IntN(10) == 0 {
			u.askAnother(r, svc)
		}
		return u.api.Create(ctx, svc)
	case err != nil:
		return err
	case svc.DeletionTimestamp != nil:
		return nil
	}
	base := svc.DeepCopy()
	switch n := r.IntN(11); {
	case n < 4:
		return client.IgnoreNotFound(u.api.Delete(ctx, svc))
	case n < 6:
		u.changePorts(r, svc)
	case n < 7:
		u.changeKey(r, svc)
	case n < 8:
		u.changeFamilies(r, svc)
	case n < 9:
		u.askAnother(r, svc)
	default:
		if svc.Spec.Type = corev1.ServiceTypeClusterIP; base.Spec.Type == corev1.ServiceTypeClusterIP {
			svc.Spec.Type = corev1.ServiceTypeLoadBalancer
			svc.Spec.AllocateLoadBalancerNodePorts = ptr.To(false)
		} else {
			svc.Spec.AllocateLoadBalancerNodePorts = nil
		}
	}
	return client.IgnoreNotFound(u.api.Patch(ctx, svc, client.MergeFrom(base)))
}

func (u *users) changePorts(r *rand.Rand, svc *corev1.Service) {
	svc.Spec.Ports = nil
	for _, p := range r.Perm(4)[:1+r.IntN(2)] {
		svc.Spec.Ports = append(svc.Spec.Ports, port([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}[p%2], int32(80+p)))
	}
}

// changeKey gives every other Service a sharing key.
func (u *users) changeKey(r *rand.Rand, svc *corev1.Service) {
	delete(svc.Annotations, v1alpha1.AnnotationSharingKey)
	if r.IntN(2) == 0 {
		sharing(strings.Repeat("k", 1+r.IntN(20)))(svc)
	}
}

// changeFamilies makes every third Service one of two families. The API server fills in and takes away the second one.
func (u *users) changeFamilies(r *rand.Rand, svc *corev1.Service) {
	svc.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
	if r.IntN(3) == 0 {
		svc.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack)
	}
}

// askAnother has the Service ask for an address by number, or for none.
func (u *users) askAnother(r *rand.Rand, svc *corev1.Service) {
	delete(svc.Annotations, v1alpha1.AnnotationAddresses)
	if r.IntN(2) == 0 {
		asking(u.pool[r.IntN(len(u.pool))])(svc)
	}
}
