// SPDX-License-Identifier: Apache-2.0

package l2

import "slices"

// Silence names the interfaces on which nothing is answered or announced for
// the time being, except in the place of others. What is wanted there stays, and
// is not new when the silence ends. It may be called at any rate.
func (r *Responder) Silence(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = append(r.silent[:0], names...)
	for _, p := range r.ports {
		p.silence(slices.Contains(names, p.link.Name))
	}
}

func (p *port) silence(silent bool) {
	if p.silent.Swap(silent) && !silent {
		p.poke()
	}
}
