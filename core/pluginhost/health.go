package pluginhost

import "time"

const (
	// missDeadline is how long a ping may stay unanswered, missLimit how many may.
	missDeadline = time.Second
	missLimit    = 2
)

// health decides whether a plugin hangs, from nothing but how many messages it has
// sent: any of them is a sign of life (docs/plugin.md §3).
type health struct {
	interval time.Duration
	seen     uint64
	asked    bool
	misses   int
}

// pulse is what to do after a look.
type pulse struct {
	Hung bool
	Ping bool
	// Next is when to look again.
	Next time.Duration
}

// look takes the number of messages received so far.
func (h *health) look(received uint64) pulse {
	if received != h.seen {
		h.seen, h.asked, h.misses = received, false, 0
		return pulse{Next: h.interval}
	}
	if h.asked {
		h.misses++
	}
	if h.misses >= missLimit {
		return pulse{Hung: true}
	}
	h.asked = true
	return pulse{Ping: true, Next: missDeadline}
}
