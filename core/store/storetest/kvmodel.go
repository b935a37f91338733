package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
)

// kvModel is one plugin's keys as the contract describes them, in memory.
type kvModel struct {
	entries map[string]core.KVEntry
	last    uint64
}

func (m *kvModel) expire(now time.Time) {
	maps.DeleteFunc(m.entries, func(_ string, e core.KVEntry) bool { return !e.ExpiresAt.IsZero() && !e.ExpiresAt.After(now) })
}

func (m *kvModel) put(w *core.KVWrite, quota core.KVQuota) (uint64, error) {
	old, there := m.entries[w.Key]
	if w.IfRevision != nil && *w.IfRevision != old.Revision {
		return 0, core.ErrRevision
	}
	keys, bytes := len(m.entries), int64(len(w.Value)-len(old.Value))
	if !there {
		keys, bytes = keys+1, int64(len(w.Key)+len(w.Value))
	}
	total := bytes
	for key, e := range m.entries {
		total += int64(len(key) + len(e.Value))
	}
	if !there && keys > quota.Keys || bytes > 0 && total > quota.Bytes {
		return 0, core.ErrQuota
	}
	m.last++
	m.entries[w.Key] = core.KVEntry{Key: w.Key, Value: w.Value, Revision: m.last, ExpiresAt: w.ExpiresAt}
	return m.last, nil
}

func (m *kvModel) delete(key string, ifRevision *uint64) (bool, error) {
	old, there := m.entries[key]
	if ifRevision != nil && (!there || *ifRevision != old.Revision) {
		return false, core.ErrRevision
	}
	delete(m.entries, key)
	return there, nil
}

func (m *kvModel) list(r core.KVRange) (list []core.KVEntry, more bool) {
	for _, key := range slices.Sorted(maps.Keys(m.entries)) {
		if !strings.HasPrefix(key, r.Prefix) || key <= r.After {
			continue
		}
		if len(list) == r.Limit {
			return list, true
		}
		list = append(list, m.entries[key])
	}
	return list, false
}

// testKVModel holds the store against the model, over random operations of two
// plugins while time passes and rows are pruned.
func testKVModel(t *testing.T, s *suite) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same operations each time
	quota := core.KVQuota{Keys: 6, Bytes: 60}
	models := map[string]*kvModel{"weather": {entries: map[string]core.KVEntry{}}, "notes": {entries: map[string]core.KVEntry{}}}
	now := start
	for i := range 500 {
		now = now.Add(time.Duration(random.IntN(3)) * time.Second)
		plugin := []string{"notes", "weather"}[random.IntN(2)]
		m := models[plugin]
		m.expire(now)
		key := []string{"a", "ab", "b", "ü", "b/1", "b/2", "c", "d"}[random.IntN(8)]
		var revision *uint64
		if random.IntN(2) == 0 {
			r := []uint64{0, m.entries[key].Revision, m.last}[random.IntN(3)]
			revision = &r
		}
		what := fmt.Sprintf("operation %d on %q of %s", i, key, plugin)
		switch random.IntN(6) {
		case 0, 1, 2:
			w := &core.KVWrite{Key: key, Value: bytesOf(what, random.IntN(20)), IfRevision: revision}
			if random.IntN(2) == 0 {
				w.ExpiresAt = now.Add(time.Duration(random.IntN(8)) * time.Second)
			}
			got, err := s.KVPut(t.Context(), plugin, w, quota, now)
			want, wantErr := m.put(w, quota)
			if got != want || !errors.Is(err, wantErr) {
				t.Fatalf("put, %s: got %d, %v, want %d, %v", what, got, err, want, wantErr)
			}
		case 3:
			got, err := s.KVDelete(t.Context(), plugin, key, revision, now)
			want, wantErr := m.delete(key, revision)
			if got != want || !errors.Is(err, wantErr) {
				t.Fatalf("delete, %s: got %v, %v, want %v, %v", what, got, err, want, wantErr)
			}
		case 4:
			s.prune(now, start, 0)
		}
		m.expire(now)
		r := core.KVRange{Prefix: []string{"", "a", "b"}[random.IntN(3)], After: []string{"", key}[random.IntN(2)], Limit: 1 + random.IntN(5), MaxBytes: 1 << 20}
		list, more, err := s.KVList(t.Context(), plugin, r, now)
		wantNone(t, what, err)
		wantList, wantMore := m.list(r)
		for i := range list { // empty either way
			if len(list[i].Value) == 0 {
				list[i].Value = wantList[i].Value
			}
		}
		wantSame(t, fmt.Sprintf("list %+v after %s", r, what), list, wantList)
		if more != wantMore {
			t.Fatalf("list %+v after %s: got more %v, want %v", r, what, more, wantMore)
		}
	}
}
