// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/speaker/link"
)

const (
	// maxFrame is the size of the largest payload: it fits a frame of every
	// Ethernet, whatever tunnel is between.
	maxFrame = 1400
	// maxNode is the longest name of a node.
	maxNode = 253
	// maxTerm bounds terms: whoever counts far beyond what failures can reach
	// must not overflow anything. status.l2.term has the same bound.
	maxTerm = 1 << 48
	// macSize is the length of a signature: HMAC-SHA256/128.
	macSize = 16
	// buckets is how many parts the digest of a node's claims has.
	buckets = 16
	// ageUnit is what the age in a heard-set counts.
	ageUnit = 4 // milliseconds

	version    = 1
	headerSize = 31 // without the name
	heardSize  = 10
)

// kind says what a frame is for.
type kind uint8

const (
	kindHello kind = iota + 1
	kindClaims
	kindRequest
	kindSuspect
	kindConfirm
)

const flagSigned = 1

// header begins every frame.
type header struct {
	kind    kind
	cluster uint64
	boot    uint64
	seq     uint64
	node    []byte
}

// digest is one XOR of the hashes of claims for each bucket.
type digest [buckets]uint64

// helloSilent is the bit of the state that tells hello.silent.
const helloSilent = 0x80

// hello says that its sender lives, and how.
type hello struct {
	state State
	// silent says that the sender doesn't answer for its addresses on this
	// interface yet: it has to know the claims of others first.
	silent bool
	uptime uint32 // seconds
	mac    link.MAC
	claims uint32
	digest digest
	heard  []byte // heardSize bytes each
}

// heard is one whom the sender of a hello hears.
type heard struct {
	node  uint64 // hash of its name
	age   uint8  // in ageUnit
	state State
	// ipv4: its hellos arrive by IPv4.
	ipv4 bool
}

// heardIPv4 is beside the state in a heard-set.
const heardIPv4 = 1 << 7

// word is a claim in a frame.
type word struct {
	addr netip.Addr
	term int64
	rank uint8
	// mute: the claimant has no interface to answer on.
	mute bool
	// released: the claimant takes the claim back.
	released bool
	// node is the claimant; empty if it is the sender.
	node []byte
}

const (
	wordIPv6 = 1 << iota
	wordMute
	wordReleased
	wordRelayed
	wordFlags
)

// codec makes and opens frames of one node.
type codec struct {
	node string
	boot uint64
	seq  uint64
	macs []hash.Hash // by key; the first one signs
	// lenient takes frames that are not signed.
	lenient bool
	sum     [sha256.Size]byte
}

func newCodec(c Config) codec {
	k := codec{node: c.Node, boot: c.Boot, lenient: c.AcceptUnsigned || len(c.Keys) == 0}
	for _, key := range c.Keys {
		k.macs = append(k.macs, hmac.New(sha256.New, key))
	}
	return k
}

// begin starts a frame.
func (k *codec) begin(kind kind, cluster uint64) []byte {
	k.seq++
	b := make([]byte, 0, maxFrame)
	flags := byte(0)
	if len(k.macs) > 0 {
		flags = flagSigned
	}
	b = append(b, 'F', 'L', 'M', version, byte(kind), flags)
	b = binary.BigEndian.AppendUint64(b, cluster)
	b = binary.BigEndian.AppendUint64(b, k.boot)
	b = binary.BigEndian.AppendUint64(b, k.seq)
	b = append(b, byte(len(k.node)))
	return append(b, k.node...)
}

// room is how many bytes can be added to a frame.
func (k *codec) room(b []byte) int { return maxFrame - macSize - len(b) }

// end signs a frame.
func (k *codec) end(b []byte) []byte {
	if len(k.macs) == 0 {
		return b
	}
	return append(b, k.sign(k.macs[0], b)...)
}

func (k *codec) sign(mac hash.Hash, b []byte) []byte {
	mac.Reset()
	mac.Write(b)
	return mac.Sum(k.sum[:0])[:macSize]
}

