package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
)

// ample is a quota that no test reaches unless it wants to.
var ample = core.KVQuota{Keys: 10_000, Bytes: 16 << 20}

// put writes a key that must be taken and returns its revision.
func (s *suite) put(plugin, key, value string, expires time.Time) uint64 {
	s.t.Helper()
	revision, err := s.KVPut(s.t.Context(), plugin, &core.KVWrite{Key: key, Value: []byte(value), ExpiresAt: expires}, ample, start)
	if err != nil || revision == 0 {
		s.t.Fatalf("put %q of %s: got revision %d, %v", key, plugin, revision, err)
	}
	return revision
}

// putIf writes a key where it has a revision.
func (s *suite) putIf(plugin, key, value string, revision uint64, now time.Time) (uint64, error) {
	return s.KVPut(s.t.Context(), plugin, &core.KVWrite{Key: key, Value: []byte(value), IfRevision: &revision}, ample, now)
}

// wantEntry checks a key; revision 0 is that there is none.
func (s *suite) wantEntry(plugin, key, value string, revision uint64, now time.Time) {
	s.t.Helper()
	e, err := s.KVGet(s.t.Context(), plugin, key, now)
	if revision == 0 {
		wantError(s.t, fmt.Sprintf("get %q of %s", key, plugin), err, core.ErrNotFound)
		return
	}
	if err != nil || e.Key != key || string(e.Value) != value || e.Revision != revision {
		s.t.Fatalf("get %q of %s: got %+v, %v, want %q under revision %d", key, plugin, e, err, value, revision)
	}
}

func (s *suite) wantKeys(plugin string, r core.KVRange, now time.Time, more bool, want ...string) {
	s.t.Helper()
	list, gotMore, err := s.KVList(s.t.Context(), plugin, r, now)
	wantNone(s.t, "list keys", err)
	var got []string
	for _, e := range list {
		got = append(got, e.Key)
	}
	wantSame(s.t, fmt.Sprintf("keys of %s in %+v", plugin, r), got, want)
	if gotMore != more {
		s.t.Fatalf("keys of %s in %+v: got more %v, want %v", plugin, r, gotMore, more)
	}
}

func testKV(t *testing.T, s *suite) {
	s.wantEntry("weather", "a", "", 0, start)
	first := s.put("weather", "a", "1", time.Time{})
	s.wantEntry("weather", "a", "1", first, start)
	s.wantEntry("notes", "a", "", 0, start) // each plugin has keys of its own
	other := s.put("notes", "a", "theirs", time.Time{})
	second := s.put("weather", "a", "2", time.Time{})
	if second <= first {
		t.Fatalf("revision of a second write: got %d after %d, want a larger one", second, first)
	}
	s.wantEntry("weather", "a", "2", second, start)
	s.wantEntry("notes", "a", "theirs", other, start)

	gone, err := s.KVDelete(t.Context(), "weather", "a", nil, start)
	if err != nil || !gone {
		t.Fatalf("delete: got %v, %v, want true", gone, err)
	}
	gone, err = s.KVDelete(t.Context(), "weather", "a", nil, start)
	if err != nil || gone {
		t.Fatalf("delete again: got %v, %v, want false", gone, err)
	}
	s.wantEntry("weather", "a", "", 0, start)
	s.wantEntry("notes", "a", "theirs", other, start)

	value := make([]byte, 1<<20)
	for i := range value {
		value[i] = byte(i * i >> 3)
	}
	for _, key := range []string{"empty", "\x00", "zero\x00byte", "schlüssel/鍵", "' OR 1 --", string(bytes.Repeat([]byte("k"), 512))} {
		if _, err := s.KVPut(t.Context(), "weather", &core.KVWrite{Key: key, Value: value}, ample, start); err != nil {
			t.Fatalf("put %q: %v", key, err)
		}
		e, err := s.KVGet(t.Context(), "weather", key, start)
		if err != nil || e.Key != key || !bytes.Equal(e.Value, value) {
			t.Fatalf("get %q: got key %q, %d bytes, %v, want what was put", key, e.Key, len(e.Value), err)
		}
		s.put("weather", key, "", time.Time{})
		if _, err := s.KVPut(t.Context(), "weather", &core.KVWrite{Key: key}, ample, start); err != nil {
			t.Fatalf("put %q without a value: %v", key, err)
		}
	}
	wantNone(t, "close", s.Close())
	s.reopen()
	s.wantEntry("notes", "a", "theirs", other, start)
}

