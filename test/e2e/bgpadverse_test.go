// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/router"
	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// bgpMessage is a message with its header (RFC 4271, 4.1).
func bgpMessage(kind byte, body ...byte) []byte {
	m := []byte(strings.Repeat("\xff", 16))
	m = binary.BigEndian.AppendUint16(m, uint16(19+len(body)))
	return append(append(m, kind), body...)
}

// bgpOpen is an OPEN message of a router of torsASN that carries both families (RFC 4760, 8).
func bgpOpen(version, holdTime byte) []byte {
	return bgpMessage(1, version, torsASN>>8, torsASN&0xff, 0, holdTime, 192, 0, 2, 9,
		16, 2, 6, 1, 4, 0, 1, 0, 1, 2, 6, 1, 4, 0, 2, 0, 1)
}

// crookedRouters wait at addresses of the client, port 179, until the spec ends, and say these words to whoever connects and
// has sent its OPEN message. Who has nothing to say closes the connection, others wait for that.
func crookedRouters(ctx context.Context, words map[netip.Addr][]byte) {
	GinkgoHelper()
	for addr := range words {
		on := fmt.Sprintf("%s/128 dev %s", addr, lab.Client.Interface)
		if addr.Is4() {
			on = fmt.Sprintf("%s/32 dev %s", addr, lab.Client.Interface)
		}
		ip(ctx, lab.Client, "addr add "+on)
		DeferCleanup(func(ctx SpecContext) { ip(ctx, lab.Client, "addr del "+on) })
	}
	var listener net.Listener
	Expect(lab.Client.Do(func() (err error) {
		listener, err = net.Listen("tcp", ":179")
		return err
	})).To(Succeed())
	DeferCleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				at := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
				// What becomes of the connection is for the spec to find out.
				if err := readMessage(conn); err != nil || len(words[at]) == 0 {
					return
				}
				_, _ = conn.Write(words[at])
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
}

// readMessage reads a message and forgets it.
func readMessage(r io.Reader) error {
	header := make([]byte, 19)
	if _, err := io.ReadFull(r, header); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint16(header[16:]))-int64(len(header)))
	return err
}

