// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// ringSlots is how many frames find room until they are read, whatever
	// net.core.rmem_max is: a thousand neighbours that lost their cache ask
	// for all addresses at once.
	ringSlots  = 10_240
	ringBlock  = 64 << 10
	slotHeader = 66 // comes before the frame
	arpSlot    = 128
	ndpSlot    = 256

	// A flood is read by the clock, not by the frame: waking up is what costs.
	// floodFrames within floodWindow make one.
	floodFrames = 50
	floodWindow = 10 * time.Millisecond
	floodNap    = 2 * time.Millisecond
)

// ring is a packet socket that the kernel puts frames in a mapped buffer for
// (packet_mmap, TPACKET_V2), each with the time at which it came.
type ring struct {
	fd, epoll int
	// alarm is an epoll instance for the socket that goes off once and is set
	// again before each wait. If the runtime's poller had the socket itself,
	// every frame would wake a thread, whether or not anybody waits for it.
	alarm *os.File
	raw   syscall.RawConn

	mu     sync.Mutex // guards what Close ends
	closed bool
	mem    []byte
	slot   int // the next to be read
	size   int // of a slot

	// For Receive alone.
	rang   func(alarm uintptr) bool
	events [1]unix.EpollEvent
	err    error
	losing bool
	window time.Time // when it began
	frames int       // in the window
}

var _ Conn = &ring{}

// openRing opens a socket for the frames of a protocol that pass the filter.
func openRing(index int, protocol uint16, filter []bpf.Instruction, slotSize int) (*ring, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	r := &ring{fd: fd, size: slotSize}
	if r.mem, err = setUp(fd, index, protocol, filter, slotSize); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := r.setUpAlarm(); err != nil {
		return nil, errors.Join(fmt.Errorf("set up epoll: %w", err), r.Close())
	}
	return r, nil
}

func (r *ring) setUpAlarm() error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(epoll, true); err != nil { // or else os.File doesn't poll it
		return errors.Join(err, unix.Close(epoll))
	}
	r.epoll, r.alarm = epoll, os.NewFile(uintptr(epoll), "epoll")
	if r.raw, err = r.alarm.SyscallConn(); err != nil {
		return err
	}
	r.rang = func(alarm uintptr) bool {
		n, err := unix.EpollWait(int(alarm), r.events[:], 0)
		r.err = err
		return n > 0 || err != nil
	}
	return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, r.fd, &unix.EpollEvent{})
}

// setUp binds last: no frame comes that the filter has not seen.
func setUp(fd, index int, protocol uint16, filter []bpf.Instruction, slotSize int) ([]byte, error) {
	program, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("assemble packet filter: %w", err)
	}
	code := make([]unix.SockFilter, len(program))
	for i, p := range program {
		code[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}); err != nil {
		return nil, fmt.Errorf("attach packet filter: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return nil, fmt.Errorf("set version of packet ring: %w", err)
	}
	blocks := ringSlots * slotSize / ringBlock
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq{
		Block_size: ringBlock, Block_nr: uint32(blocks), Frame_size: uint32(slotSize), Frame_nr: ringSlots,
	}); err != nil {
		return nil, fmt.Errorf("set up packet ring: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, blocks*ringBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map packet ring: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: index}); err != nil {
		unix.Munmap(mem)
		return nil, fmt.Errorf("bind packet socket: %w", err)
	}
	return mem, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// header returns that of the slot to be read next. The caller holds mu.
func (r *ring) header() *unix.Tpacket2Hdr {
	return (*unix.Tpacket2Hdr)(unsafe.Pointer(&r.mem[r.slot*r.size]))
}

// full tells whether there is a frame. The caller holds mu.
func (r *ring) full() bool {
	return !r.closed && atomic.LoadUint32(&r.header().Status)&unix.TP_STATUS_USER != 0
}

func (r *ring) Receive(b []byte) (int, time.Time, error) {
	if n, at, ok := r.next(b); ok {
		return n, at, nil
	}
	if r.frames >= floodFrames {
		time.Sleep(floodNap)
	}
	for {
		if n, at, ok := r.next(b); ok {
			return n, at, nil
		}
		if err := r.wait(); err != nil {
			return 0, time.Time{}, err
		}
	}
}

// wait waits for a frame or an error of the socket.
func (r *ring) wait() error {
	if err := r.setAlarm(); err != nil {
		return err
	}
	r.err = nil
	failed := r.raw.Read(r.rang)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return net.ErrClosed
	case failed != nil:
		return failed
	case r.err != nil || r.events[0].Events&unix.EPOLLERR == 0:
		return r.err
	}
	errno, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return err
}

// setAlarm makes a frame that is there or comes ring it.
func (r *ring) setAlarm() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	return unix.EpollCtl(r.epoll, unix.EPOLL_CTL_MOD, r.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT})
}

// next takes a frame out of the ring, if there is one.
func (r *ring) next(b []byte) (int, time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.full() {
		return 0, time.Time{}, false
	}
	h := r.header()
	at := time.Unix(int64(h.Sec), int64(h.Nsec))
	start := r.slot*r.size + int(h.Mac)
	n := copy(b, r.mem[start:start+int(h.Snaplen)])
	r.losing = h.Status&unix.TP_STATUS_LOSING != 0
	atomic.StoreUint32(&h.Status, unix.TP_STATUS_KERNEL)
	r.slot = (r.slot + 1) % ringSlots

	if age := at.Sub(r.window); age < 0 || age > floodWindow {
		r.window, r.frames = at, 0
	}
	r.frames++
	return n, at, true
}

func (r *ring) Dropped() int {
	if !r.losing {
		return 0
	}
	r.losing = false
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0
	}
	s, err := unix.GetsockoptTpacketStats(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0 // it is a number for people only
	}
	return int(s.Drops)
}

func (r *ring) Send(frame []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	_, err := unix.Write(r.fd, frame)
	return err
}

func (r *ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	r.closed = true
	var errs []error
	if r.alarm != nil {
		errs = append(errs, r.alarm.Close()) // ends a wait
	}
	if r.mem != nil {
		errs = append(errs, unix.Munmap(r.mem))
		r.mem = nil
	}
	return errors.Join(append(errs, unix.Close(r.fd))...)
}
