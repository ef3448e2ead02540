// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Loss is a direction of the LAN that passes nothing: every frame that From sends to To is dropped, while both links stay
// up. The ports of the LAN are named after their hosts, those of the second LAN with "-2" behind; an empty name is all.
type Loss struct{ From, To string }

// losses are those that are in force.
type losses struct {
	mu  sync.Mutex
	set map[Loss]struct{}
}

// Losses are the directions that pass nothing now, in order.
func (l *Lab) Losses() []Loss {
	l.losses.mu.Lock()
	defer l.losses.mu.Unlock()
	return sortedLosses(l.losses.set)
}

// SetLosses drops the frames of these directions, and of no others.
func (l *Lab) SetLosses(ctx context.Context, list ...Loss) error {
	return l.editLosses(ctx, func(set map[Loss]struct{}) {
		clear(set)
		for _, loss := range list {
			set[loss] = struct{}{}
		}
	})
}

func (l *Lab) editLosses(ctx context.Context, edit func(map[Loss]struct{})) error {
	l.losses.mu.Lock()
	defer l.losses.mu.Unlock()
	next := maps.Clone(l.losses.set)
	if next == nil {
		next = map[Loss]struct{}{}
	}
	edit(next)
	for loss := range next {
		for _, name := range []string{loss.From, loss.To} {
			if name == "" {
				continue
			}
			if _, err := l.lan.Netlink().LinkByName(name); err != nil {
				return fmt.Errorf("cutting links: no port %q on the LAN: %w", name, err)
			}
		}
	}
	if _, err := l.lan.RunInput(ctx, lossRules(sortedLosses(next)), "nft", "-f", "-"); err != nil {
		return fmt.Errorf("cutting links: %w", err)
	}
	l.losses.set = next
	return nil
}

func sortedLosses(set map[Loss]struct{}) []Loss {
	return slices.SortedFunc(maps.Keys(set), func(a, b Loss) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
}

// lossRules replaces the bridges' filter in one transaction.
func lossRules(list []Loss) string {
	var b strings.Builder
	b.WriteString("table bridge losses {}\ndelete table bridge losses\n")
	if len(list) == 0 {
		return b.String()
	}
	b.WriteString("table bridge losses {\n\tchain forward {\n\t\ttype filter hook forward priority 0;\n")
	for _, loss := range list {
		b.WriteString("\t\t")
		if loss.From != "" {
			fmt.Fprintf(&b, "iifname %q ", loss.From)
		}
		if loss.To != "" {
			fmt.Fprintf(&b, "oifname %q ", loss.To)
		}
		b.WriteString("drop\n")
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// Cut drops every frame between the host and the LAN while its link stays up, as a switch with a wrong VLAN does.
func (h *Host) Cut(ctx context.Context) error {
	return h.lose(ctx, Loss{From: h.port}, Loss{To: h.port})
}

// Mute drops what the host sends; it goes on hearing the others.
func (h *Host) Mute(ctx context.Context) error { return h.lose(ctx, Loss{From: h.port}) }

// Deafen drops what is sent to the host; the others go on hearing it.
func (h *Host) Deafen(ctx context.Context) error { return h.lose(ctx, Loss{To: h.port}) }

// Part drops every frame between two hosts, which go on hearing all others.
func (h *Host) Part(ctx context.Context, other *Host) error {
	return h.lose(ctx, Loss{From: h.port, To: other.port}, Loss{From: other.port, To: h.port})
}

func (h *Host) lose(ctx context.Context, more ...Loss) error {
	return h.lab.editLosses(ctx, func(set map[Loss]struct{}) {
		for _, loss := range more {
			set[loss] = struct{}{}
		}
	})
}

// Heal undoes every Cut, Mute, Deafen and Part that the host has a share in. Healing a host that is not cut does nothing.
func (h *Host) Heal(ctx context.Context) error {
	return h.lab.editLosses(ctx, func(set map[Loss]struct{}) {
		maps.DeleteFunc(set, func(loss Loss, _ struct{}) bool { return loss.From == h.port || loss.To == h.port })
	})
}

// Unplug pulls the host's cable: its link loses the carrier.
func (h *Host) Unplug() error { return h.setPort(false) }

// Plug puts the cable back.
func (h *Host) Plug() error { return h.setPort(true) }

func (h *Host) setPort(up bool) error {
	port, err := h.lab.lan.Netlink().LinkByName(h.port)
	if err != nil {
		return fmt.Errorf("port %s: %w", h.port, err)
	}
	set := h.lab.lan.Netlink().LinkSetDown
	if up {
		set = h.lab.lan.Netlink().LinkSetUp
	}
	if err := set(port); err != nil {
		return fmt.Errorf("port %s: %w", h.port, err)
	}
	return nil
}
