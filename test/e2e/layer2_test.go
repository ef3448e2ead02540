// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/packet"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/wire"
)

// answerTime is how long a question waits for a second answer.
const answerTime = 100 * time.Millisecond

// selecting is an edit for a Service to the backends of a name, on TCP and UDP port 80.
func selecting(backends string) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		svc.Spec.Selector = map[string]string{"app": backends}
		withPorts(svc)
	}
}

func withPorts(svc *corev1.Service) {
	http, udp := port(corev1.ProtocolTCP, 80), port(corev1.ProtocolUDP, 80)
	http.Name, udp.Name = "http", "udp"
	svc.Spec.Ports = []corev1.ServicePort{http, udp}
}

func local(svc *corev1.Service) {
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

// startBackends starts Pods on the nodes given, all if none are, which go with the scene.
func (s *scene) startBackends(ctx context.Context, name string, nodes ...*cluster.Node) []*cluster.Pod {
	GinkgoHelper()
	pods, err := lab.StartBackends(ctx, s.namespace, name, nodes...)
	Expect(err).NotTo(HaveOccurred())
	for _, p := range pods {
		s.backends = append(s.backends, p)
	}
	return pods
}

// announced waits until a Service is announced, and returns its first address and the node that has claimed it.
func (s *scene) announced(ctx context.Context, name string) (netip.Addr, *cluster.Node) {
	GinkgoHelper()
	Eventually(ctx, func() metav1.Condition { return conditionOf(s.service(ctx, name), v1alpha1.ServiceAnnounced) }).Should(
		HaveField("Status", metav1.ConditionTrue), "%s should be announced", name)
	addr, err := netip.ParseAddr(shown(s.service(ctx, name))[0])
	Expect(err).NotTo(HaveOccurred())
	return addr, s.owner(ctx, addr)
}

// owner is the node that has claimed an address.
func (s *scene) owner(ctx context.Context, addr netip.Addr) *cluster.Node {
	GinkgoHelper()
	claim := s.ip(ctx, addr).Status.L2
	Expect(claim).NotTo(BeNil())
	node := lab.Node(claim.Node)
	Expect(node).NotTo(BeNil(), "%+v", claim)
	link := node.Host
	if link.Second != nil && claim.Interface == link.Second.Interface {
		link = link.Second
	}
	Expect(claim.MAC).To(Equal(link.MAC.String()))
	Expect(claim.Interface).To(Equal(link.Interface))
	return node
}

// whoHas asks the LAN for an address and returns every MAC that answers.
func whoHas(ctx context.Context, addr netip.Addr) ([]string, error) {
	return whoHasBy(ctx, lab.Client, addr)
}

// whoHasBy asks by a certain link of a host.
func whoHasBy(ctx context.Context, from *cluster.Host, addr netip.Addr) ([]string, error) {
	macs, err := wire.Ask(ctx, from.Namespace, from.Interface, addr, answerTime)
	var out []string
	for _, m := range macs {
		out = append(out, m.String())
	}
	return out, err
}

// answers checks that a node, and no other, answers for an address.
func answers(ctx context.Context, addr netip.Addr, node *cluster.Node) {
	GinkgoHelper()
	Eventually(ctx, whoHas).WithArguments(addr).Should(Equal([]string{node.MAC.String()}), "%s should answer for %s", node.Name(), addr)
}

// silent checks that nobody answers for an address.
func silent(ctx context.Context, addr netip.Addr) {
	GinkgoHelper()
	Eventually(ctx, whoHas).WithArguments(addr).Should(BeEmpty())
	Consistently(ctx, whoHas).WithArguments(addr).Should(BeEmpty())
}

// curl fetches a path from an address as any user would.
func curl(ctx context.Context, from *cluster.Host, addr netip.Addr, path string) (string, error) {
	return from.Get(ctx, "http://"+netip.AddrPortFrom(addr, 80).String()+path)
}

// datagram sends a word to a backend and returns what it says.
func datagram(ctx context.Context, from *cluster.Host, addr netip.Addr, word string) (string, error) {
	conn, err := from.DialContext(ctx, "udp", netip.AddrPortFrom(addr, 80).String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(word)); err != nil {
		return "", err
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

// metric is a counter of a speaker, added up over its labels.
func metric(ctx context.Context, node *cluster.Node, name string) (float64, error) {
	text, err := node.Get(ctx, fmt.Sprintf("http://%s/metrics", netip.AddrPortFrom(node.IPv4, 7473)))
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		series, value, ok := strings.Cut(lines.Text(), " ")
		if label, _, _ := strings.Cut(series, "{"); !ok || label != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("%s has no metric %s", node.Name(), name)
	}
	return sum, nil
}

var _ = Describe("Layer 2", onLab, func() {
	s := newScene()

	It("answers ARP from exactly one node, the one that has claimed the address", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		for i := 1; i <= 6; i++ {
			s.addService(ctx, fmt.Sprint("web-", i))
		}
		owners := map[string]int{}
		for i := 1; i <= 6; i++ {
			addr, owner := s.announced(ctx, fmt.Sprint("web-", i))
			answers(ctx, addr, owner)
			owners[owner.Name()]++
		}
		Expect(owners).To(And(HaveLen(3), HaveEach(2)), "equal nodes should have equal shares")
	})

	It("answers for both addresses of a Service of both families", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9)), between(s.v6(1), s.v6(9))})
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"), families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv6Protocol, corev1.IPv4Protocol))
		s.announced(ctx, "web")
		for _, addr := range []netip.Addr{s.v6(1), s.v4(1)} {
			answers(ctx, addr, s.owner(ctx, addr))
			Eventually(ctx, func() (string, error) { return curl(ctx, lab.Client, addr, "/hostname") }).Should(Equal("web-node1"), "%s", addr)
		}
	})

	It("answers for a shared address from one node for all its Services", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.startBackends(ctx, "web")
		const services = 4
		for i := range services {
			on := func(svc *corev1.Service) {
				svc.Spec.Selector = map[string]string{"app": "web"}
				svc.Spec.Ports = []corev1.ServicePort{port(corev1.ProtocolTCP, int32(80+i))}
			}
			s.addService(ctx, fmt.Sprint("web-", i), sharing("k"), on)
		}
		for i := range services {
			addr, owner := s.announced(ctx, fmt.Sprint("web-", i))
			Expect(addr).To(Equal(s.v4(1)))
			answers(ctx, addr, owner)
			Eventually(ctx, func() (string, error) {
				return lab.Client.Get(ctx, fmt.Sprintf("http://%s/hostname", netip.AddrPortFrom(addr, uint16(80+i))))
			}).Should(HavePrefix("web-"))
		}
	})

	DescribeTable("answers for addresses of a pool that is written as", func(ctx SpecContext, addresses func() string) {
		s.addPool(ctx, "lan", []string{addresses()})
		s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", selecting("web"))
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
		Eventually(ctx, func() (string, error) { return curl(ctx, lab.Client, addr, "/hostname") }).Should(Equal("web-node1"))
	},
		Entry("a range", func() string { return between(s.v4(1), s.v4(9)) }),
		Entry("a prefix", func() string { return netip.PrefixFrom(s.v4(16), 28).String() }),
		Entry("one address", func() string { return s.v4(5).String() }),
	)

	It("tells the neighbours who has the address when it is claimed", func(ctx SpecContext) {
		capture, err := wire.StartCapture(lab.Client.Namespace, cluster.Interface, wire.EtherTypeARP)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(capture.Close)
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		addr, owner := s.announced(ctx, "web")
		Eventually(ctx, func() []wire.ARP {
			var told []wire.ARP
			for _, a := range capture.ARP() {
				if a.Gratuitous() && a.SenderIP == addr {
					told = append(told, a)
				}
			}
			return told
		}).Should(And(
			ContainElement(HaveField("Reply", true)), ContainElement(HaveField("Reply", false)),
			HaveEach(HaveField("SenderMAC", Equal(owner.MAC)))))
	})

	It("brings TCP and UDP from the LAN and from far away to backends on every node", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.startBackends(ctx, "web")
		s.addService(ctx, "web", selecting("web"))
		addr, _ := s.announced(ctx, "web")
		for _, from := range []*cluster.Host{lab.Client, lab.Far} {
			for what, ask := range map[string]func() (string, error){
				"TCP": func() (string, error) { return curl(ctx, from, addr, "/hostname") },
				"UDP": func() (string, error) { return datagram(ctx, from, addr, "hostname") },
			} {
				seen := map[string]bool{}
				Eventually(ctx, func() map[string]bool {
					if name, err := ask(); err == nil {
						seen[name] = true
					}
					return seen
				}).Should(HaveLen(3), "%s from %s should reach three backends", what, from.Name())
			}
		}
	})

	It("brings traffic to hand-made EndpointSlices", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		pods := s.startBackends(ctx, "web", lab.Nodes[0])
		s.addService(ctx, "web", withPorts)
		Expect(lab.CreateSlices(ctx, objectKey(s.namespace, "web"), pods...)).To(Succeed())
		addr, _ := s.announced(ctx, "web")
		Eventually(ctx, func() (string, error) { return curl(ctx, lab.Client, addr, "/hostname") }).Should(Equal("web-node1"))
	})

	It("with externalTrafficPolicy Local answers from the node with the backend, which sees the client", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.startBackends(ctx, "web", lab.Nodes[1])
		s.addService(ctx, "web", selecting("web"), local)
		addr, owner := s.announced(ctx, "web")
		Expect(owner.Name()).To(Equal("node2"))
		answers(ctx, addr, owner)
		for _, from := range []*cluster.Host{lab.Client, lab.Far} {
			Eventually(ctx, func() (string, error) { return curl(ctx, from, addr, "/clientip") }).Should(HavePrefix(from.IPv4.String() + ":"))
			Eventually(ctx, func() (string, error) { return datagram(ctx, from, addr, "clientip") }).Should(HavePrefix(from.IPv4.String() + ":"))
		}
	})

	It("with externalTrafficPolicy Local follows the backend to another node", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		first := s.startBackends(ctx, "web", lab.Nodes[1])
		s.addService(ctx, "web", selecting("web"), local)
		addr, owner := s.announced(ctx, "web")
		Expect(owner.Name()).To(Equal("node2"))
		s.startBackends(ctx, "web", lab.Nodes[2])
		Expect(first[0].SetReady(ctx, false)).To(Succeed())
		answers(ctx, addr, lab.Nodes[2])
		Eventually(ctx, func() (string, error) { return curl(ctx, lab.Client, addr, "/hostname") }).Should(Equal("web-node3"))
	})

	It("moves to the node with the backend when externalTrafficPolicy becomes Local", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web", selecting("web"))
		addr, owner := s.announced(ctx, "web")
		other := lab.Nodes[0]
		if other.Name() == owner.Name() {
			other = lab.Nodes[1]
		}
		s.startBackends(ctx, "web", other)
		Eventually(ctx, func() (string, error) { return curl(ctx, lab.Client, addr, "/hostname") }).Should(Equal("web-" + other.Name()))
		s.editService(ctx, "web", local)
		answers(ctx, addr, other)
		Eventually(ctx, func() (string, error) { return curl(ctx, lab.Client, addr, "/clientip") }).Should(HavePrefix(lab.Client.IPv4.String() + ":"))
	})

	It("is silent about addresses that nobody holds", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.reserve(ctx, s.v4(5), s.namespace, "later")
		s.addService(ctx, "web")
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
		silent(ctx, s.v4(5))
		silent(ctx, s.v4(6))
		s.deleteService(ctx, "web")
		s.rests(ctx, addr)
		silent(ctx, addr)
	})

	It("ignores malformed ARP, counts it, and goes on answering", func(ctx SpecContext) {
		s.addPool(ctx, "lan", []string{between(s.v4(1), s.v4(9))})
		s.addService(ctx, "web")
		addr, owner := s.announced(ctx, "web")
		answers(ctx, addr, owner)
		before, err := metric(ctx, owner, "fairlead_l2_malformed_total")
		Expect(err).NotTo(HaveOccurred())
		capture, err := wire.StartCapture(lab.Client.Namespace, cluster.Interface, wire.EtherTypeARP)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(capture.Close)

		const each = 10 // in all less than a socket takes before its reader is scheduled
		bad := malformed(addr, lab.Client)
		Expect(sendFrames(lab.Client, bad, each)).To(Succeed())
		Eventually(ctx, func() (float64, error) { return metric(ctx, owner, "fairlead_l2_malformed_total") }).Should(
			BeNumerically(">=", before+float64(len(bad)*each)))
		for _, a := range capture.ARP() {
			Expect(a.Reply && a.SenderIP == addr && !a.Gratuitous()).To(BeFalse(), "answered: %s", a)
		}
		answers(ctx, addr, owner)
	})
})

