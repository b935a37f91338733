package identity

import (
	"context"
	"errors"
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/plugboard/plugboard/core"
)

const (
	maxAccounts = 32768
	maxAbsent   = 16384
	// accountTTL and absentTTL bound how long another node's write stays unseen.
	accountTTL = 5 * time.Minute
	absentTTL  = 30 * time.Second
	// epochs is how many counters of changes there are; users share them by hash.
	epochs = 256
)

// accounts remembers accounts, and names that are nobody's, in front of the
// store. The two are kept apart, so that asking for made-up names drives no real
// account out.
type accounts struct {
	store core.Users
	now   func() time.Time
	seed  maphash.Seed

	present *recent[string, *core.Account]
	absent  *recent[string, struct{}]

	// mu makes "nothing was written since I read" and keeping what was read one step.
	mu     sync.Mutex
	epochs [epochs]uint64
}

func newAccounts(store core.Users, now func() time.Time) *accounts {
	return &accounts{
		store: store, now: now, seed: maphash.MakeSeed(),
		present: newRecent[string, *core.Account](maxAccounts), absent: newRecent[string, struct{}](maxAbsent),
	}
}

// find answers core.ErrNotFound for names that are nobody's.
func (a *accounts) find(ctx context.Context, userID string) (*core.Account, error) {
	now := a.now()
	if account, ok := a.present.get(userID, now); ok {
		return account, nil
	}
	if _, ok := a.absent.get(userID, now); ok {
		return nil, core.ErrNotFound
	}
	a.mu.Lock()
	epoch := *a.epoch(userID)
	a.mu.Unlock()
	account, err := a.store.FindAccount(ctx, userID)
	if err != nil && !errors.Is(err, core.ErrNotFound) {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if *a.epoch(userID) == epoch {
		a.keepLocked(strings.Clone(userID), account, now)
	}
	return account, err
}

func (a *accounts) keepLocked(userID string, account *core.Account, now time.Time) {
	if account == nil {
		a.absent.put(userID, struct{}{}, now.Add(absentTTL))
		return
	}
	a.present.put(userID, account, now.Add(accountTTL))
}

// changed forgets what is remembered of the user, and keeps reads that began
// before from being remembered. It is called when a write has ended, whichever way.
func (a *accounts) changed(userID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	*a.epoch(userID)++
	a.present.remove(userID)
	a.absent.remove(userID)
}

// wrote remembers an account as a write has left it.
func (a *accounts) wrote(account *core.Account) {
	a.mu.Lock()
	defer a.mu.Unlock()
	*a.epoch(account.ID)++
	a.absent.remove(account.ID)
	if held, ok := a.present.get(account.ID, a.now()); ok && held.Current().Version > account.Current().Version {
		return // a later write was quicker
	}
	a.keepLocked(account.ID, account, a.now())
}

func (a *accounts) epoch(userID string) *uint64 {
	return &a.epochs[maphash.String(a.seed, userID)%epochs]
}