func testKVRevisions(t *testing.T, s *suite) {
	conflict := func(what string, err error) { t.Helper(); wantError(t, what, err, core.ErrRevision) }
	_, err := s.putIf("weather", "a", "x", 1, start)
	conflict("put where there is no key", err)
	first, err := s.putIf("weather", "a", "1", 0, start)
	wantNone(t, "put if absent", err)
	_, err = s.putIf("weather", "a", "x", 0, start)
	conflict("put if absent where there is a key", err)
	second, err := s.putIf("weather", "a", "2", first, start)
	wantNone(t, "put over the revision", err)
	for _, stale := range []uint64{first, second + 1, math.MaxUint64} {
		_, err = s.putIf("weather", "a", "x", stale, start)
		conflict("put over another revision", err)
		_, err = s.KVDelete(t.Context(), "weather", "a", &stale, start)
		conflict("delete of another revision", err)
	}
	s.wantEntry("weather", "a", "2", second, start)
	if gone, err := s.KVDelete(t.Context(), "weather", "a", &second, start); err != nil || !gone {
		t.Fatalf("delete of the revision: got %v, %v, want true", gone, err)
	}
	_, err = s.KVDelete(t.Context(), "weather", "a", &second, start)
	conflict("delete of what is not there", err)
	zero := uint64(0)
	_, err = s.KVDelete(t.Context(), "weather", "a", &zero, start)
	conflict("delete of revision 0", err)
}

// A revision is never given twice, whatever became of the key in between.
func testKVRevisionsNeverRepeat(t *testing.T, s *suite) {
	seen := map[uint64]string{}
	last := uint64(0)
	put := func(when string, expires time.Time) uint64 {
		t.Helper()
		revision := s.put("weather", "a", "x", expires)
		if before, twice := seen[revision]; twice || revision <= last {
			t.Fatalf("revision %s: got %d after %d (given before %q), want a larger one", when, revision, last, before)
		}
		seen[revision], last = when, revision
		return revision
	}
	put("of the first write", time.Time{})
	for range 3 {
		if _, err := s.KVDelete(t.Context(), "weather", "a", nil, start); err != nil {
			t.Fatal(err)
		}
		put("after a delete", time.Time{})
	}
	put("of an entry that has expired", start)
	put("after expiry", start)
	s.prune(start.Add(time.Hour), start, 0)
	remembered := put("after pruning", time.Time{})
	if _, err := s.KVDelete(t.Context(), "weather", "a", nil, start); err != nil {
		t.Fatal(err)
	}
	wantNone(t, "close", s.Close())
	s.reopen()
	put("after reopening without a key", time.Time{})
	_, err := s.putIf("weather", "a", "x", remembered, start)
	wantError(t, "put over a revision remembered from before the delete", err, core.ErrRevision)
}

func testKVExpiry(t *testing.T, s *suite) {
	end := start.Add(time.Second)
	revision := s.put("weather", "a", "1", end)
	before := end.Add(-time.Microsecond)
	s.wantEntry("weather", "a", "1", revision, before)
	if e, err := s.KVGet(t.Context(), "weather", "a", before); err != nil || !e.ExpiresAt.Equal(end) {
		t.Fatalf("expiry: got %v, %v, want %v", e.ExpiresAt, err, end)
	}
	s.wantKeys("weather", core.KVRange{Limit: 10, MaxBytes: 1 << 20}, before, false, "a")

	s.wantEntry("weather", "a", "", 0, end)
	s.wantKeys("weather", core.KVRange{Limit: 10, MaxBytes: 1 << 20}, end, false)
	if gone, err := s.KVDelete(t.Context(), "weather", "a", nil, end); err != nil || gone {
		t.Fatalf("delete of what has expired: got %v, %v, want false", gone, err)
	}
	_, err := s.KVDelete(t.Context(), "weather", "a", &revision, end)
	wantError(t, "delete of the revision that has expired", err, core.ErrRevision)
	_, err = s.putIf("weather", "a", "2", revision, end)
	wantError(t, "put over the revision that has expired", err, core.ErrRevision)
	again, err := s.putIf("weather", "a", "2", 0, end)
	wantNone(t, "put if absent over what has expired", err)
	s.wantEntry("weather", "a", "2", again, end.Add(1000*time.Hour)) // without a TTL it stays

	s.put("weather", "a", "3", end) // a TTL may be given later, and be taken away
	s.wantEntry("weather", "a", "", 0, end)
	third := s.put("weather", "a", "4", time.Time{})
	s.wantEntry("weather", "a", "4", third, end)
}