// malformed are requests for an address with one thing wrong in each.
func malformed(addr netip.Addr, from *cluster.Host) [][]byte {
	sender, target := from.IPv4.As4(), addr.As4()
	request := func(spoil func(arp []byte) []byte) []byte {
		arp := binary.BigEndian.AppendUint16(nil, 1)     // Ethernet
		arp = binary.BigEndian.AppendUint16(arp, 0x0800) // IPv4
		arp = append(arp, 6, 4, 0, 1)                    // lengths, request
		arp = append(append(arp, from.MAC...), sender[:]...)
		arp = append(append(arp, make([]byte, 6)...), target[:]...)
		f := ethernet.Frame{Destination: ethernet.Broadcast, Source: from.MAC, EtherType: ethernet.EtherTypeARP, Payload: spoil(arp)}
		// By hand: the library pads frames that are too short, which is what is wrong with some.
		b := append(append(append([]byte{}, f.Destination...), f.Source...), 0x08, 0x06)
		return append(b, f.Payload...)
	}
	set := func(i int, b ...byte) func([]byte) []byte {
		return func(arp []byte) []byte {
			copy(arp[i:], b)
			return arp
		}
	}
	return [][]byte{
		request(set(0, 0, 6)),       // IEEE 802 hardware
		request(set(2, 0x86, 0xdd)), // IPv6
		request(set(4, 8)),          // hardware address of 8 bytes
		request(set(4, 0)),          // of none
		request(set(5, 16)),         // protocol address of 16 bytes
		request(set(5, 255)),        // longer than the frame
		request(set(8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)),  // a sender that is everybody
		request(set(8, 0, 0, 0, 0, 0, 0)),                    // a sender that is nobody
		request(func(arp []byte) []byte { return arp[:8] }),  // no addresses
		request(func(arp []byte) []byte { return arp[:27] }), // a byte short
	}
}