// verify tells whether a frame has the signature of one of the keys. Whoever
// has no key believes any.
func (k *codec) verify(b, signature []byte) bool {
	return len(k.macs) == 0 || slices.ContainsFunc(k.macs, func(mac hash.Hash) bool { return hmac.Equal(k.sign(mac, b), signature) })
}

// open checks the form and the signature of a frame.
func (k *codec) open(b []byte) (h header, body []byte, why Drop, ok bool) {
	if len(b) < headerSize || len(b) > maxFrame || b[0] != 'F' || b[1] != 'L' || b[2] != 'M' {
		return h, nil, DropMalformed, false
	}
	if b[3] != version {
		return h, nil, DropVersion, false
	}
	if b[5]&flagSigned == 0 {
		if !k.lenient {
			return h, nil, DropSignature, false
		}
	} else {
		n := len(b) - macSize
		if n < headerSize {
			return h, nil, DropMalformed, false
		}
		if !k.verify(b[:n], b[n:]) {
			return h, nil, DropSignature, false
		}
		b = b[:n]
	}
	h = header{
		kind:    kind(b[4]),
		cluster: binary.BigEndian.Uint64(b[6:]),
		boot:    binary.BigEndian.Uint64(b[14:]),
		seq:     binary.BigEndian.Uint64(b[22:]),
	}
	n := int(b[30])
	if n == 0 || n > maxNode || len(b) < headerSize+n {
		return h, nil, DropMalformed, false
	}
	h.node = b[headerSize : headerSize+n]
	return h, b[headerSize+n:], 0, true
}

// appendHello adds a hello without its heard-set. The number of those heard
// is the last byte, to be set by the caller.
func appendHello(b []byte, h *hello) []byte {
	state := byte(h.state)
	if h.silent {
		state |= helloSilent
	}
	b = append(b, state)
	b = binary.BigEndian.AppendUint32(b, h.uptime)
	b = append(b, h.mac[:]...)
	b = binary.BigEndian.AppendUint32(b, h.claims)
	for _, d := range h.digest {
		b = binary.BigEndian.AppendUint64(b, d)
	}
	return append(b, 0)
}

func appendHeard(b []byte, h heard) []byte {
	state := byte(h.state)
	if h.ipv4 {
		state |= heardIPv4
	}
	return append(binary.BigEndian.AppendUint64(b, h.node), h.age, state)
}

// decodeHello reads the body of a hello. What it returns points into it.
func decodeHello(b []byte) (h hello, ok bool) {
	const fixed = 1 + 4 + 6 + 4 + 8*buckets + 1
	if len(b) < fixed || State(b[0]&^helloSilent) >= states || len(b) != fixed+heardSize*int(b[fixed-1]) {
		return h, false
	}
	h.state, h.silent = State(b[0]&^helloSilent), b[0]&helloSilent != 0
	h.uptime = binary.BigEndian.Uint32(b[1:])
	h.mac = link.MAC(b[5:11])
	h.claims = binary.BigEndian.Uint32(b[11:])
	for i := range h.digest {
		h.digest[i] = binary.BigEndian.Uint64(b[15+8*i:])
	}
	h.heard = b[fixed:]
	return h, true
}

// nextHeard takes the first entry off a heard-set.
func nextHeard(b []byte) (heard, []byte) {
	h := heard{
		node: binary.BigEndian.Uint64(b), age: b[8],
		state: min(State(b[9]&^heardIPv4), states-1), ipv4: b[9]&heardIPv4 != 0,
	}
	return h, b[heardSize:]
}

// appendWord adds a claim to a claims frame.
func appendWord(b []byte, w *word) []byte {
	flags := byte(0)
	if w.addr.Is6() {
		flags |= wordIPv6
	}
	if w.mute {
		flags |= wordMute
	}
	if w.released {
		flags |= wordReleased
	}
	if len(w.node) > 0 {
		flags |= wordRelayed
	}
	b = append(b, flags)
	if w.addr.Is6() {
		a := w.addr.As16()
		b = append(b, a[:]...)
	} else {
		a := w.addr.As4()
		b = append(b, a[:]...)
	}
	b = append(binary.AppendUvarint(b, uint64(w.term)), w.rank)
	if len(w.node) > 0 {
		b = append(append(b, byte(len(w.node))), w.node...)
	}
	return b
}

