// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/go-logr/logr"
	"github.com/osrg/gobgp/v3/pkg/log"
	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/speaker/bgp"
)

var _ log.Logger = (*logger)(nil)

// logger takes what a server of GoBGP logs. Why a session ended, which
// notification there was and why no connection is made, it tells to its log
// only; the names of the messages and fields are checked by tests.
//
// GoBGP logs while it holds locks: nothing here may call the server.
type logger struct {
	log logr.Logger

	mu    sync.Mutex
	conns map[string]*conn // by the neighbour's address
}

func newLogger(l logr.Logger) *logger {
	return &logger{log: l, conns: map[string]*conn{}}
}

// watch has what concerns a neighbour told to a conn, or to nobody.
func (l *logger) watch(neighbor netip.Addr, c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c == nil {
		delete(l.conns, neighbor.String())
	} else {
		l.conns[neighbor.String()] = c
	}
}

func (l *logger) of(f log.Fields) *conn {
	key, _ := f["Key"].(string)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[key]
}

// Panic is for what GoBGP thinks can't be. It can, by what a router sends, and
// is no reason to end the process: the session then ends by its hold timer.
func (l *logger) Panic(msg string, f log.Fields) { l.Error(msg, f) }

func (l *logger) Fatal(msg string, f log.Fields) { l.Error(msg, f) }

func (l *logger) Error(msg string, f log.Fields) {
	l.log.Error(nil, "GoBGP: "+msg, pairs(f)...)
	l.heed(msg, f)
}

func (l *logger) Warn(msg string, f log.Fields) {
	l.log.V(2).Info("GoBGP: "+msg, pairs(f)...)
	l.heed(msg, f)
}

func (l *logger) Info(msg string, f log.Fields) {
	l.log.V(2).Info("GoBGP: "+msg, pairs(f)...)
	l.heed(msg, f)
}

func (l *logger) Debug(msg string, f log.Fields) { l.heed(msg, f) }

// SetLevel does nothing: the level is that of the program's log.
func (l *logger) SetLevel(log.LogLevel) {}

// GetLevel says what is worth logging: failed connections are told at this
// level only.
func (l *logger) GetLevel() log.LogLevel { return log.DebugLevel }

// heed tells a session what happened to it.
func (l *logger) heed(msg string, f log.Fields) {
	switch msg {
	case "state changed":
		if c := l.of(f); c != nil {
			c.poke()
		}
	case "freed fsm.h":
		if c := l.of(f); c != nil {
			c.leaving.Done()
		}
	case "sent update":
		if c := l.of(f); c != nil {
			c.observer.UpdateSent()
		}
	case "failed to connect":
		if c := l.of(f); c != nil {
			c.observer.Failed(fmt.Sprintf("can't connect: %v", f["Error"]))
		}
	case "received notification", "sent notification":
		if c := l.of(f); c != nil {
			c.notified(notification(f, msg == "sent notification"), f["Data"])
		}
	case "Peer Down":
		if c := l.of(f); c != nil {
			if words := down[fmt.Sprint(f["Reason"])]; words != "" && !c.noticed.Load() {
				c.observer.Failed(words)
			}
		}
	case "Peer Up":
		if c := l.of(f); c != nil {
			c.noticed.Store(false)
		}
	}
}

// down says what the ends of a session without a notification mean.
var down = map[string]string{
	"read-failed":        "the router closed the connection without a word",
	"write-failed":       "the connection broke",
	"graceful-restart":   "the router closed the connection without a word",
	"hold-timer-expired": bgp.HoldTimeOver,
}

func (c *conn) notified(n bgp.Notification, data any) {
	c.noticed.Store(true)
	c.observer.Notified(n)
	if e, ok := data.(*packet.MessageError); ok && e.TypeCode == packet.BGP_ERROR_OPEN_MESSAGE_ERROR {
		// Its words say what was expected and what came.
		c.observer.Failed("we refused the router: " + e.Message)
	}
}

// notification reads one from what is logged of it.
func notification(f log.Fields, sent bool) bgp.Notification {
	n := bgp.Notification{Sent: sent}
	if e, ok := f["Data"].(*packet.MessageError); ok {
		n.Code, n.Subcode = e.TypeCode, e.SubTypeCode
		return n
	}
	n.Code, _ = f["Code"].(uint8)
	n.Subcode, _ = f["Subcode"].(uint8)
	n.Text, _ = f["Communicated-Reason"].(string)
	return n
}

func pairs(f log.Fields) []any {
	out := make([]any, 0, 2*len(f))
	for k, v := range f {
		out = append(out, k, v)
	}
	return out
}
