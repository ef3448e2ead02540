// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// lister makes informers that are fast to read what there is: a speaker that
// starts is silent until it has. A watch that begins with what there is takes
// the API server three times as long as a list, and so does a list in pages,
// because all pages but the first come from etcd.
type lister struct {
	addresses rest.Interface
	// whole is held by who reads a list as a whole: one at a time takes enough
	// memory.
	whole sync.Mutex
}

func newLister(config *rest.Config, scheme *runtime.Scheme) (*lister, error) {
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make the API client: %w", err)
	}
	c, err := apiutil.RESTClientForGVK(v1alpha1.GroupVersion.WithKind("LoadBalancerIP"), false, false, config, serializer.NewCodecFactory(scheme), hc)
	if err != nil {
		return nil, fmt.Errorf("make the API client: %w", err)
	}
	return &lister{addresses: c}, nil
}

// informer returns one without indexes, which nobody asks.
func (l *lister) informer(lw toolscache.ListerWatcher, obj runtime.Object, resync time.Duration, _ toolscache.Indexers) toolscache.SharedIndexInformer {
	s := stripped{ListerWatcherWithContext: toolscache.ToListerWatcherWithContext(lw)}
	if _, many := obj.(*v1alpha1.LoadBalancerIP); many {
		s.list = l.listAddresses
	} else {
		s.list = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			l.whole.Lock()
			defer l.whole.Unlock()
			list, err := s.ListerWatcherWithContext.ListWithContext(ctx, o)
			if err != nil {
				return nil, err
			}
			return stripAll(list)
		}
	}
	return toolscache.NewSharedIndexInformer(s, obj, resync, toolscache.Indexers{})
}

// listAddresses reads LoadBalancerIPs one by one as they come. All at once they
// would take a multiple of the memory that a speaker needs for them later.
func (l *lister) listAddresses(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	body, err := l.addresses.Get().Resource("loadbalancerips").VersionedParams(&o, metav1.ParameterCodec).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	list, err := readAddresses(body)
	if err != nil {
		return nil, fmt.Errorf("read a list of LoadBalancerIPs: %w", err)
	}
	return list, nil
}

// readAddresses reads a LoadBalancerIPList in JSON.
func readAddresses(r io.Reader) (*metav1.List, error) {
	d := json.NewDecoder(r)
	if err := expect(d, json.Delim('{')); err != nil {
		return nil, err
	}
	var list metav1.List
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch key {
		case "metadata":
			err = d.Decode(&list.ListMeta)
		case "items":
			list.Items, err = readItems(d)
		default:
			var other json.RawMessage
			err = d.Decode(&other)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := expect(d, json.Delim('}')); err != nil {
		return nil, err
	}
	if list.ResourceVersion == "" {
		return nil, errors.New("it has no resourceVersion")
	}
	return &list, nil
}

func readItems(d *json.Decoder) (items []runtime.RawExtension, err error) {
	switch token, err := d.Token(); {
	case err != nil:
		return nil, err
	case token == nil:
		return nil, nil
	case token != json.Delim('['):
		return nil, fmt.Errorf("%v where a list of items should be", token)
	}
	for d.More() {
		// What manages which fields is half of the text, and nobody's concern.
		var item struct {
			Metadata struct{ Name, ResourceVersion string }
			Spec     v1alpha1.LoadBalancerIPSpec
			Status   v1alpha1.LoadBalancerIPStatus
		}
		if err := d.Decode(&item); err != nil {
			return nil, err
		}
		items = append(items, runtime.RawExtension{Object: keepIP(&v1alpha1.LoadBalancerIP{
			ObjectMeta: metav1.ObjectMeta{Name: item.Metadata.Name, ResourceVersion: item.Metadata.ResourceVersion},
			Spec:       item.Spec, Status: item.Status,
		})})
	}
	return items, expect(d, json.Delim(']'))
}

func expect(d *json.Decoder, want json.Delim) error {
	switch got, err := d.Token(); {
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case got != want:
		return fmt.Errorf("%v where %v should be", got, want)
	}
	return nil
}

// stripped lists objects with nothing but what is kept of them.
type stripped struct {
	toolscache.ListerWatcherWithContext
	list func(context.Context, metav1.ListOptions) (runtime.Object, error)
}

// IsWatchListSemanticsUnSupported tells client-go not to begin with a watch.
func (s stripped) IsWatchListSemanticsUnSupported() bool { return true }

// List implements toolscache.Lister.
func (s stripped) List(o metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), o)
}

// Watch implements toolscache.Watcher.
func (s stripped) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), o)
}

// ListWithContext implements toolscache.ListerWithContext.
func (s stripped) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	return s.list(ctx, o)
}

// stripAll returns a list with nothing but what is kept of its items.
func stripAll(list runtime.Object) (runtime.Object, error) {
	m, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	out := &metav1.List{ListMeta: metav1.ListMeta{
		ResourceVersion: m.GetResourceVersion(), Continue: m.GetContinue(), RemainingItemCount: m.GetRemainingItemCount(),
	}}
	err = meta.EachListItem(list, func(obj runtime.Object) error {
		kept, err := strip(obj)
		if err != nil {
			return err
		}
		out.Items = append(out.Items, runtime.RawExtension{Object: kept.(runtime.Object)})
		return nil
	})
	return out, err
}
