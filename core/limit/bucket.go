package limit

import "time"

// maxCapacity keeps Unix nanoseconds plus the time to fill a bucket inside int64.
const maxCapacity = int64(1) << 61

// pace is a rate and burst as times. The zero pace sets no limit.
type pace struct {
	perToken float64 // nanoseconds
	capacity int64   // nanoseconds that an empty bucket needs to be full
}

func newPace(rate, burst float64) pace {
	if !(rate > 0) {
		return pace{}
	}
	burst = max(burst, 1)
	perToken := min(float64(time.Second)/rate, float64(maxCapacity))
	return pace{perToken: perToken, capacity: nanoseconds(perToken * burst)}
}

func nanoseconds(v float64) int64 {
	if v >= float64(maxCapacity) {
		return maxCapacity
	}
	return int64(v)
}

// take removes n tokens from the bucket that is full at fullAt. A clock that was
// set back, or a pace changed meanwhile, can make a bucket empty but no emptier.
func (p pace) take(fullAt, now int64, n float64) (int64, bool, time.Duration) {
	if p.perToken == 0 || n <= 0 {
		return fullAt, true, 0
	}
	missing := min(max(fullAt-now, 0), p.capacity)
	cost := nanoseconds(p.perToken * n)
	if missing+cost > p.capacity {
		return now + missing, false, time.Duration(min(missing+cost-p.capacity, p.capacity))
	}
	return now + missing + cost, true, 0
}

// Bucket is one token bucket. It belongs to one goroutine, or is guarded by its
// owner. The zero Bucket sets no limit.
type Bucket struct {
	pace   pace
	fullAt int64 // Unix nanoseconds
}

// NewBucket makes a full bucket of burst tokens, at least 1, that gains rate
// tokens per second. A rate of 0 or less sets no limit.
func NewBucket(rate, burst float64) Bucket { return Bucket{pace: newPace(rate, burst)} }

// Take removes n tokens at now, or none. Where there are too few it tells after
// how long there would be enough; n above the burst is never allowed, and the
// time told is at most that of filling the bucket. n of 0 or less is free.
func (b *Bucket) Take(now time.Time, n float64) (ok bool, retryAfter time.Duration) {
	b.fullAt, ok, retryAfter = b.pace.take(b.fullAt, now.UnixNano(), n)
	return ok, retryAfter
}
