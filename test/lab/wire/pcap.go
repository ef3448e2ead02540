// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/lab/sandbox"
)

// The classic pcap format with times in nanoseconds.
const (
	pcapMagic      = 0xa1b23c4d
	pcapFileHeader = 24
	pcapHeader     = 16
	pcapEthernet   = 1
	pcapSnapLength = 65536
)

// Recording writes what passes an interface of ARP and ICMPv6 to a pcap file, as tcpdump does.
type Recording struct {
	conn          *packet.Conn
	file          *os.File
	closing, done chan struct{}
	err           error // valid once done is closed
}

// StartRecording records on an interface of a host, in either direction. The caller must Close it.
func StartRecording(n *sandbox.Namespace, iface, path string) (*Recording, error) {
	failed := func(err error) error { return fmt.Errorf("recording on %s of %s: %w", iface, n.Name(), err) }
	file, err := os.Create(path)
	if err != nil {
		return nil, failed(err)
	}
	conn, err := listen(n, iface, unix.ETH_P_ALL)
	if err != nil {
		return nil, failed(errors.Join(err, file.Close()))
	}
	r := &Recording{conn: conn, file: file, closing: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r, nil
}

func (r *Recording) run() {
	defer close(r.done)
	w := bufio.NewWriter(r.file)
	r.err = writePcapHeader(w)
	buf := make([]byte, pcapSnapLength)
	for r.err == nil {
		n, at, err := receive(r.conn, buf)
		if err != nil {
			select {
			case <-r.closing:
			default:
				r.err = err
			}
			break
		}
		if f := (Frame{At: at, Data: buf[:n]}); aboutNeighbours(f) {
			r.err = writePcapFrame(w, f)
		}
	}
	r.err = errors.Join(r.err, w.Flush(), r.file.Close())
}

func aboutNeighbours(f Frame) bool {
	if len(f.Data) < ethernetHeader {
		return false
	}
	ip := f.Data[ethernetHeader:]
	return f.EtherType() == EtherTypeARP || f.EtherType() == EtherTypeIPv6 && len(ip) >= ipv6Header && ip[6] == icmpv6
}

// Close ends the recording. It is an error if the kernel had to drop frames that should be in the file.
func (r *Recording) Close() error {
	stats, err := r.conn.Stats()
	if err == nil && stats.Drops > 0 {
		err = fmt.Errorf("recording %s: %d frames were dropped", r.file.Name(), stats.Drops)
	}
	close(r.closing)
	err = errors.Join(err, r.conn.Close())
	<-r.done
	return errors.Join(err, r.err)
}

func writePcapHeader(w io.Writer) error {
	h := make([]byte, 0, pcapFileHeader)
	h = binary.LittleEndian.AppendUint32(h, pcapMagic)
	h = binary.LittleEndian.AppendUint16(h, 2) // version 2.4
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...) // time zone and accuracy, which nobody uses
	h = binary.LittleEndian.AppendUint32(h, pcapSnapLength)
	h = binary.LittleEndian.AppendUint32(h, pcapEthernet)
	_, err := w.Write(h)
	return err
}

func writePcapFrame(w io.Writer, f Frame) error {
	h := make([]byte, 0, pcapHeader)
	h = binary.LittleEndian.AppendUint32(h, uint32(f.At.Unix()))
	h = binary.LittleEndian.AppendUint32(h, uint32(f.At.Nanosecond()))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(f.Data)))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(f.Data)))
	if _, err := w.Write(h); err != nil {
		return err
	}
	_, err := w.Write(f.Data)
	return err
}

// WritePcap writes frames as a Recording does.
func WritePcap(w io.Writer, frames []Frame) error {
	if err := writePcapHeader(w); err != nil {
		return err
	}
	for _, f := range frames {
		if err := writePcapFrame(w, f); err != nil {
			return err
		}
	}
	return nil
}

// ReadPcap calls do with every frame of a Recording's file. The frame's data is valid during the call.
func ReadPcap(r io.Reader, do func(Frame)) error {
	in := bufio.NewReader(r)
	var header [pcapFileHeader]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return fmt.Errorf("reading a pcap file: %w", err)
	}
	if binary.LittleEndian.Uint32(header[:]) != pcapMagic || binary.LittleEndian.Uint32(header[20:]) != pcapEthernet {
		return errors.New("reading a pcap file: it is none of this program's")
	}
	buf := make([]byte, pcapSnapLength)
	for {
		_, err := io.ReadFull(in, header[:pcapHeader])
		if errors.Is(err, io.EOF) {
			return nil
		}
		size := binary.LittleEndian.Uint32(header[8:])
		if err == nil && size > pcapSnapLength {
			err = fmt.Errorf("a frame of %d bytes", size)
		}
		if err == nil {
			_, err = io.ReadFull(in, buf[:size])
		}
		if err != nil {
			return fmt.Errorf("reading a pcap file: %w", err)
		}
		at := time.Unix(int64(binary.LittleEndian.Uint32(header[:])), int64(binary.LittleEndian.Uint32(header[4:])))
		do(Frame{At: at, Data: buf[:size]})
	}
}