func testKVList(t *testing.T, s *suite) {
	all := core.KVRange{Limit: 100, MaxBytes: 1 << 20}
	s.wantKeys("weather", all, start, false)
	for _, key := range []string{"b/2", "a", "b%", "b/1", "b", "b0", "B", "b/ü", "c", "b_"} {
		s.put("weather", key, "value of "+key, time.Time{})
	}
	s.put("weather", "b/15", "over", start)
	s.put("notes", "b/11", "theirs", time.Time{})
	in := func(prefix, after string, limit int) core.KVRange {
		return core.KVRange{Prefix: prefix, After: after, Limit: limit, MaxBytes: 1 << 20}
	}
	s.wantKeys("weather", all, start, false, "B", "a", "b", "b%", "b/1", "b/2", "b/ü", "b0", "b_", "c") // by bytes
	s.wantKeys("weather", in("b/", "", 100), start, false, "b/1", "b/2", "b/ü")
	s.wantKeys("weather", in("b%", "", 100), start, false, "b%") // no pattern
	s.wantKeys("weather", in("b_", "", 100), start, false, "b_")
	s.wantKeys("weather", in("b/", "", 2), start, true, "b/1", "b/2")
	s.wantKeys("weather", in("b/", "b/2", 2), start, false, "b/ü")
	s.wantKeys("weather", in("b/", "b/15", 100), start, false, "b/2", "b/ü") // need not be there
	s.wantKeys("weather", in("b/", "a", 100), start, false, "b/1", "b/2", "b/ü")
	s.wantKeys("weather", in("b/", "b/ü", 100), start, false)
	s.wantKeys("weather", in("b/", "zzz", 100), start, false)
	s.wantKeys("weather", in("c", "", 1), start, false, "c")
	s.wantKeys("weather", in("d", "", 1), start, false)
	s.wantKeys("weather", in("", "b_", 1), start, false, "c")

	bounded := in("b/", "", 100)
	bounded.MaxBytes = len("b/1value of b/1") + len("b/2value of b/2")
	s.wantKeys("weather", bounded, start, true, "b/1", "b/2")
	bounded.MaxBytes--
	s.wantKeys("weather", bounded, start, true, "b/1")
	bounded.MaxBytes = 0 // never less than one
	s.wantKeys("weather", bounded, start, true, "b/1")
	list, _, err := s.KVList(t.Context(), "weather", in("c", "", 5), start)
	wantNone(t, "list", err)
	e, err := s.KVGet(t.Context(), "weather", "c", start)
	wantNone(t, "get", err)
	wantSame(t, "entry as listed and as got", list, []core.KVEntry{e})
}

func testKVQuota(t *testing.T, s *suite) {
	put := func(q core.KVQuota, key, value string, expires time.Time, now time.Time) error {
		_, err := s.KVPut(t.Context(), "weather", &core.KVWrite{Key: key, Value: []byte(value), ExpiresAt: expires}, q, now)
		return err
	}
	few := core.KVQuota{Keys: 3, Bytes: 1000}
	soon := start.Add(time.Minute)
	wantNone(t, "put the first", put(few, "a", "1", time.Time{}, start))
	wantNone(t, "put the second", put(few, "b", "1", soon, start))
	wantNone(t, "put the third", put(few, "c", "1", soon, start))
	wantError(t, "put a fourth", put(few, "d", "1", time.Time{}, start), core.ErrQuota)
	wantNone(t, "put one of the three", put(few, "a", "22", time.Time{}, start))
	if _, err := s.KVPut(t.Context(), "notes", &core.KVWrite{Key: "d"}, few, start); err != nil {
		t.Fatalf("put of another plugin: got %v, want none: each has a quota of its own", err)
	}
	wantNone(t, "put in the place of one that has expired", put(few, "d", "1", time.Time{}, soon))
	wantNone(t, "put over one that has expired", put(few, "b", "1", time.Time{}, soon))
	wantError(t, "put a fourth again", put(few, "e", "1", time.Time{}, soon), core.ErrQuota)
	if _, err := s.KVDelete(t.Context(), "weather", "b", nil, soon); err != nil {
		t.Fatal(err)
	}
	wantNone(t, "put in the place of one deleted", put(few, "e", "1", time.Time{}, soon))

	// a has three bytes with its key, d and e have two each.
	tight := core.KVQuota{Keys: 10, Bytes: 20}
	wantError(t, "put more bytes than are left", put(tight, "f", "0123456789abc", time.Time{}, soon), core.ErrQuota)
	s.wantEntry("weather", "f", "", 0, soon)
	wantNone(t, "put as many as are left", put(tight, "f", "0123456789ab", time.Time{}, soon))
	wantError(t, "put one byte more", put(tight, "a", "333", time.Time{}, soon), core.ErrQuota)
	s.wantKeys("weather", core.KVRange{Prefix: "a", Limit: 1, MaxBytes: 10}, soon, false, "a")
	wantNone(t, "put as many in its place", put(tight, "a", "44", time.Time{}, soon))
	lowered := core.KVQuota{Keys: 1, Bytes: 1}
	wantNone(t, "put less under a quota that was lowered", put(lowered, "f", "0123", time.Time{}, soon))
	wantError(t, "put more under a quota that was lowered", put(lowered, "f", "01234", time.Time{}, soon), core.ErrQuota)
	for range 10 { // what is refused is counted by nobody
		wantError(t, "put too much", put(tight, "g", "0123456789abcdefghij", time.Time{}, soon), core.ErrQuota)
	}
	wantNone(t, "put what is left after that", put(tight, "g", "0123456", time.Time{}, soon))
}

