package identity

import (
	"container/list"
	"sync"
	"time"
)

// recent remembers at most a fixed number of values, each until its time; the one
// unused for longest makes room. Its methods may be called from any goroutine.
type recent[K comparable, V any] struct {
	max int

	mu    sync.Mutex
	byKey map[K]*list.Element // of entry[K, V]
	used  *list.List          // the latest at the front
}

type entry[K comparable, V any] struct {
	key   K
	value V
	until time.Time
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{max: most, byKey: make(map[K]*list.Element), used: list.New()}
}

func (r *recent[K, V]) get(key K, now time.Time) (value V, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.byKey[key]
	if !ok {
		return value, false
	}
	held := e.Value.(*entry[K, V])
	if !now.Before(held.until) {
		r.removeLocked(e)
		return value, false
	}
	r.used.MoveToFront(e)
	return held.value, true
}

func (r *recent[K, V]) put(key K, value V, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.byKey[key]; ok {
		r.removeLocked(e)
	}
	r.byKey[key] = r.used.PushFront(&entry[K, V]{key: key, value: value, until: until})
	if len(r.byKey) > r.max {
		r.removeLocked(r.used.Back())
	}
}

func (r *recent[K, V]) remove(key K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.byKey[key]; ok {
		r.removeLocked(e)
	}
}

func (r *recent[K, V]) removeLocked(e *list.Element) {
	delete(r.byKey, e.Value.(*entry[K, V]).key)
	r.used.Remove(e)
}