// wordRoom is the most that a claim takes in a frame.
func wordRoom(w *word) int { return 1 + 16 + 10 + 1 + 1 + len(w.node) }

// nextWord takes the first claim off the body of a claims frame, which begins
// with a set of buckets.
func nextWord(b []byte) (w word, rest []byte, ok bool) {
	if b[0] >= wordFlags {
		return w, nil, false
	}
	flags := b[0]
	b = b[1:]
	if flags&wordIPv6 != 0 {
		if len(b) < 16 {
			return w, nil, false
		}
		w.addr, b = netip.AddrFrom16([16]byte(b[:16])), b[16:]
		if w.addr.Is4In6() {
			return w, nil, false
		}
	} else {
		if len(b) < 4 {
			return w, nil, false
		}
		w.addr, b = netip.AddrFrom4([4]byte(b[:4])), b[4:]
	}
	term, n := binary.Uvarint(b)
	if n <= 0 || term == 0 || term > maxTerm || len(b) < n+1 {
		return w, nil, false
	}
	w.term, w.rank, b = int64(term), b[n], b[n+1:]
	w.mute, w.released = flags&wordMute != 0, flags&wordReleased != 0
	if flags&wordRelayed != 0 {
		if w.node, b, ok = nextName(b); !ok {
			return w, nil, false
		}
	}
	return w, b, true
}

// nextName takes a name of a node off b.
func nextName(b []byte) (name, rest []byte, ok bool) {
	if len(b) < 1 || b[0] == 0 || b[0] > maxNode || len(b) < 1+int(b[0]) {
		return nil, nil, false
	}
	n := 1 + int(b[0])
	return b[1:n], b[n:], true
}

// decodeClaims reads the set of buckets that a claims frame completes, and
// checks all of its claims.
func decodeClaims(b []byte) (complete uint16, words []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, false
	}
	complete, words = binary.BigEndian.Uint16(b), b[2:]
	for rest := words; len(rest) > 0; {
		if _, rest, ok = nextWord(rest); !ok {
			return 0, nil, false
		}
	}
	return complete, words, true
}

// decodeRequest reads whose claims are asked for, in which buckets.
func decodeRequest(b []byte) (node []byte, mask uint16, ok bool) {
	node, b, ok = nextName(b)
	if !ok || len(b) != 2 {
		return nil, 0, false
	}
	return node, binary.BigEndian.Uint16(b), true
}

// decodeSuspicion reads a suspicion or its confirmation: a claim, and who
// suspected first.
func decodeSuspicion(b []byte) (w word, by []byte, ok bool) {
	if len(b) == 0 {
		return w, nil, false
	}
	if w, b, ok = nextWord(b); !ok || len(w.node) == 0 {
		return w, nil, false
	}
	by, b, ok = nextName(b)
	return w, by, ok && len(b) == 0
}

// ClusterID is what frames say in place of the name of a cluster. It is never
// 0, which stands for none.
func ClusterID(name string) uint64 { return hashName(name) | 1 }

// hashName is FNV-1a of a name.
func hashName[T string | []byte](name T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return h
}

// hashClaim spreads a claim over 64 bits (the finaliser of SplitMix64).
func hashClaim(addr netip.Addr, term int64, rank uint8, mute bool) uint64 {
	a := addr.As16()
	h := binary.BigEndian.Uint64(a[:8])
	for _, v := range [...]uint64{binary.BigEndian.Uint64(a[8:]), uint64(term), uint64(rank)<<1 | bit(mute)} {
		h = (h ^ v) + 0x9e3779b97f4a7c15
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h
}

// bucketOf is the bucket of an address.
func bucketOf(addr netip.Addr) int { return int(hashClaim(addr, 0, 0, false) % buckets) }

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
