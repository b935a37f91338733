package pluginhost

import (
	"time"
)

// The figures of docs/plugin.md §3.
const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 30 * time.Second
	crashLimit   = 5
	crashWindow  = 2 * time.Minute
	probeFirst   = time.Minute
	probeMost    = 30 * time.Minute
)

// event is what can happen to a plugin. The set is closed.
type event int

const (
	// eventFailed: a start did not succeed, or a generation that was ready ended.
	eventFailed event = iota
	// eventRefused: the file or what it says of itself is not acceptable; trying
	// again would change nothing.
	eventRefused
	// eventStable: a generation has been ready for as long as crashes count.
	eventStable
	// eventReset: an operator wants a fresh start.
	eventReset
)

// history is what a plugin's past says about its future. Its zero value is a clean
// slate; it is a value and never changes in place.
type history struct {
	failures    []time.Time // newest last, none older than crashWindow
	streak      int         // failures since the last stable time
	quarantined bool        // half open: the next start is a probe
	probes      int         // probes that failed
	start       time.Time   // of what failed; zero where that is not known
}

// began notes when what is about to be judged was started: the time between two
// starts is what a crash loop is made of, so one that ran for long starts again at
// once.
func (h history) began(at time.Time) history {
	h.start = at
	return h
}

// verdict is what to do next.
type verdict struct {
	State string
	// Wait is how long until the next start; negative: none by itself.
	Wait time.Duration
}

// decide is the breaker: what follows from an event, given the past. jitter is a
// random number from 0 to 1.
func (h history) decide(e event, now time.Time, jitter float64) (history, verdict) {
	switch e {
	case eventRefused:
		return h, verdict{StateFailed, -1}
	case eventStable:
		return history{}, verdict{StateReady, -1}
	case eventReset:
		return history{}, verdict{StateStarting, 0}
	}
	next := history{failures: h.recent(now), streak: h.streak + 1, quarantined: h.quarantined, probes: h.probes}
	next.failures = append(next.failures, now)
	switch {
	case h.quarantined:
		next.probes++
		return next, verdict{StateQuarantined, grow(probeFirst, probeMost, next.probes)}
	case len(next.failures) >= crashLimit:
		next.quarantined = true
		return next, verdict{StateQuarantined, probeFirst}
	}
	// Full jitter between the least wait and what has grown: plugins that fell
	// together do not rise together.
	ceiling := grow(backoffFirst, backoffMost, h.streak)
	wait := backoffFirst + time.Duration(jitter*float64(ceiling-backoffFirst))
	if !h.start.IsZero() {
		wait = max(0, wait-now.Sub(h.start))
	}
	return next, verdict{StateBackoff, wait}
}

func (h history) recent(now time.Time) []time.Time {
	var recent []time.Time
	for _, t := range h.failures {
		if now.Sub(t) < crashWindow {
			recent = append(recent, t)
		}
	}
	return recent
}

// clean reports whether nothing is held against the plugin.
func (h history) clean() bool { return h.streak == 0 && !h.quarantined }

// grow doubles first n times, up to most.
func grow(first, most time.Duration, n int) time.Duration {
	for ; n > 0 && first < most; n-- {
		first *= 2
	}
	return min(first, most)
}
