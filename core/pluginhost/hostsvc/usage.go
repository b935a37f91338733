package hostsvc

import (
	"slices"
	"sync"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/limit"
	"github.com/plugboard/plugboard/sdk/fault"
)

// Rate is how often something may be done: Burst times at once, at least 1, and
// PerSecond times a second after that. The zero Rate takes a default; a negative
// PerSecond sets no limit.
type Rate struct{ PerSecond, Burst float64 }

// The default rates of one plugin.
var (
	defaultRequests   = Rate{PerSecond: 1000, Burst: 2000}
	defaultSends      = Rate{PerSecond: 50, Burst: 100}
	defaultBroadcasts = Rate{PerSecond: 2, Burst: 10}
)

// UsageOptions configure a [Usage]. Plugin is required.
type UsageOptions struct {
	// Plugin is whose usage it is.
	Plugin string
	// Requests bounds all requests, Sends and Broadcasts those that beside being
	// requests are one of these.
	Requests, Sends, Broadcasts Rate
	// Metrics counts; nil counts nothing.
	Metrics *Metrics
	// Now is the clock, of expiry too; nil is time.Now.
	Now func() time.Time
}

// Usage is what one plugin does, for as long as the server runs: a restart of its
// process, or another version of it, gives it no new allowance. Its methods may be
// called from any goroutine.
type Usage struct {
	plugin  string
	metrics *Metrics
	now     func() time.Time

	mu                          sync.Mutex
	requests, sends, broadcasts limit.Bucket
	wanted                      []string // sorted; of the closed set of capabilities
}

// NewUsage makes the usage of a plugin that has not asked for anything yet.
func NewUsage(o UsageOptions) *Usage {
	bucket := func(r, standard Rate) limit.Bucket {
		if r == (Rate{}) {
			r = standard
		}
		return limit.NewBucket(r.PerSecond, r.Burst)
	}
	u := &Usage{
		plugin: o.Plugin, metrics: o.Metrics, now: o.Now,
		requests: bucket(o.Requests, defaultRequests), sends: bucket(o.Sends, defaultSends), broadcasts: bucket(o.Broadcasts, defaultBroadcasts),
	}
	if u.now == nil {
		u.now = time.Now
	}
	return u
}

// Wanted are the capabilities that the plugin asked for at work without having
// been granted them, sorted.
func (u *Usage) Wanted() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.wanted)
}

// want notes a capability, and tells all that are noted, and whether this one is
// for the first time.
func (u *Usage) want(capability string) (wanted []string, first bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	at, known := slices.BinarySearch(u.wanted, capability)
	if known {
		return nil, false
	}
	u.wanted = slices.Insert(u.wanted, at, capability)
	return slices.Clone(u.wanted), true
}

func (u *Usage) takeRequest() error   { return u.take(&u.requests, "asks the server") }
func (u *Usage) takeSend() error      { return u.take(&u.sends, "sends") }
func (u *Usage) takeBroadcast() error { return u.take(&u.broadcasts, "broadcasts") }

// take takes a token from one of the buckets.
func (u *Usage) take(b *limit.Bucket, does string) error {
	u.mu.Lock()
	ok, retryAfter := b.Take(u.now(), 1)
	u.mu.Unlock()
	if ok {
		return nil
	}
	return fault.Newf(fault.RateLimited, "The plugin %s faster than it may; wait.", does).WithRetryAfter(max(retryAfter, time.Millisecond))
}

func (u *Usage) count(k kind, outcome string) {
	if u.metrics != nil {
		u.metrics.requests.WithLabelValues(u.plugin, k.name, outcome).Inc()
	}
}

func (u *Usage) countReach(r core.Reach) {
	if u.metrics != nil {
		u.metrics.broadcasts.WithLabelValues(u.plugin, outcomeQueued).Add(float64(r.Queued))
		u.metrics.broadcasts.WithLabelValues(u.plugin, outcomeDropped).Add(float64(r.Dropped))
	}
}
