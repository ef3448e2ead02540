// SPDX-License-Identifier: Apache-2.0

package mesh

// Drop is a reason for which a frame, or part of it, was not taken.
type Drop uint8

const (
	DropMalformed Drop = iota
	DropVersion
	DropTTL
	// DropInterface: it came by an interface that is not ours to use.
	DropInterface
	// DropStale: it lay in a queue for over 300 ms.
	DropStale
	// DropSignature: not signed as this node expects.
	DropSignature
	// DropCluster: of another cluster, or either cluster is not known yet.
	DropCluster
	// DropOwn: it has our own name.
	DropOwn
	// DropDuplicate: it came before; each frame is sent by both families.
	DropDuplicate
	// DropReplay: much older than what that boot of the node has sent, or of a
	// boot before the one that is heard.
	DropReplay
	// DropFull: it would have this node remember too many nodes or claims.
	DropFull
	drops
)

func (d Drop) String() string {
	return [...]string{"malformed", "version", "ttl", "interface", "stale", "signature", "cluster", "own", "duplicate", "replay", "full"}[d]
}

// Drops counts frames by Drop.
type Drops [drops]uint64
