package command

import (
	"sync"
	"time"

	"github.com/plugboard/plugboard/core/limit"
	"github.com/plugboard/plugboard/sdk/fault"
)

// maxRatedUsers is how many users each limited command keeps a bucket for; see
// limit.Keyed for what happens beyond.
const maxRatedUsers = 1 << 16

// rates keeps a bucket for each user of each command that has a rate. A command
// that is published anew finds its buckets as they were, so an upgrade or a restart
// of a plugin gives nobody fresh tokens. Only names that the operator's policy
// covers get in, as plugins publish them.
type rates struct {
	now func() time.Time

	mu        sync.RWMutex
	byCommand map[string]*limit.Keyed
}

func newRates(now func() time.Time) *rates {
	return &rates{now: now, byCommand: make(map[string]*limit.Keyed)}
}

// take takes a token, or refuses with rate_limited.
func (r *rates) take(e *entry, userID string) error {
	if e.policy.rate == 0 {
		return nil
	}
	ok, retryAfter := r.bucket(e).Allow(userID, r.now())
	if ok {
		return nil
	}
	return fault.Newf(fault.RateLimited, "Command %q may be run %g times a second by each user; wait a moment.", e.Name, e.policy.rate).
		WithRetryAfter(retryAfter)
}

// forget begins anew, with whatever rates there are now.
func (r *rates) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.byCommand)
}

func (r *rates) bucket(e *entry) *limit.Keyed {
	r.mu.RLock()
	k := r.byCommand[e.Name]
	r.mu.RUnlock()
	if k != nil {
		return k
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k = r.byCommand[e.Name]; k == nil {
		// The burst is one second's worth, and one call at least.
		k = limit.NewKeyedSize(e.policy.rate, max(1, e.policy.rate), maxRatedUsers)
		r.byCommand[e.Name] = k
	}
	return k
}
