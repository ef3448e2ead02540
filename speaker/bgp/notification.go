// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"strings"
)

// Notification is the message that ends a session.
type Notification struct {
	Code, Subcode uint8
	// Text is what the sender's administrator had to say (RFC 9003).
	Text string
	// Sent tells ours from the router's.
	Sent bool
}

const holdTimerExpired = 4

// HoldTimeOver says in words that the router fell silent.
const HoldTimeOver = "nothing was heard of the router during the hold time"

// String says what it means, in the words of the RFCs.
func (n Notification) String() string {
	who := "the router ended the session"
	if n.Sent {
		who = "we ended the session"
	}
	if n.Sent && n.Code == holdTimerExpired {
		return HoldTimeOver
	}
	what := fmt.Sprintf("error %d", n.Code)
	c, ok := codes[n.Code]
	if ok {
		what = c.name
	}
	switch sub, known := c.subcodes[n.Subcode]; {
	case known:
		what += ", " + sub
	case n.Subcode != 0:
		what += fmt.Sprintf(", subcode %d", n.Subcode)
	}
	if hint := hints[[2]uint8{n.Code, n.Subcode}]; hint != "" && !n.Sent {
		what += " (" + hint + ")"
	}
	if n.Text != "" {
		what += fmt.Sprintf(": %q", strings.ToValidUTF8(n.Text, "?"))
	}
	return who + ": " + what
}

// hints say what an operator finds wrong most often.
var hints = map[[2]uint8]string{
	{2, 2}: "it expects another ASN of this node",
	{2, 3}: "two speakers have one router ID",
	{2, 7}: "it does not know a capability that this peer asks for",
	{6, 1}: "it takes fewer routes than there are",
	{6, 5}: "it does not expect this node as a neighbour",
}

type code struct {
	name     string
	subcodes map[uint8]string
}

var codes = map[uint8]code{
	1: {"message header error", map[uint8]string{1: "connection not synchronized", 2: "bad message length", 3: "bad message type"}},
	2: {"OPEN message error", map[uint8]string{
		1: "unsupported version number", 2: "bad peer AS", 3: "bad BGP identifier", 4: "unsupported optional parameter",
		6: "unacceptable hold time", 7: "unsupported capability", 11: "role mismatch",
	}},
	3: {"UPDATE message error", map[uint8]string{
		1: "malformed attribute list", 2: "unrecognized well-known attribute", 3: "missing well-known attribute",
		4: "attribute flags error", 5: "attribute length error", 6: "invalid ORIGIN attribute", 8: "invalid NEXT_HOP attribute",
		9: "optional attribute error", 10: "invalid network field", 11: "malformed AS_PATH",
	}},
	4: {"hold timer expired", nil},
	5: {"finite state machine error", map[uint8]string{1: "unexpected message in OpenSent", 2: "unexpected message in OpenConfirm", 3: "unexpected message in Established"}},
	6: {"cease", map[uint8]string{
		1: "maximum number of prefixes reached", 2: "administrative shutdown", 3: "peer de-configured", 4: "administrative reset",
		5: "connection rejected", 6: "other configuration change", 7: "connection collision resolution", 8: "out of resources",
		9: "hard reset", 10: "BFD down",
	}},
	7: {"ROUTE-REFRESH message error", map[uint8]string{1: "invalid message length"}},
	8: {"send hold timer expired", nil},
}
