// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/ipam"
)

// cloud plays the part of a service controller: it shows what it is given.
type cloud struct {
	*world
	lb cloudprovider.LoadBalancer
}

func newCloud(t *testing.T, services ...*corev1.Service) *cloud {
	w := newWorld(t, testPool("lan", "192.0.2.0/29", "2001:db8::/125"), testPool("off", "203.0.113.0/24"))
	w.c.opts.Cloud = true
	c := &cloud{w, w.c.LoadBalancer()}
	for _, svc := range services {
		w.create(svc)
		w.reconcile(svc.Name)
	}
	return c
}

// ensure calls the interface as the service controller does, and shows the
// answer. It fails if the Service that was handed in was changed.
func (c *cloud) ensure(name string) error {
	c.t.Helper()
	svc := c.service(name)
	before := svc.DeepCopy()
	status, err := c.lb.EnsureLoadBalancer(c.ctx(), "kubernetes", svc, nil)
	if !reflect.DeepEqual(svc, before) {
		c.t.Errorf("the Service was changed to %+v", svc)
	}
	if err == nil {
		c.edit(name, func(svc *corev1.Service) { svc.Status.LoadBalancer = *status })
		c.reconcile(name)
	}
	return err
}

func (c *cloud) exists(name string, want ...string) {
	c.t.Helper()
	status, exists, err := c.lb.GetLoadBalancer(c.ctx(), "kubernetes", c.service(name))
	if err != nil || exists != (len(want) > 0) {
		c.t.Fatalf("GetLoadBalancer of %s: %v, %v, %v", name, status, exists, err)
	}
	if !exists {
		return
	}
	var got []string
	for _, in := range status.Ingress {
		got = append(got, in.IP)
		if in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
			c.t.Errorf("ipMode %v", in.IPMode)
		}
	}
	if !reflect.DeepEqual(got, want) {
		c.t.Errorf("%s has %v, want %v", name, got, want)
	}
}

// What https://pkg.go.dev/k8s.io/cloud-provider#LoadBalancer says.
func TestCloudProviderContract(t *testing.T) {
	t.Run("ensuring gives an address, again the same, and changes nothing then", func(t *testing.T) {
		c := newCloud(t, testService("web"))
		c.exists("web")
		for range 3 {
			if err := c.ensure("web"); err != nil {
				t.Fatal(err)
			}
		}
		c.shows("web", "192.0.2.0")
		c.exists("web", "192.0.2.0")
		if len(c.writes) != 1 {
			t.Errorf("writes %v", c.writes)
		}
	})

	t.Run("both families are told in the Service's order", func(t *testing.T) {
		c := newCloud(t, testService("web", dual(corev1.IPFamilyPolicyRequireDualStack)))
		if err := c.ensure("web"); err != nil {
			t.Fatal(err)
		}
		c.exists("web", "2001:db8::", "192.0.2.0")
	})

	t.Run("a refusal is an error with its reasons", func(t *testing.T) {
		c := newCloud(t, testService("web", asking("198.51.100.1")))
		var refused *RefusedError
		if err := c.ensure("web"); !errors.As(err, &refused) || refused.Refusals[0].Reason != ipam.AddressNotInPool || refused.Error() == "" {
			t.Errorf("%v", err)
		}
		c.exists("web")
	})

	t.Run("a move gives up the old address once the new one is shown", func(t *testing.T) {
		c := newCloud(t, testService("web"))
		if err := c.ensure("web"); err != nil {
			t.Fatal(err)
		}
		c.edit("web", asking("192.0.2.5"))
		c.reconcile("web")
		if err := c.ensure("web"); err != nil {
			t.Fatal(err)
		}
		if n := len(c.addresses()); n != 2 || c.addresses()[0].Spec.Released != nil {
			t.Fatalf("%+v", c.addresses())
		}
		c.exists("web", "192.0.2.5")
		if err := c.ensure("web"); err != nil {
			t.Fatal(err)
		}
		if c.addresses()[0].Spec.Released == nil {
			t.Error("the old address is still held")
		}
	})

	t.Run("deletion releases, again without an error, and never what a namesake has", func(t *testing.T) {
		c := newCloud(t, testService("web"))
		if err := c.ensure("web"); err != nil {
			t.Fatal(err)
		}
		namesake := testService("web")
		namesake.UID = types.UID("another")
		if err := c.lb.EnsureLoadBalancerDeleted(c.ctx(), "kubernetes", namesake); err != nil {
			t.Fatal(err)
		}
		c.exists("web", "192.0.2.0")
		for range 2 {
			if err := c.lb.EnsureLoadBalancerDeleted(c.ctx(), "kubernetes", c.service("web")); err != nil {
				t.Fatal(err)
			}
		}
		c.exists("web")
		if c.addresses()[0].Spec.Released == nil {
			t.Error("the address is still held")
		}
	})

	t.Run("deletion releases what a Service held that is of another class or type now", func(t *testing.T) {
		c := newCloud(t, testService("web"))
		if err := c.ensure("web"); err != nil {
			t.Fatal(err)
		}
		c.edit("web", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP })
		c.reconcile("web")
		if err := c.lb.EnsureLoadBalancerDeleted(c.ctx(), "kubernetes", c.service("web")); err != nil {
			t.Fatal(err)
		}
		c.exists("web")
	})

	t.Run("another class is somebody else's", func(t *testing.T) {
		other := "example.com/lb"
		c := newCloud(t, testService("web", func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = &other }))
		if err := c.ensure("web"); !errors.Is(err, cloudprovider.ImplementedElsewhere) {
			t.Errorf("%v", err)
		}
		if err := c.lb.UpdateLoadBalancer(c.ctx(), "kubernetes", c.service("web"), nil); !errors.Is(err, cloudprovider.ImplementedElsewhere) {
			t.Errorf("%v", err)
		}
		// Teardown never is.
		if err := c.lb.EnsureLoadBalancerDeleted(c.ctx(), "kubernetes", c.service("web")); err != nil {
			t.Errorf("%v", err)
		}
	})

	t.Run("nodes come and go without a word", func(t *testing.T) {
		c := newCloud(t, testService("web"))
		if err := c.ensure("web"); err != nil {
			t.Fatal(err)
		}
		writes := len(c.writes)
		if err := c.lb.UpdateLoadBalancer(c.ctx(), "kubernetes", c.service("web"), []*corev1.Node{testNode("n1")}); err != nil || len(c.writes) != writes {
			t.Errorf("%v, writes %v", err, c.writes)
		}
		if c.lb.GetLoadBalancerName(c.ctx(), "kubernetes", c.service("web")) != "default/web" {
			t.Error("the name is the Service's")
		}
	})

	t.Run("the Controller itself writes no Service", func(t *testing.T) {
		c := newCloud(t, testService("web"))
		c.reconcile("web")
		c.shows("web")
		if condition(c.service("web"), v1alpha1.ServiceAllocated).Type != "" || len(c.writes) != 0 {
			t.Errorf("writes %v", c.writes)
		}
	})
}