// sendFrames puts frames on the LAN as they are, each so many times.
func sendFrames(from *cluster.Host, frames [][]byte, each int) error {
	var conn *packet.Conn
	err := from.Do(func() error {
		ifi, err := net.InterfaceByName(cluster.Interface)
		if err == nil {
			conn, err = packet.Listen(ifi, packet.Raw, int(wire.EtherTypeARP), nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	for range each {
		for _, f := range frames {
			if _, sending := conn.WriteTo(f, &packet.Addr{HardwareAddr: bytes.Clone(f[:6])}); sending != nil {
				err = errors.Join(err, sending)
			}
		}
	}
	return errors.Join(err, conn.Close())
}

var _ = Describe("kube-proxy in iptables mode", onLab, Ordered, func() {
	var other *site

	BeforeAll(func(ctx SpecContext) {
		other = startSite(ctx, cluster.Config{Name: "e2e-iptables", Nodes: 2, ProxyMode: cluster.IPTables, Family: cluster.IPv4})
	})

	It("brings traffic from the LAN and from far away to the backends", func(ctx SpecContext) {
		v4, _ := cluster.PoolRange(0)
		Expect(other.API.Create(ctx, &v1alpha1.LoadBalancerIPPool{
			ObjectMeta: metav1.ObjectMeta{Name: "lan"},
			Spec:       v1alpha1.LoadBalancerIPPoolSpec{Addresses: []v1alpha1.AddressRange{v1alpha1.AddressRange(v4.String())}},
		})).To(Succeed())
		_, err := other.StartBackends(ctx, "default", "web")
		Expect(err).NotTo(HaveOccurred())
		Expect(other.API.Create(ctx, other.Service("default", "web", "web"))).To(Succeed())
		for _, from := range []*cluster.Host{other.Client, other.Far} {
			seen := map[string]bool{}
			Eventually(ctx, func() map[string]bool {
				if name, err := curl(ctx, from, v4.Addr(), "/hostname"); err == nil {
					seen[name] = true
				}
				if name, err := datagram(ctx, from, v4.Addr(), "hostname"); err == nil {
					seen["udp "+name] = true
				}
				return seen
			}).Should(HaveLen(4), "from %s", from.Name())
		}
	})
})
