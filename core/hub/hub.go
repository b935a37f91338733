// Package hub knows who is connected to this node: user → sessions. It is a
// sharded map and nothing else: it opens, closes and delivers nothing and starts
// no goroutine. transport adds and removes; delivery, router and server look up.
package hub

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
)

// shardCount keeps locks apart; it is a power of two.
const shardCount = 64

// Hub is the set of live sessions. Its methods may be called from any goroutine.
type Hub struct {
	seed   maphash.Seed
	shards [shardCount]shard
}

// shard holds each user's sessions as a slice that is replaced, never changed,
// so that readers may keep what they were given without a lock.
type shard struct {
	mu       sync.RWMutex
	closed   bool
	users    map[string][]*core.Session
	sessions int
}

// New makes an empty hub.
func New() *Hub {
	h := &Hub{seed: maphash.MakeSeed()}
	for i := range h.shards {
		h.shards[i].users = make(map[string][]*core.Session)
	}
	return h
}

func (h *Hub) shard(userID string) *shard {
	return &h.shards[maphash.String(h.seed, userID)%shardCount]
}

// Add makes a session findable. It refuses with shutting_down after Close, under
// the lock that closes, so that no session can slip in behind a drain.
func (h *Hub) Add(s *core.Session) error {
	sh := h.shard(s.UserID())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return fault.New(fault.ShuttingDown, "The server is shutting down; connect again shortly.")
	}
	sh.users[s.UserID()] = append(slices.Clone(sh.users[s.UserID()]), s)
	sh.sessions++
	return nil
}

// Remove forgets a session; removing one that is not there changes nothing.
func (h *Hub) Remove(s *core.Session) {
	sh := h.shard(s.UserID())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	old := sh.users[s.UserID()]
	i := slices.Index(old, s)
	if i < 0 {
		return
	}
	sh.sessions--
	if len(old) == 1 {
		delete(sh.users, s.UserID())
		return
	}
	sh.users[s.UserID()] = slices.Delete(slices.Clone(old), i, i+1)
}

// Of returns a user's sessions, oldest first. The slice must not be changed.
func (h *Hub) Of(userID string) []*core.Session {
	sh := h.shard(userID)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.users[userID]
}

// Each calls fn for every session, without holding a lock while it does. A
// session that comes or goes meanwhile may be missed.
func (h *Hub) Each(fn func(*core.Session)) {
	var batch []*core.Session
	for i := range h.shards {
		sh := &h.shards[i]
		batch = batch[:0]
		sh.mu.RLock()
		for _, sessions := range sh.users {
			batch = append(batch, sessions...)
		}
		sh.mu.RUnlock()
		for _, s := range batch {
			fn(s)
		}
	}
}

// Count returns how many sessions and how many users are connected.
func (h *Hub) Count() (sessions, users int) {
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.RLock()
		sessions += sh.sessions
		users += len(sh.users)
		sh.mu.RUnlock()
	}
	return sessions, users
}

// Active returns up to limit connected users whose id sorts behind after, each
// by its oldest session, and how many users are connected in all.
func (h *Hub) Active(after string, limit int) (page []*core.Session, total int) {
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.RLock()
		total += len(sh.users)
		for user, sessions := range sh.users {
			if user > after {
				page = append(page, sessions[0])
			}
		}
		sh.mu.RUnlock()
	}
	slices.SortFunc(page, func(a, b *core.Session) int { return strings.Compare(a.UserID(), b.UserID()) })
	return page[:min(limit, len(page))], total
}

// Close makes every later Add refuse. Sessions that are in stay in until they are
// removed.
func (h *Hub) Close() {
	for i := range h.shards {
		h.shards[i].mu.Lock()
		h.shards[i].closed = true
		h.shards[i].mu.Unlock()
	}
}
