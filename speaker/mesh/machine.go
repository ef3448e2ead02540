// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

// Machine is the state of the mesh as one speaker sees it.
type Machine struct {
	config Config
	policy Policy
	drops  Drops
	out    Output
}

// New returns a machine that knows no cluster, segment or address yet. Times
// that are given to its methods never go back.
func New(c Config, p Policy, now time.Time) *Machine { return &Machine{config: c, policy: p} }

// SetCluster tells which cluster this is. Without it every frame is dropped,
// and the node counts as just started.
func (m *Machine) SetCluster(now time.Time, id uint64) {}

// SetSegments tells all interfaces that can carry addresses.
func (m *Machine) SetSegments(now time.Time, all []Segment) {}

// SetPeers tells all speakers that the API knows.
func (m *Machine) SetPeers(now time.Time, all []Peer) {}

// SetAddresses tells what changed in the cluster's addresses. The first call
// tells all of them, and makes the speaker synced.
func (m *Machine) SetAddresses(now time.Time, changed []Address, gone []netip.Addr) {}

// Reconsider tells that the policy may answer differently.
func (m *Machine) Reconsider(now time.Time) {}

// SetRecorder tells whether claims can be recorded at the moment. At first
// they can't.
func (m *Machine) SetRecorder(now time.Time, reachable bool) {}

// Recorded tells the claim on record, as read or written.
func (m *Machine) Recorded(now time.Time, addr netip.Addr, c Claim) {}

// Receive takes a frame of a peer.
func (m *Machine) Receive(now time.Time, p Packet) {}

// Received tells that some frame at all came in on an interface: the node is
// not deaf there.
func (m *Machine) Received(now time.Time, iface int, at time.Time) {}

// Answered tells of a reply to an ask, by who answered.
func (m *Machine) Answered(now time.Time, iface int, addr netip.Addr, mac link.MAC) {}

// Leave tells peers that this node is about to leave.
func (m *Machine) Leave(now time.Time, how Leaving) {}

// Suspect tells that the owner of an address, though heard, was asked for it
// in vain. Once a third node confirms, this node claims it.
func (m *Machine) Suspect(now time.Time, addr netip.Addr) {}

// Confirm tells that nobody answers for an address of Output.Probe.
func (m *Machine) Confirm(now time.Time, addr netip.Addr) {}

// Tick does what is due.
func (m *Machine) Tick(now time.Time) {}

// Next is when Tick is to be called.
func (m *Machine) Next() time.Time { return time.Time{} }

// Output returns what is to be done, once.
func (m *Machine) Output() Output { return m.out }

// Claim is the best claim known for an address; false without one.
func (m *Machine) Claim(addr netip.Addr) (Claim, bool) { return Claim{}, false }

// Remaining is the number of addresses that this node still answers for: a
// leaver goes when it is 0.
func (m *Machine) Remaining() int { return 0 }

// Drops are the frames that were not taken so far.
func (m *Machine) Drops() Drops { return m.drops }

// Peers returns what is known of each peer on each interface, by name.
func (m *Machine) Peers(now time.Time) []PeerStatus { return nil }
