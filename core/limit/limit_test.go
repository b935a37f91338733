package limit_test

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/plugboard/plugboard/core/limit"
)

var start = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// model is the textbook bucket: tokens that grow with time.
type model struct {
	rate, burst, tokens float64
	at                  time.Time
}

func (m *model) gain(now time.Time) {
	m.tokens = min(m.burst, m.tokens+now.Sub(m.at).Seconds()*m.rate)
	m.at = now
}

func TestBucketAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model{rate: rapid.Float64Range(0.01, 1e4).Draw(t, "rate"), burst: rapid.Float64Range(1, 1e3).Draw(t, "burst"), at: start}
		m.tokens = m.burst
		b := limit.NewBucket(m.rate, m.burst)
		now := start
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "pause")))
			n := rapid.Float64Range(0.1, m.burst).Draw(t, "n")
			m.gain(now)
			ok, retry := b.Take(now, n)
			// A whole nanosecond is all that the two may differ by, per call.
			slack := 1e-6*m.burst + m.rate*1e-7
			if math.Abs(m.tokens-n) > slack && ok != (m.tokens >= n) {
				t.Fatalf("take %v of %v tokens: got %v", n, m.tokens, ok)
			}
			if ok {
				m.tokens -= n
				continue
			}
			if want := (n - m.tokens) / m.rate; math.Abs(retry.Seconds()-want) > slack/m.rate+1e-6 {
				t.Fatalf("retry after: got %v, want %v s", retry, want)
			}
			if again := b; retry > 0 {
				if ok, _ := again.Take(now.Add(retry+time.Microsecond), n); !ok {
					t.Fatalf("take %v after the told %v: got refused", n, retry)
				}
			}
		}
	})
}

func TestBucketEdges(t *testing.T) {
	var free limit.Bucket
	for range 100 {
		if ok, _ := free.Take(start, 1e9); !ok {
			t.Fatal("zero bucket: got refused, want no limit")
		}
	}
	b := limit.NewBucket(1, 2)
	if ok, retry := b.Take(start, 3); ok || retry <= 0 || retry > 2*time.Second {
		t.Errorf("more than the burst: got %v after %v, want refused with at most 2s", ok, retry)
	}
	b.Take(start, 2)
	if ok, retry := b.Take(start.Add(-time.Hour), 1); ok || retry > 2*time.Second {
		t.Errorf("clock set back: got %v after %v, want refused for at most the time to fill", ok, retry)
	}
	small := limit.NewBucket(1e-300, 0)
	if ok, _ := small.Take(start, 1); !ok {
		t.Error("burst below 1: got refused, want it raised to 1")
	}
	if ok, retry := small.Take(start, 1); ok || retry <= 0 {
		t.Errorf("tiny rate: got %v after %v, want refused with a positive time", ok, retry)
	}
}

func TestKeyed(t *testing.T) {
	k := limit.NewKeyed(1, 2)
	want := func(key string, now time.Time, ok bool, retry time.Duration) {
		t.Helper()
		if gotOK, gotRetry := k.Allow(key, now); gotOK != ok || gotRetry != retry {
			t.Errorf("allow %q: got %v after %v, want %v after %v", key, gotOK, gotRetry, ok, retry)
		}
	}
	want("a", start, true, 0)
	want("a", start, true, 0)
	want("a", start, false, time.Second)
	want("b", start, true, 0)
	k.Refund("a", start)
	want("a", start, true, 0)
	want("a", start.Add(time.Second), true, 0)
	k.SetRate(10, 1)
	want("b", start.Add(time.Minute), true, 0)
	want("b", start.Add(time.Minute), false, 100*time.Millisecond)
	k.SetRate(0, 0)
	want("b", start.Add(time.Minute), true, 0)
}

func TestKeyedForgetsOnlyFullBuckets(t *testing.T) {
	k := limit.NewKeyedSize(1, 1, 64*100)
	k.Allow("debtor", start.Add(time.Hour))
	for i := range 50_000 {
		k.Allow(fmt.Sprint("visitor", i), start.Add(time.Duration(i)*time.Second))
		if n := k.Len(); i%1000 == 0 && n > 64*100 {
			t.Fatalf("after %d keys: got %d buckets, want at most %d", i, n, 64*100)
		}
	}
	late := start.Add(time.Hour)
	debt := limit.NewKeyedSize(0.001, 1, 64*100)
	debt.Allow("debtor", late)
	for i := range 5000 {
		debt.Allow(fmt.Sprint("visitor", i), late.Add(time.Duration(i)*time.Millisecond))
	}
	if ok, _ := debt.Allow("debtor", late.Add(5*time.Second)); ok {
		t.Error("empty bucket: got forgotten, want kept")
	}
}

func TestKeyedBound(t *testing.T) {
	k := limit.NewKeyedSize(0.001, 2, 64)
	for i := range 10_000 {
		k.Allow(fmt.Sprint(i), start)
	}
	if n := k.Len(); n > 64 {
		t.Errorf("buckets: got %d, want at most 64", n)
	}
	passed := 0
	for i := range 1000 {
		if ok, _ := k.Allow(fmt.Sprint("newcomer", i), start); ok {
			passed++
		}
	}
	if passed != 0 {
		t.Errorf("newcomers at the bound: got %d passed, want the shared buckets empty", passed)
	}
	if ok, _ := k.Allow("newcomer", start.Add(time.Hour)); !ok {
		t.Error("newcomer after the flood: got refused, want room")
	}
}

func TestKeyedConcurrently(t *testing.T) {
	k := limit.NewKeyed(0.001, 100)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				if ok, _ := k.Allow("one", start); ok {
					passed.Add(1)
				}
				k.Allow(fmt.Sprint(g, i), start)
				if i%100 == 0 {
					k.SetRate(0.001, 100)
				}
			}
		})
	}
	wg.Wait()
	if got := passed.Load(); got != 100 {
		t.Errorf("tokens taken by 8 goroutines: got %d, want 100", got)
	}
}

func TestAllowDoesNotAllocate(t *testing.T) {
	k := limit.NewKeyed(1e9, 1e9)
	k.Allow("user", start)
	if n := testing.AllocsPerRun(1000, func() { k.Allow("user", start) }); n != 0 {
		t.Errorf("allocations of a hit: got %v, want 0", n)
	}
}

func BenchmarkAllowHit(b *testing.B) {
	k := limit.NewKeyed(1e9, 1e9)
	b.ReportAllocs()
	for b.Loop() {
		k.Allow("user", start)
	}
}

func BenchmarkAllowParallel(b *testing.B) {
	k := limit.NewKeyed(1e6, 1e6)
	var next atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		key := fmt.Sprint("user", next.Add(1))
		for pb.Next() {
			k.Allow(key, start)
		}
	})
}

func BenchmarkAllowNewKeys(b *testing.B) {
	k := limit.NewKeyed(1, 1)
	keys := make([]string, 1<<16)
	for i := range keys {
		keys[i] = fmt.Sprint("user", i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		k.Allow(keys[i&(1<<16-1)], start.Add(time.Duration(i)*time.Microsecond))
		i++
	}
}
