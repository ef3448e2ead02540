// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
)

// saveInterval is between two writes of the file.
const saveInterval = 10 * time.Second

// saved is what the file holds: the objects as the cache has them.
type saved struct {
	Nodes          []corev1.Node                 `json:"nodes"`
	Services       []corev1.Service              `json:"services"`
	Slices         []discoveryv1.EndpointSlice   `json:"endpointSlices"`
	IPs            []v1alpha1.LoadBalancerIP     `json:"loadBalancerIPs"`
	Pools          []v1alpha1.LoadBalancerIPPool `json:"loadBalancerIPPools"`
	Advertisements []v1alpha1.L2Advertisement    `json:"l2Advertisements"`
	Speakers       []v1alpha1.Speaker            `json:"speakers"`
	// BGP is nil if it was not known.
	BGP *savedBGP `json:"bgp,omitempty"`
}

// savedBGP is what the file has about BGP: no passwords.
type savedBGP struct {
	Peers          []v1alpha1.BGPPeer          `json:"bgpPeers"`
	Advertisements []v1alpha1.BGPAdvertisement `json:"bgpAdvertisements"`
	Profiles       []v1alpha1.BFDProfile       `json:"bfdProfiles"`
}

// load reads the file into a store that is complete; nil without one. What it
// says of versions and claims may be old: writes that rely on it fail, and
// peers know of later claims.
func load(path string) (*store, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var f saved
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state file %s: %w", path, err)
	}
	s := newStore()
	add(f.Nodes, s.setNode)
	for i := range f.Services {
		s.setService(nil, keepService(&f.Services[i]))
	}
	for i := range f.Slices {
		s.setSlice(nil, keepSlice(&f.Slices[i]))
	}
	for i := range f.IPs {
		s.setIP(nil, keepIP(&f.IPs[i]))
	}
	add(f.Pools, s.setPool)
	add(f.Advertisements, s.setAdvertisement)
	add(f.Speakers, s.setSpeaker)
	s.reach(complete)
	if bgp := f.BGP; bgp != nil {
		add(bgp.Peers, s.setPeer)
		add(bgp.Advertisements, s.setBGPAdvertisement)
		add(bgp.Profiles, s.setProfile)
		s.completeBGP()
	}
	return s, nil
}

func add[T any](objects []T, set func(old, obj *T) bool) {
	for i := range objects {
		set(nil, &objects[i])
	}
}

// save writes the file anew, in one step: what was there stays whole.
func (s *Source) save(ctx context.Context) error {
	var f saved
	err := errors.Join(
		take(ctx, s.cluster, &corev1.NodeList{}, func(l *corev1.NodeList) { f.Nodes = l.Items }),
		take(ctx, s.cluster, &v1alpha1.LoadBalancerIPPoolList{}, func(l *v1alpha1.LoadBalancerIPPoolList) { f.Pools = l.Items }),
		take(ctx, s.cluster, &v1alpha1.L2AdvertisementList{}, func(l *v1alpha1.L2AdvertisementList) { f.Advertisements = l.Items }),
		take(ctx, s.cluster, &v1alpha1.SpeakerList{}, func(l *v1alpha1.SpeakerList) { f.Speakers = l.Items }),
	)
	if s.store.knowsBGP() {
		f.BGP = &savedBGP{}
		err = errors.Join(err,
			take(ctx, s.cluster, &v1alpha1.BGPPeerList{}, func(l *v1alpha1.BGPPeerList) { f.BGP.Peers = l.Items }),
			take(ctx, s.cluster, &v1alpha1.BGPAdvertisementList{}, func(l *v1alpha1.BGPAdvertisementList) { f.BGP.Advertisements = l.Items }),
			take(ctx, s.cluster, &v1alpha1.BFDProfileList{}, func(l *v1alpha1.BFDProfileList) { f.BGP.Profiles = l.Items }),
		)
	}
	if err != nil {
		return fmt.Errorf("save the state: %w", err)
	}
	s.store.unkeep(&f)
	b, err := json.Marshal(&f)
	if err != nil {
		return fmt.Errorf("save the state: %w", err)
	}
	if err := replace(s.file, b); err != nil {
		return fmt.Errorf("save the state: %w", err)
	}
	return nil
}

// replace puts content in the place of a file only when all of it is on disk: a
// node that loses its power, or has no room left, keeps what there was.
func replace(path string, content []byte) error {
	partial := path + ".partial"
	f, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(partial, path)
}

// unkeep adds what is kept of the many.
func (s *store) unkeep(f *saved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, svc := range s.services {
		f.Services = append(f.Services, svc.object())
	}
	for _, of := range s.slices {
		for _, sl := range of {
			f.Slices = append(f.Slices, sl.object())
		}
	}
	for _, p := range s.ips {
		f.IPs = append(f.IPs, p.object())
	}
}

// take reads a list of the cache. Its objects are not to be changed.
func take[L client.ObjectList](ctx context.Context, cluster client.Reader, l L, keep func(L)) error {
	if err := cluster.List(ctx, l, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	keep(l)
	return nil
}

// keep saves the state after changes, and again where that failed, until ctx is
// done.
func (s *Source) keep(ctx context.Context) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.unsaved:
		}
		err := s.save(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.Error(err, "A restart without the API server would know an older state")
		}
		if failing = err != nil; failing {
			signal(s.unsaved)
		}
		t := time.NewTimer(saveInterval)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// succeed makes the first live state one that follows what was saved: what is
// gone since then is told, too.
func succeed(live State, before *store) State {
	for addr := range before.view.Addresses {
		if _, ok := live.Addresses[addr]; !ok {
			live.Gone = append(live.Gone, addr)
		}
	}
	live.NodesChanged, live.SpeakersChanged, live.ScopesChanged = true, true, true
	live.PeeringChanged = live.Peering != nil
	return live
}
