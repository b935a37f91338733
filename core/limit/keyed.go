package limit

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shardCount = 64
	// DefaultMaxKeys is how many buckets a Keyed holds at most: about 100 bytes
	// each beside the key.
	DefaultMaxKeys = 1 << 20
	// firstSweep is the size at which a shard first looks for full buckets.
	firstSweep = 64
	// sweepPause is the least time between two sweeps of a shard that is at its
	// bound, so that strangers' keys cannot make every call a sweep.
	sweepPause = int64(time.Second)
)

// Keyed is a bucket per key, such as a user or an address. Its methods may be
// called from any goroutine. Keys fall on shards with a lock each.
//
// Buckets that are full again are forgotten, others never. Where as many are
// held as the bound allows and none is full, keys that are not held share one
// bucket per shard until there is room: those who are known keep their own rate,
// newcomers in a flood of newcomers get the rate of one. Memory stays bounded and
// nobody's debt is forgiven.
type Keyed struct {
	seed     maphash.Seed
	pace     atomic.Pointer[pace]
	maxShard int
	shards   [shardCount]shard
}

type shard struct {
	mu       sync.Mutex
	fullAt   map[string]int64 // Unix nanoseconds
	overflow int64            // the bucket that newcomers share at the bound
	sweepLen int              // the size at which to sweep next
	sweptAt  int64
	_        [64]byte // keeps neighbours' locks out of one cache line
}

// NewKeyed makes an empty set of at most [DefaultMaxKeys] buckets. Each begins
// with burst tokens, at least 1, and gains rate tokens per second; a rate of 0 or
// less sets no limit.
func NewKeyed(rate, burst float64) *Keyed { return NewKeyedSize(rate, burst, DefaultMaxKeys) }

// NewKeyedSize is [NewKeyed] with another bound of buckets, rounded up to a
// multiple of the 64 shards.
func NewKeyedSize(rate, burst float64, maxKeys int) *Keyed {
	k := &Keyed{seed: maphash.MakeSeed(), maxShard: max(1, (maxKeys+shardCount-1)/shardCount)}
	for i := range k.shards {
		k.shards[i].fullAt = make(map[string]int64)
		k.shards[i].sweepLen = min(firstSweep, k.maxShard)
	}
	k.SetRate(rate, burst)
	return k
}

// SetRate changes rate and burst for all keys from now on. The time that a bucket
// still needs to be full stays as it is, cut to that of an empty one.
func (k *Keyed) SetRate(rate, burst float64) {
	p := newPace(rate, burst)
	k.pace.Store(&p)
}

// Allow takes one token from the key's bucket. Where there is none it tells after
// how long there will be one.
func (k *Keyed) Allow(key string, now time.Time) (ok bool, retryAfter time.Duration) {
	p := *k.pace.Load()
	if p.perToken == 0 {
		return true, 0
	}
	s, at := k.shard(key), now.UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	fullAt, held := s.fullAt[key]
	if !held && !s.room(at, k.maxShard) {
		s.overflow, ok, retryAfter = p.take(s.overflow, at, 1)
		return ok, retryAfter
	}
	fullAt, ok, retryAfter = p.take(fullAt, at, 1)
	if !held {
		key = strings.Clone(key) // it may be a piece of something large
	}
	s.fullAt[key] = fullAt
	return ok, retryAfter
}

// Refund gives back one token that Allow took for what turned out not to count.
// A key that took from a shared bucket gets nothing back.
func (k *Keyed) Refund(key string, now time.Time) {
	p := *k.pace.Load()
	s := k.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	fullAt, held := s.fullAt[key]
	if !held {
		return
	}
	if fullAt -= nanoseconds(p.perToken); fullAt <= now.UnixNano() {
		delete(s.fullAt, key)
		return
	}
	s.fullAt[key] = fullAt
}

// Len is how many buckets are held, full ones that were not yet forgotten among
// them.
func (k *Keyed) Len() int {
	n := 0
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		n += len(s.fullAt)
		s.mu.Unlock()
	}
	return n
}

func (k *Keyed) shard(key string) *shard {
	return &k.shards[maphash.String(k.seed, key)%shardCount]
}

// room reports whether one more bucket may be held. The caller holds the lock.
func (s *shard) room(now int64, limit int) bool {
	n := len(s.fullAt)
	if n < s.sweepLen {
		return true
	}
	if n >= limit && now-s.sweptAt < sweepPause && now >= s.sweptAt {
		return false
	}
	s.sweptAt = now
	for key, fullAt := range s.fullAt {
		if fullAt <= now {
			delete(s.fullAt, key)
		}
	}
	// Twice what is left keeps the cost of sweeping constant per new key.
	s.sweepLen = min(max(firstSweep, 2*len(s.fullAt)), limit)
	return len(s.fullAt) < limit
}