var _ = Describe("What routers may do wrong", onLab, func() {
	s := newRoutedScene()

	serve := func(ctx context.Context, k stack) (check func()) {
		GinkgoHelper()
		s.addRouted(ctx)
		s.startBackends(ctx, "web")
		s.withPeers(ctx, k)
		s.addService(ctx, "web", selecting("web"), k.service)
		check = func() {
			GinkgoHelper()
			for _, addr := range k.addrs(s, 1) {
				serves(ctx, addr, lab.Nodes, backendNames()...)
			}
		}
		check()
		return check
	}

	DescribeTable("a flood of routes is not taken in: no memory is used for it, and no kernel gets one", func(ctx SpecContext, k stack) {
		const count = 20_000
		serves := serve(ctx, k)
		lives := sessionsLive(ctx)
		before := map[string]int{}
		kernel := map[string]int{}
		for _, n := range lab.Nodes {
			before[n.Name()], kernel[n.Name()] = memoryOf(lab.product.Speakers[n.Name()]), len(routes(ctx, n.Host))
		}
		var flood []netip.Prefix
		for i := range count {
			a := netip.AddrFrom4([4]byte{172, byte(16 + i>>16), byte(i >> 8), byte(i)})
			if len(k) == 1 && k[0] == corev1.IPv6Protocol || len(k) == 2 && i%2 == 1 {
				a = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
			}
			flood = append(flood, ofAddress(a))
		}
		configureTors(ctx, func(c *router.Config) { c.Networks = flood })
		for _, r := range lab.tors {
			for _, n := range lab.Nodes {
				Eventually(ctx, announcedTo).WithArguments(r, addressOf(n.Host, k[0]), k).Should(BeNumerically(">=", count), "%s to %s", r.Name(), n.Name())
			}
		}
		// Who answers this question has read all that came before it.
		for _, r := range lab.tors {
			before, err := updatesFrom(ctx, r, k[0])
			Expect(err).NotTo(HaveOccurred())
			for _, n := range lab.Nodes {
				neighbor := addressOf(n.Host, k[0])
				ask := map[router.Kind]string{router.FRR: fmt.Sprintf("clear bgp %s soft in", neighbor), router.BIRD: "reload in " + birdName(neighbor)}[r.BGP.Kind]
				_, err := r.BGP.Command(ctx, ask)
				Expect(err).NotTo(HaveOccurred())
			}
			Eventually(ctx, func(g Gomega) {
				now, err := updatesFrom(ctx, r, k[0])
				g.Expect(err).NotTo(HaveOccurred())
				for i := range now {
					g.Expect(now[i]).NotTo(Equal(before[i]), "%s should send %s its table again", lab.Nodes[i].Name(), r.Name())
				}
			}).Should(Succeed())
		}
		for _, n := range lab.Nodes {
			Expect(memoryOf(lab.product.Speakers[n.Name()])).To(BeNumerically("<", before[n.Name()]+16<<10), "kB of the speaker of %s, after %d", n.Name(), before[n.Name()])
			Expect(routes(ctx, n.Host)).To(HaveLen(kernel[n.Name()]))
		}
		serves()
		lives.goOn(ctx)
		configureTors(ctx)
		serves()
		lives.goOn(ctx)
	}, inAllStacks)

	DescribeTable("malformed messages end the session with a word, and disturb no other", func(ctx SpecContext, k stack) {
		check := serve(ctx, k)
		lives := sessionsLive(ctx)
		random := rand.New(rand.NewPCG(1, 2))
		noise := make([]byte, 1000)
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		header := bgpMessage(1)[:16]
		malformed := bgpMessage(1, noise[:40]...)
		malformed[19] = 4
		begun := slices.Concat(bgpOpen(4, 90), bgpMessage(4))
		// What is said in UPDATEs is nothing to us, be it what it may.
		rambling := slices.Clone(begun)
		for range 2000 {
			rambling = append(rambling, bgpMessage(2, noise[:4+random.IntN(900)]...)...)
		}
		cases := []struct {
			words  []byte
			reason string
		}{
			{rambling, ""},
			{nil, "the router closed the connection without a word"},
			{[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), "message header error, connection not synchronized"},
			{noise, "message header error, connection not synchronized"},
			{slices.Concat(header, []byte{0, 18, 1}), "message header error, bad message length"},
			{slices.Concat(header, []byte{0xff, 0xff, 1}), "message header error, bad message length"},
			{bgpMessage(9, 1, 2, 3), "message header error, bad message type"},
			{bgpMessage(4), "unexpected message in OpenSent"},
			{malformed, "we refused the router: "},
			{bgpOpen(3, 90), "it speaks version 3 of BGP"},
			{bgpOpen(4, 1), "its hold time is 1s"},
			{slices.Concat(bgpOpen(4, 90), bgpMessage(2, 0, 0, 0, 0)), "unexpected message in OpenConfirm"},
			{slices.Concat(begun, bgpMessage(9)), "message header error, bad message type"},
			{slices.Concat(begun, bgpOpen(4, 90)), "unexpected message in Established"},
			{slices.Concat(begun, bgpMessage(3, 6, 2, 3, 'b', 'y', 'e')), `the router ended the session: cease, administrative shutdown: "bye"`},
		}
		words := map[netip.Addr][]byte{}
		at := func(i int) netip.Addr {
			b := addressOf(lab.Client, k[0]).AsSlice()
			b[len(b)-2], b[len(b)-1] = 251, byte(i+1)
			a, _ := netip.AddrFromSlice(b)
			return a
		}
		for i, c := range cases {
			words[at(i)] = c.words
		}
		crookedRouters(ctx, words)
		for i := range cases {
			s.addPeer(ctx, fmt.Sprint("crooked-", i), at(i))
		}
		for i, c := range cases {
			if name := fmt.Sprint("crooked-", i); c.reason == "" {
				s.peerTells(ctx, name, metav1.ConditionTrue, "Established", "")
			} else {
				// Between two attempts it may be established for a moment.
				s.peerTells(ctx, name, metav1.ConditionFalse, "NotEstablished", c.reason)
			}
		}
		check()
		lives.goOn(ctx)
		for _, n := range lab.Nodes {
			Expect(lab.product.Speakers[n.Name()].State()).To(Equal(sandbox.Running))
		}
	}, inAllStacks)
})

var _ = Describe("BGPAdvertisements that contradict each other", onLab, func() {
	s := newRoutedScene()

	DescribeTable("are told so, and the first by name counts until they agree", func(ctx SpecContext, k stack) {
		s.addRouted(ctx)
		s.startBackends(ctx, "web")
		s.withPeers(ctx, k)
		lives := sessionsLive(ctx)
		med := func(n int64) func(*v1alpha1.BGPAdvertisementSpec) {
			return func(ad *v1alpha1.BGPAdvertisementSpec) { ad.MED = ptr.To(n) }
		}
		s.addBGPAdvertisement(ctx, "b", med(20))
		s.addService(ctx, "web", selecting("web"), k.service)
		s.addBGPAdvertisement(ctx, "a", med(10))
		contradicts := func(name string, status metav1.ConditionStatus, message string) {
			GinkgoHelper()
			Eventually(ctx, func() (*metav1.Condition, error) {
				ad := &v1alpha1.BGPAdvertisement{}
				err := api.Get(ctx, objectKey("", s.peerName(name)), ad)
				return meta.FindStatusCondition(ad.Status.Conditions, v1alpha1.BGPAdvertisementContradicts), err
			}).Should(And(Not(BeNil()), HaveField("Status", status), HaveField("Message", ContainSubstring(message))))
		}
		serve := func(med uint32) {
			GinkgoHelper()
			for _, addr := range k.addrs(s, 1) {
				announcedBy(ctx, addr, lab.Nodes, HaveField("MED", HaveValue(Equal(med))))
				serves(ctx, addr, lab.Nodes, backendNames()...)
			}
		}
		contradicts("a", metav1.ConditionTrue, fmt.Sprintf("BGPAdvertisement %s sets another med for the same routes to the same peers: this one's counts", s.peerName("b")))
		contradicts("b", metav1.ConditionTrue, fmt.Sprintf("BGPAdvertisement %s sets another med for the same routes to the same peers: that one's counts", s.peerName("a")))
		serve(10)
		s.editBGPAdvertisement(ctx, "a", med(20))
		contradicts("a", metav1.ConditionFalse, "")
		contradicts("b", metav1.ConditionFalse, "")
		serve(20)
		lives.goOn(ctx)
	}, inAllStacks)
})