func testKVQuotaConcurrent(t *testing.T, s *suite) {
	const writers, places = 40, 25
	var (
		wg    sync.WaitGroup
		taken atomic.Int64
	)
	for i := range writers {
		wg.Go(func() {
			_, err := s.KVPut(t.Context(), "weather", &core.KVWrite{Key: strconv.Itoa(i), Value: []byte("x")}, core.KVQuota{Keys: places, Bytes: 1000}, start)
			switch {
			case err == nil:
				taken.Add(1)
			case !errors.Is(err, core.ErrQuota):
				t.Errorf("put: got error %v", err)
			}
		})
	}
	wg.Wait()
	if got := taken.Load(); got != places {
		t.Fatalf("concurrent writes at a quota of %d keys: got %d taken", places, got)
	}
}

// Increments by compare-and-swap lose none.
func testKVCompareAndSwapConcurrent(t *testing.T, s *suite) {
	const workers, each = 8, 25
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				for {
					e, err := s.KVGet(t.Context(), "weather", "n", start)
					if err != nil && !errors.Is(err, core.ErrNotFound) {
						t.Errorf("get: %v", err)
						return
					}
					n, _ := strconv.Atoi(string(e.Value)) // nothing is 0
					_, err = s.putIf("weather", "n", strconv.Itoa(n+1), e.Revision, start)
					if err == nil {
						break
					}
					if !errors.Is(err, core.ErrRevision) {
						t.Errorf("put: %v", err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	e, err := s.KVGet(t.Context(), "weather", "n", start)
	if want := strconv.Itoa(workers * each); err != nil || string(e.Value) != want {
		t.Fatalf("after concurrent increments: got %q, %v, want %s", e.Value, err, want)
	}
}

func testKVPrune(t *testing.T, s *suite) {
	const n = 600 // more than a batch of any engine
	q := core.KVQuota{Keys: n + 2, Bytes: 1 << 20}
	for i := range n {
		s.put("weather", fmt.Sprintf("k%d", i), "x", start.Add(time.Duration(i)))
	}
	kept := s.put("weather", "kept", "x", time.Time{})
	later := s.put("weather", "later", "x", start.Add(time.Hour))
	s.put("notes", "k", "x", start)
	s.prune(start.Add(time.Minute), start, 0)
	s.wantKeys("weather", core.KVRange{Limit: n, MaxBytes: 1 << 20}, start.Add(-time.Hour), false, "kept", "later") // also for a clock that was set back
	s.wantEntry("notes", "k", "", 0, start.Add(-time.Hour))
	s.wantEntry("weather", "kept", "x", kept, start)
	s.wantEntry("weather", "later", "x", later, start)
	for i := range n { // what went counts no more
		if _, err := s.KVPut(t.Context(), "weather", &core.KVWrite{Key: fmt.Sprintf("n%d", i)}, q, start); err != nil {
			t.Fatalf("put %d of %d after pruning: %v", i+1, n, err)
		}
	}
	_, err := s.KVPut(t.Context(), "weather", &core.KVWrite{Key: "one more"}, q, start)
	wantError(t, "put one more than the quota", err, core.ErrQuota)
}
