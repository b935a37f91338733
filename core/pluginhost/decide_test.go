package pluginhost

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBackoffGrowsWithFullJitter(t *testing.T) {
	now := time.Unix(1000, 0)
	for streak, ceiling := range map[int]time.Duration{
		0: 100 * time.Millisecond, 1: 200 * time.Millisecond, 3: 800 * time.Millisecond, 8: 25600 * time.Millisecond, 9: 30 * time.Second, 1000: 30 * time.Second,
	} {
		for jitter, want := range map[float64]time.Duration{0: backoffFirst, 0.5: backoffFirst + (ceiling-backoffFirst)/2, 1: ceiling} {
			_, got := history{streak: streak}.decide(eventFailed, now, jitter)
			if diff := cmp.Diff(verdict{StateBackoff, want}, got); diff != "" {
				t.Errorf("after %d failures, jitter %v (-want +got):\n%s", streak, jitter, diff)
			}
		}
	}
}

func TestQuarantine(t *testing.T) {
	now := time.Unix(1000, 0)
	var h history
	step := func(e event, after time.Duration, want verdict) {
		t.Helper()
		var got verdict
		now = now.Add(after)
		h, got = h.decide(e, now, 0)
		if got != want {
			t.Fatalf("at %v: got %+v, want %+v", now, got, want)
		}
	}
	backoff := verdict{StateBackoff, backoffFirst}
	// Four within two minutes, then the first of them is too old to count.
	step(eventFailed, 0, backoff)
	for range 3 {
		step(eventFailed, 30*time.Second, backoff)
	}
	step(eventFailed, 30*time.Second, backoff)
	// Now five are: 30, 60, 90, 120 and 149 s.
	step(eventFailed, 29*time.Second, verdict{StateQuarantined, time.Minute})
	// Half open: each failed probe makes the next rarer.
	for _, wait := range []int{2, 4, 8, 16, 30, 30} {
		step(eventFailed, time.Hour, verdict{StateQuarantined, time.Duration(wait) * time.Minute})
	}
	// A probe that stays up clears the slate; so does an operator.
	step(eventStable, 0, verdict{StateReady, -1})
	if !h.clean() {
		t.Errorf("got %+v, want a clean slate", h)
	}
	step(eventFailed, 0, backoff)
	step(eventReset, 0, verdict{StateStarting, 0})
	if !h.clean() {
		t.Errorf("got %+v, want a clean slate", h)
	}
	step(eventRefused, 0, verdict{StateFailed, -1})
}

func TestDecideChangesNothingInPlace(t *testing.T) {
	base, _ := history{}.decide(eventFailed, time.Unix(1, 0), 0)
	one, _ := base.decide(eventFailed, time.Unix(2, 0), 0)
	two, _ := base.decide(eventFailed, time.Unix(3, 0), 0)
	if one.failures[1].Equal(two.failures[1]) || len(base.failures) != 1 {
		t.Errorf("got %v, %v, %v, want three independent pasts", base, one, two)
	}
}

func TestHealth(t *testing.T) {
	const interval = 5 * time.Second
	alive, ask, hung := pulse{Next: interval}, pulse{Ping: true, Next: missDeadline}, pulse{Hung: true}
	for name, c := range map[string]struct {
		received []uint64
		want     []pulse
	}{
		"busy":                    {[]uint64{1, 2, 3}, []pulse{alive, alive, alive}},
		"idle and answering":      {[]uint64{0, 1, 1, 2}, []pulse{ask, alive, ask, alive}},
		"hung":                    {[]uint64{7, 7, 7, 7}, []pulse{alive, ask, ask, hung}},
		"hung from the start":     {[]uint64{0, 0, 0}, []pulse{ask, ask, hung}},
		"late by one":             {[]uint64{0, 0, 1, 1, 1, 1}, []pulse{ask, ask, alive, ask, ask, hung}},
		"anything counts as life": {[]uint64{0, 5, 5, 6}, []pulse{ask, alive, ask, alive}},
	} {
		h := health{interval: interval}
		var got []pulse
		for _, n := range c.received {
			got = append(got, h.look(n))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