var _ = Describe("Layer 2 and BGP for the same address", onLab, func() {
	meetTors()
	s := newScene()

	DescribeTable("lead a client on the LAN to one node and one far away to all", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web")
		s.withPeers(ctx, stack{f})
		s.addService(ctx, "web", selecting("web"), of(f))
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
		Eventually(ctx, hostname).WithArguments(netip.AddrPortFrom(addr, 80)).Should(HavePrefix("web-node"))
		serves(ctx, addr, lab.Nodes, backendNames()...)
		s.tellsOfBGP(ctx, "web")
		Expect(conditionOf(s.service(ctx, "web"), v1alpha1.ServiceAnnounced).Message).To(ContainSubstring("on layer 2 and by BGP"))

		// The node that answers on the LAN goes; BGP has others already.
		complete := probedFromFar(ctx, addr)
		s.mark(ctx, owner.Name(), drain, undrain)
		s.goes(ctx, addr, owner)
		serves(ctx, addr, others(owner), backendNames()...)
		complete()
	}, inBothFamilies)

	DescribeTable("may be by nodes of their own", func(ctx SpecContext, f corev1.IPFamily) {
		s.addLAN(ctx)
		s.startBackends(ctx, "web")
		s.withPeers(ctx, stack{f})
		s.advertise(ctx, onlyOn("node1"))
		s.addBGPAdvertisement(ctx, "others", func(ad *v1alpha1.BGPAdvertisementSpec) {
			ad.Pools, ad.NodeSelector = []string{s.poolName("lan")}, onNodes("node2", "node3")
		})
		s.addService(ctx, "web", selecting("web"), of(f))
		addr, owner := s.announced(ctx, "web")
		Expect(owner.Name()).To(Equal("node1"))
		answers(ctx, addr, owner)
		reachable := func() (string, error) { return hostname(ctx, netip.AddrPortFrom(addr, 80)) }
		Eventually(ctx, reachable).Should(HavePrefix("web-node"))
		serves(ctx, addr, lab.Nodes[1:], backendNames()...)
	}, inBothFamilies)
})

// memoryOf is how much memory a program has, in kB.
func memoryOf(p *sandbox.Process) (size int) {
	GinkgoHelper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	Expect(err).NotTo(HaveOccurred())
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	_, err = fmt.Sscan(rest, &size)
	Expect(err).NotTo(HaveOccurred())
	return size
}

// announcedTo is how many routes a router announces to a neighbour.
func announcedTo(ctx context.Context, r *cluster.Router, neighbor netip.Addr, k stack) (count int, err error) {
	for _, f := range k {
		family := map[corev1.IPFamily]string{corev1.IPv4Protocol: "ipv4", corev1.IPv6Protocol: "ipv6"}[f]
		command, counted := fmt.Sprintf("show bgp %s unicast neighbors %s advertised-routes", family, neighbor), regexp.MustCompile(`Total number of prefixes (\d+)`)
		if r.BGP.Kind == router.BIRD {
			command, counted = fmt.Sprintf("show route export %s table master%s count", birdName(neighbor), family[3:]), regexp.MustCompile(`(?m)^\D*(\d+) of `)
		}
		text, err := r.BGP.Command(ctx, command)
		if err != nil {
			return 0, err
		}
		n := 0
		if found := counted.FindStringSubmatch(text); found != nil {
			_, err = fmt.Sscan(found[1], &n)
		}
		if err != nil {
			return 0, fmt.Errorf("%q: %w", text, err)
		}
		count += n
	}
	return count, nil
}

// birdName is the name that a neighbour has in BIRD.
func birdName(neighbor netip.Addr) string {
	return "peer_" + strings.NewReplacer(".", "_", ":", "_").Replace(neighbor.String())
}

// updatesFrom is what a router counts of the UPDATEs of each node, by its addresses of a family.
func updatesFrom(ctx context.Context, r *cluster.Router, f corev1.IPFamily) (counts []string, err error) {
	for _, n := range lab.Nodes {
		neighbor := addressOf(n.Host, f)
		if r.BGP.Kind == router.FRR {
			session, err := r.BGP.Session(ctx, neighbor)
			if err != nil {
				return nil, err
			}
			counts = append(counts, fmt.Sprint(session.Updates))
			continue
		}
		text, err := r.BGP.Command(ctx, "show protocols all "+birdName(neighbor))
		if err != nil {
			return nil, err
		}
		counts = append(counts, strings.Join(regexp.MustCompile("Import updates:.*").FindAllString(text, -1), " "))
	}
	return counts, nil
}
